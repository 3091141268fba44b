"""A run's numbers in a tracking service: Weights & Biases or trackio, both extras.

Curves have TensorBoard's names, the run that of its directory. `tracker.json` there
says which run of the service it is, so that a resumed run goes on in the same one:

  {"service": "wandb", "project": "simpo", "id": "6f3c..."}

A service that fails is left out with a warning: no training run ends by it.
"""

import contextlib
import importlib
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from simpo.checkpoint import plain, read_json, write_json
from simpo.curves import EpisodeFields, curves, evaluation_curves
from simpo.loggers import Logger
from simpo.types import SimpoError, SimpoWarning

__all__ = ["Session", "Track", "Tracker", "register", "require", "tracked"]

Track: TypeAlias = Literal["no", "wandb", "trackio"]
FILE = "tracker.json"
STEP = "env_step"
"""W&B's x-axis. Its own step counts calls, so that none is dropped as out of order."""


class Session(NamedTuple):
    """A run of a service: how to send points and how to finish, with an exit code."""

    log: Callable[[int, Mapping[str, float]], object]
    finish: Callable[[int], object]


class Tracker(Logger):
    """Sends everything to a service until that fails; then warns, once, and is silent.

    Args:
        service: What it is called.
        session: The run there.
    """

    def __init__(self, service: str, session: Session) -> None:
        self.service, self.exit_code = service, 0
        self.session: Session | None = session

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each metric's curve."""
        self.attempt(lambda session: session.log(step, curves(metrics)))

    def log_episodes(self, step: int, rows: Sequence[EpisodeFields]) -> None:
        """Add the mean return and length of each sampler."""
        self.attempt(lambda session: session.log(step, evaluation_curves(rows)))

    def close(self) -> None:
        """Send what is pending; this may wait for the network."""
        self.attempt(lambda session: session.finish(self.exit_code))
        self.session = None

    def attempt(self, action: Callable[[Session], object]) -> None:
        """Do this; if it fails, in whatever way, it was the last thing."""
        try:
            if self.session:
                action(self.session)
        except Exception as error:
            self.session = None
            warn(f"{self.service} failed, the run goes on without it: {reason(error)}")


def warn(text: str) -> None:
    """One line for the user."""
    warnings.warn(text, SimpoWarning, stacklevel=2)


def reason(error: Exception) -> str:
    """A service's message in one line."""
    return plain(str(error).strip()).rstrip(".") or type(error).__name__


def begin_wandb(directory: Path, project: str, name: str, config: Any) -> Session:
    """A run of Weights & Biases, with its files in the run directory."""
    wandb = importlib.import_module("wandb")
    run = wandb.init(
        project=project,
        id=name,
        name=directory.name,
        dir=directory,
        config=config,
        resume="allow",
        reinit="create_new",  # one that the caller has begun is not ours
        settings=wandb.Settings(console="off"),  # the progress bar is no log
    )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    return Session(
        lambda step, points: run.log({STEP: step, **points}),
        lambda exit_code: run.finish(exit_code=exit_code),
    )


def begin_trackio(directory: Path, project: str, name: str, config: Any) -> Session:
    """A run of trackio, which it keeps in its own database."""
    trackio = importlib.import_module("trackio")
    with contextlib.redirect_stdout(sys.stderr):
        run = trackio.init(
            project, directory.name, config=config, resume="allow", embed=False
        )
    run.id = name  # it has looked for the name, and two directories may share that

    def finish(exit_code: int) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            trackio.finish()

    return Session(lambda step, points: run.log(dict(points), step=step), finish)


BEGIN = {"wandb": begin_wandb, "trackio": begin_trackio}
"""Services by name, which is also that of the library and of the extra."""


def require(track: str) -> None:
    """Refuse services that there are not.

    Raises:
        SimpoError: No such service, or its library is missing.
    """
    if track not in ("no", *BEGIN):
        raise SimpoError(f"track must be one of no, {', '.join(BEGIN)}, not {track!r}")
    if track in BEGIN and not find_spec(track):
        raise SimpoError(f"{track} is missing: pip install 'simpo[{track}]'")


def register(directory: Path, track: str) -> None:
    """Write down which run of a service this one is going to be, if any."""
    if track in BEGIN:
        project = os.environ.get(f"{track.upper()}_PROJECT") or "simpo"
        write_json(
            directory / FILE,
            {"service": track, "project": project, "id": secrets.token_hex(8)},
        )


def begin(directory: Path, config: Any) -> Tracker:
    """Begin, or go on with, the run of a service that `tracker.json` names.

    Raises:
        SimpoError: The service does not begin, or the file is damaged.
    """
    match read_json(directory / FILE):
        case {"service": str(track), "project": str(project), "id": str(name)} if (
            track in BEGIN
        ):
            require(track)
        case _:
            raise SimpoError(f"{directory / FILE} is damaged: it names no run")
    try:
        return Tracker(track, BEGIN[track](directory, project, name, config))
    except Exception as error:
        raise SimpoError(f"{track} does not begin: {reason(error)}") from error


@contextlib.contextmanager
def tracked(directory: Path, config: Any, *, resumed: bool) -> Iterator[list[Tracker]]:
    """The tracker of a run, if it is tracked; finished as the run ends.

    Args:
        directory: The run directory.
        config: What was run, as JSON.
        resumed: Whether the run goes on rather than begins: then it does so untracked,
            with a warning, if the service does not begin.

    Raises:
        SimpoError: The service does not begin, and the run has not either.
    """
    trackers = []
    try:
        if (directory / FILE).exists():
            trackers.append(begin(directory, config))
    except SimpoError as error:
        if not resumed:
            raise SimpoError(
                f"{error}; when that is mended: simpo resume {directory}"
            ) from error
        warn(f"{error}; the run goes on untracked")
    try:
        yield trackers
    except BaseException as error:
        for tracker in trackers:
            tracker.exit_code = getattr(error, "exit_code", 1)
        raise
    finally:
        for tracker in trackers:
            tracker.close()
