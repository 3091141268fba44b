"""Which runs are seeds of one setting, and what the setting is called.

Runs are pooled as seeds if task and settings are the same; a setting has one name in
all its tasks. Two tasks are two tasks, also Hopper-v4 and Hopper-v5.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from simpo.plotting.rundata import RunData
from simpo.types import SimpoError

__all__ = [
    "Group",
    "group_runs",
    "headline",
    "legend_notes",
    "samplers",
    "seed_count",
    "spoken",
    "versions_of_one_task",
]

TOLD = 3
"""Values told in a setting's name; settings that differ in more are numbered."""


class Group(NamedTuple):
    """Runs of one task that differ in nothing but the seed.

    Attributes:
        task: The task's id.
        label: What the setting is called, in every task.
        runs: By seed.
    """

    task: str
    label: str
    runs: list[RunData]


def group_runs(runs: Sequence[RunData]) -> list[Group]:
    """Runs by task and setting, in the order in which they come.

    Raises:
        SimpoError: Two runs of a group have the same seed, so are no independent runs.
    """
    groups: list[list[RunData]] = []
    for run in runs:
        same = next((g for g in groups if alike(g[0], run)), None)
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
    names = label_settings([g[0] for g in groups])
    return [
        Group(g[0].env, name, sorted(g, key=lambda r: r.config["seed"]))
        for g, name in zip(groups, names, strict=True)
    ]


def alike(one: RunData, other: RunData) -> bool:
    """Whether two runs differ in nothing but the seed."""
    return (one.env, one.label, one.setting) == (other.env, other.label, other.setting)


def label_settings(runs: Sequence[RunData]) -> list[str]:
    """A name for the setting of each of some runs that are no two seeds of one.

    Settings of one agent are told apart by the values that differ between them on some
    task; values that differ between tasks only are a task's own.
    """
    names = []
    for run in runs:
        told = told_apart(run.label, runs)
        values = [run.setting.get(name) for name in told]
        if len(told) > TOLD:
            known = distinct_values(run.label, told, runs)
            names.append(f"{run.label} #{1 + known.index(values)}")
        else:
            pairs = zip(told, values, strict=True)
            extra = (f", {n.split('.')[-1]}={value}" for n, value in pairs)
            names.append(run.label + "".join(extra))
    return names


def told_apart(label: str, runs: Sequence[RunData]) -> list[str]:
    """Names of the values in which the settings of a label differ on some task."""
    told: dict[str, None] = {}
    for task in dict.fromkeys(run.env for run in runs):
        settings = [r.setting for r in runs if (r.env, r.label) == (task, label)]
        names = dict.fromkeys(name for setting in settings for name in setting)
        told |= dict.fromkeys(
            n for n in names if len({setting.get(n) for setting in settings}) > 1
        )
    return list(told)


def distinct_values(
    label: str, told: Sequence[str], runs: Sequence[RunData]
) -> list[list[Any]]:
    """The values of a label's settings, in the order in which they come."""
    known: list[list[Any]] = []
    for run in runs:
        values = [run.setting.get(name) for name in told]
        if run.label == label and values not in known:
            known.append(values)
    return known


def legend_notes(groups: Sequence[Group]) -> Iterator[str]:
    """What numbered settings are."""
    runs = [group.runs[0] for group in groups]
    for group in {group.label: group for group in groups}.values():
        run = group.runs[0]
        if group.label.startswith(f"{run.label} #"):
            told = told_apart(run.label, runs)
            values = (f"{n.split('.', 1)[-1]}={run.setting.get(n)}" for n in told)
            yield f"{group.label}: {', '.join(values)}"


def versions_of_one_task(tasks: Sequence[str]) -> list[str]:
    """Tasks that differ in their version only, as Hopper-v4 and Hopper-v5, or []."""

    def family(task: str) -> str:
        return task.rpartition("-v")[0] or task

    found = [list(same) for _, same in groupby(sorted(tasks, key=family), family)]
    return next((same for same in found if len(same) > 1), [])


Samplers: TypeAlias = Mapping[str, np.ndarray]
"""Rows of evaluations.csv by sampler."""


def samplers(run: RunData) -> Samplers:
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


def headline(run: RunData) -> str:
    """The sampler that a run's scores are told for: the first of its evaluations."""
    return next(iter(samplers(run)), "")


def spoken(sampler: str) -> str:
    """A sampler's name in a legend."""
    return sampler.replace("single", "single sample").replace("best-of-", "best of ")


def seed_count(*counts: int) -> str:
    """`5 seeds`, `1 or 5 seeds`."""
    return f"{' or '.join(map(str, counts))} seed{'s' * (max(counts) != 1)}"
