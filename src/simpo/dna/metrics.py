"""What a set of designed sequences is like, besides its scores.

A set may score well and be one sequence, or nothing but G and C: quantiles instead of
a median alone, diversity, composition, and likeness to natural sequences by k-mers and
by motifs belong beside every score. N sequences, L bases, M motifs.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from simpo.dna.alphabet import complete, kmers
from simpo.types import SimpoError

__all__ = [
    "Quantiles",
    "gc",
    "hit_rate",
    "kmer_correlation",
    "kmer_counts",
    "kmer_entropy",
    "motif_correlation",
    "pairwise_hamming",
    "pearson",
    "quantiles",
    "spearman",
    "unique_share",
]


class Quantiles(NamedTuple):
    """10 %, 50 % and 90 % of some scores."""

    low: float
    median: float
    high: float


def quantiles(scores: Any) -> Quantiles:
    """Where the scores [N] of a set lie; a median alone hides two modes.

    Raises:
        SimpoError: No scores, or some that are not finite.
    """
    found = np.asarray(scores, float)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise SimpoError("quantiles need finite scores [N], at least one")
    return Quantiles(*(float(x) for x in np.quantile(found, [0.1, 0.5, 0.9])))


def gc(tokens: Any) -> np.ndarray:
    """Share of G and C in sequences [N, L] -> [N].

    Raises:
        SimpoError: Sequences with masks.
    """
    rows = complete(tokens)
    return ((rows == 1) | (rows == 2)).mean(axis=1)


def kmer_counts(tokens: Any, k: int) -> np.ndarray:
    """How often each word of k bases occurs in a set, overlaps included: [4^k].

    Words are in alphabetical order, as read on the given strand.

    Raises:
        SimpoError: Sequences with masks, or shorter than the words.
    """
    words = kmers(complete(tokens), k)
    return np.bincount(words.ravel(), minlength=4**k)


def kmer_correlation(a: Any, b: Any, k: int = 3) -> float:
    """Pearson correlation of the word counts of two sets [N, L], over 4^k words.

    With k = 3 and natural sequences of high activity as `b`, the 3-mer correlation of
    DRAKES (Wang et al., ICLR 2025).

    Raises:
        SimpoError: Sequences with masks, or shorter than the words.
    """
    return pearson(kmer_counts(a, k), kmer_counts(b, k))


def motif_correlation(a: Any, b: Any) -> float:
    """Spearman correlation of the motif hits of two sets, over M motifs.

    Args:
        a: Hits of each motif in each sequence of a set [N, M].
        b: Those of the other set, of the same motifs; N may differ.

    Raises:
        SimpoError: Hits of different motifs, or not [N, M].
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise SimpoError(
            f"hits must be [sequences, motifs] of the same motifs, not {a.shape} "
            f"and {b.shape}"
        )
    return spearman(a.sum(axis=0), b.sum(axis=0))


def hit_rate(hits: Any, bases: int) -> np.ndarray:
    """Hits of each motif per 100 bases, in sequences of so many: [N, M] -> [M].

    Raises:
        SimpoError: Hits that are not [N, M], or of no sequences.
    """
    found = np.asarray(hits)
    if found.ndim != 2 or not len(found) or bases < 1:
        raise SimpoError(
            f"a rate needs hits [sequences, motifs], not {found.shape}, of sequences "
            f"of at least one base, not {bases}"
        )
    return 100 * found.mean(axis=0) / bases


def pearson(x: Any, y: Any) -> float:
    """Linear correlation of two rows of numbers [M]; NaN if one of them is constant.

    Raises:
        SimpoError: Rows of different lengths, or not rows.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise SimpoError(f"a correlation needs two rows [M], not {x.shape}, {y.shape}")
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))


def spearman(x: Any, y: Any) -> float:
    """Correlation of the ranks of two rows [M], ties at their mean rank; as `pearson`.

    Raises:
        SimpoError: Rows of different lengths, or not rows.
    """
    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def pairwise_hamming(tokens: Any) -> float:
    """Mean share of the bases in which two sequences of a set [N, L] differ.

    Counted base by base: of N (N - 1) ordered pairs, sum_b n_b (n_b - 1) agree there.

    Raises:
        SimpoError: Sequences with masks, or fewer than two.
    """
    rows = complete(tokens)
    N = len(rows)
    if N < 2:
        raise SimpoError(f"a distance needs two sequences at least, not {N}")
    counts = np.stack([(rows == base).sum(axis=0) for base in range(4)])
    agree = (counts * (counts - 1)).sum(axis=0) / (N * (N - 1))
    return float(1 - agree.mean())


def unique_share(tokens: Any) -> float:
    """Different sequences over all sequences of a set [N, L].

    Raises:
        SimpoError: Sequences with masks, or none.
    """
    rows = complete(tokens)
    if not len(rows):
        raise SimpoError("a share of unique sequences needs at least one")
    return len({row.tobytes() for row in rows}) / len(rows)


def kmer_entropy(tokens: Any, k: int = 3) -> float:
    """Entropy of the words of k bases in a set, in nats; k log 4 where all are equal.

    Raises:
        SimpoError: Sequences with masks or shorter than the words, or none.
    """
    counts = kmer_counts(tokens, k)
    if not counts.sum():
        raise SimpoError("an entropy needs at least one sequence")
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
