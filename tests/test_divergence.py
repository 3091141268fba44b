import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simpo.divergence import DIVERGENCES, KL, Alpha, ChiSquare, kl_to_uniform
from simpo.types import SimpoError

ALPHAS = (-2.0, -0.5, 0.0, 1e-9, 0.3, 0.5, 0.7, 1 - 1e-9, 1.0, 1 + 1e-9, 1.5, 2.0, 3.0)
ALL = [KL(), ChiSquare(), *(Alpha(a) for a in ALPHAS)]
X = np.geomspace(1e-3, 30, 60)
each = pytest.mark.parametrize("divergence", ALL, ids=str)


def test_the_list_covers_the_union():
    assert {type(d) for d in ALL} == set(DIVERGENCES)


@each
def test_f_and_slope_vanish_at_one(divergence):
    one = np.ones(1)
    assert divergence.f(one)[0] == pytest.approx(0, abs=1e-12)
    assert divergence.slope(one)[0] == pytest.approx(0, abs=1e-12)
    assert (divergence.f(X[np.abs(X - 1) > 1e-2]) > 0).all()


@each
def test_slope_is_the_derivative(divergence):
    h = 1e-5 * X
    numeric = (divergence.f(X + h) - divergence.f(X - h)) / (2 * h)
    np.testing.assert_allclose(divergence.slope(X), numeric, rtol=1e-4, atol=1e-5)


@each
def test_convex(divergence):
    assert (np.diff(divergence.slope(X)) > 0).all()
    mixed = divergence.f(0.3 * X[:-1] + 0.7 * X[1:])
    assert (mixed < 0.3 * divergence.f(X[:-1]) + 0.7 * divergence.f(X[1:])).all()


@each
def test_link_inverts_the_slope(divergence):
    np.testing.assert_allclose(divergence.link(divergence.slope(X)), X, rtol=1e-8)


@each
def test_fenchel_young(divergence):
    y = divergence.slope(X)
    tight = X * y - divergence.f(X)
    np.testing.assert_allclose(divergence.conjugate(y), tight, rtol=1e-6, atol=1e-7)
    gap = divergence.f(X)[:, None] + divergence.conjugate(y)[None] - X[:, None] * y
    assert gap.min() > -1e-7 * np.abs(X[:, None] * y).max()


def test_conjugate_is_the_supremum_over_nonnegative_ratios():
    x = np.concatenate([[0.0], np.geomspace(1e-6, 1e3, 20001)])
    for divergence in (KL(), ChiSquare(), Alpha(1.5), Alpha(3.0)):
        for y in (-5.0, -1.2, -0.4, 0.7):  # the first two lie below the range of f'
            best = np.max(x * y - divergence.f(x))
            assert divergence.conjugate(np.array(y)) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5])
def test_below_one_the_link_has_a_pole(alpha):
    pole = 1 / (1 - alpha)
    link = Alpha(alpha).link(np.array([pole - 1e-9, pole, pole + 1, -np.inf]))
    assert link[0] > 1e2
    assert link[1:].tolist() == [math.inf, math.inf, 0]
    assert Alpha(alpha).conjugate(np.array(pole + 1)) == math.inf


@pytest.mark.parametrize(("alpha", "limit"), [(1.0, KL()), (2.0, ChiSquare())])
def test_alpha_contains_the_others(alpha, limit):
    for near in (alpha, alpha + 1e-10, alpha - 1e-10):
        divergence = Alpha(near)
        np.testing.assert_allclose(divergence.f(X), limit.f(X), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(divergence.slope(X), limit.slope(X), rtol=1e-7)


def test_alpha_zero_is_reverse_kl():
    expected = -np.log(X) + X - 1
    for near in (0.0, 1e-10, -1e-10):
        np.testing.assert_allclose(Alpha(near).f(X), expected, rtol=1e-7, atol=1e-9)


def test_values_of_the_table():
    x = np.array([0.25, 4.0])
    for a in (-1.0, 0.5, 1.5, 3.0):
        expected = (x**a - a * x + a - 1) / (a * (a - 1))
        np.testing.assert_allclose(Alpha(a).f(x), expected, rtol=1e-12)
        np.testing.assert_allclose(Alpha(a).slope(x), (x ** (a - 1) - 1) / (a - 1))


def test_at_and_below_zero():
    x = np.array([0.0, -0.5])
    assert KL().f(x).tolist() == [1, math.inf]
    assert ChiSquare().f(x).tolist() == [0.5, 1.125]
    assert Alpha(-1.0).f(x).tolist() == [math.inf, math.inf]
    assert Alpha(0.0).f(x).tolist() == [math.inf, math.inf]
    for a in (0.25, 0.75):
        np.testing.assert_allclose(Alpha(a).f(x), [1 / a, math.inf])
    signed = (0.5**1.5 + 0.75 + 0.5) / 0.75  # |x|^a - a x + a - 1 at x = -1/2
    np.testing.assert_allclose(Alpha(1.5).f(x), [1 / 1.5, signed])
    np.testing.assert_allclose(Alpha(2.0).f(x), ChiSquare().f(x))
    np.testing.assert_allclose(Alpha(2.0).slope(x), x - 1)
    assert KL().slope(x[:1])[0] == -math.inf


@each
def test_nan_stays_nan(divergence):
    nan = np.array([np.nan])
    for function in (divergence.f, divergence.slope, divergence.link):
        assert np.isnan(function(nan)).all()


@each
def test_jax_equals_numpy_and_has_finite_gradients(divergence):
    for name, x in (("f", X), ("link", np.linspace(-3, 0.3, 20))):
        function = getattr(divergence, name)
        result = jax.jit(function)(jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(result, function(x), rtol=3e-5, atol=3e-6)
        gradient = jax.vmap(jax.grad(function))(jnp.asarray(x, jnp.float32))
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("alpha", [math.nan, math.inf])
def test_alpha_must_be_finite(alpha):
    with pytest.raises(SimpoError, match="finite"):
        Alpha(alpha)


def test_kl_to_uniform():
    one_hot = np.array([0.0, 4.0, 0.0, 0.0])
    assert kl_to_uniform(one_hot) == pytest.approx(math.log(4))
    assert kl_to_uniform(np.ones((2, 5))).tolist() == [0, 0]
    assert kl_to_uniform(-np.ones(3)) == 0
    signed, positive = np.array([3.0, 1.0, -2.0]), np.array([3.0, 1.0, 0.0])
    p = np.array([0.75, 0.25])
    expected = math.log(3) + np.sum(p * np.log(p))
    assert kl_to_uniform(signed) == pytest.approx(expected)
    assert kl_to_uniform(positive) == pytest.approx(expected)
    assert np.isnan(kl_to_uniform(np.array([1.0, np.nan])))
