from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oracles import SIGNED, Mixture, oracle_for
from simpo.generative import VE, Clean, Diffusion, Flow, StraightPath, Velocity
from simpo.matching import (
    CappedNegativeMass,
    ClippedError,
    Unbounded,
    matching_loss,
)
from simpo.networks import Denoiser

pytestmark = pytest.mark.usefixtures("compiled_quickly")

BEHAVIOUR = Mixture((0.5, 0.5), (0.0, 0.3), (1.0, 0.6))
"""Its components times the multipliers 3 and -1 are SIGNED."""
NORMAL = Mixture((1.0,), (0.0,), (1.0,))
DENT = Mixture((1.5, -0.5), (0.0, 1.0), (1.0, 0.2))
"""Negative near 1, positive everywhere once cosine's t > 0.4."""
BATCH = 512
COSINE = Diffusion(prediction=Velocity(), t_min=0.5)
EXPLODING = Diffusion(VE(0.1, 5.0))


def labelled(key):
    """Samples of BEHAVIOUR whose weight is 3 or -1 by component."""
    component_key, noise_key = jax.random.split(key)
    k = jax.random.bernoulli(component_key, 0.5, (1, BATCH)).astype(int)
    z = jax.random.normal(noise_key, (1, BATCH))
    x = jnp.asarray(BEHAVIOUR.means)[k] + jnp.asarray(BEHAVIOUR.stds)[k] * z
    return x[..., None], jnp.array([3.0, -1.0])[k], jnp.zeros((1, 0))


def dented(key):
    """Samples of NORMAL weighted by the signed density ratio, down to -2.6."""
    x = jax.random.normal(key, (1, BATCH))
    return x[..., None], DENT.density(x) / NORMAL.density(x), jnp.zeros((1, 0))


def two_states(key):
    """State 0 with weights one, state 1 with the signed ones."""
    x, w, _ = jax.vmap(labelled)(jax.random.split(key))
    w = jnp.stack([jnp.ones(BATCH), w[1, 0]])
    return x[:, 0], w, jnp.array([[0.0], [1.0]])


def fit(model, batch, key, cond_dim=0, updates=600, rate=1e-2):
    """A small denoiser after some Adam steps on fresh batches."""
    net = Denoiser.init(
        key, 1, cond_dim, width=64, depth=2, frequencies=8, max_frequency=8.0
    )
    adam = optax.adam(optax.cosine_decay_schedule(rate, updates))

    def update(carry, key):
        net, opt = carry
        batch_key, loss_key = jax.random.split(key)
        x, w, cond = batch(batch_key)

        def loss(net):
            return matching_loss(model, net, loss_key, x, w, cond, Unbounded())[0]

        change, opt = adam.update(jax.grad(loss)(net), opt, net)
        return (optax.apply_updates(net, change), opt), None

    keys = jax.random.split(key, updates)
    run = jax.jit(lambda net: jax.lax.scan(update, (net, adam.init(net)), keys)[0][0])
    return run(net)


def points(model, signed, t):
    """Points x_t, the network's inputs there, and the signed density's weights."""
    schedule = StraightPath() if isinstance(model, Flow) else model.schedule
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    scale = np.sqrt(alpha**2 + sigma**2)
    x_t = np.linspace(-3.5, 3.5, 141) * scale
    density = signed.density(x_t, alpha, sigma)
    assert np.all(density > 0)  # Case I
    x = x_t if isinstance(model, Flow) else x_t / scale
    return x_t, jnp.asarray(x, jnp.float32)[:, None], density / density.sum()


def distance(model, signed, one, other):
    """Mean squared difference of two functions (x, t) under the signed density."""
    low = 0.05 if isinstance(model, Flow) else max(model.t_min, 0.05)
    total = []
    for t in np.linspace(low, 0.95, 10):
        _, x, share = points(model, signed, t)
        t = jnp.full(len(x), t, jnp.float32)
        difference = np.asarray(one(x, t) - other(x, t))[:, 0]
        total.append(share @ difference**2)
    return np.mean(total)


def optimum(model, mixture):
    net = oracle_for(model, mixture)
    return lambda x, t: net.denoise(x, net.embed_time(t))


def network(net, *cond):
    return lambda x, t: net(x, t, jnp.full((len(x), len(cond)), jnp.array(cond)))


@pytest.mark.parametrize(
    ("model", "batch", "signed", "behaviour", "tolerance"),
    [
        (COSINE, dented, DENT, NORMAL, 0.02),
        (EXPLODING, labelled, SIGNED, BEHAVIOUR, 0.005),
    ],
    ids=["cosine", "VE"],
)
def test_training_reaches_the_signed_optimum(
    model, batch, signed, behaviour, tolerance
):
    learned = network(fit(model, batch, jax.random.key(0)))
    star, unweighted = optimum(model, signed), optimum(model, behaviour)
    power = distance(model, signed, unweighted, star)
    assert distance(model, signed, learned, star) < tolerance < power / 8
    assert distance(model, signed, learned, unweighted) > 0.7 * power


