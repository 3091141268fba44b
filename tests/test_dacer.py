"""DACER: its loss, targets, gradient through the sampler, entropy, and one update."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plain_loop import is_one_line
from simpo.agents import Mode, compile_init, compile_updates
from simpo.agents.dacer import DACER, distributional_loss
from simpo.agents.offpolicy import Acting
from simpo.bellman import Aggregate
from simpo.generative import VP, Clean, Diffusion
from simpo.types import SimpoError, Transition
from tiny import SPEC, batches, tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(0)
GOAL = 0.6


def small(**changes):
    settings = {
        "model": Diffusion(schedule=VP(), t_max=1.0, denoising_steps=3),
        "entropy_samples": 32,
        "entropy_components": 1,
        "entropy_iterations": 2,
        "alpha_interval": 3,
        "width": 32,
        "critic_width": 32,
        "critic_depth": 2,
        "batch_size": 64,
        "actor_lr": 3e-3,
        "actor_lr_updates": 0,
        "alpha": 1.5,
    }
    return tiny(DACER, **settings | changes)


def one_step_episodes(updates, seed=0):
    """Batches of a task of one step: reward -|a - 0.6 s|^2, so that a* = 0.6 s."""
    rng = np.random.default_rng(seed)
    obs = rng.uniform(-1, 1, (updates, 1, 64, 3)).astype(np.float32)
    action = rng.uniform(-1, 1, (updates, 1, 64, 2)).astype(np.float32)
    reward = -4 * ((action - GOAL * obs[..., :2]) ** 2).sum(axis=-1)
    data = Transition(obs, action, reward, np.zeros_like(reward), obs)
    return [Transition(*(x[k] for x in data)) for k in range(updates)]


def values(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def resting(net):
    """The denoiser with a head of zeros: the clean estimate of `Clean` is 0."""
    head = jax.tree.map(jnp.zeros_like, net.trunk.head)
    return eqx.tree_at(lambda n: n.trunk.head, net, head)


# --- critics --------------------------------------------------------------------


def test_the_gradient_of_the_loss_is_the_published_one():
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=(2, 30)), rng.uniform(0.05, 2, (2, 30))
    omega, y, y_z = np.array([0.5, 1.0]), rng.normal(size=30), 3 * rng.normal(size=30)
    arrays = [jnp.asarray(x, jnp.float32) for x in (mean, std, omega, y, y_z)]
    grads = jax.grad(distributional_loss, (0, 1, 2, 3, 4))(*arrays, 3.0, 0.1)
    clipped = 0
    for k in range(2):
        for b in range(30):
            mu, psi, scale = mean[k, b], std[k, b], omega[k] ** 2 + 0.1
            bounded = mu + np.clip(y_z[b] - mu, -3 * omega[k], 3 * omega[k])
            clipped += bounded != y_z[b]
            of_mean = -scale * (y[b] - mu) / (psi**2 + 0.1) / 60
            of_std = -scale * ((mu - bounded) ** 2 - psi**2) / (psi**3 + 0.1) / 60
            np.testing.assert_allclose(grads[0][k, b], of_mean, rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(grads[1][k, b], of_std, rtol=1e-4, atol=1e-7)
    assert 5 < clipped < 55
    for constant in grads[2:]:
        np.testing.assert_array_equal(constant, 0)


def test_the_target_follows_the_lower_critic_row_by_row():
    agent, batch = small(), Transition(*(x[0] for x in batches(1, 64)))
    state = compile_init(agent, SPEC)(KEY)
    keys = jax.random.split(KEY, 3)

    @jax.jit
    def both(state):
        action = agent.model.sample(state.actor.net, keys[0], batch.next_obs, 1)[:, 0]
        noise = agent.noise_factor * jnp.exp(state.alpha.log_alpha)
        with jax.threefry_partitionable(False):
            action += noise * jax.random.normal(keys[1], action.shape)
            z = jax.random.normal(keys[2], (64,))
        heads = state.target_critics.heads(batch.next_obs, jnp.clip(action, -1, 1))
        return agent.targets(state, batch, KEY), heads, z

    (y, y_z), heads, z = jax.tree.map(np.asarray, both(state))
    lower = heads[..., 0].argmin(axis=0)
    assert 5 < lower.sum() < 59 and np.abs(z).max() > 3
    for b in range(64):
        mu, raw = heads[lower[b], b]
        psi = np.log1p(np.exp(raw))
        reward, discount = 0.5 * batch.reward[b], 0.9 * batch.discount[b]
        np.testing.assert_allclose(y[b], reward + discount * mu, atol=1e-5)
        expected = reward + discount * (mu + psi * np.clip(z[b], -3, 3))
        np.testing.assert_allclose(y_z[b], expected, atol=1e-5)


def test_samples_of_the_return_are_clipped():
    batch = Transition(*(x[0] for x in batches(1, 64)))

    @jax.jit
    def gaps(state):
        found = [small(std_clip=c).targets(state, batch, KEY) for c in (1e-6, 0.5, 3.0)]
        return [jnp.abs(y_z - y) for y, y_z in found]

    none, some, most = gaps(compile_init(small(), SPEC)(KEY))
    np.testing.assert_allclose(none, 0, atol=1e-5)
    assert (some <= most + 1e-6).all() and (some < most - 1e-3).any()


# --- the actor ------------------------------------------------------------------


def test_the_gradient_goes_through_every_denoising_step():
    """Against central differences along random directions, in float64."""
    model = Diffusion(VP(), prediction=Clean(), t_max=1.0, denoising_steps=3)
    agent = small(model=model, width=4, critic_width=4, noise_factor=0.02)
    fresh = compile_init(agent, SPEC)(KEY)
    with jax.enable_x64(True):
        state = jax.tree.map(
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, fresh
        )
        # Estimates inside the box: a clip would cut the path through the steps.
        net = jax.tree.map(lambda x: 0.5 * x, state.actor.net)
        obs = jnp.asarray(0.3 * batches(1, 4).obs[0], jnp.float64)

        @jax.jit
        def after(net):
            there = state._replace(actor=state.actor._replace(net=net))
            return agent.update_actor(there, state.critics, obs, KEY)

        mu = optax.tree_utils.tree_get(after(net).opt, "mu")
        grads = [x / 0.1 for x in values(mu)]  # of Adam's first step
        rng = np.random.default_rng(0)
        for _ in range(4):
            along = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), net)
            up, down = (
                after(jax.tree.map(lambda x, d, h=h: x + h * d, net, along)).loss
                for h in (1e-5, -1e-5)
            )
            pairs = zip(grads, values(along), strict=True)
            slope = sum(float((g * d).sum()) for g, d in pairs)
            assert float(up - down) / 2e-5 == pytest.approx(slope, rel=1e-5)
            assert abs(slope) > 1e-4


# --- noise and entropy ----------------------------------------------------------


@pytest.fixture(scope="module")
def still():
    """An agent whose sampler always gives zero, so that noise is all there is."""
    agent = small(
        model=Diffusion(VP(), prediction=Clean(), t_max=1.0, denoising_steps=3),
        entropy_samples=400,
    )
    state = compile_init(agent, SPEC)(KEY)
    net = resting(state.actor.net)
    return agent, state._replace(actor=state.actor._replace(net=net))


def test_the_noise_is_alpha_times_its_factor(still):
    agent, state = still
    obs = jnp.zeros((4000, 3))

    @jax.jit
    def act(policy):
        modes = (Mode(), Mode(deterministic=True), Mode(deterministic=True, noise=0.3))
        return [agent.act(policy, obs, KEY, mode) for mode in modes]

    noisy, none, given = map(np.asarray, act(agent.policy(state)))
    assert noisy.std() == pytest.approx(0.1 * 1.5, rel=0.03)
    np.testing.assert_array_equal(none, 0)
    assert given.std() == pytest.approx(0.3, rel=0.03)


def test_the_entropy_is_that_of_the_noise_and_drives_alpha_to_its_target(still):
    agent, state = still
    obs = jnp.zeros((8, 3))
    update = jax.jit(lambda state: agent.update_alpha(state, obs, KEY))
    target, found = -0.9 * 2, []
    for alpha in (0.2, 0.5, 2.0):
        log_alpha = jnp.log(jnp.float32(alpha))
        before = state._replace(alpha=state.alpha._replace(log_alpha=log_alpha))
        after = update(before)
        exact = np.log(2 * np.pi * np.e * (0.1 * alpha) ** 2)
        assert float(after.entropy) == pytest.approx(exact, abs=0.05)
        step = float(after.log_alpha - log_alpha)
        assert step == pytest.approx(-0.03 * np.sign(exact - target), rel=1e-3)
        found.append(step > 0)
    assert found == [True, True, False]  # at rest where 0.1 alpha = e^-0.9 / 4.13


def test_three_components_overrate_one_gaussian_by_no_more_than_ln_3(still):
    agent, state = still
    agent = replace(agent, entropy_components=3, entropy_iterations=30)
    acting, obs = agent.policy(state).actor, jnp.zeros((8, 3))
    found = float(jax.jit(agent.estimate_entropy)(acting, obs, KEY))
    exact = np.log(2 * np.pi * np.e * 0.15**2)
    assert exact + 0.3 < found < exact + np.log(3)


def test_the_estimate_never_leaves_the_device():
    agent, batch = small(), Transition(*(x[0] for x in batches()))
    state = jax.eval_shape(lambda: agent.init(KEY, SPEC))
    assert "callback" not in str(jax.make_jaxpr(agent.update)(state, batch))


# --- updates --------------------------------------------------------------------


def moved(optimiser, grads, opt, params):
    return jax.tree.map(jnp.add, params, optimiser.update(grads, opt)[0])


def average(old, new, rate):
    return jax.tree.map(lambda o, n: (1 - rate) * o + rate * n, old, new)


@partial(jax.jit, static_argnums=0)
def plain_update(agent, state, batch):
    """DACER once more; targets and entropy are the agent's, checked above."""
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
    y, y_z = agent.targets(state, batch, keys[0])

    def moments(critics):
        heads = critics.heads(batch.obs, batch.action)
        return heads[..., 0], jnp.log1p(jnp.exp(heads[..., 1]))

    mu, psi = moments(state.critics)
    omega = jnp.where(
        state.step == 0,
        psi.mean(axis=1),
        (1 - agent.tau) * state.omega + agent.tau * psi.mean(axis=1),
    )

    def loss(critics):
        mean, std = moments(critics)
        total = 0.0
        for k in range(2):
            y_b = mu[k] + jnp.clip(y_z - mu[k], -3 * omega[k], 3 * omega[k])
            of_mean = mean[k] * (y - mu[k]) / (psi[k] ** 2 + 0.1)
            of_std = std[k] * ((mu[k] - y_b) ** 2 - psi[k] ** 2) / (psi[k] ** 3 + 0.1)
            total -= (omega[k] ** 2 + 0.1) * jnp.mean(of_mean + of_std)
        return total / 2

    grads = jax.grad(loss)(state.critics)
    critics = moved(optax.adam(agent.critic_lr), grads, state.critic_opt, state.critics)

    sample_key, noise_key = jax.random.split(keys[1])
    net, log_alpha = state.actor.net, state.alpha.log_alpha

    def cost(net):
        action = agent.model.sample(net, sample_key, batch.obs, 1)[:, 0]
        with jax.threefry_partitionable(False):
            noise = jax.random.normal(noise_key, action.shape)
        action = jnp.clip(action + 0.1 * jnp.exp(log_alpha) * noise, -1, 1)
        return -jnp.mean(jnp.min(critics(batch.obs, action), axis=0))

    value, grads = jax.value_and_grad(cost)(net)
    stepped = moved(optax.adam(agent.actor_lr), grads, state.actor.opt, net)
    even = state.step % 2 == 0
    third = state.step % 3 == 0
    entropy = agent.estimate_entropy(Acting(net, log_alpha), batch.obs, keys[2])
    other = moved(optax.adam(0.03), entropy + 1.8, state.alpha.opt, log_alpha)
    return {
        "actor": jax.tree.map(partial(jnp.where, even), stepped, net),
        "critics": critics,
        "target_critics": average(
            state.target_critics, critics, jnp.where(even, agent.tau, 0.0)
        ),
        "omega": omega,
        "log_alpha": jnp.where(third, other, log_alpha),
        "entropy": jnp.where(third, entropy, state.alpha.entropy),
        "actor_loss": jnp.where(even, value, state.actor.loss),
    }


