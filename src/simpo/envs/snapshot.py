"""The whole state of environments, so that they go on as if they had never stopped.

Of a vector environment, of each of its environments and of every wrapper around it,
all attributes but those that building it makes again: spaces, models, renderers. That
takes in the simulator's complete state, of which positions and velocities alone are
not enough (rewards read what the last step left behind), generators and step counters.
An environment that is `Resumable` says itself what it remembers.

The result is a pickle, to be read only from files that a manifest vouches for.
"""

import pickle
from abc import ABC, abstractmethod
from types import FunctionType
from typing import Any

import gymnasium
import mujoco
from gymnasium import spaces
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv, VectorEnv

from simpo.types import SimpoError

__all__ = ["Resumable", "capture", "restore"]

BUILT = (
    gymnasium.Env,
    VectorEnv,
    spaces.Space,
    EnvSpec,
    mujoco.MjModel,  # pyright: ignore[reportAttributeAccessIssue]
    MujocoRenderer,
    FunctionType,
)
"""Types of attributes that building an environment makes again."""
PARTS = ("envs", "env_fns")
"""Attributes of a vector environment that hold its environments."""


class Resumable(ABC):
    """An environment that knows what it has to remember."""

    @abstractmethod
    def get_snapshot(self) -> Any:
        """Everything that `set_snapshot` needs; it can be pickled."""

    @abstractmethod
    def set_snapshot(self, snapshot: Any) -> None:
        """Go on from a snapshot of an environment that was built in the same way."""


def capture(vector: VectorEnv, name: str) -> bytes:
    """The state of a vector environment.

    Args:
        vector: The vector environment.
        name: What error messages call the task.

    Raises:
        SimpoError: Its state is out of reach.
    """
    if not isinstance(vector, SyncVectorEnv):
        raise SimpoError(
            f"the state of {name} cannot be saved: {type(vector).__name__}"
        )
    try:
        return pickle.dumps([attributes(layer) for layer in layers(vector)])
    except Exception as error:  # whatever a task's own attributes raise
        raise SimpoError(f"the state of {name} cannot be saved: {error}") from error


def restore(vector: VectorEnv, state: bytes) -> None:
    """Put a vector environment, built like the one captured, into its state."""
    for layer, values in zip(layers(vector), pickle.loads(state), strict=True):
        if isinstance(layer, Resumable):
            layer.set_snapshot(values)
        else:
            vars(layer).update(values)


def layers(vector: Any) -> list[Any]:
    """The vector environment, then every environment from its outermost wrapper in.

    Also one that another holds without being its wrapper.
    """
    found, waiting = [vector], list(reversed(vector.envs))
    while waiting:
        env = waiting.pop()
        if not any(env is other for other in found):
            found.append(env)
            inner = [x for x in vars(env).values() if isinstance(x, gymnasium.Env)]
            waiting += reversed(inner)
    return found


def attributes(layer: Any) -> Any:
    """What a layer remembers."""
    if isinstance(layer, Resumable):
        return layer.get_snapshot()
    return {
        name: value
        for name, value in vars(layer).items()
        if name not in PARTS and not isinstance(value, BUILT)
    }
