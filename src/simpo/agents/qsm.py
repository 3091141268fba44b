"""QSM, Q-score matching (arXiv 2312.11752): the policy's score is the critic's slope.

Critics   y = r + gamma (1 - terminated) min_k Qbar_k(s', a'),  a' ~ pi_theta(s')
Noised    x_t = alpha a + sigma eps, a from replay
Slope     g = dQ(s, x_t)/dx, at the noised action itself
Actor     eps_theta = -sigma score, so with score = g / lambda

NormalisedScore   || eps_theta + sigma g / (lambda mean|g|) ||^2   the port, the default
InnerProduct      <eps_theta, g>                                   the official code
SquareScore       || eps_theta + sigma g / lambda ||^2             the paper

Langevin dynamics, a third variant, fits one score S(s, a) to the slope at the replay's
action, without noise or time, and samples  a <- clip(a + delta/2 S + sqrt(delta) z).
Every sign follows from eps = -sigma score.
"""

import abc
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.agents.base import POSITIVE, SHARE, Mode, Policy, descend, step_key
from simpo.agents.offpolicy import Generative, best_action, perturb
from simpo.agents.scores import (
    Noised,
    action_gradients,
    add_noise,
    fit_noise,
    mean_size,
    require_noise,
)
from simpo.bellman import Aggregate, polyak
from simpo.blocks import map_blocks
from simpo.generative import Diffusion
from simpo.networks import Critics, Denoiser
from simpo.randomness import normal
from simpo.types import EnvSpec, Metrics, PyTree, SimpoError, Transition

__all__ = [
    "DYNAMICS",
    "QSM",
    "SCORE_LOSSES",
    "Denoising",
    "Dynamics",
    "InnerProduct",
    "Langevin",
    "NormalisedScore",
    "QsmState",
    "ScoreLoss",
    "SquareScore",
]


class ScoreLoss(abc.ABC):
    """What fits predicted noise to the slope of the critics."""

    @abc.abstractmethod
    def __call__(self, noise: Array, slope: Array, sigma: Array) -> Array:
        """Errors [B, A] of noise [B, A], slope g [B, A], noise level [B, 1]."""


def check_temperature(temperature: float) -> None:
    """Raise SimpoError unless a temperature is positive and finite."""
    if not 0 < temperature < float("inf"):
        raise SimpoError(f"temperature must be positive and finite, not {temperature}")


@dataclass(frozen=True)
class NormalisedScore(ScoreLoss):
    """Square error against the slope in units of the batch's mean |g|; the port's."""

    temperature: float = 0.1
    """lambda, in units of mean |g|."""

    def __post_init__(self) -> None:
        """Reject a temperature that is not positive."""
        check_temperature(self.temperature)

    def __call__(self, noise: Array, slope: Array, sigma: Array) -> Array:
        """(eps + sigma g / (lambda mean|g|))^2."""
        return (noise + sigma * slope / (self.temperature * mean_size(slope))) ** 2


@dataclass(frozen=True)
class InnerProduct(ScoreLoss):
    """The official public code's: linear, so the noise grows as long as it learns."""

    def __call__(self, noise: Array, slope: Array, sigma: Array) -> Array:
        """Eps times g: least where the score points up the slope."""
        return noise * slope


@dataclass(frozen=True)
class SquareScore(ScoreLoss):
    """Square error against the slope as it is; the paper's."""

    temperature: float = 1.0
    """lambda, in units of q."""

    def __post_init__(self) -> None:
        """Reject a temperature that is not positive."""
        check_temperature(self.temperature)

    def __call__(self, noise: Array, slope: Array, sigma: Array) -> Array:
        """(eps + sigma g / lambda)^2."""
        return (noise + sigma * slope / self.temperature) ** 2


class Dynamics(abc.ABC):
    """Where the score is fitted, and how actions are drawn by it."""

    @abc.abstractmethod
    def place(self, model: Diffusion, key: Array, action: Array) -> Noised:
        """Where to fit it, given actions of the replay [B, A]."""

    @abc.abstractmethod
    def sample(
        self, model: Diffusion, net: Denoiser, key: Array, obs: Array, n: int
    ) -> Array:
        """Draw n actions per state: obs [B, O] -> [B, N, A]."""


@dataclass(frozen=True)
class Denoising(Dynamics):
    """Scores of all noise levels, sampled by the agent's diffusion model."""

    def place(self, model: Diffusion, key: Array, action: Array) -> Noised:
        """At a random time."""
        return add_noise(model, key, action)

    def sample(
        self, model: Diffusion, net: Denoiser, key: Array, obs: Array, n: int
    ) -> Array:
        """The model's sampler."""
        return model.sample(net, key, obs, n)


