"""Does the exported file give the actions that JAX gives, and how fast?

    error = max_d |a_d - a^_d| / h_d,   h the half-width of the action box

Both get the same observations, from episodes of the policy where the task can be made,
and the same noise. Best-of-n has a discontinuity: where two candidates' values are
nearly equal, rounding decides. A row whose action is not JAX's, but is JAX's action of
another of the n candidates, is a flip: counted, reported, and allowed to be rare.

The error allowed is 1e-5, or twice what float32 itself costs JAX, if that is more:
a noise-predicting network of large outputs, divided by alpha ~ 0.01, leaves no more
digits. That cost is JAX's own error against the same policy in float64.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.envs import make
from simpo.export.program import Program, make_program
from simpo.types import SimpoError

__all__ = ["Parity", "check_parity"]

Act = Callable[..., np.ndarray]
"""Actions [B, A] of observations [B, O] and noise [B, K], if any."""

ROWS = 1000
"""Observations compared."""
ENVS = 10
"""Episodes that they are taken from, side by side."""
TOLERANCE = 1e-5
"""Error always allowed, in half-widths of the action box."""
ROUNDINGS = 2.0
"""Error allowed in units of JAX's own rounding error, if that is more."""
LIMIT = 1e-3
"""Error never allowed."""
FLIPS = 0.01
"""Largest share of rows in which another candidate may be chosen."""
CALLS = 200
"""Calls timed, each of one observation."""


@dataclass(frozen=True)
class Parity:
    """What was found.

    Attributes:
        ok: Whether the file may be used.
        rows: Observations compared.
        observations: Where they come from.
        max_error: Largest error without flips, in half-widths of the action box.
        max_error_task_units: Largest difference without flips, in the task's units.
        flips: Rows in which another of the n candidates was chosen.
        max_error_with_flips: Largest error, flips included.
        tolerance: Largest error allowed.
        rounding_error_jax: Largest error of JAX in float32 against float64.
        flips_allowed: Largest number of flips allowed.
        latency_ms: Median of a call with one observation, exported file.
        latency_jax_ms: The same of JAX, compiled.
    """

    ok: bool
    rows: int
    observations: str
    max_error: float
    max_error_task_units: float
    flips: int
    max_error_with_flips: float
    tolerance: float
    rounding_error_jax: float
    flips_allowed: int
    latency_ms: float
    latency_jax_ms: float

    def to_json(self) -> dict[str, Any]:
        """As `parity.json` holds it."""
        return asdict(self)


def draw_noise(program: Program, rng: np.random.Generator, rows: int) -> tuple:
    """Noise [rows, K] in a tuple, or nothing."""
    if not program.draws:
        return ()
    return (rng.standard_normal((rows, program.noise_dim), np.float32),)


