"""Learning curves: evaluation return against environment steps.

Bands are 95 % Student t-intervals of a mean of n independent values, the episodes of
one run or the seeds of one setting: mean +- t_{n-1, 0.975} s / sqrt(n). A single value
has none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from simpo.plotting.rundata import RunData
from simpo.plotting.style import GREY, MINUS, PALETTE, draw, grid, label_steps
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
TOLD = 3
"""Settings named in a legend; groups that differ in more go by a directory."""


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


def samplers(run: RunData) -> dict[str, np.ndarray]:
    """Rows of evaluations.csv by sampler, and by denoising steps if these differ."""
    table = run.evaluations
    if not table:
        return {}
    names = table["sampler"]
    steps = table.get("denoising_steps", np.zeros(len(names)))
    if len(np.unique(steps)) > 1:
        names = np.array(
            [f"{n}, {s:g} steps" for n, s in zip(names, steps, strict=True)]
        )
    return {str(name): names == name for name in dict.fromkeys(names)}


def spoken(sampler: str) -> str:
    """A sampler's name in a legend."""
    return sampler.replace("single", "single sample").replace("best-of-", "best of ")


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
        draw_band(axes, steps, curve, color, f"{spoken(name)} ({episodes} episodes)")
    axes.set_title(run.title)
    finish_curve(axes, "Return (band: 95 % t-interval over episodes)")


def draw_band(
    axes: Axes, steps: np.ndarray, curve: Interval, color: str, label: str
) -> None:
    """A curve with its interval; markers, since evaluations are points in time."""
    axes.plot(steps, curve.mean, color=color, marker="o", markersize=3.5, label=label)
    axes.fill_between(steps, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)


def finish_curve(axes: Axes, ylabel: str) -> None:
    """Labels, ticks and legend of a learning curve."""
    axes.set_xlabel("Environment steps")
    axes.set_ylabel(ylabel)
    label_steps(axes, TICKS)
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: f"{y:,.6g}".replace("-", MINUS))
    )
    axes.legend(loc="best")


def group_runs(runs: Sequence[RunData]) -> dict[str, list[RunData]]:
    """Runs of one task that differ in nothing but the seed, by label.

    Groups with the same agent and weighting are told apart by the settings in which
    they differ.

    Raises:
        SimpoError: Two runs of a group have the same seed, so are no independent runs.
    """
    groups: list[list[RunData]] = []
    for run in runs:
        same = next((g for g in groups if g[0].setting == run.setting), None)
        if same is None:
            groups.append([run])
            continue
        twin = next((r for r in same if r.config["seed"] == run.config["seed"]), None)
        if twin:
            raise SimpoError(
                f"{twin.directory} and {run.directory} are the same run (seed "
                f"{run.config['seed']}); leave one out"
            )
        same.append(run)
    return {distinct_label(group[0], groups): group for group in groups}


def distinct_label(run: RunData, groups: Sequence[Sequence[RunData]]) -> str:
    """The run's label, with what tells it from the other groups of that label."""
    alike = [g[0].setting for g in groups if g[0].label == run.label]
    names = dict.fromkeys(name for setting in alike for name in setting)
    told = [n for n in names if len({setting.get(n) for setting in alike}) > 1]
    if len(told) > TOLD:
        return f"{run.label}, {run.directory}"
    extra = (f", {n.split('.')[-1]}={run.setting.get(n)}" for n in told)
    return run.label + "".join(extra)


def draw_groups(
    axes: Axes, groups: Mapping[str, Sequence[RunData]], colors: Mapping[str, str]
) -> None:
    """Several settings of one task: mean and interval over seeds, thin single seeds."""
    first = next(iter(groups.values()))[0]
    sampler = next(iter(samplers(first)), "")
    for label, runs in groups.items():
        curves = [seed_curve(run, sampler) for run in runs]
        if len(runs) > 1:
            for steps, mean in curves:
                axes.plot(steps, mean, color=colors[label], linewidth=0.7, alpha=0.5)
        steps, means = align(curves)
        seeds = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
        curve = mean_interval(means)
        draw_band(axes, steps, curve, colors[label], f"{label} ({seeds})")
    axes.set_title(f"{first.env}, {spoken(sampler)}")
    finish_curve(axes, "Return (band: 95 % t-interval over seeds)")


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


def learning_curve(runs: Sequence[RunData], out: Path) -> list[Path]:
    """Evaluation return against environment steps.

    One run shows every sampler, with intervals over episodes, and the training return.
    Several show a panel per task and a curve per setting, with intervals over seeds;
    runs of different tasks are never pooled.

    Args:
        runs: The runs.
        out: File name without suffix.

    Returns:
        The files written.

    Raises:
        SimpoError: The same run twice, or runs without evaluations in common.
    """
    if len(runs) == 1:
        return draw(out, SIZE, lambda f: draw_run(f.subplots(), runs[0]))
    tasks = dict.fromkeys(run.env for run in runs)
    panels = [group_runs([r for r in runs if r.env == task]) for task in tasks]
    labels = dict.fromkeys(label for groups in panels for label in groups)
    colors = {k: PALETTE[i % len(PALETTE)] for i, k in enumerate(labels)}
    columns = 2 if len(panels) == 4 else min(len(panels), COLUMNS)
    lines = -(-len(panels) // columns)

    def compare(figure: Figure) -> None:
        for axes, groups in zip(
            grid(figure, len(panels), columns), panels, strict=True
        ):
            draw_groups(axes, groups, colors)

    return draw(out, (max(SIZE[0], 5.2 * columns), SIZE[1] * lines), compare)
