"""What is particular to TD3: smoothing, delays, updates, the best actions of a task."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plain_loop import is_one_line
from simpo.agents.base import Mode, compile_act, compile_init, compile_updates
from simpo.agents.td3 import TD3
from simpo.randomness import normal
from simpo.types import EnvSpec, SimpoError, Transition
from tiny import SPEC, batches, tiny

KEY = jax.random.key(0)
AGENT = tiny(TD3, target_noise=0.5)  # a third of the noise is clipped
PORT = tiny(TD3, policy_interval=1, policy_critics=2)


def assert_close(a, b, **tolerance):
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def same(a, b):
    pairs = zip(*map(jax.tree.leaves, (a, b)), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def one(seed):
    return Transition(*(x[0] for x in batches(1, seed=seed)))


def steps(agent, count):
    """Updates one at a time: state, batch, state after, metrics of each."""
    update, state, rows = jax.jit(agent.update), compile_init(agent, SPEC)(KEY), []
    for k in range(count):
        new, metrics = update(state, one(k))
        rows.append((state, one(k), new, metrics))
        state = new
    return rows


@pytest.fixture(scope="module")
def rows():
    """Six updates: the actor's turn is the first, third and fifth."""
    return steps(AGENT, 6)


# --- one update -----------------------------------------------------------------


@partial(jax.jit, static_argnums=(0, 1))
def plain_update(agent, turn, state, batch):
    """One update once more, from its equations."""
    key, old = jax.random.fold_in(state.key, state.step), state.delayed
    action = jnp.tanh(old.target_actor(batch.next_obs))
    noise = jnp.clip(agent.target_noise * normal(key, action.shape), -0.5, 0.5)
    q1, q2 = old.target_critics(batch.next_obs, jnp.clip(action + noise, -1, 1))
    y = agent.gamma * batch.discount * jnp.minimum(q1, q2)
    y = agent.reward_scale * batch.reward + y

    def critic_error(critics):
        q1, q2 = critics(batch.obs, batch.action)
        return 0.5 * jnp.mean((q1 - y) ** 2) + 0.5 * jnp.mean((q2 - y) ** 2)

    grads = jax.grad(critic_error)(state.critics)
    change, _ = optax.adam(agent.critic_lr).update(grads, state.critic_opt)
    critics = jax.tree.map(jnp.add, state.critics, change)
    if not turn:
        return critics, old

    def actor_error(actor):
        q = critics(batch.obs, jnp.tanh(actor(batch.obs)))
        return -jnp.mean(q[: agent.policy_critics])

    loss, grads = jax.value_and_grad(actor_error)(old.actor)
    change, _ = optax.adam(agent.actor_rate).update(grads, old.actor_opt)
    actor = jax.tree.map(jnp.add, old.actor, change)

    def average(target, online):
        tau = agent.tau
        return jax.tree.map(lambda t, o: (1 - tau) * t + tau * o, target, online)

    return critics, old._replace(
        actor=actor,
        target_actor=average(old.target_actor, actor),
        target_critics=average(old.target_critics, critics),
        loss=loss,
    )


@pytest.mark.parametrize("agent", [AGENT, PORT], ids=["paper", "port"])
def test_an_update_is_the_algorithm(agent, request):
    rows = request.getfixturevalue("rows") if agent is AGENT else steps(PORT, 2)
    for k, (state, batch, new, metrics) in enumerate(rows):
        turn = k % agent.policy_interval == 0
        critics, delayed = plain_update(agent, turn, state, batch)
        assert_close(new.critics, critics, atol=2e-5)
        for name in ("actor", "target_actor", "target_critics", "loss"):
            ours, expected = getattr(new.delayed, name), getattr(delayed, name)
            assert_close(ours, expected, atol=2e-5, err_msg=name)
        loss = float(delayed.loss)
        assert float(metrics["actor_loss"]) == pytest.approx(loss, abs=1e-5)


def test_only_the_critics_move_between_the_actors_turns(rows):
    for k, (state, _, new, metrics) in enumerate(rows):
        turn = k % 2 == 0
        assert not same(state.critics, new.critics)
        assert not same(state.critic_opt, new.critic_opt)
        for name in ("actor", "target_actor", "target_critics", "actor_opt"):
            old, now = getattr(state.delayed, name), getattr(new.delayed, name)
            assert same(old, now) is not turn, name
        for name in ("actor_loss", "actor_grad_norm"):  # those of the last turn
            assert (metrics[name] == rows[k - k % 2][3][name]) and metrics[name] != 0
        assert all(np.isfinite(x) for x in metrics.values())


