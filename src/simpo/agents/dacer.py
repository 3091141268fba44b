"""DACER, diffusion actor-critic with entropy regulator (arXiv 2405.15177).

Policy    a = clip(sampler(theta, s) + noise_factor alpha z),  z ~ N(0, I)
Critics   Z_k(s, a) ~ N(mu_k, psi_k^2); of the target critics, row by row, the one with
          the lower mean gives both
          y = r + gamma (1 - terminated) mu(s', a'),
          y_z = r + gamma (1 - terminated) (mu + psi clip(z, -3, 3))
Loss      -(omega^2 + e) mean[ mu (y - mu') / (psi'^2 + e)
                             + psi ((mu' - y_b)^2 - psi'^2) / (psi'^3 + e) ]
          of every critic, y_b = mu' + clip(y_z - mu', -3 omega, 3 omega), omega the
          running mean of psi; primes are constants to differentiation
Actor     max_theta  mean min_k mu_k(s, a),  through every denoising step
Entropy   log alpha falls while the entropy of actions is above H* = -0.9 A; it is
          estimated by a mixture of Gaussians fitted to samples at every state

Wang et al. 2024, with the critics of DSAC-T (Duan et al. 2023). The actor and the
target critics move every second update, alpha every 10,000th.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.agents.base import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    Mode,
    Policy,
    adam,
    descend,
    step_key,
)
from simpo.agents.offpolicy import Acting, Generative, perturb
from simpo.bellman import Aggregate, polyak, td_target
from simpo.generative import VP, Diffusion, GenerativeModel
from simpo.mixtures import entropy_bound, fit_mixtures
from simpo.networks import Critics, Denoiser
from simpo.randomness import normal
from simpo.types import EnvSpec, Metrics, PyTree, SimpoError, Transition

__all__ = ["DACER", "DacerState", "distributional_loss"]


class ActorState(NamedTuple):
    """The denoiser, Adam's state, loss and gradient norm of the last step []."""

    net: Denoiser
    opt: PyTree
    loss: Array
    grad_norm: Array


class AlphaState(NamedTuple):
    """Log alpha [] and Adam's state, with the entropy estimated last, in nats []."""

    log_alpha: Array
    opt: PyTree
    entropy: Array


class DacerState(NamedTuple):
    """Everything that training changes; omega [K] is the running mean of each psi.

    Each critic has two outputs, mu and psi before softplus.
    """

    actor: ActorState
    alpha: AlphaState
    critics: Critics
    target_critics: Critics
    critic_opt: PyTree
    omega: Array
    key: Array
    step: Array


