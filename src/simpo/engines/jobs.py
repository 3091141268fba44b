"""Jobs: runs to be made, wherever an engine makes them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import jax

from simpo.agents import compile_act, compile_decide, compile_init, compile_updates
from simpo.callbacks import Callback
from simpo.directories import finished, kind_of
from simpo.engines.share import Sender, Share
from simpo.loggers import ProgressLogger
from simpo.run import Run
from simpo.runs import start_or_resume

__all__ = ["Advance", "Ended", "Engine", "Job", "Quiet", "Task", "make"]

Steps: TypeAlias = Callable[[int], None]
"""Told how many steps were made since the last call."""


class Task(Protocol):
    """What a process can be given to do; it is sent there, so it can be pickled."""

    @property
    def name(self) -> str:
        """What it is called in messages and on the progress bar."""
        ...

    def make(self, advance: Steps) -> Path:
        """Do it; where the result is."""
        ...


class Job(NamedTuple):
    """A run to be made.

    Attributes:
        name: What it is called in messages and on the progress bar.
        run: What to train.
        out: Parent of its run directory.
        command: The command, for the record.
        quick: Whether it is a run of seconds: its programs are not optimised, which
            takes longer than it saves, and it is not drawn.
        share: fsspec URL of a folder of runs, for machines without a common one.
    """

    name: str
    run: Run
    out: Path
    command: tuple[str, ...]
    quick: bool = False
    share: str | None = None

    def make(self, advance: Steps) -> Path:
        """Train, or train on, unless that is done; the run directory."""
        return make(self, StepsTold(advance))


class Ended(NamedTuple):
    """How a task ended: with a directory, or for a reason."""

    job: Task
    directory: Path | None
    reason: str = ""


Advance: TypeAlias = Callable[[str, int], None]
"""Told a job's name and how many steps it has made since the last call."""

Engine: TypeAlias = Callable[[Sequence[Job], Advance], Iterator[Ended]]
"""Makes runs, in order, several at once; gives each as it ends."""


class Quiet(ProgressLogger):
    """Says nothing: one line shows all runs."""

    def phase(self, text: str) -> None:
        """Nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def log_episodes(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class StepsTold(Quiet):
    """Tells how many steps were made since it was last told."""

    def __init__(self, advance: Steps) -> None:
        self.advance, self.done = advance, 0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell the steps since the last call."""
        self.advance(step - self.done)
        self.done = step


def make(job: Job, bar: ProgressLogger, patience: float = 0.0) -> Path:
    """Train, or train on, unless that is done; the run directory."""
    senders = [Sender(Share(job.share), job.out)] if job.share else []
    for sender in senders:
        sender.share.fetch(job.out, kind_of(job.run))
    directory = finished(job.run, job.out) or train(job, bar, patience, senders)
    for sender in senders:
        sender.send(directory)
    return directory


def train(
    job: Job, bar: ProgressLogger, patience: float, callbacks: Sequence[Callback]
) -> Path:
    """Begin a run or go on with it; the run directory."""
    jax.config.update("jax_disable_most_optimizations", job.quick)
    try:
        done = start_or_resume(
            *(job.run, job.out),
            command=job.command,
            bar=bar,
            callbacks=callbacks,
            pictures=not job.quick,
            patience=patience,
        )
    finally:
        forget_compiled()
    return done.directory


def forget_compiled() -> None:
    """Give back the memory of compiled programs, which another run seldom needs."""
    for compile_one in (compile_init, compile_updates, compile_act, compile_decide):
        compile_one.cache_clear()
    jax.clear_caches()
