"""Tasks side by side, in processes with a core each that do one after the other.

One that fails, or whose process dies, takes no other with it. One core per task also
makes its numbers independent of how many run at once.
"""

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from simpo.backend import share_memory
from simpo.engines.jobs import Advance, Ended, Task
from simpo.trainer import Stopped
from simpo.types import SimpoError

__all__ = ["cores", "train_all"]


class Worker(NamedTuple):
    """A process with a core, and the task that it is at."""

    job: Task
    core: int
    process: BaseProcess
    pipe: Connection


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def train_all(jobs: Sequence[Task], advance: Advance, at_once: int) -> Iterator[Ended]:
    """Do every task, in order, several at once.

    Args:
        jobs: What to do.
        advance: Told a task's name and how many steps it has made since the last call.
        at_once: Tasks side by side; no more than there are cores.

    Yields:
        Each task as it ends.
    """
    waiting = deque(jobs)
    under_way: dict[Connection, Worker] = {}
    try:
        for core in cores()[: min(at_once, len(jobs))]:
            worker = start(waiting.popleft(), core)
            under_way[worker.pipe] = worker
        while under_way:
            for pipe in connection.wait(list(under_way)):
                worker = under_way[pipe]  # pyright: ignore[reportArgumentType]
                message = receive(worker)
                if isinstance(message, Ended):
                    del under_way[worker.pipe]
                    if worker := proceed(worker, waiting):
                        under_way[worker.pipe] = worker
                    yield message
                else:
                    advance(worker.job.name, message)
    finally:
        end(under_way.values())


def proceed(worker: Worker, waiting: deque[Task]) -> Worker | None:
    """Give a worker its next task, or a new process if its own is gone; None: rest."""
    job = waiting.popleft() if waiting else None
    try:
        worker.pipe.send(job)
    except OSError:
        return start(job, worker.core) if job else None
    if job:
        return worker._replace(job=job)
    worker.process.join()
    return None


def end(workers: Iterable[Worker]) -> None:
    """Let every task save and stop; on a second Ctrl-C just stop."""
    for worker in workers:
        worker.process.terminate()
    try:
        for worker in workers:
            worker.process.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.process.kill()
        raise


def start(job: Task, core: int) -> Worker:
    """Start a process, deaf to Ctrl-C: that is the parent's to handle."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(core, theirs), daemon=True)
    with deaf():
        process.start()
    theirs.close()
    with contextlib.suppress(OSError):  # if it is dead already, that is found out
        ours.send(job)
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
    """Steps made, or how the task ended."""
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        died = f"its process died (exit code {worker.process.exitcode})"
        return Ended(worker.job, None, died)
    if isinstance(message, int):
        return message
    if isinstance(message, Path):
        return Ended(worker.job, message)
    return Ended(worker.job, None, message)


def work(core: int, pipe: Connection) -> None:
    """What a worker's process does, as long as there are tasks."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    share_memory()
    while job := pipe.recv():
        try:
            pipe.send(job.make(pipe.send))
        except Stopped as error:
            return pipe.send(str(error))
        except SimpoError as error:
            pipe.send(str(error))
    return None
