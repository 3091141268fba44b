"""The picture of a sweep: scores over values, a panel per name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from simpo.plotting.style import BLUE, GREY, VERMILLION, draw, grid

__all__ = ["Trial", "draw_sweep"]


class Trial(NamedTuple):
    """A set of values that was tried.

    Attributes:
        number: Its number.
        values: By name.
        scores: One per seed; fewer if it was given up, none if it failed.
        complete: Whether it has all its seeds.
    """

    number: int
    values: Mapping[str, Any]
    scores: Sequence[float]
    complete: bool

    @property
    def score(self) -> float:
        """Mean over seeds; NaN if it failed."""
        return float(np.mean(self.scores)) if self.scores else float("nan")

    @property
    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        number, seeds = {"trial": self.number}, {"seeds": len(self.scores)}
        return {**number, **self.values, **seeds, "score": self.score}


def draw_sweep(
    trials: Sequence[Trial],
    own: Mapping[str, Any],
    logarithmic: Sequence[str],
    choices: Mapping[str, Sequence[Any]],
    title: str,
    out: Path,
) -> list[Path]:
    """Draw a panel per name.

    Args:
        trials: All that were tried.
        own: The preset's values.
        logarithmic: Names whose axis is logarithmic.
        choices: Values of names that have a few; drawn side by side.
        title: What was swept.
        out: File name without suffix.

    Returns:
        The files written.
    """

    def fill(figure: Figure) -> None:
        panels = grid(figure, len(own), 4)
        for axes, name in zip(panels, own, strict=True):
            draw_name(axes, name, trials, own[name], choices.get(name, ()))
            if name in logarithmic:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
                axes.xaxis.set_minor_locator(NullLocator())
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=3,
            fontsize=9,
        )
        figure.suptitle(title, fontsize=11)

    columns, rows = min(4, len(own)), -(-len(own) // 4)
    return draw(out, (3.4 * columns + 0.4, 3.2 * rows + 0.7), fill)


def draw_name(
    axes: Axes, name: str, trials: Sequence[Trial], own: Any, choices: Sequence[Any]
) -> None:
    """Scores over the values of one name."""

    def place(value: Any) -> Any:
        return choices.index(value) if value in choices else value

    looks = {True: ("all seeds", BLUE, BLUE), False: ("given up", GREY, "none")}
    for complete, (label, color, inside) in looks.items():
        chosen = [t for t in trials if t.complete == complete and t.scores]
        x, y = [place(t.values[name]) for t in chosen], [t.score for t in chosen]
        axes.scatter(x, y, 28, edgecolors=color, facecolors=inside, label=label)
    axes.axvline(place(own), color=VERMILLION, linewidth=1.2, label="preset")
    if choices:
        axes.set_xticks(range(len(choices)), [str(value) for value in choices])
        axes.set_xlim(-0.5, len(choices) - 0.5)
    axes.set_xlabel(name)
    axes.set_ylabel("Return")
