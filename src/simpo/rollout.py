"""Rollouts: T consecutive steps of E environments, for agents that learn on policy."""

import numpy as np

from simpo.types import Rollout, SimpoError, Transition

__all__ = ["RolloutBuffer"]


class RolloutBuffer:
    """Steps of all environments since the last update, at most T.

    Attributes:
        steps: T.
        rows: What has been added, a rollout of [E, ...] per step.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.rows: list[Rollout] = []

    @property
    def full(self) -> bool:
        """Whether T steps are there."""
        return len(self.rows) >= self.steps

    def add(
        self, transition: Transition, decision: np.ndarray, last: np.ndarray
    ) -> None:
        """Add a step of every environment.

        Args:
            transition: Transitions [E, ...].
            decision: What the policy decided [E, D].
            last: Whether the episode ended [E].

        Raises:
            SimpoError: Not every environment made a step.
        """
        if len(transition.reward) != len(decision):
            raise SimpoError(
                "agents on policy need a step of every environment: use "
                "--backend gymnasium"
            )
        self.rows.append(
            Rollout(
                transition.obs,
                decision,
                transition.reward,
                transition.discount,
                last.astype(np.float32),
                transition.next_obs,
            )
        )

    def take(self) -> Rollout:
        """All steps, with leading axes [1, T, E], float32; the buffer is empty then."""
        stacked, self.rows = self.stacked(), []
        return Rollout(*(x[None] for x in stacked))

    def stacked(self) -> Rollout:
        """The steps so far as one rollout [t, E, ...]; there is at least one."""
        return Rollout(*(np.stack(column) for column in zip(*self.rows, strict=True)))

    def restore(self, stacked: Rollout) -> None:
        """Put back steps that `stacked` gave."""
        self.rows = [Rollout(*step) for step in zip(*stacked, strict=True)]
