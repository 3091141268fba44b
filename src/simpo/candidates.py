"""candidates.csv: what Stage I makes of candidates in some states, for pictures."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from simpo.callbacks import Callback
from simpo.evaluation import EpisodeRow
from simpo.trainer import Trainer

__all__ = ["EXPLAINED_STATES", "CandidatesWriter", "write_candidates"]

EXPLAINED_STATES = 16
"""States whose candidates are drawn in the picture of weights against values."""


class CandidatesWriter(Callback):
    """Writes them at every evaluation.

    Args:
        path: The table.
        explain: The agent's `explain`.
    """

    def __init__(self, path: Path, explain: Callable[..., Any]) -> None:
        self.path, self.explain = path, jax.jit(explain)

    def on_evaluation(self, trainer: Trainer, rows: Sequence[EpisodeRow]) -> None:
        """Write the table anew."""
        write_candidates(self.path, self.explain, trainer)


def write_candidates(path: Path, explain: Callable[..., Any], trainer: Trainer) -> None:
    """Values and weights of candidates in some states of the buffer, as a table.

    The states are drawn by a generator of their own, so training does not notice.

    Args:
        path: The table; written aside and renamed.
        explain: The agent's, compiled.
        trainer: The run under way; nothing is written before its first transition.
    """
    if trainer.run.agent.rollout_steps or not trainer.buffer.size:
        return
    rng = np.random.default_rng(trainer.run.seed)
    obs = trainer.buffer.sample(rng, 1, EXPLAINED_STATES).obs[0]
    obs = trainer.run.agent.observed(obs, trainer.policy.moments)
    explained = explain(trainer.state, obs, trainer.act_key)
    if explained is None:
        return
    q, weights = (np.asarray(x) for x in explained)
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["state", "candidate", "q", "weight"])
        for state, candidate in np.ndindex(q.shape):
            at = state, candidate
            table.writerow([state, candidate, float(q[at]), float(weights[at])])
    aside.replace(path)
