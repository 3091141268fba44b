"""What a page is told: small JSON objects, each about one run, as things change.

begin       forget everything; what is watched, and the time
run         a run and its settings
status      state, step, speed, seconds left
progress    rows of progress.csv
scores      evaluations: step, sampler, mean, low, high, episodes
candidates  values and weights of candidates in some states
videos      names of the videos, the newest first

A line of server-sent events is `event: <kind>` and `data: <JSON>`.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simpo.plotting.rundata import describe, read_table
from simpo.types import SimpoError
from simpo.watching.discovery import expand
from simpo.watching.follow import Changes, Follower, numbers, written

__all__ = ["Event", "Feed", "Shelf", "frame", "videos"]

CANDIDATES = "state", "q", "weight"
ROWS = 500
"""Rows of progress.csv per event, so that a page can draw what it has."""


class Event(NamedTuple):
    """Something a page is told."""

    kind: str
    data: dict[str, Any]


def frame(event: Event) -> bytes:
    """An event as it is sent; JSON has no line ends of its own."""
    text = json.dumps(event.data, allow_nan=False, separators=(",", ":"))
    return f"event: {event.kind}\ndata: {text}\n\n".encode()


class Shelf:
    """Run directories by number; those that appear later are found.

    Args:
        paths: Run directories, or folders that hold some.
        pause: Seconds between two searches.

    Raises:
        SimpoError: A path is not there, or there is no run in it.
    """

    def __init__(self, paths: Sequence[Path], pause: float = 5.0) -> None:
        self.paths, self.pause = paths, pause
        self.directories = expand(paths)
        self.searched, self.lock = time.monotonic(), threading.Lock()

    def search(self) -> list[Path]:
        """All run directories so far; numbers never change."""
        with self.lock:
            if time.monotonic() - self.searched >= self.pause:
                for path in self.paths:
                    self.add(path)
                self.searched = time.monotonic()
            return list(self.directories)

    def add(self, path: Path) -> None:
        """Put new run directories at the end."""
        try:
            found = expand([path])
        except SimpoError:  # it is gone for now
            return
        self.directories += [new for new in found if new not in self.directories]


class Feed:
    """Tells one page about all runs, each change once.

    Args:
        shelf: The runs.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.followers: list[Follower] = []
        self.told: dict[tuple[int, str], Any] = {}

    def poll(self) -> Iterator[Event]:
        """What has changed since the last call."""
        directories = self.shelf.search()
        if not self.told:
            self.told[-1, "begin"] = True
            paths = [str(path) for path in self.shelf.paths]
            yield Event("begin", {"paths": paths, "now": time.time()})
        for directory in directories[len(self.followers) :]:
            self.followers.append(Follower(directory))
        for number, follower in enumerate(self.followers):
            yield from self.about(number, follower)

    def about(self, number: int, follower: Follower) -> Iterator[Event]:
        """What has changed of one run."""
        changes = follower.look()
        yield from self.once("run", number, introduction(follower))
        yield from self.once("status", number, status(follower))
        yield from tables(number, changes)
        path = follower.directory / "candidates.csv"
        if self.changed(number, path):
            yield Event("candidates", {"run": number, **candidates(path)})
        found = videos(follower.directory).items()
        dated = {"names": [(name, written(path)) for name, path in found]}
        yield from self.once("videos", number, dated)

    def once(self, kind: str, number: int, data: dict[str, Any]) -> Iterator[Event]:
        """The event, unless the same was told last."""
        if self.told.get((number, kind)) != data:
            self.told[number, kind] = data
            yield Event(kind, {"run": number, **data})

    def changed(self, number: int, path: Path) -> bool:
        """Whether a file is another one than it was."""
        try:
            status = path.stat()
            version = status.st_ino, status.st_mtime_ns, status.st_size
        except OSError:
            version = None
        before = self.told.get((number, path.name))
        self.told[number, path.name] = version
        return version != before


def introduction(follower: Follower) -> dict[str, Any]:
    """What a run is."""
    config = follower.config
    return {
        "name": follower.name,
        "directory": str(follower.directory),
        "weighting": describe(config.get("agent", {}).get("weighting")),
        "config": config,
    }


def status(follower: Follower) -> dict[str, Any]:
    """How a run stands; `since` is when its last row was written, in seconds."""
    state, _, reason = follower.condition
    return {
        "state": state,
        "reason": reason,
        "step": follower.step,
        "speed": follower.speed,
        "left": follower.left,
        "elapsed": follower.marks[-1].elapsed if follower.marks else None,
        "since": written(follower.timing.path),
    }


def tables(number: int, changes: Changes) -> Iterator[Event]:
    """Rows and scores that were added, and whether those before are void."""
    added, rows = changes.progress, numbers(changes.progress)
    for start in range(0, max(len(rows), added.fresh), ROWS):
        data: dict[str, Any] = {"fresh": added.fresh and start == 0}
        data |= {"columns": added.columns, "rows": rows[start : start + ROWS]}
        yield Event("progress", {"run": number, **data})
    if changes.afresh or changes.scores:
        data = {"fresh": changes.afresh, "rows": changes.scores}
        yield Event("scores", {"run": number, **data})


def candidates(path: Path) -> dict[str, Any]:
    """candidates.csv by columns; empty while it is not there, or damaged."""
    try:
        table = read_table(path, CANDIDATES)
    except SimpoError:
        table = {}
    whole = all(name in table and np.isfinite(table[name]).all() for name in CANDIDATES)
    columns = {name: table[name].tolist() if whole else [] for name in CANDIDATES}
    return {**columns, "since": written(path)}


def videos(directory: Path) -> dict[str, Path]:
    """The regular files `videos/*.mp4` of a run directory by name, newest first."""
    found = []
    for path in (directory / "videos").glob("*.mp4"):
        at = written(path)
        if at is not None and path.is_file() and not path.is_symlink():
            found.append((at, path))
    return {path.name: path for _, path in sorted(found, reverse=True)}
