"""Flow matching on the straight path: x_t = (1 - t) a + t eps, t = 1 is noise.

Velocity     v_t(x_t | a) = eps - a;   the network predicts E[v_t | x_t, s]
Loss         || f(x_t, t, s) - (eps - a) ||^2,  t ~ U(0, 1), eps ~ N(0, I)
Sampling     dx = v dt from t = 1 to t = 0, by Euler or Heun

Lipman et al. 2023; Liu et al. 2023. The velocity implies a clean sample a^ = x_t - t v,
which is clipped to the action box; the velocity is then (x_t - a^) / t. Intermediate
states are never clipped: that would destroy the Gaussian start.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from simpo.blocks import map_blocks
from simpo.generative.base import GenerativeModel, Network, check_clip, check_steps
from simpo.randomness import normal, uniform

__all__ = ["SOLVERS", "Euler", "Flow", "Heun", "Solver"]

Point = tuple[Array, Array]
"""A time [] and the time's part of the network's first layer [H]."""
Estimate = Callable[[Array, Point], Array]
"""Clipped clean estimate a^ at (x_t, point): [B, N, A] -> [B, N, A]."""


class Solver(abc.ABC):
    """A rule for one step of dx = v dt, written in terms of the clean estimate."""

    @abc.abstractmethod
    def step(self, estimate: Estimate, x: Array, at: Point, to: Point) -> Array:
        """Move x from time t to a smaller time s > 0: [B, N, A] -> [B, N, A]."""


@dataclass(frozen=True)
class Euler(Solver):
    """x_s = x_t + (s - t) v_t: one network evaluation, first order."""

    def step(self, estimate: Estimate, x: Array, at: Point, to: Point) -> Array:
        """One evaluation."""
        velocity = (x - estimate(x, at)) / at[0]
        return x + (to[0] - at[0]) * velocity


@dataclass(frozen=True)
class Heun(Solver):
    """x_s = x_t + (s - t) (v_t + v_s) / 2, v_s at the Euler step: second order."""

    def step(self, estimate: Estimate, x: Array, at: Point, to: Point) -> Array:
        """Two evaluations."""
        dt = to[0] - at[0]
        velocity = (x - estimate(x, at)) / at[0]
        ahead = x + dt * velocity
        velocity_ahead = (ahead - estimate(ahead, to)) / to[0]
        return x + dt * 0.5 * (velocity + velocity_ahead)


SOLVERS = (Euler, Heun)


@dataclass(frozen=True)
class Flow(GenerativeModel):
    """A conditional flow from noise to samples in a box."""

    solver: Solver = Euler()
    """Rule for one step of the ordinary differential equation."""
    denoising_steps: int = 20
    """T, steps from noise to data."""
    clip: float | None = 1.0
    """Bound on the implied clean sample, the action box; None for unbounded data."""

    def __post_init__(self) -> None:
        """Reject impossible settings.

        Raises:
            SimpoError: A number of steps or a bound out of range.
        """
        check_steps(self.denoising_steps)
        check_clip(self.clip)

    def sample(self, net: Network, key: Array, cond: Array, n: int) -> Array:
        """Draw n samples per condition: cond [B, O] -> [B, N, A]."""
        t = 1.0 - jnp.arange(self.denoising_steps) / self.denoising_steps
        points = (t, net.embed_time(t))
        bound = jnp.inf if self.clip is None else self.clip

        def draw(key: Array, cond: Array) -> Array:
            state = net.condition(cond)[:, None]

            def estimate(x: Array, at: Point) -> Array:
                clean = x - at[0] * net.denoise(x, state + at[1])
                return jnp.clip(clean, -bound, bound)

            def step(x: Array, pair: tuple[Point, Point]) -> tuple[Array, None]:
                return self.solver.step(estimate, x, *pair), None

            x = normal(key, (cond.shape[0], n, net.dim))
            starts = jax.tree.map(lambda p: p[:-1], points)
            ends = jax.tree.map(lambda p: p[1:], points)
            x, _ = jax.lax.scan(step, x, (starts, ends))
            # The step to t = 0 lands on the clean estimate, by either solver.
            return estimate(x, jax.tree.map(lambda p: p[-1], points))

        return map_blocks(draw, key, cond, rows_per_state=n)

    def matching_error(self, net: Network, key: Array, x: Array, cond: Array) -> Array:
        """Squared error of the velocity at a random time: [B, N, A] -> [B, N, A]."""
        time_key, noise_key = jax.random.split(key)
        t = uniform(time_key, x.shape[:-1])
        noise = normal(noise_key, x.shape)
        x_t = (1.0 - t[..., None]) * x + t[..., None] * noise
        context = net.condition(cond)[:, None] + net.embed_time(t)
        return (net.denoise(x_t, context) - (noise - x)) ** 2
