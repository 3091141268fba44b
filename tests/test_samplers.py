from dataclasses import replace

import numpy as np
import pytest

from oracles import (
    BIMODAL,
    GAUSSIAN,
    SIGNED,
    Mixture,
    draw,
    draw_from,
    kolmogorov_smirnov,
    oracle_for,
    quantiles,
)
from simpo.generative import (
    DDIM,
    DDPM,
    VE,
    VP,
    Clean,
    Cosine,
    Diffusion,
    DPMSolver2M,
    Euler,
    Flow,
    Heun,
    Linear,
    StraightPath,
    Velocity,
)
from simpo.generative.diffusion import PREDICTIONS, SAMPLERS

SCHEDULES = [Cosine(), Linear(), VP(), VE(), StraightPath()]
PRESERVING = [Cosine(), Linear(), VP()]
KS_1_PERCENT = 1.63
rng = np.random.default_rng(0)


@pytest.mark.parametrize("schedule", PRESERVING, ids=str)
@pytest.mark.parametrize("fixed_large", [False, True])
def test_ddpm_coefficients_are_the_textbooks(schedule, fixed_large):
    model = Diffusion(schedule=schedule, sampler=DDPM(fixed_large), t_max=1.0)
    steps = model.steps()
    bars = [1.0, *(schedule.alpha(np.arange(1, 21) / 20) ** 2)]
    for row, i in enumerate(range(20, 0, -1)):  # rows go from noise to data
        bar, bar_before = bars[i], bars[i - 1]
        beta = 1 - bar / bar_before
        variance = beta if fixed_large else beta * (1 - bar_before) / (1 - bar)
        expected = {
            "time": i / 20,
            "alpha": np.sqrt(bar),
            "sigma": np.sqrt(1 - bar),
            "keep": np.sqrt(1 - beta) * (1 - bar_before) / (1 - bar),
            "clean": np.sqrt(bar_before) * beta / (1 - bar),
            "previous": 0.0,
            "noise": np.sqrt(variance) if i > 1 else 0.0,
        }
        for name, value in expected.items():
            actual = getattr(steps, name)[row]
            assert actual == pytest.approx(value, rel=1e-7, abs=1e-8), (name, i)


TABLED = [2, 5, 10, 15, 18, 19, 20]


def test_ddpm_noise_of_the_discrete_cosine_schedule():
    # Improved DDPM's, the last beta clipped to 0.999.
    f = np.cos(np.pi / 2 * (np.arange(21) / 20 + 0.008) / 1.008) ** 2
    bars = np.cumprod([1.0, *np.maximum(f[1:] / f[:-1], 0.001)])
    alpha, sigma = np.sqrt(bars[::-1]), np.sqrt(1 - bars[::-1])
    steps = DDPM().steps(np.linspace(1, 0, 21), alpha, sigma)
    std = [steps.noise[20 - i] for i in TABLED]
    expected = [0.076, 0.195, 0.339, 0.519, 0.731, 0.857, 0.997]
    np.testing.assert_allclose(std, expected, atol=6e-4)
    assert steps.noise[-1] == 0.0
    assert 1.0 / steps.alpha[0] == pytest.approx(406, abs=0.5)


