"""`--resume`: going on with what was stopped, to the same numbers.

OUT/state.safetensors   arrays of the loop and its curve; as text, what it was begun
                        with: its options, and what the files that it reads hold

The file is replaced by one rename, every minute and at the end: whenever a process is
killed, a whole one is there.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from simpo.checkpoint import plain
from simpo.experiments.sequences.inputs import STATE, require_free, writing, written
from simpo.snapshots import describe, filled, named, part
from simpo.types import PyTree, SimpoError

__all__ = ["Keeper", "restored"]

SAVE_EVERY = 60.0
"""Seconds between saves."""


class Keeper:
    """Keeps the state of a command's loop, and finds that of an earlier one.

    Args:
        options: Of the command; `out`, `force` and `resume` are among them.
        length: Name of the option that another number may be given for: how long.
        reads: Files that the loop depends on.

    Raises:
        SimpoError: Something is at `out` already, and is not to be gone on with.
    """

    def __init__(self, options: Any, length: str, *reads: Path) -> None:
        self.options, self.length = options, length
        self.out: Path = options.out
        if options.resume and options.force:
            raise SimpoError("--resume goes on, --force begins anew: give one of them")
        if not options.resume:
            require_free(options.out, options.force)
        elif not (self.out / STATE).is_file():
            raise SimpoError(f"nothing to go on with: no file {self.out / STATE}")
        free = {length, "out", "force", "resume"}
        given = {k: v for k, v in written(options).items() if k not in free}
        files = {str(path): describe(path) for path in reads if path.is_file()}
        self.begun = json.loads(json.dumps({**given, "files": files}))
        self.saved, self.ours = time.monotonic(), options.resume

    def find(self) -> dict[str, np.ndarray]:
        """Arrays of the command to go on with; none if it is a new one.

        Raises:
            SimpoError: They are damaged, or of other options or files.
        """
        if not self.options.resume:
            return {}
        path = self.out / STATE
        try:
            with safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                begun = json.loads((file.metadata() or {})["begun"])
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise SimpoError(f"{path} is damaged: {plain(error)}") from error
        for name in sorted({*begun, *self.begun}):
            before, now = begun.get(name), self.begun.get(name)
            if before != now and name == "files":
                odd = next(n for n in {*before, *now} if before.get(n) != now.get(n))
                raise SimpoError(f"{odd} is not what {self.out} was begun with")
            if before != now:
                flag = name.replace("_", "-")
                raise SimpoError(
                    f"{self.out} was begun with --{flag} {before}, not {now}"
                )
        return arrays

    def require_more(self, done: int, what: str) -> None:
        """Refuse to make less than is done.

        Raises:
            SimpoError: It is so.
        """
        if done > (wanted := getattr(self.options, self.length)):
            raise SimpoError(
                f"{self.out} has {done} {what} already: --{self.length} {wanted} is "
                "fewer"
            )

    @property
    def due(self) -> bool:
        """Whether the last save is long ago."""
        return time.monotonic() - self.saved > SAVE_EVERY

    def save(self, loop: PyTree, told: PyTree, folder: Path | None = None) -> None:
        """Write the state of the loop, and what it told; in `out`, or a folder.

        What `--force` replaces goes with the first state: another run's model beside
        it would pass for this one's.
        """
        arrays = {**named("loop", loop), **named("told", told)}
        data = save(arrays, metadata={"begun": json.dumps(self.begun)})
        if folder or self.ours:
            write(folder or self.out, data)
        else:
            with writing(self.out) as home:
                write(home, data)
        self.ours = self.ours or not folder
        self.saved = time.monotonic()


def write(folder: Path, data: bytes) -> None:
    """Write the state aside, sync, rename."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{STATE}.tmp"
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / STATE)


def restored(
    loop: PyTree, arrays: Mapping[str, np.ndarray], where: Path
) -> tuple[PyTree, dict[str, np.ndarray]]:
    """The state of a loop from the arrays that were kept, and what it had told.

    Args:
        loop: As it begins, for the structure.
        arrays: From `Keeper.find`.
        where: Folder, for messages.

    Raises:
        SimpoError: They do not fit.
    """
    found = filled(loop, part(arrays, "loop"), where / STATE)
    return found, part(arrays, "told")
