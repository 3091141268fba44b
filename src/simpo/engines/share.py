"""Run directories at an fsspec URL, for machines without a common file system.

<url>/<env>/<agent>/<stamp>-s<seed>/     what is in the folder of runs, run by run

A worker fetches the runs that are further there than here, begins or goes on, and sends
what has changed with every checkpoint and in the end. Transport is fsspec's: s3://,
gs://, sftp://, file://, ... whatever it has a file system for.
"""

import contextlib
import importlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from simpo import snapshots
from simpo.callbacks import Callback
from simpo.types import SimpoError

if TYPE_CHECKING:
    from simpo.trainer import Trainer

__all__ = ["Sender", "Share"]

STATUS, MANIFEST = "status.json", "manifest.json"
States: TypeAlias = dict[PurePosixPath, tuple[int, int]]
"""Files by name, with the time of their last change and their size."""
OF_ANOTHER = (-1, -1)
"""The state of files that another process sent: as good as changed."""


class Progress(NamedTuple):
    """How far a run is; the greater is further.

    Attributes:
        done: Whether nothing is left to do.
        step: Of the newest checkpoint; -1 without one, or if it is done.
    """

    done: bool
    step: int

    @classmethod
    def of(cls, files: Iterable[PurePosixPath], status: bytes | None) -> "Progress":
        """Read off the names of a run's files and its status.json."""
        if b'"done"' in (status or b""):
            return cls(True, -1)
        saved = (f.parts[1] for f in files if f.match(f"{snapshots.FOLDER}/*/*"))
        return cls(False, max((int(t) for t in saved if t.isdigit()), default=-1))


class Share:
    """Runs at a URL.

    Args:
        url: Folder of runs, as fsspec names it.

    Raises:
        SimpoError: fsspec, or what it needs for the URL, is not installed; no such
            kind of URL; it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            fsspec = importlib.import_module("fsspec")
        except ImportError as error:
            raise SimpoError(
                "fsspec is not installed: pip install 'simpo[share]'"
            ) from error
        with self.reached():
            self.files, self.root = fsspec.core.url_to_fs(url)
            self.files.makedirs(self.root, exist_ok=True)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Say in one line what kept the URL from being read or written.

        Raises:
            SimpoError: Something did; every file system has errors of its own.
        """
        try:
            yield
        except SimpoError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise SimpoError(f"cannot use {self.url}: {lines[0]}") from error

    def fetch(self, out: Path, below: str = "") -> None:
        """Bring the runs that are further there than here.

        Args:
            out: Folder of runs.
            below: `<env>/<agent>`, for those runs alone.
        """
        with self.reached():
            for name, files in self.runs(below).items():
                there = self.progress(name, files)
                if there > progress_here(out / name):
                    self.replace(out / name, name, files, there.done)

    def runs(self, below: str) -> Mapping[str, list[PurePosixPath]]:
        """Names of files by run, both relative."""
        found: dict[str, list[PurePosixPath]] = {}
        self.files.invalidate_cache()
        for path in self.files.find(f"{self.root}/{below}".rstrip("/")):
            parts = PurePosixPath(path).relative_to(self.root).parts
            name = PurePosixPath(*parts[3:])
            if name.parts:
                found.setdefault("/".join(parts[:3]), []).append(name)
        return found

    def progress(self, name: str, files: list[PurePosixPath]) -> Progress:
        """How far a run is there."""
        known = PurePosixPath(STATUS) in files
        status = self.files.cat_file(f"{self.root}/{name}/{STATUS}") if known else None
        return Progress.of(files, status)

    def replace(
        self, directory: Path, name: str, files: list[PurePosixPath], done: bool
    ) -> None:
        """Bring a run aside, then put it in its place; without checkpoints if done."""
        aside = directory.with_name(f".{directory.name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        for file in files:
            if done and file.parts[0] == snapshots.FOLDER:
                continue
            (aside / file).parent.mkdir(parents=True, exist_ok=True)
            self.files.get_file(f"{self.root}/{name}/{file}", str(aside / file))
        shutil.rmtree(directory, ignore_errors=True)
        aside.rename(directory)

    def send(self, directory: Path, name: str, sent: States) -> None:
        """Bring there what has changed here, and take away what is gone here.

        Args:
            directory: The run directory.
            name: `<env>/<agent>/<stamp>-s<seed>`.
            sent: Files as they were when they were sent; updated.
        """
        base = f"{self.root}/{name}"
        here = states(directory)
        changed = [file for file, state in here.items() if sent.get(file) != state]
        with self.reached():
            for file in sorted(changed, key=lateness):
                self.files.makedirs(f"{base}/{file.parent}", exist_ok=True)
                self.files.put_file(str(directory / file), f"{base}/{file}")
                sent[file] = here[file]
            for part in {f.parts[:2] for f in sent if f not in here}:
                if not directory.joinpath(*part).exists():
                    self.files.rm("/".join((base, *part)), recursive=True)
        for file in sent.keys() - here.keys():
            del sent[file]


class Sender(Callback):
    """Sends a run's directory with every checkpoint.

    Args:
        share: Where to.
        out: Folder of runs.
    """

    def __init__(self, share: Share, out: Path) -> None:
        self.share, self.out = share, out
        self.sent: States = {}

    def on_checkpoint(self, trainer: "Trainer", folder: Path) -> None:
        """Send what has changed since the last one."""
        self.send(trainer.directory)

    def send(self, directory: Path) -> None:
        """Send what has changed since the last call; nothing if that is all there."""
        name = directory.relative_to(self.out).as_posix()
        if not self.sent:
            with self.share.reached():
                files = self.share.runs(name).get(name, [])
                there = self.share.progress(name, files)
            if there >= progress_here(directory):
                return
            self.sent = dict.fromkeys(files, OF_ANOTHER)
        self.share.send(directory, name, self.sent)


def progress_here(directory: Path) -> Progress:
    """How far a run is on this machine; one that was never begun is behind all."""
    if not directory.is_dir():
        return Progress(False, -2)
    status = directory / STATUS
    found = status.read_bytes() if status.is_file() else None
    return Progress.of(states(directory), found)


def states(directory: Path) -> States:
    """A run's files."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_file():
            stat = path.stat()
            name = PurePosixPath(path.relative_to(directory).as_posix())
            found[name] = (stat.st_mtime_ns, stat.st_size)
    return found


def lateness(file: PurePosixPath) -> tuple[bool, bool, bool]:
    """Where a file comes when a run is sent.

    Logs before the checkpoint that points into them, its list of files after these, and
    last whether the run is done.
    """
    in_checkpoint = file.parts[0] == snapshots.FOLDER
    return file.name == STATUS, file.name == MANIFEST, in_checkpoint
