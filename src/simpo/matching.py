"""Stage II: fit the generative model to signed weighted candidates.

L(theta) = E_{s, a_i ~ pi_old, t, eps} [ mean_i w_i || f_theta(x_t) - target ||^2 ]

(the paper's equation 7; mean weight one). Where E[w | x_t] > 0 the optimum is the
velocity of the signed measure (equation 8); where it is negative the loss is a concave
parabola, unbounded below, and repels. What bounds the repulsion is a choice:

Unbounded             nothing: the paper's bandit effect
ClippedError          min(error, limit), elementwise: no gradient beyond sqrt(limit)
CappedNegativeMass    negative weights scaled until mean |min(w, 0)| <= limit, and
                      positive ones with them, so that the mean weight stays one
FadingRepulsion       negative weights scaled by 1 - step / updates, likewise: repulsion
                      explores first, attraction settles later

Where repulsion acts at all can be narrowed too (`Repels`): to x_t of much noise, say.
"""

import abc
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.blocks import mean_over_blocks
from simpo.generative import GenerativeModel
from simpo.temperature import Temperature
from simpo.types import Metrics, PyTree, SimpoError
from simpo.weighting import Weighting, weight_metrics

__all__ = [
    "BOUNDS",
    "Bounded",
    "CappedNegativeMass",
    "ClippedError",
    "FadingRepulsion",
    "Improvement",
    "Repels",
    "RepulsionBound",
    "Unbounded",
    "candidate_metrics",
    "matching_loss",
    "policy_improvement",
]


EDGE = 0.999
"""Candidates at least this close to the box's edge count as being on it."""
Repels: TypeAlias = Callable[[Array, Array], Array]
"""(key, candidates [B, N, A]) -> errors that negative weights act on, bool [B, N, D].

The key is the one of `matching_error`, so that times and noise are known.
"""


class Bounded(NamedTuple):
    """Weights and errors after a repulsion bound.

    Attributes:
        weights: [B, N].
        error: [B, N, A].
        clipped: Fraction of elements on which the bound acted, [].
    """

    weights: Array
    error: Array
    clipped: Array


class RepulsionBound(abc.ABC):
    """What keeps negative weights from pushing without end."""

    @abc.abstractmethod
    def __call__(self, weights: Array, error: Array, step: Array | int = 0) -> Bounded:
        """Bound weights [B, N] or elementwise squared errors [B, N, A].

        Args:
            weights: Signed weights.
            error: Squared errors.
            step: Updates done before this one.
        """


@dataclass(frozen=True)
class Unbounded(RepulsionBound):
    """No bound."""

    def __call__(self, weights: Array, error: Array, step: Array | int = 0) -> Bounded:
        """Change nothing."""
        return Bounded(weights, error, jnp.zeros(()))


@dataclass(frozen=True)
class ClippedError(RepulsionBound):
    """min(error, limit), elementwise; the authors' port uses 5."""

    limit: float = 5.0
    """Largest squared error of one element."""
    negative_only: bool = False
    """Clip only where the weight is negative, so that attraction keeps its reach."""

    def __post_init__(self) -> None:
        """Reject a limit that would stop all learning.

        Raises:
            SimpoError: limit <= 0.
        """
        if not self.limit > 0:
            raise SimpoError(f"the error limit must be positive, got {self.limit}")

    def __call__(self, weights: Array, error: Array, step: Array | int = 0) -> Bounded:
        """Clip errors; the gradient vanishes where clipped."""
        clipped = error > self.limit
        if self.negative_only:
            clipped = clipped & (weights < 0)[..., None]
        return Bounded(
            weights, jnp.where(clipped, self.limit, error), clipped.mean(dtype=float)
        )


@dataclass(frozen=True)
class CappedNegativeMass(RepulsionBound):
    """Scale negative weights so that mean |min(w, 0)| <= limit for every state."""

    limit: float = 0.5
    """Largest negative mass; the positive mass is one more."""

    def __post_init__(self) -> None:
        """Reject a negative mass below zero.

        Raises:
            SimpoError: limit < 0.
        """
        if not self.limit >= 0:
            raise SimpoError(f"the negative mass must be >= 0, got {self.limit}")

    def __call__(self, weights: Array, error: Array, step: Array | int = 0) -> Bounded:
        """Scale both parts of the measure; its total stays what it was."""
        mass = negative_mass(weights)
        capped = mass > self.limit
        keep = jnp.where(capped, self.limit / jnp.where(capped, mass, 1.0), 1.0)
        acted = (capped & (weights < 0)).mean(dtype=float)
        return Bounded(shrink_negative(weights, keep), error, acted)


@dataclass(frozen=True)
class FadingRepulsion(RepulsionBound):
    """Negative weights times 1 - step / updates: full at first, gone at the end.

    What repulsion has found, it also leaves again; without negative weights the policy
    settles. The bandit study measures it.
    """

    updates: int = 100_000
    """Updates until no negative weight is left."""

    def __post_init__(self) -> None:
        """Reject a fade without length.

        Raises:
            SimpoError: updates < 1.
        """
        if not self.updates >= 1:
            raise SimpoError(
                f"updates of a fade must be at least 1, got {self.updates}"
            )

    def __call__(self, weights: Array, error: Array, step: Array | int = 0) -> Bounded:
        """Scale both parts of the measure; its total stays what it was."""
        keep = jnp.maximum(1.0 - step / self.updates, 0.0)
        acted = ((keep < 1) & (weights < 0)).mean(dtype=float)
        return Bounded(shrink_negative(weights, keep), error, acted)


