"""Scores of runs: what is compared, on which scale, and what had to be left out.

A score is the mean return of the last evaluation of a finished run, under one sampler;
never a maximum over training. Over tasks, scores are normalised: in each task 0 is the
mean return of the untrained policies, evaluated at step 0, and 1 the mean of the best
setting.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from simpo.plotting.curves import align, seed_curve
from simpo.plotting.rundata import RunData
from simpo.plotting.settings import (
    group_runs,
    headline,
    legend_notes,
    versions_of_one_task,
)
from simpo.statistics import Scale, score_matrix

__all__ = [
    "ENOUGH",
    "UNTRAINED",
    "Pooled",
    "Scored",
    "Setting",
    "compare_runs",
    "score",
]

UNTRAINED = "0 untrained policies, 1 best setting's mean"
"""What the scale of `compare_runs` is, for an axis."""

ENOUGH = 5
"""Seeds below which a table says that its intervals are too narrow."""


@dataclass(frozen=True)
class Setting:
    """Finished runs that differ in nothing but task and seed.

    Attributes:
        label: What it is called.
        runs: By task, then by seed.
        samplers: The sampler that its runs are scored under, by task.
    """

    label: str
    runs: dict[str, list[RunData]]
    samplers: dict[str, str]

    @property
    def sampler(self) -> str:
        """The sampler; all of them if tasks differ in it."""
        return " | ".join(dict.fromkeys(self.samplers.values()))

    @property
    def seeds(self) -> int:
        """Seeds that every task has."""
        return min(len(runs) for runs in self.runs.values())

    def returns(self, task: str) -> np.ndarray:
        """Mean return of the last evaluation of each run [S]."""
        return np.array([score(run, self.samplers[task]) for run in self.runs[task]])

    def curves(self, tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Steps [P] and evaluations [M, S, P], equally many seeds of each task."""
        steps, values = align(
            [
                seed_curve(run, self.samplers[task])
                for task in tasks
                for run in self.runs[task][: self.seeds]
            ]
        )
        return steps, values.reshape(len(tasks), self.seeds, -1)


@dataclass(frozen=True)
class Pooled:
    """Settings that have the same tasks, on one scale; M tasks, S seeds, P steps.

    Attributes:
        tasks: The tasks.
        scores: Normalised scores [M, S] by setting.
        curves: Steps [P] and normalised evaluations [M, S, P] by setting.
        scale: What counts as 0 and as 1.
        samplers: The sampler by setting.
        about: What the scale is, for an axis.
    """

    tasks: tuple[str, ...]
    scores: dict[str, np.ndarray]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    scale: Scale
    samplers: dict[str, str]
    about: str = UNTRAINED


class Scored(NamedTuple):
    """What `compare_runs` found.

    Attributes:
        tasks: All tasks.
        settings: All settings with finished runs.
        pooled: What can be pooled over the tasks; None if nothing can.
        notes: What was left out and why, a line each.
    """

    tasks: list[str]
    settings: list[Setting]
    pooled: Pooled | None
    notes: list[str]


def score(run: RunData, sampler: str) -> float:
    """Mean return of the last evaluation under a sampler."""
    return float(seed_curve(run, sampler)[1][-1])


def compare_runs(runs: Sequence[RunData], sampler: str | None = None) -> Scored:
    """Score runs by setting and task, and pool what can be pooled.

    Args:
        runs: The runs.
        sampler: What to score all of them under; by default each setting's headline
            sampler.

    Raises:
        SimpoError: The same run twice, or a run without such evaluations.
    """
    groups = group_runs(runs)
    tasks = list(dict.fromkeys(group.task for group in groups))
    settings, notes = {}, list(legend_notes(groups))
    for group in groups:
        done = [run for run in group.runs if is_finished(run)]
        notes += [f"no score yet: {told(r)}" for r in group.runs if r not in done]
        if done:
            new = Setting(group.label, {}, {})
            setting = settings.setdefault(group.label, new)
            setting.runs[group.task] = done
            setting.samplers[group.task] = sampler or headline(done[0])
    found = list(settings.values())
    return Scored(tasks, found, pool(found, tasks, notes), notes)


def is_finished(run: RunData) -> bool:
    """Whether the last evaluation was at the end of the run."""
    return last_step(run) >= run.config.get("steps", 0)


def last_step(run: RunData) -> float:
    """Step of the last evaluation; 0 if there is none."""
    return float(run.evaluations["step"].max()) if run.evaluations else 0.0


def told(run: RunData) -> str:
    """How far an unfinished run has come."""
    return (
        f"{run.directory} is at {last_step(run):,.0f} of {run.config['steps']:,} steps"
    )


def pool(
    settings: Sequence[Setting], tasks: Sequence[str], notes: list[str]
) -> Pooled | None:
    """Normalised scores of the settings that have every task; notes say of the rest."""
    if twins := versions_of_one_task(tasks):
        notes.append(
            f"nothing is pooled: {' and '.join(twins)} are versions of one task, which "
            "would count twice; compare them apart"
        )
        return None
    refused = {s.label: why_not(s, tasks) for s in settings}
    whole = [s for s in settings if not refused[s.label]]
    notes += gathered("not pooled", refused)
    notes += gathered("fewer seeds pooled", {s.label: cut(s) for s in whole})
    if any(1 < s.seeds < ENOUGH for s in whole):
        notes.append(
            f"bootstrap intervals of fewer than {ENOUGH} seeds are much too narrow: "
            "see docs/statistics.md"
        )
    if not whole:
        return None
    returns = {
        s.label: score_matrix({t: list(s.returns(t)[: s.seeds]) for t in tasks})
        for s in whole
    }
    curves = {s.label: s.curves(tasks) for s in whole}
    untrained = [values[..., 0].mean(axis=1) for _, values in curves.values()]
    scale = Scale.between(np.mean(untrained, axis=0), returns)
    if scale.flat.any():
        notes.append(
            "nothing is pooled: no setting is better than the untrained policies on "
            + ", ".join(np.array(tasks)[scale.flat])
        )
        return None
    return Pooled(
        tuple(tasks),
        {k: scale.normalise(x) for k, x in returns.items()},
        {k: (steps, scale.normalise(x)) for k, (steps, x) in curves.items()},
        scale,
        {s.label: s.sampler for s in whole},
    )


def why_not(setting: Setting, tasks: Sequence[str]) -> str:
    """Why a setting cannot be pooled over the tasks; "" if it can."""
    if missing := [task for task in tasks if task not in setting.runs]:
        return f"no finished run on {', '.join(missing)}"
    if len(set(setting.samplers.values())) > 1:
        return "another sampler on every task"
    if setting.curves(tasks)[0][0] > 0:
        return "no evaluation at step 0"
    return ""


def cut(setting: Setting) -> str:
    """How many seeds are pooled, where tasks have different numbers; "" elsewhere."""
    most = max(len(runs) for runs in setting.runs.values())
    if setting.seeds == most:
        return ""
    return f"the first {setting.seeds} of up to {most}, as many as every task has"


def gathered(what: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """A note per reason, with the settings that it is told of."""
    for reason in dict.fromkeys(filter(None, reasons.values())):
        labels = (label for label, why in reasons.items() if why == reason)
        yield f"{what} ({reason}): {'; '.join(labels)}"
