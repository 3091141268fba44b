"""DIPO, diffusion policy by action gradients (arXiv 2305.13122).

Critics   y = r + gamma (1 - terminated) min_k Qbar_k(s', a'),  a' ~ averaged actor
Pairs     a second buffer of (s, a), filled with what was executed
Actions   a <- clip(a + Adam step on the gradient of sum_B min_k Q_k(s, a)),  M times,
          the gradient clipped to a norm of ratio A, then written back to the buffer
Actor     min_theta  || f_theta(x_t, t, s) - target ||^2  on these pairs
Averages  of the critics every update, of the actor every `target_interval` updates

Yang et al. 2023. Adam divides by the size of the gradient, so an action moves by about
M `action_lr` in every coordinate, however flat Q is there.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from simpo.agents.base import COUNT, POSITIVE, Mode, Policy, adam, descend, step_key
from simpo.agents.offpolicy import Generative
from simpo.bellman import Aggregate, polyak
from simpo.generative import Diffusion, GenerativeModel
from simpo.generative.base import Steps
from simpo.generative.diffusion import DDPM, Sampler
from simpo.networks import Critics, Denoiser
from simpo.types import EnvSpec, Metrics, PyTree, SimpoError, Transition

__all__ = ["DIPO", "DipoState", "Noiseless", "Pairs"]


class Pairs(NamedTuple):
    """A ring of P observations and actions on the device.

    Attributes:
        obs: [P, O].
        action: [P, A].
        added: Pairs inserted so far, overwritten ones included [].
    """

    obs: Array
    action: Array
    added: Array

    @staticmethod
    def init(capacity: int, spec: EnvSpec) -> "Pairs":
        """An empty ring."""
        return Pairs(
            obs=jnp.zeros((capacity, spec.obs_dim)),
            action=jnp.zeros((capacity, spec.action_dim)),
            added=jnp.zeros((), jnp.int32),
        )

    @property
    def size(self) -> Array:
        """Pairs held, []."""
        return jnp.minimum(self.added, self.obs.shape[0])

    def insert(self, obs: Array, action: Array, count: Array) -> "Pairs":
        """The first `count` [] of B <= P pairs in the place of the oldest."""
        row, capacity = jnp.arange(obs.shape[0]), self.obs.shape[0]
        slot = (self.added + row) % capacity
        slot = jnp.where(row < count, slot, capacity)
        return Pairs(
            self.obs.at[slot].set(obs, mode="drop"),
            self.action.at[slot].set(action, mode="drop"),
            self.added + count,
        )

    def draw(self, key: Array, count: int) -> Array:
        """Slots of `count` pairs drawn with replacement [B]."""
        return jax.random.randint(key, (count,), 0, self.size)

    def rewrite(self, slot: Array, action: Array) -> "Pairs":
        """Put actions [B, A] in slots [B]; of equal slots the last row wins."""
        again = jnp.triu(slot[:, None] == slot, k=1).any(axis=1)
        slot = jnp.where(again, self.obs.shape[0], slot)
        return self._replace(action=self.action.at[slot].set(action, mode="drop"))


@dataclass(frozen=True)
class Noiseless(Sampler):
    """Another sampler's steps without their noise; the start is still random."""

    sampler: Sampler = DDPM()  # noqa: RUF009
    """The other sampler."""

    def steps(self, time: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> Steps:
        """The same coefficients, D = 0."""
        steps = self.sampler.steps(time, alpha, sigma)
        return steps._replace(noise=np.zeros_like(steps.noise))


def without_noise(model: GenerativeModel) -> GenerativeModel:
    """The model with noiseless steps; a flow has no others."""
    if isinstance(model, Diffusion):
        return replace(model, sampler=Noiseless(model.sampler))
    return model


class DipoState(NamedTuple):
    """Everything that training changes."""

    actor: Denoiser
    target_actor: Denoiser
    critics: Critics
    target_critics: Critics
    pairs: Pairs
    actor_opt: PyTree
    critic_opt: PyTree
    key: Array
    step: Array


@dataclass(frozen=True, kw_only=True)
class DIPO(Generative):
    """Diffusion policy by action gradients; the defaults are the released code's.

    Its settings by task, where they differ: Hopper `action_norm=0.3, max_grad_norm=1`;
    Walker2d `action_norm=0.08`; Ant `max_grad_norm=0.8`; HalfCheetah
    `action_norm=0.08, action_steps=40, target_interval=2`.
    """

    model: GenerativeModel = Diffusion(denoising_steps=100)  # noqa: RUF009
    """The generative model of actions, with its sampler and steps."""
    pairs: int = 100_000
    """P, capacity of the second buffer: 4 P (O + A) bytes of the state."""
    new_pairs: int = 1
    """Rows of each batch that are inserted; environment steps per update."""
    action_steps: int = 20
    """M, Adam steps on the actions per update."""
    action_lr: float = 0.03
    """Adam's rate on the actions."""
    action_norm: float = 0.1
    """Clip of the action gradient's norm over a batch, per action dimension."""
    action_critic: Aggregate = Aggregate.MIN
    """How the critics' values are joined in the action gradient."""
    write_back: bool = True
    """Whether improved actions replace those they came from, as the paper says."""
    target_interval: int = 1
    """Updates between steps of the actor's moving average."""
    max_grad_norm: float | None = 2.0
    """Clip of the global gradient norm, actor and critics each; None for none."""
    adam_eps: float = 1e-5
    """Adam's epsilon, actor, critics and actions."""

    def check(self) -> None:
        """Require a ring that holds a batch.

        Raises:
            SimpoError: A number out of range.
        """
        COUNT.require(self, "new_pairs", "action_steps", "target_interval")
        POSITIVE.require(self, "action_lr", "action_norm")
        if not self.new_pairs <= self.batch_size <= self.pairs:
            raise SimpoError(
                f"a batch of {self.batch_size} must hold new_pairs = {self.new_pairs} "
                f"and fit into pairs = {self.pairs}"
            )

    @property
    def evaluating(self) -> tuple[Mode, ...]:
        """A single sample, as released, and best-of-n; both from noiseless steps."""
        single = Mode(deterministic=True)
        modes = (single, replace(single, best_of=self.best_of))
        return modes if self.best_of > 1 else modes[:1]

    def init(self, key: Array, spec: EnvSpec) -> DipoState:
        """Fresh networks and optimisers, and an empty ring."""
        actor_key, critic_key, run_key = jax.random.split(key, 3)
        actor = self.init_actor(actor_key, spec)
        critics = self.init_critics(critic_key, spec)
        return DipoState(
            actor=actor,
            target_actor=jax.tree.map(jnp.copy, actor),
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            pairs=Pairs.init(self.pairs, spec),
            actor_opt=self.actor_optimiser.init(actor),  # pyright: ignore[reportArgumentType]
            critic_opt=self.critic_optimiser.init(critics),  # pyright: ignore[reportArgumentType]
            key=run_key,
            step=jnp.zeros((), jnp.int32),
        )

    def policy(self, state: DipoState) -> Policy:
        """Actor and critics."""
        return Policy(state.actor, state.critics)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """One sample, or the best of n by min Q: obs [B, O] -> [B, A].

        Deterministic, the steps of the sampler add no noise.
        """
        model = without_noise(self.model) if mode.deterministic else self.model
        return replace(self, model=model).act_by_model(policy, obs, key, mode)

    def update(self, state: DipoState, batch: Transition) -> tuple[DipoState, Metrics]:
        """One step of critics, of a batch of pairs and of the actor."""
        target_key, draw_key, match_key = jax.random.split(step_key(state), 3)
        critics, critic_opt, critic_metrics = self.policy_evaluation(
            state.target_actor, state, batch, target_key
        )
        pairs = self.insert(state, batch)
        slot = pairs.draw(draw_key, batch.obs.shape[0])
        obs, old = pairs.obs[slot], pairs.action[slot]
        action = self.improve(critics, obs, old)
        if self.write_back:
            pairs = pairs.rewrite(slot, action)

        def loss(net: Denoiser) -> Array:
            return self.model.matching_error(
                net, match_key, action[:, None], obs
            ).mean()

        value, grads = jax.value_and_grad(loss)(state.actor)
        actor, actor_opt = descend(
            self.actor_optimiser, grads, state.actor_opt, state.actor
        )
        new = DipoState(
            actor=actor,
            target_actor=self.average(state, actor),
            critics=critics,
            target_critics=polyak(state.target_critics, critics, self.tau),
            pairs=pairs,
            actor_opt=actor_opt,
            critic_opt=critic_opt,
            key=state.key,
            step=state.step + 1,
        )
        gain = critics(obs, action).min(axis=0) - critics(obs, old).min(axis=0)
        metrics = {
            "actor_loss": value,
            "actor_grad_norm": optax.tree.norm(grads),
            "learning_rate": jnp.asarray(self.actor_rate(state.step)),
            "action_gain": gain.mean(),
            "action_shift": jnp.abs(action - old).mean(),
            "pairs": pairs.size.astype(jnp.float32),
        }
        return new, critic_metrics | metrics

    def insert(self, state: DipoState, batch: Transition) -> Pairs:
        """The ring with rows of the batch; all of the first, lest draws be few."""
        rows = batch.obs.shape[0]
        count = jnp.where(state.step == 0, rows, self.new_pairs)
        return state.pairs.insert(batch.obs, batch.action, count)

    def improve(self, critics: Critics, obs: Array, action: Array) -> Array:
        """Actions [B, A] at obs [B, O] after M Adam steps uphill, kept in the box."""
        norm = self.action_norm * action.shape[-1]
        optimiser = adam(self.action_lr, norm, self.adam_eps)

        def descent(action: Array) -> Array:
            return -self.action_critic(critics(obs, action)).sum()

        def step(carry: tuple[Array, PyTree], _: None) -> tuple:
            action, opt = carry
            action, opt = descend(optimiser, jax.grad(descent)(action), opt, action)
            return (jnp.clip(action, -1.0, 1.0), opt), None

        start = (action, optimiser.init(action))
        return jax.lax.scan(step, start, length=self.action_steps)[0][0]

    def average(self, state: DipoState, actor: Denoiser) -> Denoiser:
        """The target actor, moved towards the actor every `target_interval` updates."""
        return jax.lax.cond(
            state.step % self.target_interval == 0,
            lambda: polyak(state.target_actor, actor, self.tau),
            lambda: state.target_actor,
        )

    def explain(self, state: DipoState, obs: Array, key: Array) -> None:
        """None: the pairs are not weighted."""
        return
