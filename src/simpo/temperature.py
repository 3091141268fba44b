"""The temperature lambda: how much one reweighting may change the policy.

A target bounds the divergence that the weights use, E_s[D(w)] <= delta. The dual of
the constrained problem, for KL and exponential weights (eq. 30), is

    L(lambda) = lambda delta + lambda log mean_i exp(q_i / lambda),
    L'(lambda) = delta - D(w) = -excess,

so lambda rises while the weights use more than delta. The paper uses the same rule for
every weighting. `Fixed` keeps lambda, `DualAscent` takes one Adam step on rho = log
lambda per update, `Solved` finds the lambda of each batch at once, `Shared` takes the
lambda of another weighting.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from array_api_compat import array_namespace
from jax import lax

from simpo.divergence import kl_to_uniform
from simpo.multiplier import bisect
from simpo.types import PyTree, SimpoError
from simpo.weighting import Advantage, Exponential, Weighting, Weights

__all__ = [
    "TARGETS",
    "TEMPERATURES",
    "DivergenceTarget",
    "DualAscent",
    "DualState",
    "EntropyTarget",
    "Fixed",
    "Shared",
    "Solved",
    "Target",
    "Temperature",
]


_COLD = 1e-30  # a temperature at which one of two candidates takes all
PRECISION = 1e-6
"""To which `Solved` finds log lambda, about what float32 can tell."""


def _require_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise SimpoError(f"{name} must be positive and finite, not {value}")


class Target(ABC):
    """A bound on the divergence that weights use, averaged over states."""

    @abstractmethod
    def excess(self, weights: Weights, weighting: Weighting) -> jax.Array:
        """Divergence used minus its bound, a scalar; positive asks for more lambda."""

    @abstractmethod
    def check(self, weighting: Weighting, candidates: int) -> None:
        """Raise SimpoError if no lambda can meet the bound with N candidates."""


@dataclass(frozen=True)
class EntropyTarget(Target):
    """ln N - H(w / N) = nats, on the positive part of the weights (Appendix G).

    Attributes:
        nats: Bound, below ln N; the paper uses 1.5 with N = 32 (ln 32 = 3.47).
    """

    nats: float = 1.5

    def __post_init__(self) -> None:
        _require_positive("nats", self.nats)

    def excess(self, weights: Weights, weighting: Weighting) -> jax.Array:
        """Mean over states of ln N - H, minus the bound."""
        return jnp.mean(kl_to_uniform(weights.values)) - self.nats

    def check(self, weighting: Weighting, candidates: int) -> None:
        """Require nats < ln N and weights whose shape depends on the temperature."""
        if isinstance(weighting, Advantage):
            raise SimpoError("Advantage only scales with temperature: use Fixed")
        limit = math.log(candidates)
        if self.nats >= limit:
            raise SimpoError(
                f"a target of {self.nats:g} nats is out of reach of {candidates} "
                f"candidates: it must be below ln {candidates} = {limit:.2f}"
            )


@dataclass(frozen=True)
class DivergenceTarget(Target):
    """mean_i f(w_i) = bound, f the weighting's own divergence: the exact dual.

    Attributes:
        bound: delta > 0, in the units of f.
    """

    bound: float = 1.5

    def __post_init__(self) -> None:
        _require_positive("bound", self.bound)

    def excess(self, weights: Weights, weighting: Weighting) -> jax.Array:
        """Mean of f(w) over states and candidates, minus the bound."""
        if weighting.divergence is None:
            name = type(weighting).__name__
            raise SimpoError(f"{name} comes from no divergence: use EntropyTarget")
        used = weighting.divergence.f(weights.values)
        return array_namespace(used).mean(used) - self.bound

    def check(self, weighting: Weighting, candidates: int) -> None:
        """Require a divergence, and a bound below that of weights on one candidate."""
        one_takes_all = weighting(np.eye(1, candidates), _COLD)
        room = float(self.excess(one_takes_all, weighting))
        if room <= 0:
            raise SimpoError(
                f"a divergence of {self.bound:g} is out of reach of {candidates} "
                f"candidates: it must be below {room + self.bound:.3g}"
            )


class Temperature(ABC):
    """A rule for lambda: `init` makes its state, `weigh` uses and advances it."""

    @abstractmethod
    def check(self, weighting: Weighting, candidates: int) -> None:
        """Raise SimpoError if the rule cannot work for N candidates."""

    @abstractmethod
    def init(self) -> PyTree:
        """State before the first update, a pytree of arrays."""

    @abstractmethod
    def weigh(
        self, state: PyTree, weighting: Weighting, q: jax.Array
    ) -> tuple[Weights, jax.Array, PyTree]:
        """Weigh candidates, without gradient through q.

        Args:
            state: What `init` or the last `weigh` returned.
            weighting: Stage I.
            q: Values of the candidates [..., N].

        Returns:
            The weights, the temperature they were made with (a scalar), the new state.

        Raises:
            SimpoError: the target is out of reach of N candidates of this weighting.
        """


@dataclass(frozen=True)
class Fixed(Temperature):
    """A constant temperature.

    Attributes:
        value: lambda > 0, in the units of q.
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("the temperature", self.value)

    def check(self, weighting: Weighting, candidates: int) -> None:
        """Any weighting and any N will do."""

    def init(self) -> tuple[()]:
        """Nothing."""
        return ()

    def weigh(
        self, state: tuple[()], weighting: Weighting, q: jax.Array
    ) -> tuple[Weights, jax.Array, tuple[()]]:
        """Weigh at the constant temperature."""
        temperature = jnp.asarray(self.value, q.dtype)
        return weighting(lax.stop_gradient(q), temperature), temperature, state


