"""Runs side by side, each in a process of its own with a core to itself.

A run that fails, or whose process dies, takes no other with it. One core per run also
makes its numbers independent of how many run at once.
"""

import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from simpo.loggers import ProgressLogger
from simpo.run import Run
from simpo.runs import start_or_resume
from simpo.types import SimpoError

__all__ = ["Ended", "Job", "cores", "train_all"]


class Job(NamedTuple):
    """A run to be made.

    Attributes:
        name: What it is called in messages and on the progress bar.
        run: What to train.
        out: Parent of its run directory.
        command: The command, for the record.
    """

    name: str
    run: Run
    out: Path
    command: tuple[str, ...]


class Ended(NamedTuple):
    """How a job ended: with a run directory, or for a reason."""

    job: Job
    directory: Path | None
    reason: str = ""


class Worker(NamedTuple):
    """A job under way, on a core."""

    job: Job
    core: int
    process: BaseProcess
    pipe: Connection


class StepsSent(ProgressLogger):
    """Tells the parent process how many steps were made since it was last told."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.done = pipe, 0

    def phase(self, text: str) -> None:
        """Nothing: one line shows all runs."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the steps since the last call."""
        self.pipe.send(step - self.done)
        self.done = step

    def log_episodes(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def train_all(
    jobs: Sequence[Job], at_once: int, advance: Callable[[str, int], None]
) -> Iterator[Ended]:
    """Make every run, in order, several at once.

    Args:
        jobs: What to train.
        at_once: Runs side by side; no more than there are cores.
        advance: Told a job's name and how many steps it has made since the last call.

    Yields:
        Each job as it ends.
    """
    waiting, free = deque(jobs), deque(cores()[:at_once])
    under_way: dict[Connection, Worker] = {}
    try:
        while waiting or under_way:
            while waiting and free:
                worker = start(waiting.popleft(), free.popleft())
                under_way[worker.pipe] = worker
            for pipe in connection.wait(list(under_way)):
                worker = under_way[pipe]  # pyright: ignore[reportArgumentType]
                message = receive(worker)
                if isinstance(message, Ended):
                    del under_way[worker.pipe]
                    free.append(worker.core)
                    yield message
                else:
                    advance(worker.job.name, message)
    finally:
        end(under_way.values())


def end(workers: Iterable[Worker]) -> None:
    """Let every run save and stop; on a second Ctrl-C just stop."""
    for worker in workers:
        worker.process.terminate()
    try:
        for worker in workers:
            worker.process.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.process.kill()
        raise


def start(job: Job, core: int) -> Worker:
    """Start a process, deaf to Ctrl-C: that is the parent's to handle."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(job, core, theirs), daemon=True)
    with deaf():
        process.start()
    theirs.close()
    return Worker(job, core, process, ours)


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Ignore Ctrl-C for a moment; processes started in it ignore it for good."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def receive(worker: Worker) -> "int | Ended":
    """Steps made, or how the job ended."""
    try:
        message = worker.pipe.recv()
    except EOFError:
        message = ""
    if isinstance(message, int):
        return message
    worker.process.join()
    if isinstance(message, Path):
        return Ended(worker.job, message)
    died = f"its process died (exit code {worker.process.exitcode})"
    return Ended(worker.job, None, message or died)


def work(job: Job, core: int, pipe: Connection) -> None:
    """What a worker's process does: train, or train on, then send the directory."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        bar = StepsSent(pipe)
        done = start_or_resume(job.run, job.out, command=job.command, bar=bar)
        pipe.send(done.directory)
    except SimpoError as error:
        pipe.send(str(error))
