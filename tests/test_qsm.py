"""QSM: its three losses, Langevin dynamics, updates from the equations, learning."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import truncnorm

from known import bowl, learn
from plain_loop import is_one_line
from simpo.agents import Mode, compile_act, compile_init, compile_updates
from simpo.agents.qsm import (
    QSM,
    Denoising,
    InnerProduct,
    Langevin,
    NormalisedScore,
    SquareScore,
)
from simpo.agents.scores import add_noise
from simpo.bellman import Aggregate
from simpo.generative import VP, Clean, Diffusion, Flow
from simpo.randomness import normal
from simpo.types import SimpoError, Transition
from tiny import SPEC, batches, tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(0)
MODEL = Diffusion(denoising_steps=2)
make = partial(tiny, QSM, model=MODEL)
OFFICIAL = {"loss": InnerProduct(), "actor_tau": 0.01, "acting_noise": 0.1}
RELAX = {
    "loss": SquareScore(),
    "dynamics": Langevin(steps=3),
    "slope_critic": Aggregate.MIN,
}


# --- losses ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def slopes():
    """Noise and slope [B, A], noise level [B, 1]."""
    rng = np.random.default_rng(0)
    noise, slope = rng.normal(size=(2, 50, 3)).astype(np.float32)
    return noise, 7 * slope, rng.uniform(0.1, 1, (50, 1)).astype(np.float32)


def test_the_normalised_loss_is_least_at_the_scaled_slope(slopes):
    noise, slope, sigma = slopes
    best = -sigma * slope / (0.1 * np.abs(slope).mean())
    loss = NormalisedScore()
    np.testing.assert_allclose(loss(best, slope, sigma), 0.0, atol=1e-8)
    np.testing.assert_allclose(
        loss(noise, slope, sigma), (noise - best) ** 2, rtol=1e-4
    )
    for factor in (1e-20, 1e10):
        scaled = loss(noise, np.float32(factor) * slope, sigma)
        np.testing.assert_allclose(scaled, loss(noise, slope, sigma), rtol=1e-4)
    np.testing.assert_array_equal(loss(noise, 0 * slope, sigma), noise**2)


def test_the_square_loss_is_least_at_the_slope_itself(slopes):
    noise, slope, sigma = slopes
    expected = (noise + sigma * slope / 0.5) ** 2
    np.testing.assert_allclose(SquareScore(0.5)(*slopes), expected, rtol=1e-5)


def test_the_losses_agree_on_the_direction(slopes):
    """Each descends towards a score, -eps, that points up the slope."""
    _, slope, sigma = slopes
    for loss in (NormalisedScore(), SquareScore(), InnerProduct()):
        start = jnp.zeros_like(slope)
        grads = jax.grad(lambda e, loss=loss: loss(e, slope, sigma).sum())(start)
        assert (np.sign(grads) == np.sign(slope)).all()
    np.testing.assert_allclose(grads, slope, rtol=1e-6)  # the inner product's


# --- the slope ------------------------------------------------------------------


@pytest.mark.parametrize("join", list(Aggregate))
def test_the_slope_is_that_of_finite_differences(join):
    agent = make(slope_critic=join, critic_width=16, critic_depth=2)
    critics = compile_init(agent, SPEC)(KEY).critics
    obs, action = (part[0] for part in batches(1, 64)[:2])
    x = add_noise(MODEL, KEY, action).x
    step = np.float32(1e-2) * np.eye(2, dtype=np.float32)

    @jax.jit
    def both(x):
        rise = [
            join(critics(obs, x + d)) - join(critics(obs, x - d))
            for d in jnp.array(step)
        ]
        return agent.slope(critics, obs, x), jnp.stack(rise, axis=-1) / 2e-2

    slope, expected = both(x)
    error = np.abs(slope - expected)  # the minimum has a kink here and there
    assert np.quantile(error, 0.95) < 1e-3 < np.abs(slope).mean()


# --- Langevin dynamics ----------------------------------------------------------


class Spring:
    """A network whose score is that of N(centre, width^2), in one dimension."""

    dim, centre, width = 1, 0.3, 0.3

    def condition(self, cond):
        return cond

    def embed_time(self, t):
        return 0.0 * t

    def denoise(self, x, context):
        return (x - self.centre - context) / self.width**2


def test_langevin_dynamics_is_its_recursion():
    obs = np.float32([[-0.2], [0.1]])
    found = Langevin(steps=4, step_size=0.05).sample(MODEL, Spring(), KEY, obs, 3)
    draws = np.asarray(normal(KEY, (5, 2, 3, 1)))
    x = draws[0]
    for k in range(4):
        delta = 0.05 * (1 - k / 4)
        score = -Spring().denoise(x, obs[:, None])
        x = np.clip(x + delta / 2 * score + np.sqrt(delta) * draws[1 + k], -1, 1)
    np.testing.assert_allclose(found, x, atol=1e-5)


def test_langevin_dynamics_samples_the_density_of_its_score():
    """In small steps; the box is a reflecting end only up to the size of a step."""
    langevin = Langevin(steps=400, step_size=0.005)
    obs = np.zeros((4, 1), np.float32)
    x = np.asarray(langevin.sample(MODEL, Spring(), KEY, obs, 1000)).ravel()
    law = truncnorm(-1.3 / 0.3, 0.7 / 0.3, 0.3, 0.3)
    assert x.mean() == pytest.approx(law.mean(), abs=0.03)
    assert x.std() == pytest.approx(law.std(), abs=0.03)


def test_langevin_fits_the_score_at_the_replays_action():
    _, action = (part[0] for part in batches()[:2])
    noised = Langevin().place(MODEL, KEY, action)
    np.testing.assert_array_equal(noised.x, action)
    np.testing.assert_array_equal(noised.time, 0.0)
    np.testing.assert_array_equal(noised.sigma, np.ones((8, 1)))


# --- updates --------------------------------------------------------------------


@partial(jax.jit, static_argnums=0)
def plain_update(agent, state, batch):
    """The algorithm once more, from its equations."""
    keys = jax.random.split(jax.random.fold_in(state.key, state.step))
    actor = state.average_actor
    next_actions = agent.dynamics.sample(MODEL, actor, keys[0], batch.next_obs, 1)
    next_q = jnp.min(state.target_critics(batch.next_obs, next_actions[:, 0]), axis=0)
    y = agent.reward_scale * batch.reward + agent.gamma * batch.discount * next_q

    def critic_error(critics):
        return jnp.mean((critics(batch.obs, batch.action) - y[None]) ** 2)

    change, _ = optax.adam(agent.critic_lr).update(
        jax.grad(critic_error)(state.critics), state.critic_opt
    )
    critics = jax.tree.map(jnp.add, state.critics, change)
    old = jax.tree.map(lambda o, n: 0.9 * o + 0.1 * n, state.target_critics, critics)

    x, time, sigma = batch.action, jnp.zeros(8), 1.0
    if isinstance(agent.dynamics, Denoising):
        x, time, _, sigma = add_noise(agent.model, keys[1], batch.action)
    steep = old if agent.slope_of_targets else critics

    def value(x):
        return jnp.sum(agent.slope_critic(steep(batch.obs, x)))

    slope = jax.grad(value)(x)

    def loss(actor):
        noise = actor(x, time, batch.obs)
        if isinstance(agent.loss, InnerProduct):
            return jnp.mean(noise * slope)
        lam = agent.loss.temperature
        if isinstance(agent.loss, NormalisedScore):
            lam = lam * jnp.mean(jnp.abs(slope))
        return jnp.mean((noise + sigma * slope / lam) ** 2)

    value, grads = jax.value_and_grad(loss)(state.actor)
    change, _ = optax.adam(agent.actor_rate).update(grads, state.actor_opt)
    actor = jax.tree.map(jnp.add, state.actor, change)
    average = jax.tree.map(
        lambda o, n: (1 - agent.actor_tau) * o + agent.actor_tau * n,
        state.average_actor,
        actor,
    )
    return actor, average, critics, old, value


@pytest.mark.parametrize(
    "changes",
    [{}, OFFICIAL | {"slope_of_targets": False}, RELAX],
    ids=["port", "official", "relax"],
)
def test_an_update_is_the_algorithm(changes):
    agent = make(**changes)
    update, state = compile_updates(agent), compile_init(agent, SPEC)(KEY)
    for seed in range(2):
        one = batches(1, seed=seed)
        expected = plain_update(agent, state, Transition(*(x[0] for x in one)))
        state, metrics = update(state, one)
        found = (*state[:4], metrics["actor_loss"][0])
        for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(x, y, atol=3e-5)
    pairs = zip(*map(jax.tree.leaves, state[:2]), strict=True)
    equal = all(np.allclose(x, y, rtol=1e-6, atol=1e-7) for x, y in pairs)
    assert equal == (agent.actor_tau == 1)
    policy = agent.policy(state)
    assert policy.actor is state.average_actor


def test_the_official_code_collects_with_noise():
    agent = make(**OFFICIAL, model=Diffusion(schedule=VP(), t_max=1.0))
    assert agent.collecting == Mode(noise=0.1)
    assert agent.evaluating[0] == Mode()


# --- learning -------------------------------------------------------------------


def test_learns_the_slope_of_a_known_value():
    """The predicted noise against sigma (x - m) / (lambda width^2), then samples."""
    centre, width, lam = 0.2, 0.3, 2.0
    agent = make(
        **{"width": 32, "depth": 2, "batch_size": 128, "gamma": 0.0},
        **{"actor_lr": 5e-3, "actor_lr_end": 2e-4, "actor_lr_updates": 600},
        **{"reward_scale": 1.0, "critic_lr": 1e-12, "loss": SquareScore(lam)},
    )
    state, _ = learn(agent, bowl(centre, width), updates=600)
    x = np.linspace(-0.9, 0.9, 19, dtype=np.float32)[:, None]
    obs = np.full_like(x, 0.1)
    noised = add_noise(MODEL, jax.random.key(1), x)
    found = state.actor(noised.x, noised.time, obs)
    exact = noised.sigma * (noised.x - centre - obs) / (lam * width**2)
    np.testing.assert_allclose(found, exact, atol=0.5)
    assert np.std(exact) > 2
    act = compile_act(replace(agent, model=Diffusion(denoising_steps=20)), Mode())
    drawn = act(agent.policy(state), np.full((2000, 1), 0.1, np.float32), KEY, 0)
    assert np.mean(drawn) == pytest.approx(centre + 0.1, abs=0.05)


# --- settings -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make(model=Flow()), "set model to a Diffusion of Noise"),
        (
            lambda: make(model=Diffusion(prediction=Clean())),
            "set model to a Diffusion of Noise",
        ),
        (lambda: make(actor_tau=0.0), "actor_tau must be positive"),
        (lambda: make(actor_tau=1.5), "actor_tau must be between 0 and 1"),
        (lambda: NormalisedScore(0.0), "temperature must be positive and finite"),
        (lambda: SquareScore(float("nan")), "temperature must be positive and finite"),
        (lambda: Langevin(steps=0), "steps must be at least 1"),
        (lambda: Langevin(step_size=0.0), "step_size must be positive and finite"),
    ],
)
def test_impossible_settings(build, message):
    with pytest.raises(SimpoError) as error:
        build()
    assert message in str(error.value) and is_one_line(error)