def episodes(program: Program, act: Act, rng: np.random.Generator) -> np.ndarray:
    """Observations [ROWS, O] that the policy meets in its task."""
    saved = program.saved
    env = make(saved.env, ENVS, seed=0, env_kwargs=saved.env_kwargs)
    if env.spec != saved.spec:
        raise SimpoError("the task has other dimensions")
    middle, half = middle_and_half(program)
    obs, seen = env.reset(), []
    for _ in range(ROWS // ENVS):
        seen.append(obs)
        action = act(obs, *draw_noise(program, rng, ENVS))
        obs = env.step((action - middle) / half).obs
    env.close()
    return np.concatenate(seen)


def find_observations(
    program: Program, act: Act, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Observations [ROWS, O], and where they come from in words."""
    try:
        return episodes(program, act, rng), f"{ENVS} episodes of {program.saved.env}"
    except SimpoError:
        shape = (ROWS, program.saved.spec.obs_dim)
        return rng.standard_normal(shape, np.float32), "standard normal"


def candidate_noise(program: Program, single: Program, noise: Array) -> Array:
    """Noise of each candidate alone: [B, K] -> [n, B, K'].

    The draws of the best of n are those of a single sample but for one axis of size n.
    """
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in program.draws])
    n, parts = program.mode.best_of, []
    for part, shape, one in zip(
        jnp.split(noise, ends[:-1], axis=1), program.draws, single.draws, strict=True
    ):
        x = part.reshape(-1, *shape)
        axes = [i for i, (a, b) in enumerate(zip(shape, one, strict=True)) if a != b]
        each = jnp.moveaxis(x, axes[0] + 1, 0) if axes else jnp.stack([x] * n)
        parts.append(each.reshape(n, len(x), -1))
    return jnp.concatenate(parts, axis=-1)


def one_candidate(program: Program, inputs: tuple) -> tuple[Program, tuple, Any]:
    """The program of a single sample, its inputs but for the noise, and the noise.

    The noise is [n, B, K'], or None if nothing is drawn.
    """
    mode = program.mode
    single = make_program(program.saved, best_of=1, deterministic=mode.deterministic)
    if not program.draws:
        return single, inputs, None
    return single, inputs[:1], candidate_noise(program, single, jnp.asarray(inputs[1]))


def rounding_error(program: Program, inputs: tuple) -> float:
    """Largest error of JAX in float32 against float64, of the first candidate."""
    single, rest, noise = one_candidate(program, inputs)
    inputs = rest if noise is None else (*rest, np.asarray(noise[0]))
    rounded = np.asarray(jax.jit(single)(*inputs))
    saved = single.saved
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x, np.float64)), saved.policy
        )
        exact = jax.jit(replace(single, saved=replace(saved, policy=wide)))
        expected = np.asarray(exact(*(np.asarray(x, np.float64) for x in inputs)))
    return float(errors(program, rounded, expected).max())


def find_flips(
    program: Program, actual: np.ndarray, inputs: tuple, tolerance: float
) -> np.ndarray:
    """Whether an action [B, A] is that of any of the n candidates [B]."""
    single, rest, noise = one_candidate(program, inputs)
    candidates = np.stack([np.asarray(jax.jit(single)(*rest, z)) for z in noise])
    close = errors(program, actual, candidates) <= tolerance
    return np.asarray(close.any(axis=0))


def errors(program: Program, actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Largest difference over actions, in half-widths of the box: [..., A] -> [...]."""
    _, half = middle_and_half(program)
    return (np.abs(actual - expected) / half).max(axis=-1)


def middle_and_half(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """Of the action box, [A] each; the half-width of an edge without width is one."""
    low, high = (np.asarray(x, np.float64) for x in program.saved.box)
    half = 0.5 * (high - low)
    return 0.5 * (low + high), np.where(half > 0, half, 1.0)


def median_ms(act: Act, inputs: tuple) -> float:
    """Median time of a call with one observation."""
    times = []
    for i in range(CALLS):
        row = tuple(x[i % len(x)][None] for x in inputs)
        started = time.perf_counter()
        act(*row)
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times))


def check_parity(program: Program, exported: Act, seed: int = 0) -> Parity:
    """Compare the exported policy with JAX, on the same observations and noise."""
    rng = np.random.default_rng(seed)
    compiled = jax.jit(program)

    def reference(*inputs: np.ndarray) -> np.ndarray:
        return np.asarray(compiled(*inputs))

    obs, source = find_observations(program, reference, rng)
    inputs = (obs, *draw_noise(program, rng, len(obs)))
    actual, expected = exported(*inputs), reference(*inputs)
    rounding = rounding_error(program, inputs)
    tolerance = max(TOLERANCE, min(ROUNDINGS * rounding, LIMIT))
    error = errors(program, actual, expected)
    error = np.where(np.isfinite(error), error, np.inf)
    flipped = error > tolerance
    if flipped.any():
        rows = np.flatnonzero(flipped)
        flipped[rows] = program.mode.best_of > 1 and find_flips(
            program, actual[rows], tuple(x[rows] for x in inputs), tolerance
        )
    worst, allowed = error[~flipped].max(initial=0.0), int(FLIPS * len(obs))
    difference = np.abs(actual - expected)[~flipped]
    return Parity(
        ok=bool(worst <= tolerance and flipped.sum() <= allowed),
        rows=len(obs),
        observations=source,
        max_error=float(worst),
        max_error_task_units=float(difference.max(initial=0.0)),
        flips=int(flipped.sum()),
        max_error_with_flips=float(error.max()),
        tolerance=tolerance,
        rounding_error_jax=rounding,
        flips_allowed=allowed,
        latency_ms=median_ms(exported, inputs),
        latency_jax_ms=median_ms(reference, inputs),
    )
