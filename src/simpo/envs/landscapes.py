"""Running at the same speed for rewards of other shapes, flat to steep.

    u = clip(v / v*, 0, 1)                       v speed, v* target speed, both in m/s
    f(u) = sqrt(u) | u | u^2 | (exp(k u) - 1) / (exp(k) - 1)

    cheetah    r = f(u)                          v* = 10 m/s
    walker     r = stand (5 f(u) + 1) / 6        v* = 8 m/s

The bodies, what they observe, how they start, v and `stand`, the reward of standing
upright, are those of the DeepMind Control Suite (Tassa et al., 2018), of which f(u) = u
is the original task `run`. Episodes are cut after 1,000 steps and never terminate.
Needs the extra `simpo[dm-control]`, which is imported no earlier than a task is built.
"""

import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

from simpo.envs.snapshot import Resumable
from simpo.types import SimpoError

__all__ = [
    "BODIES",
    "CURVES",
    "Body",
    "Curve",
    "Exponential",
    "Landscape",
    "Linear",
    "Sqrt",
    "Square",
]

API: Any = mujoco
"""Its type stubs lack most of it."""
STATE = int(API.mjtState.mjSTATE_INTEGRATION)
"""Time, positions, velocities, controls and where the solver starts, among others."""
FLAT = "observations"
"""Under which name dm_control puts all observations, joined in its order."""


class Curve(ABC):
    """The reward of a share of the target speed; increasing, f(0) = 0, f(1) = 1."""

    @abstractmethod
    def __call__(self, u: Any) -> Any:
        """f(u), for u in [0, 1] of any shape [...]."""


@dataclass(frozen=True)
class Sqrt(Curve):
    """f(u) = sqrt(u): flat towards the target."""

    def __call__(self, u: Any) -> Any:
        """f(u), for u in [0, 1] of any shape [...]."""
        return np.sqrt(u)


@dataclass(frozen=True)
class Linear(Curve):
    """f(u) = u: the original tasks."""

    def __call__(self, u: Any) -> Any:
        """f(u), for u in [0, 1] of any shape [...]."""
        return u


@dataclass(frozen=True)
class Square(Curve):
    """f(u) = u^2."""

    def __call__(self, u: Any) -> Any:
        """f(u), for u in [0, 1] of any shape [...]."""
        return np.square(u)


@dataclass(frozen=True)
class Exponential(Curve):
    """f(u) = (exp(k u) - 1) / (exp(k) - 1): steep towards the target.

    Attributes:
        k: Steepness, positive; f'(1) / f'(0) = exp(k). The paper does not give it.

    Raises:
        SimpoError: k is not a positive number.
    """

    k: float = 3.0

    def __post_init__(self) -> None:
        if not (isinstance(self.k, int | float) and 0 < self.k < math.inf):
            raise SimpoError(f"k must be positive and finite, got {self.k!r}")

    def __call__(self, u: Any) -> Any:
        """f(u), for u in [0, 1] of any shape [...]."""
        k = self.k  # divided by exp(k) above and below, which else overflows
        return np.exp(k * (u - 1)) * np.expm1(-k * u) / np.expm1(-k)


CURVES: dict[str, type[Curve]] = {
    "sqrt": Sqrt,
    "linear": Linear,
    "square": Square,
    "exp": Exponential,
}
"""Curves by the word in the ids, flat to steep."""


class Body(NamedTuple):
    """What runs.

    Attributes:
        target: v*, from which on the reward does not increase, m/s.
        speed: Method of dm_control's physics that gives v.
        stands: Whether the reward is multiplied by that of standing upright.
    """

    target: float
    speed: str
    stands: bool

    def reward(self, f: Any, stand: float = 1.0) -> Any:
        """The reward [...] of f(u) [...] and of standing."""
        return stand * (5.0 * f + 1.0) / 6.0 if self.stands else f


BODIES = {
    "cheetah": Body(10.0, "speed", stands=False),
    "walker": Body(8.0, "horizontal_velocity", stands=True),
}
"""Bodies by dm_control's names."""


