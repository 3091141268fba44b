"""Pictures of several settings over tasks and seeds, from normalised scores.

`draw_estimates`   IQM, median, mean and optimality gap with their intervals
`draw_profiles`    share of runs above every score, with pointwise bands
`draw_efficiency`  IQM against environment steps, with pointwise bands

All intervals are 95 % stratified bootstrap; a setting with one seed has none.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simpo.plotting.scores import Pooled
from simpo.plotting.settings import seed_count
from simpo.plotting.style import (
    BLACK,
    BLUE,
    DASHED,
    Below,
    Look,
    draw,
    grid,
    label_steps,
    looks_of,
)
from simpo.statistics import (
    AGGREGATES,
    Band,
    Estimate,
    bootstrap,
    bootstrap_band,
    performance_profile,
    sample_efficiency,
)

__all__ = [
    "Line",
    "by_iqm",
    "draw_all",
    "draw_efficiency",
    "draw_estimates",
    "draw_profiles",
    "efficiency",
    "estimates",
    "profiles",
]

CROWD = 6
"""Lines that one panel can show; more get a panel each, with the others in grey."""
SIZE, COLUMNS, PANEL = (8.2, 4.9), 5, (2.9, 2.5)
NAMED = 3
"""Tasks that a title names."""
CONTEXT = "#C8C8C8"
TICK_LETTER = 0.085
"""Inches that a letter of a setting's name takes beside the panels."""
WRAP = 34
"""Letters in a line of a small panel's title."""
TAUS = 201
"""Points of a profile."""
TICKS = 4


class Line(NamedTuple):
    """A setting's line: x [P], and its values with bands [P]."""

    x: np.ndarray
    band: Band


def by_iqm(pooled: Pooled) -> list[str]:
    """Settings by the IQM of their scores, best first."""
    return sorted(
        pooled.scores, key=lambda k: -float(AGGREGATES["IQM"](pooled.scores[k]))
    )


def estimates(pooled: Pooled, draws: int) -> dict[str, dict[str, Estimate]]:
    """Every aggregate of every setting, best first."""
    return {
        label: {
            name: bootstrap(
                statistic,
                pooled.scores[label],
                rng=np.random.default_rng(0),
                draws=draws,
            )
            for name, statistic in AGGREGATES.items()
        }
        for label in by_iqm(pooled)
    }


def profiles(pooled: Pooled) -> dict[str, Line]:
    """Share of runs above tau, for taus that all scores lie between, best first."""
    every = np.concatenate([x.ravel() for x in pooled.scores.values()])
    taus = np.linspace(min(0.0, every.min()), max(1.0, every.max()), TAUS)

    def profile(scores: np.ndarray) -> np.ndarray:
        return performance_profile(scores, taus)

    return {
        label: Line(taus, bootstrap_band(profile, pooled.scores[label], rng=rng))
        for label, rng in seeded(pooled)
    }


def efficiency(pooled: Pooled) -> dict[str, Line]:
    """IQM over all runs at every evaluation, best first."""
    return {
        label: Line(
            pooled.curves[label][0],
            sample_efficiency(pooled.curves[label][1], rng=rng),
        )
        for label, rng in seeded(pooled)
    }


def seeded(pooled: Pooled) -> list[tuple[str, np.random.Generator]]:
    """Settings, each with draws that do not depend on the others."""
    return [(label, np.random.default_rng(0)) for label in by_iqm(pooled)]


def draw_all(pooled: Pooled, folder: Path, draws: int) -> list[Path]:
    """All three pictures; the files written."""
    paths = draw_estimates(pooled, estimates(pooled, draws), folder / "statistics")
    paths += draw_profiles(pooled, profiles(pooled), folder / "profiles")
    return paths + draw_efficiency(
        pooled, efficiency(pooled), folder / "sample_efficiency"
    )


def draw_estimates(
    pooled: Pooled, found: Mapping[str, Mapping[str, Estimate]], out: Path
) -> list[Path]:
    """A panel per aggregate, a row per setting."""
    names = [f"{label} ({describe(pooled, label)})" for label in found]

    def fill(figure: Figure) -> None:
        panels = figure.subplots(1, len(AGGREGATES), sharey=True)
        for axes, name in zip(panels, AGGREGATES, strict=True):
            draw_rows(axes, [found[label][name] for label in found])
            axes.set_title(f"{name} {'↓' if name == 'optimality gap' else '↑'}")
        panels[0].set_yticks(range(len(found)), names)
        panels[0].set_ylim(len(found) - 0.5, -0.5)
        figure.supxlabel(f"Normalised return: {pooled.about}", fontsize=11)
        title = title_of(pooled, "line: 95 % stratified bootstrap")
        figure.suptitle(title, fontsize=11)

    width = 2.4 * len(AGGREGATES) + TICK_LETTER * max(map(len, names))
    return draw(out, (width, 1.7 + 0.34 * len(found)), fill)


