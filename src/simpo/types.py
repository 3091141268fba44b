"""Records that cross module borders, and the axis letters of every shape.

B batch of states, N candidates per state, A action dims, O observation dims,
K critics, T denoising steps, G updates per dispatch, E parallel environments.
"""

from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "ActionBox",
    "EnvSpec",
    "Metrics",
    "ObservationParts",
    "PyTree",
    "Rollout",
    "SimpoError",
    "SimpoWarning",
    "Transition",
]

Metrics = dict[str, Any]
"""Scalars by name."""
PyTree = Any
"""A JAX tree of arrays; this module itself loads no JAX, so plots start at once."""


class SimpoError(Exception):
    """A user's mistake or a failed run: one clear line, never a traceback."""

    exit_code = 2
    """What the command line exits with: 2 for a mistake, 1 for a failed run."""


class SimpoWarning(UserWarning):
    """What a user should know of a run that goes on; one line on standard error."""


ObservationParts: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of a task's observations, in the order in which they are joined."""


class EnvSpec(NamedTuple):
    """What an agent needs to know of a task; actions always lie in [-1, 1]^A."""

    obs_dim: int
    action_dim: int


class ActionBox(NamedTuple):
    """A task's box of actions, A bounds each; agents themselves act in [-1, 1]^A."""

    low: tuple[float, ...]
    high: tuple[float, ...]


class Transition(NamedTuple):
    """Transitions; every field has the same leading axes (B, or G and B).

    Attributes:
        obs: Observations [..., O].
        action: Actions in [-1, 1] [..., A].
        reward: Rewards [...].
        discount: 0 after a true termination, 1 otherwise (truncation included) [...].
        next_obs: Observations that followed, never those of a reset [..., O].
    """

    obs: Any
    action: Any
    reward: Any
    discount: Any
    next_obs: Any


class Rollout(NamedTuple):
    """Consecutive steps of E environments under one policy, for agents on policy.

    Attributes:
        obs: Observations [T, E, O].
        decision: What the policy decided; the last A numbers are the action, before
            it was clipped to the box [T, E, D].
        reward: Rewards [T, E].
        discount: 0 after a true termination, 1 otherwise [T, E].
        last: 1 where the episode ended, by termination or truncation [T, E].
        next_obs: Observations that followed, never those of a reset [T, E, O].
    """

    obs: Any
    decision: Any
    reward: Any
    discount: Any
    last: Any
    next_obs: Any
