"""The released DPMD: its noise, its clock and its loss from their equations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simpo.agents import Mode, compile_act, compile_init, compile_updates
from simpo.agents.dpmd import ReleasedDPMD
from simpo.randomness import normal
from simpo.types import SimpoError, Transition
from tiny import SPEC, batches, tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SMALL = {"target_samples": 4, "acting_samples": 4, "alpha_interval": 3}


def start(**changes):
    agent = tiny(ReleasedDPMD, **SMALL | changes)
    return agent, compile_init(agent, SPEC)(jax.random.key(0))


def one(seed):
    return Transition(*(x[:1] for x in batches(seed=seed)))


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def test_actor_and_averages_move_every_second_update():
    agent, state = start()
    update = compile_updates(agent)
    for k in range(4):
        before = [leaves(x) for x in (state.actor, state.acting.net, state.critics)]
        targets = leaves(state.target_critics)
        state, _ = update(state, one(k))
        after = [leaves(x) for x in (state.actor, state.acting.net, state.critics)]
        same = [
            all(np.array_equal(*pair) for pair in zip(x, y, strict=True))
            for x, y in zip(before, after, strict=True)
        ]
        due = k % 2 == 0
        assert same == [not due, not due, False]
        new = leaves(state.target_critics)
        expected = [
            t + due * agent.tau * (q - t)
            for t, q in zip(targets, after[2], strict=True)
        ]
        for x, y in zip(new, expected, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)


def test_the_noise_settles_where_its_entropy_is_the_target():
    """0.1 alpha = e^-0.9 / sqrt(2 pi e), whatever the dimension."""
    agent, state = start(alpha_interval=1, alpha_lr=0.05)
    tune = jax.jit(
        lambda state: jax.lax.fori_loop(
            0, 600, lambda i, s: agent.tune_noise(s, 3), state
        )
    )
    std = agent.noise * math.exp(float(tune(state).acting.log_alpha))
    assert std == pytest.approx(math.exp(-0.9) / math.sqrt(2 * math.pi * math.e), 1e-3)
    assert std == pytest.approx(0.0984, abs=1e-4)


def test_the_noise_is_tuned_at_its_interval():
    agent, state = start()
    alphas = [float(state.acting.log_alpha)]
    update = compile_updates(agent)
    for k in range(5):
        state, _ = update(state, one(k))
        alphas.append(float(state.acting.log_alpha))
    assert np.flatnonzero(np.diff(alphas)).tolist() == [0, 3]
    assert alphas[1] == pytest.approx(math.log(5) - agent.alpha_lr, abs=1e-5)


def test_weights_are_exponentials_of_clipped_standard_values():
    agent, state = start(weighted=True)
    state = state._replace(q_mean=jnp.array(0.5), q_std=jnp.array(2.0))
    q = jnp.array([-9.0, -1.0, 0.5, 2.5, 20.0])
    expected = np.exp(np.clip((np.asarray(q) - 0.5) / 2.0, -3, 3) / 5.0)
    weights = agent.weigh(q, state)
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-5)
    plain, state = start()
    assert (plain.weigh(q, state) == 1).all()


def test_the_target_and_the_actor_see_the_same_best_action():
    """y and the loss of one update, from the equations."""
    agent, state = start(reward_scale=0.2)
    batch = Transition(*(x[0] for x in batches()))
    keys = jax.random.split(jax.random.fold_in(state.key, 0), 3)

    @jax.jit
    def expected(state):
        samples = agent.model.sample(state.actor, keys[0], batch.next_obs, 4)
        q = state.critics.candidates(batch.next_obs, samples).min(0)
        action = samples[jnp.arange(8), q.argmax(-1)]
        noise = 0.5 * normal(keys[1], action.shape)
        action = jnp.clip(action + noise, -1, 1)
        y = 0.2 * batch.reward + agent.gamma * batch.discount * state.target_critics(
            batch.next_obs, action
        ).min(0)
        error = agent.model.matching_error(
            state.actor, keys[2], action[:, None], batch.next_obs
        )
        return y.mean(), error.mean()

    target, loss = expected(state)
    _, metrics = jax.jit(agent.update)(state, batch)
    np.testing.assert_allclose(metrics["q_target"], target, atol=1e-5)
    np.testing.assert_allclose(metrics["actor_loss"], loss, rtol=1e-5)


def test_evaluation_is_without_noise():
    agent, state = start()
    policy, obs = agent.policy(state), batches().obs[0]
    quiet, headline = agent.evaluating[0], compile_act(agent, agent.evaluating[0])
    assert quiet.label == "best-of-3-deterministic"
    a = headline(policy, obs, jax.random.key(1), 0)
    louder = policy._replace(actor=policy.actor._replace(log_alpha=jnp.array(9.0)))
    np.testing.assert_array_equal(a, headline(louder, obs, jax.random.key(1), 0))
    noisy = compile_act(agent, Mode(best_of=3))
    assert (np.abs(noisy(louder, obs, jax.random.key(1), 0)) == 1).mean() > 0.9


def test_own_noise_excludes_acting_noise():
    with pytest.raises(SimpoError, match="set noise"):
        ReleasedDPMD(acting_noise=0.1)
