"""The paper's Table 3 on other data, and what makes the difference there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from simpo.experiments.dna_methods import (
    ABLATION,
    CLAIMS,
    METHODS,
    PUBLISHED,
    REFERENCE,
    Method,
)
from simpo.experiments.dna_results import Line, above
from simpo.experiments.dna_study import DnaStudy
from simpo.experiments.report import Verdict
from simpo.types import SimpoError

__all__ = ["DnaAblation", "DnaTable"]


@dataclass(frozen=True)
class DnaTable(DnaStudy):
    """Table 3: signed weights against eight baselines."""

    name: ClassVar[str] = "dna"
    methods_of: ClassVar[Mapping[str, Method]] = METHODS

    def rates(self, method: Method) -> tuple[float, ...]:
        """The scale's, for what is fine-tuned."""
        return self.setup.rates if method.tuned else self.setup.rates[:1]

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
    rate: float = 1e-3
    """Learning rate of all; none is tuned."""

    def check(self) -> None:
        """Require files, methods, seeds, and a rate that is possible."""
        super().check()
        if not self.rate > 0:
            raise SimpoError(f"rate must be positive, not {self.rate:g}")

    def rates(self, method: Method) -> tuple[float, ...]:
        """The one that is given."""
        return (self.rate,)

    def verdicts(self, lines: Mapping[str, Line]) -> Iterator[Verdict]:
        """Every variant against the exponential weights."""
        for name in self.chosen:
            if name != REFERENCE and REFERENCE in self.chosen:
                yield above(name, REFERENCE, lines)

    def published(self, method: str) -> None:
        """None: the paper has no such table."""
