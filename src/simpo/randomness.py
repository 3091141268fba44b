"""Random numbers, the fast way on a CPU.

JAX's counter-based generator has a form that partitions over devices, on by default.
On a CPU it takes seven times as long per number, and several times as long to compile
(two cores, JAX 0.10), for nothing: no array here is spread over devices.
"""

import jax
from jax import Array

__all__ = ["normal", "uniform"]


def normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers, float32."""
    with jax.threefry_partitionable(False):
        return jax.random.normal(key, shape)


def uniform(
    key: Array, shape: tuple[int, ...], *, low: float = 0.0, high: float = 1.0
) -> Array:
    """Uniform numbers in [low, high), float32."""
    with jax.threefry_partitionable(False):
        return jax.random.uniform(key, shape, minval=low, maxval=high)
