"""Diffusion models: x_t = alpha_t a + sigma_t eps, network trained to undo the noise.

Prediction   noise eps, clean sample a, or velocity v = alpha eps - sigma a: linear maps
             of each other given x_t, so any of them gives the clean estimate a^
Loss         || f(x_t, t, s) - target ||^2,  t ~ U(t_min, t_max), eps ~ N(0, I)
Step t -> s  DDPM            posterior mean of q(x_s | x_t, a^) plus its noise
             DDIM            alpha_s a^ + sigma_s eps^
             DPMSolver2M     DDIM with a^ extrapolated from the last two steps

Ho et al. 2020; Song et al. 2021 (DDIM); Salimans and Ho 2022 (velocity); Lu et al. 2022
(DPM-Solver++). The clean estimate is clipped to the action box at every step: near
t = 1 it divides by alpha ~ 0.01, and an error of the network would leave the box.
"""

import abc
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.blocks import map_blocks
from simpo.generative.base import (
    GenerativeModel,
    Network,
    Steps,
    check_clip,
    check_steps,
    run_steps,
)
from simpo.generative.schedule import Cosine, Schedule
from simpo.randomness import normal, uniform
from simpo.types import SimpoError

__all__ = [
    "DDIM",
    "DDPM",
    "PREDICTIONS",
    "SAMPLERS",
    "Clean",
    "DPMSolver2M",
    "Diffusion",
    "Noise",
    "Prediction",
    "Sampler",
    "Velocity",
]


