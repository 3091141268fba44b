"""Relatives among sequences, and splits that keep them together.

Two sequences are linked if they share at least `shared` canonical k-mers, of those seen
in at most `common` sequences: words of repeats are in many unrelated ones. Connected
components of the links are clusters; a part of a split takes whole clusters, so pieces
of one locus, alleles and strands never fall on both sides. N sequences, L bases.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from simpo.dna.alphabet import canonical, complete, kmers, reverse_complement
from simpo.types import SimpoError

__all__ = ["cluster", "split"]


def cluster(
    tokens: Any, *, k: int = 24, shared: int = 20, common: int = 8
) -> np.ndarray:
    """Numbers of clusters by similarity, counted from 0 in order of appearance.

    Equal sequences, on either strand, are one cluster however many there are, and count
    once towards `common`. Variants of one sequence have its words in common: where more
    than `common` of them are to be one cluster, `common` must be larger.

    Args:
        tokens: Sequences [N, L].
        k: Bases of a word, at most 31.
        shared: Words that two sequences must have in common to be linked.
        common: Sequences that a word may be in to count.

    Returns:
        Clusters [N].

    Raises:
        SimpoError: Sequences too short for so many words, or limits that link nothing.
    """
    tokens = complete(tokens)
    if shared < 1 or common < 2:
        raise SimpoError(
            f"shared must be at least 1 and common at least 2, not {shared}, {common}"
        )
    if tokens.shape[1] - k + 1 < shared:
        raise SimpoError(
            f"sequences of {tokens.shape[1]} bases never share {shared} words of {k}: "
            "choose a smaller k or shared"
        )
    seen: dict[bytes, int] = {}
    equal = np.array(
        [seen.setdefault(row.tobytes(), len(seen)) for row in canonical(tokens)], int
    )
    distinct = tokens[np.unique(equal, return_index=True)[1]]
    links = shared_words(distinct, k, common) >= shared
    _, component = connected_components(links, directed=False)
    return in_order(component[equal])


def shared_words(tokens: np.ndarray, k: int, common: int) -> csr_array:
    """Canonical words of k bases in common [N, N], of those in 2 to `common` rows."""
    other = kmers(reverse_complement(tokens), k)[:, ::-1]
    words = np.sort(np.minimum(kmers(tokens, k), other), axis=1)
    first = np.ones(words.shape, bool)
    first[:, 1:] = words[:, 1:] != words[:, :-1]
    row = np.nonzero(first)[0]
    _, word, count = np.unique(words[first], return_inverse=True, return_counts=True)
    used = (count[word] > 1) & (count[word] <= common)
    has = csr_array(
        (np.ones(used.sum(), np.int32), (row[used], word[used])),
        shape=(len(tokens), len(count)),
    )
    return has @ has.T


def in_order(labels: np.ndarray) -> np.ndarray:
    """The same partition, numbered from 0 in order of appearance [N]."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), int)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def split(
    clusters: Any, shares: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> list[np.ndarray]:
    """Parts of whole clusters, each in about its share of the clusters.

    Where a cluster goes depends on its number and the seed alone, so it stays there
    when others are added.

    Args:
        clusters: A number or text per sequence [N].
        shares: Positive, one per part, of sum 1.
        seed: Another seed, another split.

    Returns:
        Sorted row numbers of each part; together they are 0 to N - 1.

    Raises:
        SimpoError: Other shares, or too few clusters for all parts to get one.
    """
    if not np.isclose(sum(shares), 1) or min(shares) <= 0:
        raise SimpoError(f"shares must be positive and add up to 1, not {shares}")
    names, inverse = np.unique(np.asarray(clusters), return_inverse=True)
    position = np.array([uniform(f"{seed} {name}") for name in names])[inverse]
    ends = [0.0, *np.cumsum(shares)[:-1], 1.0]
    parts = [
        np.flatnonzero((low <= position) & (position < high))
        for low, high in pairwise(ends)
    ]
    for number, part in enumerate(parts, 1):
        if not len(part):
            raise SimpoError(
                f"{len(names)} clusters are too few for shares {tuple(shares)}: part "
                f"{number} got none (seed {seed})"
            )
    return parts


def uniform(text: str) -> float:
    """A number in [0, 1) from a text, the same everywhere."""
    digest = hashlib.blake2b(text.encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48
