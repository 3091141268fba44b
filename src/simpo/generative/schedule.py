"""Noise schedules: x_t = alpha_t a + sigma_t eps for t in [0, 1].

VP family   alpha^2 + sigma^2 = 1        Cosine, Linear, VP
VE          alpha = 1, sigma from sigma_min to sigma_max
Path        alpha = 1 - t, sigma = t     StraightPath (flow matching)

Schedules are written for any array module, so samplers tabulate them in float64 NumPy
while losses evaluate them on traced JAX arrays.
"""

import abc
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["SCHEDULES", "VE", "VP", "Cosine", "Linear", "Schedule", "StraightPath"]


def namespace(t: Any) -> Any:
    """The array module of t: NumPy for NumPy arrays and numbers, JAX's otherwise."""
    return jnp if isinstance(t, jax.Array) else np


class Schedule(abc.ABC):
    """Signal and noise levels along the path, t = 0 data and t = 1 noise."""

    @abc.abstractmethod
    def alpha(self, t: Any) -> Any:
        """Signal level alpha_t: [...] -> [...]."""

    @abc.abstractmethod
    def sigma(self, t: Any) -> Any:
        """Noise level sigma_t: [...] -> [...]."""


def noise_level(alpha: Any) -> Any:
    """Variance-preserving noise level, sqrt(1 - alpha^2)."""
    xp = namespace(alpha)
    return xp.sqrt(xp.maximum(1.0 - alpha**2, 0.0))


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha_t = cos(pi/2 (t + offset)/(1 + offset)), scaled to alpha_0 = 1.

    Nichol and Dhariwal 2021, equation 17; the paper's schedule.
    """

    offset: float = 0.008
    """Keeps the first steps from being too small."""

    def alpha(self, t: Any) -> Any:
        """Signal level."""
        xp = namespace(t)
        start = np.cos(np.pi / 2 * self.offset / (1 + self.offset))
        return xp.cos(np.pi / 2 * (t + self.offset) / (1 + self.offset)) / start

    def sigma(self, t: Any) -> Any:
        """Noise level."""
        return noise_level(self.alpha(t))


@dataclass(frozen=True)
class Linear(Schedule):
    """alpha^2 at t = k/K is the product of 1 - beta_j, j <= k; beta linear in j.

    Ho et al. 2020; log alpha is interpolated between the K grid points.
    """

    beta_min: float = 8e-5
    """beta_1."""
    beta_max: float = 0.7992
    """beta_K; the defaults are those of the released DPMD code."""
    grid: int = 20
    """K, the number of betas."""

    def alpha(self, t: Any) -> Any:
        """Signal level."""
        betas = np.linspace(self.beta_min, self.beta_max, self.grid)
        log_alpha = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])
        xp = namespace(t)
        return xp.exp(xp.interp(t, np.linspace(0.0, 1.0, self.grid + 1), log_alpha))

    def sigma(self, t: Any) -> Any:
        """Noise level."""
        return noise_level(self.alpha(t))


@dataclass(frozen=True)
class VP(Schedule):
    """alpha_t = exp(-(beta_min t + (beta_max - beta_min) t^2 / 2) / 2).

    Song et al. 2021, equation 33; DACER's schedule with the defaults.
    """

    beta_min: float = 0.1
    """Rate of noising at t = 0."""
    beta_max: float = 10.0
    """Rate of noising at t = 1."""

    def alpha(self, t: Any) -> Any:
        """Signal level."""
        integral = self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2
        return namespace(t).exp(-0.5 * integral)

    def sigma(self, t: Any) -> Any:
        """Noise level."""
        return noise_level(self.alpha(t))


@dataclass(frozen=True)
class VE(Schedule):
    """alpha = 1, sigma_t = sigma_min (sigma_max / sigma_min)^t (Song et al. 2021)."""

    sigma_min: float = 0.01
    """Noise level at t = 0."""
    sigma_max: float = 10.0
    """Noise level at t = 1; must dwarf the spread of the data."""

    def alpha(self, t: Any) -> Any:
        """Signal level."""
        return namespace(t).ones_like(t)

    def sigma(self, t: Any) -> Any:
        """Noise level."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t


@dataclass(frozen=True)
class StraightPath(Schedule):
    """alpha = 1 - t, sigma = t: the straight path of flow matching."""

    def alpha(self, t: Any) -> Any:
        """Signal level."""
        return 1.0 - t

    def sigma(self, t: Any) -> Any:
        """Noise level."""
        return 1.0 * t


SCHEDULES = (Cosine, Linear, VP, VE, StraightPath)
