"""What is particular to SAC: density, temperature, update, soft-optimal policies."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from plain_loop import is_one_line
from simpo.agents.base import Mode, compile_act, compile_init, compile_updates, descend
from simpo.agents.sac import SAC, squashed_log_prob
from simpo.bellman import Aggregate
from simpo.randomness import normal
from simpo.types import EnvSpec, SimpoError, Transition
from tiny import SPEC, batches, tiny

KEY = jax.random.key(0)


def log_slope(u):
    """ln d tanh(u) / du = -2 ln cosh u, wherever u is."""
    xp = jnp if isinstance(u, jax.Array) else np
    return -2 * (xp.logaddexp(u, -u) - np.log(2))


# --- the policy -----------------------------------------------------------------


def test_log_prob_is_the_reference_where_actions_are_saturated():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 2)).astype(np.float32)
    mean = rng.uniform(-30, 30, size=z.shape).astype(np.float32)
    log_std = rng.uniform(-3, 2, size=z.shape).astype(np.float32)
    std = np.exp(log_std)
    u = mean + std * z
    saturated = np.abs(np.tanh(u)) == 1
    assert 0.3 < saturated.mean() < 0.9
    exact = stats.norm.logpdf(z.astype(np.float64)) - log_std
    expected = np.sum(exact - log_slope(u.astype(np.float64)), axis=-1)
    ours = squashed_log_prob(u, z, log_std)
    np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=2e-5)


def test_densities_of_actions_sum_to_one():
    """Over the box, as densities of actions and not of what is squashed."""
    mean, log_std = 0.4, -0.2
    edges = np.tanh(np.linspace(-8, 8, 10_001))
    u = np.arctanh(0.5 * (edges[1:] + edges[:-1]))
    z = (u - mean) / np.exp(log_std)
    log_prob = squashed_log_prob(u[:, None], z[:, None], jnp.full((1, 1), log_std))
    assert np.sum(np.exp(log_prob) * np.diff(edges)) == pytest.approx(1, abs=1e-4)


def test_gradients_are_finite_where_actions_are_saturated():
    u = jnp.array([[-200.0], [-20.0], [0.0], [20.0], [200.0]])
    slope = jax.grad(lambda u: squashed_log_prob(u, 0 * u, 0 * u).sum())(u)
    np.testing.assert_allclose(slope, 2 * np.tanh(u), atol=1e-6)


@pytest.mark.parametrize(("out", "std"), [(1e3, np.exp(2.0)), (-1e3, np.exp(-20.0))])
def test_log_std_is_clipped(out, std):
    agent, obs = tiny(SAC), batches().obs[0]

    def actor(obs):
        return jnp.full((len(obs), 4), out)

    mean, log_std = agent.gaussian(actor, obs)
    assert mean.shape == log_std.shape == (8, 2)
    np.testing.assert_allclose(np.exp(log_std), std, rtol=1e-5)
    action, log_prob = agent.sample(actor, obs, KEY)
    assert (np.abs(action) == 1).all() and np.isfinite(log_prob).all()


# --- acting ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy():
    return tiny(SAC).policy(compile_init(tiny(SAC), SPEC)(KEY))


def test_deterministic_is_the_mean_and_needs_no_luck(policy):
    obs = batches().obs[0]
    mean = np.tanh(policy.actor(obs)[:, :2])
    for mode in (Mode(deterministic=True), Mode(best_of=4, deterministic=True)):
        act = compile_act(tiny(SAC), mode)
        for step in (0, 1):
            np.testing.assert_allclose(act(policy, obs, KEY, step), mean, atol=1e-6)
    noisy = compile_act(tiny(SAC), Mode(noise=0.1, deterministic=True))
    gap = np.asarray(noisy(policy, obs, KEY, 0)) - mean
    assert 0 < np.abs(gap).max() < 0.6


def test_samples_are_distributed_as_their_density(policy):
    """Kolmogorov-Smirnov of 20,000 actions against the squashed Gaussian."""
    obs = np.repeat(0.3 * batches().obs[0][:1], 20_000, axis=0)
    action = compile_act(tiny(SAC), Mode())(policy, obs, KEY, 0)
    mean, log_std = tiny(SAC).gaussian(policy.actor, obs[:1])
    u = np.arctanh(np.asarray(action, np.float64))
    for d in range(2):
        law = stats.norm(float(mean[0, d]), float(np.exp(log_std[0, d])))
        assert stats.kstest(u[:, d], law.cdf).pvalue > 1e-3


def test_best_of_n_is_the_argmax_of_the_smaller_value(policy):
    agent, obs, n = tiny(SAC), batches().obs[0], 5
    sample_key, _ = jax.random.split(KEY)

    @jax.jit
    def choose(policy):
        mean, log_std = agent.gaussian(policy.actor, obs)
        z = normal(sample_key, (8, n, 2))
        actions = jnp.tanh(mean[:, None] + jnp.exp(log_std)[:, None] * z)
        q = [policy.critics(obs, actions[:, i]).min(axis=0) for i in range(n)]
        chosen = agent.act(policy, obs, KEY, Mode(best_of=n))
        return actions, jnp.stack(q).argmax(axis=0), chosen

    actions, best, chosen = choose(policy)
    assert len(set(best.tolist())) > 1
    np.testing.assert_allclose(chosen, actions[np.arange(8), best], atol=1e-6)


def test_modes_of_collecting_and_evaluating():
    assert SAC().collecting == Mode()
    assert SAC(acting_noise=0.2).collecting == Mode(noise=0.2)
    assert SAC().evaluating == (Mode(deterministic=True), Mode())


# --- one update -----------------------------------------------------------------


@partial(jax.jit, static_argnums=0)
def plain_update(agent, state, batch):
    """One update once more, from its equations."""
    next_key, actor_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    alpha = jnp.exp(state.log_alpha)

    def draw(actor, obs, key):
        out = actor(obs)
        mean, std = out[:, :2], jnp.exp(jnp.clip(out[:, 2:], -20, 2))
        u = mean + std * normal(key, mean.shape)
        gaussian = jax.scipy.stats.norm.logpdf(u, mean, std)
        return jnp.tanh(u), jnp.sum(gaussian - log_slope(u), axis=1)

    action, log_prob = draw(state.actor, batch.next_obs, next_key)
    q1, q2 = state.target_critics(batch.next_obs, action)
    value = jnp.minimum(q1, q2) - alpha * log_prob
    y = agent.reward_scale * batch.reward + agent.gamma * batch.discount * value

    def critic_error(critics):
        q1, q2 = critics(batch.obs, batch.action)
        return 0.5 * jnp.mean((q1 - y) ** 2) + 0.5 * jnp.mean((q2 - y) ** 2)

    grads = jax.grad(critic_error)(state.critics)
    change, _ = optax.adam(agent.critic_lr).update(grads, state.critic_opt)
    critics = jax.tree.map(jnp.add, state.critics, change)

    def actor_error(actor):
        action, log_prob = draw(actor, batch.obs, actor_key)
        q = jnp.minimum(*critics(batch.obs, action))
        return jnp.mean(alpha * log_prob - q)

    grads = jax.grad(actor_error)(state.actor)
    change, _ = optax.adam(agent.actor_rate).update(grads, state.actor_opt)
    actor = jax.tree.map(jnp.add, state.actor, change)

    _, log_prob = draw(state.actor, batch.obs, actor_key)
    alpha_error = jax.grad(lambda x: -x * jnp.mean(log_prob + agent.target_entropy))
    grad = alpha_error(state.log_alpha)
    change, _ = optax.adam(agent.alpha_lr).update(grad, state.alpha_opt)
    return state._replace(
        actor=actor,
        critics=critics,
        target_critics=jax.tree.map(
            lambda old, new: (1 - agent.tau) * old + agent.tau * new,
            state.target_critics,
            critics,
        ),
        log_alpha=state.log_alpha + change,
    )


@pytest.fixture(scope="module")
def run():
    """Four updates, one at a time: state, batch, state after, metrics of each."""
    agent = tiny(SAC, alpha=0.3, alpha_lr=1e-2, target_entropy=-1.0)
    update, state, rows = jax.jit(agent.update), compile_init(agent, SPEC)(KEY), []
    for k in range(4):
        batch = Transition(*(x[0] for x in batches(1, seed=k)))
        new, metrics = update(state, batch)
        rows.append((state, batch, new, metrics))
        state = new
    return agent, rows


def test_an_update_is_the_algorithm(run):
    agent, rows = run
    for state, batch, new, _ in rows:
        expected = plain_update(agent, state, batch)
        for name in ("actor", "critics", "target_critics", "log_alpha"):
            trees = getattr(new, name), getattr(expected, name)
            for x, y in zip(*map(jax.tree.leaves, trees), strict=True):
                np.testing.assert_allclose(x, y, atol=2e-5, err_msg=name)


def test_metrics_say_what_they_say(run):
    agent, rows = run
    for state, batch, new, metrics in rows:
        _, actor_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        action, log_prob = agent.sample(state.actor, batch.obs, actor_key)
        q = jnp.minimum(*new.critics(batch.obs, action))
        alpha = float(jnp.exp(state.log_alpha))
        expected = {
            "alpha": alpha,
            "entropy": -log_prob.mean(),
            "actor_loss": jnp.mean(alpha * log_prob - q),
            "alpha_loss": -np.log(alpha) * jnp.mean(log_prob - 1.0),
            "q_mean": state.critics(batch.obs, batch.action).mean(),
            "learning_rate": agent.actor_rate(state.step),
        }
        for name, value in expected.items():
            assert float(metrics[name]) == pytest.approx(float(value), abs=1e-5), name
        assert all(np.isfinite(x) for x in metrics.values())


def test_the_actor_can_climb_the_mean_of_the_critics(run):
    agent, ((state, batch, *_), *_) = run
    args = state.actor, state.critics, jnp.ones(()), batch.obs, KEY

    @jax.jit
    def compare():
        both = [replace(agent, policy_critic=how) for how in Aggregate]
        action, _ = agent.sample(state.actor, batch.obs, KEY)
        q = state.critics(batch.obs, action)
        losses = [a.actor_gradient(*args)[1]["actor_loss"] for a in both]
        return losses, [how(q).mean() for how in Aggregate]

    losses, values = compare()
    gap = float(values[1] - values[0])
    assert abs(gap) > 0.01
    assert float(losses[0] - losses[1]) == pytest.approx(gap, abs=1e-5)


# --- the temperature ------------------------------------------------------------


def steered(agent, entropy, steps=4):
    """alpha after steps at this entropy of a policy of two actions."""
    log_alpha = jnp.log(jnp.float32(agent.alpha))
    opt = agent.alpha_optimiser.init(log_alpha)
    for _ in range(steps):
        log_alpha, opt, metrics = agent.fit_alpha(
            log_alpha, opt, jnp.float32(entropy), 2
        )
    return float(jnp.exp(log_alpha)), metrics


@pytest.mark.parametrize(("entropy", "sign"), [(-1.5, 1), (-0.5, -1), (-1.0, 0)])
def test_alpha_rises_below_the_target_entropy_and_falls_above(entropy, sign):
    """Adam's steps on an equal gradient are its rate, in log alpha."""
    agent = tiny(SAC, alpha=0.5, alpha_lr=0.01, target_entropy=-1.0)
    alpha, metrics = steered(agent, entropy)
    assert alpha == pytest.approx(0.5 * np.exp(0.04 * sign), rel=1e-4)
    before = 0.5 * np.exp(0.03 * sign)
    assert float(metrics["alpha"]) == pytest.approx(before, rel=1e-4)
    assert float(metrics["alpha_loss"]) == pytest.approx(
        np.log(before) * (entropy + 1.0), rel=1e-4, abs=1e-7
    )


