"""The picture of a benchmark: agents by their score, and learning curves per task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simpo.plotting.curves import finish_curve, mean_interval
from simpo.plotting.scores import ENOUGH
from simpo.plotting.style import BLACK, DASHED, Below, Look, draw, grid, looks_of

__all__ = ["Bar", "Curve", "comparison", "draw_task"]


WIDTH = 5.4
"""Inches of a panel."""


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
    names = [bar.agent for bar in ranking]
    looks, columns = looks_of(names), min(3, 1 + len(curves))
    below = Below.fit(names, WIDTH * columns)

    def fill(figure: Figure) -> None:
        first, *panels = grid(figure, 1 + len(curves), 3)
        draw_ranking(first, ranking, looks)
        lines = {}
        for axes, (task, by_agent) in zip(panels, curves.items(), strict=True):
            draw_task(axes, task, by_agent, looks)
            found, labels = axes.get_legend_handles_labels()
            lines |= dict(zip(labels, found, strict=True))
        below.draw(figure, {name: lines[name] for name in names if name in lines})

    rows = -(-(1 + len(curves)) // 3)
    height = max(4.4, 0.38 * len(ranking)) * rows + below.height
    return draw(out, (WIDTH * columns, height), fill)


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
    """Mean over seeds for every agent, with its interval, or the seeds if they are few.

    A t-interval of two or three seeds is as wide as the picture and hides all others.
    """
    few = any(len(curve.returns) < ENOUGH for curve in by_agent.values())
    shown = []
    for agent, curve in by_agent.items():
        color, line = looks[agent]
        mean, low, high = mean_interval(curve.returns)
        axes.plot(curve.steps, mean, color=color, linestyle=line, label=agent)
        if few:
            axes.plot(curve.steps, curve.returns.T, color=color, lw=0.7, alpha=0.4)
        else:
            axes.fill_between(curve.steps, low, high, color=color, alpha=0.12, lw=0)
        shown += [*curve.returns] if few else [mean]
    low, high = min(map(np.min, shown)), max(map(np.max, shown))
    margin = 0.1 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.set_title(task)
    about = "thin: single seeds" if few else "band: 95 % t-interval over seeds"
    finish_curve(axes, f"Return ({about})")
