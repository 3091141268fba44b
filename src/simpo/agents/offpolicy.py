"""Agents that learn from replay: twin critics, moving averages, a replay of actions.

Critics   L = mean_k,B (Q_k(s, a) - y)^2,   y = r + gamma (1 - terminated) V(s')
Targets   Qbar <- (1 - tau) Qbar + tau Q

What V(s') is, and how the actor is improved, is what an agent adds. `Generative` agents
act by a diffusion or flow model, and may take the best of n samples by min_k Q_k.
"""

import abc
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.agents.base import Agent, Mode, Policy, adam, descend
from simpo.bellman import Aggregate, critic_loss, td_target
from simpo.custom import CustomCritics
from simpo.generative import Diffusion, GenerativeModel
from simpo.networks import Critics, Denoiser, Initialiser, lecun_uniform
from simpo.randomness import normal
from simpo.types import EnvSpec, Metrics, PyTree, Transition

__all__ = ["Acting", "Generative", "OffPolicy", "best_action", "perturb"]


class Acting(NamedTuple):
    """What acts with noise of its own: the denoiser, and log alpha [], its scale."""

    net: Denoiser
    log_alpha: Array


@dataclass(frozen=True, kw_only=True)
class OffPolicy(Agent):
    """What agents that learn from replay share."""

    tau: float = 0.005
    """Rate of the target networks' moving average."""
    target_critic: Aggregate = Aggregate.MIN
    """How the target critics' values are joined in y."""
    acting_noise: float = 0.0
    """Standard deviation of noise while collecting, clipped to the box."""
    actor_lr_end: float = 3e-5
    """Learning rate of the actor after `actor_lr_updates` updates, reached linearly."""
    actor_lr_updates: int = 0
    """Length of the annealing, in updates; 0 keeps the rate constant."""
    max_grad_norm: float | None = None
    """Clip of the global gradient norm, actor and critics each; None for none."""
    adam_eps: float = 1e-8
    """Adam's epsilon, actor and critics."""
    normalise_obs: bool = False
    """Whether observations are divided by the running scale of all collected."""
    normalised_clip: float = 10.0
    """Bound on normalised observations."""
    critics: int = 2
    """K, number of critics."""

    @property
    def rollout_steps(self) -> None:
        """None: batches come from replay."""
        return None

    @property
    def moments_clip(self) -> float | None:
        """`normalised_clip`, if observations are normalised at all."""
        return self.normalised_clip if self.normalise_obs else None

    @property
    @abc.abstractmethod
    def collecting(self) -> Mode:
        """How actions are drawn while collecting."""

    def decide(self, policy: Policy, obs: Array, key: Array) -> Array:
        """The action itself [B, A]."""
        return self.act(policy, obs, key, self.collecting)

    @property
    def actor_rate(self) -> optax.Schedule:
        """The actor's learning rate by update of the actor."""
        if self.actor_lr_updates == 0:
            return optax.constant_schedule(self.actor_lr)
        return optax.linear_schedule(
            self.actor_lr, self.actor_lr_end, self.actor_lr_updates
        )

    @property
    def actor_optimiser(self) -> optax.GradientTransformation:
        """Adam, annealed linearly."""
        return adam(self.actor_rate, self.max_grad_norm, self.adam_eps)

    @property
    def critic_optimiser(self) -> optax.GradientTransformation:
        """Adam at a constant rate."""
        return adam(self.critic_lr, self.max_grad_norm, self.adam_eps)

    def init_critics(
        self,
        key: Array,
        spec: EnvSpec,
        outputs: int = 1,
        initialiser: Initialiser = lecun_uniform,
    ) -> Critics:
        """Fresh critics with some outputs each, ours or the user's."""
        if self.critic_network is not None:
            made = CustomCritics.init(
                self.critic_network,
                "critic_network",
                key,
                *spec,
                critics=self.critics,
                outputs=outputs,
            )
            return cast("Critics", made)
        return Critics.init(
            key,
            spec.obs_dim,
            spec.action_dim,
            critics=self.critics,
            width=self.critic_width,
            depth=self.critic_depth,
            activation=self.critic_activation,
            outputs=outputs,
            initialiser=initialiser,
        )

    def fit_critics(
        self, critics: Critics, opt: PyTree, batch: Transition, next_value: Array
    ) -> tuple[Critics, PyTree, Metrics]:
        """One Adam step towards y, from V(s') [B]."""
        target = td_target(
            self.reward_scale * batch.reward, self.gamma * batch.discount, next_value
        )

        def loss(critics: Critics) -> tuple[Array, Array]:
            q = critics(batch.obs, batch.action)
            return critic_loss(q, target), q.mean()

        (value, q_mean), grads = jax.value_and_grad(loss, has_aux=True)(critics)
        critics, opt = descend(self.critic_optimiser, grads, opt, critics)
        metrics = {
            "critic_loss": value,
            "critic_grad_norm": optax.tree.norm(grads),
            "q_mean": q_mean,
            "q_target": target.mean(),
        }
        return critics, opt, metrics


