"""Oracles: what a DNA sequence is worth, by a model or by anything that can be called.

    oracle(tokens)      values [N] of sequences [N, L], within fixed bounds
    oracle.soft(probs)  the same of relaxed sequences [N, L, 4], for gradients
    oracle.distance(tokens)  share of letters that differ from the nearest training row

Optimisers leave the data that an oracle was trained on, and there an unbounded model
promises anything. So every oracle bounds its values,

    Bound      c + w tanh((z - c) / w),   c the mean label, w the largest |label - c|
    Logistic   1 / (1 + e^-z),            labels 0 and 1

and says how far from its training data a sequence is. Reward and evaluation should come
from oracles of different kinds: two of one kind share their mistakes.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.dna.batches import in_blocks
from simpo.types import SimpoError

__all__ = [
    "Bound",
    "Differentiable",
    "Ensemble",
    "Link",
    "Logistic",
    "Oracle",
    "Training",
    "make_link",
    "require_labels",
    "require_tokens",
    "require_values",
]


@dataclass(frozen=True)
class Bound:
    """c + w tanh((z - c) / w): the identity near c, within w of it everywhere.

    Attributes:
        centre: c.
        width: w, above 0.
    """

    centre: float
    width: float

    def __call__(self, z: Array) -> Array:
        """Bounded values of z [...]."""
        return self.centre + self.width * jnp.tanh((z - self.centre) / self.width)


@dataclass(frozen=True)
class Logistic:
    """1 / (1 + e^-z), a probability."""

    def __call__(self, z: Array) -> Array:
        """Probabilities of z [...]."""
        return jax.nn.sigmoid(z)


Link: TypeAlias = Bound | Logistic
"""From a model's sum to the value that it reports."""


def make_link(labels: np.ndarray, classify: bool) -> Link:
    """Bounds of the labels [N], or the logistic function of a classifier.

    Raises:
        SimpoError: Labels that are all equal, or a classifier's other than 0 and 1.
    """
    if np.ptp(labels) == 0:
        raise SimpoError(f"all {len(labels)} labels are {labels[0]}: nothing to learn")
    if not classify:
        centre = float(labels.mean(dtype=np.float64))
        return Bound(centre, float(np.abs(labels - centre).max()))
    odd = labels[(labels != 0) & (labels != 1)]
    if len(odd):
        raise SimpoError(f"labels of a classifier are 0 and 1, not {odd[0]}")
    return Logistic()


class Oracle(abc.ABC):
    """Anything that values sequences.

    Attributes:
        name: What reports and errors call it.
    """

    name: str

    @abc.abstractmethod
    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """Values [N] of valid sequences [N, L], N > 0; called by `__call__`."""

    @abc.abstractmethod
    def soft(self, probs: Array) -> Array:
        """Values [N] of relaxed sequences [N, L, 4], to be differentiated by JAX.

        Raises:
            SimpoError: The oracle has no gradient.
        """

    @abc.abstractmethod
    def distance(self, tokens: np.ndarray) -> np.ndarray:
        """Share of letters [N] that differ from the nearest training sequence.

        NaN where the training sequences are not known.
        """

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Values float32 [N] of sequences [N, L], A, C, G, T = 0..3.

        Raises:
            SimpoError: Something other than sequences, or values that are not N finite
                numbers.
        """
        tokens = require_tokens(tokens, self.name)
        if not len(tokens):
            return np.zeros(0, np.float32)
        return require_values(self.predict(tokens), len(tokens), self.name)


class Differentiable(Oracle):
    """An oracle in JAX: its values of letters are those of `soft`."""

    @cached_property
    def compiled(self) -> jax.stages.Wrapped:
        """Values of tokens [N, L]."""
        return jax.jit(lambda tokens: self.soft(jax.nn.one_hot(tokens, 4)))

    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """Values [N] of sequences [N, L]."""
        return in_blocks(self.compiled, tokens)


def require_tokens(tokens: np.ndarray, name: str) -> np.ndarray:
    """Sequences as int8 [N, L].

    Raises:
        SimpoError: Another shape, numbers that are not whole, or other letters.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
        raise SimpoError(
            f"oracle {name} needs whole numbers [N, L], not {tokens.dtype} "
            f"{list(tokens.shape)}"
        )
    bad = ((tokens < 0) | (tokens > 3)).any(1)
    if bad.any():
        row = int(bad.argmax())
        letter = tokens[row][(tokens[row] < 0) | (tokens[row] > 3)][0]
        raise SimpoError(
            f"oracle {name}: row {row} has the token {letter}; A, C, G, T are 0 to 3, "
            "and masks must be filled in first"
        )
    return tokens.astype(np.int8)


