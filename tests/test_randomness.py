import jax
import numpy as np
from scipy import stats

from simpo.randomness import normal, uniform

KEY = jax.random.key(3)
SIGNIFICANCE = 1e-3


def test_numbers_have_their_distributions():
    z = np.asarray(normal(KEY, (20_000,)))
    u = np.asarray(uniform(KEY, (20_000,), low=-1.0, high=3.0))
    assert stats.kstest(z, "norm").pvalue > SIGNIFICANCE
    assert stats.kstest(u, stats.uniform(-1, 4).cdf).pvalue > SIGNIFICANCE
    assert u.min() >= -1 and u.max() < 3


def test_compiled_and_eager_draws_are_the_same_bytes():
    eager = normal(KEY, (3, 5))
    compiled = jax.jit(lambda key: normal(key, (3, 5)))(KEY)
    np.testing.assert_array_equal(eager, compiled)
