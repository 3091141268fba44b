"""How well an oracle predicts measured values that it was not trained on.

Pearson, Spearman, RMSE, and the line label = intercept + slope prediction: a slope
below one means that high predictions promise too much. Bins hold equal numbers of
sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from simpo.dna.oracle import Oracle
from simpo.types import SimpoError

__all__ = ["Bin", "Calibration", "calibrate"]


@dataclass(frozen=True)
class Bin:
    """Sequences of similar predictions.

    Attributes:
        rows: How many.
        predicted: Mean prediction.
        measured: Mean label.
        error: Standard error of the mean label; NaN of a single row.
    """

    rows: int
    predicted: float
    measured: float
    error: float


@dataclass(frozen=True)
class Calibration:
    """Agreement of an oracle with labels.

    Attributes:
        name: The oracle's.
        rows: Number of sequences.
        pearson: Correlation.
        spearman: Correlation of ranks.
        rmse: Root of the mean squared error.
        slope: Of labels on predictions.
        intercept: Of labels on predictions.
        distance: Median distance from the oracle's training sequences; NaN if unknown.
        bins: From low to high predictions.
    """

    name: str
    rows: int
    pearson: float
    spearman: float
    rmse: float
    slope: float
    intercept: float
    distance: float
    bins: tuple[Bin, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.rows} rows, Pearson {self.pearson:.3f}, Spearman "
            f"{self.spearman:.3f}, RMSE {self.rmse:.3f}, slope {self.slope:.2f}, "
            f"distance {self.distance:.2f}",
            f"{'rows':>6}{'predicted':>11}{'measured':>10}{'s.e.':>7}",
        ]
        lines += [
            f"{b.rows:>6}{b.predicted:>11.3f}{b.measured:>10.3f}{b.error:>7.3f}"
            for b in self.bins
        ]
        return "\n".join(lines)


def calibrate(
    oracle: Oracle, tokens: np.ndarray, labels: np.ndarray, bins: int = 10
) -> Calibration:
    """Compare an oracle with labels [N] of sequences [N, L].

    Raises:
        SimpoError: Fewer than three rows or than bins, labels that are not N finite
            numbers, or predictions or labels that are all equal.
    """
    labels = np.asarray(labels, np.float64)
    if labels.shape != (len(tokens),) or not np.isfinite(labels).all():
        raise SimpoError(
            f"calibration of {oracle.name} needs a finite label for each of "
            f"{len(tokens)} sequences"
        )
    if len(labels) < 3 or not 1 <= bins <= len(labels):
        raise SimpoError(
            f"calibration of {oracle.name} needs 3 rows and no more bins than rows, "
            f"not {len(labels)} rows and {bins} bins"
        )
    found = oracle(tokens).astype(np.float64)
    if not np.ptp(found) or not np.ptp(labels):
        raise SimpoError(f"predictions or labels of {oracle.name} are all equal")
    slope, intercept = np.polyfit(found, labels, 1)
    order = np.argsort(found, kind="stable")
    return Calibration(
        name=oracle.name,
        rows=len(labels),
        pearson=float(np.corrcoef(found, labels)[0, 1]),
        spearman=float(np.corrcoef(*map(stats.rankdata, (found, labels)))[0, 1]),
        rmse=float(np.sqrt(np.mean((found - labels) ** 2))),
        slope=float(slope),
        intercept=float(intercept),
        distance=float(np.median(oracle.distance(tokens))),
        bins=tabulate(found, labels, np.array_split(order, bins)),
    )


def tabulate(
    found: np.ndarray, labels: np.ndarray, parts: Sequence[np.ndarray]
) -> tuple[Bin, ...]:
    """Means of predictions and labels in each part."""
    return tuple(
        Bin(
            rows=len(part),
            predicted=float(found[part].mean()),
            measured=float(labels[part].mean()),
            error=float(stats.sem(labels[part])) if len(part) > 1 else float("nan"),
        )
        for part in parts
    )