def test_an_update_is_the_algorithm_and_finds_the_best_action():
    agent, data = small(), one_step_episodes(200)
    update, state = compile_updates(agent), compile_init(agent, SPEC)(KEY)
    single = Mode(deterministic=True)
    act = jax.jit(lambda s: agent.act(agent.policy(s), data[0].obs[0], KEY, single))
    goal = GOAL * data[0].obs[0, :, :2]
    assert np.abs(act(state) - goal).mean() > 0.4
    for one in data[:6]:
        # Some go on, so that y has a next value in it.
        one = one._replace(discount=np.float32(np.arange(64) % 2)[None])
        expected = plain_update(agent, state, Transition(*(x[0] for x in one)))
        state, metrics = update(state, one)
        found = {
            "actor": state.actor.net,
            "critics": state.critics,
            "target_critics": state.target_critics,
            "omega": state.omega,
            "log_alpha": state.alpha.log_alpha,
            "entropy": metrics["entropy"][0],
            "actor_loss": metrics["actor_loss"][0],
        }
        for name, tree in found.items():
            for x, y in zip(values(tree), values(expected[name]), strict=True):
                np.testing.assert_allclose(x, y, atol=5e-5, rtol=1e-4, err_msg=name)
    for one in data[6:]:
        state, metrics = update(state, one)
    assert np.abs(act(state) - goal).mean() < 0.15
    assert float(metrics["q_std"][0]) > 0


