"""Tasks by name: `make(env_id, num_envs, seed=...)` gives a `ControlEnv`.

Any Gymnasium id works whose observations are a Box, or a Dict or Tuple that can be
joined into one vector, and whose actions are a bounded Box, also those of other
packages ("package:Name-v0"). `ENVIRONMENTS` lists the ones recommended here. MuJoCo v4
is what the paper uses; v5 changes rewards and observations, so scores on the two are
not comparable.
"""

import difflib
import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FlattenObservation

from simpo.envs.control import ControlEnv, Episode, NonFiniteTransition, Step
from simpo.registration import register
from simpo.types import ObservationParts, SimpoError

__all__ = [
    "BACKENDS",
    "ENVIRONMENTS",
    "AutoresetMode",
    "ControlEnv",
    "Environment",
    "Episode",
    "NonFiniteTransition",
    "Step",
    "make",
    "make_one",
    "spawn_seeds",
]


register()


class Environment(NamedTuple):
    """A recommended task: O, A, the time limit in steps and what it is about.

    The limit is None where every episode terminates by itself.
    """

    obs_dim: int
    action_dim: int
    max_steps: int | None
    note: str


def _mujoco(
    name: str, v4: int | None, v5: int, action_dim: int, max_steps: int, note: str
) -> dict[str, Environment]:
    dims = {"v4": v4, "v5": v5}
    return {
        f"{name}-{version}": Environment(obs_dim, action_dim, max_steps, note)
        for version, obs_dim in dims.items()
        if obs_dim is not None
    }


def _landscapes(name: str, obs_dim: int, target: int) -> dict[str, Environment]:
    curves = {"sqrt": "sqrt(u)", "linear": "u", "square": "u^2", "exp": "e^3u, scaled"}
    note = f"run for %s, u = v / ({target} m/s); simpo[dm-control]"
    return {
        f"simpo/{name}Run-{curve}-v0": Environment(obs_dim, 6, 1000, note % formula)
        for curve, formula in curves.items()
    }


ENVIRONMENTS: dict[str, Environment] = {
    **_mujoco("HalfCheetah", 17, 17, 6, 1000, "run; never terminates"),
    **_mujoco("Hopper", 11, 11, 3, 1000, "hop on one leg"),
    **_mujoco("Walker2d", 17, 17, 6, 1000, "walk on two legs in a plane"),
    **_mujoco("Ant", 27, 105, 8, 1000, "walk on four legs"),
    **_mujoco("Humanoid", 376, 348, 17, 1000, "walk upright"),
    **_mujoco("Swimmer", 8, 8, 2, 1000, "swim; never terminates"),
    **_mujoco("InvertedPendulum", 4, 4, 1, 1000, "balance a pole on a cart"),
    **_mujoco("InvertedDoublePendulum", 11, 9, 1, 1000, "balance two linked poles"),
    **_mujoco("Reacher", 11, 10, 2, 50, "bring a fingertip to a target"),
    # Gymnasium refuses Pusher-v4 with MuJoCo 3 and newer
    **_mujoco("Pusher", None, 23, 7, 100, "push a cylinder to a target"),
    **_mujoco("HumanoidStandup", 376, 348, 17, 1000, "stand up; never terminates"),
    "Pendulum-v1": Environment(3, 1, 200, "swing up a pendulum; never terminates"),
    "MountainCarContinuous-v0": Environment(2, 1, 999, "drive out of a valley"),
    "simpo/BanditTwoPeaks-v0": Environment(1, 1, None, "one step; two reward peaks"),
    **_landscapes("Cheetah", 17, target=10),
    **_landscapes("Walker", 24, target=8),
}


def make(
    env_id: str,
    num_envs: int,
    *,
    seed: int,
    backend: str = "gymnasium",
    autoreset: AutoresetMode = AutoresetMode.DISABLED,
    env_kwargs: dict[str, Any] | None = None,
) -> ControlEnv:
    """Build E seeded copies of a task.

    Args:
        env_id: Gymnasium id.
        num_envs: E.
        seed: Each environment gets its own stream, spawned from this number.
        backend: "gymnasium" (one process, one environment after the other) or
            "envpool" (threads; the extra `simpo[envpool]`). EnvPool reports a
            termination in the very last step of the time limit as a truncation.
        autoreset: How ended episodes restart; the transitions are the same in all
            modes. DISABLED alone is also right for tasks that return one
            observation array over and over. EnvPool has its own mode.
        env_kwargs: Keyword arguments of the task.

    Raises:
        SimpoError: Unknown task or backend, a task that cannot be built, a missing
            extra, or whatever `ControlEnv` refuses.
    """
    if num_envs < 1:
        raise SimpoError(f"the number of environments must be positive, got {num_envs}")
    if seed < 0:
        raise SimpoError(f"the seed must not be negative, got {seed}")
    if backend not in BACKENDS:
        raise SimpoError(
            f"unknown backend {backend!r}; choose from {', '.join(BACKENDS)}"
        )
    seeds = spawn_seeds(seed, num_envs)
    build, kwargs = BACKENDS[backend], env_kwargs or {}
    with _known_warnings_muted():
        vector, reset_seed = build(env_id, seeds, autoreset, kwargs)
        try:
            vector.action_space.seed(seed)
            parts = _parts(vector)
            return ControlEnv(vector, seed=reset_seed, name=env_id, parts=parts)
        except SimpoError:
            vector.close()
            raise


