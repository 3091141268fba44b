"""Agents that learn from rollouts of the policy as it is, then throw them away.

Advantages are `bellman.advantages`: a truncated episode bootstraps from its true final
observation, and nothing leaks into the next one. Observations are normalised by running
moments, rewards by the running standard deviation of the discounted return; both are
part of the state and change between rollouts only, so that a rollout is learnt from as
it was acted.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.agents.base import Agent, adam
from simpo.types import Rollout

__all__ = ["Moments", "OnPolicy", "discounted_returns", "minibatch_rows"]


@dataclass(frozen=True, kw_only=True)
class OnPolicy(Agent):
    """What agents that learn from rollouts share."""

    rollout_steps: int = 820  # pyright: ignore[reportIncompatibleMethodOverride]
    """T, steps per environment between updates."""
    epochs: int = 10
    """Passes over a rollout."""
    gae_lambda: float = 0.95
    """lambda of the generalised advantage estimate."""
    max_grad_norm: float | None = 0.5
    """Clip of the global gradient norm, actor and critic each; None for none."""
    normalise: bool = True
    """Whether observations and rewards are divided by their running scale."""

    @property
    def actor_optimiser(self) -> optax.GradientTransformation:
        """Adam behind the clip."""
        return adam(self.actor_lr, self.max_grad_norm, eps=1e-5)

    @property
    def critic_optimiser(self) -> optax.GradientTransformation:
        """Adam behind the clip."""
        return adam(self.critic_lr, self.max_grad_norm, eps=1e-5)


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

    def update(self, x: Array) -> "Moments":
        """Moments with those of x [..., D] merged in (Chan et al. 1979)."""
        x = x.reshape(-1, x.shape[-1])
        n, total = x.shape[0], self.seen + x.shape[0]
        gap = x.mean(axis=0) - self.mean
        spread = self.var * self.seen + x.var(axis=0) * n
        spread = spread + gap**2 * (self.seen * n / total)
        return Moments(self.mean + gap * n / total, spread / total, total)

    def normalise(self, x: Array, clip: float = 10.0) -> Array:
        """(x - mean) / std, within clip: [..., D] -> [..., D]."""
        return jnp.clip((x - self.mean) / jnp.sqrt(self.var + 1e-8), -clip, clip)


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


def minibatch_rows(key: Array, rows: int, batch_size: int, epochs: int) -> Array:
    """Shuffled row numbers: every epoch uses each row at most once [G, B].

    What does not fill a batch is left out of that epoch. A rollout smaller than a batch
    is one batch.
    """
    size = min(batch_size, rows)
    count = rows // size

    def shuffle(key: Array) -> Array:
        return jax.random.permutation(key, rows)[: count * size].reshape(count, size)

    return jax.vmap(shuffle)(jax.random.split(key, epochs)).reshape(-1, size)
