"""Continuous control as a stream of transitions, whatever the vector API does.

A Gymnasium vector environment restarts ended episodes in one of three ways:

    NEXT_STEP   the step after an end ignores its action and only restarts
    SAME_STEP   the ending step restarts and leaves the end in info["final_obs"]
    DISABLED    the caller restarts, by reset(options={"reset_mask": ...})

`ControlEnv` feeds out the same transitions for all three. Per environment they
are those of the plain loop "step; if it ended, reset": next_obs is what the step
led to, never what a reset returned, and the discount is 0 only where the task
terminated, so that a time limit still bootstraps (Pardo et al., 2018, eq. 6).
"""

import pickle
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from simpo.envs.snapshot import capture, restore
from simpo.types import ActionBox, EnvSpec, ObservationParts, SimpoError, Transition

__all__ = ["ControlEnv", "Episode", "NonFiniteTransition", "Step"]


class Episode(NamedTuple):
    """A finished episode.

    Attributes:
        return_: Undiscounted sum of its rewards, in float64.
        length: Its number of steps.
        env: Index of the environment it ran in.
    """

    return_: float
    length: int
    env: int = 0


class Step(NamedTuple):
    """What one step of E environments gave; the arrays are never written again.

    Attributes:
        obs: Observations to act on next [E, O]; where an episode has ended under
            NEXT_STEP this is its last one, and the action on it is ignored.
        transition: Transitions of the valid rows only, in order of environment.
        episodes: Episodes that ended in this step.
        valid: False where the step only restarted an environment [E].
        info: What the vector environment said besides.
    """

    obs: np.ndarray
    transition: Transition
    episodes: list[Episode]
    valid: np.ndarray
    info: dict[str, Any]


class NonFiniteTransition(SimpoError):
    """An environment returned a NaN or an infinity.

    Attributes:
        transition: The offending rows.
    """

    transition: Transition


@dataclass(frozen=True)
class _ActionBox:
    """The affine map from [-1, 1]^A onto the task's box."""

    space: spaces.Box
    centre: np.ndarray
    half: np.ndarray

    @classmethod
    def of(cls, space: spaces.Box) -> "_ActionBox":
        low, high = (x.astype(np.float64) / 2 for x in (space.low, space.high))
        # halves first: a huge box's width may overflow where its bounds do not
        return cls(space, high + low, high - low)

    def rescale(self, action: np.ndarray) -> np.ndarray:
        """Map actions [E, A] to the task's [E, *shape]; rounding never leaves it."""
        scaled = self.centre + self.half * action.reshape(-1, *self.space.shape)
        inside = np.minimum(np.maximum(scaled, self.space.low), self.space.high)
        return inside.astype(self.space.dtype)


