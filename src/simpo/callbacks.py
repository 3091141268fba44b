"""What can be hung into a run: `simpo.train(agent, env, callbacks=[...])`.

collect, update, report   on_step         after every step of all environments
evaluate, save policy     on_evaluation   after every evaluation
write a checkpoint        on_checkpoint   after every checkpoint

A callback sees the trainer: `step`, `updates`, `policy`, `run`, `directory`. It must
not change what training reads, or else the run cannot be repeated.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simpo.evaluation import EpisodeRow
    from simpo.trainer import Trainer

__all__ = ["Callback"]


class Callback:
    """Does nothing; override what is wanted."""

    def on_step(self, trainer: "Trainer") -> bool | None:
        """After E environment steps and the updates they paid for; False ends the run.

        The run then evaluates a last time and is done.
        """

    def on_evaluation(self, trainer: "Trainer", rows: "Sequence[EpisodeRow]") -> None:
        """After an evaluation, with a row per episode; the policy folder is written."""

    def on_checkpoint(self, trainer: "Trainer", folder: Path) -> None:
        """After a checkpoint, with its folder."""
