"""What training logged, as small multiples over environment steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from simpo.loggers import thousands
from simpo.plotting.rundata import RunData, Table
from simpo.plotting.style import DASHED, GREY, PALETTE, draw, grid, label_steps
from simpo.types import SimpoError

__all__ = ["diagnostics"]

COLUMNS = 4
TICKS = 4
SMALLEST_SPAN = 0.05
"""Least height of a linear axis, relative to what it shows."""


@dataclass(frozen=True)
class Panel:
    """A small plot: metrics of one unit; several have a name each."""

    title: str
    unit: str
    metrics: dict[str, str]
    log: bool = False
    limit: Callable[[Mapping[str, Any]], float | None] = lambda agent: None
    limit_label: str = ""


def entropy_target(agent: Mapping[str, Any]) -> float | None:
    """Nats that the temperature aims at, where it aims at nats."""
    match agent:
        case {"temperature": {"target": {"nats": float(nats)}}}:
            return nats
    return None


PANELS = (
    Panel("Temperature", "λ, units of Q", {"temperature": ""}, log=True),
    Panel(
        "Extreme weights", "weight", {"weight_max": "largest", "weight_min": "smallest"}
    ),
    Panel(
        "Negative weights",
        "mean over candidates",
        {"weight_negative_mass": "mass", "weight_negative_fraction": "share"},
    ),
    Panel(
        "Effective sample size",
        "candidates",
        {"weight_ess": "used"},
        limit=lambda agent: agent.get("candidates"),
        limit_label="N = ",
    ),
    Panel(
        "Divergence from uniform",
        "nats",
        {"weight_kl": "used"},
        limit=entropy_target,
        limit_label="target ",
    ),
    Panel(
        "Values",
        "Q",
        {"q_mean": "critic", "q_target": "its target", "multiplier": "multiplier"},
    ),
    Panel("Spread of Q over candidates", "Q", {"q_std_candidates": ""}, log=True),
    Panel("Spread of candidates", "action, box is ±1", {"candidate_spread": ""}),
    Panel("Critic loss", "Q²", {"critic_loss": ""}, log=True),
    Panel(
        "Matching",
        "squared error",
        {"actor_loss": "weighted loss", "matching_error": "unweighted error"},
    ),
    Panel(
        "Clipped and edge",
        "share",
        {"clipped_fraction": "clipped errors", "edge_fraction": "candidates at edge"},
    ),
    Panel(
        "Gradient norm",
        "norm",
        {"actor_grad_norm": "actor", "critic_grad_norm": "critic"},
        log=True,
    ),
)
"""Metrics under `train/`, in the order of one update."""


def diagnostics(run: RunData, out: Path) -> list[Path]:
    """Small multiples of what training logged, over environment steps.

    Args:
        run: The run.
        out: File name without suffix.

    Returns:
        The files written.

    Raises:
        SimpoError: The run made no update yet.
    """
    logged = {
        name.removeprefix("train/"): values
        for name, values in run.progress.items()
        if np.isfinite(values).any()
    }
    panels = [p for p in PANELS if p.metrics.keys() & logged.keys()]
    if not panels:
        raise SimpoError(
            f"{run.directory} has no diagnostics yet: no update was logged"
        )
    columns = min(len(panels), COLUMNS)
    lines = -(-len(panels) // columns)

    def small_multiples(figure: Figure) -> None:
        for axes, panel in zip(grid(figure, len(panels), columns), panels, strict=True):
            draw_panel(axes, panel, logged, run.config["agent"])
        figure.suptitle(run.title)
        figure.supxlabel("Environment steps")

    return draw(out, (3.6 * columns, 2.8 * lines + 0.6), small_multiples)


def draw_panel(
    axes: Axes, panel: Panel, logged: Table, agent: Mapping[str, Any]
) -> None:
    """One small plot, with its target as a dashed line if the agent has one."""
    shown = {name: label for name, label in panel.metrics.items() if name in logged}
    for color, (name, label) in zip(PALETTE, shown.items(), strict=False):
        axes.plot(logged["step"], logged[name], color=color, label=label, linewidth=1.6)
    limit = panel.limit(agent)
    if limit is not None:
        label = f"{panel.limit_label}{limit:g}"
        axes.axhline(limit, color=GREY, linestyle=DASHED, linewidth=1.2, label=label)
    if not panel.log or not scale_log(axes, [logged[name] for name in shown]):
        scale_linear(axes)
    named = any(shown.values())
    axes.set_title(panel.title, pad=21 if named else 6)
    axes.set_ylabel(panel.unit)
    label_steps(axes, TICKS)
    if named:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=3,
            fontsize=9,
            borderaxespad=0.2,
            handlelength=1.4,
            columnspacing=1.0,
        )


def scale_linear(axes: Axes) -> None:
    """A linear axis that does not blow up rounding errors."""
    low, high = axes.get_ylim()
    lacking = SMALLEST_SPAN * max(abs(low), abs(high)) - (high - low)
    if lacking > 0:
        axes.set_ylim(low - lacking / 2, high + lacking / 2)
    axes.ticklabel_format(axis="y", useOffset=False)


def scale_log(axes: Axes, curves: Sequence[np.ndarray]) -> bool:
    """A logarithmic axis with plain numbers, if values span enough for one."""
    low, high = np.nanmin(curves), np.nanmax(curves)
    if not 0 < 4 * low < high < np.inf:
        return False
    between = (1.0, 2.0, 5.0) if high < 500 * low else (1.0,)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=between))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: thousands(y)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return True
