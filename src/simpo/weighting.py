"""Stage I: from the values of N candidates to signed weights of mean one.

For one state with candidates q_1..q_N drawn from the behaviour policy, a temperature
lambda and an increasing link g (paper, eqs. 5 and 9, Appendix E),

    w_i = N g_c((q_i - nu) / lambda),    nu such that    sum_i g_c(.) = 1,

where g_c = max(g, c / N) and c <= 0 is the floor of the weights: 0 keeps them
non-negative, c < 0 admits weights that push the policy away. Everything is computed
from x_i = (q_i - max q) / lambda <= 0 and the offset t = (max q - nu) / lambda, so
that w_i = N g_c(x_i + t) loses nothing at |q| ~ 1e4.

A weighting is called as `weighting(q, temperature)`, on arrays of JAX, NumPy or
PyTorch, under jit, vmap and grad. N candidates, ... states.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
from array_api_compat import array_namespace, is_jax_array, is_torch_array

from simpo.divergence import KL, Alpha, ChiSquare, Divergence, kl_to_uniform
from simpo.multiplier import (
    Array,
    Function,
    active,
    at_least,
    detach,
    find_reach,
    solve_custom,
    solve_floored,
    solve_power,
)
from simpo.types import SimpoError

__all__ = [
    "WEIGHTINGS",
    "Advantage",
    "Centred",
    "Custom",
    "Exponential",
    "InverseGap",
    "Linear",
    "Power",
    "SignedSoftmax",
    "Square",
    "Weighting",
    "Weights",
    "weight_metrics",
]


class Weights(NamedTuple):
    """Weights of N candidates and the multiplier that normalises them.

    Attributes:
        values: w_i, of mean one over N if the weighting is normalised [..., N].
        multiplier: nu, in the units of q [..., 1].
    """

    values: Array
    multiplier: Array


class Weighting(ABC):
    """An increasing map from values to weights; hashable, so static under jit."""

    normalised: ClassVar[bool] = True  # whether the weights of a state have mean one

    @property
    @abstractmethod
    def divergence(self) -> Divergence | None:
        """The divergence whose link this is, up to absorbed constants, if any."""

    @abstractmethod
    def _solve(self, x: Array) -> tuple[Array, Array]:
        """Values [..., N] and offset t [..., 1] at x = (q - max q) / lambda."""

    def __call__(self, q: Array, temperature: Array | float) -> Weights:
        """Weigh candidates by their values.

        Bad numbers raise where they can be read; under jit they cannot, and all weights
        of that state are NaN.

        Args:
            q: Values of the candidates, floating point [..., N].
            temperature: lambda > 0 in the units of q, a scalar or [..., 1].

        Raises:
            TypeError: q is not a floating-point array.
            ValueError: a shape does not fit, or a value is not finite.
            SimpoError: the temperature is not positive and finite.
        """
        temperature = _checked(q, temperature)
        weigh = _weigh_compiled if is_jax_array(q) else _weigh
        return weigh(self, q, temperature)


def _checked(q: Array, temperature: Array) -> Array:
    """Temperature as an array of q's kind, after checking what can be read of both."""
    xp = array_namespace(q)
    if not xp.isdtype(q.dtype, "real floating"):
        raise TypeError(f"q must be floating point, not {q.dtype}: convert it first")
    if q.ndim == 0 or q.shape[-1] == 0:
        raise ValueError(f"q must be [..., N] with N >= 1, not {tuple(q.shape)}")
    if is_torch_array(temperature):  # asarray would cut its gradient
        temperature = temperature.to(q.dtype)
    else:
        temperature = xp.asarray(temperature, dtype=q.dtype)
    if temperature.ndim and temperature.shape[-1] != 1:
        shape = tuple(temperature.shape)
        raise ValueError(f"temperature must be a scalar or [..., 1], not {shape}")
    if not _holds(xp.isfinite(q)):
        raise ValueError("q holds values that are not finite: check the critic")
    positive = _holds((temperature > 0) & xp.isfinite(temperature))
    _require(positive, "temperature must be positive and finite")
    return temperature


def _holds(condition: Array) -> bool:
    """Whether all [...] is true; true if it cannot be read (jit, torch.func.vmap)."""
    try:
        return bool(array_namespace(condition).all(condition))
    except (jax.errors.ConcretizationTypeError, RuntimeError):
        return True


def _weigh(weighting: Weighting, q: Array, temperature: Array) -> Weights:
    """Solve in shifted units; the shift is a constant to differentiation, exactly.

    Invalid states are marked after solving: XLA folds exp of a constant NaN to garbage.
    """
    xp = array_namespace(q)
    top = detach(xp.max(q, axis=-1, keepdims=True))
    valid = (temperature > 0) & xp.isfinite(temperature)
    valid = valid & xp.all(xp.isfinite(q), axis=-1, keepdims=True)
    values, offset = weighting._solve(xp.where(valid, (q - top) / temperature, 0.0))
    multiplier = top - temperature * offset
    return Weights(*(xp.where(valid, v, math.nan) for v in (values, multiplier)))


