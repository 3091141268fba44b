"""What every agent is: a frozen dataclass whose fields are its hyper-parameters.

init(key, spec) -> state        update(state, batch) -> state, metrics
policy(state) -> parameters     act(policy, obs, key, mode) -> actions

All four are pure. The state is one pytree that carries its own random key and step
counter; the key of an update is fold_in(state.key, state.step), so a state restored
from disk goes on exactly as it would have.
"""

import abc
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import jax
import optax
from jax import Array

from simpo.types import EnvSpec, Metrics, PyTree, SimpoError, Transition

__all__ = [
    "Agent",
    "Mode",
    "Policy",
    "compile_act",
    "compile_init",
    "compile_updates",
    "descend",
]

M = TypeVar("M")


@dataclass(frozen=True)
class Mode:
    """How actions are drawn; it names the sampler beside every score."""

    best_of: int = 1
    """Samples per state; the one with the highest min_k Q_k is taken."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise added, then clipped to the box."""

    def __post_init__(self) -> None:
        """Reject impossible settings.

        Raises:
            SimpoError: No samples, or negative noise.
        """
        if self.best_of < 1:
            raise SimpoError("best_of must be at least 1")
        if self.noise < 0:
            raise SimpoError("noise must not be negative")

    @property
    def label(self) -> str:
        """`single`, or `best-of-n`, with the noise if there is any."""
        name = "single" if self.best_of == 1 else f"best-of-{self.best_of}"
        return name if self.noise == 0 else f"{name}+noise-{self.noise:g}"


class Policy(NamedTuple):
    """All that acting needs: what a policy folder stores."""

    actor: PyTree
    critics: PyTree


class Agent(abc.ABC):
    """An algorithm with its hyper-parameters."""

    batch_size: int

    @property
    @abc.abstractmethod
    def collecting(self) -> Mode:
        """How actions are drawn while collecting."""

    @property
    @abc.abstractmethod
    def evaluating(self) -> tuple[Mode, ...]:
        """How actions are drawn in evaluations, the headline first."""

    @abc.abstractmethod
    def init(self, key: Array, spec: EnvSpec) -> Any:
        """A fresh training state; no two of its fields share a buffer."""

    @abc.abstractmethod
    def policy(self, state: Any) -> Policy:
        """The part of a training state that acting needs."""

    @abc.abstractmethod
    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """Actions [B, A] in [-1, 1] for observations [B, O]."""

    @abc.abstractmethod
    def explain(self, state: Any, obs: Array, key: Array) -> tuple[Array, Array] | None:
        """Values and weights [B, N] of candidates at obs [B, O]; None without any."""

    @abc.abstractmethod
    def update(self, state: Any, batch: Transition) -> tuple[Any, Metrics]:
        """One gradient update on a batch [B, ...]; metrics are scalars."""


def descend(
    optimiser: optax.GradientTransformation, grads: Any, opt: PyTree, params: M
) -> tuple[M, PyTree]:
    """One step of an optimiser: new parameters and its new state."""
    change, opt = optimiser.update(grads, opt, cast("Any", params))
    return cast("M", optax.apply_updates(cast("Any", params), change)), opt


@functools.cache
def compile_init(agent: Agent, spec: EnvSpec) -> Callable[[Array], Any]:
    """`agent.init` in one dispatch: key -> state."""
    return jax.jit(lambda key: agent.init(key, spec))


@functools.cache
def compile_updates(agent: Agent) -> Callable[[Any, Transition], tuple[Any, Metrics]]:
    """G updates in one dispatch: (state, batches [G, B, ...]) -> state, metrics [G].

    The state is donated: the one passed in is gone.
    """

    def updates(state: Any, batches: Transition) -> tuple[Any, Metrics]:
        return jax.lax.scan(agent.update, state, batches)

    return jax.jit(updates, donate_argnums=0)


@functools.cache
def compile_act(agent: Agent, mode: Mode) -> Callable[..., Array]:
    """`agent.act` in one mode: (policy, obs [B, O], key, step []) -> actions [B, A].

    The step is folded into the key inside, so no key is split on the host.
    """

    def act(policy: Policy, obs: Array, key: Array, step: Array) -> Array:
        return agent.act(policy, obs, jax.random.fold_in(key, step), mode)

    return jax.jit(act)
