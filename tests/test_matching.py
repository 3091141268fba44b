import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simpo.blocks import split_blocks
from simpo.generative import (
    VE,
    Clean,
    Cosine,
    Diffusion,
    Flow,
    Noise,
    StraightPath,
    Velocity,
)
from simpo.matching import (
    BOUNDS,
    CappedNegativeMass,
    ClippedError,
    FadingRepulsion,
    Unbounded,
    candidate_metrics,
    matching_loss,
    policy_improvement,
)
from simpo.networks import Denoiser
from simpo.temperature import DualAscent, EntropyTarget
from simpo.types import SimpoError
from simpo.weighting import Linear, weight_metrics

rng = np.random.default_rng(0)


def plain_prediction_and_target(model, net, x, cond, t, eps):
    if isinstance(model, Flow):
        x_t, target, scale = (1 - t) * x + t * eps, eps - x, 1.0
    else:
        alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
        x_t, scale = alpha * x + sigma * eps, np.sqrt(alpha**2 + sigma**2)
        target = {
            Noise: eps,
            Clean: x,
            Velocity: alpha * eps - sigma * x,
        }[type(model.prediction)]
    states = np.broadcast_to(cond[:, None], (*x.shape[:2], cond.shape[-1]))
    inputs = (x_t / scale, t[..., 0], states)
    return np.asarray(net(*(jnp.asarray(i, jnp.float32) for i in inputs))), target


@pytest.mark.parametrize(
    "model",
    [
        Flow(),
        Diffusion(),
        Diffusion(prediction=Clean()),
        Diffusion(Cosine(), Velocity(), t_min=0.2, t_max=0.3),
        Diffusion(VE(), Noise()),
        Diffusion(StraightPath(), Velocity(), t_max=1.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("limit", [None, 0.5])
def test_loss_is_the_papers_equation_7(monkeypatch, model, limit):
    net = Denoiser.init(jax.random.key(0), 2, 5, width=16)
    x = rng.uniform(-1, 1, (3, 4, 2))
    w, cond = rng.normal(1, 2, (3, 4)), rng.normal(size=(3, 5))
    u, eps = rng.uniform(size=(3, 4)), rng.normal(size=(3, 4, 2))
    span = (0.0, 1.0) if isinstance(model, Flow) else (model.t_min, model.t_max)
    t = (span[0] + (span[1] - span[0]) * u)[..., None]

    def uniform(key, shape, minval=0.0, maxval=1.0):
        return jnp.asarray(minval + (maxval - minval) * u, jnp.float32).reshape(shape)

    def normal(key, shape):
        return jnp.asarray(eps, jnp.float32).reshape(shape)

    monkeypatch.setattr(jax.random, "uniform", uniform)
    monkeypatch.setattr(jax.random, "normal", normal)
    bound = Unbounded() if limit is None else ClippedError(limit)
    arrays = (jnp.asarray(array, jnp.float32) for array in (x, w, cond))
    loss, metrics = matching_loss(model, net, jax.random.key(1), *arrays, bound)

    prediction, target = plain_prediction_and_target(model, net, x, cond, t, eps)
    error = (prediction - target) ** 2
    bounded = error if limit is None else np.minimum(error, limit)
    expected = np.mean([w[b, n] * bounded[b, n] for b in range(3) for n in range(4)])
    assert loss == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert metrics["matching_error"] == pytest.approx(error.mean(), rel=1e-4)
    clipped = 0.0 if limit is None else (error > limit).mean()
    assert metrics["clipped_fraction"] == pytest.approx(clipped)
    assert limit is None or 0 < clipped < 1


def signed_weights(states=3, candidates=8):
    """Weights of mean one for every state."""
    values = st.floats(-50, 50, width=32)
    arrays = hnp.arrays(np.float32, (states, candidates), elements=values)
    return arrays.map(lambda w: w - w.mean(-1, keepdims=True) + 1)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(w=signed_weights(), limit=st.floats(0, 20))
def test_capped_negative_mass(w, limit):
    error = rng.uniform(size=(3, 8, 2))
    bounded = CappedNegativeMass(limit)(jnp.asarray(w), jnp.asarray(error))
    out = np.asarray(bounded.weights)
    mass, before = (np.maximum(-v, 0).mean(-1) for v in (out, w))
    assert np.all(mass <= limit + 1e-4)
    np.testing.assert_allclose(mass, np.minimum(before, limit), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out.mean(-1), 1.0, atol=1e-4)
    assert np.all((out == 0) | (np.sign(out) == np.sign(w)))
    within = before <= np.float32(limit)
    np.testing.assert_array_equal(out[within], w[within])
    capped = (~within[:, None] & (w < 0)).mean()
    assert bounded.clipped == pytest.approx(capped)
    np.testing.assert_array_equal(bounded.error, jnp.asarray(error))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(w=signed_weights(), step=st.integers(0, 150))
def test_fading_repulsion(w, step):
    error, keep = rng.uniform(size=(3, 8, 2)), max(1 - step / 100, 0)
    bounded = FadingRepulsion(100)(jnp.asarray(w), jnp.asarray(error), step)
    out = np.asarray(bounded.weights)
    np.testing.assert_allclose(np.minimum(out, 0), keep * np.minimum(w, 0), rtol=1e-5)
    np.testing.assert_allclose(out.mean(-1), 1.0, atol=1e-4)
    for new, old in zip(out, w, strict=True):  # positive ones keep their proportions
        up = old > 1e-3
        np.testing.assert_allclose(new[up] / old[up], (new[up] / old[up])[0], rtol=1e-3)
    assert bounded.clipped == pytest.approx((w < 0).mean() if step else 0)
    np.testing.assert_array_equal(bounded.error, jnp.asarray(error))


def test_weights_without_a_positive_part_do_not_fade():
    w = jnp.array([[-1.0, -2.0]])
    out = FadingRepulsion(10)(w, jnp.zeros((1, 2, 1)), 5)
    np.testing.assert_array_equal(out.weights, w)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(w=signed_weights(), limit=st.floats(0.01, 10), negative_only=st.booleans())
def test_clipped_error(w, limit, negative_only):
    error = rng.exponential(3.0, (3, 8, 2)).astype(np.float32)
    out = ClippedError(limit, negative_only)(jnp.asarray(w), jnp.asarray(error))
    hit = error > np.float32(limit)
    if negative_only:
        hit &= w[..., None] < 0
    np.testing.assert_array_equal(out.error, np.where(hit, np.float32(limit), error))
    np.testing.assert_array_equal(out.weights, w)
    assert out.clipped == pytest.approx(hit.mean())


def test_unbounded_changes_nothing():
    w, error = jnp.array([[3.0, -1.0]]), jnp.full((1, 2, 3), 1e6)
    out = Unbounded()(w, error)
    np.testing.assert_array_equal(out.weights, w)
    np.testing.assert_array_equal(out.error, error)
    assert out.clipped == 0


@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds_leave_small_errors_and_unit_weights_alone(bound):
    w, error = jnp.ones((2, 4)), jnp.full((2, 4, 3), 0.1)
    out = bound()(w, error)
    np.testing.assert_array_equal(out.weights, w)
    np.testing.assert_array_equal(out.error, error)
    assert out.clipped == 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: ClippedError(0.0),
        lambda: ClippedError(-1.0),
        lambda: CappedNegativeMass(-0.1),
        lambda: FadingRepulsion(0),
    ],
)
def test_impossible_bounds_are_refused(build):
    with pytest.raises(SimpoError, match="must be"):
        build()


MODEL = Diffusion(denoising_steps=3)
NET = Denoiser.init(jax.random.key(0), 2, 5, width=16, depth=2, activation="relu")
CANDIDATES = jnp.asarray(np.clip(rng.normal(size=(6, 8, 2)), -1, 1), jnp.float32)
Q = jnp.asarray(rng.normal(size=(6, 8)), jnp.float32)
COND = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)
WEIGHTING, KEY = Linear(-0.5), jax.random.key(7)