def test_alpha_can_be_constant():
    agent = tiny(SAC, alpha=0.2, alpha_lr=0.0)
    assert steered(agent, 5.0)[0] == pytest.approx(0.2, rel=1e-6)


def test_the_entropy_aimed_at_is_minus_the_number_of_actions():
    agent = tiny(SAC, alpha=0.5)
    assert [steered(agent, h)[0] > 0.5 for h in (-2.1, -1.9)] == [True, False]


# --- the soft-optimal policy ----------------------------------------------------
# For Q(s, a) = alpha ln pi*(a|s) the soft-optimal policy is pi* itself; here pi* is a
# squashed Gaussian, which the actor can be, with another mean and width per state.

BANDIT = EnvSpec(obs_dim=1, action_dim=1)
STATES = np.array([[-1.0], [1.0]], np.float32)
OPTIMUM = np.array([[-0.3, 0.7], [0.5, 0.4]])  # mean and standard deviation per state


def optimal_log_prob(obs, action):
    mean, std = jnp.where(obs > 0, OPTIMUM[1], OPTIMUM[0]).T
    u = jnp.arctanh(jnp.clip(action[:, 0], -1 + 1e-6, 1 - 1e-6))
    return jax.scipy.stats.norm.logpdf(u, mean, std) - log_slope(u)


