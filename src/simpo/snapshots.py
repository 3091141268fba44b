"""Checkpoints: everything that a run needs to go on as if it had never stopped.

checkpoints/<step>/
  manifest.json        size and SHA-256 of every other file, and the user's mark of
                       that list; written last
  numbers.json         counters, generators, positions of the logs
  arrays.safetensors   the agent's state, metrics not logged yet, a rollout under way
  environments.pickle  the simulators
  replay/<i>.npy       blocks of the replay buffer; unchanged ones are hard links

A folder is written aside, synced to disk and renamed, so it is there whole or not at
all. The last two are kept: if one is damaged, the one before it is used.

Reading a pickle can run code, so only a checkpoint that agrees with its manifest and
that this user wrote, by the manifest's mark (`simpo.marks`), is read without asking.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save

from simpo import marks
from simpo.checkpoint import flatten, plain, read_json, unflatten, write_json
from simpo.types import PyTree, SimpoError, SimpoWarning

__all__ = [
    "FOLDER",
    "Snapshot",
    "filled",
    "fitting",
    "named",
    "newest",
    "part",
    "read",
    "write",
]

FOLDER = "checkpoints"
KEPT = 2
"""Checkpoints that are kept."""
MANIFEST, NUMBERS, ARRAYS = "manifest.json", "numbers.json", "arrays.safetensors"
ENVIRONMENTS, REPLAY = "environments.pickle", "replay"


class Snapshot(NamedTuple):
    """A run at one moment.

    Attributes:
        step: Environment steps made.
        numbers: What JSON can hold.
        arrays: Arrays by name.
        environments: State of the environments; None where it is out of reach.
        replay: Blocks of the replay buffer by number; to be written, those that have
            changed since the last checkpoint.
        blocks: Number of blocks in all.
    """

    step: int
    numbers: dict[str, Any]
    arrays: Mapping[str, np.ndarray]
    environments: bytes | None
    replay: Mapping[int, np.ndarray]
    blocks: int


def write(directory: Path, snapshot: Snapshot, before: Path | None) -> Path:
    """Write a checkpoint of a run, then remove all but the last few.

    Args:
        directory: The run directory.
        snapshot: What to write.
        before: The last checkpoint, which unchanged blocks are taken from.

    Raises:
        SimpoError: The disk is full or cannot be written to; what was there stays.
    """
    parent = directory / FOLDER
    aside, folder = parent / ".tmp", parent / f"{snapshot.step:012d}"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / REPLAY).mkdir(parents=True)
        write_json(aside / NUMBERS, snapshot.numbers)
        (aside / ARRAYS).write_bytes(save(dict(snapshot.arrays)))
        if snapshot.environments is not None:
            (aside / ENVIRONMENTS).write_bytes(snapshot.environments)
        known = write_replay(aside / REPLAY, snapshot, before)
        write_manifest(aside, known)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        sync(parent)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise SimpoError(f"no checkpoint at {folder}: {error.strerror}") from error
    for old in complete(directory)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def write_replay(
    folder: Path, snapshot: Snapshot, before: Path | None
) -> dict[str, dict[str, Any]]:
    """Write changed blocks, link the others; manifest entries of the linked ones."""
    entries = read_json(before / MANIFEST)["files"] if before else {}
    known = {}
    for number in range(snapshot.blocks):
        name = f"{REPLAY}/{number:06d}.npy"
        path = folder / Path(name).name
        if number in snapshot.replay:
            np.save(path, snapshot.replay[number], allow_pickle=False)
        elif before:
            link(before / name, path)
            known[name] = entries[name]
    return known


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_manifest(folder: Path, known: Mapping[str, dict[str, Any]]) -> None:
    """Sync every file and write down its size and hash, those not known yet."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            entries[name] = known.get(name) or describe(path)
            sync(path)
    write_json(folder / MANIFEST, {"files": entries, "mark": mark(entries)})
    sync(folder / REPLAY)
    sync(folder)


def message(entries: Mapping[str, Any]) -> bytes:
    """What a mark is of: the files, whatever the order and the layout in the JSON."""
    return json.dumps(["simpo checkpoint", entries], sort_keys=True).encode()


def mark(entries: Mapping[str, Any]) -> str | None:
    """The user's mark; None, with a warning, where the user's key is out of reach."""
    try:
        return marks.make(message(entries))
    except OSError as error:
        text = (
            f"no key at {error.filename or 'home'}: {error.strerror}; set SIMPO_HOME "
            "to a folder that lasts, or simpo resume will ask for --trust-checkpoint"
        )
        warnings.warn(text, SimpoWarning, stacklevel=2)
        return None


