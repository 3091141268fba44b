"""What a run directory holds, read and checked.

config.json      the run: env, seed, agent, ...
progress.csv     a row per logging interval, see `simpo.loggers`
evaluations.csv  a row per evaluation episode
candidates.csv   a row per candidate action of a few states: state, q, weight
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from simpo.types import SimpoError

__all__ = ["RunData", "Table", "read_run"]

UNDECISIVE = ("seed", "label", "checkpoint_every")
"""Fields of config.json in which runs of one setting may differ."""

Table: TypeAlias = dict[str, np.ndarray]
"""Columns by name, each [rows]; NaN where a cell is empty."""


@dataclass(frozen=True)
class RunData:
    """What a run directory holds.

    Attributes:
        directory: Where it was read.
        config: config.json.
        progress: progress.csv, a row per logging interval; empty if there is none.
        evaluations: evaluations.csv, a row per episode; empty if there is none.
        candidates: candidates.csv, a row per candidate action; empty if there is none.
    """

    directory: Path
    config: dict[str, Any]
    progress: Table
    evaluations: Table
    candidates: Table

    @property
    def env(self) -> str:
        """The task: its id, and the keyword arguments that make it another one."""
        given = self.config.get("env_kwargs") or {}
        text = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return self.config["env"] + (f"({text})" if given else "")

    @property
    def weighting(self) -> str:
        """`Linear(floor=-0.2)`, or nothing for an agent that has no weighting."""
        return describe(self.config["agent"].get("weighting"))

    @property
    def label(self) -> str:
        """The agent, by the name it has in a preset if any, and its weighting."""
        name = self.config.get("label") or self.config["agent"]["type"]
        return f"{name}, {self.weighting}" if self.weighting else name

    @property
    def title(self) -> str:
        """Task, label and seed."""
        return f"{self.env}: {self.label}, seed {self.config['seed']}"

    @cached_property
    def setting(self) -> dict[str, Any]:
        """What decides the result but the seed, flat: `agent.candidates`, ..."""
        flat = dict(flatten(self.config))
        return {name: x for name, x in flat.items() if name not in UNDECISIVE}


def describe(part: Any) -> str:
    """`Linear(floor=-0.2)` from the JSON of a dataclass; "" from anything else."""
    if not isinstance(part, dict) or "type" not in part:
        return ""
    fields = (f"{k}={v}" for k, v in part.items() if k != "type")
    return f"{part['type']}({', '.join(fields)})".removesuffix("()")


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested JSON objects by dotted name."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, json.dumps(value)


def read_run(directory: str | Path) -> RunData:
    """Read a run directory, also one of a run that is still going or that failed.

    Raises:
        SimpoError: It is not a run directory, a file is damaged, or there is nothing
            to plot yet.
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        missing = "no config.json" if directory.is_dir() else "it does not exist"
        raise SimpoError(f"{directory} is not a run directory: {missing}")
    run = RunData(
        directory,
        read_config(directory / "config.json"),
        read_table(directory / "progress.csv", ("step",)),
        read_table(
            directory / "evaluations.csv", ("step", "sampler", "episode", "return")
        ),
        read_table(directory / "candidates.csv", ("state", "q", "weight")),
    )
    for name in ("q", "weight"):
        if run.candidates and not np.isfinite(run.candidates[name]).all():
            raise SimpoError(
                f"{directory / 'candidates.csv'} is damaged: {name} is not finite"
            )
    if not run.progress and not run.evaluations:
        raise SimpoError(
            f"{directory} has nothing to plot yet: "
            "progress.csv and evaluations.csv are empty"
        )
    return run


def read_config(path: Path) -> dict[str, Any]:
    """config.json, checked as far as the pictures use it."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SimpoError(
            f"{path} is damaged: line {error.lineno}: {error.msg}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SimpoError(f"{path} is damaged: {error}") from None
    match config:
        case {"env": str(), "agent": {"type": str()}, "seed": int()}:
            return config
    raise SimpoError(f"{path} is damaged: it must name env, seed and agent.type")


def read_table(path: Path, required: Sequence[str]) -> Table:
    """A CSV file with at least the required columns; `{}` without file or rows."""
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SimpoError(f"{path} is damaged: {error}") from None
    if header and (lost := [name for name in required if name not in header]):
        raise SimpoError(f"{path} is damaged: line 1: no column '{lost[0]}'")
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise SimpoError(
                f"{path} is damaged: line {line}: "
                f"{len(row)} values for {len(header)} columns"
            )
    columns = zip(*rows, strict=True)
    return {n: read_column(path, n, c) for n, c in zip(header, columns, strict=False)}


def read_column(path: Path, name: str, cells: Sequence[str]) -> np.ndarray:
    """Numbers, or text for `sampler`."""
    if name == "sampler":
        return np.asarray(cells)
    values = np.full(len(cells), np.nan)
    for i, text in enumerate(cells):
        try:
            values[i] = float(text) if text else np.nan
        except ValueError:
            raise SimpoError(
                f"{path} is damaged: line {i + 2}: {name} is '{text}', not a number"
            ) from None
    return values
