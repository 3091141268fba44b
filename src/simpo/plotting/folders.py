"""Run directories under a folder: `runs/`, `runs/Hopper-v5`, `bench`, ..."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from simpo.plotting.rundata import RunData, read_run
from simpo.types import SimpoError

__all__ = ["Found", "find_runs"]


class Found(NamedTuple):
    """Runs, and what is said about those that were left out.

    Attributes:
        runs: The runs, in the order of the paths.
        notes: A line per reason.
    """

    runs: list[RunData]
    notes: list[str]


def find_runs(paths: Sequence[str | Path]) -> Found:
    """Run directories, and the finished runs in folders of them.

    A run directory that is named is taken as it is. Of the runs in a folder, those that
    are not finished are left out, and those that repeat an earlier one: the same task,
    settings and seed. Which one is kept depends on names, never on scores.

    Raises:
        SimpoError: A path that is no run directory and has no finished run in it, or a
            damaged run.
    """
    places = [Path(path) for path in paths]
    named = {path.resolve() for path in places if is_run(path)}
    runs, notes = [], []
    for path in places:
        inside = [path] if not path.is_dir() or is_run(path) else list(walk(path))
        if inside == [path]:
            runs.append(read_run(path))
            continue
        done = [p for p in inside if state_of(p) == "done"]
        if not done:
            raise SimpoError(nothing_in(path, len(inside)))
        if len(done) < len(inside):
            notes.append(
                f"left out {len(inside) - len(done)} unfinished runs in {path}"
            )
        fresh = [read_run(p) for p in done if p.resolve() not in named]
        kept = [r for i, r in enumerate(fresh) if not repeats(r, [*runs, *fresh[:i]])]
        if len(kept) < len(fresh):
            notes.append(f"left out {len(fresh) - len(kept)} repeated runs in {path}")
        runs += kept
    return Found(runs, notes)


def nothing_in(path: Path, unfinished: int) -> str:
    """Why there is nothing to draw in a folder."""
    if not unfinished:
        return f"{path} is not a run directory: no config.json, and no run in it"
    return f"{path} has no finished run in it ({unfinished} not finished)"


def walk(folder: Path) -> Iterator[Path]:
    """Run directories under a folder, by name; nothing inside them is looked at."""
    for root, folders, _ in os.walk(folder):
        path = Path(root)
        if is_run(path):
            folders.clear()
            yield path
        folders.sort()


def is_run(path: Path) -> bool:
    """Whether a directory is a run's; a study's folder has a config.json as well."""
    config = path / "config.json"
    if not config.is_file():
        return False
    found = loaded(config)
    return not isinstance(found, dict) or found.get("type", "Run") == "Run"


def state_of(path: Path) -> str:
    """What a run's status.json says: done, running, stopped, failed."""
    found = loaded(path / "status.json")
    return str(found.get("state")) if isinstance(found, dict) else ""


def loaded(path: Path) -> Any:
    """JSON; None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def repeats(run: RunData, others: Sequence[RunData]) -> bool:
    """Whether a run has the task, settings and seed of one of the others."""
    return any(identity(run) == identity(other) for other in others)


def identity(run: RunData) -> tuple:
    """What two independent runs differ in."""
    return run.env, run.label, run.setting, run.config["seed"]
