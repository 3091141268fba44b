"""Checkpoints: everything that a run needs to go on as if it had never stopped.

checkpoints/<step>/
  manifest.json        size and SHA-256 of every other file; written last
  numbers.json         counters, generators, positions of the logs
  arrays.safetensors   the agent's state, metrics not logged yet, a rollout under way
  environments.pickle  the simulators (read only where the manifest agrees)
  replay/<i>.npy       blocks of the replay buffer; unchanged ones are hard links

A folder is written aside, synced to disk and renamed, so it is there whole or not at
all. The last two are kept: if one is damaged, the one before it is used.
"""

import hashlib
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from simpo.checkpoint import flatten, read_json, unflatten, write_json
from simpo.types import PyTree, SimpoError, SimpoWarning

__all__ = [
    "FOLDER",
    "Snapshot",
    "filled",
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
    write_json(folder / MANIFEST, {"files": entries})
    sync(folder / REPLAY)
    sync(folder)


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
    return sorted(path for path in (directory / FOLDER).glob("[0-9]*") if path.is_dir())


def newest(directory: Path) -> Path | None:
    """The newest undamaged checkpoint of a run; damaged ones are named in a warning."""
    for folder in reversed(complete(directory)):
        try:
            verify(folder)
        except SimpoError as error:
            text = f"{error}; looking at the checkpoint before"
            warnings.warn(text, SimpoWarning, stacklevel=2)
        else:
            return folder
    return None


def verify(folder: Path) -> None:
    """Compare every file with the manifest, and refuse files that it does not list.

    Raises:
        SimpoError: The first difference.
    """
    files = read_json(folder / MANIFEST).get("files")
    if not isinstance(files, dict):
        raise SimpoError(f"{folder / MANIFEST} is damaged: it lists no files")
    for name, entry in files.items():
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise SimpoError(f"{folder / MANIFEST} is damaged: {name} is outside of it")
        if not path.is_file():
            raise SimpoError(f"{path} is missing")
        if describe(path) != entry:
            raise SimpoError(f"{path} is damaged: size or SHA-256 differ")
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in files and name != MANIFEST:
            raise SimpoError(f"{path} is not listed in {MANIFEST}")


def read(folder: Path) -> Snapshot:
    """Read a checkpoint that `newest` has found undamaged.

    Raises:
        SimpoError: It is of another format.
    """
    numbers = read_json(folder / NUMBERS)
    try:
        arrays = load_file(folder / ARRAYS)
        replay = {
            int(path.stem): np.load(path, allow_pickle=False)
            for path in sorted((folder / REPLAY).glob("*.npy"))
        }
    except (SafetensorError, OSError, ValueError) as error:
        raise SimpoError(f"{folder} is damaged: {error}") from error
    path = folder / ENVIRONMENTS
    environments = path.read_bytes() if path.is_file() else None
    step, count = int(folder.name), len(replay)
    return Snapshot(step, numbers, arrays, environments, replay, count)


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
