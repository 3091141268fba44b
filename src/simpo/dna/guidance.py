"""Sampling towards high scores with a network as it is: guidance, and particles.

Plain     samples of the network; BestOf keeps those of the highest score
Value     v(x_t) = r(argmax p(x_0 | x_t)), and r(p(x_0 | x_t)) for its gradient
CG        q~(k) ~ q(k) exp(gamma (g_k - g_mask)),   g = d r(p(x_0 | x_t)) / d x_t
SMC       particles move by q, and are drawn anew by exp((v(x_s) - v(x_t)) / alpha)
TDS       particles move by q~, and by exp((v(x_s) - v(x_t)) / alpha) q(x_s) / q~(x_s)
CFG       log p = (1 + w) log p(. | good) - w log p(. | no label), renormalised

q is the chain of the network: to each letter, or to the mask again. Dhariwal & Nichol
2021, Wu et al. 2023, Ho & Salimans 2022, as DRAKES (Wang et al. 2025) has them for DNA,
with what its code departs in set right: probabilities, not their logarithms, go into
the oracle; TDS's weight has the normaliser of the tilted chain; CFG is renormalised.
"""

import abc
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.dna.objective import Objective
from simpo.generative.masked import NEVER, MaskedDiffusion, no_labels
from simpo.randomness import uniform
from simpo.types import SimpoError

__all__ = [
    "CFG",
    "CG",
    "GUIDES",
    "SMC",
    "TDS",
    "BestOf",
    "Guide",
    "Plain",
    "chain",
    "soft_prediction",
    "write",
]


class Guide(abc.ABC):
    """A way to sample sequences of high score."""

    @abc.abstractmethod
    def sample(
        self, model: MaskedDiffusion, net: Any, objective: Objective, key: Array, n: int
    ) -> np.ndarray:
        """N sequences [N, L]; calls are counted in the objective."""


def soft_prediction(model: MaskedDiffusion, net: Any, x: Array, t: Array) -> Array:
    """p(x_0 | x_t) of soft sequences, the mask last: [B, L, V + 1] -> [B, L, V].

    What is masked is guessed; the rest is copied, so that gradients reach it.
    """
    logp = model.guess(net, x, no_labels(len(x)), t)
    return x[..., :-1] + x[..., -1:] * jnp.exp(logp)


def chain(logp: Array, letters: Array, chance: Array) -> Array:
    """Log q of one step, the mask last: [B, L, V], letters [B, L] -> [B, L, V + 1].

    A masked position is revealed with a chance; the others stay.
    """
    v = logp.shape[-1]
    reveal = jnp.log(chance) + logp
    stay = jnp.full((*letters.shape, 1), jnp.log1p(-chance))
    own = jnp.where(letters[..., None] == jnp.arange(v + 1), 0.0, NEVER)
    masked = (letters == v)[..., None]
    return jnp.where(masked, jnp.concatenate([reveal, stay], axis=-1), own)


def draw(key: Array, logq: Array) -> Array:
    """Letters by their log-probabilities: [B, L, K] -> [B, L]."""
    below = jnp.cumsum(jnp.exp(logq), axis=-1)
    u = uniform(key, logq.shape[:-1])[..., None] * below[..., -1:]
    return (u > below[..., :-1]).sum(-1)


def value(
    model: MaskedDiffusion, net: Any, objective: Objective, letters: Array, t: Array
) -> tuple[Array, Array]:
    """Log p(x_0 | x_t) [B, L, V] and the score of its likeliest sequence [B]."""
    logp = model.predictor(net, no_labels(len(letters)))(letters, t)
    best = jax.nn.one_hot(logp.argmax(-1), net.alphabet)
    return logp, objective.soft(best)


def tilt(
    model: MaskedDiffusion, net: Any, objective: Objective, letters: Array, t: Array
) -> Array:
    """g_k - g_mask, the gradient of the score along each letter: [B, L, V + 1]."""

    def total(x: Array) -> Array:
        return objective.soft(soft_prediction(model, net, x, t)).sum()

    g = jax.grad(total)(jax.nn.one_hot(letters, net.alphabet + 1))
    return g - g[..., -1:]


@dataclass(frozen=True)
class Plain(Guide):
    """No guidance."""

    def sample(
        self, model: MaskedDiffusion, net: Any, objective: Objective, key: Array, n: int
    ) -> np.ndarray:
        """A network call per step."""
        objective.calls.network += n * model.denoising_steps
        return np.asarray(write(model, n, net, key))


@functools.partial(jax.jit, static_argnums=(0, 1))
def write(model: MaskedDiffusion, n: int, net: Any, key: Array) -> Array:
    """N sequences of a network without labels [N, L]."""
    return model.sample(net, key, no_labels(1), n)[0]


@dataclass(frozen=True)
class CG(Guide):
    """Classifier guidance: the chain tilted by the score's gradient."""

    gamma: float = 20.0
    """Strength."""

    def sample(
        self, model: MaskedDiffusion, net: Any, objective: Objective, key: Array, n: int
    ) -> np.ndarray:
        """A network call, and a gradient through one and the oracle, per step."""
        objective.calls.network += 2 * n * model.denoising_steps
        objective.calls.oracle += n * model.denoising_steps
        return np.asarray(self.trace(model, objective, n, net, key))

    @functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
    def trace(
        self, model: MaskedDiffusion, objective: Objective, n: int, net: Any, key: Array
    ) -> Array:
        """Sequences [N, L]."""
        predict = model.predictor(net, no_labels(n))

        def step(letters: Array, row: tuple) -> tuple[Array, None]:
            t, s, key = row
            logq = chain(predict(letters, t), letters, (t - s) / t)
            g = tilt(model, net, objective, letters, t)
            return draw(key, jax.nn.log_softmax(logq + self.gamma * g)), None

        letters, _ = jax.lax.scan(step, start(model, net, n), rows(model, key))
        return model.finish(predict, letters, net.alphabet)


