"""PPO: its policy, an update from the equations, a task whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from plain_loop import is_one_line
from plain_rollout import plain_update, practise, random_rollout
from simpo.agents.base import Mode, compile_act, compile_init, compile_updates
from simpo.agents.ppo import PPO
from simpo.types import Rollout, SimpoError
from tiny import SPEC, tiny

KEY = jax.random.key(0)
AGENT = tiny(PPO, epochs=3, clip_range=0.05, head_scale=1.0, entropy_coefficient=0.1)
OBS = np.random.default_rng(3).normal(size=(500, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def policy():
    """After an update, so that the moments are not those of nothing."""
    state, _ = compile_updates(AGENT)(fresh(), leading(random_rollout(2)))
    return AGENT.policy(state)


def fresh():
    return compile_init(AGENT, SPEC)(KEY)


def leading(rollout):
    return Rollout(*(x[None] for x in rollout))


def test_the_policy_is_gaussian(policy):
    net = policy.actor.net
    mean, std = np.asarray(net.mean(OBS)), np.exp(net.log_std)
    action = np.random.default_rng(0).normal(size=mean.shape).astype(np.float32)
    expected = stats.norm.logpdf(action, mean, std).sum(-1)
    np.testing.assert_allclose(net.log_prob(OBS, action), expected, atol=1e-5)
    assert net.entropy() == pytest.approx(stats.norm(0, std).entropy().sum(), rel=1e-6)


def test_decisions_are_samples_of_it_and_leave_the_box(policy):
    obs = np.tile(OBS[:1], (20_000, 1))
    decision = np.asarray(AGENT.decide(policy, obs, KEY))
    moments = policy.actor.moments
    mean = policy.actor.net.mean((OBS[:1] - moments.mean) / moments.std)
    std = np.exp(policy.actor.net.log_std)
    for i in range(2):
        fit = stats.kstest(decision[:, i], stats.norm(mean[0, i], std[i]).cdf)
        assert fit.pvalue > 0.01
    assert (np.abs(decision) > 1).mean() > 0.1


def test_acting_clips_and_the_mean_has_no_randomness(policy):
    single, mean = (
        compile_act(AGENT, mode) for mode in (Mode(), Mode(deterministic=True))
    )
    drawn = np.asarray(single(policy, OBS, KEY, 0))
    assert (np.abs(drawn) == 1).mean() > 0.1 and (np.abs(drawn) <= 1).all()
    quiet = np.asarray(mean(policy, OBS, KEY, 0))
    np.testing.assert_array_equal(quiet, mean(policy, OBS, KEY, 1))
    expected = policy.actor.net.mean(AGENT.observe(policy.actor, OBS))
    np.testing.assert_allclose(quiet, np.clip(expected, -1, 1), atol=1e-6)


def test_there_is_nothing_to_choose_by(policy):
    with pytest.raises(SimpoError, match="no action values") as error:
        compile_act(AGENT, Mode(best_of=2))(policy, OBS, KEY, 0)
    assert is_one_line(error)


def test_a_fresh_policy_starts_from_zero():
    net = compile_init(PPO(log_std_init=-0.5), SPEC)(KEY).actor.net
    assert 0 < np.abs(net.mean(OBS)).max() < 0.05
    np.testing.assert_array_equal(net.log_std, [-0.5, -0.5])


@pytest.mark.parametrize("wrong", [{"head_scale": 0.0}, {"entropy_coefficient": -0.1}])
def test_impossible_settings(wrong):
    with pytest.raises(SimpoError, match=next(iter(wrong))):
        PPO(**wrong)


def plain_log_prob(net, obs, action, _):
    z = (action - net.mean(obs)) / jnp.exp(net.log_std)
    return jnp.sum(-0.5 * z**2 - net.log_std - 0.5 * jnp.log(2 * jnp.pi), axis=-1)


def test_an_update_is_the_equations():
    """The second one, whose scales are not those of nothing."""
    seen = [random_rollout(2), random_rollout(2, seed=1)]
    state, _ = compile_updates(AGENT)(fresh(), leading(seen[0]))
    before = np.asarray(state.actor.net.log_std)
    net, critic, used = plain_update(
        AGENT, state, seen, plain_log_prob, lambda net: 0.1 * net.log_std.sum()
    )
    state, metrics = compile_updates(AGENT)(state, leading(seen[1]))
    assert metrics["minibatches"][0] == used == 6
    assert metrics["clip_fraction"][0] > 0.1
    assert np.abs(state.actor.net.log_std - before).min() > 1e-3
    found, expected = (state.actor.net, state.critic), (net, critic)
    for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)


def test_it_learns_a_known_answer():
    """The best action is linear in the state; what is lost is what is still random."""
    gain = np.array([[0.5, -0.3], [0.2, 0.3], [-0.1, 0.2]], np.float32)

    def reward(obs, action):
        return -jnp.sum((action - obs @ gain) ** 2, axis=-1)

    agent = PPO(actor_lr=3e-3, critic_lr=3e-3, width=32, critic_width=32, epochs=5)
    state = compile_init(agent, SPEC)(KEY)
    state, metrics = practise(agent, state, 60, reward)
    obs = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
    act = compile_act(agent, Mode(deterministic=True))
    error = act(agent.policy(state), obs, KEY, 0) - obs @ gain
    assert np.sqrt(np.mean(error**2)) < 0.05
    std = np.exp(state.actor.net.log_std)
    assert std.max() < 0.3
    lost = -np.sum(std**2) - np.mean(np.sum(error**2, axis=-1))
    value = metrics["value_mean"][-1] * metrics["return_std"][-1]
    assert float(value) == pytest.approx(float(lost), abs=0.01)