def test_the_logged_rate_is_the_one_used(rows):
    """Annealed by update of the actor: ten of them, here, from 0.01 to 0.00003."""
    for k, (*_, metrics) in enumerate(rows):
        expected = 1e-2 + (3e-5 - 1e-2) * (k // 2) / 10
        assert float(metrics["learning_rate"]) == pytest.approx(expected, rel=1e-5)
    counts = optax.tree_utils.tree_get_all_with_path(
        rows[-1][2].delayed.actor_opt, "count"
    )
    assert [int(count) for _, count in counts] == [3, 3]


# --- target policy smoothing ----------------------------------------------------


def test_target_actions_are_smoothed_within_the_limit_and_the_box():
    agent = TD3(target_noise=0.2, target_noise_limit=0.5)
    obs = jnp.repeat(jnp.array([[0.0], [0.4], [9.0]]), 20_000, axis=0)
    smoothed = np.asarray(agent.smoothed(lambda obs: obs, obs, KEY)).reshape(3, -1)
    action = np.tanh([0.0, 0.4, 9.0])[:, None]
    noise = smoothed - action
    assert np.abs(smoothed).max() == 1.0
    assert np.abs(noise).max() == pytest.approx(0.5, abs=1e-6)
    assert noise[0].std() == pytest.approx(0.2, rel=0.03)  # 0.5 is 2.5 sigma
    assert np.mean(np.abs(noise[0]) > 0.49999) == pytest.approx(0.0124, abs=0.004)
    assert np.mean(smoothed[2] == 1.0) == pytest.approx(0.5, abs=0.02)


def test_without_noise_the_target_is_the_target_policys_action():
    agent, obs = TD3(target_noise=0.0), jnp.linspace(-2, 2, 9)[:, None]
    smoothed = agent.smoothed(lambda obs: obs, obs, KEY)
    np.testing.assert_allclose(smoothed, np.tanh(obs), atol=1e-6)


# --- acting ---------------------------------------------------------------------


def test_the_policy_is_deterministic_but_for_noise(rows):
    agent, obs = AGENT, batches().obs[0]
    policy = agent.policy(rows[-1][2])
    expected = np.tanh(policy.actor(obs))
    for mode in (Mode(), Mode(deterministic=True), Mode(best_of=5)):
        act = compile_act(agent, mode)
        for step in (0, 1):
            np.testing.assert_allclose(act(policy, obs, KEY, step), expected, atol=1e-6)
    noisy = compile_act(agent, agent.collecting)
    wide = np.repeat(obs, 5_000, axis=0)
    gap = np.asarray(noisy(policy, wide, KEY, 0)) - np.repeat(expected, 5_000, axis=0)
    inside = np.repeat(np.abs(expected) < 0.5, 5_000, axis=0)
    assert inside.any() and gap[inside].std() == pytest.approx(0.1, rel=0.03)


def test_modes_of_collecting_and_evaluating():
    assert TD3().collecting == Mode(noise=0.1)
    assert TD3().evaluating == (Mode(deterministic=True),)


# --- the best action of a known task --------------------------------------------


def test_it_finds_the_best_actions_and_their_values():
    """Two steps: from y = 1 to y = -1, where the episode ends with a bonus of one.

    Rewards fall off as the square of the distance from the best action, 0.4 x - 0.2 y;
    so the values of the best actions are 1 at the end and gamma before it.
    """
    updates, rng, gamma = 3000, np.random.default_rng(0), 0.5
    obs = rng.choice([-1.0, 1.0], (updates, 128, 2)).astype(np.float32)
    action = rng.uniform(-1, 1, (updates, 128, 1)).astype(np.float32)
    first = (obs[..., 1] > 0).astype(np.float32)
    slope = np.array([0.4, -0.2], np.float32)
    reward = 1 - first - (action[..., 0] - obs @ slope) ** 2
    later = obs * np.array([1.0, -1.0], np.float32)
    agent = TD3(
        width=16,
        depth=1,
        critic_width=32,
        critic_activation="tanh",
        actor_lr=3e-3,
        actor_lr_end=1e-4,
        actor_lr_updates=updates // 2,
        critic_lr=3e-3,
        gamma=gamma,
        tau=0.02,
        target_noise=0.0,
    )
    init = compile_init(agent, EnvSpec(obs_dim=2, action_dim=1))
    data = Transition(obs, action, reward, first, later)
    state, metrics = compile_updates(agent)(init(KEY), data)
    states = np.array([[x, y] for x in (-1, 1) for y in (-1, 1)], np.float32)
    found = compile_act(agent, Mode())(agent.policy(state), states, KEY, 0)
    np.testing.assert_allclose(found[:, 0], states @ slope, atol=0.1)
    values = jnp.minimum(*state.critics(states, found))
    np.testing.assert_allclose(values, [1, gamma, 1, gamma], atol=0.08)
    assert float(metrics["actor_loss"][-1]) == pytest.approx(-0.75, abs=0.1)


# --- mistakes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy_interval": 0}, "policy_interval must be at least 1"),
        ({"policy_critics": 0}, "policy_critics must be at least 1"),
        ({"policy_critics": 3}, "policy_critics must not exceed the 2 critics"),
        ({"target_noise": -0.1}, "target_noise must not be negative"),
        ({"target_noise_limit": float("nan")}, "target_noise_limit must not be"),
        ({"tau": 2.0}, "tau must be between 0 and 1"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(SimpoError) as error:
        tiny(TD3, **changes)
    assert message in str(error.value)
    assert is_one_line(error)