_weigh_compiled = jax.jit(_weigh, static_argnums=0, inline=True)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SimpoError(message)


def _require_floor(floor: float) -> None:
    valid = -math.inf < floor <= 0
    _require(valid, f"floor must be finite and at most 0, not {floor}")


@dataclass(frozen=True)
class Exponential(Weighting):
    """w = N softmax(q / lambda): the link of KL (SiMPO-Exp; DPMD, AWR)."""

    @property
    def divergence(self) -> KL:
        """Kullback-Leibler."""
        return KL()

    def _solve(self, x: Array) -> tuple[Array, Array]:
        xp = array_namespace(x)
        terms = xp.exp(x)
        total = xp.sum(terms, axis=-1, keepdims=True)
        return x.shape[-1] * terms / total, -xp.log(total)


@dataclass(frozen=True)
class Linear(Weighting):
    """w = max(N (q - nu) / lambda, c): the link of chi-square (SiMPO-Linear, eq. 24).

    Attributes:
        floor: c <= 0, the smallest weight; below 0 it is SiMPO-Lin.-Neg. (eq. 11).
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        _require_floor(self.floor)

    @property
    def divergence(self) -> ChiSquare:
        """Chi-square."""
        return ChiSquare()

    def _solve(self, x: Array) -> tuple[Array, Array]:
        xp = array_namespace(x)
        n = x.shape[-1]
        above = active(x, 1, 1 - self.floor)
        k = xp.sum(xp.astype(above, x.dtype), axis=-1, keepdims=True)
        total = xp.sum(xp.where(above, x, 0.0), axis=-1, keepdims=True)
        offset = (1 - (n - k) * (self.floor / n) - total) / k
        return at_least(n * (x + offset), self.floor), offset


@dataclass(frozen=True)
class Square(Weighting):
    """w = max(N y |y|, c), y = (q - nu) / lambda: `Power(2)` (SiMPO-Square).

    Attributes:
        floor: c <= 0, the smallest weight; below 0 it is SiMPO-Sqr.-Neg. For c = 0 the
            multiplier has a closed form.
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        _require_floor(self.floor)

    @property
    def divergence(self) -> Alpha:
        """Alpha-divergence of order 3/2."""
        return Alpha(1.5)

    def _solve(self, x: Array) -> tuple[Array, Array]:
        if self.floor < 0:
            return solve_power(x, 2, self.floor)
        xp = array_namespace(x)
        above = active(x, 2, 1.0)
        k = xp.sum(xp.astype(above, x.dtype), axis=-1, keepdims=True)
        mean = xp.sum(xp.where(above, x, 0.0), axis=-1, keepdims=True) / k
        scatter = xp.where(above, x - mean, 0.0) ** 2
        variance = xp.sum(scatter, axis=-1, keepdims=True)
        offset = xp.sqrt((1 - variance) / k) - mean
        return x.shape[-1] * at_least(x + offset, 0.0) ** 2, offset


@dataclass(frozen=True)
class Power(Weighting):
    """w = max(N sign(y) |y|^p, c), y = (q - nu) / lambda (Example 3.3).

    Attributes:
        exponent: p > 0; 1 is `Linear`, 2 is `Square`.
        floor: c <= 0, the smallest weight.
    """

    exponent: float = 3.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _require_floor(self.floor)
        valid = 0 < self.exponent < math.inf
        _require(valid, f"exponent must be positive, not {self.exponent}")

    @property
    def divergence(self) -> Alpha:
        """Alpha-divergence of order 1 + 1/p."""
        return Alpha(1 + 1 / self.exponent)

    def _solve(self, x: Array) -> tuple[Array, Array]:
        return solve_power(x, self.exponent, self.floor)


@dataclass(frozen=True)
class InverseGap(Weighting):
    """w = N (1 - (1-a) y)^(-1/(1-a)), y = (q - nu) / lambda: polynomial tails.

    Never zero; a = 0 gives 1 / (nu' - q / lambda), the link of reverse KL.

    Attributes:
        alpha: Order a < 1 of the alpha-divergence. N^(1-a) must not overflow.
    """

    alpha: float = 0.0

    def __post_init__(self) -> None:
        valid = -math.inf < self.alpha < 1
        _require(valid, f"alpha must be finite and below 1, not {self.alpha}")

    @property
    def divergence(self) -> Alpha:
        """Alpha-divergence of order a."""
        return Alpha(self.alpha)

    def _solve(self, x: Array) -> tuple[Array, Array]:
        return solve_floored(self.divergence.link, self.divergence.slope, x, 0.0)