def require_values(values: np.ndarray, n: int, name: str) -> np.ndarray:
    """What an oracle returned, as float32 [N].

    Raises:
        SimpoError: It is not N finite numbers.
    """
    try:
        values = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise SimpoError(
            f"oracle {name} returned something other than numbers"
        ) from None
    if values.shape != (n,):
        raise SimpoError(
            f"oracle {name} returned shape {list(values.shape)} for {n} sequences, "
            f"expected [{n}]"
        )
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise SimpoError(f"oracle {name} returned {values[row]} for row {row}")
    return values


def require_labels(
    tokens: np.ndarray, labels: np.ndarray, val: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training data in their types: tokens int8 [N, L], labels float32 [N], val [N].

    Raises:
        SimpoError: Numbers of rows that differ, a label that is not finite, or too few
            rows on either side.
    """
    tokens = require_tokens(tokens, name)
    labels, val = np.asarray(labels, np.float32), np.asarray(val, bool)
    if not labels.shape == val.shape == (len(tokens),):
        raise SimpoError(
            f"oracle {name}: {len(tokens)} sequences, labels {list(labels.shape)}, "
            f"validation marks {list(val.shape)}: their numbers must be the same"
        )
    if not np.isfinite(labels).all():
        row = int(np.argmin(np.isfinite(labels)))
        raise SimpoError(f"oracle {name}: row {row} has the label {labels[row]}")
    if min(val.sum(), (~val).sum()) < 2:
        raise SimpoError(
            f"oracle {name}: {(~val).sum()} rows to train on and {val.sum()} to "
            "validate with; each needs at least 2"
        )
    return tokens, labels, val


@dataclass(frozen=True, eq=False)
class Training:
    """The sequences that a model was trained on.

    Attributes:
        tokens: int8 [N, L].
    """

    tokens: np.ndarray

    def require(self, length: int, name: str) -> None:
        """Raise SimpoError unless sequences are as long as these."""
        own = self.tokens.shape[1]
        if length != own:
            raise SimpoError(
                f"oracle {name} was trained on sequences of {own} letters, not {length}"
            )

    def distance(self, tokens: np.ndarray, name: str) -> np.ndarray:
        """Share of letters that differ, without gaps, to the nearest row [N].

        Every row is compared, on both strands: letters that agree are a product of
        one-hot matrices.
        """
        tokens = require_tokens(tokens, name)
        self.require(tokens.shape[1], name)
        both = np.concatenate([tokens, 3 - tokens[:, ::-1]])
        agree = np.zeros(len(both), np.float32)
        for start in range(0, len(self.tokens), BLOCK):
            rows = one_hot(self.tokens[start : start + BLOCK]).T
            for i in range(0, len(both), BLOCK):
                part = (one_hot(both[i : i + BLOCK]) @ rows).max(1)
                agree[i : i + BLOCK] = np.maximum(agree[i : i + BLOCK], part)
        return 1 - agree.reshape(2, -1).max(0) / np.float32(tokens.shape[1])


BLOCK = 2048
"""Sequences compared at a time."""


def one_hot(tokens: np.ndarray) -> np.ndarray:
    """Rows [N, 4 L] of zeros and ones, float32."""
    return np.eye(4, dtype=np.float32)[tokens].reshape(len(tokens), -1)


@dataclass(frozen=True, eq=False)
class Ensemble(Oracle):
    """The mean of oracles.

    Attributes:
        name: What reports and errors call it.
        members: The oracles, at least one.
    """

    name: str
    members: Sequence[Oracle]

    def __post_init__(self) -> None:
        if not self.members:
            raise SimpoError(f"oracle {self.name} is an ensemble without members")

    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """Mean of the members' values [N]."""
        return np.mean([member(tokens) for member in self.members], axis=0)

    def soft(self, probs: Array) -> Array:
        """Mean of the members' values [N]."""
        return jnp.stack([m.soft(probs) for m in self.members]).mean(0)

    def distance(self, tokens: np.ndarray) -> np.ndarray:
        """Distance [N] to the nearest row that any member was trained on."""
        return np.fmin.reduce([m.distance(tokens) for m in self.members])
