"""DIPO: its ring of pairs, its action gradient, one update, a task it must solve."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plain_loop import is_one_line
from simpo.agents import Mode, compile_init, compile_updates
from simpo.agents.dipo import DIPO, Noiseless, Pairs
from simpo.bellman import Aggregate
from simpo.generative import DDPM, Diffusion, Flow
from simpo.networks import Critics
from simpo.types import EnvSpec, SimpoError, Transition
from tiny import SPEC, batches, tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(0)
GOAL = 0.6
NETWORKS = ("actor", "target_actor", "critics", "target_critics")


def small(**changes):
    settings = {
        "model": Flow(denoising_steps=3),
        "pairs": 70,
        "new_pairs": 3,
        "action_steps": 4,
        "target_interval": 2,
        "width": 32,
        "critic_width": 32,
        "batch_size": 64,
        "actor_lr_updates": 0,
        "max_grad_norm": 0.1,
    }
    return tiny(DIPO, **settings | changes)


def one_step_episodes(updates, seed=0):
    """Batches of a task of one step: reward -|a - 0.6 s|^2, so that a* = 0.6 s."""
    rng = np.random.default_rng(seed)
    obs = rng.uniform(-1, 1, (updates, 1, 64, 3)).astype(np.float32)
    action = rng.uniform(-1, 1, (updates, 1, 64, 2)).astype(np.float32)
    reward = -((action - GOAL * obs[..., :2]) ** 2).sum(axis=-1)
    data = Transition(obs, action, reward, np.zeros_like(reward), obs)
    return [Transition(*(x[k] for x in data)) for k in range(updates)]


def values(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


# --- the ring -------------------------------------------------------------------


def test_the_oldest_pairs_make_room():
    ring = Pairs.init(5, EnvSpec(obs_dim=1, action_dim=1))
    insert, held = jax.jit(Pairs.insert), []
    for k in range(5):
        rows = 10.0 * k + jnp.arange(4.0)[:, None]
        ring = insert(ring, rows, -rows, 2 if k else 4)
        held.append(ring.obs[:, 0].tolist())
        np.testing.assert_array_equal(ring.action, -ring.obs)
    assert held == [
        [0, 1, 2, 3, 0],
        [11, 1, 2, 3, 10],
        [11, 20, 21, 3, 10],
        [11, 20, 21, 30, 31],
        [40, 41, 21, 30, 31],
    ]
    assert int(ring.added) == 12 and int(ring.size) == 5


def test_only_pairs_that_were_inserted_are_drawn():
    ring = Pairs.init(100, SPEC)
    ring = ring.insert(jnp.ones((8, 3)), jnp.ones((8, 2)), jnp.int32(7))
    drawn = np.asarray(ring.draw(KEY, 500))
    assert set(drawn.tolist()) == set(range(7))
    full = ring._replace(added=jnp.int32(250))
    assert set(np.asarray(full.draw(KEY, 5000)).tolist()) == set(range(100))


def test_of_equal_slots_the_last_row_is_written():
    ring = Pairs(jnp.zeros((6, 1)), -jnp.ones((6, 1)), jnp.int32(6))
    slot = jnp.array([4, 2, 4, 0, 2, 4])
    after = jax.jit(Pairs.rewrite)(ring, slot, jnp.arange(6.0)[:, None])
    assert after.action[:, 0].tolist() == [3, -1, 4, -1, 5, -1]
    np.testing.assert_array_equal(after.obs, ring.obs)


# --- the action gradient --------------------------------------------------------


def plain_improvement(agent, critics, obs, action):
    """M steps of Adam by hand, on derivatives by finite differences."""
    m = v = np.zeros(action.shape)

    @jax.jit
    def value(action):
        q = critics(jnp.asarray(obs), action)
        return q.min(axis=0) if agent.action_critic is Aggregate.MIN else q.mean(axis=0)

    for t in range(1, agent.action_steps + 1):
        grad = np.zeros(action.shape)
        for d in range(action.shape[1]):
            nudge = 1e-2 * np.eye(action.shape[1])[d]
            up, down = (value(jnp.asarray(action + s * nudge)) for s in (1, -1))
            grad[:, d] = -(np.asarray(up) - np.asarray(down)) / 2e-2
        norm = np.sqrt((grad**2).sum())
        grad *= min(1.0, agent.action_norm * action.shape[1] / norm)
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        root = np.sqrt(v / (1 - 0.999**t)) + agent.adam_eps
        action = action - agent.action_lr * (m / (1 - 0.9**t)) / root
        action = np.clip(action, -1, 1)
    return action


@pytest.mark.parametrize("how", Aggregate)
def test_actions_climb_by_adam(how):
    agent = small(action_steps=20, action_critic=how, adam_eps=1e-3)
    # Without a second layer Q is as smooth as finite differences need.
    critics = Critics.init(KEY, 3, 2, width=8, depth=1, activation="tanh")
    batch = batches().obs[0], batches().action[0]
    found = np.asarray(jax.jit(agent.improve)(critics, *batch))
    expected = plain_improvement(agent, critics, *batch)
    # Where the two critics cross, a nudge sees both.
    q = np.asarray(critics(*batch)), np.asarray(critics(batch[0], found))
    apart = (np.sign(q[0][0] - q[0][1]) == np.sign(q[1][0] - q[1][1])).nonzero()
    assert len(apart[0]) > 4
    np.testing.assert_allclose(found[apart], expected[apart], atol=0.03)
    assert np.abs(found - batch[1]).mean() > 0.1


def test_the_norm_is_clipped_over_the_batch():
    """Epsilon far above the gradient makes Adam's step proportional to it."""
    critics = Critics.init(KEY, 3, 2, width=8, depth=1)
    obs, action = batches().obs[0], 0.1 * batches().action[0]

    @jax.jit
    def both():
        settings = {"action_steps": 1, "action_lr": 1.0, "adam_eps": 100.0}
        agents = [small(action_norm=norm, **settings) for norm in (1e3, 0.05)]
        found = [agent.improve(critics, obs, action) - action for agent in agents]
        return jax.grad(lambda a: critics(obs, a).min(axis=0).sum())(action), *found

    grad, free, clipped = both()
    total = float(jnp.linalg.norm(grad))
    assert total > 0.1
    np.testing.assert_allclose(free, grad / 100, rtol=0.05, atol=1e-6)
    expected = 0.05 * 2 / total * grad / 100
    np.testing.assert_allclose(clipped, expected, rtol=0.05, atol=1e-6)


