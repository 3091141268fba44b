"""iDEM: exact scores, what its bound mends, one update from its equations, learning."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from known import Known, bowl, holding, learn
from oracles import Mixture
from plain_loop import is_one_line
from simpo.agents import Mode, compile_act, compile_init, compile_updates
from simpo.agents.idem import IDEM
from simpo.agents.scores import action_gradients, add_noise, propose
from simpo.agents.sdac import SDAC
from simpo.bellman import Aggregate
from simpo.blocks import ROWS
from simpo.generative import Diffusion, DPMSolver2M, Flow
from simpo.networks import Critics
from simpo.temperature import Fixed
from simpo.types import SimpoError, Transition
from tiny import SPEC, batches, tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(0)
MODEL = Diffusion(denoising_steps=2)
MIXTURE = Mixture(weights=(0.3, 0.7), means=(-0.4, 0.5), stds=(0.08, 0.1))
"""Well inside the box: at its edge the density is e^-12 of the larger peak."""
make = partial(tiny, IDEM, model=MODEL, proposals=4)
compiled = jax.jit(lambda agent, *args: agent.target(*args), static_argnums=0)


def log_density(s, a):
    return jnp.log(MIXTURE.density(a)).sum(-1)


def target(agent, critics, noised, key=KEY, **others):
    obs = np.zeros((len(noised.x), 1), np.float32)
    return compiled(agent, holding(critics, **others), noised, obs, key)


def points(n, dims=1, t_max=0.4):
    """Noised actions; later than this the mean of finitely many gradients is noisy."""
    action = np.random.default_rng(0).uniform(-0.7, 0.7, (n, dims)).astype(np.float32)
    return add_noise(Diffusion(t_max=t_max), KEY, action)


# --- gradients ------------------------------------------------------------------


@pytest.mark.parametrize("join", list(Aggregate))
def test_gradients_are_those_of_finite_differences(join):
    critics = Critics.init(KEY, 3, 2, width=16, depth=2)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(ROWS // 32, 3)).astype(np.float32)
    actions = rng.uniform(-1.5, 1.5, (len(obs), 64, 2)).astype(np.float32)

    @jax.jit
    def both(actions, step):
        q, gradient = action_gradients(critics, join, obs, actions)
        ends = [join(critics.candidates(obs, actions + end)) for end in (step, -step)]
        return q, join(critics.candidates(obs, actions)), gradient, ends[0] - ends[1]

    for d in range(2):
        step = np.float32(1e-2) * np.eye(2, dtype=np.float32)[d]
        q, expected, gradient, rise = both(actions, step)
        np.testing.assert_allclose(q, expected, atol=1e-6)
        # A step across a line where the critics' order changes is off for the minimum.
        error = np.abs(gradient[..., d] - rise / 2e-2)
        assert np.quantile(error, 0.99) < 1e-3 < np.abs(gradient).mean()


# --- the target -----------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
def test_the_target_is_the_exact_score(dims):
    noised = points(16, dims)
    agent = IDEM(proposals=100_000, temperature=Fixed(1.0), normalised=False)
    found = target(agent, Known.of(log_density), noised)
    x, alpha, sigma = (np.asarray(part) for part in (noised.x, *noised[2:]))
    exact = -sigma * MIXTURE.score(x, np.tile(alpha, dims), np.tile(sigma, dims))
    np.testing.assert_allclose(found.noise, exact, atol=0.15)
    assert np.std(exact) > 0.5


def test_the_target_agrees_with_sdac():
    noised = points(16)
    values = {"proposals": 100_000, "temperature": Fixed(1.0)}
    critics = Known.of(log_density)
    by_slope = target(IDEM(**values, normalised=False), critics, noised).noise
    by_noise = target(SDAC(**values), critics, noised).noise
    np.testing.assert_allclose(by_slope, by_noise, atol=0.15)


def test_values_are_measured_in_units_of_their_mean_gradient():
    """lambda = 0.2 of u is lambda = 0.2 u; a factor on Q changes nothing."""
    noised = points(16)
    agent = IDEM(proposals=50, temperature=Fixed(0.2))
    made = target(agent, Known.of(log_density), noised)
    unit = float(made.metrics["gradient_scale"])
    scaled = target(agent, Known.of(lambda s, a: 50 * log_density(s, a)), noised)
    absolute = replace(agent, normalised=False, temperature=Fixed(0.2 * unit))
    same = target(absolute, Known.of(log_density), noised)
    assert float(scaled.metrics["gradient_scale"]) == pytest.approx(50 * unit, rel=1e-5)
    for other in (scaled, same):
        np.testing.assert_allclose(other.noise, made.noise, atol=1e-3)
    np.testing.assert_allclose(made.weights.values.mean(-1), 1.0, rtol=1e-5)


def test_the_target_critics_decide():
    noised = points(16)
    agent = IDEM(proposals=50)
    online = target(agent, Known.of(log_density), noised)
    other = target(
        agent, Known.of(bowl(0, 1)), noised, target_critics=Known.of(log_density)
    )
    np.testing.assert_array_equal(online.noise, other.noise)


def test_flat_values_have_no_score():
    flat = Known.of(lambda s, a: 0.0 * a.sum(-1))
    made = target(IDEM(proposals=4, bounded=False), flat, points(16))
    np.testing.assert_array_equal(made.noise, 0.0)


def test_the_bound_brings_the_target_back_into_the_box():
    """Q = k a has the gradient k everywhere, so the target is exact arithmetic."""
    k, lam = 3.0, 0.5
    noised = points(200, t_max=0.9946)
    x, alpha, sigma = (np.asarray(part) for part in (noised.x, *noised[2:]))
    linear = Known.of(lambda s, a: k * a.sum(-1))
    agent = IDEM(proposals=4, temperature=Fixed(lam), normalised=False, bounded=False)
    free = np.asarray(target(agent, linear, noised).noise)
    np.testing.assert_allclose(free, -sigma / alpha * k / lam, rtol=1e-4)
    assert np.abs(free).max() > 100

    made = target(replace(agent, bounded=True), linear, noised)
    kept = np.clip(free, (x - alpha) / sigma, (x + alpha) / sigma)
    np.testing.assert_allclose(made.noise, kept, rtol=1e-4, atol=1e-5)
    assert np.abs(made.noise).max() < 5
    share = float(made.metrics["bounded_fraction"])
    assert share == pytest.approx(np.mean(kept != free), abs=0.01) and 0.1 < share < 1


# --- an update ------------------------------------------------------------------


@partial(jax.jit, static_argnums=0)
def plain_update(agent, state, batch):
    """The algorithm once more, from its equations; the network is called as a whole."""
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
    old = jax.tree.map(lambda o, n: 0.9 * o + 0.1 * n, state.target_critics, critics)

    noised = add_noise(agent.model, keys[2], batch.action)
    actions = propose(noised, keys[3], agent.proposals).action

    def value(obs, action):
        return jnp.min(old(obs[None], action[None])[:, 0])

    both = jax.vmap(jax.vmap(jax.value_and_grad(value, 1), (None, 0)))
    q, slope = both(batch.obs, actions)
    lam = agent.temperature.value * jnp.abs(slope).mean()
    weights = jax.nn.softmax(q / lam, axis=-1)
    noise = -noised.sigma / noised.alpha * (weights[..., None] * slope / lam).sum(1)
    clean = jnp.clip((noised.x - noised.sigma * noise) / noised.alpha, -1.0, 1.0)
    noise = (noised.x - noised.alpha * clean) / noised.sigma

    def mismatch(actor):
        return jnp.mean((actor(noised.x, noised.time, batch.obs) - noise) ** 2)

    loss, grads = jax.value_and_grad(mismatch)(state.actor)
    change, _ = optax.adam(agent.actor_rate).update(grads, state.actor_opt)
    return jax.tree.map(jnp.add, state.actor, change), critics, old, loss


def test_an_update_is_the_algorithm():
    agent = make()
    update, state = compile_updates(agent), compile_init(agent, SPEC)(KEY)
    for seed in range(2):
        one = batches(1, seed=seed)
        expected = plain_update(agent, state, Transition(*(x[0] for x in one)))
        state, metrics = update(state, one)
        loss = metrics["actor_loss"][0]
        found = state.actor, state.critics, state.target_critics, loss
        for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(x, y, atol=3e-5)


def test_learns_the_boltzmann_distribution_of_a_known_value():
    """The bound is biased towards the middle at early times, so less closely."""
    centre, width = 0.2, 0.2
    agent = make(
        **{"width": 32, "depth": 2, "batch_size": 128, "proposals": 64, "gamma": 0.0},
        **{"actor_lr": 5e-3, "actor_lr_end": 2e-4, "actor_lr_updates": 800},
        **{"temperature": Fixed(1.0), "reward_scale": 1.0, "critic_lr": 1e-12},
        normalised=False,
    )
    state, _ = learn(agent, bowl(centre, width), updates=800)
    fine = Diffusion(sampler=DPMSolver2M(), denoising_steps=40)
    act = compile_act(replace(agent, model=fine), Mode())
    for s in (-0.1, 0.1):
        obs = np.full((4000, 1), s, np.float32)
        drawn = np.asarray(act(agent.policy(state), obs, KEY, 0))
        assert drawn.mean() == pytest.approx(centre + s, abs=0.08)
        assert drawn.std() == pytest.approx(width, abs=0.08)


def test_another_model_is_refused():
    with pytest.raises(SimpoError, match="set model to a Diffusion of Noise") as error:
        make(model=Flow())
    assert is_one_line(error)
