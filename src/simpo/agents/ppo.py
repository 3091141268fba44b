"""PPO, proximal policy optimization with a Gaussian policy (arXiv 1707.06347).

Policy     a ~ N(mu(s), diag(sigma^2)),  log sigma a vector that no state changes
Actor      L = - mean min(r A, clip(r, 1 - c, 1 + c) A) - h H(pi),
           r = pi(a | s) / pi_old(a | s)
Critic     L = mean (V(s) - y)^2,   y = A + V_old(s)

The ratio is that of the action as it was drawn; the environment clips it to the box.
Advantages are normalised in every minibatch.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.agents.base import NOT_NEGATIVE, POSITIVE, Mode, Policy
from simpo.agents.offpolicy import perturb
from simpo.agents.onpolicy import (
    OnPolicy,
    OnPolicyState,
    clipped_surrogate,
    gaussian_log_prob,
    standardise,
)
from simpo.networks import MLP
from simpo.randomness import normal
from simpo.types import EnvSpec, Metrics, Rollout

__all__ = ["PPO", "Gaussian"]


class Gaussian(NamedTuple):
    """A Gaussian policy.

    Attributes:
        mean: mu(s), [..., O] -> [..., A].
        log_std: log sigma [A].
    """

    mean: MLP
    log_std: Array

    def log_prob(self, obs: Array, action: Array) -> Array:
        """Log pi(a | s) of actions [B, A] at obs [B, O]: [B]."""
        return gaussian_log_prob(action, self.mean(obs), self.log_std).sum(axis=-1)

    def entropy(self) -> Array:
        """H(pi), the same in every state: []."""
        return (self.log_std + 0.5 * np.log(2.0 * np.pi * np.e)).sum()


@dataclass(frozen=True, kw_only=True)
class PPO(OnPolicy):
    """Proximal policy optimization; the defaults are those usual for MuJoCo."""

    batch_size: int = 64
    """B, steps per gradient step."""
    width: int = 64
    """Units per hidden layer of the actor."""
    depth: int = 2
    """Hidden layers of the actor."""
    critic_width: int = 64
    """Units per hidden layer of the critic."""
    critic_depth: int = 2
    """Hidden layers of the critic."""
    head_scale: float = 0.01
    """Factor on the actor's last layer at the start, so that it starts from zero."""
    log_std_init: float = 0.0
    """log sigma at the start."""
    entropy_coefficient: float = 0.0
    """h, weight of the entropy bonus."""

    def check(self) -> None:
        """Require numbers in range."""
        self.check_rollouts()
        POSITIVE.require(self, "head_scale")
        NOT_NEGATIVE.require(self, "entropy_coefficient")

    def init(self, key: Array, spec: EnvSpec) -> OnPolicyState:
        """Fresh networks and optimisers, and moments of nothing."""
        actor_key, state_key = jax.random.split(key)
        mean = self.init_mlp(actor_key, *spec, head_scale=self.head_scale)
        log_std = jnp.full(spec.action_dim, self.log_std_init, jnp.float32)
        return self.init_state(Gaussian(mean, log_std), state_key, spec)

    def decide(self, policy: Policy, obs: Array, key: Array) -> Array:
        """A sample as it was drawn, not clipped: obs [B, O] -> [B, A]."""
        net: Gaussian = policy.actor.net
        mean = net.mean(self.observe(policy.actor, obs))
        return mean + jnp.exp(net.log_std) * normal(key, mean.shape)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """A sample or the mean, in the box: obs [B, O] -> [B, A].

        Raises:
            SimpoError: The mode asks for the best of several actions.
        """
        self.refuse_best_of(mode)
        key, noise_key = jax.random.split(key)
        if mode.deterministic:
            action = policy.actor.net.mean(self.observe(policy.actor, obs))
        else:
            action = self.decide(policy, obs, key)
        return perturb(jnp.clip(action, -1.0, 1.0), noise_key, mode.noise)

    def update(
        self, state: OnPolicyState, batch: Rollout
    ) -> tuple[OnPolicyState, Metrics]:
        """Epochs of the clipped surrogate on a rollout [T, E, ...]."""
        state, samples = self.estimate(state, batch)
        obs, action = samples.obs, samples.decision
        old_log_prob = state.actor.net.log_prob(obs, action)

        def actor_loss(net: Gaussian, rows: Array) -> tuple[Array, Metrics]:
            surrogate, metrics = clipped_surrogate(
                net.log_prob(obs[rows], action[rows]),
                old_log_prob[rows],
                standardise(samples.advantage[rows]),
                self.clip_range,
            )
            entropy = net.entropy()
            metrics |= {"entropy": entropy, "policy_std": jnp.exp(net.log_std).mean()}
            return surrogate - self.entropy_coefficient * entropy, metrics

        state, metrics = self.learn(state, batch, samples, actor_loss)
        outside = (jnp.abs(action) >= 1.0).mean(dtype=float)
        return state, metrics | {"edge_fraction": outside}
