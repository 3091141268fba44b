"""Motifs along sequences: every window on both strands, as convolutions.

s[n, i, m]       = sum_w <log_odds_m[w], x_n[i + w]>        window i, forward strand
s'[n, i, m]      the same with the reverse complement of the motif
best[n, m]       = max over windows and strands of s
total[n, m]      = log sum over windows and strands of exp(s)

Relaxed sequences, whose letters are probabilities, get expected scores. Motifs of
about the same width share a convolution, since narrow ones padded to the widest would
triple the work; blocks of sequences keep the windows in a CPU's cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from simpo.blocks import map_blocks
from simpo.dna.batches import ROWS, in_blocks
from simpo.dna.motifs import UNIFORM, Motif, log_odds, quantise, thresholds
from simpo.types import SimpoError

__all__ = ["Bank", "Filters", "Scan", "hits", "scan", "strand_scores"]


class Scan(NamedTuple):
    """What motifs find in sequences, in nats.

    Attributes:
        best: The best score [N, M].
        total: Log of the sum of all likelihood ratios [N, M].
    """

    best: Array
    total: Array


@dataclass(frozen=True, eq=False)
class Filters:
    """Motifs that share a convolution, padded with zeros to the widest.

    Attributes:
        index: Places of the motifs in the bank [M].
        widths: Their widths [M].
        forward: Scores of letters, float32 [W, 4, M].
        reverse: Those of the reverse complements, float32 [W, 4, M].
    """

    index: np.ndarray
    widths: np.ndarray
    forward: np.ndarray
    reverse: np.ndarray

    @staticmethod
    def make(matrices: Sequence[np.ndarray], index: np.ndarray) -> "Filters":
        """Filters of some of the matrices [W, 4]."""
        widths = np.array([len(matrices[i]) for i in index])
        forward = np.zeros((widths.max(), 4, len(index)), np.float32)
        reverse = np.zeros_like(forward)
        for place, i in enumerate(index):
            forward[: len(matrices[i]), :, place] = matrices[i]
            reverse[: len(matrices[i]), :, place] = matrices[i][::-1, ::-1]
        return Filters(index, widths, forward, reverse)


@dataclass(frozen=True, eq=False)
class Bank:
    """Motifs made ready to be scanned.

    Attributes:
        filters: The motifs, in groups of about the same width.
        order: Where each motif stands in the joined groups [M].
    """

    filters: tuple[Filters, ...]
    order: np.ndarray

    @staticmethod
    def make(matrices: Sequence[np.ndarray], together: int = 128) -> "Bank":
        """A bank of matrices of scores [W, 4].

        At most `together` of them share a convolution.
        """
        by_width = np.argsort([len(x) for x in matrices], kind="stable")
        parts = np.array_split(by_width, -(-len(matrices) // together))
        filters = tuple(Filters.make(matrices, index) for index in parts)
        return Bank(filters, np.argsort(by_width).astype(np.int32))

    @staticmethod
    def of(
        motifs: Sequence[Motif],
        mixture: float = 0.01,
        background: Sequence[float] = UNIFORM,
    ) -> "Bank":
        """A bank of motifs; `mixture` and `background` as in `log_odds`."""
        return Bank.make([log_odds(m, mixture, background) for m in motifs])

    @property
    def width(self) -> int:
        """The widest motif."""
        return max(len(f.forward) for f in self.filters)

    def require(self, length: int) -> None:
        """Raise SimpoError unless every motif fits into sequences of `length`."""
        if length < self.width:
            raise SimpoError(
                f"sequences of {length} letters are shorter than the widest motif, "
                f"{self.width}"
            )


def strand_scores(probs: Array, filters: Filters) -> tuple[Array, Array]:
    """Scores [N, L, M] of the windows that begin at each position, by strand.

    Windows that reach over the end of the sequences [N, L, 4] get -infinity.
    """
    length, width = probs.shape[-2], len(filters.forward)
    weight = np.concatenate([filters.forward, filters.reverse], -1)
    scores = lax.conv_general_dilated(
        jnp.pad(probs, ((0, 0), (0, width - 1), (0, 0))),
        jnp.asarray(weight, probs.dtype),
        (1,),
        "VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
        precision=lax.Precision.HIGHEST,
    )
    inside = np.arange(length)[:, None] + filters.widths <= length
    forward, reverse = jnp.split(scores, 2, -1)
    none = -jnp.inf
    return jnp.where(inside, forward, none), jnp.where(inside, reverse, none)


def summarise(probs: Array, filters: Filters) -> Array:
    """Best and total scores [N, 2, M] of a group of motifs."""
    a, b = strand_scores(probs, filters)
    best = jnp.maximum(a.max(1), b.max(1))
    base = lax.stop_gradient(best)[:, None]
    ratios = (jnp.exp(a - base) + jnp.exp(b - base)).sum(1)
    return jnp.stack([best, jnp.log(ratios) + base[:, 0]], 1)


def scan(bank: Bank, probs: Array) -> Scan:
    """Best and total scores of sequences [N, L, 4], one-hot or relaxed.

    Raises:
        SimpoError: A motif is wider than the sequences are long.
    """
    bank.require(probs.shape[-2])

    def block(_: Array, probs: Array) -> Array:
        found = [summarise(probs, filters) for filters in bank.filters]
        return jnp.concatenate(found, -1)[..., bank.order]

    unused = jax.random.key(0)
    found = map_blocks(block, unused, probs, rows_per_state=probs.shape[-2])
    return Scan(found[:, 0], found[:, 1])


def hits(
    motifs: Sequence[Motif],
    tokens: np.ndarray,
    p: float = 1e-3,
    *,
    step: float = 0.01,
    mixture: float = 0.01,
    background: Sequence[float] = UNIFORM,
    rows: int = ROWS,
) -> np.ndarray:
    """How many windows of each sequence match each motif, int64 [N, M].

    A window that matches on both strands counts twice, as in FIMO. Scores are rounded
    to multiples of `step`, in which whole numbers the comparison is exact.

    Args:
        motifs: M motifs.
        tokens: Sequences [N, L], A, C, G, T = 0..3.
        p: Largest p-value of a match.
        step: Grid of the scores, in nats.
        mixture: See `log_odds`.
        background: See `log_odds`.
        rows: Sequences at a time.

    Raises:
        SimpoError: A motif is wider than the sequences are long.
    """
    same = {"mixture": mixture, "background": background}
    lowest = np.rint(thresholds(motifs, p, step=step, **same) / step)
    bank = Bank.make([quantise(log_odds(m, **same), step) for m in motifs])
    bank.require(tokens.shape[1])

    @jax.jit
    def count(tokens: Array) -> Array:
        def block(_: Array, tokens: Array) -> Array:
            probs, found = jax.nn.one_hot(tokens, 4), []
            for filters in bank.filters:
                scores = strand_scores(probs, filters)
                least = jnp.asarray(lowest[filters.index], jnp.float32)
                found.append(sum((s >= least).sum(1) for s in scores))
            return jnp.concatenate(found, -1)[:, bank.order]

        unused = jax.random.key(0)
        return map_blocks(block, unused, tokens, rows_per_state=tokens.shape[1])

    return in_blocks(count, tokens, rows).astype(np.int64)