@dataclass(frozen=True)
class SMC(Guide):
    """Sequential Monte Carlo: the n samples are particles, resampled at every step."""

    alpha: float = 0.1
    """Temperature of the scores."""

    def sample(
        self, model: MaskedDiffusion, net: Any, objective: Objective, key: Array, n: int
    ) -> np.ndarray:
        """A network call and an oracle call per step; one more of each to begin."""
        objective.calls.network += n * (model.denoising_steps + 1)
        objective.calls.oracle += n * (model.denoising_steps + 1)
        return np.asarray(particles(model, objective, n, self.alpha, 0.0, net, key))


@dataclass(frozen=True)
class TDS(Guide):
    """Twisted diffusion sampling: particles that move by the tilted chain."""

    alpha: float = 0.1
    """Temperature of the scores."""
    gamma: float = 5.0
    """Strength of the tilt."""

    def sample(
        self, model: MaskedDiffusion, net: Any, objective: Objective, key: Array, n: int
    ) -> np.ndarray:
        """As SMC, and a gradient through network and oracle per step."""
        steps = model.denoising_steps
        objective.calls.network += n * (2 * steps + 1)
        objective.calls.oracle += n * (2 * steps + 1)
        found = particles(model, objective, n, self.alpha, self.gamma, net, key)
        return np.asarray(found)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def particles(
    model: MaskedDiffusion,
    objective: Objective,
    n: int,
    alpha: float,
    gamma: float,
    net: Any,
    key: Array,
) -> Array:
    """N particles from all masked to none [N, L]; without a tilt for gamma = 0."""

    def step(carry: tuple, row: tuple) -> tuple[tuple, None]:
        letters, logp, before = carry
        t, s, key = row
        move_key, choose_key = jax.random.split(key)
        logq = chain(logp, letters, (t - s) / t)
        proposal = logq
        if gamma:
            g = tilt(model, net, objective, letters, t)
            proposal = jax.nn.log_softmax(logq + gamma * g)
        moved = draw(move_key, proposal)
        ratio = jnp.take_along_axis(logq - proposal, moved[..., None], -1).sum((-2, -1))
        logp, after = value(model, net, objective, moved, s)
        chosen = resample(choose_key, (after - before) / alpha + ratio)
        return (moved[chosen], logp[chosen], after[chosen]), None

    letters = start(model, net, n)
    first = value(model, net, objective, letters, model.times[0])
    carry, _ = jax.lax.scan(step, (letters, *first), rows(model, key))
    return model.finish(model.predictor(net, no_labels(n)), carry[0], net.alphabet)


def resample(key: Array, logw: Array) -> Array:
    """Indices by their weights, multinomial: [N] -> [N]."""
    below = jnp.cumsum(jax.nn.softmax(logw))
    u = uniform(key, logw.shape) * below[-1]
    return jnp.searchsorted(below, u).clip(0, len(logw) - 1)


def start(model: MaskedDiffusion, net: Any, n: int) -> Array:
    """All masked [N, L]."""
    return jnp.full((n, model.length), net.alphabet)


def rows(model: MaskedDiffusion, key: Array) -> tuple[Array, Array, Array]:
    """Times from and to, and a key, of every step."""
    times = model.times
    return times[:-1], times[1:], jax.random.split(key, model.denoising_steps)


@dataclass(frozen=True)
class CFG(Guide):
    """Classifier-free guidance, by a network that was trained with labels.

    The label of good sequences is 1, of the others 0, of none 2.
    """

    strength: float = 10.0
    """w."""

    def sample(
        self, model: MaskedDiffusion, net: Any, objective: Objective, key: Array, n: int
    ) -> np.ndarray:
        """Two network calls per step, none of the oracle.

        Raises:
            SimpoError: A network without labels.
        """
        if net.labels is None:
            raise SimpoError("CFG needs a network trained with labels")
        objective.calls.network += 2 * n * model.denoising_steps
        return np.asarray(self.trace(model, n, net, key))

    @functools.partial(jax.jit, static_argnums=(0, 1, 2))
    def trace(self, model: MaskedDiffusion, n: int, net: Any, key: Array) -> Array:
        """Sequences [N, L]."""
        good, none = (model.predictor(net, jnp.full((n, 1), label)) for label in (1, 2))

        def predict(letters: Array, t: Array) -> Array:
            w = self.strength
            mixed = (1 + w) * good(letters, t) - w * none(letters, t)
            return jax.nn.log_softmax(mixed, axis=-1)

        return model.reveal(predict, key, start(model, net, n))


@dataclass(frozen=True)
class BestOf(Guide):
    """The best of many samples: what a score's budget buys without any method."""

    draws: int = 30
    """Samples per sequence that is kept."""

    def sample(
        self, model: MaskedDiffusion, net: Any, objective: Objective, key: Array, n: int
    ) -> np.ndarray:
        """A network call per step and a score, of every draw."""
        keys = jax.random.split(key, self.draws)
        drawn = [Plain().sample(model, net, objective, k, n) for k in keys]
        letters = np.concatenate(drawn)
        return letters[np.argsort(-objective(letters), kind="stable")[:n]]


GUIDES = (Plain, BestOf, CG, SMC, TDS, CFG)
