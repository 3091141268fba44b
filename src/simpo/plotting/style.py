"""How every picture looks, and how it is saved."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from simpo.loggers import thousands

__all__ = [
    "BLACK",
    "BLUE",
    "DASHED",
    "GREY",
    "MINUS",
    "PALETTE",
    "TIMES",
    "VERMILLION",
    "Below",
    "Look",
    "draw",
    "grid",
    "label_steps",
    "looks_of",
    "signed",
]

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#767676"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Okabe and Ito (2008), distinct to colour-blind readers; without the pale yellow."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 2.0,
    "savefig.dpi": 150,
    "svg.hashsalt": "simpo",
}

SMALL = 9
"""Points of a legend below the panels."""
LETTER, KEY, ROW = 0.075, 0.7, 0.21
"""Inches that a letter, the line before a name and a row of such a legend take."""
DASHED = (0, (4, 3))
LINES = ("solid", DASHED, "dotted", "dashdot")
"""Colours repeat with another line, so that 28 settings can be told apart."""
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


class Look(NamedTuple):
    """How a setting is drawn."""

    color: str
    line: Any


def looks_of(names: Sequence[str]) -> dict[str, Look]:
    """A colour and a line for each name; colours first."""
    looks = (Look(color, line) for line, color in cycle(product(LINES, PALETTE)))
    return dict(zip(names, looks, strict=False))


def draw(
    out: Path, size: tuple[float, float], fill: Callable[[Figure], None]
) -> list[Path]:
    """Fill a figure of a size in inches and save it as PNG and SVG, without dates."""
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = [out.with_name(f"{out.name}.{kind}") for kind in ("png", "svg")]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        fill(figure)
        figure.savefig(paths[0])
        figure.set_layout_engine("none")  # the layout is done, and slow to redo
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def grid(figure: Figure, count: int, columns: int) -> list[Axes]:
    """The first `count` axes of a grid of at most `columns` columns, row by row."""
    columns = min(count, columns)
    axes = figure.subplots(-(-count // columns), columns, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    return list(axes[:count])


def label_steps(axes: Axes, ticks: int) -> None:
    """Steps on the x axis, from 0, as `20k`, with at most so many ticks."""
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: thousands(x)))


class Below(NamedTuple):
    """A legend under all panels, where it hides nothing.

    Attributes:
        columns: Its columns.
        height: Inches that it takes.
    """

    columns: int
    height: float

    @classmethod
    def fit(cls, names: Sequence[str], width: float) -> "Below":
        """As many columns as fit into a width in inches."""
        column = KEY + LETTER * max(map(len, names))
        columns = max(1, min(len(names), int(width / column)))
        return cls(columns, ROW * -(-len(names) // columns))

    def draw(self, figure: Figure, handles: Mapping[str, Any]) -> None:
        """The legend of lines by name."""
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=self.columns,
            fontsize=SMALL,
        )


def signed(number: float) -> str:
    """A short number with a proper minus sign."""
    return f"{number:.3g}".replace("-", MINUS)
