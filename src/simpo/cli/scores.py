"""What `simpo eval` found: a table or JSON by setting, a CSV file by episode.

Mean and interval are those of the learning curves (95 % Student t over episodes), IQM
is the mean of the middle half of the episodes. Speeds are there where the task tells
them, and else there is no column of them.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from simpo.agents import Agent, Mode
from simpo.evaluation import EpisodeRow, Latency
from simpo.loggers import rounded
from simpo.plotting import mean_interval
from simpo.statistics import iqm
from simpo.types import SimpoError

__all__ = ["Result", "Setting", "show", "summarise", "write"]

COLUMNS = (
    *("env", "sampler", "denoising_steps", "episode", "return", "length"),
    "latency_ms",
)
ENOUGH = 4
"""Episodes from which on there is a middle half."""


@dataclass(frozen=True)
class Setting:
    """One way to act by a policy.

    Attributes:
        agent: The agent, with these denoising steps.
        mode: How actions are drawn.
        steps: Denoising steps; None for agents that have none.
    """

    agent: Agent
    mode: Mode
    steps: int | None

    @property
    def label(self) -> str:
        """`best-of-10, 5 steps`."""
        if self.steps is None:
            return self.mode.label
        return f"{self.mode.label}, {self.steps} step{'s' * (self.steps > 1)}"


class Result(NamedTuple):
    """What a setting was scored.

    Attributes:
        setting: The setting.
        rows: Its episodes.
        latency: What an action took.
        actions: What was done in the first episodes, in [-1, 1] [T, A] each.
    """

    setting: Setting
    rows: list[EpisodeRow]
    latency: Latency
    actions: list[np.ndarray]

    @property
    def returns(self) -> np.ndarray:
        """Returns by episode."""
        return np.array([row.return_ for row in self.rows])

    @property
    def speeds(self) -> np.ndarray | None:
        """Mean speeds by episode, if the task tells them."""
        speeds = [row.speed for row in self.rows if row.speed is not None]
        return np.array(speeds) if len(speeds) == len(self.rows) else None


def number(value: Any) -> float | None:
    """A float for JSON, which knows no NaN."""
    return None if math.isnan(value) else float(value)


def interval(values: np.ndarray) -> dict[str, Any]:
    """Mean and bounds, which one episode does not have."""
    mean, low, high = mean_interval(values)
    return {"mean": float(mean), "low": number(low), "high": number(high)}


def summarise(result: Result) -> dict[str, Any]:
    """Everything about a setting but its single episodes; None is what is not there."""
    returns, speeds = result.returns, result.speeds
    summary = {
        "sampler": result.setting.mode.label,
        "denoising_steps": result.setting.steps,
        "episodes": len(returns),
        **interval(returns),
        "iqm": float(iqm(returns[None])) if len(returns) >= ENOUGH else None,
        "median": float(np.median(returns)),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "latency_ms": result.latency._asdict(),
    }
    return summary if speeds is None else summary | {"speed": interval(speeds)}


def spread(summary: dict[str, Any]) -> str:
    """`8,507 ± 484`, of an interval."""
    mean, high = rounded(summary["mean"]), summary["high"]
    return mean if high is None else f"{mean} ± {rounded(high - summary['mean'])}"


def cells(summary: dict[str, Any]) -> list[str]:
    """A row of the table."""
    steps, iqm = summary["denoising_steps"], summary["iqm"]
    latency = summary["latency_ms"]
    return [
        summary["sampler"],
        "-" if steps is None else str(steps),
        spread(summary),
        "-" if iqm is None else rounded(iqm),
        *(rounded(summary[name]) for name in ("median", "min", "max")),
        *(f"{latency[name]:.3g}" for name in ("median", "p95")),
        *([spread(summary["speed"])] if "speed" in summary else []),
    ]


def tell_speed(results: Sequence[Result]) -> bool:
    """Whether the task tells speeds."""
    return all(result.speeds is not None for result in results)


def show(results: Sequence[Result], env: str, device: str) -> None:
    """Print a row per setting."""
    episodes = len(results[0].rows)
    table = Table(
        title=f"{env}: returns of {episodes} episode{'s' * (episodes > 1)}",
        caption=f"ms: milliseconds per action on {device}, one observation at a time, "
        "from host to host, median and 95th percentile",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("sampler", no_wrap=True)
    names = ["steps", "mean ± 95 %", "IQM", "median", "min", "max", "ms", "p95"]
    for name in names + ["speed ± 95 %"] * tell_speed(results):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        table.add_row(*cells(summarise(result)))
    console = Console()
    wide = console.options.update(width=1000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)


def write(path: Path, results: Sequence[Result], env: str) -> None:
    """Write a row per episode.

    Raises:
        SimpoError: The file cannot be written.
    """
    try:
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            told = tell_speed(results)
            table.writerow(COLUMNS + ("speed",) * told)
            for result in results:
                steps, latency = result.setting.steps, result.latency.median
                for sampler, episode, return_, length, speed in result.rows:
                    row = [env, sampler, steps, episode, return_, length, latency]
                    table.writerow(row + [speed] * told)
    except OSError as error:
        raise SimpoError(f"cannot write {path}: {error.strerror}") from error
