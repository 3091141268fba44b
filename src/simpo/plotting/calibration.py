"""A picture of how well an oracle predicts measured values."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from simpo.dna.calibration import Calibration
from simpo.plotting.style import BLACK, BLUE, DASHED, GREY, VERMILLION, draw

__all__ = ["draw_calibration"]


def draw_calibration(
    predicted: np.ndarray, measured: np.ndarray, found: Calibration, out: Path
) -> list[Path]:
    """Sequences, bins with standard errors, the fitted line, and the diagonal.

    Args:
        predicted: Values of the oracle [N].
        measured: Labels [N].
        found: What was found of them.
        out: File name without suffix.

    Returns:
        The files written.
    """

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        size, alpha = 6, max(0.15, min(0.6, 60 / len(predicted)))
        axes.scatter(predicted, measured, size, GREY, alpha=alpha, linewidths=0)
        ends = np.array([predicted.min(), predicted.max()])
        axes.plot(ends, ends, color=BLACK, linestyle=DASHED, linewidth=1, label="equal")
        fit = found.intercept + found.slope * ends
        axes.plot(ends, fit, color=VERMILLION, label=f"slope {found.slope:.2f}")
        bins = [(b.predicted, b.measured, b.error) for b in found.bins]
        x, y, error = np.array(bins).T
        axes.errorbar(
            *(x, y, error), fmt="o", color=BLUE, capsize=3, label="bins, s.e."
        )
        axes.set_xlabel("Predicted")
        axes.set_ylabel("Measured")
        axes.set_title(f"{found.name}: {found.rows:,} rows, r = {found.pearson:.2f}")
        axes.legend()

    return draw(out, (5.6, 4.4), fill)
