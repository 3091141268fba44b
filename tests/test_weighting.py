import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpo.types import SimpoError
from simpo.weighting import (
    WEIGHTINGS,
    Advantage,
    Centred,
    Custom,
    Exponential,
    InverseGap,
    Linear,
    Power,
    SignedSoftmax,
    Square,
    Weights,
    weight_metrics,
)


def cubic(y):
    return y + y * y * y


def plain_exp(y):
    return np.exp(y) if isinstance(y, np.ndarray) else jnp.exp(y)


NORMALISED = [
    Exponential(),
    Linear(),
    Linear(-0.2),
    Linear(-2.0),
    Square(),
    Square(-1.0),
    Power(),
    Power(0.5),
    Power(2.5, -0.5),
    InverseGap(),
    InverseGap(0.9),
    InverseGap(-2.0),
    Custom(cubic),
    Custom(cubic, -0.5),
    Custom(plain_exp),
]
ALL = [
    *NORMALISED,
    Advantage(),
    SignedSoftmax(),
    SignedSoftmax(2.0),
    Centred(),
    Centred(Linear(-0.2)),
]
COMPILED = [  # one per way of solving, for the tests that compile
    Exponential(),
    Linear(-0.2),
    Square(),
    Square(-1.0),
    Power(2.5, -0.5),
    InverseGap(),
    Custom(cubic, -0.5),
    Advantage(),
    SignedSoftmax(2.0),
    Centred(),
]
normalised = pytest.mark.parametrize("weighting", NORMALISED, ids=str)
every = pytest.mark.parametrize("weighting", ALL, ids=str)
compiled = pytest.mark.parametrize("weighting", COMPILED, ids=str)


def floor_of(weighting):
    if isinstance(weighting, Exponential | InverseGap):
        return 0.0
    return weighting.floor


def error(actual, expected):
    expected = np.asarray(expected)
    gap = np.abs(np.asarray(actual, np.float64) - expected)
    return np.max(gap) / (1 + np.max(np.abs(expected)))


rng = np.random.default_rng(0)


# --- properties -------------------------------------------------------------------

eighths = st.integers(-800, 800).map(lambda i: i / 8)  # sums of these are exact
values = st.lists(eighths, min_size=1, max_size=24).map(np.array)
temperatures = st.floats(1e-2, 1e2)
anything = st.sampled_from(ALL)
fast = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def test_the_variants_cover_the_union():
    assert {type(w) for w in ALL} == set(WEIGHTINGS)


@fast
@given(anything, values, temperatures)
def test_mean_order_and_floor(weighting, q, temperature):
    w = weighting(q, temperature).values
    size = np.abs(w).max()
    if weighting.normalised:
        assert w.mean() == pytest.approx(1, abs=1e-9 * (1 + size))
        assert w.min() >= floor_of(weighting) - 1e-12
    assert (np.diff(w[np.argsort(q)]) >= -1e-12 * (1 + size)).all()


@fast
@given(st.sampled_from(NORMALISED), values, temperatures)
def test_weights_improve_the_mean_value(weighting, q, temperature):
    """Theorem 3.5: E_mu[Q] - E_pi[Q] = Cov_pi(g(Q), Q) >= 0."""
    w = weighting(q, temperature).values
    scale = np.abs(w).max() * (1 + np.abs(q).max())
    assert np.mean(w * q) >= q.mean() - 1e-9 * scale


@fast
@given(anything, values, temperatures, eighths)
def test_shift_and_order_of_candidates(weighting, q, temperature, shift):
    w, nu = weighting(q, temperature)
    shifted, shifted_nu = weighting(q + shift, temperature)
    np.testing.assert_array_equal(shifted, w)
    np.testing.assert_allclose(shifted_nu, nu + shift, rtol=1e-9, atol=1e-9)
    order = np.random.default_rng(len(q)).permutation(len(q))
    assert error(weighting(q[order], temperature).values, w[order]) < 1e-10


