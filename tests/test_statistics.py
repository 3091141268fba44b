"""Statistics against closed forms, SciPy and known coverage."""

import numpy as np
import pytest
from scipy import stats

from simpo.statistics import bootstrap, iqm, probability_of_improvement
from simpo.types import SimpoError


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 5), (6, 5), (3, 8)])
def test_the_iqm_is_scipys_trimmed_mean(shape):
    scores = np.random.default_rng(1).normal(size=(4, *shape))
    expected = [stats.trim_mean(x, 0.25, axis=None) for x in scores]
    np.testing.assert_allclose(iqm(scores), expected, rtol=1e-12)


def test_the_iqm_ignores_the_outer_quarters():
    assert iqm(np.array([[-1e9, 1.0, 2.0, 1e9]])) == 1.5


def test_the_probability_of_improvement_is_the_u_statistic():
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 5, (3, 6)), rng.integers(0, 6, (3, 4))
    expected = np.mean(
        [stats.mannwhitneyu(a, b).statistic / 24 for a, b in zip(x, y, strict=True)]
    )
    assert probability_of_improvement(x, y) == pytest.approx(expected)
    assert probability_of_improvement(x, x) == 0.5
    assert probability_of_improvement(x + 9, y) == 1


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    scores = np.random.default_rng(3).normal(size=(2, 400))

    def mean(x):
        return x.mean(axis=(-1, -2))

    found = bootstrap(mean, scores, rng=np.random.default_rng(0), draws=4000)
    error = np.sqrt((scores.var(axis=1) / 400).sum()) / 2
    assert found.value == pytest.approx(scores.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_seeds_are_drawn_within_their_task():
    """Tasks of different level do not widen the interval."""
    scores = np.array([[0.0] * 5, [100.0] * 5])
    found = bootstrap(iqm, scores, rng=np.random.default_rng(0), draws=200)
    assert found.low == found.value == found.high


def test_two_samples_are_redrawn_apart():
    rng = np.random.default_rng(4)
    x, y = rng.normal(0.5, 1, (2, 10)), rng.normal(0, 1, (2, 10))
    found = bootstrap(probability_of_improvement, x, y, rng=rng, draws=500)
    assert found.low < found.value < found.high
    assert found.low >= 0 and found.high <= 1


def test_one_seed_has_no_interval():
    found = bootstrap(iqm, np.ones((3, 1)), rng=np.random.default_rng(0))
    assert found.value == 1 and np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("scores", [np.ones(3), np.ones((0, 2)), np.ones((2, 2, 2))])
def test_other_shapes_are_refused(scores):
    with pytest.raises(SimpoError, match="tasks, seeds"):
        bootstrap(iqm, scores, rng=np.random.default_rng(0))
