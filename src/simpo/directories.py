"""Run directories: their names, who trains in one, which are of the same settings."""

import contextlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import jax

from simpo.checkpoint import read_json
from simpo.config import from_json, to_json
from simpo.run import Run
from simpo.types import SimpoError

__all__ = [
    "alone",
    "describe_machine",
    "finished",
    "kind_of",
    "make_directory",
    "parent_of",
    "runs_like",
]

PACKAGES = ("simpo", "jax", "jaxlib", "equinox", "optax", "gymnasium", "mujoco")


CPUINFO = Path("/proc/cpuinfo")
"""Where Linux tells what the processors are."""


def kind_of(run: Run) -> str:
    """`<env>/<agent>`: the folder of such runs."""
    return f"{run.env.replace('/', '_')}/{run.label or type(run.agent).__name__}"


def parent_of(out: Path, run: Run) -> Path:
    """Where directories of such runs are: named after the task and the agent."""
    return out / kind_of(run)


def make_directory(out: Path, run: Run) -> Path:
    """A new run directory, named after the time and the seed."""
    name = f"{datetime.now():%Y%m%d-%H%M%S}-s{run.seed}"
    parent = parent_of(out, run)
    for suffix in ["", *(f"-{i}" for i in range(2, 1000))]:
        directory = parent / (name + suffix)
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise SimpoError(f"cannot make {directory}: {error.strerror}") from error
        return directory
    raise SimpoError(f"too many runs in {parent} in one second")


def describe_machine() -> dict[str, object]:
    """Versions and devices that a result depends on."""
    versions = {}
    for package in PACKAGES:
        versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "devices": [str(d) for d in jax.devices()],
        "packages": versions,
    }


def processor() -> str:
    """The processor's model, as far as the system tells."""
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def runs_like(run: Run, out: Path) -> Iterator[tuple[Path, str]]:
    """Directories of runs with the same settings, oldest first, and their state."""
    for status in sorted(parent_of(out, run).glob("*/status.json")):
        with contextlib.suppress(SimpoError):  # one of another version is another run
            other = from_json(read_json(status.parent / "config.json"), Run)
            if to_json(other) == to_json(run):  # functions have nothing but names
                yield status.parent, str(read_json(status).get("state"))


def finished(run: Run, out: Path) -> Path | None:
    """A run directory that is done with the very same settings."""
    return next((path for path, state in runs_like(run, out) if state == "done"), None)


@contextlib.contextmanager
def alone(directory: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep two processes from training in one directory.

    Args:
        directory: The run directory.
        patience: Seconds to wait for another one to end.

    Raises:
        SimpoError: Another one does.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
        yield
        return
    number = os.open(directory, os.O_RDONLY)
    try:
        # Who only looks whether it is taken has it briefly.
        until = time.monotonic() + max(patience, 0.2)
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise SimpoError(
                        f"{directory} is trained by another process"
                    ) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(number)