@dataclass(frozen=True, kw_only=True)
class Generative(OffPolicy):
    """What agents share whose actions are samples of a diffusion or flow model."""

    model: GenerativeModel = Diffusion()  # noqa: RUF009
    """The generative model of actions, with its sampler and steps."""
    target_samples: int = 1
    """Best-of-n in y, scored by the target critics."""
    acting_samples: int = 1
    """Best-of-n while collecting."""
    best_of: int = 10
    """Best-of-n reported by evaluations beside the single sample."""

    @property
    def collecting(self) -> Mode:
        """How actions are drawn while collecting."""
        return Mode(self.acting_samples, self.acting_noise)

    @property
    def evaluating(self) -> tuple[Mode, ...]:
        """A single sample and best-of-n."""
        modes = (Mode(), Mode(best_of=self.best_of))
        return modes if self.best_of > 1 else modes[:1]

    def best(
        self, actor: Denoiser, critics: Critics, obs: Array, key: Array, n: int
    ) -> tuple[Array, Array]:
        """Best of n samples by min Q, with all critics' values: [B, A], [K, B]."""
        return best_action(critics, obs, self.model.sample(actor, key, obs, n))

    def policy_evaluation(
        self, actor: Denoiser, state: Any, batch: Transition, key: Array
    ) -> tuple[Critics, PyTree, Metrics]:
        """One step of the critics; a' by an actor, best of `target_samples`.

        Args:
            actor: Who acts in the next states.
            state: Its `critics`, `target_critics` and `critic_opt` are used.
            batch: Transitions [B, ...].
            key: Random key.

        Returns:
            The new critics, their optimiser's state, metrics.
        """
        _, next_q = self.best(
            actor, state.target_critics, batch.next_obs, key, self.target_samples
        )
        return self.fit_critics(
            state.critics, state.critic_opt, batch, self.target_critic(next_q)
        )

    def act_by_model(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """One sample, or the best of n by min Q, with noise: obs [B, O] -> [B, A]."""
        sample_key, noise_key = jax.random.split(key)
        actor, critics, _ = policy
        action, _ = self.best(actor, critics, obs, sample_key, mode.best_of)
        return perturb(action, noise_key, mode.noise)


def best_action(critics: Any, obs: Array, actions: Array) -> tuple[Array, Array]:
    """Best of N actions [B, N, A] by min Q, with all critics' values: [B, A], [K, B].

    For N = 1 nothing is compared, so critics that nobody reads are not evaluated.
    """
    q = critics.candidates(obs, actions)
    if actions.shape[1] == 1:
        return actions[:, 0], q[..., 0]
    choice = jnp.argmax(q.min(axis=0), axis=-1)[:, None]
    action = jnp.take_along_axis(actions, choice[..., None], axis=1)[:, 0]
    return action, jnp.take_along_axis(q, choice[None], axis=2)[..., 0]


def perturb(action: Array, key: Array, std: float | Array) -> Array:
    """Add Gaussian noise and clip to the box; nothing for a standard deviation of 0."""
    if isinstance(std, float | int) and std == 0:
        return action
    return jnp.clip(action + std * normal(key, action.shape), -1.0, 1.0)
