"""Running scales of observations and rewards.

Mean and variance of all that was seen, merged rollout by rollout (Chan et al. 1979).
Observations are shifted and scaled by their own, rewards divided by the standard
deviation of the discounted return.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.types import Rollout

__all__ = ["EPS", "Moments", "Normalised", "discounted_returns", "nothing_seen"]

EPS = 1e-8
"""Added to variances and standard deviations before dividing by them."""


class Moments(NamedTuple):
    """Running mean and variance of vectors, and how many were seen.

    Attributes:
        mean: [D].
        var: [D].
        seen: [].
    """

    mean: Array
    var: Array
    seen: Array

    @staticmethod
    def init(dim: int) -> "Moments":
        """Mean 0 and variance 1, of nothing."""
        return Moments(jnp.zeros(dim), jnp.ones(dim), jnp.zeros(()))

    @property
    def std(self) -> Array:
        """Standard deviation, never zero [D]."""
        return jnp.sqrt(self.var + EPS)

    def update(self, x: Any) -> "Moments":
        """Moments with those of x [..., D] merged in (Chan et al. 1979)."""
        x = x.reshape(-1, x.shape[-1])
        n, total = x.shape[0], self.seen + x.shape[0]
        gap = x.mean(axis=0) - self.mean
        spread = self.var * self.seen + x.var(axis=0) * n
        spread = spread + gap**2 * (self.seen * n / total)
        return Moments(self.mean + gap * n / total, spread / total, total)

    def normalise(self, x: Array, clip: float) -> Array:
        """(x - mean) / std, within +-clip: [..., D] -> [..., D]."""
        return jnp.clip((x - self.mean) / self.std, -clip, clip)


def nothing_seen(dim: int) -> Moments:
    """Moments of no vectors, kept by the host in double precision."""
    return Moments(np.zeros(dim), np.ones(dim), np.zeros(()))  # pyright: ignore[reportArgumentType]


class Normalised(NamedTuple):
    """An actor: a network behind the running moments of what it observes.

    Attributes:
        net: The network; the optimiser changes nothing else.
        moments: Moments of observations.
    """

    net: Any
    moments: Moments


def discounted_returns(rollout: Rollout, gamma: float) -> Array:
    """Discounted sums of the rewards so far, from the rollout's start: [T, E].

    Their standard deviation is the scale of rewards.
    """

    def step(total: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, last = row
        total = gamma * total + reward
        return total * (1 - last), total

    start = jnp.zeros(rollout.reward.shape[1])
    return jax.lax.scan(step, start, (rollout.reward, rollout.last))[1]
