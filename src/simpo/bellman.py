"""Critics: temporal-difference targets, their loss, averaged target networks.

y = r + gamma (1 - terminated) min_k Qbar_k(s', a'),   L = mean_k,B (Q_k(s, a) - y)^2

On policy, generalised advantages (Schulman et al. 2016):
A_t = delta_t + gamma lambda (1 - last_t) A_{t+1},
delta_t = r_t + gamma (1 - terminated_t) V(s_{t+1}) - V(s_t).
"""

import enum

import jax
import jax.numpy as jnp
from jax import Array

from simpo.types import PyTree

__all__ = ["Aggregate", "advantages", "critic_loss", "polyak", "td_target"]


class Aggregate(enum.Enum):
    """How K critics become one value."""

    MEAN = "mean"
    MIN = "min"

    def __call__(self, q: Array) -> Array:
        """Values [K, ...] -> [...]."""
        return q.min(axis=0) if self is Aggregate.MIN else q.mean(axis=0)


def td_target(reward: Array, discount: Array, next_value: Array) -> Array:
    """One-step target; all [B], `discount` is gamma times (1 - terminated)."""
    return jax.lax.stop_gradient(reward + discount * next_value)


def critic_loss(q: Array, target: Array) -> Array:
    """Mean squared error of K critics [K, B] against a target [B]: [].

    The mean over critics is half the usual sum for K = 2; Adam does not see a factor.
    """
    return jnp.mean((q - target) ** 2)


def polyak(target: PyTree, online: PyTree, tau: float) -> PyTree:
    """Moving average (1 - tau) target + tau online, leaf by leaf."""
    return jax.tree.map(lambda t, o: t + tau * (o - t), target, online)


def advantages(
    reward: Array,
    discount: Array,
    last: Array,
    value: Array,
    next_value: Array,
    decay: float,
) -> Array:
    """Generalised advantage estimates; all arrays [T, E].

    Args:
        reward: Rewards.
        discount: gamma times (1 - terminated).
        last: 1 where an episode ended, by termination or truncation.
        value: V(s_t).
        next_value: V of the state that followed, also where the episode was cut.
        decay: gamma times lambda.
    """
    delta = reward + discount * next_value - value

    def step(later: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, last = row
        here = delta + decay * (1 - last) * later
        return here, here

    start = jnp.zeros(reward.shape[1:])
    return jax.lax.scan(step, start, (delta, last), reverse=True)[1]