def test_actions_climb_and_stay_in_the_box():
    critics = Critics.init(KEY, 3, 2, width=16, depth=2)
    obs, action = batches(1, 64).obs[0], batches(1, 64).action[0]

    @jax.jit
    def climb(obs, action):
        after = small(action_steps=100).improve(critics, obs, action)
        return after, critics(obs, action).min(0), critics(obs, after).min(0)

    after, q, better = climb(obs, action)
    assert (np.abs(after) <= 1).all() and (np.abs(after) == 1).any()
    assert (np.asarray(better) > np.asarray(q) - 1e-4).mean() > 0.95
    assert float((better - q).mean()) > 0.1


# --- updates --------------------------------------------------------------------


@partial(jax.jit, static_argnums=0)
def plain_networks(agent, state, batch, ring_obs, ring_action):
    """DIPO's networks once more; Adam is optax's, the action gradient checked above."""
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), 3)

    def average(old, new, rate):
        return jax.tree.map(lambda o, n: (1 - rate) * o + rate * n, old, new)

    action = agent.model.sample(state.target_actor, keys[0], batch.next_obs, 1)[:, 0]
    next_q = jnp.min(state.target_critics(batch.next_obs, action), axis=0)
    y = agent.reward_scale * batch.reward + agent.gamma * batch.discount * next_q
    grads = jax.grad(lambda c: jnp.mean((c(batch.obs, batch.action) - y) ** 2))(
        state.critics
    )
    change, _ = agent.critic_optimiser.update(grads, state.critic_opt)
    critics = jax.tree.map(jnp.add, state.critics, change)
    better = agent.improve(critics, ring_obs, ring_action)

    def mismatch(actor):
        error = agent.model.matching_error(actor, keys[2], better[:, None], ring_obs)
        return jnp.mean(error)

    change, _ = agent.actor_optimiser.update(
        jax.grad(mismatch)(state.actor), state.actor_opt
    )
    actor = jax.tree.map(jnp.add, state.actor, change)
    rate = jnp.where(state.step % 2 == 0, agent.tau, 0.0)
    return better, state._replace(
        actor=actor,
        target_actor=average(state.target_actor, actor, rate),
        critics=critics,
        target_critics=average(state.target_critics, critics, agent.tau),
    )