@fast
@given(anything, values, temperatures)
def test_scale_of_values_and_temperature_cancels(weighting, q, temperature):
    w = weighting(q, temperature).values
    np.testing.assert_array_equal(weighting(4 * q, 4 * temperature).values, w)


@normalised
def test_high_temperature_is_uniform_and_low_is_greedy(weighting):
    q = np.array([0.3, -1.0, 2.0, 1.9])
    np.testing.assert_allclose(weighting(q, 1e12).values, 1, atol=1e-5)
    if floor_of(weighting) > -math.inf:
        low = floor_of(weighting)
        greedy = [low, low, 4 - 3 * low, low]
        np.testing.assert_allclose(weighting(q, 1e-60).values, greedy, atol=1e-9)


@normalised
def test_one_candidate_and_equal_values(weighting):
    for asarray in (np.float64, jnp.float32):
        for q in ([3.0], [-1e4] * 7):
            w = weighting(asarray(np.array(q)), 0.5).values
            np.testing.assert_allclose(w, 1, atol=1e-6)


def test_advantage_and_signed_softmax():
    q = np.array([1.0, 2.0, 6.0])
    weights = Advantage()(q, 2.0)
    np.testing.assert_allclose(weights.values, [0, 0, 1.5])
    np.testing.assert_allclose(weights.multiplier, [3.0])
    a = 2.0 * (q - 3) / 0.7
    up, down = np.exp(a) / np.exp(a).sum(), np.exp(-a) / np.exp(-a).sum()
    weights = SignedSoftmax(2.0)(q, 0.7)
    np.testing.assert_allclose(weights.values, 3 * (up - down))
    np.testing.assert_allclose(weights.multiplier, [3.0])
    assert not (Advantage().normalised or SignedSoftmax().normalised)
    for weighting in (Advantage(), SignedSoftmax(), Centred()):
        assert not weighting(np.full(5, 2.0), 1.0).values.any()


def test_centred_weights_are_the_inner_ones_without_their_mean():
    q = np.array([1.0, 2.0, 6.0])
    for inner in (Exponential(), Linear(-0.2), Advantage()):
        weights, others = Centred(inner)(q, 2.0), inner(q, 2.0)
        expected = others.values - others.values.mean()
        np.testing.assert_allclose(weights.values, expected, atol=1e-15)
        assert weights.multiplier == others.multiplier


@pytest.mark.parametrize(
    "weighting", [w for w in NORMALISED if w.divergence is not None], ids=str
)
def test_the_divergence_belongs_to_the_link(weighting):
    """Above the floor f'(w) is affine in q: (q - nu') / lambda' (eq. 5)."""
    q = np.sort(rng.normal(size=12))
    w = weighting(q, 4.0).values
    free = w > floor_of(weighting) + 1e-9
    slopes = weighting.divergence.slope(w[free])
    (rise, start), residual, *_ = np.polyfit(q[free], slopes, 1, full=True)
    assert free.sum() >= 3
    assert rise > 0
    assert residual[0] < 1e-18 * (1 + abs(start)) * (1 + rise) * 100


# --- arrays, transformations, gradients -------------------------------------------


@every
def test_batches_equal_loops(weighting):
    q = rng.normal(size=(2, 3, 8))
    temperature = rng.uniform(0.2, 2, size=(2, 3, 1))
    batch = weighting(q, temperature)
    assert batch.values.shape == (2, 3, 8)
    assert batch.multiplier.shape == (2, 3, 1)
    for i in np.ndindex(2, 3):
        one = weighting(q[i], temperature[i])
        np.testing.assert_allclose(batch.values[i], one.values, atol=1e-12)
        np.testing.assert_allclose(batch.multiplier[i], one.multiplier, atol=1e-12)


@compiled
def test_eager_jit_and_vmap_agree(weighting):
    q = rng.normal(size=(4, 8)).astype(np.float32)
    expected = weighting(q.astype(np.float64), 0.7)
    for call in (weighting, jax.jit(jax.vmap(weighting, in_axes=(0, None)))):
        actual = call(jnp.asarray(q), jnp.float32(0.7))
        assert actual.values.dtype == actual.multiplier.dtype == jnp.float32
        assert error(actual.values, expected.values) < 2e-6
        np.testing.assert_allclose(actual.multiplier, expected.multiplier, atol=1e-5)


