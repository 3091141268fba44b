"""SiMPO, Signed Measure Policy Optimization (arXiv 2603.10250; v2: GeMPO).

Critics      y = r + gamma (1 - terminated) min_k Qbar_k(s', a'),  a' ~ pi_theta(s')
Stage I      a_1..a_N ~ pi_old(s),  w_i = N g((Q(s, a_i) - nu(s)) / lambda),  mean w = 1
Stage II     theta minimises  mean_i w_i || f_theta(x_t^i, t, s) - target^i ||^2
Temperature  lambda rises while the weights use more divergence than the target
Behaviour    pi_old <- pi_theta every `behaviour_interval` updates

Algorithm 1 of the paper. Weights may be negative; no gradient flows through them.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.agents.base import Agent, Mode, Policy, descend
from simpo.bellman import Aggregate, critic_loss, polyak, td_target
from simpo.generative import Diffusion, GenerativeModel
from simpo.matching import ClippedError, RepulsionBound, policy_improvement
from simpo.networks import Activation, Critics, Denoiser
from simpo.randomness import normal
from simpo.temperature import DualAscent, Temperature
from simpo.types import EnvSpec, Metrics, PyTree, SimpoError, Transition
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


@dataclass(frozen=True)
class SiMPO(Agent):
    """Signed measure policy optimization; the defaults are the paper's protocol."""

    weighting: Weighting = Linear(floor=-0.2)  # noqa: RUF009
    """Stage I: from values to signed weights."""
    temperature: Temperature = DualAscent()  # noqa: RUF009
    """How lambda is chosen."""
    model: GenerativeModel = Diffusion()  # noqa: RUF009
    """Stage II: the generative model of actions, with its sampler and steps."""
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
    target_critic: Aggregate = Aggregate.MIN
    """How the target critics' values are joined in y."""
    target_samples: int = 1
    """Best-of-n in y, scored by the target critics."""
    acting_samples: int = 1
    """Best-of-n while collecting."""
    acting_noise: float = 0.0
    """Standard deviation of noise while collecting, clipped to the box."""
    best_of: int = 10
    """Best-of-n reported by evaluations beside the single sample."""
    batch_size: int = 256
    """B, transitions per update."""
    gamma: float = 0.99
    """Discount factor."""
    tau: float = 0.005
    """Rate of the target critics' moving average."""
    reward_scale: float = 1.0
    """Factor on rewards in y."""
    actor_lr: float = 3e-4
    """Adam's learning rate of the actor, at the start."""
    actor_lr_end: float = 3e-5
    """The same after `actor_lr_updates` updates, reached linearly."""
    actor_lr_updates: int = 200_000
    """Length of the annealing; 0 keeps the rate constant."""
    critic_lr: float = 3e-4
    """Adam's learning rate of the critics."""
    max_grad_norm: float | None = None
    """Clip of the global gradient norm, actor and critics each; None for none."""
    width: int = 256
    """Units per hidden layer of the actor."""
    depth: int = 3
    """Hidden layers of the actor."""
    activation: Activation = "mish"
    """Activation of the actor."""
    critics: int = 2
    """K, number of critics."""
    critic_width: int = 256
    """Units per hidden layer of the critics."""
    critic_depth: int = 3
    """Hidden layers of the critics."""
    critic_activation: Activation = "mish"
    """Activation of the critics."""

    def __post_init__(self) -> None:
        """Reject impossible settings.

        Raises:
            SimpoError: A number out of range, or a target no weights can reach.
        """
        counts = ("candidates", "batch_size", "target_samples", "acting_samples")
        layers = ("width", "depth", "critic_width", "critic_depth", "critics")
        for name in (*counts, *layers, "best_of", "behaviour_interval"):
            if getattr(self, name) < 1:
                raise SimpoError(f"{name} must be at least 1")
        for name in ("candidate_noise", "acting_noise", "actor_lr_updates"):
            if not getattr(self, name) >= 0:
                raise SimpoError(f"{name} must not be negative")
        for name in ("actor_lr", "critic_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise SimpoError(f"{name} must be positive and finite")
        for name in ("gamma", "tau"):
            if not 0 <= getattr(self, name) <= 1:
                raise SimpoError(f"{name} must be between 0 and 1")
        self.temperature.check(self.weighting, self.candidates)

    @property
    def collecting(self) -> Mode:
        """How actions are drawn while collecting."""
        return Mode(self.acting_samples, self.acting_noise)

    @property
    def evaluating(self) -> tuple[Mode, ...]:
        """A single sample and best-of-n."""
        modes = (Mode(), Mode(best_of=self.best_of))
        return modes if self.best_of > 1 else modes[:1]

    def init(self, key: Array, spec: EnvSpec) -> SimpoState:
        """Fresh networks, optimisers and temperature."""
        actor_key, critic_key, run_key = jax.random.split(key, 3)
        actor = Denoiser.init(
            actor_key,
            spec.action_dim,
            spec.obs_dim,
            width=self.width,
            depth=self.depth,
            activation=self.activation,
        )
        critics = Critics.init(
            critic_key,
            spec.obs_dim,
            spec.action_dim,
            critics=self.critics,
            width=self.critic_width,
            depth=self.critic_depth,
            activation=self.critic_activation,
        )
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

    @property
    def actor_rate(self) -> optax.Schedule:
        """The actor's learning rate by update."""
        if self.actor_lr_updates == 0:
            return optax.constant_schedule(self.actor_lr)
        return optax.linear_schedule(
            self.actor_lr, self.actor_lr_end, self.actor_lr_updates
        )

    @property
    def actor_optimiser(self) -> optax.GradientTransformation:
        """Adam, annealed linearly."""
        return self.adam(self.actor_rate)

    @property
    def critic_optimiser(self) -> optax.GradientTransformation:
        """Adam at a constant rate."""
        return self.adam(self.critic_lr)

    def adam(self, rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        """Adam behind the gradient clip, if any."""
        if self.max_grad_norm is None:
            return optax.adam(rate)
        return optax.chain(
            optax.clip_by_global_norm(self.max_grad_norm), optax.adam(rate)
        )

    def policy(self, state: SimpoState) -> Policy:
        """Actor and critics."""
        return Policy(state.actor, state.critics)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """One sample, or the best of n by min Q: obs [B, O] -> [B, A]."""
        sample_key, noise_key = jax.random.split(key)
        action, _ = self.best(
            policy.actor, policy.critics, obs, sample_key, mode.best_of
        )
        if mode.noise:
            noise = mode.noise * normal(noise_key, action.shape)
            action = jnp.clip(action + noise, -1.0, 1.0)
        return action

    def best(
        self, actor: Denoiser, critics: Critics, obs: Array, key: Array, n: int
    ) -> tuple[Array, Array]:
        """Best of n samples by min Q, with all critics' values: [B, A], [K, B]."""
        actions = self.model.sample(actor, key, obs, n)
        q = critics.candidates(obs, actions)
        choice = jnp.argmax(q.min(axis=0), axis=-1)[:, None]
        action = jnp.take_along_axis(actions, choice[..., None], axis=1)[:, 0]
        return action, jnp.take_along_axis(q, choice[None], axis=2)[..., 0]

    def update(
        self, state: SimpoState, batch: Transition
    ) -> tuple[SimpoState, Metrics]:
        """Algorithm 1: one step of critics, actor and temperature."""
        key = jax.random.fold_in(state.key, state.step)
        target_key, sample_key, match_key = jax.random.split(key, 3)
        copy_now = state.step % self.behaviour_interval == 0
        behaviour = jax.tree.map(
            lambda old, new: jnp.where(copy_now, new, old), state.behaviour, state.actor
        )
        critics, critic_opt, critic_metrics = self.update_critics(
            state, batch, target_key
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
        return new, critic_metrics | improvement.metrics | rate

    def draw_candidates(self, behaviour: Denoiser, obs: Array, key: Array) -> Array:
        """N actions per state of the behaviour policy, inside the box: [B, N, A]."""
        sample_key, noise_key = jax.random.split(key)
        actions = self.model.sample(behaviour, sample_key, obs, self.candidates)
        if not self.candidate_noise:
            return actions
        noise = self.candidate_noise * normal(noise_key, actions.shape)
        return jnp.clip(actions + noise, -1.0, 1.0)

    def explain(self, state: SimpoState, obs: Array, key: Array) -> tuple[Array, Array]:
        """Values and signed weights [B, N] of candidates at obs [B, O]."""
        candidates = self.draw_candidates(state.behaviour, obs, key)
        q = self.weight_critic(state.critics.candidates(obs, candidates))
        weights, _, _ = self.temperature.weigh(state.temperature, self.weighting, q)
        return q, weights.values

    def update_critics(
        self, state: SimpoState, batch: Transition, key: Array
    ) -> tuple[Critics, PyTree, Metrics]:
        """One Adam step towards y; a' by the online actor, best of `target_samples`."""
        _, next_q = self.best(
            state.actor, state.target_critics, batch.next_obs, key, self.target_samples
        )
        target = td_target(
            self.reward_scale * batch.reward,
            self.gamma * batch.discount,
            self.target_critic(next_q),
        )

        def loss(critics: Critics) -> tuple[Array, Array]:
            q = critics(batch.obs, batch.action)
            return critic_loss(q, target), q.mean()

        (value, q_mean), grads = jax.value_and_grad(loss, has_aux=True)(state.critics)
        critics, opt = descend(
            self.critic_optimiser, grads, state.critic_opt, state.critics
        )
        metrics = {
            "critic_loss": value,
            "critic_grad_norm": optax.tree.norm(grads),
            "q_mean": q_mean,
            "q_target": target.mean(),
        }
        return critics, opt, metrics
