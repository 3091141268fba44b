from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest

from oracles import GAUSSIAN, draw, draw_from, oracle_for
from simpo.generative import (
    DDIM,
    MODELS,
    VE,
    VP,
    Cosine,
    Diffusion,
    Euler,
    Flow,
    Linear,
    StraightPath,
    Velocity,
)
from simpo.generative.diffusion import PREDICTIONS, SAMPLERS
from simpo.generative.flow import SOLVERS
from simpo.generative.schedule import namespace
from simpo.types import SimpoError

SCHEDULES = [Cosine(), Linear(), VP(), VE(), StraightPath()]
rng = np.random.default_rng(0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("prediction", [p() for p in PREDICTIONS], ids=str)
def test_clean_estimate_inverts_the_target(prediction, schedule):
    t = rng.uniform(0.05, 0.95, (50, 1))
    a, eps = rng.normal(size=(2, 50, 3))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    target = prediction.target(a, eps, alpha, sigma)
    clean = prediction.clean(target, alpha * a + sigma * eps, alpha, sigma)
    np.testing.assert_allclose(clean, a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("to", [p() for p in PREDICTIONS], ids=str)
@pytest.mark.parametrize("prediction", [p() for p in PREDICTIONS], ids=str)
def test_predictions_convert_into_each_other_and_back(prediction, to, schedule):
    t = rng.uniform(0.05, 0.95, (50, 1))
    x, out = rng.normal(size=(2, 50, 3))  # any output, not only a true target
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)

    def convert(out, source, target):
        clean = source.clean(out, x, alpha, sigma)
        return target.target(clean, (x - alpha * clean) / sigma, alpha, sigma)

    there = convert(out, prediction, to)
    back = convert(there, to, prediction)
    np.testing.assert_allclose(back, out, rtol=1e-8, atol=1e-8)


@dataclass(frozen=True)
class Wave:
    """A smooth network whose clean estimates leave the box; works on NumPy too."""

    push: float = 0.0
    dim: int = 2

    def condition(self, cond):
        return cond

    def embed_time(self, t):
        return t[..., None]

    def denoise(self, x, context):
        return 4.0 * namespace(x).sin(2.0 * x + context) + self.push


CLIPPED = [
    *(Diffusion(sampler=s(), denoising_steps=6, clip=0.3) for s in SAMPLERS),
    *(Diffusion(prediction=p(), denoising_steps=6, clip=0.3) for p in PREDICTIONS[1:]),
    *(Diffusion(s, Velocity(), denoising_steps=6, clip=0.3) for s in SCHEDULES[3:]),
    *(Flow(solver=s(), denoising_steps=6, clip=0.3) for s in SOLVERS),
]


@pytest.mark.parametrize("model", CLIPPED, ids=str)
def test_samples_stay_in_the_box(model):
    x = draw(model, Wave(push=-4.0), 200)
    assert x.shape == (1, 200, 2)
    edge = np.abs(x) == np.float32(0.3)
    assert np.all((np.abs(x) < 0.3) | edge)
    assert edge.mean() > 0.1


def plain_ddim(z, bound, state_bound=np.inf):
    t = np.linspace(0.9946, 0.0, 7)
    alpha, sigma = Cosine().alpha(t), Cosine().sigma(t)
    x = sigma[0] * z
    for i in range(6):
        v = Wave().denoise(x, t[i])
        clean = np.clip(alpha[i] * x - sigma[i] * v, -bound, bound)
        eps = (x - alpha[i] * clean) / sigma[i]
        x = alpha[i + 1] * clean + sigma[i + 1] * eps
        x = np.clip(x, -state_bound, state_bound)
    return x


def plain_euler(z, bound, state_bound=np.inf):
    x = z
    for t in np.arange(6, 0, -1) / 6:
        clean = np.clip(x - t * Wave().denoise(x, t), -bound, bound)
        x = x - (x - clean) / t / 6
        x = np.clip(x, -state_bound, state_bound)
    return x


@pytest.mark.parametrize(
    ("model", "plain"),
    [
        (Diffusion(Cosine(), Velocity(), DDIM(), 6, clip=0.3), plain_ddim),
        (Flow(Euler(), 6, clip=0.3), plain_euler),
    ],
    ids=["DDIM", "Euler"],
)
def test_only_the_clean_estimate_is_clipped(monkeypatch, model, plain):
    z = rng.normal(size=(64, 2))
    _, x = draw_from(monkeypatch, model, Wave(), z)
    np.testing.assert_allclose(x, plain(z, 0.3), rtol=0, atol=1e-4)
    assert np.abs(x - plain(z, np.inf)).max() > 0.1
    assert np.abs(x - plain(z, 0.3, state_bound=0.3)).max() > 0.1


@pytest.mark.parametrize("model", [Diffusion(), Flow()], ids=str)
def test_every_state_and_candidate_gets_its_own_noise(model):
    cond = jnp.zeros((4, 1))  # 4 x 600 rows go through the network in two blocks
    net = oracle_for(model, replace(GAUSSIAN, stds=(0.1,)), dim=2)
    x = draw(model, net, 600, cond=cond)
    assert x.shape == (4, 600, 2)
    assert len(np.unique(x)) > 0.99 * x.size
    np.testing.assert_array_equal(x, draw(model, net, 600, cond=cond))
    other = draw(model, net, 600, seed=2, cond=cond)
    assert np.isin(x, other).mean() < 0.01  # float32 values meet by chance


@pytest.mark.parametrize("model", MODELS)
def test_models_are_static_arguments(model):
    assert model() == model()
    assert hash(model()) == hash(model())


@pytest.mark.parametrize(
    "build",
    [
        lambda: Diffusion(denoising_steps=0),
        lambda: Diffusion(t_min=0.5, t_max=0.5),
        lambda: Diffusion(t_min=-0.1),
        lambda: Diffusion(t_max=1.1),
        lambda: Flow(denoising_steps=0),
    ],
)
def test_impossible_settings_are_refused(build):
    with pytest.raises(SimpoError, match="must"):
        build()