def draw_rows(axes: Axes, rows: Sequence[Estimate]) -> None:
    """A dot and its interval per row; a hollow dot has none."""
    for place, (value, low, high) in enumerate(rows):
        alone = np.isnan(low)
        if not alone:
            axes.plot([low, high], [place, place], color=BLUE, linewidth=3)
        face = "white" if alone else BLUE
        axes.plot(value, place, "o", color=BLUE, markerfacecolor=face, markersize=6)
    for at in (0.0, 1.0):
        axes.axvline(at, color=BLACK, linewidth=0.8, linestyle=DASHED)


def draw_profiles(pooled: Pooled, lines: Mapping[str, Line], out: Path) -> list[Path]:
    """Share of runs above every score."""

    def finish(axes: Axes) -> None:
        axes.set_ylim(-0.03, 1.03)

    labels = f"Normalised return τ ({pooled.about})", "Share of runs with score > τ"
    return draw_lines(pooled, lines, labels, finish, out)


def draw_efficiency(pooled: Pooled, lines: Mapping[str, Line], out: Path) -> list[Path]:
    """IQM against environment steps."""

    def finish(axes: Axes) -> None:
        label_steps(axes, TICKS)

    labels = "Environment steps", f"IQM of normalised return\n({pooled.about})"
    return draw_lines(pooled, lines, labels, finish, out)


def draw_lines(
    pooled: Pooled,
    lines: Mapping[str, Line],
    labels: tuple[str, str],
    finish: Callable[[Axes], None],
    out: Path,
) -> list[Path]:
    """All lines in one panel, or if they are many, each before all in grey."""
    crowded = len(lines) > CROWD
    below = Below.fit([f"{k} ({describe(pooled, k)})" for k in lines], SIZE[0])

    def fill(figure: Figure) -> None:
        panels = draw_apart(figure, pooled, lines) if crowded else [figure.subplots()]
        if not crowded:
            below.draw(figure, draw_together(panels[0], pooled, lines))
        for axes in panels:
            finish(axes)
        figure.suptitle(
            title_of(pooled, "band: pointwise 95 % stratified bootstrap"), fontsize=11
        )
        label(figure if crowded else panels[0], labels)

    rows = -(-len(lines) // COLUMNS)
    small = PANEL[0] * COLUMNS, PANEL[1] * rows + 0.9
    return draw(out, small if crowded else (SIZE[0], SIZE[1] + below.height), fill)


def label(where: Figure | Axes, labels: tuple[str, str]) -> None:
    """What the axes are, once for all panels or at the only one."""
    if isinstance(where, Axes):
        where.set_xlabel(labels[0])
        where.set_ylabel(labels[1])
    else:
        where.supxlabel(labels[0], fontsize=11)
        where.supylabel(labels[1], fontsize=11)


def draw_together(
    axes: Axes, pooled: Pooled, lines: Mapping[str, Line]
) -> dict[str, Any]:
    """All lines with their bands; the lines by what a legend says of them."""
    looks, handles = looks_of(list(lines)), {}
    for name, line in lines.items():
        draw_line(axes, line, looks[name], name)
        handles[f"{name} ({describe(pooled, name)})"] = axes.lines[-1]
    return handles


def draw_apart(figure: Figure, pooled: Pooled, lines: Mapping[str, Line]) -> list[Axes]:
    """A panel per line, with the others in grey behind it."""
    looks, panels = looks_of(list(lines)), grid(figure, len(lines), COLUMNS)
    for place, (axes, label) in enumerate(zip(panels, lines, strict=True)):
        for line in lines.values():
            axes.plot(line.x, line.band.value, color=CONTEXT, linewidth=0.9)
        draw_line(axes, lines[label], Look(looks[label].color, "solid"), label)
        title = "\n".join(textwrap.wrap(label, WRAP))
        axes.set_title(f"{title}\n{describe(pooled, label)}", fontsize=9)
        axes.tick_params(labelleft=place % COLUMNS == 0)
    limits = np.array([axes.get_ylim() for axes in panels])
    for axes in panels:
        axes.set_ylim(limits.min(), limits.max())
    return panels


def draw_line(axes: Axes, line: Line, look: Look, label: str) -> None:
    """A line with its band, if it has one."""
    value, low, high = line.band
    color, style = look
    axes.plot(line.x, value, color=color, linestyle=style, label=label)
    if not np.isnan(low).any():
        axes.fill_between(line.x, low, high, color=color, alpha=0.2, linewidth=0)


def describe(pooled: Pooled, label: str) -> str:
    """Sampler and number of seeds."""
    return f"{pooled.samplers[label]}, {seed_count(pooled.scores[label].shape[1])}"


def title_of(pooled: Pooled, intervals: str) -> str:
    """The tasks, and what the intervals are; one seed has none."""
    named = len(pooled.tasks) <= NAMED
    tasks = ", ".join(pooled.tasks) if named else f"{len(pooled.tasks)} tasks"
    seeds = [x.shape[1] for x in pooled.scores.values()]
    if max(seeds) < 2:
        return f"{tasks}\n1 seed: no interval"
    return f"{tasks}\n{intervals}{'; none for 1 seed' * (min(seeds) < 2)}"
