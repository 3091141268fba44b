"""What sequences are scored by: an oracle, in a place, under constraints.

score(x) = r(place(x)) - diversity * (mean share of bases that x shares with the others)

A sequence that breaks a constraint scores one standard deviation below the worst of its
group, so that it is never imitated, and negative weights push away from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax import Array

from simpo.dna.constraints import Template, satisfied
from simpo.dna.oracle import Oracle
from simpo.types import SimpoError

__all__ = ["Calls", "Objective"]


@dataclass
class Calls:
    """How often oracle and network were asked about a sequence.

    Attributes:
        oracle: Sequences scored.
        network: Sequences that went through the denoiser.
    """

    oracle: int = 0
    network: int = 0


@dataclass(frozen=True, eq=False)
class Objective:
    """Scores of what a model writes.

    Attributes:
        oracle: Scores whole sequences.
        template: Where an insert is placed; None for whole sequences.
        constraints: What a sequence must satisfy.
        diversity: Weight of the share of bases that a group has in common.
        calls: Counted here.
    """

    oracle: Oracle
    template: Template | None = None
    constraints: Sequence[Any] = ()
    diversity: float = 0.0
    calls: Calls = field(default_factory=Calls)

    def whole(self, letters: np.ndarray) -> np.ndarray:
        """Whole sequences [N, L] of what was written [N, l]."""
        return self.template.place(letters) if self.template else letters

    def __call__(self, letters: np.ndarray) -> np.ndarray:
        """Scores of a group: [N, l] -> [N]."""
        letters = np.asarray(letters, np.int8)
        whole = self.whole(letters)
        self.calls.oracle += len(whole)
        scores = np.asarray(self.oracle(whole), np.float32)
        if self.diversity:
            scores = scores - self.diversity * shared_bases(letters)
        kept = satisfied(self.constraints, whole)
        if kept.all():
            return scores
        worst = scores[kept].min() if kept.any() else scores.min()
        return np.where(kept, scores, worst - scores.std() - 1e-6)

    def soft(self, probs: Array) -> Array:
        """Scores of relaxed sequences, differentiable: [N, l, 4] -> [N].

        Calls are not counted: who compiles this knows how often it is called.

        Raises:
            SimpoError: Constraints, or an oracle without gradient.
        """
        if self.constraints or self.diversity:
            raise SimpoError(
                "constraints and diversity have no gradient: use SiMPO, or sample "
                "more and keep what satisfies them"
            )
        if self.template is None:
            return self.oracle.soft(probs)
        return self.oracle.soft(self.template.place_soft(probs))


def shared_bases(letters: np.ndarray) -> np.ndarray:
    """Mean share of positions at which one agrees with the others: [N, l] -> [N]."""
    n = len(letters)
    same = np.zeros(n)
    for base in np.unique(letters):
        here = letters == base
        same += (here * (here.sum(0) - 1)).sum(-1)
    return same / (letters.shape[-1] * max(n - 1, 1))
