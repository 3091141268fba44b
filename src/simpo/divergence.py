"""Divergences that keep the improved policy near the behaviour policy.

D_f(mu || pi) = E_pi[f(dmu/dpi)], f strictly convex, f(1) = f'(1) = 0. Maximising
E_mu[Q] - lambda D_f(mu || pi) gives dmu/dpi = g((Q - nu) / lambda), with the link
g = (f')^-1 cut off at zero: a weighting is what a divergence allows.

    KL            f = x log x - x + 1                     g = exp(y)
    ChiSquare     f = (x - 1)^2 / 2                       g = max(0, 1 + y)
    Alpha(a)      f = (x^a - a x + a - 1) / (a (a - 1))   g = (1 + (a - 1) y)^(1/(a-1))

Alpha is KL at a = 1, chi-square at a = 2 and reverse KL (-log x + x - 1) at a = 0.
With the deformed logarithm log_k x = (x^k - 1) / k, log_0 = log, its slope is
log_{a-1} x and its conjugate log_a g(y). All functions are elementwise, on arrays of
NumPy, JAX or PyTorch.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from simpo.types import SimpoError

__all__ = ["DIVERGENCES", "KL", "Alpha", "ChiSquare", "Divergence", "kl_to_uniform"]

Array = Any


class Divergence(ABC):
    """A convex generator f, its slope f', the clipped inverse g of that, and f*."""

    @abstractmethod
    def f(self, x: Array) -> Array:
        """Generator at density ratios x [...]; infinite outside its domain."""

    @abstractmethod
    def slope(self, x: Array) -> Array:
        """Derivative f' at x [...]."""

    @abstractmethod
    def link(self, y: Array) -> Array:
        """The ratio x >= 0 whose slope is y [...]; 0 below and inf above the range."""

    @abstractmethod
    def conjugate(self, y: Array) -> Array:
        """Fenchel conjugate f*(y) = sup over x >= 0 of x y - f(x), for y [...]."""


@dataclass(frozen=True)
class KL(Divergence):
    """Kullback-Leibler, f(x) = x log x - x + 1: exponential weights (eqs. 1-2)."""

    def f(self, x: Array) -> Array:
        """The generator, with 0 log 0 = 0 and infinity for x < 0."""
        xp = array_namespace(x)
        positive = x > 0
        entropy = x * xp.log(xp.where(positive, x, 1.0))
        return xp.where(x < 0, np.inf, entropy - x + 1)

    def slope(self, x: Array) -> Array:
        """The logarithm."""
        return _deformed_log(x, 0.0)

    def link(self, y: Array) -> Array:
        """exp(y)."""
        return array_namespace(y).exp(y)

    def conjugate(self, y: Array) -> Array:
        """exp(y) - 1."""
        return array_namespace(y).expm1(y)


@dataclass(frozen=True)
class ChiSquare(Divergence):
    """Half the chi-square divergence, f(x) = (x - 1)^2 / 2, for x of either sign."""

    def f(self, x: Array) -> Array:
        """(x - 1)^2 / 2."""
        return 0.5 * (x - 1) ** 2

    def slope(self, x: Array) -> Array:
        """The excess x - 1."""
        return x - 1

    def link(self, y: Array) -> Array:
        """max(0, 1 + y)."""
        xp = array_namespace(y)
        return xp.where(y < -1, 0.0, 1 + y)

    def conjugate(self, y: Array) -> Array:
        """Y + y^2 / 2, and -1/2 below y = -1."""
        xp = array_namespace(y)
        return xp.where(y < -1, -0.5, y + 0.5 * y**2)


@dataclass(frozen=True)
class Alpha(Divergence):
    """Alpha-divergence, f(x) = (x^a - a x + a - 1) / (a (a - 1)).

    For a > 1 ratios may be negative, with |x|^a and f'(x) ~ sign(x) |x|^(a-1).

    Attributes:
        alpha: The order a, any finite number; 0 and 1 are the limits named above.
    """

    alpha: float

    def __post_init__(self) -> None:
        if not np.isfinite(self.alpha):
            raise SimpoError(f"alpha must be finite, not {self.alpha}")

    def f(self, x: Array) -> Array:
        """The generator, by whichever of two equal forms is stable near a = 0 and 1."""
        xp = array_namespace(x)
        if self.alpha < 0.5:
            return ((x - 1) - _deformed_log(x, self.alpha)) / (1 - self.alpha)
        inside = x if self.alpha > 1 else xp.where(x == 0, 1.0, x)
        return (x * self.slope(inside) - (x - 1)) / self.alpha

    def slope(self, x: Array) -> Array:
        """(x^(a-1) - 1) / (a - 1)."""
        return _deformed_log(x, self.alpha - 1, signed=self.alpha > 1)

    def link(self, y: Array) -> Array:
        """(1 + (a-1) y)^(1/(a-1)); beyond its domain 0 if a > 1, infinity if a < 1."""
        xp = array_namespace(y)
        k = self.alpha - 1
        if k == 0:
            return xp.exp(y)
        inside = k * y > -1
        ratio = xp.exp(xp.log1p(xp.where(inside, k * y, 0.0)) / k)
        outside = xp.where(k * y <= -1, 0.0 if k > 0 else np.inf, y)
        return xp.where(inside, ratio, outside)

    def conjugate(self, y: Array) -> Array:
        """log_a g(y): -1/a below the domain if a > 1, infinity above it if a < 1."""
        xp = array_namespace(y)
        beyond = (self.alpha < 1) & ((self.alpha - 1) * y < -1)
        return xp.where(beyond, np.inf, _deformed_log(self.link(y), self.alpha))


def _deformed_log(x: Array, k: float, *, signed: bool = False) -> Array:
    """log_k x = (x^k - 1) / k; continued oddly in x^k to x < 0 if signed."""
    xp = array_namespace(x)
    log = xp.log(xp.where(x == 0, 1.0, xp.abs(x)))
    if k == 0:
        return xp.where(x > 0, log, xp.where(x <= 0, -np.inf, x))
    at_zero = -1 / k if k > 0 else -np.inf
    below = (-xp.exp(k * log) - 1) / k if signed else -np.inf
    edge = xp.where(x == 0, at_zero, xp.where(x < 0, below, x))
    return xp.where(x > 0, xp.expm1(k * log) / k, edge)


def kl_to_uniform(values: Array) -> Array:
    """KL from uniform [...], ln N - H(p) in nats, p the positive part, renormalised.

    0 log 0 = 0, and a state without positive weights uses no information. Negative
    mass is invisible here: read `weight_negative_mass` beside it (Appendix G).
    """
    xp = array_namespace(values)
    positive = xp.where(values < 0, 0.0, values)
    total = xp.sum(positive, axis=-1, keepdims=True)
    mean = xp.where(total == 0, 1.0, total) / values.shape[-1]
    ratio = positive / mean
    return xp.mean(ratio * xp.log(xp.where(ratio == 0, 1.0, ratio)), axis=-1)


DIVERGENCES: tuple[type[Divergence], ...] = (KL, ChiSquare, Alpha)