class DualState(NamedTuple):
    """State of dual ascent: rho = log lambda, a scalar, and Adam's moments."""

    log_temperature: jax.Array
    optimizer: optax.OptState


@dataclass(frozen=True)
class DualAscent(Temperature):
    """Gradient descent on the dual: one Adam step on rho = log lambda per update.

    d L / d rho = -lambda excess; for `Exponential` and `EntropyTarget` this is the
    gradient of eq. 30 exactly. A step moves lambda by at most about the factor
    exp(learning_rate): e^3 takes 10,000 updates at 3e-4.

    Attributes:
        target: The divergence allowed.
        initial: lambda before the first update, in the units of q.
        learning_rate: Adam's, on rho.
    """

    target: Target = EntropyTarget()
    initial: float = 1.0
    learning_rate: float = 3e-4

    def __post_init__(self) -> None:
        _require_positive("the initial temperature", self.initial)
        _require_positive("learning_rate", self.learning_rate)

    def check(self, weighting: Weighting, candidates: int) -> None:
        """Require a target within reach."""
        self.target.check(weighting, candidates)

    def init(self) -> DualState:
        """Rho of the initial temperature, and Adam's zero moments."""
        rho = jnp.asarray(math.log(self.initial), jnp.float32)
        return DualState(rho, optax.adam(self.learning_rate).init(rho))

    def weigh(
        self, state: DualState, weighting: Weighting, q: jax.Array
    ) -> tuple[Weights, jax.Array, DualState]:
        """Weigh at the current temperature, then move it."""
        self.target.check(weighting, q.shape[-1])
        rho, optimizer = state
        temperature = jnp.exp(rho)
        weights = weighting(lax.stop_gradient(q), temperature)
        excess = self.target.excess(weights, weighting).astype(rho.dtype)
        adam = optax.adam(self.learning_rate)
        step, optimizer = adam.update(-temperature * excess, optimizer)
        return weights, temperature, DualState(rho + jnp.asarray(step), optimizer)


@dataclass(frozen=True)
class Solved(Temperature):
    """The temperature at which this batch meets the target, by bisection on log lambda.

    No transient and no state. The search spans `smallest` to `largest` times the mean
    over states of max q - min q (1 if all values are equal). Where no lambda in it
    meets the target, the nearer end is used: the smallest when weights cannot use that
    much (all values equal, many ties), the largest when they always use more.

    Attributes:
        target: The divergence allowed.
        smallest: Lower end of the search, in units of the spread of q.
        largest: Upper end of the search, in units of the spread of q.
    """

    target: Target = EntropyTarget()
    smallest: float = 1e-4
    largest: float = 1e4

    def __post_init__(self) -> None:
        _require_positive("smallest", self.smallest)
        if not self.smallest < self.largest < math.inf:
            raise SimpoError("largest must be finite and above smallest")

    def check(self, weighting: Weighting, candidates: int) -> None:
        """Require a target within reach."""
        self.target.check(weighting, candidates)

    def init(self) -> tuple[()]:
        """Nothing."""
        return ()

    def weigh(
        self, state: tuple[()], weighting: Weighting, q: jax.Array
    ) -> tuple[Weights, jax.Array, tuple[()]]:
        """Solve for the temperature of this batch, then weigh with it."""
        self.target.check(weighting, q.shape[-1])
        q = lax.stop_gradient(q)
        spread = jnp.mean(jnp.max(q, axis=-1) - jnp.min(q, axis=-1))
        spread = jnp.where(spread == 0, 1.0, spread)

        def too_cold(log_ratio: jax.Array) -> jax.Array:
            weights = weighting(q, spread * jnp.exp(log_ratio))
            return self.target.excess(weights, weighting) > 0

        coldest = jnp.full_like(spread, math.log(self.smallest))
        hottest = jnp.full_like(spread, math.log(self.largest))
        steps = math.ceil(math.log2(math.log(self.largest / self.smallest) / PRECISION))
        lower, upper = bisect(too_cold, coldest, hottest, steps=steps)
        temperature = spread * jnp.exp(0.5 * (lower + upper))
        return weighting(q, temperature), temperature, state


@dataclass(frozen=True)
class Shared(Temperature):
    """The temperature that another weighting would be used at: as greedy as that one.

    Attributes:
        weighting: The other weighting, whose divergence is meant.
        rule: How its temperature is chosen.
    """

    weighting: Weighting = Exponential()  # noqa: RUF009
    rule: Temperature = Solved()

    def check(self, weighting: Weighting, candidates: int) -> None:
        """Require a target within reach of the other weighting."""
        self.rule.check(self.weighting, candidates)

    def init(self) -> PyTree:
        """The rule's state."""
        return self.rule.init()

    def weigh(
        self, state: PyTree, weighting: Weighting, q: jax.Array
    ) -> tuple[Weights, jax.Array, PyTree]:
        """Weigh at the other's temperature."""
        _, temperature, state = self.rule.weigh(state, self.weighting, q)
        return weighting(lax.stop_gradient(q), temperature), temperature, state


TARGETS: tuple[type[Target], ...] = (EntropyTarget, DivergenceTarget)
TEMPERATURES: tuple[type[Temperature], ...] = (Fixed, DualAscent, Solved, Shared)
