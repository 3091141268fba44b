"""Signed Gaussian mixtures: weighted matching with every quantity in closed form.

Behaviour   a ~ pi_old = sum_k rho_k N(m_k, s_k^2 I); a candidate of component k has the
            value Q_k, so the signed weight w_k = 1 + (Q_k - E Q) / lambda, of mean one
Path        x_t = (1 - t) a + t eps,   V_k = (1 - t)^2 s_k^2 + t^2
Density     p_t(x) = sum_k w_k rho_k N(x; (1 - t) m_k, V_k I)            (equation 10)
Field       v*(x, t) = sum_k c_k v_k / sum_k c_k,  c_k the terms of p_t   (equation 8)
            v_k = -m_k + (t - (1 - t) s_k^2) / V_k (x - (1 - t) m_k)

The value belongs to the component, not to the action alone: where components overlap,
an action has weights of both signs, and only their mean must be positive (Case I). Were
the weight a function of the action, p_0 = w pi_old would be negative wherever w is.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import special

from simpo.generative.schedule import namespace
from simpo.randomness import normal

__all__ = [
    "CASE_ONE",
    "CASE_TWO",
    "EXAMPLES",
    "PLANE",
    "Example",
    "SignedMixture",
]


class SignedMixture(NamedTuple):
    """sum_k w_k rho_k N(m_k, s_k^2 I), with its path to noise.

    Attributes:
        shares: rho_k, of sum one [K].
        means: m_k [K, A].
        stds: s_k [K].
        weights: w_k, of mean sum_k rho_k w_k = 1; may be negative [K].
    """

    shares: Any
    means: Any
    stds: Any
    weights: Any

    @staticmethod
    def of_values(
        shares: Any, means: Any, stds: Any, values: Any, temperature: float
    ) -> "SignedMixture":
        """Weights linear in the values Q_k, without a floor (equation 11)."""
        rho, m, s, q = (
            np.asarray(x, np.float64) for x in (shares, means, stds, values)
        )
        return SignedMixture(rho, m, s, 1 + (q - rho @ q) / temperature)

    @property
    def dim(self) -> int:
        """A, the dimension of an action."""
        return self.means.shape[-1]

    @property
    def positive(self) -> "SignedMixture":
        """Negative weights dropped, the others scaled to mean one."""
        kept = np.maximum(self.weights, 0)
        return self._replace(weights=kept / (self.shares @ kept))

    @property
    def behaviour(self) -> "SignedMixture":
        """pi_old: all weights one."""
        return self._replace(weights=np.ones_like(self.weights))

    def parts(self, x: Any, t: Any) -> tuple[Any, Any, Any]:
        """Residuals [..., K, A], variances [..., K] and log densities [..., K]."""
        xp = namespace(x)
        t = xp.asarray(t)[..., None]
        variance = (1 - t) ** 2 * self.stds**2 + t**2
        residual = x[..., None, :] - (1 - t)[..., None] * self.means
        distance = (residual**2).sum(-1) / variance
        dim = self.means.shape[-1]
        return (
            residual,
            variance,
            -0.5 * (distance + dim * xp.log(2 * np.pi * variance)),
        )

    def terms(self, x: Any, t: Any) -> Any:
        """Terms of p_t(x): x [..., A], t [...] -> [..., K]."""
        return self.shares * self.weights * namespace(x).exp(self.parts(x, t)[2])

    def density(self, x: Any, t: Any) -> Any:
        """Signed density p_t(x): x [..., A], t [...] -> [...]."""
        return self.terms(x, t).sum(-1)

    def velocity(self, x: Any, t: Any) -> Any:
        """v*(x, t): x [..., A], t [...] -> [..., A]."""
        xp = namespace(x)
        residual, variance, log_density = self.parts(x, t)
        t = xp.asarray(t)[..., None]
        charge = self.shares * self.weights
        log_density = xp.where(charge == 0, -np.inf, log_density)
        # Only ratios matter; in the tails the densities themselves would underflow.
        largest = log_density.max(-1, keepdims=True)
        c = (charge * xp.exp(log_density - largest))[..., None]
        gain = (t - (1 - t) * self.stds**2) / variance
        return (c * (gain[..., None] * residual - self.means)).sum(-2) / c.sum(-2)

    def sample_behaviour(self, key: Array, n: int) -> tuple[Array, Array]:
        """Candidates of pi_old [1, N, A] and their weights [1, N].

        Every component gets its share of the candidates, so that the mean weight is one
        in each draw, as Stage I makes it.
        """
        rank = (jnp.arange(n)[:, None] + 0.5) / n
        k = (rank > jnp.cumsum(jnp.asarray(self.shares))[:-1]).sum(-1)[None]
        noise = normal(key, (1, n, self.dim))
        x = jnp.asarray(self.means)[k] + jnp.asarray(self.stds)[k][..., None] * noise
        return x, jnp.asarray(self.weights)[k]

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """Signed distribution function on the line (A = 1) at t = 0: [...] -> [...]."""
        z = (x[..., None] - self.means[:, 0]) / self.stds
        return special.ndtr(z) @ (self.shares * self.weights)

    def distance(self, x: np.ndarray) -> float:
        """Kolmogorov-Smirnov distance sup |F_n - F| of samples [N, 1]; Case I only."""
        x = np.sort(x[:, 0].astype(np.float64))
        rank, f = np.arange(len(x) + 1) / len(x), self.cdf(x)
        return float(max(np.max(rank[1:] - f), np.max(f - rank[:-1])))


class Example(NamedTuple):
    """A signed mixture with one negative component.

    Attributes:
        name: In tables.
        title: In pictures.
        mixture: The signed measure.
    """

    name: str
    title: str
    mixture: SignedMixture

    @property
    def disc(self) -> tuple[np.ndarray, float]:
        """Mean [A] and standard deviation of the negative component."""
        k = int(np.argmin(self.mixture.weights))
        return self.mixture.means[k], float(self.mixture.stds[k])


CASE_ONE = Example(
    "line, Case I",
    "Case I everywhere: the signed density is positive",
    SignedMixture.of_values(
        (0.5, 0.5), ((0.0,), (0.5,)), (1.0, 0.45), (1.0, 0.0), temperature=0.25
    ),
)
CASE_TWO = Example(
    "line, Case II",
    "Case II inside the hatched region: the signed density is negative",
    SignedMixture.of_values(
        (0.35, 0.3, 0.35),
        ((-1.1,), (0.3,), (1.3,)),
        (0.6, 0.45, 0.6),
        (1.0, 0.0, 1.0),
        temperature=0.25,
    ),
)
PLANE = Example(
    "plane, Case II",
    "Two action dimensions",
    SignedMixture.of_values(
        (0.25, 0.25, 0.25, 0.25),
        ((0.0, 1.2), (-1.04, -0.6), (1.04, -0.6), (0.1, 0.1)),
        (0.55, 0.55, 0.55, 0.5),
        (1.0, 1.0, 1.0, 0.0),
        temperature=0.25,
    ),
)
EXAMPLES = (CASE_ONE, CASE_TWO, PLANE)
