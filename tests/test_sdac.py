"""SDAC: proposals, exact posterior means, one update from its equations, learning."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import kstest, truncnorm

from known import Known, bowl, holding, learn
from oracles import Mixture
from plain_loop import is_one_line
from simpo.agents import Mode, compile_act, compile_init, compile_updates
from simpo.agents.scores import (
    TAIL,
    Noised,
    add_noise,
    propose,
    truncated_normal,
)
from simpo.agents.sdac import SDAC
from simpo.bellman import Aggregate
from simpo.generative import VE, Clean, Diffusion, DPMSolver2M, Flow
from simpo.temperature import DualAscent, EntropyTarget, Fixed
from simpo.types import SimpoError, Transition
from tiny import SPEC, batches, tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(0)
MODEL = Diffusion(denoising_steps=2)
make = partial(tiny, SDAC, model=MODEL, proposals=4)


def path(x, t, dims=1, model=MODEL):
    """Points x [B] at times t [B], alike in all dimensions."""
    x, t = np.asarray(x, np.float32), jnp.asarray(t, jnp.float32)
    level = [part(t)[:, None] for part in (model.schedule.alpha, model.schedule.sigma)]
    return Noised(jnp.asarray(np.tile(x[:, None], dims)), t, *level)


# --- truncated normal -------------------------------------------------------------

quantiles = jax.jit(truncated_normal)
QUANTILES = np.array([1e-5, 0.01, 0.2, 0.5, 0.9, 0.999, 1 - 1e-5], np.float32)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((-np.inf, np.inf), (-1, 1), (-0.01, 0.013), (-200, 50), (-50, 200)),
        *((4, 4.02), (5.3, 5.4), (5, np.inf), (-np.inf, -5), (-7.5, -7), (6, 60)),
        *((7.9, 8.1), (8, 9), (-20, -19), (8.5, np.inf), (-np.inf, -12), (30, 31)),
        *((15, 15.01), (-100, -99), (100, np.inf), (-12, -8.01), (-8.01, 0.3)),
    ],
)
def test_truncated_normal_has_the_quantiles_of_scipy(low, high):
    """The last ones are where float32's own error function has underflowed."""
    low, high = np.float32(low), np.float32(high)
    x = np.asarray(quantiles(QUANTILES, low, high))
    assert (x >= low).all() and (x <= high).all() and np.isfinite(x).all()
    u = QUANTILES.astype(float)
    exact = truncnorm.ppf(u, float(low), float(high))
    # A tail falls off within one over its end, of which the expansion misses 4 %.
    near = 0.0 if low < 0 < high else min(abs(low), abs(high))
    atol = 0.04 / near if near > TAIL else 2e-6
    if low < 0 < high < -low or -high < low < 0:
        atol = 3e-3  # 1 - u is rounded
    np.testing.assert_allclose(x, exact, atol=atol)


def test_proposals_lie_in_the_box_and_lead_to_the_noised_action():
    action = np.random.default_rng(0).uniform(-1, 1, (4000, 3)).astype(np.float32)
    action[:3] = [[1, -1, 1], [-1, 1, 1], [1, 1, 1]]
    for model in (MODEL, Diffusion(schedule=VE()), Diffusion(t_min=0.0)):
        noised = add_noise(model, KEY, action)
        proposals = propose(noised, jax.random.key(1), 5)
        assert proposals.action.shape == proposals.noise.shape == (4000, 5, 3)
        assert (np.abs(proposals.action) <= 1).all()
        assert np.isfinite(proposals.noise).all()
        alpha, sigma = noised.alpha[..., None], noised.sigma[..., None]
        back = alpha * proposals.action + sigma * proposals.noise
        expected = np.broadcast_to(noised.x[:, None], back.shape)
        np.testing.assert_allclose(back, expected, atol=2e-6 * float(sigma.max()))


@pytest.mark.parametrize(("x", "t"), [(0.3, 0.2), (1.4, 0.5), (-2.5, 0.9)])
def test_proposals_are_normal_around_the_scaled_point(x, t):
    noised = path([x], [t])
    drawn = np.asarray(propose(noised, KEY, 5000).action).ravel()
    alpha, sigma = noised.alpha.item(), noised.sigma.item()
    mean, std = x / alpha, sigma / alpha
    law = truncnorm((-1 - mean) / std, (1 - mean) / std, mean, std)
    assert kstest(drawn, law.cdf).pvalue > 0.01


def test_actions_outside_the_box_are_clipped_before_they_are_noised():
    wild, clipped = np.float32([[3.0, -7.0]]), np.float32([[1.0, -1.0]])
    expected = add_noise(MODEL, KEY, clipped)
    jax.tree.map(np.testing.assert_array_equal, add_noise(MODEL, KEY, wild), expected)


# --- the target, against exact posteriors -------------------------------------------