def plain_update(agent, state, batch):
    """The ring by loops; then the networks."""
    obs, action = (np.array(x) for x in state.pairs[:2])
    added, step = int(state.pairs.added), int(state.step)
    for i in range(agent.new_pairs if step else len(batch.obs)):
        obs[added % agent.pairs] = batch.obs[i]
        action[added % agent.pairs] = batch.action[i]
        added += 1
    draw_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)[1]
    held = min(added, agent.pairs)
    slot = np.asarray(jax.random.randint(draw_key, batch.obs.shape[:1], 0, held))
    better, new = plain_networks(agent, state, batch, obs[slot], action[slot])
    for i, row in enumerate(slot):
        action[row] = better[i]
    return new._replace(pairs=Pairs(obs, action, added))


def test_an_update_is_the_algorithm_and_finds_the_best_action():
    agent, data = small(), one_step_episodes(150)
    update, state = compile_updates(agent), compile_init(agent, SPEC)(KEY)
    act = jax.jit(lambda s: agent.act(agent.policy(s), data[0].obs[0], KEY, Mode()))
    goal = GOAL * data[0].obs[0, :, :2]
    assert np.abs(act(state) - goal).mean() > 0.5
    for k, one in enumerate(data[:6]):  # 64 + 5 * 3 pairs: the ring of 70 wraps
        # Some go on, so that y has a next value in it.
        one = one._replace(discount=np.float32(np.arange(64) % 2)[None])
        expected = plain_update(agent, state, Transition(*(x[0] for x in one)))
        state, metrics = update(state, one)
        assert float(metrics["pairs"][0]) == min(64 + 3 * k, 70)
        assert float(metrics["action_shift"][0]) > 0.01
        assert float(metrics["action_gain"][0]) > 0
        for name in (*NETWORKS, "pairs"):
            pair = values(getattr(state, name)), values(getattr(expected, name))
            for x, y in zip(*pair, strict=True):
                np.testing.assert_allclose(x, y, atol=5e-5, err_msg=name)
    for one in data[6:]:
        state, _ = update(state, one)
    assert np.abs(act(state) - goal).mean() < 0.2


@pytest.mark.parametrize("write_back", [True, False])
def test_without_writing_back_the_ring_holds_what_was_executed(write_back):
    agent, (one,) = small(write_back=write_back), one_step_episodes(1)
    batch = Transition(*(x[0] for x in one))
    ring = jax.jit(lambda s: agent.update(s, batch)[0].pairs)
    pairs = ring(compile_init(agent, SPEC)(KEY))
    np.testing.assert_array_equal(pairs.obs[:64], batch.obs)
    assert np.array_equal(pairs.action[:64], batch.action) != write_back


# --- acting ---------------------------------------------------------------------


def test_deterministic_steps_add_no_noise():
    model = Diffusion(denoising_steps=5)
    plain = model.steps()
    quiet = Diffusion(denoising_steps=5, sampler=Noiseless(DDPM())).steps()
    assert plain.noise.any() and not quiet.noise.any()
    for name in ("time", "alpha", "sigma", "keep", "clean", "previous"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(quiet, name))

    @partial(jax.jit, static_argnums=0)
    def act(agent, state):
        modes = (Mode(), Mode(deterministic=True), Mode(deterministic=True, noise=0.1))
        obs, policy = batches().obs[0], agent.policy(state)
        return [agent.act(policy, obs, KEY, mode) for mode in modes]

    state = compile_init(small(), SPEC)(KEY)
    noisy, still, moved = act(small(model=model), state)
    assert not np.array_equal(noisy, still) and not np.array_equal(still, moved)
    single, same, _ = act(small(), state)  # a flow's steps have no noise
    np.testing.assert_array_equal(single, same)


def test_defaults_are_those_of_the_released_code():
    agent = DIPO()
    assert isinstance(agent.model, Diffusion) and agent.model.denoising_steps == 100
    assert (agent.action_steps, agent.action_lr, agent.action_norm) == (20, 0.03, 0.1)
    assert (agent.max_grad_norm, agent.adam_eps, agent.tau) == (2.0, 1e-5, 0.005)
    assert agent.collecting == Mode()
    single = Mode(deterministic=True)
    assert agent.evaluating == (single, Mode(best_of=10, deterministic=True))
    assert DIPO(best_of=1).evaluating == (single,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: 0}, f"{name} must be at least 1")
            for name in ("new_pairs", "action_steps", "target_interval")
        ),
        ({"action_lr": 0.0}, "action_lr must be positive and finite"),
        ({"action_norm": -1.0}, "action_norm must be positive and finite"),
        ({"pairs": 255}, "a batch of 256 must hold new_pairs = 1 and fit into pairs"),
        ({"new_pairs": 257}, "a batch of 256 must hold new_pairs = 257"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(SimpoError, match=message) as error:
        DIPO(**changes)
    assert is_one_line(error)
