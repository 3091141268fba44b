import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simpo.generative.schedule import (
    SCHEDULES,
    VE,
    VP,
    Cosine,
    Linear,
    StraightPath,
)

ALL = [
    *(schedule() for schedule in SCHEDULES),
    Cosine(0.0),
    Linear(0.001, 0.3, 7),
    VP(0.5, 20.0),
    VE(0.1, 3.0),
]
PRESERVING = [s for s in ALL if isinstance(s, Cosine | Linear | VP)]
T = np.linspace(0.0, 1.0, 201)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_signal_falls_and_noise_rises_from_the_data(schedule):
    alpha, sigma = schedule.alpha(T), schedule.sigma(T)
    assert alpha.dtype == sigma.dtype == np.float64
    assert alpha[0] == pytest.approx(1.0, abs=1e-12)
    assert sigma[0] == (schedule.sigma_min if isinstance(schedule, VE) else 0.0)
    assert np.all((alpha >= 0) & (alpha <= 1) & (sigma >= 0))
    assert np.all(np.diff(alpha) <= 0)
    assert np.all(np.diff(sigma) > 0)
    noise_to_signal = sigma[:-1] / alpha[:-1]  # a straight path ends at alpha = 0
    assert np.all(np.diff(noise_to_signal) > 0)


@pytest.mark.parametrize("schedule", PRESERVING, ids=str)
def test_variance_is_preserved(schedule):
    total = schedule.alpha(T) ** 2 + schedule.sigma(T) ** 2
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-15)


def test_variance_explodes_geometrically():
    schedule = VE(0.02, 5.0)
    np.testing.assert_array_equal(schedule.alpha(T), 1.0)
    np.testing.assert_allclose(schedule.sigma(T), np.geomspace(0.02, 5.0, 201))


def test_the_straight_path_is_straight():
    np.testing.assert_array_equal(StraightPath().alpha(T), 1.0 - T)
    np.testing.assert_array_equal(StraightPath().sigma(T), T)


@pytest.mark.parametrize("schedule", [Linear(), Linear(0.001, 0.3, 7)], ids=str)
def test_linear_is_the_cumulative_product_on_its_grid(schedule):
    product, products = 1.0, [1.0]
    for beta in np.linspace(schedule.beta_min, schedule.beta_max, schedule.grid):
        product *= 1.0 - beta
        products.append(product)
    grid = np.arange(schedule.grid + 1) / schedule.grid
    np.testing.assert_allclose(schedule.alpha(grid) ** 2, products, rtol=1e-12)


def test_linear_defaults_are_those_of_dpmd():
    betas = 0.8 * np.linspace(1e-4, 0.999, 20)
    signal = Linear().alpha(np.arange(1, 21) / 20) ** 2
    np.testing.assert_allclose(signal, np.cumprod(1 - betas), rtol=1e-9)
    assert signal[-1] == pytest.approx(5e-6, abs=5e-7)


def test_cosine_is_nichol_and_dhariwals():
    f = np.cos(np.pi / 2 * (T + 0.008) / 1.008) ** 2
    np.testing.assert_allclose(Cosine().alpha(T) ** 2, f / f[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("i", "signal"),
    [(1, 0.992), (2, 0.972), (5, 0.848), (10, 0.497), (15, 0.149), (18, 0.026)],
)
def test_cosine_signal_on_the_grid_of_the_released_port(i, signal):
    grid = np.linspace(0.001, 0.9946, 21)
    assert Cosine().alpha(grid)[i] ** 2 == pytest.approx(signal, abs=6e-4)


def test_cosine_signal_nearly_vanishes_where_sampling_starts():
    grid = np.linspace(0.001, 0.9946, 21)
    alpha = Cosine().alpha(grid)
    assert alpha[19] ** 2 == pytest.approx(0.0074, abs=5e-5)
    assert alpha[20] ** 2 == pytest.approx(7.1e-5, abs=5e-7)
    assert 1.0 / alpha[20] == pytest.approx(119, abs=0.5)


@pytest.mark.parametrize("steps", [5, 20])
def test_vp_is_the_cumulative_product_of_dacers_betas(steps):
    i = np.arange(1, steps + 1)
    betas = 1 - np.exp(-0.1 / steps - 0.5 * 9.9 * (2 * i - 1) / steps**2)
    signal = VP().alpha(i / steps) ** 2
    np.testing.assert_allclose(signal, np.cumprod(1 - betas), rtol=1e-12)
    assert signal[-1] == pytest.approx(0.0064, abs=5e-5)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_traced_float32_agrees_with_float64(schedule):
    # Below t = 1e-3, where no model trains, 1 - alpha^2 has few digits left.
    t = np.linspace(1e-3, 1.0, 200)
    levels = jax.jit(lambda t: (schedule.alpha(t), schedule.sigma(t)))
    alpha, sigma = levels(jnp.asarray(t, jnp.float32))
    assert alpha.dtype == sigma.dtype == jnp.float32
    np.testing.assert_allclose(alpha, schedule.alpha(t), rtol=0, atol=2e-6)
    np.testing.assert_allclose(sigma, schedule.sigma(t), rtol=2e-3, atol=2e-5)
    assert np.all(np.isfinite(levels(jnp.zeros(()))))


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_any_shape_and_plain_numbers(schedule):
    for level in (schedule.alpha, schedule.sigma):
        assert level(jnp.full((2, 3), 0.5)).shape == (2, 3)
        assert float(level(0.5)) == pytest.approx(float(level(np.array([0.5]))[0]))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_static_arguments(schedule):
    assert schedule() == schedule()
    assert hash(schedule()) == hash(schedule())
