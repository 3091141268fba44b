"""DPMD, diffusion policy mirror descent (arXiv 2502.00361), as its code was released.

Mirror descent asks for pi ∝ pi_old exp(Q / lambda), fitted by a weighted denoising
loss. In the paper's terms that is SiMPO with `Exponential` weights, and `--agent DPMD`
is that. The released code does something simpler, and reached good scores with it:

Best     a' = argmax_n min_k Q_k(s', a_n),  a_n ~ pi_theta(s'),  n = 1..32,  plus noise
Critics  y = r + gamma (1 - terminated) min_k Qbar_k(s', a')
Actor    min_theta  w || eps_theta(x_t, t, s') - eps ||^2  on the same (s', a')
         w = exp(clip((Q - mu) / sigma, -3, 3) / alpha), mu and sigma running moments
Noise    0.1 alpha, its entropy A/2 ln(2 pi e (0.1 alpha)^2) driven to -0.9 A

The released code reads Q - mu / sigma, so almost every weight is exp(3 / alpha): plain
cloning of the best sample. `weighted=False` does that on purpose; an independent fork
measured it, and the corrected weights below it (see docs/agents/dpmd.md).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.agents.base import COUNT, POSITIVE, SHARE, Mode, Policy, descend, step_key
from simpo.agents.offpolicy import Acting, Generative, best_action, perturb
from simpo.bellman import polyak
from simpo.matching import Unbounded, matching_loss
from simpo.networks import Critics, Denoiser
from simpo.types import EnvSpec, Metrics, PyTree, SimpoError, Transition

__all__ = ["DpmdState", "ReleasedDPMD"]


class DpmdState(NamedTuple):
    """Everything that training changes; q_mean and q_std are running moments []."""

    actor: Denoiser
    acting: Acting
    critics: Critics
    target_critics: Critics
    actor_opt: PyTree
    critic_opt: PyTree
    alpha_opt: PyTree
    q_mean: Array
    q_std: Array
    actor_loss: Array
    key: Array
    step: Array


@dataclass(frozen=True, kw_only=True)
class ReleasedDPMD(Generative):
    """Diffusion policy mirror descent as released: clone the best of n samples."""

    target_samples: int = 32
    """Best-of-n in y and in the actor's loss, scored by the online critics."""
    acting_samples: int = 32
    """Best-of-n while collecting."""
    best_of: int = 32
    """Best-of-n in evaluations, without noise."""
    weighted: bool = False
    """Whether samples are weighted; the released code in effect does not."""
    weight_clip: float = 3.0
    """Bound on standardised values in the weights."""
    moments_rate: float = 1e-3
    """Rate of the running mean and deviation of values."""
    noise: float = 0.1
    """Standard deviation of acting noise at alpha = 1."""
    initial_alpha: float = 5.0
    """alpha before the first update."""
    alpha_lr: float = 7e-3
    """Adam's learning rate of log alpha."""
    alpha_interval: int = 250
    """Updates between steps of log alpha."""
    target_entropy: float = -0.9
    """Entropy per action dimension that the noise is driven to, in nats."""
    policy_interval: int = 2
    """Updates between steps of the actor and of all averages."""
    reward_scale: float = 0.2
    """Factor on rewards in y."""

    def check(self) -> None:
        """Require intervals, rates and a noise to tune."""
        COUNT.require(self, "alpha_interval", "policy_interval")
        POSITIVE.require(self, "noise", "initial_alpha", "alpha_lr", "weight_clip")
        SHARE.require(self, "moments_rate")
        if self.acting_noise:
            raise SimpoError("ReleasedDPMD tunes its acting noise itself: set noise")

    @property
    def evaluating(self) -> tuple[Mode, ...]:
        """As it acts, but without noise; and a single sample."""
        return Mode(best_of=self.best_of, deterministic=True), Mode(deterministic=True)

    @property
    def alpha_optimiser(self) -> optax.GradientTransformation:
        """Adam of log alpha."""
        return optax.adam(self.alpha_lr)

    def init(self, key: Array, spec: EnvSpec) -> DpmdState:
        """Fresh networks, optimisers, noise and moments."""
        actor_key, critic_key, run_key = jax.random.split(key, 3)
        actor = self.init_actor(actor_key, spec)
        critics = self.init_critics(critic_key, spec)
        log_alpha = jnp.asarray(math.log(self.initial_alpha), jnp.float32)
        return DpmdState(
            actor=actor,
            acting=Acting(jax.tree.map(jnp.copy, actor), log_alpha),
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            actor_opt=self.actor_optimiser.init(actor),  # pyright: ignore[reportArgumentType]
            critic_opt=self.critic_optimiser.init(critics),  # pyright: ignore[reportArgumentType]
            alpha_opt=self.alpha_optimiser.init(log_alpha),
            q_mean=jnp.zeros(()),
            q_std=jnp.ones(()),
            actor_loss=jnp.zeros(()),
            key=run_key,
            step=jnp.zeros((), jnp.int32),
        )

    def policy(self, state: DpmdState) -> Policy:
        """The averaged actor with its noise, and the online critics."""
        return Policy(state.acting, state.critics)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """The best of n samples by min Q, with the tuned noise: [B, O] -> [B, A]."""
        sample_key, noise_key = jax.random.split(key)
        (net, log_alpha), critics, _ = policy
        action, _ = self.best(net, critics, obs, sample_key, mode.best_of)
        own = 0.0 if mode.deterministic else self.noise * jnp.exp(log_alpha)
        return perturb(action, noise_key, jnp.hypot(own, mode.noise))

    def explain(self, state: DpmdState, obs: Array, key: Array) -> None:
        """None: one sample per state is learnt from."""
        return None

    def update(self, state: DpmdState, batch: Transition) -> tuple[DpmdState, Metrics]:
        """One step of the critics; of actor, averages and noise when they are due."""
        sample_key, noise_key, match_key = jax.random.split(step_key(state), 3)
        log_alpha = state.acting.log_alpha
        samples = self.model.sample(
            state.actor, sample_key, batch.next_obs, self.target_samples
        )
        action, q = best_action(state.critics, batch.next_obs, samples)
        action = perturb(action, noise_key, self.noise * jnp.exp(log_alpha))
        next_value = self.target_critic(state.target_critics(batch.next_obs, action))
        critics, critic_opt, metrics = self.fit_critics(
            state.critics, state.critic_opt, batch, next_value
        )
        q = q.min(axis=0)
        rate = self.moments_rate
        new = state._replace(
            critics=critics,
            critic_opt=critic_opt,
            q_mean=state.q_mean + rate * (q.mean() - state.q_mean),
            q_std=state.q_std + rate * (q.std() - state.q_std),
            step=state.step + 1,
        )
        weights = self.weigh(q, state)
        new = jax.lax.cond(
            state.step % self.policy_interval == 0,
            lambda: self.fit_actor(new, match_key, batch.next_obs, action, weights),
            lambda: new,
        )
        new = jax.lax.cond(
            state.step % self.alpha_interval == 0,
            lambda: self.tune_noise(new, action.shape[-1]),
            lambda: new,
        )
        metrics |= {
            "actor_loss": new.actor_loss,
            "noise_std": self.noise * jnp.exp(new.acting.log_alpha),
            "weight_max": weights.max(),
        }
        return new, metrics

    def weigh(self, q: Array, state: DpmdState) -> Array:
        """Weights of mean one, from values [B] -> [B]."""
        if not self.weighted:
            return jnp.ones_like(q)
        standard = (q - state.q_mean) / (state.q_std + 1e-6)
        clipped = jnp.clip(standard, -self.weight_clip, self.weight_clip)
        return q.size * jax.nn.softmax(clipped / jnp.exp(state.acting.log_alpha))

    def fit_actor(
        self, state: DpmdState, key: Array, obs: Array, action: Array, weights: Array
    ) -> DpmdState:
        """A step of the actor on actions [B, A]; the averages follow."""

        def loss(actor: Denoiser) -> Array:
            x, w = action[:, None], weights[:, None]
            return matching_loss(self.model, actor, key, x, w, obs, Unbounded())[0]

        value, grads = jax.value_and_grad(loss)(state.actor)
        actor, opt = descend(self.actor_optimiser, grads, state.actor_opt, state.actor)
        targets = polyak(state.target_critics, state.critics, self.tau)
        return state._replace(
            actor=actor,
            actor_opt=opt,
            acting=state.acting._replace(net=polyak(state.acting.net, actor, self.tau)),
            target_critics=targets,
            actor_loss=value,
        )

    def tune_noise(self, state: DpmdState, dim: int) -> DpmdState:
        """A step of log alpha on log alpha (H - H*), per action dimension."""
        log_std = math.log(self.noise) + state.acting.log_alpha
        entropy = 0.5 * math.log(2 * math.pi * math.e) + log_std
        excess = dim * (entropy - self.target_entropy)
        log_alpha, opt = descend(
            self.alpha_optimiser, excess, state.alpha_opt, state.acting.log_alpha
        )
        return state._replace(
            acting=state.acting._replace(log_alpha=log_alpha), alpha_opt=opt
        )
