"""Uniform experience replay (Lin, 1992): a ring of the last `capacity` transitions.

Plain NumPy arrays on the host. A transition takes 4 (2 O + A + 1) + 1 bytes: 165
for HalfCheetah (O = 17, A = 6), so 165 MB for a million.
"""

from collections.abc import Mapping

import numpy as np

from simpo.types import EnvSpec, SimpoError, Transition

__all__ = ["ReplayBuffer"]

BLOCK = 16_384
"""Rows per block: what a checkpoint writes anew when one of them has changed."""


class ReplayBuffer:
    """The last `capacity` transitions, sampled uniformly with replacement.

    A checkpoint is blocks of rows and the number of transitions ever added. The memory
    is claimed from the operating system as the buffer fills.

    Attributes:
        obs, next_obs: Observations [capacity, O], float32.
        action: Actions [capacity, A], float32.
        reward: Rewards [capacity], float32.
        terminated: Whether the discount is 0 [capacity], bool.
        added: Number of transitions ever added.

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
        self.added = 0

    @property
    def position(self) -> int:
        """Row that the next transition is written to."""
        return self.added % self.capacity

    @property
    def size(self) -> int:
        """Number of rows filled."""
        return min(self.added, self.capacity)

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
        self.added += count

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

    def blocks(self, since: int = 0) -> dict[int, np.ndarray]:
        """Blocks written to since so many were added, packed: [rows, 2 O + A + 2]."""
        recent = np.arange(max(since, self.added - self.capacity), self.added)
        numbers = np.unique(recent % self.capacity // BLOCK)
        return {int(number): self._packed(number * BLOCK) for number in numbers}

    @property
    def block_count(self) -> int:
        """Blocks that hold the filled rows."""
        return -(-self.size // BLOCK)

    def restore(self, blocks: Mapping[int, np.ndarray], added: int) -> None:
        """Put blocks back, of a buffer that so many transitions had been added to."""
        for number, block in blocks.items():
            rows = slice(number * BLOCK, number * BLOCK + len(block))
            split = np.cumsum([self.spec.obs_dim, self.spec.action_dim, 1, 1])
            parts = np.split(block, split, axis=1)
            self.obs[rows], self.action[rows], self.next_obs[rows] = (
                parts[i] for i in (0, 1, 4)
            )
            self.reward[rows], self.terminated[rows] = parts[2][:, 0], parts[3][:, 0]
        self.added = added

    def _packed(self, start: int) -> np.ndarray:
        rows = slice(start, min(start + BLOCK, self.size))
        single = self.reward[rows, None], self.terminated[rows, None].astype(np.float32)
        columns = (self.obs[rows], self.action[rows], *single, self.next_obs[rows])
        return np.concatenate(columns, axis=1)

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
