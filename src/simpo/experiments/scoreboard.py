"""Every statistic of several settings, as a table to read and as scores.csv.

A row of scores.csv is one number: on one task the mean return over seeds, on all tasks
together the aggregates of normalised scores, and the probability that a setting's run
beats one of the next setting's.
"""

import csv
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simpo.experiments.summary import table
from simpo.plotting.aggregates import estimates
from simpo.plotting.curves import mean_interval
from simpo.plotting.scores import Pooled, Scored, Setting
from simpo.plotting.settings import seed_count
from simpo.statistics import (
    AGGREGATES,
    Estimate,
    bootstrap,
    probability_of_improvement,
)

__all__ = ["Row", "board_rows", "board_text", "write_rows"]

T_INTERVAL, BOOTSTRAP, NONE = "t", "stratified bootstrap", "none: one seed"
RETURN, NORMALISED = "return", "normalised return"
BEATS = "probability of improvement"


class Row(NamedTuple):
    """One number.

    Attributes:
        setting: What it is of.
        sampler: The sampler that the runs were evaluated under.
        task: The task; all of them with blanks between if they are pooled.
        seeds: Seeds per task.
        statistic: Which statistic of the last evaluations.
        unit: Of what.
        value: The number.
        low: Lower end of its 95 % interval; empty if there is none.
        high: Upper end.
        interval: Which interval it is.
        against: The other setting of a probability of improvement.
    """

    setting: str
    sampler: str
    task: str
    seeds: int
    statistic: str
    unit: str
    value: float
    low: float | None
    high: float | None
    interval: str
    against: str = ""


def board_rows(scored: Scored, draws: int) -> list[Row]:
    """Every number: of each task, then of all tasks, the best setting first.

    Args:
        scored: The runs.
        draws: Bootstrap resamples.
    """
    rows = [row for setting in scored.settings for row in task_rows(setting)]
    if scored.pooled:
        found = estimates(scored.pooled, draws)
        for label, aggregates in found.items():
            rows += [
                pooled_row(scored.pooled, label, name, estimate)
                for name, estimate in aggregates.items()
            ]
        rows += improvements(scored.pooled, list(found), draws)
    return rows


def task_rows(setting: Setting) -> Iterator[Row]:
    """Mean and standard deviation of a setting's returns, by task."""
    for task, sampler in setting.samplers.items():
        returns = setting.returns(task)
        start = setting.label, sampler, task, len(returns)
        value, low, high = (float(x) for x in mean_interval(returns))
        ends = interval(low, high, T_INTERVAL)
        yield Row(*start, "mean", RETURN, value, *ends)
        if len(returns) > 1:
            spread = float(returns.std(ddof=1))
            yield Row(*start, "standard deviation", RETURN, spread, None, None, "none")


def interval(
    low: float, high: float, kind: str
) -> tuple[float | None, float | None, str]:
    """Ends and kind of an interval, if there is one."""
    return (None, None, NONE) if np.isnan(low) else (low, high, kind)


def pooled_row(
    pooled: Pooled, label: str, name: str, estimate: Estimate, against: str = ""
) -> Row:
    """A number over all tasks."""
    return Row(
        label,
        pooled.samplers[label],
        " ".join(pooled.tasks),
        pooled.scores[label].shape[1],
        name,
        "probability" if against else NORMALISED,
        estimate.value,
        *interval(estimate.low, estimate.high, BOOTSTRAP),
        against,
    )


def improvements(pooled: Pooled, order: Sequence[str], draws: int) -> Iterator[Row]:
    """How likely each setting's run beats one of the next."""
    for label, following in pairwise(order):
        estimate = bootstrap(
            probability_of_improvement,
            pooled.scores[label],
            pooled.scores[following],
            rng=np.random.default_rng(0),
            draws=draws,
        )
        yield pooled_row(pooled, label, BEATS, estimate, following)


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """scores.csv; equal rows give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)


def board_text(scored: Scored, rows: Sequence[Row]) -> str:
    """The tables: returns on each task, statistics over all of them, and notes."""
    parts = [returns_text(scored)]
    if scored.pooled:
        parts.append(pooled_text(scored.pooled, rows))
    if scored.notes:
        parts.append("\n".join(f"note: {note}" for note in scored.notes))
    return "\n\n".join(parts)


def returns_text(scored: Scored) -> str:
    """Mean and standard deviation on each task."""
    title = "Return of the last evaluation, mean ± standard deviation over seeds\n"
    header = ["setting", "sampler", *scored.tasks]
    lines = [
        [s.label, s.sampler, *(returns_cell(s, task) for task in scored.tasks)]
        for s in scored.settings
    ]
    return title + table(header, lines)


def returns_cell(setting: Setting, task: str) -> str:
    """`9,356.2 ± 1.1 (5 seeds)`; nothing without runs."""
    if task not in setting.runs:
        return ""
    returns = setting.returns(task)
    spread = f" ± {returns.std(ddof=1):,.1f}" if len(returns) > 1 else ""
    return f"{returns.mean():,.1f}{spread} ({seed_count(len(returns))})"


def pooled_text(pooled: Pooled, rows: Sequence[Row]) -> str:
    """The aggregates, best setting first, and what counts as 0 and as 1."""
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.unit != RETURN:
            cells.setdefault(row.setting, {})[row.statistic] = str(estimate_of(row))
    names = [*AGGREGATES, BEATS]
    header = ["setting", "sampler", "seeds", *AGGREGATES, "P(beats next)"]
    lines = [
        [k, pooled.samplers[k], str(pooled.scores[k].shape[1])]
        + [found.get(name, "") for name in names]
        for k, found in cells.items()
    ]
    ends = zip(pooled.tasks, *pooled.scale, strict=True)
    scale = "; ".join(
        f"{task} 0 = {zero:,.1f}, 1 = {one:,.1f}" for task, zero, one in ends
    )
    title = (
        f"Normalised return over {', '.join(pooled.tasks)} with 95 % stratified "
        f"bootstrap intervals; 1 seed has none\n({pooled.about}: {scale})\n"
    )
    return title + table(header, lines)


def estimate_of(row: Row) -> Estimate:
    """A row's number with its interval."""
    ends = (np.nan if end is None else end for end in (row.low, row.high))
    return Estimate(row.value, *ends)