def test_fixed_large_noise_is_that_of_the_released_port():
    grid = np.linspace(0.9946, 0.001, 21)
    alpha, sigma = Cosine().alpha(grid), Cosine().sigma(grid)
    std = DDPM(fixed_large=True).steps(grid, alpha, sigma).noise
    expected = [0.142, 0.239, 0.367, 0.533, 0.732, 0.850, 0.995]
    np.testing.assert_allclose([std[20 - i] for i in TABLED], expected, atol=6e-4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_ddim_steps_along_the_estimated_noise(schedule):
    model = Diffusion(schedule=schedule, sampler=DDIM(), denoising_steps=7)
    steps = model.steps()
    alphas, sigmas = [*steps.alpha, 1.0], [*steps.sigma, 0.0]
    for i in range(7):
        x, a = rng.normal(size=2)
        eps = (x - alphas[i] * a) / sigmas[i]
        moved = steps.keep[i] * x + steps.clean[i] * a
        expected = alphas[i + 1] * a + sigmas[i + 1] * eps
        assert moved == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_dpm_solver_steps_are_algorithm_2(schedule):
    model = Diffusion(schedule=schedule, sampler=DPMSolver2M(), denoising_steps=7)
    steps = model.steps()
    log_snr = np.log(steps.alpha / steps.sigma)
    for i in range(6):
        x, a, before = rng.normal(size=3)
        h = log_snr[i + 1] - log_snr[i]
        if i > 0:
            r = (log_snr[i] - log_snr[i - 1]) / h
            a_bar = (1 + 1 / (2 * r)) * a - 1 / (2 * r) * before
        else:
            a_bar = a
        scale = steps.sigma[i + 1] / steps.sigma[i]
        expected = scale * x - steps.alpha[i + 1] * np.expm1(-h) * a_bar
        moved = steps.keep[i] * x + steps.clean[i] * a + steps.previous[i] * before
        assert moved == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("sampler", [s() for s in SAMPLERS], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_steps_keep_the_marginals_of_known_data(sampler, schedule, count):
    model = Diffusion(schedule=schedule, sampler=sampler, denoising_steps=count)
    steps = model.steps()
    alphas, sigmas = [*steps.alpha[1:], 1.0], [*steps.sigma[1:], 0.0]
    mean = steps.keep * steps.alpha + steps.clean + steps.previous
    variance = (steps.keep * steps.sigma) ** 2 + steps.noise**2
    np.testing.assert_allclose(mean, alphas, rtol=1e-9)
    np.testing.assert_allclose(variance, np.square(sigmas), rtol=1e-9, atol=1e-15)
    last = (steps.keep[-1], steps.clean[-1], steps.previous[-1], steps.noise[-1])
    assert last == (0.0, 1.0, 0.0, 0.0)  # lands on the clean estimate


def gaussian_moments(steps, mixture):
    """Mean and std of a sampler's output on Gaussian data: every step is affine."""
    m, s = mixture.means[0], mixture.stds[0]
    mean, variance = 0.0, steps.sigma[0] ** 2
    for alpha, sigma, keep, clean, noise in zip(
        steps.alpha, steps.sigma, steps.keep, steps.clean, steps.noise, strict=True
    ):
        gain = alpha * s**2 / (alpha**2 * s**2 + sigma**2)
        slope = keep + clean * gain
        mean = slope * mean + clean * (m - gain * alpha * m)
        variance = slope**2 * variance + noise**2
    return mean, np.sqrt(variance)


@pytest.mark.parametrize(
    "model",
    [
        *(Diffusion(prediction=p(), clip=None) for p in PREDICTIONS),
        Diffusion(sampler=DDPM(fixed_large=True), clip=None),
        Diffusion(VE(0.01, 5.0), sampler=DDIM(), clip=None),
    ],
    ids=str,
)
def test_gaussian_samples_have_the_moments_of_the_affine_recursion(model):
    n = 40_000
    x = draw(model, oracle_for(model, GAUSSIAN), n)
    mean, std = gaussian_moments(model.steps(), GAUSSIAN)
    assert x.mean() == pytest.approx(mean, abs=4 * std / np.sqrt(n))
    assert x.std() == pytest.approx(std, abs=4 * std / np.sqrt(2 * n))


def test_posterior_noise_is_too_narrow_and_fixed_large_too_wide():
    def std(fixed_large, count):
        model = Diffusion(sampler=DDPM(fixed_large), denoising_steps=count)
        return gaussian_moments(model.steps(), GAUSSIAN)[1]

    true = GAUSSIAN.mean_std()[1]
    # 20 steps: 0.433 and 0.516 for 0.5; both converge to the data.
    assert std(False, 20) < true < std(True, 20)
    assert std(True, 20) > 1.15 * std(False, 20)
    assert std(False, 1000) == pytest.approx(true, rel=0.01)
    assert std(True, 1000) == pytest.approx(true, rel=0.01)


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolver2M()], ids=str)
def test_deterministic_given_the_start(monkeypatch, sampler):
    model = Diffusion(sampler=sampler, clip=None)
    net = oracle_for(model, BIMODAL)
    (_, one), (_, two) = (
        draw_from(monkeypatch, model, net, quantiles(64), s) for s in (0, 1)
    )
    np.testing.assert_array_equal(one, two)
    assert np.all(np.diff(one[:, 0]) > 0)  # a flow on the line keeps the order


def test_ddpm_is_random_given_the_start(monkeypatch):
    model = Diffusion(clip=None)
    net = oracle_for(model, BIMODAL)
    (_, one), (_, two) = (
        draw_from(monkeypatch, model, net, quantiles(64), s) for s in (0, 1)
    )
    assert np.abs(one - two).max() > 0.1


def flow_error(monkeypatch, model, mixture):
    """Root mean squared distance to the exact flow of the same starts."""
    start, x = draw_from(monkeypatch, model, oracle_for(model, mixture), quantiles(256))
    if isinstance(model, Flow):
        alpha, sigma = 0.0, 1.0
    else:
        steps = model.steps()
        alpha, sigma = steps.alpha[0], steps.sigma[0]
    exact = mixture.transport(start, alpha, sigma)
    return np.sqrt(np.mean((x - exact) ** 2))


