"""How every picture looks, and how it is saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    "draw",
    "grid",
    "label_steps",
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

DASHED = (0, (4, 3))
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


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


def signed(number: float) -> str:
    """A short number with a proper minus sign."""
    return f"{number:.3g}".replace("-", MINUS)
