"""Critics that are known functions of state and action, and agents that learn them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from simpo.agents import compile_init, compile_updates
from simpo.agents.reverse import ReverseState
from simpo.types import EnvSpec, Transition


class Known(eqx.Module):
    """Q_k(s, a) = value(s, a) + offset_k; the offsets are what training may change."""

    value: Callable[[Any, Any], Any] = eqx.field(static=True)
    offset: jax.Array

    @staticmethod
    def of(value, offset=(0.0, 0.0)):
        return Known(value, jnp.asarray(offset, jnp.float32))

    def __call__(self, obs, action):
        return self.offset[:, None] + self.value(obs, action)

    def candidates(self, obs, actions):
        return self.offset[:, None, None] + self.value(obs[:, None], actions)


def bowl(centre, width):
    """The logarithm of a Gaussian around `centre` + s, up to a constant."""
    return lambda s, a: -0.5 * jnp.sum(((a - s - centre) / width) ** 2, axis=-1)


def holding(critics, target_critics=None, temperature=()):
    """A state of which only critics and temperature are read."""
    nothing = dict.fromkeys(ReverseState._fields)
    return ReverseState(
        **nothing
        | {
            "critics": critics,
            "target_critics": target_critics or critics,
            "temperature": temperature,
        }
    )


def learn(agent, value, *, updates):
    """An agent's state after updates in which its critics are right from the start.

    States are uniform in [-0.1, 0.1], actions in the box, and episodes end at once.
    """
    rng = np.random.default_rng(0)
    state = compile_init(agent, EnvSpec(1, 1))(jax.random.key(0))
    critics = [Known.of(value) for _ in range(2)]
    state = state._replace(
        critics=critics[0],
        target_critics=critics[1],
        critic_opt=agent.critic_optimiser.init(critics[0]),
    )
    update = compile_updates(agent)
    lead = (100, agent.batch_size, 1)
    for _ in range(updates // 100):
        obs = rng.uniform(-0.1, 0.1, lead).astype(np.float32)
        action = rng.uniform(-1, 1, lead).astype(np.float32)
        reward = np.asarray(value(obs, action), np.float32)
        over = np.zeros_like(reward)
        state, metrics = update(state, Transition(obs, action, reward, over, obs))
    return state, metrics
