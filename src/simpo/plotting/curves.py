"""Learning curves: evaluation return against environment steps.

Bands are 95 % Student t-intervals of a mean of n independent values, the episodes of
one run or the seeds of one setting: mean +- t_{n-1, 0.975} s / sqrt(n). A single value
has none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from simpo.plotting.rundata import RunData
from simpo.plotting.settings import (
    Group,
    group_runs,
    headline,
    samplers,
    seed_count,
    spoken,
)
from simpo.plotting.style import (
    GREY,
    MINUS,
    PALETTE,
    Below,
    Look,
    draw,
    grid,
    label_steps,
    looks_of,
)
from simpo.types import SimpoError

__all__ = [
    "Interval",
    "align",
    "draw_run",
    "finish_curve",
    "learning_curve",
    "mean_interval",
    "seed_curve",
]

SIZE = (7.0, 4.4)
COLUMNS = 3
TICKS = 7
CROWD = 6
"""Settings that a panel's own legend and thin single seeds have room for."""


class Interval(NamedTuple):
    """A mean and the interval it lies in; NaN ends where there is no interval."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Mean over the first axis [n, ...] and its Student t-interval."""
    from scipy.special import stdtrit

    n, mean = len(values), np.mean(values, axis=0)
    if n < 2:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    error = np.std(values, axis=0, ddof=1) / np.sqrt(n)
    half = stdtrit(n - 1, (1 + level) / 2) * error
    return Interval(mean, mean - half, mean + half)


def evaluation_curve(run: RunData, rows: np.ndarray) -> tuple[np.ndarray, Interval]:
    """Steps [P], and mean return with its interval over episodes [P]."""
    step, score = run.evaluations["step"][rows], run.evaluations["return"][rows]
    steps = np.unique(step)
    points = [mean_interval(score[step == s]) for s in steps]
    return steps, Interval(*(np.array(ends) for ends in zip(*points, strict=True)))


def draw_run(axes: Axes, run: RunData) -> None:
    """One run: every sampler with its interval over episodes, and training."""
    if "rollout/ep_rew_mean" in run.progress:
        steps, score = run.progress["step"], run.progress["rollout/ep_rew_mean"]
        axes.plot(steps, score, color=GREY, linewidth=1.0, label="training")
    for color, (name, rows) in zip(PALETTE, samplers(run).items(), strict=False):
        steps, curve = evaluation_curve(run, rows)
        episodes = round(rows.sum() / len(steps))
        look = Look(color, "solid")
        draw_band(axes, steps, curve, look, f"{spoken(name)} ({episodes} episodes)")
    axes.set_title(run.title)
    finish_curve(axes, "Return (band: 95 % t-interval over episodes)")
    axes.legend(loc="best")


def draw_band(
    axes: Axes,
    steps: np.ndarray,
    curve: Interval,
    look: Look,
    label: str,
    alpha: float = 0.2,
) -> None:
    """A curve with its interval; markers, since evaluations are points in time."""
    color, line = look
    axes.plot(steps, curve.mean, color=color, linestyle=line, marker="o",
              markersize=3.5, label=label)  # fmt: skip
    ends = curve.low, curve.high
    axes.fill_between(steps, *ends, color=color, alpha=alpha, linewidth=0)


def finish_curve(axes: Axes, ylabel: str) -> None:
    """Labels and ticks of a learning curve."""
    axes.set_xlabel("Environment steps")
    axes.set_ylabel(ylabel)
    label_steps(axes, TICKS)
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: f"{y:,.6g}".replace("-", MINUS))
    )


def draw_groups(
    axes: Axes,
    groups: Sequence[Group],
    looks: Mapping[str, Look],
    names: Mapping[str, str],
    sampler: str | None = None,
) -> None:
    """Several settings of one task: mean and interval over seeds, thin single seeds."""
    crowded = len(looks) > CROWD
    for group in groups:
        name, look = sampler or headline(group.runs[0]), looks[group.label]
        curves = [seed_curve(run, name) for run in group.runs]
        if len(curves) > 1 and not crowded:
            for steps, mean in curves:
                axes.plot(steps, mean, color=look.color, linewidth=0.7, alpha=0.5)
        steps, means = align(curves)
        alpha, label = 0.08 if crowded else 0.2, names[group.label]
        draw_band(axes, steps, mean_interval(means), look, label, alpha)
    shown = samplers_of(groups, sampler)
    title = f", {spoken(shown[0])}" if len(shown) == 1 else ""
    axes.set_title(groups[0].task + title)
    finish_curve(axes, f"Return ({about_band([len(g.runs) for g in groups])})")
    axes.legend(loc="best")


