"""Pictures of the bandit study: landscapes with densities, regret, success, sweeps.

A method has one colour and one line style in all of them. Shades and whiskers are 95 %
intervals over trials: Student's t for means, Wilson's for rates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from simpo.plotting.curves import mean_interval
from simpo.plotting.style import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    draw,
    grid,
)

__all__ = [
    "Curves",
    "Escape",
    "Row",
    "Sweep",
    "curvature",
    "curvature_sweep",
    "escape",
    "rate_interval",
]

LOOKS = {
    "Exp": (VERMILLION, "solid"),
    "Linear": (BLUE, (0, (5, 2))),
    "Square": (GREEN, (0, (1, 1.4))),
    "Lin. Neg.": (PURPLE, "solid"),
    "Sqr. Neg.": (ORANGE, "solid"),
}
BINS = 81


class Curves(NamedTuple):
    """Regret of several methods under one condition.

    Attributes:
        title: What is held equal.
        regret: By method, [T trials, P points].
        rounds: Of the last point.
    """

    title: str
    regret: Mapping[str, np.ndarray]
    rounds: int


class Sweep(NamedTuple):
    """Something measured at several values of a parameter.

    Attributes:
        parameter: Its name, for the axis.
        values: Its values [V].
        measured: By method, [V, T trials].
    """

    parameter: str
    values: Sequence[float]
    measured: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Landscape:
    """A reward and what policies made of it.

    Attributes:
        title: Its name.
        action: Grid of actions [G].
        reward: Rewards there [G].
        start: Actions before, pooled over trials.
        final: Actions after, by method, pooled over trials.
    """

    title: str
    action: np.ndarray
    reward: np.ndarray
    start: np.ndarray
    final: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Escape:
    """Figure 2: one landscape, regret, success against noise.

    Attributes:
        landscape: The two optima.
        curves: Regret of each method.
        settled: Regret under which a policy has settled on the optimum.
        success: Whether trials escaped, 0 or 1, by candidate noise, if that was swept.
    """

    landscape: Landscape
    curves: Curves
    settled: float
    success: Sweep | None


@dataclass(frozen=True)
class Row:
    """Figure 3, one landscape: regret under several conditions, and sweeps."""

    landscape: Landscape
    conditions: Sequence[Curves]
    sweeps: Sequence[Sweep]


def escape(data: Escape, out: Path) -> list[Path]:
    """Draw Figure 2; `out` is a file name without suffix."""

    def fill(figure: Figure) -> None:
        first, second, *rest = grid(figure, panels, panels)
        draw_landscape(first, data.landscape)
        draw_regret(second, data.curves)
        second.axhline(data.settled, color=GREY, linestyle=DASHED, linewidth=1.0)
        second.annotate(
            "settled",
            (data.curves.rounds, data.settled),
            color=GREY,
            fontsize=9,
            ha="right",
            va="bottom",
        )
        if data.success:
            draw_success(rest[0], data.success)

    panels = 3 if data.success else 2
    return draw(out, (5.4 * panels, 4.6), fill)


def curvature(rows: Sequence[Row], out: Path) -> list[Path]:
    """Draw Figure 3, a row per landscape; `out` is a file name without suffix."""
    columns = 1 + len(rows[0].conditions)

    def fill(figure: Figure) -> None:
        axes = iter(grid(figure, columns * len(rows), columns))
        for row in rows:
            draw_landscape(next(axes), row.landscape)
            for curves in row.conditions:
                draw_regret(next(axes), curves, scale="log")

    return draw(out, (5.0 * columns, 4.4 * len(rows)), fill)


def curvature_sweep(rows: Sequence[Row], out: Path) -> list[Path]:
    """Draw the sweeps behind Figure 3, a row per landscape."""
    columns = len(rows[0].sweeps)

    def fill(figure: Figure) -> None:
        axes = iter(grid(figure, columns * len(rows), columns))
        for row in rows:
            for sweep in row.sweeps:
                draw_sweep(next(axes), sweep, row.landscape.title)

    return draw(out, (5.4 * columns, 4.4 * len(rows)), fill)


def draw_landscape(axes: Axes, data: Landscape) -> None:
    """The reward, and densities of actions before and after."""
    axes.plot(data.action, data.reward, color=BLACK, linewidth=2.2, label="reward")
    axes.set_xlabel("action")
    axes.set_ylabel("reward")
    axes.set_title(data.title)
    axes.set_ylim(0, 1.12 * data.reward.max())
    density = axes.twinx()
    density.grid(visible=False)
    low, high = data.action[0], data.action[-1]
    edges = np.linspace(low, high, BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    start = np.histogram(data.start, edges, density=True)[0]
    density.fill_between(middle, start, color=GREY, alpha=0.35, linewidth=0)
    for name, actions in data.final.items():
        color, style = LOOKS[name]
        share = np.histogram(actions, edges, density=True)[0]
        density.plot(middle, share, color=color, linestyle=style, linewidth=1.6)
    density.set_ylim(bottom=0)
    density.set_ylabel("density of actions, all trials")
    density.spines["right"].set_visible(True)
    handles = [
        axes.plot([], [], color=BLACK, linewidth=2.2, label="reward")[0],
        axes.fill_between([], [], color=GREY, alpha=0.35, label="start"),
        *(
            axes.plot([], [], color=LOOKS[n][0], linestyle=LOOKS[n][1], label=n)[0]
            for n in data.final
        ),
    ]
    axes.legend(handles=handles, loc="upper left", fontsize=9)


def draw_regret(axes: Axes, data: Curves, scale: str = "linear") -> None:
    """Mean regret with its interval, by method."""
    axes.set_yscale(scale)
    for name, regret in data.regret.items():
        color, style = LOOKS[name]
        mean, low, high = mean_interval(regret)
        x = (np.arange(len(mean)) + 0.5) * data.rounds / len(mean)
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot(x, mean, color=color, linestyle=style, label=name)
    axes.set_xlim(0, data.rounds)
    if scale == "linear":
        axes.set_ylim(bottom=0)
    axes.set_xlabel("rounds")
    axes.set_ylabel("expected simple regret")
    axes.set_title(data.title)
    axes.legend(fontsize=9)


def draw_success(axes: Axes, data: Sweep) -> None:
    """Share of trials that escaped, by noise, each method at its best."""
    count = len(data.measured)
    for k, (name, escaped) in enumerate(data.measured.items()):
        color, style = LOOKS[name]
        x = np.arange(len(data.values)) + 0.06 * (k - (count - 1) / 2)
        rates = [rate_interval(int(e.sum()), len(e)) for e in escaped]
        mean = escaped.mean(axis=1)
        low, high = np.transpose(rates)
        error = np.abs([mean - low, high - mean])
        axes.errorbar(
            x, mean, error, color=color, linestyle=style, marker="o", capsize=3,
            label=name,
        )  # fmt: skip
    axes.set_xticks(range(len(data.values)), [f"{v:g}" for v in data.values])
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    axes.set_xlabel(data.parameter)
    axes.set_ylabel("trials that escaped")
    axes.set_title("Escapes, each method at its best KL target")
    axes.legend(fontsize=9)


def draw_sweep(axes: Axes, data: Sweep, title: str) -> None:
    """Regret by the value of a parameter, with intervals, by method."""
    for name, regret in data.measured.items():
        color, style = LOOKS[name]
        mean, low, high = mean_interval(np.transpose(regret))
        error = [mean - low, high - mean]
        axes.errorbar(
            data.values, mean, error, color=color, linestyle=style, marker="o",
            capsize=3, label=name,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(data.values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(data.parameter)
    axes.set_ylabel("regret, mean over rounds")
    axes.set_title(title)
    axes.legend(fontsize=9)


def rate_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return interval.low, interval.high
