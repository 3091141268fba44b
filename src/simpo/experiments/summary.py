"""Numbers with their intervals, as text and as rows; all intervals are 95 %."""

from collections.abc import Sequence

import numpy as np

from simpo.plotting.bandit import rate_interval
from simpo.plotting.curves import mean_interval

__all__ = ["curve_rows", "final", "interval_text", "rate_text", "table"]

LAST = 0.05
"""Share of the rounds that counts as final."""


def final(curves: np.ndarray) -> np.ndarray:
    """Mean over the last rounds: [..., P] -> [...]."""
    points = max(1, round(LAST * curves.shape[-1]))
    return curves[..., -points:].mean(-1)


def curve_rows(name: str, curves: np.ndarray, rounds: int, **fields: object) -> list:
    """Rows of a table: the mean over trials of [T, P] with its interval."""
    mean, low, high = mean_interval(curves)
    at = (np.arange(len(mean)) + 0.5) * rounds / len(mean)
    return [
        {
            **fields,
            "method": name,
            "round": float(x),
            "mean": float(m),
            "low": float(a),
            "high": float(b),
        }
        for x, m, a, b in zip(at, mean, low, high, strict=True)
    ]


def interval_text(values: np.ndarray) -> str:
    """Mean and interval of [T], as `0.1234 [0.1000, 0.1468]`."""
    mean, low, high = mean_interval(values)
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def rate_text(hits: np.ndarray) -> str:
    """Count and interval of [T], as `61/64 [87, 98] %`."""
    count, trials = int(hits.sum()), len(hits)
    low, high = rate_interval(count, trials)
    return f"{count}/{trials} [{100 * low:.0f}, {100 * high:.0f}] %"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with blanks."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