class Landscape(gymnasium.Env[np.ndarray, np.ndarray], Resumable):
    """A body that is to run, under a reward of a certain shape.

    Observations are dm_control's, joined in its order, float32. `info` of a step has
    `speed`, v in m/s, and `linear_reward`, what the original task pays for the step.

    Args:
        body: Key of BODIES.
        curve: Key of CURVES.
        render_mode: "rgb_array", or None.
        width: Of pictures, in pixels.
        height: Of pictures, in pixels.
        camera: Name of dm_control's camera; this one follows the body.
        parameters: Of the curve: k of "exp".

    Raises:
        SimpoError: The extra is not installed, or there is no such render mode.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        body: str,
        curve: str,
        *,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera: str = "side",
        **parameters: Any,
    ) -> None:
        modes = self.metadata["render_modes"]
        if render_mode not in (None, *modes):
            raise SimpoError(f"no render mode {render_mode!r}; choose {modes[0]!r}")
        self._body, self._curve = BODIES[body], CURVES[curve](**parameters)
        suite = load_suite()
        self._env = suite.load(
            body,
            "run",
            task_kwargs={"time_limit": math.inf},
            environment_kwargs={"flat_observation": True},
        )
        self._stand = suite.load(body, "stand").task if self._body.stands else None
        shape = self._env.observation_spec()[FLAT].shape
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        action = self._env.action_spec()
        low, high = (x.astype(np.float32) for x in (action.minimum, action.maximum))
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        self.metadata = self.metadata | {"render_fps": round(1 / self.dt)}
        self.render_mode, self._renderer = render_mode, None
        if render_mode:
            physics = self._env.physics
            self._renderer = MujocoRenderer(
                *(physics.model.ptr, physics.data.ptr),
                width=width,
                height=height,
                camera_name=camera,
            )

    @property
    def dt(self) -> float:
        """Seconds from step to step."""
        return float(self._env.control_timestep())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; dm_control's own generator is seeded by this one's."""
        super().reset(seed=seed)
        self._env.task.random.seed(int(self.np_random.integers(2**32)))
        return self._observed(self._env.reset()), {}

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act for `dt` seconds."""
        step = self._env.step(action)
        speed = float(getattr(self._env.physics, self._body.speed)())
        info = {"speed": speed, "linear_reward": float(step.reward)}
        return self._observed(step), self._reward(speed), False, False, info

    def render(self) -> Any:
        """A picture [H, W, 3]."""
        return self._renderer and self._renderer.render("rgb_array")

    def close(self) -> None:
        """Give the window back, if there is one."""
        if self._renderer:
            self._renderer.close()

    def get_snapshot(self) -> tuple[np.random.Generator, np.ndarray]:
        """The generator, and all that MuJoCo's next step depends on."""
        physics = self._env.physics
        state = np.empty(API.mj_stateSize(physics.model.ptr, STATE))
        API.mj_getState(physics.model.ptr, physics.data.ptr, state, STATE)
        return self.np_random, state

    def set_snapshot(self, snapshot: tuple[np.random.Generator, np.ndarray]) -> None:
        """Go on from a snapshot of an environment that was built in the same way.

        dm_control ends every step by the first half of MuJoCo's next one, which gives
        speeds, contacts and what else follows from the state.
        """
        self._env.reset()  # or else it would reset in its next step
        physics = self._env.physics
        self.np_random, state = snapshot
        API.mj_setState(physics.model.ptr, physics.data.ptr, state, STATE)
        API.mj_step1(physics.model.ptr, physics.data.ptr)

    def _observed(self, step: Any) -> np.ndarray:
        return step.observation[FLAT].astype(np.float32)

    def _reward(self, speed: float) -> float:
        f = self._curve(np.clip(speed / self._body.target, 0.0, 1.0))
        stand = self._stand.get_reward(self._env.physics) if self._stand else 1.0
        return float(self._body.reward(f, stand))


def load_suite() -> Any:
    """dm_control.suite, imported without what it does to the whole process.

    It would start OpenGL, which training does not need (pictures are Gymnasium's), and
    take MuJoCo's warnings. A program that draws by dm_control itself imports it before.

    Raises:
        SimpoError: The extra is not installed.
    """
    warn, way = API.get_mju_user_warning(), os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "off"
    try:
        from dm_control import suite
        from dm_control.mujoco.wrapper.mjbindings import sizes
    except ImportError as error:
        raise SimpoError(
            f"it needs dm_control: pip install 'simpo[dm-control]' ({error})"
        ) from None
    finally:
        API.set_mju_user_warning(warn)
        if way is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = way
    for name, cls in (("mjmodel", API.MjModel), ("mjdata", API.MjData)):
        forget_missing(sizes.array_sizes[name], cls)
    return suite


def forget_missing(fields: dict[str, Any], cls: type) -> None:
    """Take fields of flexible bodies that MuJoCo 4 lacks from dm_control 1.0.50's list.

    It makes an index by name for every field on the list, and fails at the first that
    is not there.
    """
    for name in [name for name in fields if not hasattr(cls, name)]:
        del fields[name]
