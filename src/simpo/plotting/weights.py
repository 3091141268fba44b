"""Signed weights against values: Stage I at a glance."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from simpo.plotting.rundata import RunData
from simpo.plotting.style import (
    BLACK,
    BLUE,
    DASHED,
    GREY,
    MINUS,
    TIMES,
    VERMILLION,
    draw,
    signed,
)
from simpo.types import SimpoError

__all__ = ["draw_weights", "weights_against_q"]

SIZE = (7.0, 4.4)


def normalised_advantage(q: np.ndarray, state: np.ndarray) -> np.ndarray:
    """(q - mean q) / std q over the candidates of each state; 0 where q is constant."""
    _, index, count = np.unique(state, return_inverse=True, return_counts=True)
    gap = q - (np.bincount(index, q) / count)[index]
    std = np.sqrt(np.bincount(index, gap**2) / count)[index]
    return np.divide(gap, std, out=np.zeros_like(gap), where=std > 0)


def draw_weights(axes: Axes, run: RunData) -> None:
    """Signed weights against normalised advantage; a line per state.

    The part below zero has a scale of its own where it would else be too thin to see.
    """
    state, weight = run.candidates["state"], run.candidates["weight"]
    advantage = normalised_advantage(run.candidates["q"], state)
    scale_weights(axes, weight)
    low, high = axes.get_ylim()
    axes.axhspan(0, high, color=BLUE, alpha=0.07, linewidth=0)
    axes.axhspan(low, 0, color=VERMILLION, alpha=0.12, linewidth=0)
    axes.axhline(0, color=BLACK, linewidth=1.0)
    for s in np.unique(state):
        own = np.flatnonzero(state == s)
        own = own[np.argsort(advantage[own])]
        axes.plot(advantage[own], weight[own], color=GREY, linewidth=0.6, alpha=0.35)
    colors = np.where(weight < 0, VERMILLION, BLUE)
    axes.scatter(advantage, weight, s=14, c=colors, alpha=0.6, linewidths=0, zorder=3)
    annotate_weights(axes, weight)
    states = len(np.unique(state))
    count = f"{states} states {TIMES} {len(state) // states} candidates"
    axes.set_title(f"Weights against Q: {run.weighting}")
    axes.set_title(count, loc="right", fontsize=9.5, color=GREY)
    axes.set_xlabel(f"Normalised advantage, (Q {MINUS} mean) / std in each state")


def scale_weights(axes: Axes, weight: np.ndarray) -> None:
    """Limits, ticks and scale of the weights; a quarter of the height is negative."""
    top = 1.08 * max(weight.max(), 1.5)
    bottom = 1.6 * min(weight.min(), 0.0) or -0.12 * top
    stretch = max(1, round(top / (3 * -bottom))) if weight.min() < 0 else 1
    axes.set_yscale(
        "function",
        functions=(
            lambda y: np.where(y < 0, stretch * y, y),
            lambda y: np.where(y < 0, y / stretch, y),
        ),
    )
    axes.set_ylim(bottom, top)
    above = [float(y) for y in MaxNLocator(6).tick_values(0, top) if y <= top]
    axes.yaxis.set_major_locator(FixedLocator([min(weight.min(), 0.0), *above]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: signed(y)))
    note = f" (below 0 drawn {stretch}{TIMES} taller)" if stretch > 1 else ""
    axes.set_ylabel(f"Weight w{note}")


def annotate_weights(axes: Axes, weight: np.ndarray) -> None:
    """Say what the two halves do, and how many candidates are in each."""
    low, high = axes.get_ylim()
    style: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "zorder": 4}
    above = f"attracts: {np.mean(weight > 0):.0%} of candidates"
    below = f"repels: {np.mean(weight < 0):.0%} of candidates"
    axes.text(0.03, 0.96 * high, above, color=BLUE, va="top", weight="bold", **style)
    axes.text(
        0.03, 0.97 * low, below, color=VERMILLION, va="bottom", weight="bold", **style
    )
    if np.isclose(weight.mean(), 1.0, atol=0.01):
        axes.axhline(1, color=GREY, linewidth=1.0, linestyle=DASHED)
        style |= {"color": GREY, "ha": "right", "va": "bottom", "fontsize": 9.5}
        axes.text(0.97, 1.0, "w = 1: unchanged", **style)


def weights_against_q(run: RunData, out: Path) -> list[Path]:
    """Signed weight against normalised advantage, of candidates of a few states.

    Args:
        run: The run.
        out: File name without suffix.

    Returns:
        The files written.

    Raises:
        SimpoError: The run has no candidates.csv.
    """
    if not run.candidates:
        raise SimpoError(
            f"{run.directory} has no candidates.csv; it is written at evaluations"
        )
    return draw(out, SIZE, lambda f: draw_weights(f.subplots(), run))
