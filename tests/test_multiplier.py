import json
import math
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from simpo import multiplier
from simpo.weighting import (
    Custom,
    Exponential,
    InverseGap,
    Linear,
    Power,
    Square,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "weights.json").read_text())


def cubic(y):
    return y + y * y * y


def plain_exp(y):
    return np.exp(y) if isinstance(y, np.ndarray) else jnp.exp(y)


def signed_power(p):
    return lambda y: math.copysign(abs(y) ** p, y)


def inverse_gap(a):
    return lambda y: (1 - (1 - a) * y) ** (-1 / (1 - a)) if (1 - a) * y < 1 else 1e300


# Every weighting beside its link, written out again for one number.
LINKS = {
    Exponential(): lambda y: math.exp(min(y, 700)),
    Linear(): signed_power(1),
    Linear(-0.2): signed_power(1),
    Linear(-2.0): signed_power(1),
    Square(): signed_power(2),
    Square(-1.0): signed_power(2),
    Power(): signed_power(3),
    Power(0.5): signed_power(0.5),
    Power(2.5, -0.5): signed_power(2.5),
    InverseGap(): inverse_gap(0),
    InverseGap(0.9): inverse_gap(0.9),
    InverseGap(-2.0): inverse_gap(-2),
    Custom(cubic): cubic,
    Custom(cubic, -0.5): cubic,
    Custom(plain_exp): lambda y: math.exp(min(y, 700)),
}


def floor_of(weighting):
    if isinstance(weighting, Exponential | InverseGap):
        return 0.0
    return weighting.floor


def oracle(weighting, q, temperature):
    """Weights of one state in float64 by scalar root finding."""
    q, n = np.asarray(q, np.float64), len(q)
    link, floor = LINKS[weighting], floor_of(weighting)

    def terms(nu):
        y = (q - q.max() - nu) / temperature
        return np.array([max(link(v), floor / n) for v in y.tolist()])

    low, high = -temperature, temperature
    while terms(low).sum() < 1:
        low *= 2
    while terms(high).sum() > 1:
        high *= 2
    root = optimize.bisect(lambda nu: terms(nu).sum() - 1, low, high, xtol=1e-300)
    return n * terms(root), root + q.max()


def error(actual, expected):
    expected = np.asarray(expected)
    gap = np.abs(np.asarray(actual, np.float64) - expected)
    return np.max(gap) / (1 + np.max(np.abs(expected)))


# --- golden cases -----------------------------------------------------------------


def golden_weighting(case):
    floor = case["floor"] or 0.0
    return {
        "exp": Exponential(),
        "linear": Linear(),
        "square": Square(),
        "cube": Power(3.0),
        "signed_linear": Linear(floor),
        "signed_square": Square(floor),
    }[case["weighting"]]


def golden_batches():
    """Cases of one weighting and one N as q [K, N], temperature [K, 1], weights."""
    batches = defaultdict(list)
    for case in GOLDEN:
        batches[golden_weighting(case), len(case["q"])].append(case)
    for (weighting, _), cases in batches.items():
        q = np.array([case["q"] for case in cases])
        temperature = np.array([[case["temperature"]] for case in cases])
        yield weighting, q, temperature, np.array([case["weights"] for case in cases])


def test_golden_has_its_cases():
    assert len(GOLDEN) == 180
    assert sum(len(q) for _, q, _, _ in golden_batches()) == 180


def test_golden_numpy():
    for weighting, q, temperature, expected in golden_batches():
        w = weighting(q, temperature).values
        assert max(map(error, w, expected)) < 1e-10
        w = weighting(q.astype(np.float32), temperature).values
        assert w.dtype == np.float32
        assert max(map(error, w, expected)) < 1e-6


