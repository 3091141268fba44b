"""Letters, tokens and words of DNA.

    A, C, G, T = 0, 1, 2, 3      mask = 4      complement(x) = 3 - x

A word of k bases (a k-mer) is the number sum_j x_j 4^(k-1-j). It and its reverse
complement are one word of the double strand; the smaller number stands for both and is
called canonical. N sequences, L bases, k bases of a word.
"""

import reprlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simpo.types import SimpoError

__all__ = [
    "LETTERS",
    "MASK",
    "canonical",
    "complete",
    "decode",
    "encode",
    "kmers",
    "one_hot",
    "reverse_complement",
    "tokenise",
]

LETTERS = "ACGT"
MASK = 4
"""Token of a base that is not known yet."""
LONGEST_WORD = 31
"""Bases that fit into an int64."""

TOKENS = np.full(256, -1, np.int8)
for token, letter in enumerate(LETTERS):
    TOKENS[[ord(letter), ord(letter.lower())]] = token
CHARACTERS = np.frombuffer(f"{LETTERS}.".encode(), np.uint8)


def tokenise(text: str) -> np.ndarray:
    """Tokens of any text, int8 [L]; -1 for what is not a letter of ACGT or acgt."""
    return TOKENS[np.frombuffer(text.encode("ascii", "replace"), np.uint8)]


def encode(text: str) -> np.ndarray:
    """Tokens of a sequence, int8 [L]; small letters count as large ones.

    Raises:
        SimpoError: Another letter, or none.
    """
    tokens = tokenise(text)
    if not len(text):
        raise SimpoError("an empty sequence: it needs letters out of A, C, G and T")
    if (tokens < 0).any():
        place = int(np.argmax(tokens < 0))
        raise SimpoError(
            f"letter {text[place]!r} at base {place + 1} of {reprlib.repr(text)}: "
            "only A, C, G and T are allowed"
        )
    return tokens


def decode(tokens: Any) -> str:
    """Letters of one sequence [L]; `.` for the mask.

    Raises:
        SimpoError: Numbers other than 0 to 4, or not one row of them.
    """
    row = np.asarray(tokens)
    if row.ndim != 1 or not np.isin(row, np.arange(MASK + 1)).all():
        raise SimpoError(
            f"a sequence must be one row of tokens 0 to {MASK}, not {reprlib.repr(row)}"
        )
    return CHARACTERS[row.astype(np.intp)].tobytes().decode()


def reverse_complement(tokens: Any) -> Any:
    """The other strand, read in its own direction [..., L]; masks stay masks.

    Takes signed integers, of NumPy or JAX.
    """
    return (3 - tokens[..., ::-1]) % 5


def one_hot(tokens: Any) -> jax.Array:
    """Indicators of the bases [..., L] -> float32 [..., L, 4]; 0 for the mask."""
    return jax.nn.one_hot(tokens, len(LETTERS), dtype=jnp.float32)


def complete(tokens: Any) -> np.ndarray:
    """Sequences without masks, as int8 [N, L].

    Raises:
        SimpoError: Another shape, or a token that is not a base, with its place.
    """
    rows = np.asarray(tokens)
    if rows.ndim != 2 or not rows.shape[1]:
        raise SimpoError(f"tokens must be [sequences, bases], not {rows.shape}")
    wrong = ~np.isin(rows, np.arange(len(LETTERS)))
    if wrong.any():
        i, j = np.argwhere(wrong)[0]
        raise SimpoError(
            f"sequence {i + 1} has token {rows[i, j]} at base {j + 1}: a complete "
            "sequence has tokens 0 to 3 only"
        )
    return rows.astype(np.int8)


def canonical(tokens: np.ndarray) -> np.ndarray:
    """Of each sequence and its reverse complement, the first in order [N, L]."""
    other = reverse_complement(tokens)
    differs = tokens != other
    rows, first = np.arange(len(tokens)), differs.argmax(axis=1)
    swap = other[rows, first] < tokens[rows, first]
    return np.where(swap[:, None], other, tokens)


def kmers(tokens: np.ndarray, k: int) -> np.ndarray:
    """Numbers of all words of k bases, int64 [N, L] -> [N, L - k + 1].

    Raises:
        SimpoError: Words longer than the sequences or 31 bases, or without bases.
    """
    bases = tokens.shape[-1]
    if not 1 <= k <= min(LONGEST_WORD, bases):
        raise SimpoError(
            f"words must have 1 to {min(LONGEST_WORD, bases)} bases in sequences of "
            f"{bases}, not {k}"
        )
    count = bases - k + 1
    words = np.zeros((*tokens.shape[:-1], count), np.int64)
    for j in range(k):
        words <<= 2
        words |= tokens[..., j : j + count]
    return words
