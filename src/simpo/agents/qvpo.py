"""QVPO, Q-weighted variational policy optimization (arXiv 2405.16173).

Critics   y = r + gamma (1 - terminated) min_k Qbar_k(s', a'),
          a' the best of 4 samples of the averaged actor by min_k Qbar_k
Weights   a_1..a_N ~ pi_theta(s),  q = min_k Q_k,  w_i = max(q_i - mean q, 0)
          and of these the best action alone, w* = max_i w_i
Entropy   u_1..u_M ~ U[-1, 1]^A, each of weight eta sum_i w_i, eta annealed
Actor     min_theta  mean w || f_theta(x_t, t, s) - target ||^2  over all of them
Averages  of critics and actor, every update

Ding et al. 2024: the transform "qadv" of the released code. Acting takes the best of 4
samples by min_k Q_k, evaluation of 32. SiMPO's Example 3.2 weighs all N candidates
(`best_only=False`): `Linear` with the multiplier fixed at V instead of normalised.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.agents.base import COUNT, NOT_NEGATIVE, Mode, Policy, descend, step_key
from simpo.agents.offpolicy import Generative
from simpo.bellman import Aggregate, polyak
from simpo.blocks import mean_over_blocks
from simpo.matching import Unbounded, matching_loss
from simpo.networks import Critics, Denoiser
from simpo.randomness import uniform
from simpo.types import EnvSpec, Metrics, PyTree, Transition
from simpo.weighting import Advantage, Weights, weight_metrics

__all__ = ["QVPO", "QvpoState"]


class QvpoState(NamedTuple):
    """Everything that training changes."""

    actor: Denoiser
    target_actor: Denoiser
    critics: Critics
    target_critics: Critics
    actor_opt: PyTree
    critic_opt: PyTree
    key: Array
    step: Array


@dataclass(frozen=True, kw_only=True)
class QVPO(Generative):
    """Q-weighted variational policy optimization; the defaults are the released code's.

    flow-rl's version: `weight_critic=Aggregate.MEAN, target_samples=2,
    acting_samples=1, actor_lr=3e-4, max_grad_norm=None` and a constant eta of 0.01.
    """

    candidates: int = 64
    """N, candidate actions per state."""
    best_only: bool = True
    """Learn from the best candidate of a state alone, or from all of them."""
    weight_critic: Aggregate = Aggregate.MIN
    """How the critics' values of candidates are joined."""
    uniform_actions: int = 10
    """M, uniform actions per state in the loss; 0 for none."""
    uniform_weight: float = 0.02
    """eta at the start."""
    uniform_weight_end: float = 0.002
    """Smallest eta."""
    uniform_weight_updates: int = 1_000_000
    """Updates in which eta would fall to zero, linearly: the length of a run."""
    target_samples: int = 4
    """Best-of-n in y, scored by the target critics."""
    acting_samples: int = 4
    """Best-of-n while collecting."""
    best_of: int = 32
    """Best-of-n reported by evaluations beside the single sample."""
    actor_lr: float = 1e-4
    """Adam's learning rate of the actor, at the start."""
    max_grad_norm: float | None = 2.0
    """Clip of the global gradient norm, actor and critics each; None for none."""
    adam_eps: float = 1e-5
    """Adam's epsilon, actor and critics."""

    def check(self) -> None:
        """Require candidates, and weights that are not negative."""
        COUNT.require(self, "candidates", "uniform_weight_updates")
        NOT_NEGATIVE.require(
            self, "uniform_actions", "uniform_weight", "uniform_weight_end"
        )

    def init(self, key: Array, spec: EnvSpec) -> QvpoState:
        """Fresh networks and optimisers."""
        actor_key, critic_key, run_key = jax.random.split(key, 3)
        actor = self.init_actor(actor_key, spec)
        critics = self.init_critics(critic_key, spec)
        return QvpoState(
            actor=actor,
            target_actor=jax.tree.map(jnp.copy, actor),
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            actor_opt=self.actor_optimiser.init(actor),  # pyright: ignore[reportArgumentType]
            critic_opt=self.critic_optimiser.init(critics),  # pyright: ignore[reportArgumentType]
            key=run_key,
            step=jnp.zeros((), jnp.int32),
        )

    def policy(self, state: QvpoState) -> Policy:
        """Actor and critics."""
        return Policy(state.actor, state.critics)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """One sample, or the best of n by min Q: obs [B, O] -> [B, A]."""
        return self.act_by_model(policy, obs, key, mode)

    def update(self, state: QvpoState, batch: Transition) -> tuple[QvpoState, Metrics]:
        """One step of critics and actor, then of both averages."""
        target_key, sample_key, uniform_key, match_key = jax.random.split(
            step_key(state), 4
        )
        critics, critic_opt, critic_metrics = self.policy_evaluation(
            state.target_actor, state, batch, target_key
        )
        candidates, q = self.draw_candidates(
            state.actor, critics, batch.obs, sample_key
        )
        weights = Advantage()(q, 1.0)
        actions, values = self.choose(candidates, weights, uniform_key, state.step)
        (loss, error), grads = self.match(
            state.actor, match_key, actions, values, batch.obs
        )
        actor, actor_opt = descend(
            self.actor_optimiser, grads, state.actor_opt, state.actor
        )
        new = QvpoState(
            actor=actor,
            target_actor=polyak(state.target_actor, actor, self.tau),
            critics=critics,
            target_critics=polyak(state.target_critics, critics, self.tau),
            actor_opt=actor_opt,
            critic_opt=critic_opt,
            key=state.key,
            step=state.step + 1,
        )
        metrics = {
            "actor_loss": loss,
            "matching_error": error,
            "actor_grad_norm": optax.tree.norm(grads),
            "learning_rate": jnp.asarray(self.actor_rate(state.step)),
            "uniform_weight": self.eta(state.step),
            "q_std_candidates": q.std(axis=-1).mean(),
            "candidate_spread": candidates.std(axis=1).mean(),
        }
        return new, critic_metrics | weight_metrics(weights) | metrics

    def draw_candidates(
        self, actor: Denoiser, critics: Critics, obs: Array, key: Array
    ) -> tuple[Array, Array]:
        """N actions per state of the actor, and their values: [B, N, A], [B, N]."""
        actions = self.model.sample(actor, key, obs, self.candidates)
        return actions, self.weight_critic(critics.candidates(obs, actions))

    def eta(self, step: Array) -> Array:
        """Weight of uniform actions: linear in the updates done, then constant."""
        left = self.uniform_weight * (1.0 - step / self.uniform_weight_updates)
        least = min(self.uniform_weight_end, self.uniform_weight)
        return jnp.maximum(left, least)

    def choose(
        self, candidates: Array, weights: Weights, key: Array, step: Array
    ) -> tuple[Array, Array]:
        """What the actor learns from: the best or all candidates, and uniform actions.

        Args:
            candidates: [B, N, A].
            weights: Their advantages [B, N].
            key: Random key of the uniform actions.
            step: Updates done before this one.

        Returns:
            Actions and weights, [B, 1 + M, A] or [B, N + M, A], and the same without A.
        """
        actions, values = candidates, weights.values
        if self.best_only:
            best = jnp.argmax(values, axis=-1, keepdims=True)
            actions = jnp.take_along_axis(actions, best[..., None], axis=1)
            values = jnp.take_along_axis(values, best, axis=-1)
        shape = (candidates.shape[0], self.uniform_actions, candidates.shape[-1])
        anywhere = uniform(key, shape, low=-1.0, high=1.0)
        share = self.eta(step) * values.sum(axis=-1, keepdims=True)
        shares = jnp.broadcast_to(share, shape[:2])
        actions = jnp.concatenate([actions, anywhere], axis=1)
        return actions, jnp.concatenate([values, shares], axis=1)

    def match(
        self, actor: Denoiser, key: Array, actions: Array, weights: Array, obs: Array
    ) -> tuple[tuple[Array, Array], Denoiser]:
        """Matching loss of actions [B, N, A] with weights [B, N] at obs [B, O].

        Returns:
            ((loss [], unweighted error []), gradient with respect to the actor).
        """

        def loss(
            net: Denoiser, key: Array, x: Array, w: Array, cond: Array
        ) -> tuple[Array, Array]:
            model, unbounded = self.model, Unbounded()
            value, metrics = matching_loss(model, net, key, x, w, cond, unbounded)
            return value, metrics["matching_error"]

        gradient = functools.partial(jax.value_and_grad(loss, has_aux=True), actor)
        rows = weights.shape[-1]
        return mean_over_blocks(
            gradient, key, actions, weights, obs, rows_per_state=rows
        )

    def explain(self, state: QvpoState, obs: Array, key: Array) -> tuple[Array, Array]:
        """Values and weights [B, N] of candidates at obs [B, O].

        With `best_only` all weights are zero but that of the best.
        """
        _, q = self.draw_candidates(state.actor, state.critics, obs, key)
        weights = Advantage()(q, 1.0).values
        if self.best_only:
            best = jnp.argmax(weights, axis=-1)
            weights = weights * jax.nn.one_hot(best, self.candidates)
        return q, weights
