import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simpo.divergence import KL, Alpha, ChiSquare, kl_to_uniform
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
    weight_metrics,
)

torch = pytest.importorskip("torch")

GOLDEN = json.loads((Path(__file__).parent / "golden" / "weights.json").read_text())
VARIANTS = [
    Exponential(),
    Linear(),
    Linear(-0.5),
    Square(),
    Square(-1.0),
    Power(),
    Power(2.5, -0.2),
    InverseGap(),
    Advantage(),
    SignedSoftmax(),
    Centred(),
    Custom(lambda y: y + y * y * y, -0.5),
]
every = pytest.mark.parametrize("weighting", VARIANTS, ids=str)
rng = np.random.default_rng(0)
Q = rng.normal(size=(3, 8))
DIRECTION = rng.normal(size=(3, 8))


def test_the_variants_cover_the_union():
    assert {type(w) for w in VARIANTS} == set(WEIGHTINGS)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-10)]
)
def test_golden(dtype, bound):
    for case in GOLDEN:
        floor = case["floor"] or 0.0
        weighting = {
            "exp": Exponential(),
            "linear": Linear(),
            "square": Square(),
            "cube": Power(3.0),
            "signed_linear": Linear(floor),
            "signed_square": Square(floor),
        }[case["weighting"]]
        q, expected = torch.tensor(case["q"], dtype=dtype), np.array(case["weights"])
        w = weighting(q, case["temperature"]).values
        assert w.dtype == dtype
        gap = np.abs(w.numpy().astype(float) - expected).max()
        assert gap / (1 + np.abs(expected).max()) < bound


@every
def test_values_and_gradients_equal_those_of_jax(weighting):
    q = torch.tensor(Q, requires_grad=True)
    temperature = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    w, nu = weighting(q, temperature)
    ((w * torch.tensor(DIRECTION)).sum() + nu.sum()).backward()

    def scalar(q, temperature):
        w, nu = weighting(q, temperature)
        return (w * DIRECTION).sum() + nu.sum(), w

    with jax.enable_x64(True):
        grad = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))
        (dq, dt), expected = grad(jnp.asarray(Q), 0.8)
    np.testing.assert_allclose(w.detach(), expected, atol=1e-10)
    np.testing.assert_allclose(q.grad, dq, atol=1e-9)
    np.testing.assert_allclose(temperature.grad, dt, atol=1e-9)


@every
def test_batches_and_temperatures_per_state(weighting):
    q, temperature = torch.tensor(Q), torch.tensor([[0.3], [1.0], [4.0]])
    batch = weighting(q, temperature)
    for i in range(3):
        one = weighting(q[i], float(temperature[i]))
        np.testing.assert_allclose(batch.values[i], one.values, atol=1e-6)
    vmapped = torch.func.vmap(lambda q: weighting(q, 0.5).values)(q)
    np.testing.assert_allclose(vmapped, weighting(q, 0.5).values, atol=1e-12)


@every
def test_gradients_are_finite_at_awkward_values(weighting):
    for q in ([2.0], [1.0] * 4, [1.0, 1.0, 0.0, 0.0], [1e4, 0.0, -1e4]):
        q = torch.tensor(q, requires_grad=True)
        w = weighting(q, 0.5).values
        (w * torch.arange(len(q))).sum().backward()
        assert torch.isfinite(q.grad).all(), q


@every
def test_bad_input(weighting):
    with pytest.raises(ValueError, match="not finite"):
        weighting(torch.tensor([1.0, math.nan]), 1.0)
    with pytest.raises(SimpoError, match="temperature"):
        weighting(torch.ones(3), 0.0)
    with pytest.raises(TypeError, match="floating point"):
        weighting(torch.arange(3), 1.0)


def test_metrics_equal_those_of_numpy():
    expected = weight_metrics(Square(-1.0)(Q, 0.5))
    actual = weight_metrics(Square(-1.0)(torch.tensor(Q), 0.5))
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert float(value) == pytest.approx(float(expected[name])), name


@pytest.mark.parametrize(
    "divergence", [KL(), ChiSquare(), Alpha(0.0), Alpha(0.3), Alpha(1.5)], ids=str
)
def test_divergences_equal_those_of_numpy(divergence):
    x, y = np.array([0.0, 0.2, 1.0, 3.0]), np.array([-3.0, -0.5, 0.2, 0.8])
    for name, argument in (("f", x), ("slope", x), ("link", y), ("conjugate", y)):
        function = getattr(divergence, name)
        actual = function(torch.tensor(argument))
        assert actual.dtype == torch.float64
        np.testing.assert_allclose(actual, function(argument), rtol=1e-12)
    np.testing.assert_allclose(kl_to_uniform(torch.tensor(x)), kl_to_uniform(x))
