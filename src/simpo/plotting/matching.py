"""The loss of signed matching, and what it makes of a network: section 3.4.

Around v* the loss at a point is a parabola. Where it opens upwards (Case I) the fit
finds v*; where it opens downwards (Case II, hatched) the fit leaves it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simpo.plotting.style import (
    BLACK,
    BLUE,
    DASHED,
    GREY,
    MINUS,
    PALETTE,
    VERMILLION,
    draw,
)

__all__ = ["Cut", "Loss", "draw_loss"]

SIZE = (13.2, 7.2)
SPAN = 2.0
"""Half the width of the parabolas."""
ARROW = 1.2
"""Where on them the way down is shown."""
HEIGHT = 5.0
"""Velocities shown in Case II, where v* has poles."""


@dataclass(frozen=True)
class Cut:
    """Fields on the line at one time.

    Attributes:
        time: t.
        action: Actions [X].
        signed: Signed density [X].
        seen: Where pi_old has data [X].
        exact: v* [X].
        fitted: Networks by Adam steps [X].
    """

    time: float
    action: np.ndarray
    signed: np.ndarray
    seen: np.ndarray
    exact: np.ndarray
    fitted: Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Loss:
    """The loss around v*, and what it makes of a network.

    Attributes:
        curvature: E[w | x_t = x] at a point of Case I and at one of Case II.
        case_one: The example without Case II, at several times.
        case_two: The example with Case II, after several numbers of steps.
        fits: Columns of `fits.csv` by bound [S].
    """

    curvature: tuple[float, float]
    case_one: tuple[Cut, ...]
    case_two: Cut
    fits: Mapping[str, Mapping[str, np.ndarray]]


def draw_loss(loss: Loss, out: Path) -> list[Path]:
    """The loss in both cases, the fields that come of it, and how they get there.

    Args:
        loss: Curves.
        out: File name without suffix.

    Returns:
        The files written.
    """

    def fill(figure: Figure) -> None:
        panels = figure.subplots(2, 3).ravel()
        draw_parabolas(panels[0], loss.curvature)
        draw_case_one(panels[1], loss.case_one)
        draw_case_two(panels[2], loss.case_two)
        draw_fits(panels[3:], loss.fits)

    return draw(out, SIZE, fill)


def draw_parabolas(axes: Axes, curvature: tuple[float, float]) -> None:
    """The loss at a point of each case, with the way down."""
    gap = np.linspace(-SPAN, SPAN, 101)
    names = ("Case I: attracts", "Case II: repels")
    for c, color, name in zip(curvature, (BLUE, VERMILLION), names, strict=True):
        axes.plot(gap, c * gap**2, color=color)
        axes.text(0, 2 * c, name, color=color, ha="center", va="center", weight="bold")
        for side in (-1, 1):
            tail, head = (side * (ARROW - step * np.sign(c)) for step in (0, 0.15))
            axes.annotate(
                "",
                (head, c * head**2),
                (tail, c * tail**2),
                arrowprops={"arrowstyle": "-|>", "color": color, "mutation_scale": 24},
            )
    axes.plot(0, 0, "o", color=BLACK, zorder=3)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_title("Expected loss at one point")
    axes.set_xlabel(f"Velocity, v {MINUS} v*")
    axes.set_ylabel(f"Loss {MINUS} loss at v*")


def draw_case_one(axes: Axes, cuts: Sequence[Cut]) -> None:
    """v* and the fitted field at several times, where there is data."""
    for color, cut in zip(PALETTE, cuts, strict=False):
        x = np.where(cut.seen, cut.action, np.nan)
        axes.plot(x, cut.exact, color=color, label=f"v*, t = {cut.time:g}", lw=2.6)
        for fitted in cut.fitted.values():
            axes.plot(x, fitted, color=BLACK, linestyle=DASHED, lw=1.3)
    axes.plot([], [], color=BLACK, linestyle=DASHED, lw=1.3, label="fitted")
    axes.set_title("Case I: the fit finds v*")
    finish_field(axes)


def finish_field(axes: Axes) -> None:
    """Labels of a field on the line."""
    axes.set_xlabel("x")
    axes.set_ylabel("Velocity v(x, t)")
    axes.legend()


def draw_case_two(axes: Axes, cut: Cut) -> None:
    """v* with its poles, and the field after ever more steps."""
    inside = cut.action[cut.seen & (cut.signed < 0)]
    axes.axvspan(
        inside[0],
        inside[-1],
        facecolor="none",
        edgecolor=VERMILLION,
        hatch="////",
        lw=0,
    )
    for part in np.split(
        np.arange(len(cut.action)), 1 + np.flatnonzero(np.diff(cut.signed < 0))
    ):
        part = part[cut.seen[part]]
        axes.plot(
            cut.action[part], cut.exact[part], color=BLACK, linestyle=DASHED, lw=1.5
        )
    axes.plot([], [], color=BLACK, linestyle=DASHED, lw=1.5, label="v*")
    shades = matplotlib.colormaps["viridis"](np.linspace(0.8, 0.1, len(cut.fitted)))
    x = np.where(cut.seen, cut.action, np.nan)
    for color, (steps, fitted) in zip(shades, cut.fitted.items(), strict=True):
        axes.plot(x, fitted, color=color, label=f"{steps} steps")
    axes.set_ylim(-HEIGHT, HEIGHT)
    axes.set_title(f"Case II: the clipped fit leaves v*, t = {cut.time:g}")
    finish_field(axes)


def draw_fits(
    panels: Sequence[Axes], fits: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
    """Loss, largest velocity and distance to v* over training."""
    for color, (label, fit) in zip((VERMILLION, BLUE), fits.items(), strict=True):
        step, one = fit["step"], fit["distance_case_1"]
        names = ("loss", "max_speed_case_2", "distance_case_2")
        for axes, name in zip(panels, names, strict=True):
            axes.plot(step, fit[name], color=color, label=label)
        panels[2].plot(step, one, color=color, linestyle=DASHED, lw=1.4)
    panels[2].plot([], [], color=GREY, linestyle=DASHED, lw=1.4, label="in Case I")
    titles = ("Loss", "Largest velocity in Case II", "Distance to v*, in Case II")
    units = ("Weighted matching loss", "max |v|", f"RMS of v {MINUS} v*")
    for axes, title, unit in zip(panels, titles, units, strict=True):
        axes.set(title=title, xlabel="Adam steps", ylabel=unit, xscale="log")
        axes.legend()
    panels[0].set_yscale("symlog", linthresh=10)
    panels[0].margins(y=0.1)
    panels[1].set_yscale("log")
    panels[2].set_yscale("log")
