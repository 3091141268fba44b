"""Fields over actions and time: fitted by Stage II, evaluated, sampled, traced.

A fitted field is a network of one state without observations; an exact one is a
function of x and t (`mixture`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from simpo.agents.base import descend
from simpo.experiments.mixture import SignedMixture
from simpo.generative import Flow
from simpo.matching import RepulsionBound, matching_loss
from simpo.networks import Denoiser
from simpo.types import PyTree

__all__ = ["Fitted", "Fitting", "evaluate", "fit", "sample", "trace"]

COND = np.zeros((1, 0), np.float32)
"""One state, of which nothing is known."""


@dataclass(frozen=True)
class Fitting:
    """Stage II on candidates of a signed mixture."""

    steps: int
    """Adam steps."""
    points: int = 80
    """Snapshots on the way, which share the steps equally."""
    batch: int = 1024
    """N, candidates per step."""
    rate: float = 1e-2
    """Learning rate at the start."""
    final_rate: float = 0.0
    """Learning rate at the end, as a share of that at the start; a cosine between."""
    width: int = 64
    """Units of each of the two hidden layers."""

    @property
    def adam(self) -> optax.GradientTransformation:
        """The optimiser."""
        return optax.adam(
            optax.cosine_decay_schedule(self.rate, self.steps, self.final_rate)
        )


class Fitted(NamedTuple):
    """A fit under way: Adam steps done, the network, the mean loss since the last."""

    step: int
    net: Denoiser
    loss: float


@partial(jax.jit, static_argnums=(0, 1))
def begin(fitting: Fitting, dim: int, key: Array) -> tuple[Denoiser, PyTree]:
    """A fresh network of so many dimensions, and its optimiser's state."""
    net = Denoiser.init(
        key,
        dim,
        0,
        width=fitting.width,
        depth=2,
        activation="tanh",
        frequencies=4,
        max_frequency=4.0,
    )
    return net, fitting.adam.init(net)  # pyright: ignore[reportArgumentType]


@partial(jax.jit, static_argnums=(0, 1))
def proceed(
    fitting: Fitting,
    bound: RepulsionBound,
    mixture: SignedMixture,
    carry: tuple[Denoiser, PyTree],
    key: Array,
) -> tuple[tuple[Denoiser, PyTree], Array]:
    """The steps from one snapshot to the next, and their mean loss."""

    def step(carry: tuple[Denoiser, PyTree], key: Array) -> tuple:
        net, opt = carry
        draw_key, match_key = jax.random.split(key)
        x, w = mixture.sample_behaviour(draw_key, fitting.batch)

        def mismatch(net: Denoiser) -> Array:
            cond = jnp.asarray(COND)
            return matching_loss(Flow(), net, match_key, x, w, cond, bound)[0]

        loss, grads = jax.value_and_grad(mismatch)(net)
        return descend(fitting.adam, grads, opt, net), loss

    keys = jax.random.split(key, fitting.steps // fitting.points)
    carry, losses = jax.lax.scan(step, carry, keys)
    return carry, losses.mean()


def fit(
    fitting: Fitting, mixture: SignedMixture, bound: RepulsionBound, seed: int
) -> Iterator[Fitted]:
    """Fit a network to weighted candidates of pi_old by the reweighted matching loss.

    Ends early where the loss is no longer a number.
    """
    init_key, fit_key = jax.random.split(jax.random.key(seed))
    carry = begin(fitting, mixture.dim, init_key)
    for i, key in enumerate(jax.random.split(fit_key, fitting.points), 1):
        carry, loss = proceed(fitting, bound, mixture, carry, key)
        if not np.isfinite(loss):
            return
        yield Fitted(i * (fitting.steps // fitting.points), carry[0], float(loss))


@partial(jax.jit, static_argnums=(0, 3))
def sample(flow: Flow, net: Denoiser, key: Array, n: int) -> Array:
    """Samples of a flow [N, A]."""
    return flow.sample(net, key, jnp.asarray(COND), n)[0]


@jax.jit
def predict(net: Denoiser, x: Array, t: Array) -> Array:
    """A field at x [P, A] and t [P]."""
    return net.denoise(x, net.condition(jnp.asarray(COND)) + net.embed_time(t))


def evaluate(net: Denoiser, x: np.ndarray, t: Any) -> np.ndarray:
    """A field at x [..., A] and t [...], or at one t: [..., A]."""
    flat = jnp.asarray(x.reshape(-1, x.shape[-1]), jnp.float32)
    times = jnp.asarray(np.broadcast_to(t, x.shape[:-1]).ravel(), jnp.float32)
    return np.asarray(predict(net, flat, times), np.float64).reshape(x.shape)


def trace(
    flow: Flow, field: Callable[[np.ndarray, float], np.ndarray], noise: np.ndarray
) -> np.ndarray:
    """Where an unclipped flow carries noise [P, A]: at t = 1, ..., 0 [T + 1, P, A].

    `Flow.sample`, state by state, of any field and in the field's precision.
    """
    times: Any = [(t, None) for t in np.linspace(1, 0, flow.denoising_steps + 1)]

    def estimate(x: Any, at: Any) -> Any:
        return x - at[0] * field(x, at[0])

    path: list[Any] = [noise]
    for at, to in pairwise(times[:-1]):
        path.append(flow.solver.step(estimate, path[-1], at, to))
    return np.stack([*path, estimate(path[-1], times[-2])])