class Prediction(abc.ABC):
    """What the network outputs; all arrays broadcast against [..., A]."""

    @abc.abstractmethod
    def target(self, clean: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
        """Regression target given the clean sample and the noise."""

    @abc.abstractmethod
    def clean(self, prediction: Any, x: Any, alpha: Any, sigma: Any) -> Any:
        """Clean estimate a^ from the prediction at x = alpha a + sigma eps."""


@dataclass(frozen=True)
class Noise(Prediction):
    """Target eps; a^ = (x - sigma eps^) / alpha."""

    def target(self, clean: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
        """The noise."""
        return noise

    def clean(self, prediction: Any, x: Any, alpha: Any, sigma: Any) -> Any:
        """Subtract the noise, undo the scaling."""
        return (x - sigma * prediction) / alpha


@dataclass(frozen=True)
class Clean(Prediction):
    """Target a; a^ is the prediction."""

    def target(self, clean: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
        """The clean sample."""
        return clean

    def clean(self, prediction: Any, x: Any, alpha: Any, sigma: Any) -> Any:
        """The prediction itself."""
        return prediction


@dataclass(frozen=True)
class Velocity(Prediction):
    """Target v = alpha eps - sigma a; a^ = (alpha x - sigma v) / (alpha^2 + sigma^2).

    For the variance-preserving family this is the velocity of the path up to a factor
    that depends on t only.
    """

    def target(self, clean: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
        """The velocity."""
        return alpha * noise - sigma * clean

    def clean(self, prediction: Any, x: Any, alpha: Any, sigma: Any) -> Any:
        """Rotate (x, v) back to the clean sample."""
        return (alpha * x - sigma * prediction) / (alpha**2 + sigma**2)


class Sampler(abc.ABC):
    """A rule for stepping from noise to data, as a table of coefficients."""

    @abc.abstractmethod
    def steps(self, time: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> Steps:
        """Coefficients for a grid of T + 1 points, noise first, float64.

        The last point is data: alpha_T = 1, sigma_T = 0.
        """


@dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling, Ho et al. 2020, equations 6-7.

    With alpha_ts = alpha_t / alpha_s and beta = sigma_t^2 - alpha_ts^2 sigma_s^2:
    x_s = alpha_ts sigma_s^2 / sigma_t^2 x_t + alpha_s beta / sigma_t^2 a^ + std z.
    """

    fixed_large: bool = False
    """Noise variance beta (as the authors' port) instead of the true posterior's
    beta sigma_s^2 / sigma_t^2. The two bracket the exact step: with few steps samples
    come out too wide with beta, too narrow without."""

    def steps(self, time: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> Steps:
        """Posterior mean and standard deviation; no noise at the last step."""
        ratio = alpha[:-1] / alpha[1:]
        var_t, var_s = sigma[:-1] ** 2, sigma[1:] ** 2
        beta = var_t - ratio**2 * var_s
        variance = np.where(var_s > 0, beta, 0.0)
        if not self.fixed_large:
            variance = beta * var_s / var_t
        return Steps(
            time[:-1],
            alpha[:-1],
            sigma[:-1],
            keep=ratio * var_s / var_t,
            clean=alpha[1:] * beta / var_t,
            previous=np.zeros_like(beta),
            noise=np.sqrt(variance),
        )


@dataclass(frozen=True)
class DDIM(Sampler):
    """Deterministic sampling, Song et al. 2021: x_s = alpha_s a^ + sigma_s eps^.

    eps^ is recomputed from the clipped clean estimate: eps^ = (x - alpha_t a^)/sigma_t.
    """

    def steps(self, time: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> Steps:
        """First order; no noise."""
        keep = sigma[1:] / sigma[:-1]
        zero = np.zeros_like(keep)
        clean = alpha[1:] - keep * alpha[:-1]
        return Steps(time[:-1], alpha[:-1], sigma[:-1], keep, clean, zero, zero)


@dataclass(frozen=True)
class DPMSolver2M(Sampler):
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: two steps, second order.

    With half-log-SNR l = log(alpha/sigma), h_i = l_s - l_t and r = h_{i-1} / h_i,
    DDIM's a^ becomes (1 + 1/2r) a^_i - 1/2r a^_{i-1}. First and last steps are DDIM.
    """

    def steps(self, time: np.ndarray, alpha: np.ndarray, sigma: np.ndarray) -> Steps:
        """Second order but for the first and the last step; no noise."""
        first_order = DDIM().steps(time, alpha, sigma)
        log_snr = np.log(alpha[:-1] / sigma[:-1])
        h = np.diff(log_snr)
        extra = np.zeros(len(log_snr))
        extra[1:-1] = h[1:] / (2.0 * h[:-1])
        return first_order._replace(
            clean=first_order.clean * (1.0 + extra),
            previous=-first_order.clean * extra,
        )


PREDICTIONS = (Noise, Clean, Velocity)
SAMPLERS = (DDPM, DDIM, DPMSolver2M)


@dataclass(frozen=True)
class Diffusion(GenerativeModel):
    """A conditional diffusion model of samples in a box."""

    schedule: Schedule = Cosine()  # noqa: RUF009
    """Noise schedule."""
    prediction: Prediction = Noise()
    """What the network predicts."""
    sampler: Sampler = DDPM()
    """Rule for stepping from noise to data."""
    denoising_steps: int = 20
    """T, network evaluations per sample."""
    t_min: float = 1e-3
    """Smallest training time; below it the noise is nothing."""
    t_max: float = 0.9946
    """Largest training time and start of sampling; beyond it 1/alpha explodes."""
    clip: float | None = 1.0
    """Bound on the clean estimate, the action box; None for unbounded data."""

    def __post_init__(self) -> None:
        """Reject impossible settings.

        Raises:
            SimpoError: A number of steps, times or a bound out of range.
        """
        check_steps(self.denoising_steps)
        if not 0.0 <= self.t_min < self.t_max <= 1.0:
            raise SimpoError("times must satisfy 0 <= t_min < t_max <= 1")
        no_signal = not self.schedule.alpha(np.float64(self.t_max)) > 0.0
        if no_signal and isinstance(self.prediction, Noise):
            raise SimpoError(f"at t_max = {self.t_max} noise tells nothing: lower it")
        check_clip(self.clip)

    def steps(self) -> Steps:
        """The sampler's coefficients on the equidistant time grid."""
        time = np.linspace(self.t_max, 0.0, self.denoising_steps + 1)
        alpha = np.append(self.schedule.alpha(time[:-1]), 1.0)
        sigma = np.append(self.schedule.sigma(time[:-1]), 0.0)
        return self.sampler.steps(time, alpha, sigma)

    def predict(
        self, net: Network, x: Array, alpha: Any, sigma: Any, context: Array
    ) -> Array:
        """The network at x_t [B, N, A], scaled to unit size whatever the schedule."""
        return net.denoise(x / jnp.sqrt(alpha**2 + sigma**2), context)

    def sample(self, net: Network, key: Array, cond: Array, n: int) -> Array:
        """Draw n samples per condition: cond [B, O] -> [B, N, A]."""
        steps = self.steps()
        times = net.embed_time(jnp.asarray(steps.time, jnp.float32))
        bound = jnp.inf if self.clip is None else self.clip

        def draw(key: Array, cond: Array) -> Array:
            state = net.condition(cond)[:, None]

            def estimate(x: Array, row: Steps, time: Array) -> Array:
                out = self.predict(net, x, row.alpha, row.sigma, state + time)
                clean = self.prediction.clean(out, x, row.alpha, row.sigma)
                return jnp.clip(clean, -bound, bound)

            shape = (cond.shape[0], n, net.dim)
            return run_steps(steps, estimate, times, key, shape)

        return map_blocks(draw, key, cond, rows_per_state=n)

    def matching_error(self, net: Network, key: Array, x: Array, cond: Array) -> Array:
        """Squared error of the prediction at a random time: [B, N, A] -> [B, N, A]."""
        time_key, noise_key = jax.random.split(key)
        t = uniform(time_key, x.shape[:-1], low=self.t_min, high=self.t_max)
        noise = normal(noise_key, x.shape)
        alpha = self.schedule.alpha(t)[..., None]
        sigma = self.schedule.sigma(t)[..., None]
        context = net.condition(cond)[:, None] + net.embed_time(t)
        prediction = self.predict(net, alpha * x + sigma * noise, alpha, sigma, context)
        return (prediction - self.prediction.target(x, noise, alpha, sigma)) ** 2
