"""TD3, Twin Delayed Deep Deterministic policy gradient (arXiv 1802.09477, Algorithm 1).

Policy       a = tanh(f_theta(s))
Smoothing    a' = clip(pibar(s') + clip(noise, -limit, limit), -1, 1)
Critics      y = r + gamma (1 - terminated) min_k Qbar_k(s', a')
Actor        theta maximises  Q_1(s, pi_theta(s)), every `policy_interval` updates
Targets      actor and critics, moving averages, every `policy_interval` updates

The gradient of the actor is computed only when it is due.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.agents.base import COUNT, NOT_NEGATIVE, Mode, Policy, descend, step_key
from simpo.agents.offpolicy import OffPolicy, perturb
from simpo.bellman import polyak
from simpo.networks import MLP, Activation, Critics, fan_in_uniform
from simpo.randomness import normal
from simpo.types import EnvSpec, Metrics, PyTree, SimpoError, Transition

__all__ = ["TD3", "Delayed", "Td3State"]


class Delayed(NamedTuple):
    """What changes every `policy_interval` updates.

    Attributes:
        actor: The policy.
        target_actor: Its moving average.
        target_critics: Moving average of the critics.
        actor_opt: Adam's state.
        loss: The actor's loss at its last step [].
        grad_norm: Norm of its gradient then [].
    """

    actor: MLP
    target_actor: MLP
    target_critics: Critics
    actor_opt: PyTree
    loss: Array
    grad_norm: Array


class Td3State(NamedTuple):
    """Everything that training changes."""

    delayed: Delayed
    critics: Critics
    critic_opt: PyTree
    key: Array
    step: Array


@dataclass(frozen=True, kw_only=True)
class TD3(OffPolicy):
    """Twin delayed DDPG; the defaults are those of the authors' code."""

    target_noise: float = 0.2
    """Standard deviation of the noise on target actions."""
    target_noise_limit: float = 0.5
    """Bound on that noise."""
    policy_interval: int = 2
    """Critic updates per update of the actor and of all targets."""
    policy_critics: int = 1
    """The actor maximises the mean of the first so many critics; all is the port's."""
    acting_noise: float = 0.1
    """Standard deviation of noise while collecting, clipped to the box."""
    depth: int = 2
    """Hidden layers of the actor."""
    critic_depth: int = 2
    """Hidden layers of the critics."""
    activation: Activation = "relu"
    """Activation of the actor."""
    critic_activation: Activation = "relu"
    """Activation of the critics."""

    def check(self) -> None:
        """Require an interval, noise that is not negative, critics to climb."""
        COUNT.require(self, "policy_interval", "policy_critics")
        NOT_NEGATIVE.require(self, "target_noise", "target_noise_limit")
        if self.policy_critics > self.critics:
            raise SimpoError(
                f"policy_critics must not exceed the {self.critics} critics"
            )

    @property
    def collecting(self) -> Mode:
        """The action with noise."""
        return Mode(noise=self.acting_noise)

    @property
    def evaluating(self) -> tuple[Mode, ...]:
        """The action."""
        return (Mode(deterministic=True),)

    def init(self, key: Array, spec: EnvSpec) -> Td3State:
        """Fresh networks and optimisers."""
        actor_key, critic_key, run_key = jax.random.split(key, 3)
        actor = self.init_mlp(actor_key, *spec, initialiser=fan_in_uniform)
        critics = self.init_critics(critic_key, spec, initialiser=fan_in_uniform)
        delayed = Delayed(
            actor=actor,
            target_actor=jax.tree.map(jnp.copy, actor),
            target_critics=jax.tree.map(jnp.copy, critics),
            actor_opt=self.actor_optimiser.init(actor),  # pyright: ignore[reportArgumentType]
            loss=jnp.zeros(()),
            grad_norm=jnp.zeros(()),
        )
        return Td3State(
            delayed=delayed,
            critics=critics,
            critic_opt=self.critic_optimiser.init(critics),  # pyright: ignore[reportArgumentType]
            key=run_key,
            step=jnp.zeros((), jnp.int32),
        )

    def policy(self, state: Td3State) -> Policy:
        """Actor and critics."""
        return Policy(state.delayed.actor, state.critics)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """The policy's one action, with noise if asked: obs [B, O] -> [B, A]."""
        return perturb(jnp.tanh(policy.actor(obs)), key, mode.noise)

    def explain(self, state: Td3State, obs: Array, key: Array) -> None:
        """None: no candidates are weighted."""

    def update(self, state: Td3State, batch: Transition) -> tuple[Td3State, Metrics]:
        """One step of the critics and, when it is due, of actor and targets."""
        old = state.delayed
        next_action = self.smoothed(old.target_actor, batch.next_obs, step_key(state))
        next_q = self.target_critic(old.target_critics(batch.next_obs, next_action))
        critics, critic_opt, metrics = self.fit_critics(
            state.critics, state.critic_opt, batch, next_q
        )
        delayed = jax.lax.cond(
            state.step % self.policy_interval == 0,
            lambda: self.improve(old, critics, batch.obs),
            lambda: old,
        )
        metrics |= {
            "actor_loss": delayed.loss,
            "actor_grad_norm": delayed.grad_norm,
            "learning_rate": jnp.asarray(
                self.actor_rate(state.step // self.policy_interval)
            ),
        }
        return Td3State(
            delayed, critics, critic_opt, state.key, state.step + 1
        ), metrics

    def smoothed(self, actor: MLP, obs: Array, key: Array) -> Array:
        """Target policy smoothing: obs [B, O] -> [B, A] (Section 5.3)."""
        action = jnp.tanh(actor(obs))
        noise = self.target_noise * normal(key, action.shape)
        limit = self.target_noise_limit
        return jnp.clip(action + jnp.clip(noise, -limit, limit), -1.0, 1.0)

    def improve(self, old: Delayed, critics: Critics, obs: Array) -> Delayed:
        """One step of the actor up Q_1, then of all targets."""
        climbed = jax.tree.map(lambda x: x[: self.policy_critics], critics)

        def loss(actor: MLP) -> Array:
            return -climbed(obs, jnp.tanh(actor(obs))).mean()

        value, grads = jax.value_and_grad(loss)(old.actor)
        actor, actor_opt = descend(
            self.actor_optimiser, grads, old.actor_opt, old.actor
        )
        return Delayed(
            actor=actor,
            target_actor=polyak(old.target_actor, actor, self.tau),
            target_critics=polyak(old.target_critics, critics, self.tau),
            actor_opt=actor_opt,
            loss=value,
            grad_norm=optax.tree.norm(grads),
        )
