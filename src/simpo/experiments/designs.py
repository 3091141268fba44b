"""What designed sequences are worth, and what they are like: a row per set.

Every set is judged by the reward oracle that it was made for, by others that it was
not, and by what a score hides: diversity, composition, likelihood, likeness to natural
sequences of high activity. A score that rises on the first judge alone is a sign that
the oracle was exploited, not followed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from simpo.dna.constraints import Constraint, Template, satisfied
from simpo.dna.metrics import (
    gc,
    hit_rate,
    kmer_correlation,
    motif_correlation,
    pairwise_hamming,
    quantiles,
    unique_share,
)
from simpo.dna.motifs import Motif
from simpo.dna.objective import Calls
from simpo.dna.oracle import Oracle
from simpo.dna.pretrain import nll
from simpo.dna.scan import hits
from simpo.dna.usage import MotifUsage
from simpo.generative.masked import MaskedDiffusion

__all__ = ["Judged", "Judges", "header", "lines"]


class Judged(NamedTuple):
    """What was found out about a set.

    Attributes:
        row: Its numbers, as a row of a table.
        rates: Hits of every motif per 100 bases [M]; empty without motifs.
    """

    row: dict[str, Any]
    rates: np.ndarray


@dataclass(frozen=True, eq=False)
class Judges:
    """What sets are judged by.

    Attributes:
        oracles: By what a report calls them; the first is the reward.
        natural: Natural sequences of high activity [N, l], to be compared with.
        diffusion: The generative model.
        pretrained: Its network before fine-tuning.
        template: Where inserts are placed for the oracles; None for whole sequences.
        motifs: What is looked for in a set and in the natural sequences; maybe nothing.
        accessibility: Chance of open chromatin, if there is such a classifier.
        conditions: What whole sequences should satisfy, if anything.
    """

    oracles: Mapping[str, Oracle]
    natural: np.ndarray
    diffusion: MaskedDiffusion
    pretrained: Any
    template: Template | None = None
    motifs: Sequence[Motif] = ()
    accessibility: Oracle | None = None
    conditions: Sequence[Constraint] = ()

    def whole(self, letters: np.ndarray) -> np.ndarray:
        """Whole sequences [N, L] of a set [N, l]."""
        return self.template.place(letters) if self.template else letters

    def scores(self, letters: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of a set [N, l] by judge."""
        whole = self.whole(letters)
        return {name: oracle(whole) for name, oracle in self.oracles.items()}

    @cached_property
    def fitting(self) -> list[Motif]:
        """The motifs that are no longer than sequences."""
        return [m for m in self.motifs if m.width <= self.natural.shape[1]]

    @cached_property
    def natural_hits(self) -> np.ndarray:
        """Motif hits in the natural sequences [N, M]."""
        return hits(self.fitting, self.natural)

    def motif_hits(self, letters: np.ndarray) -> np.ndarray:
        """Motif hits in a set: [N, l] -> [N, M]; the natural one is known already."""
        if not self.fitting:
            return np.zeros((len(letters), 0), np.int64)
        if letters is self.natural:
            return self.natural_hits
        return hits(self.fitting, letters)

    def rates(self, counts: np.ndarray) -> np.ndarray:
        """Hits per 100 bases: [N, M] -> [M]."""
        return hit_rate(counts, self.natural.shape[1])

    def usage(self, rates: Mapping[str, np.ndarray]) -> MotifUsage:
        """Rates [M] of sets by name, with the names of the motifs."""
        return MotifUsage(tuple(motif.name for motif in self.fitting), rates)

    def likeness(self, letters: np.ndarray, counts: np.ndarray) -> dict[str, float]:
        """What needs motif hits [N, M], a classifier or conditions, where there are."""
        found = {}
        if self.fitting:
            found["motif_correlation"] = motif_correlation(counts, self.natural_hits)
        if self.accessibility:
            chance = self.accessibility(self.whole(letters))
            found["accessible"] = float((chance > 0.5).mean())
        if self.conditions:
            kept = satisfied(self.conditions, self.whole(letters))
            found["satisfy"] = float(kept.mean())
        return found

    def judge(self, name: str, letters: np.ndarray, calls: Calls) -> Judged:
        """Everything about a set [N, l]; motifs are looked for once."""
        counts = self.motif_hits(letters)
        return Judged(self.row(name, letters, calls, counts), self.rates(counts))

    def row(
        self, name: str, letters: np.ndarray, calls: Calls, counts: np.ndarray
    ) -> dict[str, Any]:
        """The numbers of a set [N, l] with so many motif hits [N, M]."""
        found: dict[str, Any] = {"set": name, "sequences": len(letters)}
        for judge, values in self.scores(letters).items():
            low, middle, high = quantiles(values)
            found |= {f"{judge}_10": low, judge: middle, f"{judge}_90": high}
        reward = next(iter(self.oracles.values()))
        likely = nll(self.diffusion, self.pretrained, letters[:128], jax.random.key(0))
        return found | {
            "distance": float(np.median(reward.distance(self.whole(letters)))),
            "nll": float(np.median(likely)),
            "kmer_correlation": kmer_correlation(letters, self.natural),
            **self.likeness(letters, counts),
            "hamming": pairwise_hamming(letters),
            "unique": unique_share(letters),
            "gc": float(gc(letters).mean()),
            "oracle_calls": calls.oracle,
            "network_calls": calls.network,
        }


COLUMNS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "distance": ("distance", "{:.2f}".format),
    "nll": ("nats/base", "{:.2f}".format),
    "kmer_correlation": ("3-mers", "{:.2f}".format),
    "motif_correlation": ("motifs", "{:.2f}".format),
    "accessible": ("open", "{:.0%}".format),
    "hamming": ("Hamming", "{:.2f}".format),
    "unique": ("unique", "{:.0%}".format),
    "gc": ("GC", "{:.0%}".format),
    "satisfy": ("satisfy", "{:.0%}".format),
    "oracle_calls": ("oracle calls", "{:,.0f}".format),
    "network_calls": ("network calls", "{:,.0f}".format),
}
"""What a row has besides scores: what the table calls it, and how it is written."""


def header(judges: Judges, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns of the table that people read."""
    asked = [f"{name} [10-90 %]" for name in judges.oracles]
    rest = [title for name, (title, _) in COLUMNS.items() if name in rows[0]]
    return ["set", *asked, *rest]


def lines(judges: Judges, rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows as text."""
    return [
        [
            str(row["set"]),
            *(
                f"{row[n]:.2f} [{row[f'{n}_10']:.2f}, {row[f'{n}_90']:.2f}]"
                for n in judges.oracles
            ),
            *(form(row[name]) for name, (_, form) in COLUMNS.items() if name in row),
        ]
        for row in rows
    ]