TEMPERATURE = DualAscent(EntropyTarget(0.5), initial=0.3, learning_rate=0.1)
BOUND = ClippedError(1.0)


@jax.jit
def gradient(net, key, x, w, cond):
    def loss(net):
        return matching_loss(MODEL, net, key, x, w, cond, BOUND)

    return jax.value_and_grad(loss, has_aux=True)(net)


def assert_trees_close(actual, expected):
    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    jax.tree.map(close, actual, expected)


@pytest.mark.parametrize("rows", [48, 16], ids=["one block", "three blocks"])
def test_improvement_joins_both_stages(monkeypatch, rows):
    monkeypatch.setattr("simpo.blocks.ROWS", rows)
    state = TEMPERATURE.init()
    improvement = jax.jit(
        lambda net, q: policy_improvement(
            MODEL,
            WEIGHTING,
            TEMPERATURE,
            BOUND,
            net=net,
            temperature_state=state,
            key=KEY,
            candidates=CANDIDATES,
            q=q,
            cond=COND,
            step=0,
        )
    )(NET, Q)

    weights, _, next_state = TEMPERATURE.weigh(state, WEIGHTING, Q)
    assert_trees_close(improvement.temperature_state, next_state)
    keys, parts = split_blocks(KEY, (CANDIDATES, weights.values, COND), 8)
    blocks = [gradient(NET, keys[i], *(p[i] for p in parts)) for i in range(len(keys))]
    assert len(blocks) == 48 // rows
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *blocks)
    (loss, metrics), grads = mean
    assert_trees_close(improvement.grads, grads)

    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    expected = weight_metrics(weights) | {
        "actor_loss": loss,
        "actor_grad_norm": norm,
        "matching_error": metrics["matching_error"],
        "clipped_fraction": metrics["clipped_fraction"],
        "temperature": 0.3,
        "q_std_candidates": np.mean([q.std() for q in np.asarray(Q)]),
    }
    assert norm > 0.01
    assert 0 < expected["clipped_fraction"] < 1
    assert_trees_close(improvement.metrics, expected)
    assert all(np.shape(value) == () for value in improvement.metrics.values())


def test_candidates_are_told_by_spread_and_edge():
    x = np.asarray(CANDIDATES)
    spreads = [x[b, :, a].std() for b in range(6) for a in (0, 1)]
    found = candidate_metrics(CANDIDATES)
    assert found["candidate_spread"] == pytest.approx(np.mean(spreads), rel=1e-5)
    assert found["edge_fraction"] == pytest.approx(np.mean(np.abs(x) >= 0.999))
    assert 0 < found["edge_fraction"] < 1