def test_ve_optimum_is_the_score_of_the_signed_mixture():
    # Corollary D.2: the noise prediction is -sigma times the score.
    model = EXPLODING
    star = optimum(model, SIGNED)
    for t in (0.1, 0.5, 0.9):
        sigma = model.schedule.sigma(t)
        x_t, x, _ = points(model, SIGNED, t)
        expected = -sigma * SIGNED.score(x_t, 1.0, sigma)
        ahead, behind = (SIGNED.density(x_t + h, 1.0, sigma) for h in (1e-5, -1e-5))
        slope = (np.log(ahead) - np.log(behind)) / 2e-5
        np.testing.assert_allclose(expected, -sigma * slope, rtol=0, atol=1e-5)
        predicted = star(x, jnp.full(len(x), t, jnp.float32))[:, 0]
        np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-4)


def test_weights_act_per_state():
    model = Flow()
    net = fit(model, two_states, jax.random.key(0), cond_dim=1)
    star, unweighted = optimum(model, SIGNED), optimum(model, BEHAVIOUR)
    assert distance(model, SIGNED, network(net, 0.0), unweighted) < 0.02
    assert distance(model, SIGNED, network(net, 1.0), star) < 0.02
    assert distance(model, SIGNED, star, unweighted) > 0.15


class Table(NamedTuple):
    """Two predictions, one for x < 0 and one for x >= 0."""

    values: jax.Array

    dim = 1

    def condition(self, cond):
        return jnp.zeros((*cond.shape[:-1], 1))

    def embed_time(self, t):
        return jnp.zeros((*t.shape, 1))

    def denoise(self, x, context):
        return jnp.where(x < 0, self.values[0], self.values[1])


# At t ~ 0.05 the sign of x_t is that of a, so each entry sees two candidates.
SIDES = Diffusion(StraightPath(), Clean(), t_min=0.05, t_max=0.06)
A = jnp.array([[-1.0, -0.8, 0.8, 1.0]])[..., None]
W = jnp.array([[3.0, 2.2, -0.7, -0.5]])
STATIONARY = np.array([-4.76 / 5.2, 1.06 / 1.2])  # E[w a | x] / E[w | x]


def table_loss(values, bound):
    table, cond = Table(jnp.asarray(values, jnp.float32)), jnp.zeros((1, 1))
    return matching_loss(SIDES, table, jax.random.key(0), A, W, cond, bound)[0]


def descend(values, bound, updates, rate=0.1):
    """Gradient descent: values after 0, 1, .. updates - 1 steps."""

    def update(values, _):
        return values - rate * jax.grad(table_loss)(values, bound), values

    start = jnp.asarray(values, jnp.float32)
    return np.asarray(jax.lax.scan(update, start, length=updates)[1])


@pytest.mark.parametrize("side", [-1, 1])
def test_case_2_descent_moves_away_from_the_stationary_point(side):
    gradient = jax.grad(table_loss)(jnp.asarray(STATIONARY, jnp.float32), Unbounded())
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    moved = descend(STATIONARY + side * 0.1, Unbounded(), 50) - STATIONARY
    # Curvatures 2.6 and -0.6: one entry is attracted, the other repelled.
    steps = np.arange(50)[:, None]
    expected = side * 0.1 * np.array([1 - 0.26, 1 + 0.06]) ** steps
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-5)
    assert np.all(np.diff(np.abs(moved[:, 1])) > 0)


def test_case_2_loss_is_unbounded_below():
    losses = [table_loss([STATIONARY[0], v], Unbounded()) for v in (1, 10, 100, 1000)]
    assert np.all(np.diff(losses) < 0)
    assert losses[-1] < -1e5


def test_clipped_error_ends_the_repulsion():
    limit = 0.25
    start = STATIONARY + 0.1
    clipped = descend(start, ClippedError(limit), 300)[-1]
    assert descend(start, Unbounded(), 300)[-1, 1] > 1e4
    reach = 1.0 + np.sqrt(limit)  # of the last candidate that still repels
    assert reach < clipped[1] < reach + 0.05
    assert clipped[0] == pytest.approx(STATIONARY[0], abs=1e-4)
    gradient = jax.grad(table_loss)(jnp.array([0.0, 1.51]), ClippedError(limit))
    np.testing.assert_array_equal(gradient, 0.0)


def test_clipping_negatives_only_keeps_attraction():
    far = jnp.array([3.0, -3.0])  # beyond every candidate's reach
    both = jax.grad(table_loss)(far, ClippedError(1.0))
    np.testing.assert_array_equal(both, 0.0)
    gradient = jax.grad(table_loss)(far, ClippedError(1.0, negative_only=True))
    assert gradient[0] == pytest.approx(2.6 * (3.0 - STATIONARY[0]), rel=1e-5)
    assert gradient[1] == 0.0


def test_capped_mass_slows_the_repulsion():
    # Negative mass 0.3, capped at 0.1: a third of the curvature.
    start = STATIONARY + 0.1
    moved = descend(start, CappedNegativeMass(0.1), 21)[-1] - STATIONARY
    assert moved[1] == pytest.approx(0.1 * 1.02**20, rel=1e-3)
