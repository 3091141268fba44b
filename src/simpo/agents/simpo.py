"""SiMPO, Signed Measure Policy Optimization (arXiv 2603.10250; v2: GeMPO).

Critics      y = r + gamma (1 - terminated) min_k Qbar_k(s', a'),  a' ~ pi_theta(s')
Stage I      a_1..a_N ~ pi_old(s),  w_i = N g((Q(s, a_i) - nu(s)) / lambda),  mean w = 1
Stage II     theta minimises  mean_i w_i || f_theta(x_t^i, t, s) - target^i ||^2
Temperature  lambda rises while the weights use more divergence than the target
Behaviour    pi_old <- pi_theta every `behaviour_interval` updates

Algorithm 1 of the paper. Weights may be negative; no gradient flows through them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from simpo.agents.base import (
    COUNT,
    NOT_NEGATIVE,
    Mode,
    Policy,
    descend,
    step_key,
)
from simpo.agents.offpolicy import Generative, perturb
from simpo.bellman import Aggregate, polyak
from simpo.matching import (
    ClippedError,
    RepulsionBound,
    candidate_metrics,
    policy_improvement,
)
from simpo.networks import Critics, Denoiser
from simpo.temperature import DualAscent, Temperature
from simpo.types import EnvSpec, Metrics, PyTree, Transition
from simpo.weighting import Linear, Weighting

__all__ = ["SiMPO", "SimpoState"]


class SimpoState(NamedTuple):
    """Everything that training changes."""

    actor: Denoiser
    behaviour: Denoiser
    critics: Critics
    target_critics: Critics
    actor_opt: PyTree
    critic_opt: PyTree
    temperature: PyTree
    key: Array
    step: Array


@dataclass(frozen=True, kw_only=True)
class SiMPO(Generative):
    """Signed measure policy optimization; the defaults are the paper's protocol."""

    weighting: Weighting = Linear(floor=-0.2)  # noqa: RUF009
    """Stage I: from values to signed weights."""
    temperature: Temperature = DualAscent()  # noqa: RUF009
    """How lambda is chosen."""
    bound: RepulsionBound = ClippedError()  # noqa: RUF009
    """What bounds the repulsion of negative weights."""
    candidates: int = 32
    """N, candidate actions per state."""
    candidate_noise: float = 0.0
    """Standard deviation of noise on candidates, clipped to the box afterwards."""
    behaviour_interval: int = 1000
    """Updates between copies of the actor into the behaviour policy."""
    weight_critic: Aggregate = Aggregate.MEAN
    """How the critics' values of candidates are joined."""
    actor_lr_updates: int = 200_000
    """Length of the annealing, in updates; 0 keeps the rate constant."""

    def check(self) -> None:
        """Require candidates, and a target within reach of them."""
        COUNT.require(self, "candidates", "behaviour_interval")
        NOT_NEGATIVE.require(self, "candidate_noise")
        self.temperature.check(self.weighting, self.candidates)

    def init(self, key: Array, spec: EnvSpec) -> SimpoState:
        """Fresh networks, optimisers and temperature."""
        actor_key, critic_key, run_key = jax.random.split(key, 3)
        actor = self.init_actor(actor_key, spec)
        critics = self.init_critics(critic_key, spec)
        return SimpoState(
            actor=actor,
            behaviour=jax.tree.map(jnp.copy, actor),
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            actor_opt=self.actor_optimiser.init(actor),  # pyright: ignore[reportArgumentType]
            critic_opt=self.critic_optimiser.init(critics),  # pyright: ignore[reportArgumentType]
            temperature=self.temperature.init(),
            key=run_key,
            step=jnp.zeros((), jnp.int32),
        )

    def policy(self, state: SimpoState) -> Policy:
        """Actor and critics."""
        return Policy(state.actor, state.critics)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """One sample, or the best of n by min Q: obs [B, O] -> [B, A]."""
        return self.act_by_model(policy, obs, key, mode)

    def update(
        self, state: SimpoState, batch: Transition
    ) -> tuple[SimpoState, Metrics]:
        """Algorithm 1: one step of critics, actor and temperature."""
        target_key, sample_key, match_key = jax.random.split(step_key(state), 3)
        copy_now = state.step % self.behaviour_interval == 0
        behaviour = jax.tree.map(
            lambda old, new: jnp.where(copy_now, new, old), state.behaviour, state.actor
        )
        critics, critic_opt, critic_metrics = self.policy_evaluation(
            state.actor, state, batch, target_key
        )

        candidates = self.draw_candidates(behaviour, batch.obs, sample_key)
        q = self.weight_critic(critics.candidates(batch.obs, candidates))
        improvement = policy_improvement(
            self.model,
            self.weighting,
            self.temperature,
            self.bound,
            net=state.actor,
            temperature_state=state.temperature,
            key=match_key,
            candidates=candidates,
            q=q,
            cond=batch.obs,
            step=state.step,
        )
        actor, actor_opt = descend(
            self.actor_optimiser, improvement.grads, state.actor_opt, state.actor
        )
        new = SimpoState(
            actor=actor,
            behaviour=behaviour,
            critics=critics,
            target_critics=polyak(state.target_critics, critics, self.tau),
            actor_opt=actor_opt,
            critic_opt=critic_opt,
            temperature=improvement.temperature_state,
            key=state.key,
            step=state.step + 1,
        )
        rate = {"learning_rate": jnp.asarray(self.actor_rate(state.step))}
        spread = candidate_metrics(candidates)
        return new, critic_metrics | improvement.metrics | spread | rate

    def draw_candidates(self, behaviour: Denoiser, obs: Array, key: Array) -> Array:
        """N actions per state of the behaviour policy, inside the box: [B, N, A]."""
        sample_key, noise_key = jax.random.split(key)
        actions = self.model.sample(behaviour, sample_key, obs, self.candidates)
        return perturb(actions, noise_key, self.candidate_noise)

    def explain(self, state: SimpoState, obs: Array, key: Array) -> tuple[Array, Array]:
        """Values and signed weights [B, N] of candidates at obs [B, O]."""
        candidates = self.draw_candidates(state.behaviour, obs, key)
        q = self.weight_critic(state.critics.candidates(obs, candidates))
        weights, _, _ = self.temperature.weigh(state.temperature, self.weighting, q)
        return q, weights.values
