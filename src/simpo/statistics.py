"""Statistics of scores over tasks and seeds that stay honest with few seeds.

IQM                          mean of the middle half of all scores of all tasks
Mean                         mean over tasks of the mean over seeds
Median                       median over tasks of the mean over seeds
Optimality gap               gamma - mean of min(score, gamma)
Probability of improvement   mean over tasks of P(X > Y) + P(X = Y) / 2
Performance profile          share of runs with a score above tau, for every tau
Interval, band               stratified bootstrap: seeds are redrawn within each task

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical
precipice". Scores are [M, S]: M tasks, S seeds, the same number for every task; a
pooled statistic would otherwise count tasks with more seeds more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from simpo.types import SimpoError

__all__ = [
    "AGGREGATES",
    "Band",
    "Estimate",
    "Scale",
    "bootstrap",
    "bootstrap_band",
    "iqm",
    "mean",
    "median",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
    "sample_efficiency",
    "score_matrix",
]

Statistic = Callable[..., np.ndarray]

BLOCK = 1 << 18
"""Scores that are redrawn at once; memory grows with it, results do not change."""


class Estimate(NamedTuple):
    """A statistic with the interval that it lies in; NaN ends for a single seed."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Band(NamedTuple):
    """A statistic at several points with pointwise intervals; NaN for a single seed."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean of all scores [..., M, S] -> [...].

    Of n scores the lowest and the highest floor(n / 4) are left out.
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return flat[..., cut : flat.shape[-1] - cut].mean(axis=-1)


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean over tasks of the mean over seeds [..., M, S] -> [...]."""
    return scores.mean(axis=-1).mean(axis=-1)


def median(scores: np.ndarray) -> np.ndarray:
    """Median over tasks of the mean over seeds [..., M, S] -> [...]."""
    return np.median(scores.mean(axis=-1), axis=-1)


def optimality_gap(scores: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """How far scores stay below gamma on average [..., M, S] -> [...]; less is better.

    A score above gamma counts as gamma.
    """
    return gamma - np.minimum(scores, gamma).mean(axis=(-1, -2))


AGGREGATES: Mapping[str, Statistic] = {
    "IQM": iqm,
    "median": median,
    "mean": mean,
    "optimality gap": optimality_gap,
}
"""One number for all tasks and seeds, by name."""


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How likely a run of X beats one of Y: x [..., M, S], y [..., M, R] -> [...]."""
    rivals = np.moveaxis(y, -1, 0)[..., None]
    wins = sum((x > r).mean(-1) + 0.5 * (x == r).mean(-1) for r in rivals)
    return np.asarray(wins / y.shape[-1]).mean(axis=-1)


def performance_profile(scores: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """Share of all runs with a score above each tau: [..., M, S], [T] -> [..., T]."""
    return np.stack([(scores > tau).mean(axis=(-1, -2)) for tau in taus], axis=-1)


def sample_efficiency(
    curves: np.ndarray, *, rng: np.random.Generator, draws: int = 2_000
) -> Band:
    """IQM over the runs at every step: curves [M, S, P] -> bands [P].

    Whole runs are redrawn, so a band is of runs, not of steps.
    """
    return bootstrap_band(iqm, np.moveaxis(curves, -1, 0), rng=rng, draws=draws)


class Scale(NamedTuple):
    """Per task, the returns that count as 0 and as 1: both [M]."""

    zero: np.ndarray
    one: np.ndarray

    @classmethod
    def between(cls, zero: np.ndarray, returns: Mapping[str, np.ndarray]) -> "Scale":
        """From zero [M] to the mean over seeds of the best of several [M, S]."""
        return cls(zero, np.max([x.mean(axis=1) for x in returns.values()], axis=0))

    @property
    def flat(self) -> np.ndarray:
        """Tasks [M] on which the best is no better than what counts as 0."""
        return self.one <= self.zero

    def normalise(self, returns: np.ndarray) -> np.ndarray:
        """Returns [M, ...] as scores; differences in returns where a task is flat."""
        width = np.where(self.flat, 1.0, self.one - self.zero)
        shape = (-1, *[1] * (returns.ndim - 1))
        return (returns - self.zero.reshape(shape)) / width.reshape(shape)


def score_matrix(scores: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Scores of the seeds by task, as [M, S].

    Raises:
        SimpoError: Tasks with different numbers of seeds, or with none.
    """
    counts = {task: len(values) for task, values in scores.items()}
    if not counts or len(set(counts.values())) > 1 or 0 in counts.values():
        found = ", ".join(f"{task} {n}" for task, n in counts.items()) or "none"
        raise SimpoError(
            f"every task must have the same number of seeds, at least 1, not: {found}"
        )
    return np.array(list(scores.values()), dtype=float)


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
        *scores: Arrays [M, S]; of several, each is redrawn by itself.
        rng: Source of the draws.
        draws: Number of resamples.
        level: Coverage of the interval.

    Raises:
        SimpoError: Scores that are not [M, S] or not finite, or no draws.
    """
    if any(np.ndim(x) != 2 for x in scores):
        shapes = ", ".join(str(np.shape(x)) for x in scores)
        raise SimpoError(f"scores must be [tasks, seeds], not {shapes}")
    band = bootstrap_band(statistic, *scores, rng=rng, draws=draws, level=level)
    return Estimate(*(float(end) for end in band))


def bootstrap_band(
    statistic: Statistic,
    *scores: np.ndarray,
    rng: np.random.Generator,
    draws: int = 2_000,
    level: float = 0.95,
) -> Band:
    """A statistic with several values [...], each with its percentile interval.

    Args:
        statistic: Function of one array [..., M, S] per element of `scores`.
        *scores: Arrays [..., M, S]; all leading entries are redrawn alike.
        rng: Source of the draws.
        draws: Number of resamples.
        level: Coverage of each interval, not of the band as a whole.

    Raises:
        SimpoError: Scores that are not [..., M, S] or not finite, or no draws.
    """
    check(scores, draws, level)
    value = np.asarray(statistic(*scores))
    if min(x.shape[-1] for x in scores) < 2:
        return Band(value, np.full(value.shape, np.nan), np.full(value.shape, np.nan))
    streams = [rng, *rng.spawn(len(scores) - 1)]
    found = [
        statistic(*(resample(x, r, n) for x, r in zip(scores, streams, strict=True)))
        for n in blocks(draws, max(x.size for x in scores))
    ]
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(np.concatenate(found), [tail, 100 - tail], axis=0)
    return Band(value, np.asarray(low), np.asarray(high))


def check(scores: Sequence[np.ndarray], draws: int, level: float) -> None:
    """Refuse what has no bootstrap."""
    if draws < 1 or not 0 < level < 1:
        raise SimpoError(
            "a bootstrap needs at least one draw and a level between 0 and 1, not "
            f"{draws} and {level}"
        )
    for x in scores:
        if x.ndim < 2 or not x.size:
            raise SimpoError(f"scores must be [..., tasks, seeds], not {x.shape}")
        if not np.isfinite(x).all():
            raise SimpoError("scores must be finite: leave out the runs that failed")


def blocks(draws: int, size: int) -> Iterator[int]:
    """Numbers of draws that add up to all, of at most BLOCK scores in all each."""
    most = max(1, BLOCK // size)
    while draws > 0:
        yield min(most, draws)
        draws -= most


def resample(scores: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Seeds redrawn within each task: [..., M, S] -> [draws, ..., M, S]."""
    tasks, seeds = scores.shape[-2:]
    index = rng.integers(seeds, size=(draws, tasks, seeds))
    return np.moveaxis(scores[..., np.arange(tasks)[:, None], index], -3, 0)