@dataclass(frozen=True, kw_only=True)
class DACER(Generative):
    """Diffusion actor-critic with entropy regulator; the defaults are the authors'.

    flow-rl moves the targets at every update: `target_interval=1`.
    """

    model: GenerativeModel = Diffusion(schedule=VP(), t_max=1.0)  # noqa: RUF009
    """The generative model of actions, with its sampler and steps."""
    noise_factor: float = 0.1
    """Standard deviation of the noise on actions, per alpha; the authors use 0.15 on
    Humanoid and HalfCheetah."""
    alpha: float = 3.0
    """alpha at the start; the released code has exp(1.2), or exp(1.7)."""
    alpha_lr: float = 0.03
    """Adam's rate of log alpha."""
    alpha_interval: int = 10_000
    """Updates between steps of alpha."""
    target_entropy: float = -0.9
    """H*, nats per action dimension."""
    entropy_samples: int = 200
    """Actions per state in the estimate of the entropy."""
    entropy_components: int = 3
    """Gaussians per state in the estimate of the entropy."""
    entropy_iterations: int = 30
    """Steps of expectation maximisation."""
    actor_interval: int = 2
    """Updates between steps of the actor."""
    target_interval: int = 2
    """Updates between steps of the target critics' moving average."""
    std_clip: float = 3.0
    """Clip of z, and of y_z around the mean, in standard deviations."""
    variance_bias: float = 0.1
    """e, keeps the critics' loss finite where psi vanishes."""
    reward_scale: float = 0.2
    """Factor on rewards."""
    actor_lr: float = 1e-4
    """Adam's learning rate of the actor, at the start."""
    critic_lr: float = 1e-4
    """Adam's learning rate of the critics."""

    def check(self) -> None:
        """Require intervals, samples for every Gaussian, and the lower target critic.

        Raises:
            SimpoError: A number out of range.
        """
        COUNT.require(self, "alpha_interval", "actor_interval", "target_interval")
        COUNT.require(self, "entropy_components", "entropy_iterations")
        NOT_NEGATIVE.require(self, "noise_factor")
        POSITIVE.require(self, "alpha", "alpha_lr", "std_clip", "variance_bias")
        if self.entropy_samples < self.entropy_components:
            raise SimpoError(
                f"{self.entropy_components} entropy_components need as many "
                f"entropy_samples, not {self.entropy_samples}"
            )
        if self.target_critic is not Aggregate.MIN:
            raise SimpoError("target_critic must be min: y is of the lower critic")

    @property
    def evaluating(self) -> tuple[Mode, ...]:
        """A single sample and best-of-n, both without the noise of alpha."""
        single = Mode(deterministic=True)
        modes = (single, replace(single, best_of=self.best_of))
        return modes if self.best_of > 1 else modes[:1]

    @property
    def alpha_optimiser(self) -> optax.GradientTransformation:
        """Adam."""
        return adam(self.alpha_lr, None, self.adam_eps)

    def init(self, key: Array, spec: EnvSpec) -> DacerState:
        """Fresh networks, noise and optimisers."""
        actor_key, critic_key, run_key = jax.random.split(key, 3)
        net = self.init_actor(actor_key, spec)
        critics = self.init_critics(critic_key, spec, outputs=2)
        log_alpha = jnp.full((), math.log(self.alpha), jnp.float32)
        actor_opt = self.actor_optimiser.init(net)  # pyright: ignore[reportArgumentType]
        alpha_opt = self.alpha_optimiser.init(log_alpha)
        return DacerState(
            actor=ActorState(net, actor_opt, jnp.zeros(()), jnp.zeros(())),
            alpha=AlphaState(log_alpha, alpha_opt, jnp.zeros(())),
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            critic_opt=self.critic_optimiser.init(critics),  # pyright: ignore[reportArgumentType]
            omega=jnp.zeros(self.critics),
            key=run_key,
            step=jnp.zeros((), jnp.int32),
        )

    def policy(self, state: DacerState) -> Policy:
        """Denoiser, noise and critics."""
        return Policy(Acting(state.actor.net, state.alpha.log_alpha), state.critics)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """One sample, or the best of n by min mu, plus noise: obs [B, O] -> [B, A].

        Deterministic, the noise of alpha is left out.
        """
        sample_key, noise_key, mode_key = jax.random.split(key, 3)
        (net, log_alpha), critics, _ = policy
        action, _ = self.best(net, critics, obs, sample_key, mode.best_of)
        if not mode.deterministic:
            action = self.explore(action, log_alpha, noise_key)
        return perturb(action, mode_key, mode.noise)

    def explore(self, action: Array, log_alpha: Array, key: Array) -> Array:
        """Actions [..., A] with the noise of alpha, clipped to the box."""
        return perturb(action, key, self.noise_factor * jnp.exp(log_alpha))

    def update(
        self, state: DacerState, batch: Transition
    ) -> tuple[DacerState, Metrics]:
        """One step of the critics; of actor, targets and alpha where they are due."""
        target_key, actor_key, alpha_key = jax.random.split(step_key(state), 3)
        critics, critic_opt, omega, metrics = self.update_critics(
            state, batch, target_key
        )
        actor = jax.lax.cond(
            state.step % self.actor_interval == 0,
            lambda: self.update_actor(state, critics, batch.obs, actor_key),
            lambda: state.actor,
        )
        alpha = jax.lax.cond(
            state.step % self.alpha_interval == 0,
            lambda: self.update_alpha(state, batch.obs, alpha_key),
            lambda: state.alpha,
        )
        target_critics = jax.lax.cond(
            state.step % self.target_interval == 0,
            lambda: polyak(state.target_critics, critics, self.tau),
            lambda: state.target_critics,
        )
        new = DacerState(
            actor=actor,
            alpha=alpha,
            critics=critics,
            target_critics=target_critics,
            critic_opt=critic_opt,
            omega=omega,
            key=state.key,
            step=state.step + 1,
        )
        actor_steps = state.step // self.actor_interval
        metrics |= {
            "actor_loss": actor.loss,
            "actor_grad_norm": actor.grad_norm,
            "learning_rate": jnp.asarray(self.actor_rate(actor_steps)),
            "alpha": jnp.exp(alpha.log_alpha),
            "entropy": alpha.entropy,
        }
        return new, metrics

    def update_critics(
        self, state: DacerState, batch: Transition, key: Array
    ) -> tuple[Critics, PyTree, Array, Metrics]:
        """One Adam step towards y and y_z: critics, Adam's state, omega, metrics."""
        y, y_z = self.targets(state, batch, key)

        def loss(critics: Critics) -> tuple[Array, tuple]:
            mean, std = gaussians(critics, batch.obs, batch.action)
            omega = self.average_std(state, std)
            value = distributional_loss(
                mean, std, omega, y, y_z, self.std_clip, self.variance_bias
            )
            return value, (omega, mean.mean(), std.mean())

        (value, (omega, q_mean, q_std)), grads = jax.value_and_grad(loss, has_aux=True)(
            state.critics
        )
        critics, opt = descend(
            self.critic_optimiser, grads, state.critic_opt, state.critics
        )
        metrics = {
            "critic_loss": value,
            "critic_grad_norm": optax.tree.norm(grads),
            "q_mean": q_mean,
            "q_std": q_std,
            "q_target": y.mean(),
        }
        return critics, opt, omega, metrics

    def targets(
        self, state: DacerState, batch: Transition, key: Array
    ) -> tuple[Array, Array]:
        """Both targets y, y_z [B], of the critic with the lower mean, row by row."""
        sample_key, noise_key, return_key = jax.random.split(key, 3)
        action, _ = self.best(
            state.actor.net,
            state.target_critics,
            batch.next_obs,
            sample_key,
            self.target_samples,
        )
        action = self.explore(action, state.alpha.log_alpha, noise_key)
        means, stds = gaussians(state.target_critics, batch.next_obs, action)
        lower = jnp.argmin(means, axis=0)[None]
        mean = jnp.take_along_axis(means, lower, axis=0)[0]
        std = jnp.take_along_axis(stds, lower, axis=0)[0]
        z = jnp.clip(normal(return_key, mean.shape), -self.std_clip, self.std_clip)
        reward, discount = self.reward_scale * batch.reward, self.gamma * batch.discount
        y = td_target(reward, discount, mean)
        return y, td_target(reward, discount, mean + std * z)

    def average_std(self, state: DacerState, std: Array) -> Array:
        """The next omega [K], given psi [K, B]; it starts with the first batch."""
        now = std.mean(axis=1)
        return jnp.where(state.step == 0, now, polyak(state.omega, now, self.tau))

    def update_actor(
        self, state: DacerState, critics: Critics, obs: Array, key: Array
    ) -> ActorState:
        """One Adam step uphill on min mu, through the sampler and its noise."""
        sample_key, noise_key = jax.random.split(key)

        def loss(net: Denoiser) -> Array:
            action = self.model.sample(net, sample_key, obs, 1)[:, 0]
            action = self.explore(action, state.alpha.log_alpha, noise_key)
            return -critics(obs, action).min(axis=0).mean()

        net, opt, _, _ = state.actor
        value, grads = jax.value_and_grad(loss)(net)
        net, opt = descend(self.actor_optimiser, grads, opt, net)
        return ActorState(net, opt, value, optax.tree.norm(grads))

    def update_alpha(self, state: DacerState, obs: Array, key: Array) -> AlphaState:
        """One Adam step on log alpha (H - H*): entropy above its target lowers it."""
        log_alpha, opt, _ = state.alpha
        net = state.actor.net
        entropy = self.estimate_entropy(Acting(net, log_alpha), obs, key)
        grad = entropy - self.target_entropy * net.dim
        log_alpha, opt = descend(self.alpha_optimiser, grad, opt, log_alpha)
        return AlphaState(log_alpha, opt, entropy)

    def estimate_entropy(self, acting: Acting, obs: Array, key: Array) -> Array:
        """Entropy of the actions at obs [B, O], nats, mean over states: []."""
        sample_key, noise_key = jax.random.split(key)
        net, log_alpha = acting
        actions = self.model.sample(net, sample_key, obs, self.entropy_samples)
        actions = self.explore(actions, log_alpha, noise_key)
        mixtures = fit_mixtures(
            actions, self.entropy_components, iterations=self.entropy_iterations
        )
        return entropy_bound(mixtures).mean()

    def explain(self, state: DacerState, obs: Array, key: Array) -> None:
        """None: the actor has no candidates."""
        return