def optimal_entropy():
    """Mean over the states, by quadrature: E -ln pi* = E (ln slope - ln N)."""
    laws = [stats.norm(*row) for row in OPTIMUM]
    return np.mean([law.entropy() + law.expect(log_slope) for law in laws])


def found(agent, actor):
    mean, log_std = agent.gaussian(actor, STATES)
    return np.concatenate([mean, np.exp(log_std)], axis=1)


def test_the_actor_finds_the_soft_optimal_policy_of_known_values():
    alpha = 0.3

    def known_critics(obs, action):
        return jnp.stack([alpha * optimal_log_prob(obs, action)] * 2)

    agent = SAC(
        width=16, depth=1, actor_lr=1e-2, actor_lr_end=0.0, actor_lr_updates=500
    )
    actor = compile_init(agent, BANDIT)(KEY).actor
    obs = np.repeat(STATES, 128, axis=0)

    def step(carry, key):
        actor, opt = carry
        grads, metrics = agent.actor_gradient(actor, known_critics, alpha, obs, key)
        return descend(agent.actor_optimiser, grads, opt, actor), metrics

    start = actor, agent.actor_optimiser.init(actor)
    run = jax.jit(lambda: jax.lax.scan(step, start, jax.random.split(KEY, 500)))
    (actor, _), metrics = run()
    np.testing.assert_allclose(found(agent, actor), OPTIMUM, atol=0.02)
    # The loss is alpha KL(pi || pi*) in the mean.
    assert float(metrics["actor_loss"][0]) > 0.05
    assert abs(float(metrics["actor_loss"][-50:].mean())) < 1e-3
    entropy = float(metrics["entropy"][-50:].mean())
    assert entropy == pytest.approx(optimal_entropy(), abs=0.02)


