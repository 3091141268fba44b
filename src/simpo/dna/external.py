"""Oracles that were made elsewhere: any callable, an ONNX file, a planted grammar.

Their values are limited by a `Bound` or, for a grammar, bounded by its ceiling; where
their training sequences are not known, distances are NaN.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.checkpoint import plain
from simpo.dna.batches import ROWS
from simpo.dna.grammar import Grammar
from simpo.dna.oracle import (
    Bound,
    Differentiable,
    Oracle,
    Training,
    require_tokens,
    require_values,
)
from simpo.types import SimpoError

__all__ = ["FromCallable", "FromGrammar", "FromONNX"]


def distances(training: Training | None, tokens: np.ndarray, name: str) -> np.ndarray:
    """Distances [N] from training sequences, NaN if they are not known."""
    if training is None:
        return np.full(len(require_tokens(tokens, name)), np.nan, np.float32)
    return training.distance(tokens, name)


@dataclass(frozen=True, eq=False)
class FromCallable(Oracle):
    """A function of the user's.

    Attributes:
        name: What reports and errors call it.
        function: Values [N] of sequences int8 [N, L].
        bound: Limits of its values.
        relaxed: Values [N] of relaxed sequences [N, L, 4] in JAX, where it has a
            gradient; the limits are put on it here.
        training: What it was trained on, where that is known.
    """

    name: str
    function: Callable[[np.ndarray], Any]
    bound: Bound
    relaxed: Callable[[Array], Array] | None = None
    training: Training | None = None

    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """Values [N] of sequences [N, L]."""
        values = require_values(self.function(tokens), len(tokens), self.name)
        return np.asarray(self.bound(jnp.asarray(values)))

    def soft(self, probs: Array) -> Array:
        """Values [N] of relaxed sequences [N, L, 4].

        Raises:
            SimpoError: The function was given without a relaxed form.
        """
        if self.relaxed is None:
            raise SimpoError(
                f"oracle {self.name} has no gradient: it was given without `relaxed`"
            )
        return self.bound(self.relaxed(probs))

    def distance(self, tokens: np.ndarray) -> np.ndarray:
        """Share of letters [N] that differ from the nearest training sequence."""
        return distances(self.training, tokens, self.name)


@dataclass(frozen=True, eq=False)
class FromONNX(Oracle):
    """A model file, run by ONNX Runtime on the CPU.

    The model takes one float32 input, one-hot letters in the order A, C, G, T, as
    [N, L, 4] or, with `channels_first`, [N, 4, L].

    Attributes:
        name: What reports and errors call it.
        model: Bytes of the file.
        bound: Limits of its values.
        channels_first: Whether letters come before positions.
        output: Which column of an output [N, D] is the value.
        training: What it was trained on, where that is known.

    Raises:
        SimpoError: No ONNX Runtime, or no such model.
    """

    name: str
    model: bytes
    bound: Bound
    channels_first: bool = False
    output: int = 0
    training: Training | None = None

    def __post_init__(self) -> None:
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{x.name} {x.type}" for x in inputs)
            raise SimpoError(
                f"oracle {self.name} needs one input of float32, the model has {found}"
            )

    @staticmethod
    def read(path: str | Path, name: str, bound: Bound, **settings: Any) -> "FromONNX":
        """The oracle of a file; `settings` are fields.

        Raises:
            SimpoError: No such file, or none of ONNX's.
        """
        try:
            return FromONNX(name, Path(path).read_bytes(), bound, **settings)
        except FileNotFoundError:
            raise SimpoError(f"no file {path}") from None
        except OSError as error:
            raise SimpoError(f"cannot read {path}: {error.strerror}") from error

    @cached_property
    def session(self) -> Any:
        """The model, loaded."""
        try:
            runtime = importlib.import_module("onnxruntime")
        except ImportError:
            raise SimpoError(
                "ONNX Runtime is not installed: pip install 'simpo[onnx]'"
            ) from None
        try:
            providers = ["CPUExecutionProvider"]
            return runtime.InferenceSession(self.model, providers=providers)
        except Exception as error:  # its exceptions have no common base of their own
            raise SimpoError(
                f"oracle {self.name} is no ONNX model: {plain(error)}"
            ) from error

    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """Values [N] of sequences [N, L]."""
        parts = [self.run(tokens[i : i + ROWS]) for i in range(0, len(tokens), ROWS)]
        values = require_values(np.concatenate(parts), len(tokens), self.name)
        return np.asarray(self.bound(jnp.asarray(values)))

    def run(self, tokens: np.ndarray) -> np.ndarray:
        """Values [N] before they are bounded."""
        x = np.eye(4, dtype=np.float32)[tokens]
        x = np.ascontiguousarray(x.swapaxes(1, 2)) if self.channels_first else x
        try:
            found = self.session.run(None, {self.session.get_inputs()[0].name: x})[0]
        except Exception as error:  # as above
            raise SimpoError(
                f"oracle {self.name} refused {list(x.shape)}: {plain(error)}"
            ) from error
        if found.ndim == 2 and found.shape[1] > self.output >= 0:
            return found[:, self.output]
        if found.ndim == 1 and self.output == 0:
            return found
        raise SimpoError(
            f"oracle {self.name} returned shape {list(found.shape)}, which has no "
            f"column {self.output}"
        )

    def soft(self, probs: Array) -> Array:
        """Refuse.

        Raises:
            SimpoError: Always.
        """
        raise SimpoError(f"oracle {self.name} has no gradient: it is an ONNX file")

    def distance(self, tokens: np.ndarray) -> np.ndarray:
        """Share of letters [N] that differ from the nearest training sequence."""
        return distances(self.training, tokens, self.name)


@dataclass(frozen=True, eq=False)
class FromGrammar(Differentiable):
    """The truth of a planted grammar; there is nothing that it was trained on.

    Attributes:
        name: What reports and errors call it.
        grammar: The grammar.
    """

    name: str
    grammar: Grammar

    def soft(self, probs: Array) -> Array:
        """Activities [N] of relaxed sequences [N, L, 4]."""
        return self.grammar.activity(probs)

    def distance(self, tokens: np.ndarray) -> np.ndarray:
        """NaN [N]: the truth is as true everywhere."""
        return distances(None, tokens, self.name)
