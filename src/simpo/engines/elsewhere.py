"""Runs made by other programs' processes, which tell of them by their directories."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from simpo.backend import keep_compiled
from simpo.directories import runs_like
from simpo.engines.jobs import Advance, Ended, Job, Quiet, make
from simpo.types import SimpoError
from simpo.watching.follow import Follower

__all__ = ["Cluster", "follow", "make_elsewhere"]

PAUSE = 2.0
"""Seconds between looks at the runs."""
PATIENCE = 60.0
"""Seconds until a process that lost its node, and still holds a run, is gone."""


class Cluster(Protocol):
    """Where jobs go; what it calls them is its own."""

    def submit(self, job: Job) -> Any:
        """Have a job made by `make_elsewhere`, again where it is lost."""
        ...

    def wait(self, under_way: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Those that have ended, after some seconds at most."""
        ...

    def result(self, which: Any) -> Path | str:
        """What `make_elsewhere` returned, or why it did not."""
        ...

    def cancel(self, under_way: Sequence[Any]) -> None:
        """Have these stop; they go on from their checkpoints another time."""
        ...


def follow(
    jobs: Sequence[Job], advance: Advance, at_once: int | None, cluster: Cluster
) -> Iterator[Ended]:
    """Have every run made, in order, at most so many at once; each as it ends."""
    waiting = deque(job._replace(out=job.out.resolve()) for job in jobs)
    under_way: dict[Any, Job] = {}
    progress = Progress(advance)
    try:
        while waiting or under_way:
            while waiting and len(under_way) < (at_once or len(jobs)):
                job = waiting.popleft()
                under_way[cluster.submit(job)] = job
            ended = cluster.wait(list(under_way), PAUSE)
            for job in under_way.values():
                progress.look(job)
            for which in ended:
                job, result = under_way.pop(which), cluster.result(which)
                if isinstance(result, Path):
                    yield Ended(job, result)
                else:
                    yield Ended(job, None, result)
    finally:
        cluster.cancel(list(under_way))


class Progress:
    """Steps that runs elsewhere have made, read off their directories.

    Args:
        advance: Who is told.
    """

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.told: dict[str, int] = {}
        self.followers: dict[Path, Follower] = {}

    def look(self, job: Job) -> None:
        """Tell of the steps since the last look."""
        for path, _ in list(runs_like(job.run, job.out))[-1:]:
            follower = self.followers.setdefault(path, Follower(path))
            follower.look()
            self.tell(job, int(follower.step))

    def tell(self, job: Job, step: int) -> None:
        """Tell of the steps up to this one; a run taken back tells none twice."""
        if (new := step - self.told.get(job.name, 0)) > 0:
            self.told[job.name] = step
            self.advance(job.name, new)


def make_elsewhere(job: Job) -> Path | str:
    """Make a run in this process; its directory, or what went wrong.

    In one thread, which gives the numbers that a local process with its core gives.
    """
    os.environ["NPROC"] = "1"  # read by XLA when it starts
    keep_compiled()
    try:
        return make(job, Quiet(), PATIENCE)
    except SimpoError as error:
        return str(error)
