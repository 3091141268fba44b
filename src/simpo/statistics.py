"""Statistics of scores over tasks and seeds that stay honest with few seeds.

IQM                          mean of the middle half of all scores of all tasks
Interval                     stratified bootstrap: seeds are redrawn within each task
Probability of improvement   mean over tasks of P(X > Y) + P(X = Y) / 2

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical
precipice". Scores are [M, S]: M tasks, S seeds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from simpo.types import SimpoError

__all__ = ["Estimate", "bootstrap", "iqm", "probability_of_improvement"]

Statistic = Callable[..., np.ndarray]


class Estimate(NamedTuple):
    """A statistic with the interval that it lies in; NaN ends for a single seed."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean of all scores [..., M, S] -> [...].

    Of n scores the lowest and the highest floor(n / 4) are left out.
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return flat[..., cut : flat.shape[-1] - cut].mean(axis=-1)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How likely a run of X beats one of Y: x [..., M, S], y [..., M, R] -> [...]."""
    gap = x[..., :, None] - y[..., None, :]
    wins = (gap > 0) + 0.5 * (gap == 0)
    return wins.mean(axis=(-1, -2)).mean(axis=-1)


def bootstrap(
    statistic: Statistic,
    *scores: np.ndarray,
    rng: np.random.Generator,
    draws: int = 5_000,
    level: float = 0.95,
) -> Estimate:
    """A statistic of scores, with a percentile interval.

    Args:
        statistic: Function of one array [..., M, S] per element of `scores`.
        *scores: Arrays [M, S].
        rng: Source of the draws.
        draws: Number of resamples.
        level: Coverage of the interval.

    Raises:
        SimpoError: Scores that are not [M, S], or no draws.
    """
    if draws < 1 or any(x.ndim != 2 or not x.size for x in scores):
        shapes = ", ".join(str(x.shape) for x in scores)
        raise SimpoError(f"scores must be [tasks, seeds] and drawn at least once, not "
                         f"{shapes} and {draws} times")  # fmt: skip
    value = float(statistic(*scores))
    if min(x.shape[1] for x in scores) < 2:
        return Estimate(value, np.nan, np.nan)
    resampled = [resample(x, rng, draws) for x in scores]
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(statistic(*resampled), [tail, 100 - tail])
    return Estimate(value, float(low), float(high))


def resample(scores: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Seeds redrawn with replacement within each task: [M, S] -> [draws, M, S]."""
    tasks, seeds = scores.shape
    index = rng.integers(seeds, size=(draws, tasks, seeds))
    return scores[np.arange(tasks)[:, None], index]
