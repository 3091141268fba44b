"""A progress bar on standard error that appears only when something takes long."""

import time
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from simpo.envs import Step

__all__ = ["LateBar", "Watcher"]

PATIENCE = 2.0
"""Seconds without a bar."""


class LateBar:
    """Nothing for two seconds, then a bar if standard error is a terminal.

    Args:
        unit: What is counted, in the plural.
        total: How many there are.
    """

    def __init__(self, unit: str, total: int) -> None:
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn(unit),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=total)
        self.begun = time.perf_counter()

    def __enter__(self) -> "LateBar":
        return self

    def update(self, description: str, completed: float) -> None:
        """Say what is going on, and how much is done."""
        self.bar.update(self.task, description=description, completed=completed)
        if time.perf_counter() - self.begun > PATIENCE:
            self.bar.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar.live.is_started:
            self.bar.stop()


class Watcher:
    """Keeps what is done in the first episodes, and moves a progress bar.

    Args:
        bar: The bar.
        label: What it says.
        before: Episodes done in earlier settings.
        episodes: Episodes under way.
        limit: Steps of the longest episode, if there is a limit.
        kept: How many episodes to keep.
    """

    def __init__(
        self,
        bar: LateBar,
        label: str,
        before: int,
        episodes: int,
        limit: int | None,
        kept: int,
    ) -> None:
        self.bar, self.label, self.before = bar, label, before
        self.episodes, self.limit = episodes, limit
        self.ended: set[int] = set()
        self.steps = 0
        self.actions: list[list[np.ndarray]] = [[] for _ in range(kept)]

    def __call__(self, action: np.ndarray, step: Step) -> None:
        """See a step; an episode under way counts by the share of its limit."""
        for i, done in enumerate(self.actions):
            if i not in self.ended:
                done.append(action[i])
        self.steps += 1
        self.ended |= {episode.env for episode in step.episodes}
        under_way = self.episodes - len(self.ended)
        share = min(self.steps / self.limit, 1.0) if self.limit else 0.0
        done = self.before + len(self.ended) + share * under_way
        self.bar.update(self.label, done)
