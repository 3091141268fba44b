"""Generative models of actions: a path from data to noise, a loss, a sampler.

Path        x_t = alpha_t a + sigma_t eps,   t = 0 is data, t = 1 is noise
Step        x_s = A x_t + B a^ + C a^_prev + D z,   a^ the clean estimate, s < t

Every sampler with one evaluation per step (DDPM, DDIM, DPM-Solver++(2M), Euler) has
this form, so a sampler is a table of four coefficients per step, made in float64 before
anything is compiled, and one scan runs them all.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.randomness import normal
from simpo.types import SimpoError

__all__ = [
    "GenerativeModel",
    "Network",
    "Steps",
    "check_clip",
    "check_steps",
    "run_steps",
]

MOST_STEPS = 10_000
"""Denoising steps that a model may have; a thousand are many."""


class Network(Protocol):
    """A conditional denoiser whose first layer is a sum (see `networks.Denoiser`)."""

    @property
    def dim(self) -> int:
        """A, the dimension of a sample."""
        ...

    def condition(self, cond: Array) -> Array:
        """Part of the condition: [..., O] -> [..., H]."""
        ...

    def embed_time(self, t: Array) -> Array:
        """Part of the time: [...] -> [..., H]."""
        ...

    def denoise(self, x: Array, context: Array) -> Array:
        """Prediction [..., A] from samples [..., A] and the sum of the parts."""
        ...


class GenerativeModel(abc.ABC):
    """A conditional generative model; the network is an argument, never a field.

    Which network is the model's to say: `Network` for actions, for sequences a
    `SequenceNetwork`.
    """

    @abc.abstractmethod
    def sample(self, net: Any, key: Array, cond: Array, n: int) -> Array:
        """Draw n samples per condition: cond [B, O] -> [B, N, A]."""

    @abc.abstractmethod
    def matching_error(self, net: Any, key: Array, x: Array, cond: Array) -> Array:
        """Errors of the prediction, elementwise, unweighted and unreduced.

        Each sample gets its own time and noise: x [B, N, A], cond [B, O] -> [B, N, D],
        D squared errors of actions, or bounds of sequences.
        """


def check_steps(steps: int) -> None:
    """Raise SimpoError if a table of so many denoising steps is empty or enormous."""
    if not 1 <= steps <= MOST_STEPS:
        raise SimpoError(f"denoising_steps must be between 1 and {MOST_STEPS:,}")


def check_clip(clip: float | None) -> None:
    """Raise SimpoError if a bound on clean samples is not positive."""
    if clip is not None and not clip > 0:
        raise SimpoError(f"clip must be positive, or None, not {clip}")


class Steps(NamedTuple):
    """A sampler's coefficients, one row per step from noise to data; all [T].

    Attributes:
        time: Times at which the network is evaluated.
        alpha: Signal level there.
        sigma: Noise level there.
        keep: A, the part of x_t that stays.
        clean: B, weight of the clean estimate.
        previous: C, weight of the step before's clean estimate.
        noise: D, standard deviation of fresh noise.
    """

    time: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    keep: np.ndarray
    clean: np.ndarray
    previous: np.ndarray
    noise: np.ndarray


def run_steps(
    steps: Steps,
    estimate: Callable[[Array, Steps, Array], Array],
    times: Array,
    key: Array,
    shape: tuple[int, ...],
) -> Array:
    """Scan a sampler from pure noise to data.

    Args:
        steps: The coefficient table.
        estimate: (x_t, row of the table, time part) -> clipped clean estimate a^.
        times: The time's part of the first layer, one row per step [T, H].
        key: Random key.
        shape: Shape of the samples, [B, N, A].
    """
    stochastic = bool(np.any(steps.noise))
    rows = jax.tree.map(lambda c: jnp.asarray(c, jnp.float32), steps)
    # One draw for the start and every step: it compiles faster than two.
    draws = 1 + len(steps.time) if stochastic else 1
    start, *fresh = jnp.split(normal(key, (draws, *shape)), [1])

    def step(carry: tuple[Array, Array], inputs: tuple) -> tuple:
        x, previous = carry
        row, time, *noise = inputs
        clean = estimate(x, row, time)
        x = row.keep * x + row.clean * clean + row.previous * previous
        if stochastic:
            x = x + row.noise * noise[0]
        return (x, clean), None

    x = rows.sigma[0] * start[0]
    inputs = (rows, times, *fresh) if stochastic else (rows, times)
    (x, _), _ = jax.lax.scan(step, (x, jnp.zeros(shape)), inputs)
    return x