def test_all_of_it_finds_the_soft_optimal_policy_and_its_temperature():
    """Rewards 0.3 ln pi*, target entropy that of pi*: then alpha must become 0.3."""
    updates, rng = 2000, np.random.default_rng(0)
    obs = rng.choice([-1.0, 1.0], (updates, 128, 1)).astype(np.float32)
    action = np.tanh(rng.normal(size=obs.shape)).astype(np.float32)
    reward = jax.vmap(optimal_log_prob)(obs, action)
    data = Transition(obs, action, 0.3 * reward, np.zeros_like(reward), obs)
    agent = SAC(
        width=16,
        depth=1,
        critic_width=64,
        critic_activation="tanh",
        actor_lr=1e-2,
        critic_lr=3e-3,
        alpha=1.0,
        alpha_lr=1e-2,
        target_entropy=float(optimal_entropy()),
    )
    state, metrics = compile_updates(agent)(compile_init(agent, BANDIT)(KEY), data)
    assert float(metrics["alpha"][-200:].mean()) == pytest.approx(0.3, rel=0.1)
    np.testing.assert_allclose(found(agent, state.actor), OPTIMUM, atol=0.1)


# --- mistakes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.0}, "alpha must be positive and finite"),
        ({"alpha_lr": -1e-3}, "alpha_lr must not be negative"),
        ({"log_std_min": 2.0}, "log_std_min must be below log_std_max"),
        ({"log_std_max": float("nan")}, "log_std_min must be below log_std_max"),
        ({"target_entropy": float("nan")}, "target_entropy must be finite, or None"),
        ({"tau": 2.0}, "tau must be between 0 and 1"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(SimpoError) as error:
        tiny(SAC, **changes)
    assert message in str(error.value)
    assert is_one_line(error)