def test_without_compilation():
    q = rng.normal(size=(4, 8)).astype(np.float32)
    with jax.disable_jit():
        w = Linear(-1.0)(jnp.asarray(q), 0.7).values
    assert error(w, Linear(-1.0)(q, 0.7).values) < 2e-6


@compiled
def test_gradients_equal_finite_differences(weighting):
    q = np.array([0.31, -0.42, 1.13, 0.87, 0.02, -1.3])
    direction, h, temperature = rng.normal(size=6), 1e-6, 0.8

    def scalar(q, temperature):
        weights = weighting(q, temperature)
        return (weights.values * direction).sum() + weights.multiplier.sum()

    q32 = jnp.asarray(q, jnp.float32)
    dq, dt = jax.jit(jax.grad(scalar, argnums=(0, 1)))(q32, temperature)
    numeric = [
        (scalar(q + h * e, temperature) - scalar(q - h * e, temperature)) / (2 * h)
        for e in np.eye(6)
    ]
    np.testing.assert_allclose(dq, numeric, rtol=2e-4, atol=2e-4)
    numeric = (scalar(q, temperature + h) - scalar(q, temperature - h)) / (2 * h)
    np.testing.assert_allclose(dt, numeric, rtol=2e-4, atol=2e-4)
    forward = jax.jit(jax.jacfwd(scalar))(q32, temperature)
    np.testing.assert_allclose(forward, dq, rtol=1e-4, atol=1e-5)


@compiled
def test_gradients_are_finite_at_awkward_values(weighting):
    def scalar(q, temperature):
        weights = weighting(q, temperature)
        return (weights.values * jnp.arange(q.shape[-1])).sum() + weights.multiplier[0]

    gradient = jax.jit(jax.grad(scalar, argnums=(0, 1)))
    ties, pairs, far = [1.0] * 4, [1.0, 1.0, 0.0, 0.0], [1e4, 0.0, -1e4, 0.5]
    for q in ([2.0], ties, pairs, far):
        for temperature in (1e-2, 1.0, 1e4):
            for part in gradient(jnp.array(q), temperature):
                assert np.isfinite(part).all(), (q, temperature, part)


@compiled
def test_float64_of_jax(weighting):
    q = rng.normal(size=(3, 8))
    with jax.enable_x64(True):
        actual = weighting(jnp.asarray(q), 0.6).values
        assert actual.dtype == jnp.float64
        np.testing.assert_allclose(actual, weighting(q, 0.6).values, atol=1e-11)


def test_weightings_are_static_under_jit():
    traces = []

    def count(weighting, q):
        traces.append(weighting)
        return weighting(q, 1.0).values

    call = jax.jit(count, static_argnums=0)
    q = jnp.arange(4.0)
    for weighting in (Linear(), Linear(0.0), replace(Linear(), floor=-1.0)):
        call(weighting, q)
    assert traces == [Linear(), Linear(-1.0)]


# --- bad input --------------------------------------------------------------------


BAD = np.array([[0, 1, math.nan, 2], [math.inf, 1, 0, 2], [0, -math.inf, 0, 2]])


@every
def test_values_that_are_not_finite_raise(weighting):
    for q in BAD:
        for array in (q, jnp.asarray(q), np.stack([q, np.ones(4)])):
            with pytest.raises(ValueError, match="not finite"):
                weighting(array, 1.0)


@compiled
def test_under_jit_bad_states_are_nan_and_the_others_right(weighting):
    good = np.array([0.0, 1.0, 0.5, 2.0])
    q = jnp.asarray([*BAD, good], jnp.float32)
    call = jax.jit(weighting)
    w, nu = weights = call(q, jnp.ones((4, 1)))
    assert np.isnan(w[:3]).all()
    assert np.isnan(nu[:3]).all()
    np.testing.assert_allclose(w[3], weighting(good, 1.0).values, atol=1e-5)
    assert weight_metrics(weights)["weight_nonfinite"] == 0.75
    for temperature in (0.0, -1.0, math.nan):
        temperature = jnp.array([[1.0], [1.0], [1.0], [temperature]])
        assert np.isnan(call(q, temperature).values).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, np.array([[1.0], [0]])])
