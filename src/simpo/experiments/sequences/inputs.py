"""What the steps read: sequences, families, models; and where they write."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.checkpoint import CONFIG, MODEL
from simpo.dilated import DilatedDenoiser
from simpo.dna.clusters import cluster
from simpo.dna.data import Sequences
from simpo.dna.store import SequenceModel, load_model
from simpo.types import SimpoError

__all__ = [
    "STATE",
    "Progress",
    "Unlabelled",
    "clusters_of",
    "find_model",
    "require_free",
    "weights_of",
    "window",
    "writing",
    "written",
]

STATE = "state.safetensors"
"""What a command that was stopped goes on from."""

Progress: TypeAlias = Callable[[str, float], None]
"""Told what is being done, and how much is done."""


def require_free(out: Path, force: bool) -> None:
    """Refuse to replace what is there, unless asked to, before any work is done.

    Raises:
        SimpoError: Something is there, or the place cannot be written to.
    """
    stopped = (out / STATE).is_file()
    ours = stopped or not out.is_dir() or (out / CONFIG).is_file()
    if out.is_dir() and not any(out.iterdir()):
        pass
    elif out.exists() and not force:
        hint = "another --out, or --force" if ours else "choose another --out"
        hint = "--resume goes on with it, --force begins anew" if stopped else hint
        raise SimpoError(f"{out} is there already: {hint}")
    elif not ours:
        raise SimpoError(f"{out} is of something else, so it is not replaced")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SimpoError(f"cannot write {out}: {error.strerror or error}") from error


@contextlib.contextmanager
def writing(out: Path) -> Iterator[Path]:
    """A folder aside, to be filled; it takes the place of `out` if all goes well.

    Raises:
        SimpoError: It cannot be written.
    """
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        yield aside
        if out.is_dir():
            shutil.rmtree(out)
        elif out.exists():
            out.unlink()
        aside.rename(out)
    except OSError as error:
        raise SimpoError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def written(value: Any) -> Any:
    """Options as JSON has them: paths are text, groups are objects."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: written(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [written(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def clusters_of(data: Sequences, column: str | None, path: Path) -> np.ndarray:
    """Families of sequences [N]: of a column, or by shared words.

    Words have 24 bases, of which 20 are shared; fewer where sequences are short.

    Raises:
        SimpoError: There is no such column.
    """
    if column is not None:
        return column_of(data, column, path)
    bases = data.tokens.shape[1]
    k = min(24, max(1, bases // 2))
    return cluster(data.tokens, k=k, shared=max(1, min(20, (bases - k + 1) // 2)))


def column_of(data: Sequences, name: str, path: Path) -> np.ndarray:
    """A column of text [N].

    Raises:
        SimpoError: There is no such column.
    """
    if name not in data.columns:
        there = ", ".join(map(repr, data.columns)) or "none"
        raise SimpoError(f"{path} has no other column {name!r}; it has {there}")
    return data.columns[name]


def window(tokens: np.ndarray, start: int, stop: int | None, path: Path) -> np.ndarray:
    """Bases from `start` to before `stop` of sequences [N, L].

    Raises:
        SimpoError: They are not all there.
    """
    bases = tokens.shape[1]
    end = bases if stop is None else stop
    if not 0 <= start < end <= bases:
        raise SimpoError(
            f"bases {start} to {end} are not in {path}, whose sequences have {bases}"
        )
    return tokens[:, start:end]


class Unlabelled(eqx.Module):
    """A network that was trained with labels, told none: as if it had no labels.

    Attributes:
        net: The network.
    """

    net: DilatedDenoiser

    @property
    def alphabet(self) -> int:
        """V, letters."""
        return self.net.alphabet

    @property
    def labels(self) -> None:
        """None."""
        return

    def __call__(self, x: Array, t: Array, label: Array) -> Array:
        """Logits [B, L, V] of sequences [B, L, V + 1]; its label is not looked at."""
        assert self.net.labels is not None
        none = len(self.net.labels) - 1
        return self.net(x, t, jnp.full((len(x), 1), none))


def weights_of(folder: Path) -> Path:
    """The file of the weights of a model, in a folder or in its `model`.

    Raises:
        SimpoError: There is none.
    """
    for path in (folder / MODEL, folder / "model" / MODEL):
        if path.is_file():
            return path
    if (folder / STATE).is_file():
        raise SimpoError(f"no model {folder} yet: go on with what makes it, --resume")
    raise SimpoError(f"no model {folder}: simpo dna pretrain makes one")


def find_model(folder: Path) -> tuple[SequenceModel, Any]:
    """The model in a folder, or in its `model`, and its network without labels.

    Raises:
        SimpoError: There is none.
    """
    model = load_model(weights_of(folder).parent)
    return model, model.net if model.net.labels is None else Unlabelled(model.net)
