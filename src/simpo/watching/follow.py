"""One run, followed: what its files tell, and what they told since the last look."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simpo.pace import Mark, speed, time_left
from simpo.plotting.curves import mean_interval
from simpo.watching.discovery import Condition, condition, settings
from simpo.watching.tail import Added, Tail

__all__ = ["Changes", "Follower", "Score", "numbers", "written"]

TRAINING, RATE = "rollout/ep_rew_mean", "time/updates_per_second"


class Score(NamedTuple):
    """An evaluation under one sampler: mean return, its 95 % interval, episodes."""

    step: float
    sampler: str
    mean: float
    low: float | None
    high: float | None
    episodes: int


class Changes(NamedTuple):
    """What a look found.

    Attributes:
        progress: Rows of progress.csv.
        scores: Evaluations that are new or have more episodes.
        afresh: Scores told before are void.
    """

    progress: Added
    scores: list[Score]
    afresh: bool


class Follower:
    """What is known of one run directory so far; `look` learns more.

    Args:
        directory: The run directory.

    Attributes:
        config: config.json; empty until it is there.
        condition: How the run stands.
        step: The last step that is known of.
        marks: Rows of timing.csv.
        training: Mean training returns, one per row of progress.csv.
        scores: Evaluations by step and sampler, in order.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config: dict[str, Any] = {}
        self.condition, self.step = Condition("waiting", 0), 0.0
        self.marks: list[Mark] = []
        self.training: list[float] = []
        self.scores: dict[tuple[float, str], Score] = {}
        self.returns: dict[tuple[float, str], list[float]] = {}
        self.progress, self.timing, self.evaluations = (
            Tail(directory / f"{name}.csv")
            for name in ("progress", "timing", "evaluations")
        )

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.config.get("steps", 0)

    @property
    def name(self) -> str:
        """The agent as it is labelled, or the directory before that is known."""
        agent = self.config.get("agent", {}).get("type", self.directory.name)
        return str(self.config.get("label") or agent)

    @property
    def sampler(self) -> str:
        """The first sampler of its evaluations, which its returns are told for."""
        return next((sampler for _, sampler in self.scores), "")

    @property
    def speed(self) -> float | None:
        """Steps per second, lately."""
        return speed(self.marks)

    @property
    def left(self) -> float | None:
        """Seconds that were left at the last row; None unless it trains."""
        trains = self.condition.state == "running"
        return time_left(self.marks, self.total) if trains else None

    @property
    def silence(self) -> float:
        """Seconds since the last row; 0 before the first."""
        at = written(self.timing.path)
        return 0.0 if at is None else max(0.0, time.time() - at)

    def look(self) -> Changes:
        """Read what was added to the files."""
        if not self.config:
            self.config = settings(self.directory)
        self.condition = condition(self.directory)
        progress, evaluations = self.progress.read(), self.evaluations.read()
        self.learn_progress(progress)
        self.learn_timing(self.timing.read())
        scores = self.learn_scores(evaluations)
        self.step = max(self.step, self.condition.step, *(s.step for s in scores))
        return Changes(progress, scores, evaluations.fresh)

    def learn_progress(self, added: Added) -> None:
        """Note the last step and the training returns."""
        if added.fresh:
            self.training, self.step = [], 0
        for row in named(added):
            self.step = row.get("step") or 0
            value = row.get(TRAINING)
            if value is not None:
                self.training.append(value)

    def learn_timing(self, added: Added) -> None:
        """Note when rows were written."""
        if added.fresh:
            self.marks = []
        for row in named(added):
            elapsed, rate = row.get("time/elapsed"), row.get(RATE)
            if elapsed is not None:
                self.marks.append(Mark(row.get("step") or 0.0, elapsed, rate or 0.0))

    def learn_scores(self, added: Added) -> list[Score]:
        """Note evaluations; those that are new or have more episodes."""
        if added.fresh:
            self.scores, self.returns = {}, {}
        touched: dict[tuple[float, str], None] = {}
        for cells in added.rows:
            row = dict(zip(added.columns, cells, strict=True))
            step, value = number(row.get("step")), number(row.get("return"))
            if step is not None and value is not None:
                at = step, row.get("sampler", "")
                self.returns.setdefault(at, []).append(value)
                touched[at] = None
        new = {at: score(*at, self.returns[at]) for at in touched}
        self.scores |= new
        return list(new.values())


def written(path: Path) -> float | None:
    """When a file was last written."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def score(step: float, sampler: str, returns: Sequence[float]) -> Score:
    """Mean return and its interval over episodes."""
    mean, low, high = (float(x) for x in mean_interval(np.array(returns)))
    if not math.isfinite(low):
        return Score(step, sampler, mean, None, None, len(returns))
    return Score(step, sampler, mean, low, high, len(returns))


def number(cell: str | None) -> float | None:
    """A finite number, or None."""
    try:
        value = float(cell or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def numbers(added: Added) -> list[list[float | None]]:
    """Rows as numbers; None where a cell is empty or not finite."""
    return [[number(cell) for cell in row] for row in added.rows]


def named(added: Added) -> list[Mapping[str, float | None]]:
    """Rows as numbers by column."""
    return [dict(zip(added.columns, r, strict=True)) for r in numbers(added)]
