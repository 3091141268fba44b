"""Exact oracles: signed Gaussian mixtures and the networks that denoise them.

Data         a ~ sum_k w_k N(m_k, s_k^2), each dimension alike; w_k may be negative
Path         x_t = alpha a + sigma eps;  V_k = alpha^2 s_k^2 + sigma^2
Posterior    r_k ~ w_k N(x; alpha m_k, V_k), sum_k r_k = 1
             E[a | x] = sum_k r_k (m_k + alpha s_k^2 (x - alpha m_k) / V_k)
             E[eps | x] = sum_k r_k sigma (x - alpha m_k) / V_k
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from simpo.generative import Diffusion, Flow, GenerativeModel
from simpo.generative.schedule import Schedule, StraightPath, namespace


@dataclass(frozen=True)
class Mixture:
    """A signed Gaussian mixture on the line; the weights sum to one."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def marginal(self, x: Any, alpha: Any, sigma: Any) -> tuple[Any, Any, Any]:
        """Residuals x - alpha m_k, variances V_k and signed w_k N(x) on a new axis."""
        xp = namespace(x)
        means, stds = np.asarray(self.means), np.asarray(self.stds)
        alpha, sigma = xp.asarray(alpha)[..., None], xp.asarray(sigma)[..., None]
        residual = x[..., None] - alpha * means
        variance = alpha**2 * stds**2 + sigma**2
        density = xp.exp(-0.5 * residual**2 / variance) / xp.sqrt(2 * np.pi * variance)
        return residual, variance, density * np.asarray(self.weights)

    def density(self, x: Any, alpha: Any = 1.0, sigma: Any = 0.0) -> Any:
        """Signed density of x_t (of the data by default): [...] -> [...]."""
        return self.marginal(x, alpha, sigma)[2].sum(-1)

    def score(self, x: Any, alpha: Any, sigma: Any) -> Any:
        """d log p_t / dx, by the derivative of each component."""
        residual, variance, part = self.marginal(x, alpha, sigma)
        return -(part * residual / variance).sum(-1) / part.sum(-1)

    def posterior(self, x: Any, alpha: Any, sigma: Any) -> tuple[Any, Any]:
        """E[a | x_t = x] and E[eps | x_t = x]: [...] -> [...], [...]."""
        residual, variance, part = self.marginal(x, alpha, sigma)
        share = part / part.sum(-1, keepdims=True)
        alpha, sigma = (
            namespace(x).asarray(level)[..., None] for level in (alpha, sigma)
        )
        gain = np.asarray(self.stds) ** 2 * alpha / variance
        clean = share * (np.asarray(self.means) + gain * residual)
        return clean.sum(-1), (share * sigma * residual / variance).sum(-1)

    def velocity(self, x: Any, t: Any) -> Any:
        """v*(x, t) = E[eps - a | x_t = x] on the straight path (equation 8)."""
        clean, noise = self.posterior(x, 1.0 - t, t)
        return noise - clean

    def cdf(self, x: np.ndarray, alpha: float = 1.0, sigma: float = 0.0) -> np.ndarray:
        """Signed distribution function of x_t."""
        scale = np.sqrt(alpha**2 * np.square(self.stds) + sigma**2)
        z = (
            np.asarray(x, np.float64)[..., None] - alpha * np.asarray(self.means)
        ) / scale
        return (special.ndtr(z) * np.asarray(self.weights)).sum(-1)

    def transport(self, x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        """Where the probability flow takes x at (alpha, sigma): on the line it keeps
        the distribution function, so x_0 = F_0^-1(F_t(x))."""
        grid = np.linspace(-8.0, 8.0, 400_001)
        return np.interp(self.cdf(x, alpha, sigma), self.cdf(grid), grid)

    def mean_std(self) -> tuple[float, float]:
        """Mean and standard deviation of the data."""
        w, m, s = map(np.asarray, (self.weights, self.means, self.stds))
        mean = float(w @ m)
        return mean, float(np.sqrt(w @ (m**2 + s**2) - mean**2))


GAUSSIAN = Mixture((1.0,), (0.3,), (0.5,))
BIMODAL = Mixture((0.4, 0.6), (-1.0, 0.8), (0.3, 0.2))
SIGNED = Mixture((1.5, -0.5), (0.0, 0.3), (1.0, 0.6))
"""Positive everywhere, at every time."""

Target = Callable[[Any, Any, Any, Any], Any]
"""A regression target, linear in (clean, noise), given alpha and sigma too."""


def flow_target(clean: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
    """What a `Flow`'s network predicts."""
    return noise - clean


@dataclass(frozen=True)
class Oracle:
    """The network with the least matching error on a mixture; its context is t.

    `scaled` is for `Diffusion`, which divides x_t by sqrt(alpha^2 + sigma^2) first.
    """

    mixture: Mixture
    schedule: Schedule
    target: Target
    scaled: bool = True
    dim: int = 1

    def condition(self, cond: jax.Array) -> jax.Array:
        return jnp.zeros((*cond.shape[:-1], 1))

    def embed_time(self, t: jax.Array) -> jax.Array:
        return t[..., None]

    def denoise(self, x: jax.Array, context: jax.Array) -> jax.Array:
        alpha, sigma = self.schedule.alpha(context), self.schedule.sigma(context)
        if self.scaled:
            x = x * jnp.sqrt(alpha**2 + sigma**2)
        clean, noise = self.mixture.posterior(x, alpha, sigma)
        return self.target(clean, noise, alpha, sigma)


def oracle_for(model: GenerativeModel, mixture: Mixture, dim: int = 1) -> Oracle:
    """The network that the model's loss would give on a mixture."""
    if isinstance(model, Flow):
        return Oracle(mixture, StraightPath(), flow_target, scaled=False, dim=dim)
    assert isinstance(model, Diffusion)
    return Oracle(mixture, model.schedule, model.prediction.target, dim=dim)


def kolmogorov_smirnov(samples: np.ndarray, mixture: Mixture) -> float:
    """sup_x |F_n(x) - F(x)|, F the signed distribution function."""
    x = np.sort(np.asarray(samples, np.float64).ravel())
    rank = np.arange(len(x) + 1) / len(x)
    f = mixture.cdf(x)
    return float(max(np.max(rank[1:] - f), np.max(f - rank[:-1])))


def quantiles(n: int) -> np.ndarray:
    """The normal distribution without sampling error [N, 1]."""
    return special.ndtri((np.arange(n) + 0.5) / n)[:, None]


COND = jnp.zeros((1, 1))


def draw(
    model: GenerativeModel, net: Any, n: int, seed: int = 1, cond: jax.Array = COND
) -> np.ndarray:
    """Samples [B, N, A] of a model, compiled."""
    return np.asarray(compiled(model, net, n)(jax.random.key(seed), cond))


@functools.cache
def compiled(model: GenerativeModel, net: Any, n: int) -> Callable[..., jax.Array]:
    """(key, cond) -> samples."""
    return jax.jit(lambda key, cond: model.sample(net, key, cond, n))


def draw_from(
    monkeypatch: pytest.MonkeyPatch,
    model: GenerativeModel,
    net: Any,
    z: np.ndarray,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Samples that start from noise z [N, A]: the starts x_T and the samples."""
    real = jax.random.normal

    def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The first [N, A] of the draw is z, the rest is as it would have been."""
        return real(key, shape).at[(0,) * (len(shape) - 2)].set(z)

    with monkeypatch.context() as patch:
        patch.setattr(jax.random, "normal", normal)
        x = compiled.__wrapped__(model, net, len(z))(jax.random.key(seed), COND)[0]
    scale = model.steps().sigma[0] if isinstance(model, Diffusion) else 1.0
    return scale * z, np.asarray(x)