@dataclass(frozen=True)
class Advantage(Weighting):
    """w = max(0, q - V) / lambda, V the mean over candidates (QVPO, Example 3.2).

    Not normalised, and the temperature only scales the weights; the multiplier is V.
    """

    normalised: ClassVar[bool] = False

    @property
    def divergence(self) -> None:
        """None."""
        return None

    def _solve(self, x: Array) -> tuple[Array, Array]:
        offset = -array_namespace(x).mean(x, axis=-1, keepdims=True)
        return at_least(x + offset, 0.0), offset


@dataclass(frozen=True)
class SignedSoftmax(Weighting):
    """w = N (softmax(psi A) - softmax(-psi A)), A = (q - V) / lambda (wd1, Ex. 3.4).

    The weights of a state sum to zero; the multiplier is V, the mean over candidates.

    Attributes:
        scale: psi > 0.
    """

    scale: float = 1.0
    normalised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        valid = 0 < self.scale < math.inf
        _require(valid, f"scale must be positive, not {self.scale}")

    @property
    def divergence(self) -> None:
        """None."""
        return None

    def _solve(self, x: Array) -> tuple[Array, Array]:
        xp = array_namespace(x)
        bottom = detach(xp.min(x, axis=-1, keepdims=True))
        best, worst = xp.exp(self.scale * x), xp.exp(self.scale * (bottom - x))
        best = best / xp.sum(best, axis=-1, keepdims=True)
        worst = worst / xp.sum(worst, axis=-1, keepdims=True)
        return x.shape[-1] * (best - worst), -xp.mean(x, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Centred(Weighting):
    """w - mean w of another weighting: the same preferences, and a baseline.

    The control that tells a negative floor from variance reduction: candidates below
    the mean weight push away, however the inner weighting treats the worst. The weights
    of a state sum to zero. A target is met by the inner weights with `Shared`.

    Attributes:
        inner: The other weighting.
    """

    inner: Weighting = Exponential()
    normalised: ClassVar[bool] = False

    @property
    def divergence(self) -> None:
        """None."""
        return None

    def _solve(self, x: Array) -> tuple[Array, Array]:
        values, offset = self.inner._solve(x)
        mean = array_namespace(x).mean(values, axis=-1, keepdims=True)
        return values - mean, offset


@dataclass(frozen=True, repr=False)
class Custom(Weighting):
    """w = max(N g(y), c), y = (q - nu) / lambda, for any increasing g.

    Attributes:
        link: g, elementwise and non-decreasing on the whole line (infinity allowed);
            it must take NumPy arrays besides those it will be used with.
        floor: c <= 0, the smallest weight; -inf leaves g as it is.
        reach: Smallest and largest value of g, found on a grid.
    """

    link: Function
    floor: float = -math.inf
    reach: tuple[float, float] = field(init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        name = getattr(self.link, "__name__", self.link)
        return f"Custom(link={name}, floor={self.floor})"

    def __post_init__(self) -> None:
        _require(self.floor <= 0, f"floor must be at most 0, not {self.floor}")
        object.__setattr__(self, "reach", find_reach(self.link))

    @property
    def divergence(self) -> None:
        """None."""
        return None

    def _solve(self, x: Array) -> tuple[Array, Array]:
        n, (low, high) = x.shape[-1], self.reach
        reachable = low < 1 / n <= high
        _require(reachable, f"the link must pass 1/{n}: it goes from {low} to {high}")
        return solve_custom(self.link, self.floor, x)


WEIGHTINGS: tuple[type[Weighting], ...] = (
    Exponential,
    Linear,
    Square,
    Power,
    InverseGap,
    Advantage,
    SignedSoftmax,
    Centred,
    Custom,
)


def weight_metrics(weights: Weights) -> dict[str, Array]:
    """Scalars that describe weights, each a mean over states.

    `weight_max`, `weight_min`; `weight_negative_mass` mean |min(w, 0)|;
    `weight_negative_fraction`, `weight_active` and `weight_nonfinite`, shares of
    candidates with w < 0, w > 0 and w not finite; `weight_ess`, the effective sample
    size (sum |w|)^2 / sum w^2 of N; `weight_kl`, see `kl_to_uniform`; `multiplier`.
    """
    w, multiplier = weights
    xp = array_namespace(w)
    mass, energy = xp.sum(xp.abs(w), axis=-1), xp.sum(w * w, axis=-1)

    def share(condition: Array) -> Array:
        return xp.mean(xp.astype(condition, w.dtype))

    return {
        "weight_max": xp.mean(xp.max(w, axis=-1)),
        "weight_min": xp.mean(xp.min(w, axis=-1)),
        "weight_negative_mass": xp.mean(at_least(-w, 0.0)),
        "weight_negative_fraction": share(w < 0),
        "weight_active": share(w > 0),
        "weight_nonfinite": share(~xp.isfinite(w)),
        "weight_ess": xp.mean(mass**2 / xp.where(energy == 0, 1.0, energy)),
        "weight_kl": xp.mean(kl_to_uniform(w)),
        "multiplier": xp.mean(multiplier),
    }