def negative_mass(weights: Array) -> Array:
    """Mean |min(w, 0)| over candidates: [B, N] -> [B, 1]."""
    return jnp.maximum(-weights, 0).mean(-1, keepdims=True)


def shrink_negative(weights: Array, keep: Array) -> Array:
    """Negative weights [B, N] times `keep` in [0, 1], positive ones so that sums stay.

    Weights without a positive part stay as they are.
    """
    positive, negative = jnp.maximum(weights, 0), jnp.maximum(-weights, 0)
    mass, gained = negative_mass(weights), positive.mean(-1, keepdims=True)
    shrinks = (keep < 1) & (gained > 0)
    grow = 1.0 - (1.0 - keep) * mass / jnp.where(shrinks, gained, 1.0)
    return jnp.where(shrinks, grow * positive - keep * negative, weights)


BOUNDS = (Unbounded, ClippedError, CappedNegativeMass, FadingRepulsion)


def matching_loss(
    model: GenerativeModel,
    net: Any,
    key: Array,
    candidates: Array,
    weights: Array,
    cond: Array,
    bound: RepulsionBound,
    step: Array | int = 0,
    repels: Repels | None = None,
) -> tuple[Array, Metrics]:
    """The reweighted matching loss, equation 7.

    Args:
        model: Path and prediction.
        net: The network to fit.
        key: Random key for times and noise.
        candidates: Samples of the behaviour policy [B, N, A].
        weights: Signed weights from Stage I [B, N], no gradient through them.
        cond: Conditions [B, O].
        bound: What bounds the repulsion.
        step: Updates done before this one.
        repels: Where negative weights act; everywhere without it.

    Returns:
        The loss [] and metrics: the unweighted error, the clipped fraction and, with
        `repels`, the fraction of errors that it left out.
    """
    error = model.matching_error(net, key, candidates, cond)
    metrics, acting = {"matching_error": error.mean()}, error
    if repels is not None:
        out = (weights < 0)[..., None] & ~repels(key, candidates)
        metrics["left_out_fraction"] = out.mean(dtype=float)
        acting = jnp.where(out, 0.0, error)
    bounded = bound(weights, acting, step)
    loss = jnp.mean(bounded.weights[..., None] * bounded.error)
    return loss, metrics | {"clipped_fraction": bounded.clipped}


class Improvement(NamedTuple):
    """One step of the method.

    Attributes:
        grads: Gradient of the loss with respect to the network.
        temperature_state: The temperature's next state.
        metrics: Loss, weights, temperature; all [].
    """

    grads: PyTree
    temperature_state: PyTree
    metrics: Metrics


def policy_improvement(
    model: GenerativeModel,
    weighting: Weighting,
    temperature: Temperature,
    bound: RepulsionBound,
    *,
    net: Any,
    temperature_state: PyTree,
    key: Array,
    candidates: Array,
    q: Array,
    cond: Array,
    step: Array | int,
    repels: Repels | None = None,
) -> Improvement:
    """Both stages of the paper: weigh the candidates, match the model to them.

    Args:
        model: Generative model.
        weighting: Stage I.
        temperature: How lambda is chosen.
        bound: What bounds the repulsion.
        net: The network to improve.
        temperature_state: State of the temperature.
        key: Random key.
        candidates: Actions, or sequences, of the behaviour policy [B, N, A].
        q: Their values [B, N].
        cond: Conditions [B, O].
        step: Updates done before this one.
        repels: Where negative weights act; everywhere without it.
    """
    weights, lam, temperature_state = temperature.weigh(temperature_state, weighting, q)
    values = jax.lax.stop_gradient(weights.values)

    def loss(
        net: Any, key: Array, x: Array, w: Array, cond: Array
    ) -> tuple[Array, Metrics]:
        return matching_loss(model, net, key, x, w, cond, bound, step, repels)

    (value, metrics), grads = mean_over_blocks(
        functools.partial(jax.value_and_grad(loss, has_aux=True), net),
        key,
        candidates,
        values,
        cond,
        rows_per_state=q.shape[-1],
    )
    metrics |= weight_metrics(weights)
    metrics |= {
        "actor_loss": value,
        "actor_grad_norm": optax.tree.norm(grads),
        "temperature": lam,
        "q_std_candidates": q.std(axis=-1).mean(),
    }
    return Improvement(grads, temperature_state, metrics)


def candidate_metrics(candidates: Array) -> Metrics:
    """Spread of candidate actions [B, N, A], and their share at the box's edge."""
    return {
        "candidate_spread": candidates.std(axis=1).mean(),
        "edge_fraction": (jnp.abs(candidates) >= EDGE).mean(dtype=float),
    }
