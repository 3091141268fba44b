"""Random numbers, the fast way on a CPU.

JAX's counter-based generator has a form that partitions over devices, on by default.
On a CPU it takes seven times as long per number, and several times as long to compile
(two cores, JAX 0.10), for nothing: no array here is spread over devices.

An exported policy is a pure function whose random numbers are an input: while it is
traced, `drawing` puts that input in the place of the generator.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from jax import Array

__all__ = ["Draw", "drawing", "normal", "uniform"]

Draw = Callable[[tuple[int, ...]], Array]
"""Standard normal numbers of a shape, whatever the key."""
SOURCE: ContextVar[Draw | None] = ContextVar("SOURCE", default=None)


@contextmanager
def drawing(source: Draw) -> Iterator[None]:
    """Within it, `normal` asks the source, in the order of the calls, and no key.

    Only for tracing: what was compiled before, or will be run later, is not changed.
    """
    token = SOURCE.set(source)
    try:
        yield
    finally:
        SOURCE.reset(token)


def normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers, float32."""
    if source := SOURCE.get():
        return source(shape)
    with jax.threefry_partitionable(False):
        return jax.random.normal(key, shape)


def uniform(
    key: Array, shape: tuple[int, ...], *, low: float = 0.0, high: float = 1.0
) -> Array:
    """Uniform numbers in [low, high), float32."""
    with jax.threefry_partitionable(False):
        return jax.random.uniform(key, shape, minval=low, maxval=high)