def spawn_seeds(seed: int, num_envs: int) -> list[int]:
    """The seeds of E environments; the first ones of more environments are the same."""
    # 31 bits: EnvPool takes signed integers
    return (np.random.SeedSequence(seed).generate_state(num_envs) >> 1).tolist()


def make_one(env_id: str, env_kwargs: dict[str, Any] | None = None) -> gymnasium.Env:
    """One copy of a task as it is, for its spaces, its model, its rate, its pictures.

    Raises:
        SimpoError: Unknown task, or one that cannot be built.
    """
    with _known_warnings_muted():
        vector, _ = _gymnasium(env_id, [0], AutoresetMode.DISABLED, env_kwargs or {})
    return vector.envs[0]  # pyright: ignore[reportAttributeAccessIssue]


def _gymnasium(
    env_id: str, seeds: list[int], autoreset: AutoresetMode, kwargs: dict[str, Any]
) -> tuple[VectorEnv, list[int] | None]:
    module, _, name = env_id.rpartition(":")
    with _one_line(f"cannot import {module!r}"):
        importlib.import_module(module or "gymnasium")
    if name not in gymnasium.registry:
        raise _unknown(env_id, gymnasium.registry)
    # ControlEnv checks and copies, so the passive checker and `copy` would be waste
    env = partial(_joined, env_id, disable_env_checker=True, **kwargs)
    with _one_line(_cannot_build(env_id, kwargs)):
        vector = SyncVectorEnv([env] * len(seeds), copy=False, autoreset_mode=autoreset)
        if kwargs:  # some values are refused no earlier than by the first reset
            vector.reset()
    return vector, seeds


def _joined(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """A task; several observations are joined into one vector."""
    env = gymnasium.make(env_id, **kwargs)
    several = isinstance(env.observation_space, spaces.Dict | spaces.Tuple)
    return FlattenObservation(env) if several else env


def _parts(vector: VectorEnv) -> ObservationParts:
    """Names and shapes of the observations that `_joined` joined: Boxes of a Dict."""
    for env in getattr(vector, "envs", ())[:1]:
        space = env.env.observation_space if isinstance(env, FlattenObservation) else 0
        if isinstance(space, spaces.Dict):
            boxes = [(k, x) for k, x in space.items() if isinstance(x, spaces.Box)]
            if len(boxes) == len(space):
                return tuple((name, box.shape) for name, box in boxes)
    return ()


def _envpool(
    env_id: str, seeds: list[int], _: AutoresetMode, kwargs: dict[str, Any]
) -> tuple[VectorEnv, None]:
    try:
        import envpool  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SimpoError(
            "the envpool backend is not installed: pip install 'simpo[envpool]'"
        ) from None
    known = envpool.list_all_envs()
    if env_id not in known:
        raise _unknown(env_id, known)
    with _one_line(_cannot_build(env_id, kwargs)):
        pool: Any = envpool.make(
            env_id, env_type="gymnasium", num_envs=len(seeds), seed=seeds, **kwargs
        )
    if pool.is_async:
        raise SimpoError(
            f"batch_size={pool.config['batch_size']} would leave environments out of a "
            f"step: remove it, or set it to the {len(seeds)} environments asked for"
        )
    return pool, None


BACKENDS: dict[str, Callable[..., tuple[VectorEnv, list[int] | None]]] = {
    "gymnasium": _gymnasium,
    "envpool": _envpool,
}


def _unknown(env_id: str, registered: Iterable[str]) -> SimpoError:
    registered = set(registered)
    near = _near(env_id, ENVIRONMENTS.keys() & registered) or _near(env_id, registered)
    hint = f"did you mean {', '.join(near)}?" if near else "see `simpo list envs`"
    return SimpoError(f"unknown environment {env_id!r}; {hint}")


def _near(env_id: str, candidates: Iterable[str]) -> list[str]:
    by_lower = {c.lower(): c for c in sorted(candidates, reverse=True)}
    return [by_lower[c] for c in difflib.get_close_matches(env_id.lower(), by_lower)]


def _cannot_build(env_id: str, kwargs: dict[str, Any]) -> str:
    options = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    return f"cannot build {env_id}" + (f" with {options}" if kwargs else "")


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn whatever a task's own code raises into one line."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SimpoError(f"{what}: {reason}") from error


@contextmanager
def _known_warnings_muted() -> Iterator[None]:
    """Hide what says nothing to a user who chose the task on purpose.

    That v4 is out of date, that float64 bounds are stored as float32, and that a
    bundled model file uses deprecated attributes (which MuJoCo would otherwise
    write into a MUJOCO_LOG.TXT in the working directory).
    """
    messages: list[str] = []
    api: Any = mujoco  # its type stubs lack these two functions
    previous = api.get_mju_user_warning()
    api.set_mju_user_warning(messages.append)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is out of date")
            warnings.filterwarnings("ignore", ".*precision lowered by casting")
            yield
    finally:
        api.set_mju_user_warning(previous)
    for message in messages:
        if "deprecated" not in message:
            warnings.warn(message, stacklevel=2)
