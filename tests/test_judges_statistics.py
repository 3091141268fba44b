"""rliable as a judge: the same numbers from the same scores.

Point estimates agree to 1e-12. Ends of intervals agree within Monte-Carlo error: both
are quantiles of resamples, theirs of few; `standard_error` measures by how much such
ends scatter.
"""

import numpy as np
import pytest

from simpo.statistics import (
    AGGREGATES,
    bootstrap,
    bootstrap_band,
    performance_profile,
    probability_of_improvement,
    sample_efficiency,
)

library = pytest.importorskip("rliable.library")
metrics = pytest.importorskip("rliable.metrics")

DRAWS, OURS = 400, 20_000
FEWER = 150
"""Resamples of rliable's probability of improvement, which takes it long."""
ERRORS = 4.0
"""Standard errors by which an end may differ: once in 16,000."""

THEIRS = {
    "IQM": metrics.aggregate_iqm,
    "median": metrics.aggregate_median,
    "mean": metrics.aggregate_mean,
    "optimality gap": metrics.aggregate_optimality_gap,
}


def scores_of(tasks, seeds, ties=False):
    """A matrix [M, S] of unequal tasks."""
    rng = np.random.default_rng(100 * tasks + seeds)
    x = rng.normal(rng.uniform(-0.5, 1.5, (tasks, 1)), 0.4, (tasks, seeds))
    return np.round(2 * x) / 2 if ties else x


CASES = {
    "one task": scores_of(1, 5),
    "few seeds": scores_of(3, 3),
    "benchmark": scores_of(10, 5),
    "many tasks": scores_of(26, 4),
    "ties": scores_of(4, 10, ties=True),
}


def standard_error(statistic, *scores, draws=DRAWS):
    """Standard errors of the ends of an interval from so many resamples.

    The spread of the ends over repetitions, each with another seed.
    """
    ends = [
        bootstrap(statistic, *scores, rng=np.random.default_rng(i), draws=draws)[1:]
        for i in range(20)
    ]
    return np.std(ends, axis=0, ddof=1)


def their_interval(func, *scores, reps=DRAWS):
    """rliable's point and interval; it draws from NumPy's global generator."""
    np.random.seed(0)  # noqa: NPY002
    transposed = [np.ascontiguousarray(x.T) for x in scores]
    data = transposed[0] if len(scores) == 1 else transposed
    points, intervals = library.get_interval_estimates(
        {"x": data}, lambda *x: np.array([func(*x)]), reps=reps
    )
    return points["x"][0], intervals["x"][:, 0]


def check_interval(ours, theirs, errors):
    """Within ERRORS standard errors, and a grain where resamples are tied."""
    for mine, judged, error in zip(ours[1:], theirs, errors, strict=True):
        assert abs(mine - judged) <= ERRORS * error + 1e-12


@pytest.mark.parametrize("name", AGGREGATES)
@pytest.mark.parametrize("case", CASES)
def test_aggregates_are_rliables(case, name):
    scores, statistic = CASES[case], AGGREGATES[name]
    point, interval = their_interval(THEIRS[name], scores)
    found = bootstrap(statistic, scores, rng=np.random.default_rng(99), draws=OURS)
    np.testing.assert_allclose(found.value, point, rtol=0, atol=1e-12)
    check_interval(found, interval, standard_error(statistic, scores))
    assert found.low < found.high


@pytest.mark.parametrize("gamma", [0.25, 2.0])
def test_the_optimality_gap_takes_any_threshold(gamma):
    for scores in CASES.values():
        np.testing.assert_allclose(
            AGGREGATES["optimality gap"](scores, gamma=gamma),
            metrics.aggregate_optimality_gap(scores.T, gamma),
            rtol=0,
            atol=1e-12,
        )


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (scores_of(1, 5), scores_of(1, 6)),
        (scores_of(6, 5), scores_of(6, 8)),
        (scores_of(4, 10, ties=True), scores_of(4, 7, ties=True)),
        (scores_of(4, 10), scores_of(4, 10)),
    ],
)
def test_the_probability_of_improvement_is_rliables(x, y):
    point, interval = their_interval(
        metrics.probability_of_improvement, x, y, reps=FEWER
    )
    statistic = probability_of_improvement
    found = bootstrap(statistic, x, y, rng=np.random.default_rng(99), draws=OURS)
    np.testing.assert_allclose(found.value, point, rtol=0, atol=1e-12)
    check_interval(found, interval, standard_error(statistic, x, y, draws=FEWER))


@pytest.mark.parametrize("case", CASES)
def test_profiles_are_rliables(case):
    """Ends are shares of n runs: a quantile may fall on the next of n + 1 steps."""
    scores, taus = CASES[case], np.linspace(-1, 2, 13)
    np.random.seed(0)  # noqa: NPY002
    points, bands = library.create_performance_profile(
        {"x": scores.T}, taus, reps=DRAWS
    )
    found = bootstrap_band(
        lambda x: performance_profile(x, taus),
        scores,
        rng=np.random.default_rng(0),
        draws=OURS,
    )
    np.testing.assert_allclose(found.value, points["x"], rtol=0, atol=1e-12)
    ends = np.stack([found.low, found.high])
    assert np.abs(ends - bands["x"]).max() <= 1 / scores.size + 1e-12


def test_sample_efficiency_is_rliables():
    """As their documentation has it: the IQM of every evaluation."""
    curves = scores_of(6, 5)[..., None] + np.linspace(0, 2, 4)
    curves += 0.2 * np.random.default_rng(1).normal(size=curves.shape)
    np.random.seed(0)  # noqa: NPY002
    points, bands = library.get_interval_estimates(
        {"x": np.moveaxis(curves, 1, 0)},
        lambda x: np.array([metrics.aggregate_iqm(x[..., i]) for i in range(4)]),
        reps=DRAWS,
    )
    found = sample_efficiency(curves, rng=np.random.default_rng(0), draws=OURS)
    np.testing.assert_allclose(found.value, points["x"], rtol=0, atol=1e-12)
    for i in range(4):
        check_interval(
            (None, found.low[i], found.high[i]),
            bands["x"][:, i],
            standard_error(AGGREGATES["IQM"], curves[..., i]),
        )