@pytest.mark.parametrize(
    ("model", "low", "high"),
    [
        (Flow(Euler(), clip=None), 0.9, 1.1),
        (Flow(Heun(), clip=None), 1.9, 2.2),
        (Diffusion(sampler=DDIM(), clip=None), 0.9, 1.1),
        (Diffusion(sampler=DPMSolver2M(), clip=None), 1.7, 2.4),
    ],
    ids=["Euler", "Heun", "DDIM", "DPMSolver2M"],
)
def test_order_of_convergence(monkeypatch, model, low, high):
    coarse, fine = (
        flow_error(monkeypatch, replace(model, denoising_steps=n), SIGNED)
        for n in (16, 128)
    )
    assert low < np.log(coarse / fine) / np.log(8) < high
    assert fine < (0.013 if high < 1.5 else 3e-4)


@pytest.mark.parametrize(
    ("sampler", "expected"), [(DDIM(), 1.0), (DPMSolver2M(), 2.0)], ids=str
)
@pytest.mark.parametrize("mixture", [GAUSSIAN, BIMODAL, SIGNED], ids=str)
def test_order_of_the_table_on_equal_steps_of_log_snr(sampler, expected, mixture):
    # Up to a small noise level, in float64: nothing but the sampler's own error.
    def error(count):
        half_log_snr = np.linspace(-4.0, 3.0, count + 1)
        alpha = 1 / np.sqrt(1 + np.exp(-2 * half_log_snr))
        sigma = 1 / np.sqrt(1 + np.exp(2 * half_log_snr))
        steps = sampler.steps(np.linspace(1, 0, count + 1), alpha, sigma)
        start = quantiles(101)[:, 0]
        x, before = start, 0.0
        for row in zip(*steps, strict=True):
            _, a, s, keep, clean, previous, _ = row
            estimate, _ = mixture.posterior(x, a, s)
            x = keep * x + clean * estimate + previous * before
            before = estimate
        reached = mixture.cdf(x, alpha[-1], sigma[-1])
        return np.abs(reached - mixture.cdf(start, alpha[0], sigma[0])).max()

    slope = np.log2(error(200) / error(400))
    assert slope == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("prediction", [Clean(), Velocity()], ids=str)
def test_ddim_on_the_straight_path_is_euler(monkeypatch, prediction, clip):
    flow = Flow(Euler(), denoising_steps=10, clip=clip)
    diffusion = Diffusion(
        StraightPath(), prediction, DDIM(), denoising_steps=10, t_max=1.0, clip=clip
    )
    z = rng.normal(size=(128, 1))
    _, by_flow = draw_from(monkeypatch, flow, oracle_for(flow, BIMODAL), z)
    _, by_diffusion = draw_from(
        monkeypatch, diffusion, oracle_for(diffusion, BIMODAL), z
    )
    np.testing.assert_allclose(by_diffusion, by_flow, rtol=0, atol=2e-5)
    assert (np.abs(by_flow) == 1.0).any() == (clip is not None)


POSITIVE_PART = Mixture((1.0,), (0.0,), (1.0,))
SIGNED_SAMPLERS = [
    Flow(Heun(), 20, clip=None),
    Diffusion(sampler=DDIM(), denoising_steps=200, clip=None),
    Diffusion(sampler=DPMSolver2M(), denoising_steps=50, clip=None),
]


@pytest.mark.parametrize("model", SIGNED_SAMPLERS, ids=str)
def test_signed_velocity_generates_the_signed_density(model):
    n = 20_000
    limit = KS_1_PERCENT / np.sqrt(n)
    signed = draw(model, oracle_for(model, SIGNED), n)
    assert kolmogorov_smirnov(signed, SIGNED) < limit
    unweighted = draw(model, oracle_for(model, POSITIVE_PART), 4_000)
    assert kolmogorov_smirnov(unweighted, SIGNED) > 5 * limit


@pytest.mark.parametrize("model", SIGNED_SAMPLERS, ids=str)
def test_signed_density_without_sampling_error(monkeypatch, model):
    _, x = draw_from(monkeypatch, model, oracle_for(model, SIGNED), quantiles(1_000))
    assert kolmogorov_smirnov(x, SIGNED) < 4e-3


@pytest.mark.slow
def test_ancestral_sampling_generates_the_signed_density():
    model, n = Diffusion(denoising_steps=400, clip=None), 20_000
    x = draw(model, oracle_for(model, SIGNED), n)
    assert kolmogorov_smirnov(x, SIGNED) < KS_1_PERCENT / np.sqrt(n)
