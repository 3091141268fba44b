"""DPPO, PPO over the denoising steps of a diffusion policy (arXiv 2409.00588).

Chain      x_0 ~ N(0, I),   x_{k+1} ~ N(mu_k(x_k, s), std_k^2 I),   a = x_K
           mu_k = A_k x_k + B_k a^(x_k, k, s),   std_k = max(D_k, floor)
Actor      L = - mean_{t, k} min(r A, clip(r, 1 - c_k, 1 + c_k) A),
           log r = log p(x_{k+1} | x_k, s) - log p_old(x_{k+1} | x_k, s)
Critic     L = mean (V(s) - y)^2,   y = A + V_old(s)

Each of the K steps is an action of a Markov decision process inside the environment's
(the paper's Section 4); all have the environment step's advantage A, times
gamma_denoise to the number of steps still to come. A_k, B_k, D_k are the sampler's
(`generative.base.Steps`), k counting from noise to data. The floor explores: without
it the likelihood of the last step would be a point. Log-probabilities are clamped per
dimension and averaged over dimensions, as in the authors' code.

With one step, log-probabilities summed and not clamped, this is PPO with a Gaussian
policy of constant standard deviation.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.agents.base import NOT_NEGATIVE, POSITIVE, SHARE, Mode, Policy
from simpo.agents.offpolicy import perturb
from simpo.agents.onpolicy import (
    OnPolicy,
    OnPolicyState,
    clipped_surrogate,
    gaussian_log_prob,
    standardise,
)
from simpo.blocks import map_blocks
from simpo.generative import Diffusion
from simpo.generative.base import Steps
from simpo.networks import Activation, Denoiser
from simpo.randomness import normal
from simpo.types import EnvSpec, Metrics, PyTree, Rollout, SimpoError

__all__ = ["DPPO"]


@dataclass(frozen=True, kw_only=True)
class DPPO(OnPolicy):
    """Diffusion policy policy optimization; defaults as the authors' from scratch."""

    model: Diffusion = Diffusion(denoising_steps=10)  # noqa: RUF009
    """The diffusion model of actions; its sampler must need no earlier estimate."""
    std_floor: float = 0.1
    """Smallest std_k, while acting and in log-probabilities."""
    eval_std_floor: float = 1e-3
    """Smallest std_k of the deterministic mode, whose last step has no noise at all."""
    noise_clip: float = 3.0
    """Bound on a step's noise, in standard deviations."""
    log_prob_min: float = -5.0
    """Lower clamp of a dimension's log-probability."""
    log_prob_max: float = 2.0
    """Upper clamp of a dimension's log-probability."""
    mean_log_prob: bool = True
    """Whether log-probabilities are averaged over dimensions; False adds them up, and
    makes the ratio that of densities."""
    gamma_denoise: float = 1.0
    """Discount per denoising step: early, noisy steps count less."""
    clip_range: float = 0.1
    """c of the last denoising step."""
    clip_base: float = 0.1
    """c of the first denoising step."""
    clip_growth: float = 3.0
    """Rate of the exponential from `clip_base` to `clip_range`."""
    target_kl: float | None = 1.0
    """Estimated KL from pi_old after which an update stops; None for never."""
    rollout_steps: int = 2000  # pyright: ignore[reportIncompatibleMethodOverride]
    """T, steps per environment between updates."""
    batch_size: int = 5000
    """B, pairs of environment step and denoising step per gradient step."""
    actor_lr: float = 1e-4
    """Adam's learning rate of the actor."""
    critic_lr: float = 1e-3
    """Adam's learning rate of the critic."""
    max_grad_norm: float | None = None
    """Clip of the global gradient norm, actor and critic each; None for none."""
    adam_eps: float = 1e-8
    """Adam's epsilon."""
    width: int = 512
    """Units per hidden layer of the actor."""
    activation: Activation = "relu"
    """Activation of the actor."""
    critic_activation: Activation = "mish"
    """Activation of the critic."""

    def check(self) -> None:
        """Require numbers in range, and a chain of Gaussian steps."""
        self.check_rollouts()
        POSITIVE.require(self, "std_floor", "noise_clip", "clip_base", "clip_growth")
        NOT_NEGATIVE.require(self, "eval_std_floor")
        SHARE.require(self, "gamma_denoise")
        if not self.log_prob_min < self.log_prob_max:
            raise SimpoError("log_prob_min must be smaller than log_prob_max")
        if not isinstance(self.model, Diffusion) or self.model.steps().previous.any():
            raise SimpoError(
                "DPPO needs a chain of Gaussian steps: make its model a Diffusion "
                "with sampler DDPM or DDIM"
            )

    def init(self, key: Array, spec: EnvSpec) -> OnPolicyState:
        """Fresh networks and optimisers, and moments of nothing."""
        actor_key, state_key = jax.random.split(key)
        return self.init_state(self.init_actor(actor_key, spec), state_key, spec)

    def decide(self, policy: Policy, obs: Array, key: Array) -> Array:
        """The chain x_0 .. x_K, flat: obs [B, O] -> [B, (K + 1) A]."""
        obs = self.observe(policy.actor, obs)
        chain = self.denoise(policy.actor.net, obs, key, self.steps(self.std_floor))
        return chain.reshape(len(obs), -1)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """The end of a chain, in the box: obs [B, O] -> [B, A].

        Raises:
            SimpoError: The mode asks for the best of several actions.
        """
        self.refuse_best_of(mode)
        key, noise_key = jax.random.split(key)
        steps = self.steps(self.std_floor)
        if mode.deterministic:
            steps = self.steps(self.eval_std_floor)
            steps.noise[-1] = 0.0
        obs = self.observe(policy.actor, obs)
        action = self.denoise(policy.actor.net, obs, key, steps)[:, -1]
        return perturb(jnp.clip(action, -1.0, 1.0), noise_key, mode.noise)

    def steps(self, floor: float) -> Steps:
        """The sampler's coefficients, the noise at least `floor`; all [K]."""
        steps = self.model.steps()
        return steps._replace(noise=np.maximum(steps.noise, floor))

    def mean(self, net: Denoiser, x: Array, row: Steps, context: Array) -> Array:
        """mu_k at x_k [..., A]; row of the table, `context` of state and time."""
        prediction = self.model.predict(net, x, row.alpha, row.sigma, context)
        clean = self.model.prediction.clean(prediction, x, row.alpha, row.sigma)
        bound = jnp.inf if self.model.clip is None else self.model.clip
        return x * row.keep + jnp.clip(clean, -bound, bound) * row.clean

    def denoise(self, net: Denoiser, obs: Array, key: Array, steps: Steps) -> Array:
        """Chains from noise to actions: normalised obs [B, O] -> [B, K + 1, A]."""
        rows = to_float32(steps)
        draws = normal(key, (1 + len(steps.time), len(obs), net.dim))
        noise = jnp.clip(draws[1:], -self.noise_clip, self.noise_clip)
        state, times = net.condition(obs), net.embed_time(rows.time)

        def step(x: Array, inputs: tuple[Steps, Array, Array]) -> tuple[Array, Array]:
            row, time, z = inputs
            x = self.mean(net, x, row, state + time) + row.noise * z
            return x, x

        start = draws[0] * rows.sigma[0]
        _, chain = jax.lax.scan(step, start, (rows, times, noise))
        return jnp.concatenate([start[None], chain]).swapaxes(0, 1)

    def log_prob(
        self, net: Denoiser, obs: Array, x: Array, x_next: Array, k: Array
    ) -> Array:
        """Log p(x_{k+1} | x_k, s), clamped, and averaged or added up: [...].

        Args:
            net: The denoiser.
            obs: Normalised observations [..., O].
            x: x_k [..., A].
            x_next: x_{k+1} [..., A].
            k: Numbers of the steps, from 0 to K - 1 [...].
        """
        table = to_float32(self.steps(self.std_floor))
        context = net.condition(obs) + net.embed_time(table.time[k])
        row = jax.tree.map(lambda c: c[k][..., None], table)
        mean = self.mean(net, x, row, context)
        each = gaussian_log_prob(x_next, mean, jnp.log(row.noise))
        each = jnp.clip(each, self.log_prob_min, self.log_prob_max)
        return each.mean(axis=-1) if self.mean_log_prob else each.sum(axis=-1)

    def chain_log_prob(self, net: Denoiser, obs: Array, chain: Array) -> Array:
        """`log_prob` of every step: [N, O] and chains [N, K + 1, A] -> [N, K].

        The state's part of the network is computed once for all steps of a chain.
        """
        k = jnp.arange(chain.shape[1] - 1)

        def block(_: Array, obs: Array, chain: Array) -> Array:
            return self.log_prob(net, obs[:, None], chain[:, :-1], chain[:, 1:], k)

        unused = jax.random.key(0)
        return map_blocks(block, unused, obs, chain, rows_per_state=len(k))

    def clip_ranges(self) -> np.ndarray:
        """c_k, from `clip_base` to `clip_range` [K]; a single step is the last one."""
        u = np.linspace(1.0, 0.0, self.model.denoising_steps)[::-1]
        growth = np.expm1(self.clip_growth * u) / np.expm1(self.clip_growth)
        return self.clip_base + (self.clip_range - self.clip_base) * growth

    def step_discounts(self) -> np.ndarray:
        """gamma_denoise to the number of steps that follow [K]."""
        return self.gamma_denoise ** np.arange(self.model.denoising_steps)[::-1]

    def update(
        self, state: OnPolicyState, batch: Rollout
    ) -> tuple[OnPolicyState, Metrics]:
        """Epochs of the clipped surrogate on the pairs of a rollout [T, E, ...]."""
        state, samples = self.estimate(state, batch)
        net: Denoiser = state.actor.net
        chain = samples.decision.reshape(len(samples.obs), -1, net.dim)
        old_log_prob = self.chain_log_prob(net, samples.obs, chain)
        clip_range, discount = to_float32((self.clip_ranges(), self.step_discounts()))
        choices = self.model.denoising_steps

        def actor_loss(net: Denoiser, rows: Array) -> tuple[Array, Metrics]:
            n, k = jnp.divmod(rows, choices)
            return clipped_surrogate(
                self.log_prob(net, samples.obs[n], chain[n, k], chain[n, k + 1], k),
                old_log_prob[n, k],
                discount[k] * standardise(samples.advantage[n]),
                clip_range[k],
            )

        state, metrics = self.learn(state, batch, samples, actor_loss, choices)
        outside = (jnp.abs(chain[:, -1]) >= 1.0).mean(dtype=float)
        return state, metrics | {"edge_fraction": outside}


def to_float32(tree: PyTree) -> Any:
    """Tables of coefficients as arrays of the compiled program."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
