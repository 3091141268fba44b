"""Return of one policy against denoising steps, a line per sampler.

Bars are 95 % Student t-intervals of the mean over episodes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from simpo.plotting.curves import mean_interval, spoken
from simpo.plotting.style import MINUS, PALETTE, draw

__all__ = ["Point", "return_against_steps"]

SIZE = (7.0, 4.4)
APART = 1.015
"""Factor between the places of two samplers, so that no bar hides another."""


class Point(NamedTuple):
    """A setting.

    Attributes:
        sampler: How actions were drawn.
        steps: Denoising steps.
        returns: Returns by episode [n].
    """

    sampler: str
    steps: int
    returns: np.ndarray


def draw_lines(axes: Axes, points: Sequence[Point]) -> None:
    """A line per sampler, with an interval at every point."""
    for i, sampler in enumerate(dict.fromkeys(point.sampler for point in points)):
        own = sorted((p for p in points if p.sampler == sampler), key=lambda p: p.steps)
        curves = [mean_interval(point.returns) for point in own]
        mean, low, high = (np.array(ends) for ends in zip(*curves, strict=True))
        axes.errorbar(
            [point.steps * APART**i for point in own],
            mean,
            yerr=np.nan_to_num([mean - low, high - mean]),
            color=PALETTE[i % len(PALETTE)],
            marker="o",
            markersize=5,
            capsize=3,
            label=spoken(sampler),
        )


def return_against_steps(points: Sequence[Point], env: str, out: Path) -> list[Path]:
    """The picture, with steps on a logarithmic axis.

    Args:
        points: The settings.
        env: The task's id.
        out: File name without suffix.

    Returns:
        The files written.
    """
    ticks = sorted({point.steps for point in points})
    episodes = len(points[0].returns)

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        draw_lines(axes, points)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda y, _: f"{y:,.6g}".replace("-", MINUS))
        )
        axes.set_xlabel("Denoising steps")
        axes.set_ylabel(f"Return (bars: 95 % t-interval, {episodes} episodes)")
        axes.set_title(env)
        axes.legend(loc="best")

    return draw(out, SIZE, fill)
