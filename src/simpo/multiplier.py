"""The multiplier: which offset t makes N link values sum to one.

With x_i = (q_i - max q) / lambda <= 0 and t = (max q - nu) / lambda, find t such that
sum_i g_c(x_i + t) = 1, where g_c = max(g, c / N). The largest term g_c(t) of the sum
lies between 1/N and 1 - (N - 1) c / N whatever g and x are, so bisecting on it needs
no knowledge of the scale of q. Where only a few pieces are polynomials, `active` finds
the candidates above the floor and the caller solves for t in closed form (Appendix E).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from array_api_compat import array_namespace, is_jax_array, is_torch_array

from simpo.types import SimpoError

__all__ = [
    "Array",
    "Function",
    "active",
    "at_least",
    "bisect",
    "detach",
    "find_reach",
    "solve_custom",
    "solve_floored",
    "solve_offset",
    "solve_power",
]

Array = Any
Function = Callable[[Array], Array]
MAX_PAIRED = 256
"""Candidates up to which `active` compares all pairs, N^2 numbers per state."""


def solve_offset(
    link: Function, x: Array, bracket: tuple[Array, Array], chart: Function
) -> Array:
    """Offset t with sum_i g(x_i + t) = 1, by bisection on s, where t = chart(s).

    Differentiable in x: the root itself is a constant, and the tangent of one Newton
    step from it is that of the implicit function theorem.

    Args:
        link: The increasing g, elementwise.
        x: Values as (q - max q) / lambda [..., N].
        bracket: Ends of s [..., 1]; the sum is at most 1 at the first, at least 1 at
            the second.
        chart: An increasing map from s to t. For t = g^-1(s), s is the largest term
            of the sum: between 1/N and 1 - (N - 1) c / N, whatever g and x.
    """
    xp = array_namespace(x)
    fixed = detach(x)

    def residual(x: Array, t: Array) -> Array:
        return xp.sum(link(x + t), axis=-1, keepdims=True) - 1

    lower, upper = bisect(lambda s: residual(fixed, chart(s)) < 0, *bracket)
    t = chart(0.5 * (lower + upper))
    slope = _slope(lambda t: residual(fixed, t), t)
    if slope is None:
        return t
    newton = -residual(x, t) / xp.where(slope > 0, slope, math.inf)
    return t + (newton - detach(newton))


def bisect(
    below: Function, lower: Array, upper: Array, *, steps: int | None = None
) -> tuple[Array, Array]:
    """Shrink [lower, upper] [...] around the point where `below` turns false.

    By default twice as many halvings as the dtype has bits of mantissa: a root is found
    to full relative precision in a bracket up to 1 / eps times as large as the root.
    """
    xp = array_namespace(lower)
    if steps is None:
        steps = 2 * math.ceil(-math.log2(float(xp.finfo(lower.dtype).eps)))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        lower, upper = ends
        middle = 0.5 * (lower + upper)
        right = below(middle)
        return xp.where(right, middle, lower), xp.where(right, upper, middle)

    ends = (lower, upper)
    if is_jax_array(lower):
        return jax.lax.fori_loop(0, steps, halve, ends)
    for step in range(steps):
        ends = halve(step, ends)
    return ends


def detach(x: Array) -> Array:
    """X as a constant to differentiation."""
    if is_jax_array(x):
        return jax.lax.stop_gradient(x)
    return x.detach() if is_torch_array(x) else x


def _slope(function: Function, t: Array) -> Array | None:
    """Derivative [...] of an elementwise function; None for NumPy, which has none."""
    if is_jax_array(t):
        vjp = jax.vjp
    elif is_torch_array(t):
        from torch.func import vjp
    else:
        return None
    return vjp(function, t)[1](array_namespace(t).ones_like(t))[0]


def at_least(y: Array, least: float) -> Array:
    """max(y, least), by a comparison that lets NaN through."""
    return array_namespace(y).where(y < least, least, y)


def _signed_power(y: Array, exponent: float) -> Array:
    """sign(y) |y|^p, with finite derivatives for every p > 0."""
    xp = array_namespace(y)
    power = xp.where(y == 0, 1.0, xp.abs(y)) ** exponent
    return xp.where(y < 0, -power, xp.where(y == 0, 0.0, power))


def active(x: Array, exponent: int, budget: float) -> Array:
    """Candidates [..., N] above the floor: sum over better ones of gap^p <= budget.

    All pairs of a few candidates cost a compiler less than sorting them.
    """
    x = detach(x)
    if x.shape[-1] > MAX_PAIRED:
        return _active_of_many(x, exponent, budget)
    gaps = at_least(x[..., None, :] - x[..., :, None], 0.0)
    return array_namespace(x).sum(gaps**exponent, axis=-1) <= budget


def _active_of_many(x: Array, exponent: int, budget: float) -> Array:
    """The same from prefix sums: those above the floor are a prefix when sorted.

    Gaps beyond the budget are cut short, so that squares neither overflow nor cancel.
    """
    xp = array_namespace(x)
    ordered = at_least(xp.sort(x, axis=-1, descending=True), -1 - budget)
    rank = xp.cumulative_sum(xp.ones_like(ordered), axis=-1)
    first = xp.cumulative_sum(ordered, axis=-1)
    cost = first - rank * ordered
    if exponent == 2:
        second = xp.cumulative_sum(ordered**2, axis=-1)
        cost = second - 2 * ordered * first + rank * ordered**2
    last = xp.min(xp.where(cost <= budget, ordered, 0.0), axis=-1, keepdims=True)
    return x >= last


def solve_floored(
    link: Function, inverse: Function, x: Array, floor: float
) -> tuple[Array, Array]:
    """Values and offset of a link cut off at c / N whose inverse is known."""
    xp = array_namespace(x)
    n = x.shape[-1]
    smallest = xp.full_like(x[..., :1], 1 / n)
    largest = xp.full_like(x[..., :1], 1 - (n - 1) * floor / n)
    offset = solve_offset(link, x, (smallest, largest), inverse)
    return n * link(x + offset), offset


def solve_power(x: Array, exponent: float, floor: float) -> tuple[Array, Array]:
    """Values and offset of g_c(y) = max(sign(y) |y|^p, c / N)."""
    least = 0.0 - (-floor / x.shape[-1]) ** (1 / exponent)
    return solve_floored(
        lambda y: _signed_power(at_least(y, least), exponent),
        lambda s: s ** (1 / exponent),
        x,
        floor,
    )


_REACH = 80.0  # sinh(80) = 3e34 is the largest argument that a link is asked for


def _invert(link: Function, value: float, like: Array) -> tuple[Array, Array]:
    """Arguments [..., 1] on either side of g^-1(value), by bisection in asinh(y)."""
    xp = array_namespace(like)
    end = xp.full_like(like[..., :1], _REACH)
    ends = bisect(lambda s: link(xp.sinh(s)) < value, -end, end)
    return xp.sinh(ends[0]), xp.sinh(ends[1])


def solve_custom(link: Function, floor: float, x: Array) -> tuple[Array, Array]:
    """Values and offset of max(g, c / N) for a link whose inverse is not known."""
    xp = array_namespace(x)
    n = x.shape[-1]

    def floored(y: Array) -> Array:
        return at_least(link(y), floor / n)

    with np.errstate(over="ignore"):
        lower, upper = _invert(link, 1 / n, x)
        upper = upper - xp.min(detach(x), axis=-1, keepdims=True)
        if floor > -math.inf:
            ceiling = _invert(link, 1 - (n - 1) * floor / n, x)[1]
            upper = xp.minimum(upper, ceiling)
        offset = solve_offset(floored, x, (lower, upper), lambda t: t)
        return n * floored(x + offset), offset


def find_reach(link: Function) -> tuple[float, float]:
    """Smallest and largest value of a link on a grid, after checking that it rises."""
    grid = np.sinh(np.linspace(-_REACH, _REACH, 4001))
    try:
        with np.errstate(over="ignore"):
            g = np.asarray(link(grid), dtype=float)
    except TypeError as error:
        raise SimpoError(f"the link must take NumPy arrays: {error}") from error
    if g.shape != grid.shape or np.isnan(g).any():
        raise SimpoError("the link must be elementwise and never NaN")
    g = np.clip(g, -1e300, 1e300)
    falls = g[1:] < g[:-1] - 1e-6 * np.abs(g[:-1])
    if falls.any():
        raise SimpoError(
            f"the link must not fall, as it does at {grid[:-1][falls][0]:g}"
        )
    if not g[0] < 1 or not g[-1] > 0:
        raise SimpoError(f"the link must pass 1/N; it goes from {g[0]:g} to {g[-1]:g}")
    return float(g[0]), float(g[-1])