compiled = jax.jit(lambda agent, *args: agent.target(*args), static_argnums=0)


def target(agent, critics, noised, obs, key=KEY, **others):
    return compiled(agent, holding(critics, **others), noised, obs, key)


@pytest.mark.parametrize("lam", [1.0, 0.25])
def test_the_target_is_the_posterior_mean_of_a_truncated_normal(lam):
    """pi = exp(Q / lambda) with Q a bowl near the edge, its centre moving with s."""
    centre, width = 0.8, 0.3
    rng = np.random.default_rng(0)
    obs = rng.uniform(-0.5, 0.5, (20, 1)).astype(np.float32)
    actions = centre + obs + width * rng.normal(size=(20, 1))
    noised = add_noise(MODEL, KEY, actions.astype(np.float32))
    agent = SDAC(proposals=20_000, temperature=Fixed(lam))
    found = target(agent, Known.of(bowl(centre, width)), noised, obs).noise[:, 0]

    x, alpha, sigma = (
        np.asarray(part, float)[:, 0] for part in (noised.x, noised.alpha, noised.sigma)
    )
    precision = 1 / (lam * width**2) + alpha**2 / sigma**2
    mean = ((centre + obs[:, 0]) / (lam * width**2) + alpha * x / sigma**2) / precision
    std = precision**-0.5
    clean = truncnorm((-1 - mean) / std, (1 - mean) / std, mean, std).mean()
    implied = (x - sigma * np.asarray(found)) / alpha
    np.testing.assert_allclose(implied, clean, atol=0.02)


def test_the_target_is_the_posterior_mean_of_a_mixture():
    mixture = Mixture(weights=(0.3, 0.7), means=(-0.4, 0.5), stds=(0.08, 0.1))
    critics = Known.of(lambda s, a: jnp.log(mixture.density(a)).sum(-1))
    x, t = (g.ravel() for g in np.meshgrid(np.linspace(-1, 1, 7), [0.15, 0.5, 0.8]))
    noised = path(x, t, dims=2)
    agent = SDAC(proposals=40_000, temperature=Fixed(1.0))
    found = target(agent, critics, noised, np.zeros((len(x), 1), np.float32)).noise
    _, exact = mixture.posterior(x, *(level[:, 0] for level in noised[2:]))
    np.testing.assert_allclose(found, np.tile(exact[:, None], 2), atol=0.06)


def test_weights_are_a_softmax_of_the_smaller_online_value():
    obs, noised = np.zeros((5, 1), np.float32), path(np.linspace(-1, 1, 5), 5 * [0.5])
    online, old = (Known.of(bowl(c, 0.5), (0.0, -1.0)) for c in (0.2, -0.7))
    agent = SDAC(proposals=6, temperature=Fixed(0.3))
    made = target(agent, online, noised, obs, target_critics=old)
    proposals = propose(noised, KEY, 6)
    q = bowl(0.2, 0.5)(obs[:, None], proposals.action) - 1.0
    np.testing.assert_allclose(made.q, q, atol=1e-6)
    weights = np.asarray(jax.nn.softmax(q / 0.3, axis=-1))
    np.testing.assert_allclose(made.weights.values, 6 * weights, rtol=1e-4)
    mean = (weights[..., None] * proposals.noise).sum(1)
    np.testing.assert_allclose(made.noise, mean, atol=1e-5)


# --- an update ------------------------------------------------------------------


@partial(jax.jit, static_argnums=0)
def plain_update(agent, state, batch):
    """The algorithm once more, its loss as the paper has it: a weighted mean of errors.

    The network is evaluated at every proposal, and the gradient is the same.
    """
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), 4)
    next_action = agent.model.sample(state.actor, keys[0], batch.next_obs, 1)[:, 0]
    next_q = jnp.min(state.target_critics(batch.next_obs, next_action), axis=0)
    y = agent.reward_scale * batch.reward + agent.gamma * batch.discount * next_q

    def critic_error(critics):
        return jnp.mean((critics(batch.obs, batch.action) - y[None]) ** 2)

    change, _ = optax.adam(agent.critic_lr).update(
        jax.grad(critic_error)(state.critics), state.critic_opt
    )
    critics = jax.tree.map(jnp.add, state.critics, change)

    noised = add_noise(agent.model, keys[2], batch.action)
    proposals = propose(noised, keys[3], agent.proposals)
    n = agent.proposals
    obs = jnp.repeat(batch.obs[:, None], n, axis=1)
    flat = obs.reshape(-1, obs.shape[-1]), proposals.action.reshape(-1, 2)
    q = jnp.min(critics(*flat), axis=0).reshape(-1, n)
    weights = jax.nn.softmax(q / agent.temperature.value, axis=-1)

    def mismatch(actor):
        x, time = (jnp.repeat(part[:, None], n, axis=1) for part in noised[:2])
        error = jnp.mean((actor(x, time, obs) - proposals.noise) ** 2, axis=-1)
        return jnp.mean(jnp.sum(weights * error, axis=1))

    grads = jax.grad(mismatch)(state.actor)
    change, _ = optax.adam(agent.actor_rate).update(grads, state.actor_opt)
    actor = jax.tree.map(jnp.add, state.actor, change)
    return actor, critics, optax.tree.norm(grads)