def test_golden_jax_float32():
    for weighting, *arrays, expected in golden_batches():
        q, temperature = (jnp.asarray(a, jnp.float32) for a in arrays)
        w = jax.jit(weighting)(q, temperature).values
        assert max(map(error, w, expected)) < 1e-6
        if q.shape[-1] == 32:  # eager calls are the same program
            w = weighting(q, temperature).values
            assert max(map(error, w, expected)) < 1e-6


def test_golden_multipliers():
    for case in GOLDEN:
        result = golden_weighting(case)(np.array(case["q"]), case["temperature"])
        assert result.multiplier.shape == (1,)
        assert result.multiplier[0] == pytest.approx(
            case["multiplier"], rel=1e-9, abs=1e-9
        )


# --- hard scales ------------------------------------------------------------------

rng = np.random.default_rng(0)
NORMAL = rng.normal(size=32)
SCALES = {
    "offset 1e4": (NORMAL + 1e4, (0.05, 1.0, 50.0)),
    "range 1e-4": (1e-4 * NORMAL, (1e-6, 1e-4, 1e-2)),
    "offset and small range": (1e-2 * NORMAL - 1e4, (1e-4, 1e-2, 1.0)),
    "range 1e4, tiny temperature": (1e4 * NORMAL, (1e-3, 1.0, 1e5)),
    "heavy tails": (rng.standard_cauchy(32), (0.1, 10.0)),
    "small numbers": (1e-12 * NORMAL, (1e-14, 1e-12)),
}


@pytest.mark.parametrize("scale", SCALES)
def test_float32_at_hard_scales(scale):
    q, temperatures = SCALES[scale]
    q = q.astype(np.float32)
    for weighting in LINKS:
        for temperature in np.float32(temperatures):
            actual = weighting(jnp.asarray(q), temperature)
            expected, nu = oracle(weighting, q, float(temperature))
            steep = weighting == Power(0.5)  # infinitely so at zero
            bound = 1e-4 if steep else 2e-6
            assert error(actual.values, expected) < bound, (weighting, temperature)
            assert abs(actual.multiplier[0] - nu) < 3e-6 * max(
                temperature * 32, np.abs(q).max(), abs(nu)
            ), (weighting, temperature)


@pytest.mark.parametrize("floor", [0.0, -0.3, -2.0])
def test_closed_forms_equal_bisection(floor):
    q = rng.normal(size=(50, 16))
    for closed, p in ((Linear(floor), 1.0), (Square(floor), 2.0)):
        for temperature in (0.1, 1.0, 10.0):
            expected = Power(p, floor)(q, temperature)
            actual = closed(q, temperature)
            np.testing.assert_allclose(actual.values, expected.values, atol=1e-11)
            np.testing.assert_allclose(actual.multiplier, expected.multiplier)
    custom = Custom(lambda y: y * abs(y), floor)(q, 1.0)
    np.testing.assert_allclose(custom.values, Square(floor)(q, 1.0).values, atol=1e-11)


eighths = st.integers(-800, 800).map(lambda i: i / 8)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(list(LINKS)),
    st.lists(eighths, min_size=1, max_size=24),
    st.floats(1e-2, 1e2),
)
def test_scalar_root_finding_agrees(weighting, q, temperature):
    q = np.array(q)
    weights = weighting(q, temperature)
    expected, nu = oracle(weighting, q, temperature)
    assert error(weights.values, expected) < 1e-9
    assert weights.multiplier[0] == pytest.approx(nu, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("exponent", [1, 2])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_many_candidates_are_weighed_like_few(exponent, scale, monkeypatch):
    rng = np.random.default_rng(5)
    q = np.float32(scale * rng.normal(size=(20, 50)))
    q[0], q[1, 7:] = 0.0, q[1, 7]  # ties
    x = q - q.max(-1, keepdims=True)
    few = multiplier.active(x, exponent, 1.3)
    monkeypatch.setattr(multiplier, "MAX_PAIRED", 10)
    np.testing.assert_array_equal(multiplier.active(x, exponent, 1.3), few)
    assert few.any(-1).all() and (few.all(-1).sum() < 20 or scale < 1)