def describe(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def sync(path: Path) -> None:
    """Make sure that a file, or a folder's list of files, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def complete(directory: Path) -> list[Path]:
    """Checkpoints of a run that were written to the end, oldest first."""
    found = (directory / FOLDER).glob("[0-9]*")
    return sorted(path for path in found if path.name.isdecimal() and path.is_dir())


def newest(directory: Path, *, trust: bool = False) -> Path | None:
    """The newest undamaged checkpoint of a run; damaged ones are named in a warning.

    Args:
        directory: The run directory.
        trust: Whether a checkpoint that someone else wrote will do.

    Raises:
        SimpoError: It will not, and someone else wrote it.
    """
    for folder in reversed(complete(directory)):
        try:
            entries = verify(folder)
        except SimpoError as error:
            text = f"{error}; looking at the checkpoint before"
            warnings.warn(text, SimpoWarning, stacklevel=2)
        else:
            if not trust:
                require_ours(folder, entries)
            return folder
    return None


def require_ours(folder: Path, entries: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that has no mark of this user."""
    given = read_json(folder / MANIFEST).get("mark")
    if not marks.is_ours(message(entries), given):
        run = folder.parent.parent
        raise SimpoError(
            f"checkpoint {folder.name} has no mark of this user, and reading it can "
            f"run code; if you trust it: simpo resume {run} --trust-checkpoint"
        )


def verify(folder: Path) -> dict[str, Any]:
    """Compare every file with the manifest, and refuse files that it does not list.

    Returns:
        The manifest's entries.

    Raises:
        SimpoError: The first difference, or a link, which may lead anywhere.
    """
    entries = read_json(folder / MANIFEST).get("files")
    if not isinstance(entries, dict):
        raise SimpoError(f"{folder / MANIFEST} is damaged: it lists no files")
    here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name, path in here.items():
        if path.is_symlink():
            raise SimpoError(f"{folder / plain(name)} is a link")
        if name not in entries and name != MANIFEST and not path.is_dir():
            raise SimpoError(f"{folder / plain(name)} is not listed in {MANIFEST}")
    for name, entry in entries.items():
        path = folder / plain(name)
        if name not in here:
            raise SimpoError(f"{path} is missing")
        if not here[name].is_file() or describe(here[name]) != entry:
            raise SimpoError(f"{path} is damaged: size or SHA-256 differ")
    return entries


@contextlib.contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Turn whatever reading a checkpoint of something else raises into one line."""
    try:
        yield
    except SimpoError:
        raise
    except Exception as error:
        reason = plain(f"{type(error).__name__}: {error}")
        raise SimpoError(
            f"{folder} does not fit this run, or these versions: {reason}"
        ) from error


def read(folder: Path) -> Snapshot:
    """Read a checkpoint that `newest` has found undamaged.

    Raises:
        SimpoError: It is of another format.
    """
    numbers = read_json(folder / NUMBERS)
    if not are_positions(numbers.get("logs", {})):
        raise SimpoError(f"{folder / NUMBERS} is damaged: no positions of tables")
    with fitting(folder):
        arrays = load_file(folder / ARRAYS)
        replay = {
            int(path.stem): np.load(path, allow_pickle=False)
            for path in sorted((folder / REPLAY).glob("*.npy"))
        }
    path = folder / ENVIRONMENTS
    environments = path.read_bytes() if path.is_file() else None
    step, count = int(folder.name), len(replay)
    return Snapshot(step, numbers, arrays, environments, replay, count)


def are_positions(logs: Any) -> bool:
    """Whether these are columns and rows of tables: what follows them is cut off."""
    return isinstance(logs, dict) and all(
        re.fullmatch(r"\w+\.csv", name)
        and isinstance(position, list)
        and [type(part) for part in position] == [list, int]
        for name, position in logs.items()
    )


def named(prefix: str, tree: PyTree) -> dict[str, np.ndarray]:
    """Leaves by path, under a prefix; random keys as the integers that they are."""
    leaves = flatten(jax.tree.map(raw, tree))
    return {f"{prefix}.{name}": leaf for name, leaf in leaves.items()}


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Arrays under a prefix, without it."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}


def filled(tree: PyTree, arrays: dict[str, np.ndarray], where: Path) -> PyTree:
    """A tree like this one, with arrays that `named` gave.

    Raises:
        SimpoError: They are of another tree.
    """
    template = jax.eval_shape(lambda: jax.tree.map(raw, tree))
    leaves = unflatten(template, arrays, where)
    return jax.tree.map(
        lambda old, new: jax.random.wrap_key_data(new) if is_key(old) else new,
        tree,
        leaves,
    )


def raw(leaf: Any) -> Any:
    """An array; random keys as integers."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def is_key(leaf: Any) -> bool:
    """Whether an array holds random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