def test_an_update_is_the_algorithm():
    agent = make()
    update, state = compile_updates(agent), compile_init(agent, SPEC)(KEY)
    for seed in range(2):
        one = batches(1, seed=seed)
        expected = plain_update(agent, state, Transition(*(x[0] for x in one)))
        before = jax.tree.map(jnp.copy, (state.actor, state.target_critics))
        state, metrics = update(state, one)
        found = state.actor, state.critics, metrics["actor_grad_norm"][0]
        for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(x, y, atol=2e-5)
        moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), before[0], state.actor)
        assert max(jax.tree.leaves(moved)) > 1e-3
        expected = jax.tree.map(
            lambda old, new: 0.9 * old + 0.1 * new, before[1], state.critics
        )
        for x, y in zip(
            *map(jax.tree.leaves, (state.target_critics, expected)), strict=True
        ):
            np.testing.assert_allclose(x, y, atol=1e-6)
    assert float(metrics["temperature"][0]) == pytest.approx(0.1)


def test_what_is_noised_is_the_replays_action_or_one_of_the_policys_own():
    agent, batch = make(), Transition(*(x[0] for x in batches()))
    state = compile_init(agent, SPEC)(KEY)
    assert agent.start(state, batch, KEY) is batch.action
    own = make(from_replay=False, acting_samples=2, acting_noise=0.1)
    drawn = jax.jit(own.start)(state, batch, KEY)
    act = jax.jit(own.act, static_argnums=3)
    expected = act(own.policy(state), batch.obs, KEY, Mode(2, 0.1))
    np.testing.assert_array_equal(drawn, expected)


def test_a_target_of_divergence_moves_the_temperature():
    """Cold weights use more than is allowed, so lambda rises; hot ones less."""
    noised, obs = path(np.linspace(-1, 1, 8), 8 * [0.6]), np.zeros((8, 1), np.float32)
    for start, rises in ((0.01, True), (100.0, False)):
        dual = DualAscent(EntropyTarget(0.7), initial=start, learning_rate=0.1)
        agent = SDAC(proposals=32, temperature=dual)
        made = target(
            agent, Known.of(bowl(0, 0.5)), noised, obs, temperature=dual.init()
        )
        assert float(made.temperature) == pytest.approx(start, rel=1e-5)
        later = float(jnp.exp(made.temperature_state.log_temperature))
        assert (later > start) == rises


def test_explained_weights_belong_to_the_values():
    agent = make(temperature=Fixed(0.5), weight_critic=Aggregate.MEAN)
    state = compile_init(agent, SPEC)(KEY)
    q, weights = jax.jit(agent.explain)(state, batches().obs[0], KEY)
    assert q.shape == (8, 4) and np.std(q) > 0
    np.testing.assert_allclose(weights, 4 * jax.nn.softmax(q / 0.5), rtol=1e-4)


def test_learns_the_boltzmann_distribution_of_a_known_value():
    """Predicted noise against the exact posterior mean, then samples against pi."""
    centre, width = 0.2, 0.2
    agent = make(
        **{"width": 32, "depth": 2, "batch_size": 128, "proposals": 64, "gamma": 0.0},
        **{"actor_lr": 5e-3, "actor_lr_end": 2e-4, "actor_lr_updates": 800},
        **{"temperature": Fixed(1.0), "reward_scale": 1.0, "critic_lr": 1e-12},
    )
    state, _ = learn(agent, bowl(centre, width), updates=800)
    fine = Diffusion(sampler=DPMSolver2M(), denoising_steps=40)
    act = compile_act(replace(agent, model=fine), Mode())
    for s in (-0.1, 0.1):
        obs = np.full((4000, 1), s, np.float32)
        drawn = np.asarray(act(agent.policy(state), obs, KEY, 0))
        assert drawn.mean() == pytest.approx(centre + s, abs=0.04)
        assert drawn.std() == pytest.approx(width, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": Flow()}, "set model to a Diffusion of Noise"),
        ({"model": Diffusion(prediction=Clean())}, "set model to a Diffusion of Noise"),
        ({"proposals": 0}, "proposals must be at least 1"),
        ({"temperature": DualAscent(EntropyTarget(1.5))}, "out of reach of 4"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(SimpoError) as error:
        make(**changes)
    assert message in str(error.value) and is_one_line(error)
