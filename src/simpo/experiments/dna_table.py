"""The paper's Table 3 on other data, and what makes the difference there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from simpo.experiments.dna_methods import (
    ABLATION,
    CLAIMS,
    METHODS,
    PUBLISHED,
    Method,
    compared_with,
)
from simpo.experiments.dna_results import Line, above
from simpo.experiments.dna_study import DnaStudy
from simpo.experiments.report import Verdict

__all__ = ["DnaAblation", "DnaTable"]


@dataclass(frozen=True)
class DnaTable(DnaStudy):
    """Table 3: signed weights against eight baselines."""

    name: ClassVar[str] = "dna"
    methods_of: ClassVar[Mapping[str, Method]] = METHODS

    def verdicts(self, lines: Mapping[str, Line]) -> Iterator[Verdict]:
        """Every order that Table 3 shows."""
        for better, worse in CLAIMS:
            if {better, worse} <= set(self.chosen):
                yield above(better, worse, lines)

    def published(self, method: str) -> float | None:
        """Table 3's."""
        return PUBLISHED.get(method)


@dataclass(frozen=True)
class DnaAblation(DnaStudy):
    """Floor, baseline, KL target and inner updates of SiMPO on sequences."""

    name: ClassVar[str] = "dna-ablation"
    methods_of: ClassVar[Mapping[str, Method]] = ABLATION

    def rates(self, method: Method) -> tuple[float, ...]:
        """The one that is given, or the scale's for ablations."""
        return (self.rate or self.setup.rate,)

    def verdicts(self, lines: Mapping[str, Line]) -> Iterator[Verdict]:
        """Every variant against what it is compared with."""
        for name in self.chosen:
            for other in compared_with(name):
                if other in self.chosen:
                    yield above(name, other, lines)

    def published(self, method: str) -> None:
        """None: the paper has no such table."""
