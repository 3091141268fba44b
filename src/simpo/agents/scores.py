"""Scores learnt from critics: noised actions, what they came from, the critics' slope.

Noised action  x_t = alpha a + sigma eps,  t ~ U(t_min, t_max),  eps ~ N(0, I)
Proposals      a_i = (x_t - sigma eps_i) / alpha,  eps_i ~ N(0, I) where that is inside
               the box: eps_i between (x_t - alpha) / sigma and (x_t + alpha) / sigma
Slope          g = dQ(s, a)/da
Fit            theta minimises the mean error of eps_theta(x_t, t, s) = -sigma score
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtr, ndtri

from simpo.bellman import Aggregate
from simpo.blocks import map_blocks
from simpo.generative import Diffusion, Noise
from simpo.networks import Denoiser
from simpo.randomness import normal, uniform
from simpo.types import SimpoError

__all__ = [
    "Noised",
    "Proposals",
    "action_gradients",
    "add_noise",
    "fit_noise",
    "mean_size",
    "noise_bounds",
    "propose",
    "require_noise",
    "truncated_normal",
]

TAIL = 8.0
"""Bounds beyond this many standard deviations use the tail's expansion."""


class Noised(NamedTuple):
    """A noised action and its place on the path.

    Attributes:
        x: x_t [B, A].
        time: t [B].
        alpha: Signal level [B, 1].
        sigma: Noise level [B, 1].
    """

    x: Array
    time: Array
    alpha: Array
    sigma: Array


class Proposals(NamedTuple):
    """Clean actions from which a noised one may have come.

    Attributes:
        action: a_i, inside the box [B, N, A].
        noise: eps_i = (x_t - alpha a_i) / sigma [B, N, A].
    """

    action: Array
    noise: Array


def require_noise(model: Any) -> None:
    """Raise SimpoError unless a model is a diffusion whose network predicts noise."""
    if not (isinstance(model, Diffusion) and isinstance(model.prediction, Noise)):
        raise SimpoError(
            "scores are learnt as noise: set model to a Diffusion of Noise"
        )


def add_noise(model: Diffusion, key: Array, action: Array) -> Noised:
    """Actions [B, A] at random times; one outside the box is clipped to it first."""
    time_key, noise_key = jax.random.split(key)
    time = uniform(time_key, action.shape[:1], low=model.t_min, high=model.t_max)
    alpha = model.schedule.alpha(time)[:, None]
    sigma = model.schedule.sigma(time)[:, None]
    clean = jnp.clip(action, -1.0, 1.0)
    x = alpha * clean + sigma * normal(noise_key, action.shape)
    return Noised(x, time, alpha, sigma)


def noise_bounds(noised: Noised) -> tuple[Array, Array]:
    """Least and greatest noise that lead from x_t back into the box [B, A]."""
    x, _, alpha, sigma = noised
    sigma = jnp.maximum(sigma, jnp.finfo(sigma.dtype).tiny)
    return (x - alpha) / sigma, (x + alpha) / sigma


def propose(noised: Noised, key: Array, n: int) -> Proposals:
    """N clean actions each, from the noise's law given that they lie in the box."""
    low, high = (bound[:, None] for bound in noise_bounds(noised))
    # Quantiles 0 and 1 would be infinities where there is no bound.
    u = uniform(key, (low.shape[0], n, low.shape[-1]), low=2.0**-23)
    noise = truncated_normal(u, low, high)
    x, _, alpha, sigma = (part[:, None] for part in noised)
    return Proposals(jnp.clip((x - sigma * noise) / alpha, -1.0, 1.0), noise)


def truncated_normal(u: Array, low: Array, high: Array) -> Array:
    """Quantiles u in (0, 1) of N(0, 1) between bounds; all broadcast.

    The heavier end is turned into the lower tail, where float32 resolves the normal
    distribution function down to `TAIL` and beyond. Past it both bounds lie in the
    tail: from its near end l, -log P(l + d) = m d + d^2 / 2 with m = l + 1 / l, up to
    a relative error of order 1 / l^4, and the quantile solves that for d.
    """
    turn = low + high > 0
    a, b = jnp.where(turn, -high, low), jnp.where(turn, -low, high)
    u = jnp.where(turn, 1.0 - u, u)
    below = ndtr(a)
    body = ndtri(below + u * (ndtr(b) - below))

    near = jnp.maximum(-b, TAIL)
    rate = near + 1.0 / near
    width = jnp.maximum(-a - near, 0.0)
    mass = -jnp.expm1(-(rate * width + 0.5 * width**2))
    excess = -jnp.log1p(-(1.0 - u) * mass)
    depth = 2.0 * excess / (rate + jnp.sqrt(rate**2 + 2.0 * excess))

    x = jnp.clip(jnp.where(b < -TAIL, -near - depth, body), a, b)
    return jnp.where(turn, -x, x)


def action_gradients(
    critics: Any, join: Aggregate, obs: Array, actions: Array
) -> tuple[Array, Array]:
    """Joined values and their gradients dQ/da at N actions per state.

    Args:
        critics: `candidates` gives values [K, B, N].
        join: How K values become one; the minimum has the lower critic's gradient.
        obs: States [B, O].
        actions: [B, N, A].

    Returns:
        Values [B, N] and gradients [B, N, A].
    """

    def rows(_: Array, obs: Array, actions: Array) -> Array:
        def total(actions: Array) -> tuple[Array, Array]:
            q = join(critics.candidates(obs, actions))
            return q.sum(), q

        (_, q), gradient = jax.value_and_grad(total, has_aux=True)(actions)
        return jnp.concatenate([q[..., None], gradient], axis=-1)

    unused, n = jax.random.key(0), actions.shape[1]
    both = map_blocks(rows, unused, obs, actions, rows_per_state=n)
    return both[..., 0], both[..., 1:]


def mean_size(gradient: Array) -> Array:
    """Mean |dQ/da| over all elements, []; one where everything is flat."""
    size = jnp.abs(gradient).mean()
    return jnp.where(size == 0, 1.0, size)


def fit_noise(
    model: Diffusion,
    net: Denoiser,
    noised: Noised,
    cond: Array,
    error: Callable[[Array], Array],
) -> tuple[Array, Denoiser]:
    """Loss [] and gradient of the mean of `error`, of the predicted noise [B, A]."""
    x, time, alpha, sigma = noised

    def loss(net: Denoiser) -> Array:
        context = net.condition(cond) + net.embed_time(time)
        return error(model.predict(net, x, alpha, sigma, context)).mean()

    return jax.value_and_grad(loss)(net)