class ControlEnv:
    """E copies of a Box-to-Box task, acted on with actions in [-1, 1]^A.

    Everything the adapter remembers between two calls is in `_seed` (None once
    used), `_obs`, `_needs_reset`, `_returns` and `_lengths`; the rest of the state
    is the vector environment's own.

    Args:
        vector: The vector environment; any autoreset mode.
        seed: Seed, or one seed per environment, of the first reset. None where
            `vector` was seeded when it was built.
        name: What error messages call the task.
        parts: Names and shapes of the observations that were joined, if any were.

    Raises:
        SimpoError: Spaces other than Box, an action box that is unbounded or not
            of floats, an autoreset mode that is not declared.
    """

    def __init__(
        self,
        vector: VectorEnv,
        *,
        seed: int | list[int] | None,
        name: str = "the environment",
        parts: ObservationParts = (),
    ) -> None:
        observation = _observation_box(vector.single_observation_space, name)
        action = _action_box(vector.single_action_space, name)
        obs_dim, action_dim = (int(np.prod(s.shape)) for s in (observation, action))
        self.spec = EnvSpec(obs_dim, action_dim)
        self.num_envs, self.parts = vector.num_envs, parts
        self._vector, self._seed, self._name = vector, seed, name
        self._mode = _autoreset_mode(vector, name)
        self._box = _ActionBox.of(action)
        self._clear(np.zeros((self.num_envs, obs_dim), np.float32))

    @property
    def action_box(self) -> ActionBox:
        """The task's own bounds, which [-1, 1]^A is stretched to."""
        space = self._box.space
        low, high = (tuple(x.ravel().tolist()) for x in (space.low, space.high))
        return ActionBox(low, high)

    def reset(self) -> np.ndarray:
        """Start new episodes everywhere; the first call seeds, later ones go on.

        Returns:
            Observations [E, O], float32.

        Raises:
            SimpoError: An observation is not finite.
        """
        seed, self._seed = self._seed, None
        obs, _ = self._vector.reset(seed=seed)  # pyright: ignore[reportArgumentType]
        self._clear(self._flat(*_float32(obs)))
        if not np.isfinite(self._obs).all():
            raise self._non_finite_reset(self._obs)
        return self._obs

    def step(self, action: Any) -> Step:
        """Act once in every environment.

        Args:
            action: Actions [E, A], clipped to [-1, 1] before anything sees them.

        Raises:
            NonFiniteTransition: A reward or an observation is NaN or infinite.
            SimpoError: The actions are NaN, infinite or of another shape.
        """
        action = self._clipped(action)
        result = self._vector.step(self._box.rescale(action))
        last, reward, terminated, truncated, info = result
        done = terminated | truncated
        ended, valid = done.nonzero()[0], ~self._needs_reset
        last, reward32 = _float32(last, reward)
        next_obs, obs = self._restart(self._flat(last), ended, info)
        discount = (~terminated).astype(np.float32)
        full = Transition(self._obs, action, reward32, discount, next_obs)
        self._require_finite(full, obs, valid)
        episodes = self._count(reward, ended, valid)
        self._obs = obs
        if self._mode is AutoresetMode.NEXT_STEP:
            self._needs_reset = done
        return Step(obs, _rows(full, valid), episodes, valid, info)

    def snapshot(self) -> bytes:
        """Everything that `restore` needs to go on from here.

        Raises:
            SimpoError: The task's state is out of reach.
        """
        mine = (self._seed, self._obs, self._needs_reset, self._returns, self._lengths)
        return pickle.dumps((mine, capture(self._vector, self._name)))

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot of an environment that was built in the same way."""
        mine, vector = pickle.loads(state)
        self._seed, self._obs, self._needs_reset, self._returns, self._lengths = mine
        restore(self._vector, vector)

    def random_actions(self, rng: np.random.Generator) -> np.ndarray:
        """Draw uniform actions in [-1, 1] [E, A], float32."""
        shape = (self.num_envs, self.spec.action_dim)
        return rng.uniform(-1, 1, shape).astype(np.float32)

    def close(self) -> None:
        """Release the environments."""
        self._vector.close()

    def _clear(self, obs: np.ndarray) -> None:
        self._obs = obs
        self._needs_reset = np.zeros(self.num_envs, bool)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)

    def _flat(self, obs: np.ndarray) -> np.ndarray:
        return obs.reshape(-1, self.spec.obs_dim)

    def _clipped(self, action: Any) -> np.ndarray:
        action = np.asarray(action, np.float32)
        shape = self.num_envs, self.spec.action_dim
        if action.shape != shape:
            raise SimpoError(f"actions have shape {action.shape}, expected {shape}")
        if not np.isfinite(action).all():
            env = int(np.flatnonzero(~np.isfinite(action).all(-1))[0])
            raise SimpoError(
                f"the policy's action for environment {env} of {self._name} is not "
                "finite: training has diverged"
            )
        return np.minimum(np.maximum(action, -1), 1)

    def _restart(
        self, last: np.ndarray, ended: np.ndarray, info: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tell what the step led to from what to act on next, both [E, O]."""
        if self._mode is AutoresetMode.NEXT_STEP or not len(ended):
            return last, last
        other = last.copy()
        if self._mode is AutoresetMode.SAME_STEP:
            other[ended] = self._flat(*_float32(np.stack(info["final_obs"][ended])))
            return other, last
        mask = np.isin(np.arange(self.num_envs), ended)
        fresh, _ = self._vector.reset(options={"reset_mask": mask})
        other[ended] = self._flat(*_float32(fresh))[ended]
        return last, other

    def _count(
        self, reward: np.ndarray, ended: np.ndarray, valid: np.ndarray
    ) -> list[Episode]:
        np.add(self._returns, reward, out=self._returns, where=valid)
        self._lengths += valid
        if not len(ended):
            return []
        episodes = [
            Episode(float(self._returns[i]), int(self._lengths[i]), int(i))
            for i in ended
        ]
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        return episodes

    def _require_finite(
        self, transition: Transition, obs: np.ndarray, valid: np.ndarray
    ) -> None:
        reward, next_obs = transition.reward, transition.next_obs
        finite = np.isfinite(reward).all() and np.isfinite(next_obs).all()
        if finite and (obs is next_obs or np.isfinite(obs).all()):
            return
        bad_reward, bad_obs = ~np.isfinite(reward), ~np.isfinite(next_obs).all(-1)
        bad = (bad_reward | bad_obs) & valid
        if bad.any():
            env = int(np.flatnonzero(bad)[0])
            error = NonFiniteTransition(
                f"environment {env} of {self._name} returned a non-finite "
                f"{'reward' if bad_reward[env] else 'observation'} at step "
                f"{self._lengths[env] + 1} of its episode"
            )
            error.transition = _rows(transition, bad)
            raise error
        if not np.isfinite(obs).all():
            raise self._non_finite_reset(obs)

    def _non_finite_reset(self, obs: np.ndarray) -> SimpoError:
        env = int(np.flatnonzero(~np.isfinite(obs).all(-1))[0])
        return SimpoError(
            f"environment {env} of {self._name} returned a non-finite observation on "
            "reset"
        )


def _float32(*arrays: Any) -> list[np.ndarray]:
    """Copy to float32, since the vector environment may write into its own again.

    What does not fit becomes inf, which the checks report.
    """
    with np.errstate(over="ignore"):
        return [np.array(x, np.float32) for x in arrays]


def _rows(transition: Transition, mask: np.ndarray) -> Transition:
    if mask.all():
        return transition
    return Transition(*(x[mask] for x in transition))


def _observation_box(space: Any, name: str) -> spaces.Box:
    if not isinstance(space, spaces.Box):
        raise SimpoError(
            f"{name} has a {type(space).__name__} observation space; only Box, and "
            "Dict or Tuple of fixed size, are supported"
        )
    return space


def _action_box(space: Any, name: str) -> spaces.Box:
    supported = "only a bounded Box of floats is supported"
    if not isinstance(space, spaces.Box):
        kind = type(space).__name__
        raise SimpoError(f"{name} has a {kind} action space; {supported}")
    if not np.issubdtype(space.dtype, np.floating):
        raise SimpoError(f"{name} has actions of type {space.dtype}; {supported}")
    if not np.isfinite([space.low, space.high]).all():
        raise SimpoError(
            f"{name} has an unbounded action box; {supported}: give it finite low "
            "and high"
        )
    return space


def _autoreset_mode(vector: VectorEnv, name: str) -> AutoresetMode:
    declared = vector.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(declared)
    except ValueError:
        raise SimpoError(
            f"{name} declares the autoreset mode {declared!r}; its vector environment "
            "must set metadata['autoreset_mode'] to a gymnasium.vector.AutoresetMode"
        ) from None