def gaussians(critics: Critics, obs: Array, action: Array) -> tuple[Array, Array]:
    """Mean and standard deviation [K, B] of the return of obs [B, O], action [B, A]."""
    heads = critics.heads(obs, action)
    return heads[..., 0], jax.nn.softplus(heads[..., 1])


def distributional_loss(
    mean: Array,
    std: Array,
    omega: Array,
    target: Array,
    sample: Array,
    std_clip: float,
    variance_bias: float,
) -> Array:
    """DSAC-T's loss, whose gradient is that of the likelihood, weighted: [].

    Args:
        mean: mu [K, B].
        std: psi [K, B].
        omega: Running mean of psi [K].
        target: y [B].
        sample: y_z [B].
        std_clip: Clip of y_z around mu, in omegas.
        variance_bias: e.
    """
    mu, psi, width = jax.lax.stop_gradient((mean, std, omega[:, None]))
    bellman_error, sampled_error = jax.lax.stop_gradient((target - mu, sample - mu))
    error = jnp.clip(sampled_error, -std_clip * width, std_clip * width)
    of_mean = mean * bellman_error / (psi**2 + variance_bias)
    of_std = std * (error**2 - psi**2) / (psi**3 + variance_bias)
    return -((width**2 + variance_bias) * (of_mean + of_std)).mean()
