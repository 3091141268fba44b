"""Agents that weigh proposals for the clean action behind a noised one.

Goal       pi(a|s) = exp(Q(s, a) / lambda) / Z(s): maximum entropy, no policy gradient
Critics    y = r + gamma (1 - terminated) min_k Qbar_k(s', a'),  a' ~ pi_theta(s')
Noised     x_t = alpha a + sigma eps, a from replay
Proposals  a_i = (x_t - sigma eps_i) / alpha inside the box, i = 1..N
Weights    w_i = N softmax_i(Q(s, a_i) / lambda): they make a_i samples of p(a | x_t)
Actor      theta minimises  || eps_theta(x_t, t, s) - eps* ||^2

SDAC and iDEM differ in eps* alone. Weights of mean one already average, so nothing is
divided by N once more; and the mean of w_i || eps_theta - eps_i ||^2 has the gradient
of one error against mean_i w_i eps_i, so the network runs once per state.
"""

import abc
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.agents.base import COUNT, Mode, Policy, descend, step_key
from simpo.agents.offpolicy import Generative
from simpo.agents.scores import Noised, add_noise, fit_noise, require_noise
from simpo.bellman import Aggregate, polyak
from simpo.generative import Diffusion
from simpo.networks import Critics, Denoiser
from simpo.temperature import Fixed, Temperature
from simpo.types import EnvSpec, Metrics, PyTree, Transition
from simpo.weighting import Exponential, Weights, weight_metrics

__all__ = ["ReverseSampling", "ReverseState", "ReverseTarget"]


class ReverseState(NamedTuple):
    """Everything that training changes."""

    actor: Denoiser
    critics: Critics
    target_critics: Critics
    actor_opt: PyTree
    critic_opt: PyTree
    temperature: PyTree
    key: Array
    step: Array


class ReverseTarget(NamedTuple):
    """What the actor is fitted to, and what it was made of.

    Attributes:
        noise: eps* [B, A].
        q: Values of the proposals [B, N].
        weights: Their weights [B, N].
        temperature: lambda, in the units of q, [].
        temperature_state: The temperature's next state.
        metrics: The agent's own; all [].
    """

    noise: Array
    q: Array
    weights: Weights
    temperature: Array
    temperature_state: PyTree
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class ReverseSampling(Generative):
    """Agents that weigh proposals for the clean action behind a noised one."""

    model: Diffusion = Diffusion()  # noqa: RUF009
    """The diffusion model of actions; its network predicts noise."""
    proposals: int = 64
    """N, clean actions proposed per state; the released SDAC's. The port uses 500."""
    temperature: Temperature = Fixed(0.05)  # noqa: RUF009
    """How lambda is chosen; a target bounds the divergence from the proposals."""
    weight_critic: Aggregate = Aggregate.MIN
    """How the critics' values of proposals are joined."""
    from_replay: bool = True
    """x_t is noised from the replay's action, or else from one of the policy itself,
    drawn as while collecting (the released code of SDAC)."""

    @abc.abstractmethod
    def target(
        self, state: ReverseState, noised: Noised, obs: Array, key: Array
    ) -> ReverseTarget:
        """eps* at x_t [B, A] of states [B, O], by the state's critics; no gradient."""

    def check(self) -> None:
        """Require noise prediction, proposals, and a target within their reach."""
        require_noise(self.model)
        COUNT.require(self, "proposals")
        self.temperature.check(Exponential(), self.proposals)

    def init(self, key: Array, spec: EnvSpec) -> ReverseState:
        """Fresh networks, optimisers and temperature."""
        actor_key, critic_key, run_key = jax.random.split(key, 3)
        actor = self.init_actor(actor_key, spec)
        critics = self.init_critics(critic_key, spec)
        return ReverseState(
            actor=actor,
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            actor_opt=self.actor_optimiser.init(actor),  # pyright: ignore[reportArgumentType]
            critic_opt=self.critic_optimiser.init(critics),  # pyright: ignore[reportArgumentType]
            temperature=self.temperature.init(),
            key=run_key,
            step=jnp.zeros((), jnp.int32),
        )

    def policy(self, state: ReverseState) -> Policy:
        """Actor and critics."""
        return Policy(state.actor, state.critics)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """One sample, or the best of n by min Q: obs [B, O] -> [B, A]."""
        return self.act_by_model(policy, obs, key, mode)

    def explain(
        self, state: ReverseState, obs: Array, key: Array
    ) -> tuple[Array, Array]:
        """Values and weights [B, N] of proposals behind the policy's noised actions."""
        noise_key, propose_key, act_key = jax.random.split(key, 3)
        action = self.act(self.policy(state), obs, act_key, self.collecting)
        noised = add_noise(self.model, noise_key, action)
        target = self.target(state, noised, obs, propose_key)
        return target.q, target.weights.values

    def update(
        self, state: ReverseState, batch: Transition
    ) -> tuple[ReverseState, Metrics]:
        """One step of the critics, then of the actor towards eps*."""
        next_key, act_key, noise_key, propose_key = jax.random.split(step_key(state), 4)
        critics, critic_opt, critic_metrics = self.policy_evaluation(
            state.actor, state, batch, next_key
        )
        state = state._replace(
            critics=critics,
            target_critics=polyak(state.target_critics, critics, self.tau),
            critic_opt=critic_opt,
        )

        action = self.start(state, batch, act_key)
        noised = add_noise(self.model, noise_key, action)
        target = self.target(state, noised, batch.obs, propose_key)
        state, actor_metrics = self.fit_actor(state, noised, batch.obs, target)
        rate = {"learning_rate": jnp.asarray(self.actor_rate(state.step))}
        state = state._replace(step=state.step + 1)
        return state, critic_metrics | actor_metrics | target.metrics | rate

    def start(self, state: ReverseState, batch: Transition, key: Array) -> Array:
        """Actions to be noised [B, A]: the replay's, or the policy's own."""
        if self.from_replay:
            return batch.action
        return self.act(self.policy(state), batch.obs, key, self.collecting)

    def fit_actor(
        self, state: ReverseState, noised: Noised, obs: Array, target: ReverseTarget
    ) -> tuple[ReverseState, Metrics]:
        """One Adam step of the actor towards eps*, and the temperature's next state."""
        loss, grads = fit_noise(
            self.model, state.actor, noised, obs, lambda e: (e - target.noise) ** 2
        )
        actor, actor_opt = descend(
            self.actor_optimiser, grads, state.actor_opt, state.actor
        )
        metrics = weight_metrics(target.weights) | {
            "actor_loss": loss,
            "actor_grad_norm": optax.tree.norm(grads),
            "noise_target": jnp.abs(target.noise).mean(),
            "q_std_candidates": target.q.std(axis=-1).mean(),
            "temperature": target.temperature,
        }
        state = state._replace(
            actor=actor, actor_opt=actor_opt, temperature=target.temperature_state
        )
        return state, metrics
