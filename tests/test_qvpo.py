"""QVPO: its weights, one update from its equations, and a task it must solve."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plain_loop import is_one_line
from simpo.agents import Mode, compile_init, compile_updates
from simpo.agents.qvpo import QVPO
from simpo.bellman import Aggregate
from simpo.blocks import split_blocks
from simpo.generative import Flow
from simpo.types import SimpoError, Transition
from simpo.weighting import Advantage, Linear
from tiny import SPEC, batches, tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(0)
Q = np.random.default_rng(0).normal(3.0, 2.0, (20, 16)).astype(np.float32)


GOAL = 0.6


def small(**changes):
    settings = {
        "model": Flow(denoising_steps=3),
        "candidates": 16,
        "uniform_actions": 3,
        "uniform_weight_updates": 3,
        "width": 32,
        "critic_width": 32,
        "critic_depth": 2,
        "batch_size": 64,
        "actor_lr": 3e-3,
        "actor_lr_updates": 0,
        "max_grad_norm": 0.1,
        "tau": 0.02,
    }
    return tiny(QVPO, **settings | changes)


def one_step_episodes(updates, seed=0):
    """Batches of a task of one step: reward -|a - 0.6 s|^2, so that a* = 0.6 s."""
    rng = np.random.default_rng(seed)
    obs = rng.uniform(-1, 1, (updates, 1, 64, 3)).astype(np.float32)
    action = rng.uniform(-1, 1, (updates, 1, 64, 2)).astype(np.float32)
    reward = -2 * ((action - GOAL * obs[..., :2]) ** 2).sum(axis=-1)
    data = Transition(obs, action, reward, np.zeros_like(reward), obs)
    return [Transition(*(x[k] for x in data)) for k in range(updates)]


@pytest.fixture(scope="module")
def state():
    """After some updates: the averages differ from what they average."""
    agent = small()
    state = compile_init(agent, SPEC)(KEY)
    for one in one_step_episodes(3):
        state, _ = compile_updates(agent)(state, one)
    return state


def values(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


# --- weights --------------------------------------------------------------------


def test_the_weights_are_those_of_linear_with_the_multiplier_fixed_at_the_mean():
    """Linear chooses nu itself; at the temperature where it is V, both agree."""
    weights, v = Advantage()(Q, 1.0)
    np.testing.assert_allclose(v[:, 0], Q.mean(axis=1), rtol=1e-6)
    temperature = weights.sum(axis=1, keepdims=True)
    linear = Linear()(Q, temperature)
    np.testing.assert_allclose(linear.multiplier, v, rtol=1e-6, atol=1e-6)
    n = Q.shape[1]
    np.testing.assert_allclose(n * weights / temperature, linear.values, atol=1e-6 * n)
    elsewhere = Linear()(Q, 2 * temperature)
    assert not np.allclose(elsewhere.multiplier, v, atol=0.1)


def test_the_best_action_alone_is_kept_with_its_advantage():
    agent = QVPO(uniform_actions=0)
    actions = jax.random.uniform(KEY, (20, 16, 2), minval=-1)
    chosen, weights = agent.choose(actions, Advantage()(jnp.asarray(Q), 1.0), KEY, 0)
    assert chosen.shape == (20, 1, 2) and weights.shape == (20, 1)
    for b in range(20):
        best = int(np.argmax(Q[b]))
        np.testing.assert_array_equal(chosen[b, 0], actions[b, best])
        assert float(weights[b, 0]) == pytest.approx(Q[b, best] - Q[b].mean(), abs=1e-5)


def test_all_candidates_can_be_kept():
    agent = QVPO(best_only=False, uniform_actions=0)
    actions = jax.random.uniform(KEY, (20, 16, 2), minval=-1)
    chosen, weights = agent.choose(actions, Advantage()(jnp.asarray(Q), 1.0), KEY, 0)
    np.testing.assert_array_equal(chosen, actions)
    expected = np.maximum(Q - Q.mean(axis=1, keepdims=True), 0)
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    assert (expected == 0).any()


@pytest.mark.parametrize("best_only", [True, False])
def test_uniform_actions_cover_the_box_with_a_share_of_the_weight(best_only):
    agent = QVPO(best_only=best_only, uniform_actions=50, uniform_weight=0.1)
    actions, kept = jnp.zeros((20, 16, 2)), 1 if best_only else 16
    chosen, weights = agent.choose(actions, Advantage()(jnp.asarray(Q), 1.0), KEY, 0)
    uniform = np.asarray(chosen[:, kept:])
    assert uniform.shape == (20, 50, 2)
    assert uniform.min() < -0.98 and uniform.max() > 0.98
    assert np.abs(uniform).max() <= 1
    assert uniform.std() == pytest.approx(1 / np.sqrt(3), rel=0.05)
    total = np.asarray(weights[:, :kept]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights[:, kept:], 0.1 * total * np.ones(50), rtol=1e-5)


def test_equal_values_teach_nothing():
    agent = QVPO()
    weights = Advantage()(jnp.full((3, 4), 7.0), 1.0)
    _, kept = agent.choose(jnp.zeros((3, 4, 2)), weights, KEY, 0)
    np.testing.assert_array_equal(kept, np.zeros((3, 11)))


def test_the_weight_of_uniform_actions_falls_to_a_tenth():
    agent = QVPO()
    found = [float(agent.eta(jnp.int32(k))) for k in (0, 500_000, 900_000, 2_000_000)]
    assert found == pytest.approx([0.02, 0.01, 0.002, 0.002], rel=1e-4)
    off = QVPO(uniform_weight=0.0)
    assert float(off.eta(jnp.int32(0))) == 0  # the smallest eta is no larger


def test_explained_weights_are_those_of_the_update(state):
    obs = batches().obs[0]
    best, every = small(), small(best_only=False)
    explain = jax.jit(lambda s: (best.explain(s, obs, KEY), every.explain(s, obs, KEY)))
    (q, alone), (same, all_) = (map(np.asarray, pair) for pair in explain(state))
    np.testing.assert_array_equal(q, same)
    advantage = np.maximum(q - q.mean(axis=1, keepdims=True), 0)
    np.testing.assert_allclose(all_, advantage, atol=1e-6)
    np.testing.assert_array_equal((alone > 0).sum(axis=1), np.ones(8))
    np.testing.assert_allclose(alone.max(axis=1), advantage.max(axis=1), atol=1e-6)
    np.testing.assert_array_equal(alone.argmax(axis=1), q.argmax(axis=1))


# --- updates --------------------------------------------------------------------


def adam_step(agent, rate, opt, params, grads):
    """Adam with the released epsilon behind a clip of the global norm."""
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
    shrink = jnp.minimum(1.0, agent.max_grad_norm / norm)
    grads = jax.tree.map(lambda g: shrink * g, grads)
    opt = optax.tree_utils.tree_get(opt, "mu"), optax.tree_utils.tree_get(opt, "nu")
    mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, opt[0], grads)
    nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, opt[1], grads)

    def move(p, m, v, t):
        m, v = m / (1 - 0.9**t), v / (1 - 0.999**t)
        return p - rate * m / (jnp.sqrt(v) + agent.adam_eps)

    return lambda t: jax.tree.map(lambda p, m, v: move(p, m, v, t), params, mu, nu)


@partial(jax.jit, static_argnums=0)
def plain_update(agent, state, batch):
    """QVPO once more, from its equations, with the weights as constants."""
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), 4)
    t, rows = state.step + 1.0, jnp.arange(batch.obs.shape[0])

    def lower(critics, obs, actions):
        b, n, a = actions.shape
        q = critics(jnp.repeat(obs, n, axis=0), actions.reshape(b * n, a))
        return jnp.min(q, axis=0).reshape(b, n)

    drawn = agent.model.sample(
        state.target_actor, keys[0], batch.next_obs, agent.target_samples
    )
    next_q = lower(state.target_critics, batch.next_obs, drawn).max(axis=1)
    y = agent.reward_scale * batch.reward + agent.gamma * batch.discount * next_q
    grads = jax.grad(lambda c: jnp.mean((c(batch.obs, batch.action) - y) ** 2))(
        state.critics
    )
    step = adam_step(agent, agent.critic_lr, state.critic_opt, state.critics, grads)
    critics = step(t)

    actions = agent.model.sample(state.actor, keys[1], batch.obs, agent.candidates)
    q = lower(critics, batch.obs, actions)
    weights = jnp.maximum(q - q.mean(axis=-1, keepdims=True), 0.0)
    actions = actions[rows, q.argmax(axis=-1)][:, None]
    weights = weights.max(axis=-1)[:, None]
    shape = (*rows.shape, agent.uniform_actions, actions.shape[-1])
    with jax.threefry_partitionable(False):
        anywhere = jax.random.uniform(keys[2], shape, minval=-1.0, maxval=1.0)
    eta = jnp.maximum(0.02 * (1 - state.step / agent.uniform_weight_updates), 0.002)
    extra = eta * weights.sum(axis=-1, keepdims=True) * jnp.ones(shape[:2])
    actions = jnp.concatenate([actions, anywhere], axis=1)
    weights = jnp.concatenate([weights, extra], axis=1)

    def mismatch(actor):
        (key,), _ = split_blocks(keys[3], batch.obs, weights.shape[1])
        error = agent.model.matching_error(actor, key, actions, batch.obs)
        return jnp.mean(weights[..., None] * error)

    grads = jax.grad(mismatch)(state.actor)
    actor = adam_step(agent, agent.actor_lr, state.actor_opt, state.actor, grads)(t)

    def average(old, new):
        return jax.tree.map(lambda o, n: (1 - agent.tau) * o + agent.tau * n, old, new)

    return state._replace(
        actor=actor,
        target_actor=average(state.target_actor, actor),
        critics=critics,
        target_critics=average(state.target_critics, critics),
    )


def test_an_update_is_the_algorithm_and_finds_the_best_action():
    agent, data = small(), one_step_episodes(300)
    update, state = compile_updates(agent), compile_init(agent, SPEC)(KEY)
    act = jax.jit(lambda s: agent.act(agent.policy(s), data[0].obs[0], KEY, Mode()))
    goal = GOAL * data[0].obs[0, :, :2]
    assert np.abs(act(state) - goal).mean() > 0.5
    for one in data[:4]:
        # Some go on, so that y has a next value in it.
        one = one._replace(discount=np.float32(np.arange(64) % 2)[None])
        expected = plain_update(agent, state, Transition(*(x[0] for x in one)))
        state, metrics = update(state, one)
        assert float(metrics["critic_grad_norm"][0]) > agent.max_grad_norm
        for name in ("actor", "target_actor", "critics", "target_critics"):
            pair = values(getattr(state, name)), values(getattr(expected, name))
            for x, y in zip(*pair, strict=True):
                np.testing.assert_allclose(x, y, atol=2e-5, err_msg=name)
    for one in data[4:]:
        state, _ = update(state, one)
    assert np.abs(act(state) - goal).mean() < 0.15


def test_the_target_takes_the_best_of_the_averaged_actor(state):
    batch = Transition(*(x[0] for x in batches(1)))

    @jax.jit
    def targets(state):
        agents = [small(target_samples=n) for n in (1, 20)]
        other = state._replace(actor=jax.tree.map(lambda x: 3 * x, state.actor))
        found = [agent.update(state, batch)[1] for agent in agents]
        found.append(agents[0].update(other, batch)[1])
        return [metrics["q_target"] for metrics in found]

    single, best, same = targets(state)
    assert float(best) > float(single) == float(same)


def test_defaults_are_those_of_the_released_code():
    agent = QVPO()
    assert agent.candidates == 64 and agent.uniform_actions == 10
    assert agent.weight_critic is agent.target_critic is Aggregate.MIN
    assert agent.collecting == Mode(best_of=4)
    assert agent.evaluating == (Mode(), Mode(best_of=32))
    assert (agent.actor_lr, agent.critic_lr, agent.max_grad_norm) == (1e-4, 3e-4, 2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"uniform_weight_updates": 0}, "uniform_weight_updates must be at least 1"),
        ({"uniform_actions": -1}, "uniform_actions must not be negative"),
        ({"uniform_weight": -0.1}, "uniform_weight must not be negative"),
        ({"uniform_weight_end": -0.1}, "uniform_weight_end must not be negative"),
        ({"adam_eps": 0.0}, "adam_eps must be positive and finite"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(SimpoError, match=message) as error:
        QVPO(**changes)
    assert is_one_line(error)
