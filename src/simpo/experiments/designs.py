"""What designed sequences are worth, and what they are like: a row per set.

Every set is judged by the reward oracle that it was made for, by others that it was
not, and by what a score hides: diversity, composition, likelihood, likeness to natural
sequences of high activity. A score that rises on the first judge alone is a sign that
the oracle was exploited, not followed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from simpo.dna.metrics import (
    gc,
    kmer_correlation,
    pairwise_hamming,
    quantiles,
    unique_share,
)
from simpo.dna.objective import Calls
from simpo.dna.oracle import Oracle
from simpo.dna.pretrain import nll
from simpo.generative.masked import MaskedDiffusion

__all__ = ["Judges", "header", "lines"]


@dataclass(frozen=True, eq=False)
class Judges:
    """What sets are judged by.

    Attributes:
        oracles: By what a report calls them; the first is the reward.
        natural: Natural sequences of high activity [N, L], to be compared with.
        diffusion: The generative model.
        pretrained: Its network before fine-tuning.
    """

    oracles: Mapping[str, Oracle]
    natural: np.ndarray
    diffusion: MaskedDiffusion
    pretrained: Any

    def scores(self, letters: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of a set [N, L] by judge."""
        return {name: oracle(letters) for name, oracle in self.oracles.items()}

    def row(self, name: str, letters: np.ndarray, calls: Calls) -> dict[str, Any]:
        """Everything about a set [N, L], as a row of a table."""
        found: dict[str, Any] = {"set": name, "sequences": len(letters)}
        for judge, values in self.scores(letters).items():
            low, middle, high = quantiles(values)
            found |= {f"{judge}_10": low, judge: middle, f"{judge}_90": high}
        reward = next(iter(self.oracles.values()))
        likely = nll(self.diffusion, self.pretrained, letters[:128], jax.random.key(0))
        return found | {
            "distance": float(np.median(reward.distance(letters))),
            "nll": float(np.median(likely)),
            "kmer_correlation": kmer_correlation(letters, self.natural),
            "hamming": pairwise_hamming(letters),
            "unique": unique_share(letters),
            "gc": float(gc(letters).mean()),
            "oracle_calls": calls.oracle,
            "network_calls": calls.network,
        }


def header(judges: Judges) -> list[str]:
    """Columns of the table that people read."""
    asked = [f"{name} [10-90 %]" for name in judges.oracles]
    rest = ["distance", "nats/base", "3-mers", "Hamming", "unique", "GC"]
    return ["set", *asked, *rest, "oracle calls", "network calls"]


def lines(judges: Judges, rows: list[dict[str, Any]]) -> list[list[str]]:
    """Rows as text."""
    found = []
    for row in rows:
        asked = [
            f"{row[n]:.2f} [{row[f'{n}_10']:.2f}, {row[f'{n}_90']:.2f}]"
            for n in judges.oracles
        ]
        shares = ("distance", "nll", "kmer_correlation", "hamming", "unique", "gc")
        found.append(
            [
                row["set"],
                *asked,
                *(f"{row[name]:.2f}" for name in shares),
                *(f"{row[f'{kind}_calls']:,}" for kind in ("oracle", "network")),
            ]
        )
    return found