@dataclass(frozen=True)
class Langevin(Dynamics):
    """One score of clean actions, sampled by Langevin dynamics inside the box.

    The network predicts -S, noise of unit level; its time is zero.
    """

    steps: int = 20
    """Network evaluations per sample."""
    step_size: float = 1.0
    """delta of the first step; it falls linearly, to step_size / steps at the last."""

    def __post_init__(self) -> None:
        """Reject dynamics that do not move."""
        if self.steps < 1:
            raise SimpoError("steps must be at least 1")
        if not 0 < self.step_size < float("inf"):
            raise SimpoError("step_size must be positive and finite")

    def place(self, model: Diffusion, key: Array, action: Array) -> Noised:
        """At the action itself."""
        level = jnp.zeros((len(action), 1))
        return Noised(action, level[:, 0], alpha=level, sigma=level + 1.0)

    def sample(
        self, model: Diffusion, net: Denoiser, key: Array, obs: Array, n: int
    ) -> Array:
        """From a normal start, clipped to the box after each step."""
        sizes = self.step_size * (1.0 - jnp.arange(self.steps) / self.steps)
        time = net.embed_time(jnp.zeros(()))

        def draw(key: Array, obs: Array) -> Array:
            context = net.condition(obs)[:, None] + time
            shape = (self.steps + 1, len(obs), n, net.dim)
            start, fresh = jnp.split(normal(key, shape), [1])

            def step(x: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
                size, z = row
                score = -net.denoise(x, context)
                x = x + 0.5 * size * score + jnp.sqrt(size) * z
                return jnp.clip(x, -1.0, 1.0), None

            return jax.lax.scan(step, start[0], (sizes, fresh))[0]

        return map_blocks(draw, key, obs, rows_per_state=n)


SCORE_LOSSES = (NormalisedScore, InnerProduct, SquareScore)
DYNAMICS = (Denoising, Langevin)


class QsmState(NamedTuple):
    """Everything that training changes."""

    actor: Denoiser
    average_actor: Denoiser
    critics: Critics
    target_critics: Critics
    actor_opt: PyTree
    critic_opt: PyTree
    key: Array
    step: Array


@dataclass(frozen=True, kw_only=True)
class QSM(Generative):
    """Q-score matching; the defaults are the port's."""

    model: Diffusion = Diffusion()  # noqa: RUF009
    """The diffusion model of actions; its network predicts noise."""
    loss: ScoreLoss = NormalisedScore()
    """What fits the predicted noise to the slope."""
    dynamics: Dynamics = Denoising()
    """Where the score is fitted, and how actions are drawn by it."""
    slope_critic: Aggregate = Aggregate.MEAN
    """How the critics are joined before their slope is taken; relax takes the lower."""
    slope_of_targets: bool = True
    """The slope of the target critics, as the port; or else of the online critics."""
    actor_tau: float = 1.0
    """Rate of the moving average of the actor that acts and gives a'; 1 is the actor
    itself. The official code's is 1e-3."""

    def check(self) -> None:
        """Require noise prediction, and an average that moves."""
        require_noise(self.model)
        SHARE.require(self, "actor_tau")
        POSITIVE.require(self, "actor_tau")

    def init(self, key: Array, spec: EnvSpec) -> QsmState:
        """Fresh networks and optimisers."""
        actor_key, critic_key, run_key = jax.random.split(key, 3)
        actor = self.init_actor(actor_key, spec)
        critics = self.init_critics(critic_key, spec)
        return QsmState(
            actor=actor,
            average_actor=jax.tree.map(jnp.copy, actor),
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            actor_opt=self.actor_optimiser.init(actor),  # pyright: ignore[reportArgumentType]
            critic_opt=self.critic_optimiser.init(critics),  # pyright: ignore[reportArgumentType]
            key=run_key,
            step=jnp.zeros((), jnp.int32),
        )

    def policy(self, state: QsmState) -> Policy:
        """The averaged actor, and the critics."""
        return Policy(state.average_actor, state.critics)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """One sample, or the best of n by min Q, with noise: obs [B, O] -> [B, A]."""
        sample_key, noise_key = jax.random.split(key)
        actions = self.draw(policy.actor, obs, sample_key, mode.best_of)
        action, _ = best_action(policy.critics, obs, actions)
        return perturb(action, noise_key, mode.noise)

    def draw(self, actor: Denoiser, obs: Array, key: Array, n: int) -> Array:
        """N actions per state: obs [B, O] -> [B, N, A]."""
        return self.dynamics.sample(self.model, actor, key, obs, n)

    def explain(self, state: QsmState, obs: Array, key: Array) -> None:
        """None: no candidates are weighted."""

    def update(self, state: QsmState, batch: Transition) -> tuple[QsmState, Metrics]:
        """One step of the critics, then of the actor towards their slope."""
        next_key, place_key = jax.random.split(step_key(state))
        next_actions = self.draw(
            state.average_actor, batch.next_obs, next_key, self.target_samples
        )
        _, next_q = best_action(state.target_critics, batch.next_obs, next_actions)
        critics, critic_opt, critic_metrics = self.fit_critics(
            state.critics, state.critic_opt, batch, self.target_critic(next_q)
        )
        target_critics = polyak(state.target_critics, critics, self.tau)

        noised = self.dynamics.place(self.model, place_key, batch.action)
        steep = target_critics if self.slope_of_targets else critics
        slope = self.slope(steep, batch.obs, noised.x)
        loss, grads = fit_noise(
            self.model,
            state.actor,
            noised,
            batch.obs,
            lambda noise: self.loss(noise, slope, noised.sigma),
        )
        actor, actor_opt = descend(
            self.actor_optimiser, grads, state.actor_opt, state.actor
        )
        new = QsmState(
            actor=actor,
            average_actor=polyak(state.average_actor, actor, self.actor_tau),
            critics=critics,
            target_critics=target_critics,
            actor_opt=actor_opt,
            critic_opt=critic_opt,
            key=state.key,
            step=state.step + 1,
        )
        metrics = {
            "actor_loss": loss,
            "actor_grad_norm": optax.tree.norm(grads),
            "gradient_scale": mean_size(slope),
            "learning_rate": jnp.asarray(self.actor_rate(state.step)),
        }
        return new, critic_metrics | metrics

    def slope(self, critics: Critics, obs: Array, x: Array) -> Array:
        """dQ/dx of the joined critics: obs [B, O], x [B, A] -> [B, A]."""
        _, gradient = action_gradients(critics, self.slope_critic, obs, x[:, None])
        return gradient[:, 0]
