"""The pictures of a table: scores with intervals, and learning curves, by task."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simpo.plotting.comparison import Bar, Curve, draw_task
from simpo.plotting.style import BLACK, DASHED, Below, Look, draw, grid, looks_of

__all__ = ["draw_curves", "draw_scores"]

COLUMNS, WIDTH, ROW = 3, 5.2, 0.24
"""Panels side by side, inches of each, inches of a method's row."""


def draw_scores(
    bars: Mapping[str, list[Bar]], title: str, out: Path, marks: Mapping[str, float]
) -> list[Path]:
    """A panel per task, a dot with its interval per method.

    Args:
        bars: By task.
        title: What the scores are.
        out: File name without suffix.
        marks: A number to compare with, by task.

    Returns:
        The files written.
    """
    names = dict.fromkeys(bar.agent for rows in bars.values() for bar in rows)
    looks = looks_of(list(names))

    def fill(figure: Figure) -> None:
        panels = grid(figure, len(bars), COLUMNS)
        for axes, (task, rows) in zip(panels, bars.items(), strict=True):
            draw_rows(axes, task, rows, looks)
            if task in marks:
                axes.axvline(marks[task], color=BLACK, linewidth=1, linestyle=DASHED)
        figure.suptitle(title, fontsize=11)

    columns = min(COLUMNS, len(bars))
    height = -(-len(bars) // COLUMNS) * (1.2 + ROW * len(names)) + 0.4
    return draw(out, (WIDTH * columns, height), fill)


def draw_rows(
    axes: Axes, task: str, rows: list[Bar], looks: Mapping[str, Look]
) -> None:
    """Methods from top to bottom in the order in which they come."""
    for place, bar in enumerate(reversed(rows)):
        color = looks[bar.agent].color
        axes.plot([bar.low, bar.high], [place, place], color=color, linewidth=2.5)
        axes.plot(bar.value, place, "o", color=color, markersize=5)
    axes.set_yticks(range(len(rows)), [bar.agent for bar in reversed(rows)], fontsize=9)
    axes.set_title(task)
    axes.set_xlabel("Return: IQM over seeds (line: 95 % bootstrap)")


def draw_curves(
    curves: Mapping[str, Mapping[str, Curve]], title: str, out: Path
) -> list[Path]:
    """A panel per task, a curve with its band per method; one legend below all."""
    names = list(dict.fromkeys(name for panel in curves.values() for name in panel))
    looks = looks_of(names)
    columns = min(COLUMNS, len(curves))
    below = Below.fit(names, WIDTH * columns)

    def fill(figure: Figure) -> None:
        panels = grid(figure, len(curves), COLUMNS)
        for axes, (task, by_method) in zip(panels, curves.items(), strict=True):
            draw_task(axes, task, by_method, looks)
        first = {n: a for axes in panels for a, n in zip(*handles(axes), strict=True)}
        below.draw(figure, {name: first[name] for name in names})
        figure.suptitle(title, fontsize=11)

    height = 3.6 * -(-len(curves) // COLUMNS) + below.height + 0.4
    return draw(out, (WIDTH * columns, height), fill)


def handles(axes: Axes) -> tuple[list, list]:
    """Lines and their names."""
    return axes.get_legend_handles_labels()
