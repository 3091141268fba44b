"""Run directories: what a run writes, and where.

runs/<env>/<agent>/<stamp>-s<seed>/
  config.json command.txt env.json status.json     what was run, with which versions
  progress.csv timing.csv evaluations.csv tb/      what came out
  candidates.csv policy/ plots/                    latest weights, result; pictures
  tracker.json wandb/                              if tracked: where, what is to be sent
  checkpoints/                                     what `simpo resume` goes on from
"""

import contextlib
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from simpo import snapshots, trackers
from simpo.agents import Agent
from simpo.callbacks import Callback
from simpo.candidates import CandidatesWriter
from simpo.checkpoint import plain, read_json, write_json
from simpo.config import from_json, functions_missing, require_same, to_json
from simpo.directories import alone, describe_machine, make_directory, runs_like
from simpo.evaluation import EpisodeRow
from simpo.loggers import (
    CsvLogger,
    Logger,
    MultiLogger,
    ProgressBar,
    ProgressLogger,
    TensorBoardLogger,
    rewind,
    rounded,
)
from simpo.run import Run
from simpo.trackers import Track
from simpo.trainer import RunFailed, Stopped, StopRequest, Trainer
from simpo.types import SimpoError

__all__ = [
    "Finished",
    "resume",
    "start_or_resume",
    "start_run",
    "train",
]


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    directory: Path
    """The run directory."""
    rows: list[EpisodeRow]
    """The last evaluation, a row per episode."""
    seconds: float
    """Wall time of the whole run, compilation included."""

    @property
    def policy(self) -> Path:
        """The policy folder, for `simpo.load`."""
        return self.directory / "policy"

    def returns(self, sampler: str = "single") -> np.ndarray:
        """Returns of the last evaluation's episodes under one sampler."""
        return np.array([r.return_ for r in self.rows if r.sampler == sampler])

    def speeds(self, sampler: str = "single") -> np.ndarray:
        """Their mean speeds; NaN where the task does not tell them."""
        rows = [r.speed for r in self.rows if r.sampler == sampler]
        return np.array(rows, np.float64)  # None becomes NaN

    def summary(self) -> str:
        """What to look at and what to type next."""
        samplers = dict.fromkeys(r.sampler for r in self.rows)
        told = [
            (name, s, values)
            for s in samplers
            for name, values in (("return", self.returns(s)), ("speed", self.speeds(s)))
            if not np.isnan(values).any()
        ]
        scores = "\n".join(
            f"{name:<8} {rounded(values.mean())} ± {rounded(values.std())} "
            f"({s}, mean ± std of {len(values)} episodes)"
            for name, s, values in told
        )
        return (
            f"{scores}\n"
            f"run      {self.directory}\n"
            f"plot     {self.directory / 'plots' / 'overview.png'}\n"
            f"policy   {self.policy}\n"
            f"took     {self.seconds:.0f} s\n"
            f"next     simpo eval {self.directory}"
        )


def start_run(
    run: Run,
    out: Path,
    *,
    command: Sequence[str] = (),
    bar: ProgressLogger | None = None,
    callbacks: Sequence[Callback] = (),
    track: Track = "no",
    pictures: bool = True,
) -> Finished:
    """Train in a new run directory.

    Args:
        run: What to train.
        out: Parent of run directories.
        command: The command, for the record.
        bar: Where progress is shown; a bar of its own by default.
        callbacks: Told of steps, evaluations and checkpoints.
        track: The service that follows it, wandb or trackio, or no.
        pictures: Whether to draw it in the end; `simpo plot` does so at any time.

    Raises:
        SimpoError: The run is impossible, or failed; what was logged stays.
    """
    run.check()
    trackers.require(track)
    # A task that cannot be used is told before there is a directory.
    run.make_env(1, run.seed).close()
    directory = make_directory(out, run)
    write_json(directory / "config.json", to_json(run))
    write_json(directory / "env.json", describe_machine())
    (directory / "command.txt").write_text(shlex.join(command) + "\n")
    trackers.register(directory, track)
    with (
        alone(directory),
        trackers.tracked(directory, to_json(run), resumed=False) as followers,
        stopped_by_signals() as stop,
    ):
        return carry_out(
            run, directory, None, bar, stop, callbacks, followers, pictures
        )


def resume(
    directory: str | Path,
    *,
    agent: Agent | None = None,
    trust: bool = False,
    bar: ProgressLogger | None = None,
    callbacks: Sequence[Callback] = (),
    pictures: bool = True,
    patience: float = 0.0,
) -> Finished:
    """Go on with a run from its newest undamaged checkpoint, or from the beginning.

    Args:
        directory: The run directory.
        agent: The run's agent, where it holds functions: a file names them and no
            more.
        trust: Read checkpoints that someone else wrote. They hold a pickle: reading
            it can run code.
        bar: Where progress is shown; a bar of its own by default.
        callbacks: Told of steps, evaluations and checkpoints.
        pictures: Whether to draw it in the end.
        patience: Seconds to wait for another process that trains there.

    Raises:
        SimpoError: Not a run directory, a run that is done, or a failed run; a
            checkpoint that someone else wrote; another agent than the run's, or one
            whose functions are missing.
    """
    directory = Path(directory)
    config, status = directory / "config.json", directory / "status.json"
    if not config.is_file():
        raise SimpoError(f"{directory} is not a run directory: no file {config}")
    if status.is_file() and read_json(status).get("state") == "done":
        raise SimpoError(f"{directory} is done: there is nothing to resume")
    run = with_functions(from_json(read_json(config), Run), agent, directory)
    run.check()
    with alone(directory, patience):
        checkpoint = rewound(directory, trust)
        with (
            trackers.tracked(directory, to_json(run), resumed=True) as followers,
            stopped_by_signals() as stop,
        ):
            return carry_out(
                run, directory, checkpoint, bar, stop, callbacks, followers, pictures
            )


