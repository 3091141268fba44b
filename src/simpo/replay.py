"""Uniform experience replay (Lin, 1992): a ring of the last `capacity` transitions.

Plain NumPy arrays on the host. A transition takes 4 (2 O + A + 1) + 1 bytes: 165
for HalfCheetah (O = 17, A = 6), so 165 MB for a million.
"""

import numpy as np

from simpo.types import EnvSpec, SimpoError, Transition

__all__ = ["ReplayBuffer"]


class ReplayBuffer:
    """The last `capacity` transitions, sampled uniformly with replacement.

    The whole state is public, so that a checkpoint is these arrays and two numbers.
    The memory is claimed from the operating system as the buffer fills.

    Attributes:
        obs, next_obs: Observations [capacity, O], float32.
        action: Actions [capacity, A], float32.
        reward: Rewards [capacity], float32.
        terminated: Whether the discount is 0 [capacity], bool.
        position: Row that the next transition is written to.
        size: Number of rows filled.

    Raises:
        SimpoError: `capacity` is below one.
    """

    def __init__(self, capacity: int, spec: EnvSpec) -> None:
        if capacity < 1:
            raise SimpoError(f"the replay capacity must be at least 1, got {capacity}")
        self.capacity, self.spec = capacity, spec
        self.obs = np.zeros((capacity, spec.obs_dim), np.float32)
        self.action = np.zeros((capacity, spec.action_dim), np.float32)
        self.reward = np.zeros(capacity, np.float32)
        self.terminated = np.zeros(capacity, bool)
        self.next_obs = np.zeros((capacity, spec.obs_dim), np.float32)
        self.position = self.size = 0

    def __len__(self) -> int:
        return self.size

    @property
    def nbytes(self) -> int:
        """Memory of the full buffer in bytes."""
        arrays = (self.obs, self.action, self.reward, self.terminated, self.next_obs)
        return sum(array.nbytes for array in arrays)

    def add(self, transition: Transition) -> None:
        """Write transitions with leading axis [B], over the oldest where full.

        Raises:
            SimpoError: Wrong shapes, discounts other than 0 and 1, or B > capacity.
        """
        rows = self._checked(transition)
        count = len(rows.reward)
        index = (self.position + np.arange(count)) % self.capacity
        self.obs[index] = rows.obs
        self.action[index] = rows.action
        self.reward[index] = rows.reward
        self.terminated[index] = rows.discount == 0
        self.next_obs[index] = rows.next_obs
        self.position = (self.position + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(
        self, rng: np.random.Generator, updates: int, batch_size: int
    ) -> Transition:
        """Draw G batches of B transitions.

        Args:
            rng: Source of the draw.
            updates: G.
            batch_size: B.

        Returns:
            Transitions with leading axes [G, B], float32.

        Raises:
            SimpoError: The buffer is empty.
        """
        if not self.size:
            raise SimpoError("the replay buffer is empty: add transitions first")
        index = rng.integers(self.size, size=(updates, batch_size))
        return Transition(
            obs=self.obs.take(index, axis=0),
            action=self.action.take(index, axis=0),
            reward=self.reward.take(index),
            discount=np.float32(1) - self.terminated.take(index),
            next_obs=self.next_obs.take(index, axis=0),
        )

    def _checked(self, transition: Transition) -> Transition:
        rows = Transition(*map(np.asarray, transition))
        count = len(rows.reward) if rows.reward.ndim else 0
        obs, action = (count, self.spec.obs_dim), (count, self.spec.action_dim)
        expected = Transition(obs, action, (count,), (count,), obs)
        for name, row, shape in zip(rows._fields, rows, expected, strict=True):
            if row.shape != shape:
                raise SimpoError(
                    f"transition field {name!r} has shape {row.shape}, expected {shape}"
                )
        if count > self.capacity:
            raise SimpoError(
                f"{count} transitions do not fit a replay capacity of {self.capacity}"
            )
        if not ((rows.discount == 0) | (rows.discount == 1)).all():
            raise SimpoError("a transition's discount must be 0 or 1")
        return rows
