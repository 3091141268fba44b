"""What agents on policy share: advantages, running scales, minibatches, rollouts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plain_loop import is_one_line
from plain_rollout import plain_advantages, plain_returns, random_rollout
from simpo.agents.base import Mode, compile_init, compile_updates
from simpo.agents.normalisation import Moments, discounted_returns
from simpo.agents.onpolicy import clipped_surrogate, minibatch_rows, standardise
from simpo.agents.ppo import PPO
from simpo.bellman import advantages
from simpo.rollout import RolloutBuffer
from simpo.types import Rollout, SimpoError, Transition
from tiny import SPEC, tiny

KEY = jax.random.key(0)


# --- advantages -----------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.7, 0.99])
def test_advantages_are_sums_of_errors_to_the_end_of_the_episode(decay):
    rollout = random_rollout(2, steps=20, envs=4)
    died = (rollout.discount == 0) & (rollout.last == 1)
    cut = (rollout.discount == 1) & (rollout.last == 1)
    assert died.any() and cut.any() and not rollout.last.all(axis=0).any()
    value, next_value = np.random.default_rng(1).normal(size=(2, 20, 4))
    found = advantages(
        rollout.reward, 0.9 * rollout.discount, rollout.last, value, next_value, decay
    )
    expected = plain_advantages(rollout, rollout.reward, value, next_value, 0.9, decay)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_with_lambda_one_advantages_are_returns_less_values():
    reward, value = np.random.default_rng(0).normal(size=(2, 5, 1))
    next_value = np.append(value[1:], [[2.0]], axis=0)
    gamma, alive, goes_on = 0.9, np.ones((5, 1)), np.zeros((5, 1))
    found = advantages(reward, gamma * alive, goes_on, value, next_value, gamma)
    rewards = np.append(reward[:, 0], 2.0)
    returns = [rewards[t:] @ gamma ** np.arange(6 - t) for t in range(5)]
    np.testing.assert_allclose(found[:, 0], returns - value[:, 0], atol=1e-5)


def test_a_cut_episode_bootstraps_from_its_own_end_and_leaks_nothing():
    """Everything after the cut may change; the advantages before it stay."""
    one = random_rollout(2, steps=4, envs=1)
    one = one._replace(
        last=np.array([[0.0], [1.0], [0.0], [0.0]]), discount=np.ones((4, 1))
    )
    value = np.zeros((4, 1))

    def found(reward, next_value):
        return advantages(reward, 0.9 * one.discount, one.last, value, next_value, 0.8)

    base = found(one.reward, value)
    later = found(one.reward + np.array([[0.0], [0.0], [5.0], [5.0]]), value)
    np.testing.assert_array_equal(base[:2], later[:2])
    assert (base[2:] != later[2:]).all()
    at_end = found(one.reward, np.array([[0.0], [10.0], [0.0], [0.0]]))
    np.testing.assert_allclose(at_end - base, [[7.2], [9.0], [0], [0]], atol=1e-5)


# --- running scales -------------------------------------------------------------


def test_moments_are_those_of_all_that_was_seen():
    rng = np.random.default_rng(0)
    parts = [rng.normal(5 * i, 1 + i, (3, 7 + i, 2)).astype("f4") for i in range(4)]
    moments = Moments.init(2)
    np.testing.assert_array_equal(moments.normalise(parts[0], np.inf), parts[0])
    for part in parts:
        moments = moments.update(part)
    seen = np.concatenate([part.reshape(-1, 2) for part in parts])
    np.testing.assert_allclose(moments.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.var, seen.var(0), rtol=1e-5)
    np.testing.assert_allclose(moments.std, seen.std(0), rtol=1e-5)
    assert moments.seen == len(seen)
    scaled = np.asarray(moments.normalise(seen, np.inf))
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), 1, rtol=1e-5)
    clipped = np.asarray(moments.normalise(seen, 0.5))
    np.testing.assert_array_equal(clipped, np.clip(scaled, -0.5, 0.5))
    assert (np.abs(clipped) == 0.5).any()


def test_moments_of_a_constant_stay_finite():
    moments = Moments.init(1).update(jnp.full((5, 1), 3.0))
    assert moments.normalise(jnp.full((1, 1), 3.0), 10.0) == 0.0
    assert moments.normalise(jnp.full((1, 1), 4.0), 10.0) == 10.0


def test_discounted_returns_start_again_with_every_episode():
    rollout = random_rollout(2, steps=15)
    found = discounted_returns(rollout, 0.9)
    np.testing.assert_allclose(found, plain_returns(rollout, 0.9), rtol=1e-4, atol=1e-5)


# --- minibatches ----------------------------------------------------------------


def test_every_epoch_uses_every_row_once_in_an_order_of_its_own():
    rows = np.asarray(minibatch_rows(KEY, 12, 4, 3))
    assert rows.shape == (9, 4)
    epochs = rows.reshape(3, 12)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(12), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_what_does_not_fill_a_batch_is_left_out():
    rows = np.asarray(minibatch_rows(KEY, 11, 4, 5)).reshape(5, 8)
    assert all(len(set(epoch)) == 8 for epoch in rows.tolist())
    assert set(rows.ravel().tolist()) == set(range(11))  # not the same ones every time


def test_a_small_rollout_is_one_batch():
    rows = minibatch_rows(KEY, 3, 64, 2)
    np.testing.assert_array_equal(np.sort(rows), [[0, 1, 2]] * 2)


def test_all_orders_are_equally_likely():
    rows = np.asarray(minibatch_rows(KEY, 3, 3, 6000))
    _, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(counts) == 6 and np.abs(counts - 1000).max() < 120  # 4 sigma


# --- the surrogate --------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),  # at pi_old: the policy gradient
        (1.1, 2.0, -2.2, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # gained enough
        (0.5, 2.0, -1.0, -2.0),  # too far the wrong way: comes back
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 2.0),
        (0.9, -2.0, 1.8, 2.0),
    ],
)
def test_the_surrogate_pays_no_further_than_the_clip(ratio, advantage, loss, slope):
    old = jnp.array([-3.0])

    def surrogate(ratio):
        log_prob = old + jnp.log(ratio)
        return clipped_surrogate(log_prob, old, jnp.array([advantage]), 0.2)[0]

    value, grad = jax.value_and_grad(surrogate)(ratio)
    assert value == pytest.approx(loss, rel=1e-5)
    assert grad == pytest.approx(slope, rel=1e-5)


def test_a_clip_range_of_each_row_and_the_metrics():
    ratio = np.array([1.3, 1.3, 0.6, 1.0])
    advantage, old = np.ones(4), np.zeros(4)
    clip = jnp.array([0.1, 0.5, 0.1, 0.1])
    loss, metrics = clipped_surrogate(jnp.log(ratio), old, advantage, clip)
    assert loss == pytest.approx(-(1.1 + 1.3 + 0.6 + 1.0) / 4)
    assert metrics["clip_fraction"] == 0.5
    kl = np.mean(ratio - 1 - np.log(ratio))
    assert metrics["approx_kl"] == pytest.approx(kl, rel=1e-5)


def test_the_estimate_of_the_divergence_is_unbiased():
    """KL(N(0, 1), N(m, 1)) = m^2 / 2."""
    x, m = jax.random.normal(KEY, (100_000,)), 0.5
    _, metrics = clipped_surrogate(m * x - m**2 / 2, jnp.zeros_like(x), x, 0.2)
    assert metrics["approx_kl"] == pytest.approx(m**2 / 2, rel=0.02)


def test_standardised_advantages():
    x = standardise(jnp.array([1.0, 2.0, 6.0]))
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-6)
    np.testing.assert_array_equal(standardise(jnp.array([3.0])), [0.0])


# --- an update ------------------------------------------------------------------


def small(**changes):
    return tiny(PPO, epochs=3, **changes)


def run(agent, *rollouts):
    """State and metrics after an update per rollout."""
    state = compile_init(agent, SPEC)(KEY)
    for rollout in rollouts:
        batch = Rollout(*(x[None] for x in rollout))
        state, metrics = compile_updates(agent)(state, batch)
    return state, {name: float(value[0]) for name, value in metrics.items()}


def test_scales_follow_the_rollouts_and_no_gradient():
    first, second = random_rollout(2), random_rollout(2, seed=1)
    agent = small()
    state, metrics = run(agent, first, second)
    obs = np.concatenate([r.obs.reshape(-1, 3) for r in (first, second)])
    np.testing.assert_allclose(state.actor.moments.mean, obs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state.actor.moments.var, obs.var(0), rtol=1e-5)
    totals = [plain_returns(r, agent.gamma).ravel() for r in (first, second)]
    std = np.concatenate(totals).std()
    assert metrics["return_std"] == pytest.approx(std, rel=1e-5)
    assert state.step == 2


def test_without_normalisation_nothing_is_scaled():
    agent = small(normalise=False)
    state, _ = agent.estimate(compile_init(agent, SPEC)(KEY), random_rollout(2))
    state = agent.finish(state, random_rollout(2))
    assert state.actor.moments.seen == state.returns.seen == 0
    x = 100 * jnp.ones((1, 3))
    np.testing.assert_array_equal(agent.observe(state.actor, x), x)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_factor_on_rewards_comes_after_their_scale(normalise):
    agent = replace(small(normalise=normalise), gamma=0.0, reward_scale=0.25)
    rollout = random_rollout(2)
    _, samples = agent.estimate(compile_init(agent, SPEC)(KEY), rollout)
    scale = rollout.reward.std() if normalise else 1.0
    expected = 0.25 * rollout.reward.ravel() / scale
    np.testing.assert_allclose(samples.value_target, expected, rtol=1e-4)


def test_an_update_stops_once_the_policy_has_gone_far_enough():
    rollout = random_rollout(2)
    _, all_of_it = run(small(), rollout)
    assert all_of_it["minibatches"] == 3 * (18 // 8)
    _, at_once = run(small(target_kl=1e-12), rollout)
    # The first minibatch is at pi_old itself, where the estimate is zero.
    assert at_once["minibatches"] == 2


def test_a_scale_of_rewards_changes_nothing():
    rollout = random_rollout(2)
    _, one = run(small(), rollout)
    _, ten = run(small(), rollout._replace(reward=10 * rollout.reward))
    for name in set(one) - {"return_std"}:
        assert ten[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_kl": 0.0},
        {"max_grad_norm": -1.0},
        {"normalised_clip": 0.0},
        {"adam_eps": 0.0},
        {"gae_lambda": 1.5},
        {"clip_range": 0.0},
        {"rollout_steps": 0},
        {"epochs": 0},
    ],
    ids=str,
)
def test_impossible_settings(wrong):
    with pytest.raises(SimpoError, match=next(iter(wrong))) as error:
        PPO(**wrong)
    assert is_one_line(error)


def test_evaluations_are_of_the_mean_first():
    assert PPO().evaluating == (Mode(deterministic=True), Mode())


# --- the buffer -----------------------------------------------------------------


def one_step(number, rows=2):
    """A step of `rows` environments, told apart by its number."""
    column = number + 0.1 * np.arange(rows, dtype=np.float32)
    obs = np.stack([column] * 3, axis=-1)
    clipped = np.zeros((rows, 1), np.float32)
    return Transition(obs, clipped, column, np.ones(rows, np.float32), obs + 1)


def test_a_rollout_has_its_steps_in_order():
    buffer = RolloutBuffer(3)
    for t in range(3):
        assert not buffer.full
        decision = np.full((2, 4), t, np.float32)
        buffer.add(one_step(t), decision, np.array([False, t == 1]))
    assert buffer.full
    rollout = buffer.take()
    assert not buffer.full and buffer.rows == []
    shapes = [(1, 3, 2, 3), (1, 3, 2, 4), *[(1, 3, 2)] * 3, (1, 3, 2, 3)]
    assert [x.shape for x in rollout] == shapes
    assert {x.dtype for x in rollout} == {np.dtype(np.float32)}
    np.testing.assert_allclose(rollout.reward[0], [[0, 0.1], [1, 1.1], [2, 2.1]])
    np.testing.assert_array_equal(rollout.last[0], [[0, 0], [0, 1], [0, 0]])
    np.testing.assert_array_equal(rollout.decision[0, :, 0, 0], [0, 1, 2])
    np.testing.assert_array_equal(rollout.next_obs, rollout.obs + 1)


def test_a_step_that_some_environments_skipped_is_refused():
    buffer = RolloutBuffer(3)
    with pytest.raises(SimpoError, match="--backend gymnasium") as error:
        buffer.add(one_step(0, rows=1), np.zeros((2, 4)), np.zeros(2, bool))
    assert is_one_line(error)
    assert not buffer.rows
