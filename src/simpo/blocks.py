"""Cache blocking: large batches in blocks of states, one after another, on a CPU.

A hidden layer of 8192 rows of 256 units is 8 MB and leaves the cache between two
layers; blocks of 2048 rows stay inside and run a third faster, forwards and backwards.
On accelerators, and for batches that do not divide, there is one block.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from simpo.types import PyTree

__all__ = ["ROWS", "map_blocks", "mean_over_blocks", "split_blocks"]

ROWS = 2048
"""Rows that go through a network at a time; 1024 and 4096 are slower."""


def count_blocks(batch: int, rows_per_state: int) -> int:
    """The fewest equal blocks of at most ROWS rows, or one if that takes too many."""
    if jax.default_backend() != "cpu":
        return 1
    enough = -(-batch * rows_per_state // ROWS)
    return next((n for n in range(enough, 2 * enough) if batch % n == 0), 1)


def split_blocks(key: Array, arrays: PyTree, rows_per_state: int) -> tuple:
    """Keys [blocks] and arrays [blocks, B / blocks, ...] from arrays [B, ...]."""
    batch = jax.tree.leaves(arrays)[0].shape[0]
    n = count_blocks(batch, rows_per_state)
    blocks = jax.tree.map(lambda x: x.reshape(n, batch // n, *x.shape[1:]), arrays)
    return (jax.random.split(key, n) if n > 1 else key[None]), blocks


def over_blocks(
    function: Callable[..., PyTree], key: Array, arrays: PyTree, rows_per_state: int
) -> PyTree:
    """`function(key, *arrays)` of every block, stacked: leaves [blocks, ...]."""
    keys, blocks = split_blocks(key, arrays, rows_per_state)
    if len(keys) == 1:
        return jax.tree.map(lambda x: x[None], function(key, *arrays))
    return jax.lax.map(lambda args: function(args[0], *args[1]), (keys, blocks))


def map_blocks(
    function: Callable[..., Array], key: Array, *arrays: Array, rows_per_state: int
) -> Array:
    """`function(key, *arrays)` block by block: arrays [B, ...] -> result [B, ...]."""
    out = over_blocks(function, key, arrays, rows_per_state)
    return out.reshape(-1, *out.shape[2:])


def mean_over_blocks(
    function: Callable[..., Any], key: Array, *arrays: Array, rows_per_state: int
) -> Any:
    """Mean over blocks of `function(key, *arrays)`, a tree of per-block means."""
    out = over_blocks(function, key, arrays, rows_per_state)
    return jax.tree.map(lambda x: x.mean(axis=0), out)