def samplers_of(groups: Sequence[Group], sampler: str | None) -> list[str]:
    """The samplers that groups are compared under."""
    return list(dict.fromkeys(sampler or headline(g.runs[0]) for g in groups))


def legend_names(groups: Sequence[Group], sampler: str | None) -> dict[str, str]:
    """Settings with their numbers of seeds, and their samplers where these differ."""
    alone, names = len(samplers_of(groups, sampler)) == 1, {}
    for label in dict.fromkeys(group.label for group in groups):
        own = [group for group in groups if group.label == label]
        parts = [] if alone else samplers_of(own, sampler)
        counts = sorted({len(group.runs) for group in own})
        names[label] = f"{label} ({', '.join([*parts, seed_count(*counts)])})"
    return names


def about_band(seeds: Sequence[int]) -> str:
    """What the bands of curves over so many seeds each are."""
    if max(seeds) < 2:
        return "1 seed: no interval"
    if min(seeds) < 2:
        return "band: 95 % t-interval; none for 1 seed"
    return "band: 95 % t-interval over seeds"


def align(
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Steps [P] and values [seeds, P] of curves at common steps.

    Evaluations of two seeds can be a few steps apart, so curves are interpolated at the
    steps of the first, as far as all of them reach.
    """
    start = max(steps[0] for steps, _ in curves)
    end = max(start, min(steps[-1] for steps, _ in curves))
    common = np.unique(np.clip(curves[0][0], start, end))
    return common, np.array([np.interp(common, *curve) for curve in curves])


def seed_curve(run: RunData, sampler: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and mean evaluation return of one run."""
    rows = samplers(run).get(sampler)
    if rows is None:
        raise SimpoError(
            f"{run.directory} has no evaluation with sampler '{sampler}' to compare"
        )
    steps, curve = evaluation_curve(run, rows)
    return steps, curve.mean


def learning_curve(
    runs: Sequence[RunData], out: Path, sampler: str | None = None
) -> list[Path]:
    """Evaluation return against environment steps.

    One run shows every sampler, with intervals over episodes, and the training return.
    Several show a panel per task and a curve per setting, with intervals over seeds;
    runs of different tasks are never pooled.

    Args:
        runs: The runs.
        out: File name without suffix.
        sampler: What several runs are compared under; by default each setting's
            headline sampler.

    Returns:
        The files written.

    Raises:
        SimpoError: The same run twice, or a run without such evaluations.
    """
    if len(runs) == 1:
        return draw(out, SIZE, lambda f: draw_run(f.subplots(), runs[0]))
    groups = group_runs(runs)
    tasks = dict.fromkeys(group.task for group in groups)
    panels = [[g for g in groups if g.task == task] for task in tasks]
    looks = looks_of(list(dict.fromkeys(group.label for group in groups)))
    columns = 2 if len(panels) == 4 else min(len(panels), COLUMNS)
    lines = -(-len(panels) // columns)
    width = max(SIZE[0], 5.2 * columns)
    names = legend_names(groups, sampler)
    below = Below.fit(list(names.values()), width) if len(looks) > CROWD else None

    def compare(figure: Figure) -> None:
        for axes, shown in zip(grid(figure, len(panels), columns), panels, strict=True):
            known = names if below else legend_names(shown, sampler)
            draw_groups(axes, shown, looks, known, sampler)
            if below:
                fit_to_lines(axes)
        if below:
            below.draw(figure, shared_legend(figure))

    height = SIZE[1] * lines + (below.height if below else 0)
    return draw(out, (width, height), compare)


def fit_to_lines(axes: Axes) -> None:
    """Limits by the curves: bands of two seeds are ten times as wide."""
    values = np.concatenate([np.asarray(line.get_ydata()) for line in axes.lines])
    margin = 0.05 * np.ptp(values) or 1.0
    axes.set_ylim(values.min() - margin, values.max() + margin)


def shared_legend(figure: Figure) -> dict[str, Any]:
    """Lines by name, taken from all panels."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
        if (own := axes.get_legend()) is not None:
            own.remove()
    return handles