def test_defaults_are_those_of_the_authors():
    agent = DACER()
    assert isinstance(agent.model, Diffusion) and agent.model.denoising_steps == 20
    signal = agent.model.schedule.alpha(np.float64(agent.model.t_max)) ** 2
    assert float(signal) == pytest.approx(0.0064, abs=1e-4)
    assert (agent.actor_lr, agent.critic_lr, agent.alpha_lr) == (1e-4, 1e-4, 0.03)
    assert (agent.alpha, agent.reward_scale, agent.noise_factor) == (3.0, 0.2, 0.1)
    assert agent.collecting == Mode()
    single = Mode(deterministic=True)
    assert agent.evaluating == (single, Mode(best_of=10, deterministic=True))
    assert DACER(best_of=1).evaluating == (single,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: 0}, f"{name} must be at least 1")
            for name in (
                *("actor_interval", "alpha_interval", "target_interval"),
                *("entropy_components", "entropy_iterations"),
            )
        ),
        *(
            ({name: 0.0}, f"{name} must be positive and finite")
            for name in ("alpha", "alpha_lr", "std_clip", "variance_bias")
        ),
        ({"noise_factor": -0.1}, "noise_factor must not be negative"),
        ({"entropy_samples": 2}, "3 entropy_components need as many entropy_samples"),
        ({"target_critic": Aggregate.MEAN}, "target_critic must be min"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(SimpoError, match=message) as error:
        DACER(**changes)
    assert is_one_line(error)
