"""Continuous bandits: one state, a bounded action, a known reward.

r(a) = sum_k h_k exp(-|a - c_k|^2 / (2 s_k^2))         `Bumps`; any function will do
regret = max_b r(b) - mean_i r(a_i)                    b in the box, a_i from a policy

`Bandit` is pure JAX: batches, jit and vmap, also over its own arrays, so that a whole
experiment compiles to one program. `BanditEnv` is the same as a Gymnasium task with
one constant observation and one step per episode.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array, lax
from jax.core import Tracer
from jax.tree_util import Partial

from simpo.types import SimpoError

__all__ = ["TWO_PEAKS", "Bandit", "BanditEnv", "Bumps", "two_peaks"]

GRID = 2**14
"""Points, at most, of the grid over the box on which the search for the best starts."""
STARTS = 16
"""Local maxima of that grid from which it goes on."""
MAX_DIMS = 4
"""A above which such a grid is too coarse, with fewer than 11 points per dimension."""
PRECISION = 1e-7
"""Spacing of the last points as a share of the box, about what float32 can tell."""


def _array(x: Any) -> Any:
    """JAX arrays as they are, all else as NumPy float32: constants load no backend."""
    return x if isinstance(x, Array) else np.asarray(x, np.float32)


def _refuse(broken: Any, message: str) -> None:
    """Raise SimpoError where a condition is known to hold anywhere; tracers pass."""
    if not isinstance(broken, Tracer) and np.any(broken):
        raise SimpoError(message)


class Bumps(eqx.Module):
    """r(a) = sum_k h_k exp(-|a - c_k|^2 / (2 s_k^2)).

    Under `vmap` the arrays may have leading axes.

    Attributes:
        heights: h [K].
        centres: c [K, A].
        widths: s > 0 [K].

    Raises:
        SimpoError: Shapes that do not fit, numbers that are not finite, a width that
            is not positive.
    """

    heights: Array = eqx.field(converter=_array)
    centres: Array = eqx.field(converter=_array)
    widths: Array = eqx.field(converter=_array)

    def __check_init__(self) -> None:
        h, c, w = self.heights, self.centres, self.widths
        if h.ndim < 1 or not h.shape == w.shape == c.shape[:-1]:
            raise SimpoError(
                "bumps have heights [K], centres [K, A] and widths [K], not shapes "
                f"{h.shape}, {c.shape} and {w.shape}"
            )
        _refuse(~(abs(h) < np.inf), "the heights of bumps must be finite")
        _refuse(~(abs(c) < np.inf), "the centres of bumps must be finite")
        _refuse(
            ~((w > 0) & (w < np.inf)), "the widths of bumps must be positive and finite"
        )

    def __call__(self, action: Array | np.ndarray) -> Array:
        """Rewards [...] of actions [..., A].

        Raises:
            SimpoError: Actions of another dimension than the centres.
        """
        if action.shape[-1] != self.centres.shape[-1]:
            raise SimpoError(
                f"actions have {action.shape[-1]} dimensions, the centres of the bumps "
                f"{self.centres.shape[-1]}"
            )
        gap = action[..., None, :] - self.centres
        exponent = (gap**2).sum(-1) / (2 * self.widths**2)
        return (self.heights * jnp.exp(-exponent)).sum(-1)


def _pytree(reward: Callable[[Array], Array]) -> Any:
    """A function as a pytree, so that what holds it passes through jit and vmap."""
    leaves = jax.tree.leaves(reward)
    if all(eqx.is_array_like(leaf) for leaf in leaves):
        return reward
    if leaves == [reward]:
        return Partial(reward)
    raise SimpoError(
        f"{type(reward).__name__} as a reward has leaves that are no arrays; pass "
        "lambda action: reward(action)"
    )


class Bandit(eqx.Module):
    """A reward over a box of actions; a pytree, also of many bandits under `vmap`.

    Attributes:
        reward: Jittable, from actions [..., A] to rewards [...]; a function, or a
            callable pytree of arrays such as `Bumps`.
        low: Lower bounds of the box [A].
        high: Upper bounds, above the lower ones [A].

    Raises:
        SimpoError: A box that is empty or unbounded, or a reward of the wrong kind.
    """

    reward: Callable[[Array], Array] = eqx.field(converter=_pytree)
    low: Array = eqx.field(converter=_array)
    high: Array = eqx.field(converter=_array)

    def __check_init__(self) -> None:
        low, high = self.low, self.high
        if low.ndim != 1 or low.shape != high.shape or not low.size:
            raise SimpoError(
                "the box of a bandit has low [A] and high [A], not shapes "
                f"{low.shape} and {high.shape}"
            )
        inside = (-np.inf < low) & (low < high) & (high < np.inf)
        _refuse(~inside, f"a box must be finite with low < high, not {low} to {high}")

    def step(self, actions: Array | np.ndarray) -> Array:
        """Rewards [...] of actions [..., A], which are clipped to the box.

        Raises:
            SimpoError: The reward function gives another shape.
        """
        rewards = self.reward(jnp.clip(actions, self.low, self.high))
        if rewards.shape != actions.shape[:-1]:
            raise SimpoError(
                f"the reward of actions {actions.shape} must have the shape "
                f"{actions.shape[:-1]}, not {rewards.shape}"
            )
        return rewards

    def best(self) -> tuple[Array, Array]:
        """The best action [A] of the box and its reward [], by search.

        A grid of at most GRID points (16,383 for A = 1, 127 x 127 for A = 2) gives the
        STARTS highest local maxima; from each one a pattern search goes to the best of
        5^A points around it, halving their spacing, so no gradient is needed. A peak
        that falls between the points of the grid may be missed. Near a smooth peak
        float32 rewards tell actions apart only to about 1e-3 of its width; the reward
        itself is right to rounding.

        Raises:
            SimpoError: A is above 4.
        """
        dims = self.low.shape[0]
        if dims > MAX_DIMS:
            raise SimpoError(
                f"the best of a box of {dims} dimensions cannot be looked for on a "
                f"grid; {MAX_DIMS} is the most"
            )
        return _search(self)

    def regret(self, actions: Array | np.ndarray) -> Array:
        """Expected simple regret [...] of N actions of a policy [..., N, A].

        The best reward minus their mean reward; each call searches for the best.
        """
        return self.best()[1] - self.step(actions).mean(-1)


# compiled once per kind of bandit: anew neither for each call nor each environment
_reward = jax.jit(Bandit.step)


@jax.jit
def _search(bandit: Bandit) -> tuple[Array, Array]:
    """See `Bandit.best`."""
    low, high, dims = bandit.low, bandit.high, bandit.low.shape[0]
    side = int(GRID ** (1 / dims) - 1) // 2 * 2 + 1  # odd: the centre is a point
    grid = _lattice(jnp.linspace(low, high, side, axis=1))
    starts = grid[_summits(bandit.step(grid).reshape([side] * dims))]
    stencil = _lattice(jnp.tile(jnp.linspace(-1, 1, 5), (dims, 1)))
    cell = (high - low) / (side - 1)

    def closer(i: Array, peaks: Array) -> Array:
        near = jnp.clip(peaks[:, None] + cell / 2.0**i * stencil, low, high)
        at = bandit.step(near).argmax(-1)[:, None, None]
        return jnp.take_along_axis(near, at, axis=1)[:, 0]

    halvings = math.ceil(-math.log2(PRECISION * (side - 1)))
    peaks = lax.fori_loop(0, halvings, closer, starts)
    rewards = bandit.step(peaks)
    return peaks[rewards.argmax()], rewards.max()


def _lattice(ticks: Array) -> Array:
    """All points [n^A, A] of the lattice with n ticks per dimension [A, n]."""
    points = jnp.stack(jnp.meshgrid(*ticks, indexing="ij"), -1)
    return points.reshape(-1, len(ticks))


def _summits(values: Array) -> Array:
    """Flat indices of the highest points that no neighbour exceeds [STARTS]."""
    window, one = [3] * values.ndim, [1] * values.ndim
    around = lax.reduce_window(values, -jnp.inf, lax.max, window, one, "SAME")
    heights = jnp.where(values == around, values, -jnp.inf)
    return lax.top_k(heights.ravel(), STARTS)[1]


def _host() -> Any:
    """The CPU, since one reward is no work for an accelerator; None if JAX has none."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


class BanditEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A bandit as a Gymnasium task: every step ends its episode.

    Observations are one constant zero; nothing is random.

    Args:
        bandit: The bandit.
    """

    def __init__(self, bandit: Bandit) -> None:
        low, high = np.asarray(bandit.low), np.asarray(bandit.high)
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        self._bandit = jax.device_put(bandit, _host())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Pay the reward of an action [A] and terminate."""
        reward = _reward(self._bandit, action).item()
        return np.zeros(1, np.float32), reward, True, False, {}


TWO_PEAKS = Bandit(
    Bumps(heights=[0.6, 1.0], centres=[[-0.5], [1.0]], widths=[0.4, 0.3]),
    low=[-2.0],
    high=[2.0],
)
"""A broad, low peak beside the best one: where greedy policies get stuck."""


def two_peaks() -> BanditEnv:
    """The task `simpo/BanditTwoPeaks-v0`."""
    return BanditEnv(TWO_PEAKS)
