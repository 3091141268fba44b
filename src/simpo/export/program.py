"""A policy as a pure function: observations and random numbers in, actions out.

    action = clip(centre + half * act(policy, obs; noise), low, high)

obs [B, O], noise [B, K] of independent standard normal numbers, action [B, A] in the
task's own box. A row of noise belongs to the observation of that row and is read in the
order in which the agent draws; K = 0 for policies that draw nothing. One observation is
traced and mapped over the batch, so nothing depends on how large a batch is.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import subjaxprs

from simpo.agents import Mode
from simpo.agents.denoising import with_denoising_steps
from simpo.checkpoint import SavedPolicy
from simpo.randomness import drawing
from simpo.types import SimpoError

__all__ = ["Program", "make_program"]

GENERATORS = {"random_bits", "random_gamma", "threefry2x32", "rng_bit_generator"}
"""Primitives that make random numbers from a key."""


@dataclass(frozen=True, eq=False)
class Program:
    """The complete policy in one mode.

    Attributes:
        saved: The policy, its agent with the settings to export.
        mode: How actions are drawn.
        draws: Shapes of the numbers drawn for one observation, in order.
    """

    saved: SavedPolicy
    mode: Mode
    draws: tuple[tuple[int, ...], ...]

    @property
    def noise_dim(self) -> int:
        """K, random numbers per observation."""
        return sum(math.prod(shape) for shape in self.draws)

    def __call__(self, obs: Array, noise: Array | None = None) -> Array:
        """Actions [B, A] in the task's box, of obs [B, O] and noise [B, K]."""
        with jax.default_matmul_precision("highest"):  # GPUs would round to TF32
            return jax.vmap(self.act)(obs, obs[:, :0] if noise is None else noise)

    def act(self, obs: Array, noise: Array) -> Array:
        """One action [A] in the task's box, of obs [O] and noise [K]."""
        reader = Reader(noise)
        with drawing(reader):
            action = raw_action(self.saved, self.mode, obs[None])[0]
        low, high = (np.asarray(x, np.float32) for x in self.saved.box)
        return jnp.clip(0.5 * (low + high) + 0.5 * (high - low) * action, low, high)

    def specs(self, batch: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the inputs for a batch of B, a number or a symbol."""
        sizes = (self.saved.spec.obs_dim, *([self.noise_dim] if self.draws else []))
        return tuple(jax.ShapeDtypeStruct((batch, n), jnp.float32) for n in sizes)

    def trace(self, batch: Any = 1) -> Any:
        """The program as a closed jaxpr.

        Raises:
            SimpoError: The agent makes random numbers that no input supplies.
        """
        closed = jax.make_jaxpr(self)(*self.specs(batch))
        if GENERATORS & primitives(closed.jaxpr):
            agent = type(self.saved.agent).__name__
            raise SimpoError(
                f"{agent} cannot be exported: it draws random numbers other than by "
                "simpo.randomness.normal"
            )
        return closed


class Reader:
    """Hands out the parts of a row of noise [K], one after another."""

    def __init__(self, noise: Array) -> None:
        self.noise, self.read = noise, 0

    def __call__(self, shape: tuple[int, ...]) -> Array:
        """The next numbers, in a shape."""
        start, self.read = self.read, self.read + math.prod(shape)
        return self.noise[start : self.read].reshape(shape)


class Recorder:
    """Notes the shapes that are asked for."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, shape: tuple[int, ...]) -> Array:
        """Zeros, in a shape."""
        self.shapes.append(shape)
        return jnp.zeros(shape)


def raw_action(saved: SavedPolicy, mode: Mode, obs: Array) -> Array:
    """Actions [B, A] in [-1, 1] of obs [B, O]; the key is never used."""
    obs = saved.agent.observed(obs, saved.policy.moments)
    return saved.agent.act(saved.policy, obs, jax.random.key(0), mode)


def primitives(jaxpr: Any) -> set[str]:
    """Names of all primitives, those of inner jaxprs included."""
    names = {eqn.primitive.name for eqn in jaxpr.eqns}
    return names.union(*map(primitives, subjaxprs(jaxpr)))


def make_program(
    saved: SavedPolicy,
    *,
    best_of: int | None = None,
    deterministic: bool = False,
    denoising_steps: int | None = None,
) -> Program:
    """The policy as a pure function.

    Args:
        saved: The policy.
        best_of: Samples per observation, of which the best by min Q is taken.
        deterministic: Leave out the randomness that the policy can do without. If
            neither this nor `best_of` is given, the sampler is the one of the headline
            of the agent's evaluations.
        denoising_steps: T of the model; None as in training.

    Raises:
        SimpoError: A setting that the agent does not have.
    """
    n = 1 if best_of is None else best_of
    mode = Mode(best_of=n, deterministic=deterministic)
    if best_of is None and not deterministic:
        mode = saved.agent.evaluating[0]
    program = bind(saved, mode)
    if mode.best_of > 1:
        single = bind(saved, replace(mode, best_of=1))
        require_effect(f"best of {mode.best_of}", program, single)
    if denoising_steps is None:
        return program
    changed = replace(saved, agent=with_denoising_steps(saved.agent, denoising_steps))
    other = bind(changed, mode)
    if changed.agent != saved.agent:
        require_effect(f"{denoising_steps} denoising steps", other, program)
    return other


def bind(saved: SavedPolicy, mode: Mode) -> Program:
    """The program of a mode; what it draws is found by tracing it once."""
    recorder = Recorder()
    obs = jax.ShapeDtypeStruct((1, saved.spec.obs_dim), jnp.float32)
    with drawing(recorder):
        jax.eval_shape(lambda obs: raw_action(saved, mode, obs), obs)
    return Program(saved, mode, tuple(recorder.shapes))


def require_effect(what: str, program: Program, without: Program) -> None:
    """Refuse a setting with which the program is the same as without it."""
    if str(program.trace().jaxpr) == str(without.trace().jaxpr):
        agent, label = type(program.saved.agent).__name__, without.mode.label
        raise SimpoError(f"{agent}, {label}, has no use for {what}: leave it out")
