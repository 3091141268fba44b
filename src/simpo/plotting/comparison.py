"""The picture of a benchmark: agents by their score, and learning curves per task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simpo.plotting.curves import finish_curve, mean_interval
from simpo.plotting.style import BLACK, DASHED, Look, draw, grid, looks_of

__all__ = ["Bar", "Curve", "comparison", "draw_task"]


class Bar(NamedTuple):
    """An agent's score with its interval."""

    agent: str
    value: float
    low: float
    high: float


class Curve(NamedTuple):
    """Mean evaluation returns of seeds.

    Attributes:
        steps: Environment steps [P].
        returns: A row per seed [S, P].
    """

    steps: np.ndarray
    returns: np.ndarray


def comparison(
    ranking: Sequence[Bar], curves: Mapping[str, Mapping[str, Curve]], out: Path
) -> list[Path]:
    """Draw a benchmark.

    Args:
        ranking: Agents, best first.
        curves: By task and agent.
        out: File name without suffix.

    Returns:
        The files written.
    """
    looks = looks_of([bar.agent for bar in ranking])

    def fill(figure: Figure) -> None:
        first, *panels = grid(figure, 1 + len(curves), 3)
        draw_ranking(first, ranking, looks)
        for axes, (task, by_agent) in zip(panels, curves.items(), strict=True):
            draw_task(axes, task, by_agent, looks)
            axes.legend(fontsize=8, ncols=2)

    columns = min(3, 1 + len(curves))
    rows = -(-(1 + len(curves)) // 3)
    return draw(out, (5.4 * columns, max(4.4, 0.38 * len(ranking)) * rows), fill)


def draw_ranking(axes: Axes, ranking: Sequence[Bar], looks: Mapping[str, Look]) -> None:
    """A dot and an interval per agent, best on top."""
    for place, bar in enumerate(reversed(ranking)):
        color = looks[bar.agent].color
        axes.plot([bar.low, bar.high], [place, place], color=color, linewidth=3)
        axes.plot(bar.value, place, "o", color=color, markersize=7)
    axes.set_yticks(range(len(ranking)), [bar.agent for bar in reversed(ranking)])
    for at in (0.0, 1.0):
        axes.axvline(at, color=BLACK, linewidth=0.8, linestyle=DASHED)
    axes.set_xlabel("IQM over tasks and seeds\n(0 random policy, 1 best agent's mean)")
    axes.set_title("Score (line: 95 % stratified bootstrap)")


def draw_task(
    axes: Axes, task: str, by_agent: Mapping[str, Curve], looks: Mapping[str, Look]
) -> None:
    """Mean over seeds and its interval for every agent."""
    for agent, curve in by_agent.items():
        color, line = looks[agent]
        mean, low, high = mean_interval(curve.returns)
        axes.plot(curve.steps, mean, color=color, linestyle=line, label=agent)
        axes.fill_between(curve.steps, low, high, color=color, alpha=0.12, linewidth=0)
    axes.set_title(task)
    finish_curve(axes, "Return (band: 95 % t-interval over seeds)")
