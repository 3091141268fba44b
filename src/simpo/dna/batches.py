"""Many sequences through a compiled function, in blocks of one of few sizes."""

from collections.abc import Callable

import numpy as np

__all__ = ["ROWS", "in_blocks"]

ROWS = 256
"""Sequences in a block, at most; results do not depend on it."""


def in_blocks(function: Callable, tokens: np.ndarray, rows: int = ROWS) -> np.ndarray:
    """`function` of tokens [N, L], at least one, block by block: [N, ...].

    Blocks are padded to a power of two, so that few programs are compiled.
    """
    n = len(tokens)
    size = min(rows, 1 << (n - 1).bit_length())
    padded = np.zeros((-(-n // size) * size, *tokens.shape[1:]), tokens.dtype)
    padded[:n] = tokens
    parts = [function(padded[i : i + size]) for i in range(0, n, size)]
    return np.concatenate([np.asarray(part) for part in parts])[:n]