def with_functions(run: Run, agent: Agent | None, directory: Path) -> Run:
    """The run with the agent passed from Python, if any; it must lack nothing.

    Raises:
        SimpoError: Another agent, or a function that only Python has.
    """
    if agent is not None:
        require_same(run.agent, agent, directory)
        return replace(run, agent=agent)
    for name, function in functions_missing(run.agent):
        raise SimpoError(
            f"{directory} has a function that was passed from Python, {name} = "
            f"{plain(function)}: go on there, simpo.runs.resume(directory, agent=...)"
        )
    return run


def rewound(directory: Path, trust: bool) -> Path | None:
    """The checkpoint to go on from, if any, with the logs taken back to it."""
    checkpoint = snapshots.newest(directory, trust=trust)
    if not checkpoint and any((directory / snapshots.FOLDER).glob("[0-9]*")):
        raise SimpoError(
            f"all checkpoints in {directory / snapshots.FOLDER} are damaged; remove "
            "that folder to begin anew"
        )
    if checkpoint:
        with snapshots.fitting(checkpoint):
            logs = snapshots.read(checkpoint).numbers["logs"]
        rewind(directory, logs)
    else:
        rewind(directory, dict.fromkeys(CsvLogger.FILES, ([], 0)))
    return checkpoint


def start_or_resume(
    run: Run,
    out: Path,
    *,
    command: Sequence[str] = (),
    bar: ProgressLogger | None = None,
    callbacks: Sequence[Callback] = (),
    track: Track = "no",
    pictures: bool = True,
    patience: float = 0.0,
) -> Finished:
    """Go on with the newest unfinished run of the same settings, or start one.

    One that goes on is tracked as it was begun; `track` is for one that starts.
    """
    states = dict(runs_like(run, out))
    unfinished = [path for path, state in states.items() if state != "done"]
    shared = {"bar": bar, "callbacks": callbacks, "pictures": pictures}
    if unfinished:
        last = unfinished[-1]
        return resume(last, agent=run.agent, patience=patience, **shared)
    return start_run(run, out, command=command, track=track, **shared)


def carry_out(
    run: Run,
    directory: Path,
    checkpoint: Path | None,
    bar: ProgressLogger | None,
    stop: StopRequest,
    callbacks: Sequence[Callback],
    followers: Sequence[Logger],
    pictures: bool,
) -> Finished:
    """Train in a run directory, from a checkpoint or from the beginning.

    Followers are told of everything and left open: to close one may wait for a network,
    which nothing of the run itself should do.
    """
    started, status = time.perf_counter(), directory / "status.json"
    bar = bar or ProgressBar(run.steps)
    tables = CsvLogger(directory)
    own = MultiLogger(tables, TensorBoardLogger(directory / "tb"), bar)
    logger = MultiLogger(own, *followers)
    candidates = CandidatesWriter(directory / "candidates.csv", run.agent.explain)
    callbacks = (candidates, *callbacks)
    trainer = None
    try:
        trainer = Trainer(
            run, directory, logger, bar.phase, tables.positions, stop, callbacks
        )
        if checkpoint:
            with snapshots.fitting(checkpoint):
                trainer.restore(checkpoint)
        write_json(status, {"state": "running", "step": trainer.step})
        rows = trainer.train()
    except BaseException as error:
        note_end(status, error, trainer.step if trainer else 0)
        if isinstance(error, OSError):
            raise RunFailed(
                f"cannot write {Path(error.filename or '').name or 'files'}: "
                f"{error.strerror}; when that is mended: simpo resume {directory}"
            ) from error
        raise
    finally:
        own.close()
    write_json(status, {"state": "done", "step": trainer.step})
    if pictures:
        from simpo.plotting import plot_run  # matplotlib takes a second to load

        plot_run(directory)
    return Finished(directory, rows, time.perf_counter() - started)


def note_end(status: Path, error: BaseException, step: int) -> None:
    """Say in status.json how a run ended, if anything can still be written."""
    state = "stopped" if isinstance(error, Stopped) else "failed"
    reason = str(error) or type(error).__name__
    with contextlib.suppress(OSError):
        write_json(status, {"state": state, "step": step, "reason": reason})


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[StopRequest]:
    """Let the first SIGINT or SIGTERM ask a run to stop; a second one kills it."""
    request = StopRequest()

    def ask(number: int, frame: object) -> None:
        request.made = True
        signal.signal(number, before[signal.Signals(number)])

    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread gets signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.getsignal(n) for n in numbers}
    heard = [n for n in numbers if before[n] is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number in heard:
            signal.signal(number, before[number])


def train(
    agent: Agent,
    env: str,
    *,
    out: str | Path = "runs",
    callbacks: Sequence[Callback] = (),
    track: Track = "no",
    **settings: object,
) -> Finished:
    """Train an agent on a task.

    Args:
        agent: The agent with its hyper-parameters.
        env: Gymnasium id.
        out: Parent of run directories.
        callbacks: Told of steps, evaluations and checkpoints.
        track: The service that follows the run, wandb or trackio, or no.
        **settings: Further fields of `Run`: steps, seed, num_envs, ...

    Returns:
        The run directory, the last evaluation, the policy folder.

    Raises:
        SimpoError: Impossible settings, or a failed run.
    """
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    run = Run(env=env, agent=agent, **settings)  # pyright: ignore[reportArgumentType]
    return start_run(run, Path(out), command=command, callbacks=callbacks, track=track)
