"""Which run directories there are, and how each of them stands.

state      what it means
waiting    the directory has no settings yet
starting   a process holds the directory, and has not begun to train
running    a process holds the directory, and trains
stopped    asked to stop, after saving
failed     ended by a fault, which is told
died       began to train, and no process holds the directory any more
done       trained to the end
gone       the directory is not there any more

A process holds a directory by the lock of `simpo.directories.alone`.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from simpo.types import SimpoError

__all__ = ["Condition", "condition", "expand", "held", "read_object", "settings"]

DEPTH = 5
"""Folders between a path that was given and a run directory."""
GRACE = 15.0
"""Seconds in which a new directory may be held by nobody yet."""


class Condition(NamedTuple):
    """How a run stands: its state, the step that status.json knows, and why."""

    state: str
    step: int
    reason: str = ""


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def settings(directory: Path) -> dict[str, Any]:
    """config.json of a run directory; empty if it is none."""
    match config := read_object(directory / "config.json"):
        case {"env": str(), "agent": {"type": str()}, "seed": int(), "steps": int()}:
            return config
    return {}


def expand(paths: Sequence[Path]) -> list[Path]:
    """Run directories at or below the paths, in order; an empty folder may become one.

    Raises:
        SimpoError: A path is not there, or there is no run in it.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise SimpoError(f"{path} does not exist")
        runs = list(search(path))
        if not runs and not (path.is_dir() and not any(path.iterdir())):
            raise SimpoError(f"{path} is not a run directory, and holds none")
        found |= dict.fromkeys(runs)
    return list(found)


def search(path: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The path itself if it is a run directory, else those below, by name."""
    if settings(path):
        yield path
    elif depth >= 0:
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            folders = [e for e in entries if e.is_dir(follow_symlinks=False)]
            for entry in sorted(folders, key=lambda e: e.name):
                if not entry.name.startswith("."):
                    yield from search(Path(entry.path), depth - 1)


def held(directory: Path) -> bool | None:
    """Whether a process trains in a directory; None where that cannot be told.

    The lock is asked for and, if nobody had it, given back at once.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
        return None
    try:
        number = os.open(directory, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(number)
    return False


def condition(directory: Path) -> Condition:
    """How a run stands now."""
    if not directory.is_dir():
        return Condition("gone", 0)
    status = read_object(directory / "status.json")
    said, step = status.get("state"), status.get("step")
    step = step if isinstance(step, int) else 0
    reason = str(status.get("reason", ""))
    if said == "done":
        return Condition("done", step)
    if alive := held(directory):
        return Condition("running" if said == "running" else "starting", step)
    if said in ("stopped", "failed"):
        return Condition(said, step, reason)
    if alive is None:
        return Condition("running" if said == "running" else "starting", step)
    if said is None and age(directory) < GRACE:
        return Condition("starting" if settings(directory) else "waiting", step)
    reason = f"its process is gone; go on with: simpo resume {directory}"
    return Condition("died", step, reason)


def age(directory: Path) -> float:
    """Seconds since something was made in a directory."""
    try:
        return time.time() - directory.stat().st_mtime
    except OSError:
        return 0.0