def test_temperatures_out_of_range(bad):
    q = np.ones((2, 3))
    for array in (q, jnp.asarray(q)):
        with pytest.raises(SimpoError, match="temperature must be positive"):
            Linear()(array, bad)


def test_shapes_and_dtypes_that_do_not_fit():
    with pytest.raises(TypeError, match="floating point, not int"):
        Linear()(np.arange(3), 1.0)
    with pytest.raises(ValueError, match="N >= 1"):
        Linear()(np.ones((2, 0)), 1.0)
    with pytest.raises(ValueError, match="N >= 1"):
        Linear()(np.float64(1.0), 1.0)
    with pytest.raises(ValueError, match="scalar or"):
        Linear()(np.ones((3, 3)), np.ones(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0.1), "floor"),
        (lambda: Square(math.nan), "floor"),
        (lambda: Power(3.0, -math.inf), "floor"),
        (lambda: Custom(cubic, 0.5), "floor"),
        (lambda: Power(0.0), "exponent"),
        (lambda: InverseGap(1.0), "alpha"),
        (lambda: InverseGap(-math.inf), "alpha"),
        (lambda: SignedSoftmax(-1.0), "scale"),
        (lambda: Custom(lambda y: -y), "must not fall"),
        (lambda: Custom(np.abs), "must not fall"),
        (lambda: Custom(lambda y: 2 + np.tanh(y)), "must pass 1/N"),
        (lambda: Custom(lambda y: np.minimum(y, 0)), "must pass 1/N"),
        (lambda: Custom(np.sum), "elementwise"),
        (lambda: Custom(lambda y: y + math.nan), "never NaN"),
        (lambda: Custom(math.exp), "NumPy"),
    ],
)
def test_fields_out_of_range(make, message):
    with pytest.raises(SimpoError, match=message):
        make()


def test_custom_link_out_of_reach_of_n():
    bounded = Custom(lambda y: 0.1 + 0.2 * (1 + np.tanh(y)))  # from 0.1 to 0.5
    np.testing.assert_allclose(bounded(np.zeros(4), 1.0).values, 1)
    for n in (1, 10):
        with pytest.raises(SimpoError, match="must pass 1/"):
            bounded(np.zeros(n), 1.0)


def test_custom_bounded_link_under_jit():
    sigmoid = Custom(jax.nn.sigmoid, floor=0.0)
    q = rng.normal(size=(5, 8))
    w = jax.jit(sigmoid)(jnp.asarray(q), 0.3).values
    np.testing.assert_allclose(w.mean(axis=-1), 1, atol=1e-6)
    assert w.max() <= 8


# --- metrics ----------------------------------------------------------------------


def test_metrics_by_hand():
    values = np.array([[3.0, 1.0, 0.0, -2.0], [1.0, 1.0, 1.0, 1.0]])
    metrics = weight_metrics(Weights(values, np.array([[2.0], [4.0]])))
    p = np.array([0.75, 0.25])
    expected = {
        "weight_max": 2.0,
        "weight_min": -0.5,
        "weight_negative_mass": 2 / 8,
        "weight_negative_fraction": 1 / 8,
        "weight_active": 6 / 8,
        "weight_nonfinite": 0.0,
        "weight_ess": (36 / 14 + 4) / 2,
        "weight_kl": (math.log(4) + np.sum(p * np.log(p))) / 2,
        "multiplier": 3.0,
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value), name


def test_metrics_of_no_weight_are_finite():
    for array in (np.zeros((2, 4)), jnp.zeros((2, 4))):
        metrics = weight_metrics(Advantage()(array, 1.0))
        assert all(np.isfinite(value) for value in metrics.values())
        assert metrics["weight_ess"] == 0
