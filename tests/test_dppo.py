"""DPPO: its chain and likelihood, PPO as a special case, a task with a known answer."""

import functools
import itertools
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from plain_loop import is_one_line
from plain_rollout import plain_update, practise, random_rollout
from simpo.agents.base import (
    Mode,
    compile_act,
    compile_decide,
    compile_init,
    compile_updates,
)
from simpo.agents.dppo import DPPO
from simpo.agents.onpolicy import clipped_surrogate
from simpo.agents.ppo import Gaussian
from simpo.generative import DDIM, Clean, Diffusion, DPMSolver2M, Flow
from simpo.networks import MLP, Denoiser, Dense
from simpo.types import Rollout, SimpoError
from tiny import SPEC, tiny

KEY = jax.random.key(0)
MODEL = Diffusion(denoising_steps=3)
AGENT = tiny(
    DPPO,
    model=MODEL,
    epochs=2,
    batch_size=18,
    actor_lr=1e-3,
    clip_base=0.002,
    clip_range=0.02,
    gamma_denoise=0.8,
    target_kl=2e-4,
)
OBS = np.random.default_rng(3).normal(size=(400, 3)).astype(np.float32)


def fresh(agent=AGENT):
    return compile_init(agent, SPEC)(KEY)


@functools.partial(jax.jit, static_argnums=0)
def draw(agent, net, key):
    """Chains [B, K + 1, A] of a network without a normaliser."""
    return agent.denoise(net, OBS, key, agent.steps(agent.std_floor))


def chains(agent, net):
    return np.array(draw(agent, net, KEY))


@functools.partial(jax.jit, static_argnums=0)
def log_probs(agent, net, chain):
    """Of every step of chains: [B, K]."""
    return agent.chain_log_prob(net, OBS, chain)


# --- the chain ------------------------------------------------------------------


def posterior(schedule, t, s, x, clean):
    """Mean and variance of q(x_s | x_t, a) by the product of two Gaussians."""
    alpha_t, sigma_t = schedule.alpha(np.float64(t)), schedule.sigma(np.float64(t))
    if s == 0:
        return clean, 0.0
    alpha_s, sigma_s = schedule.alpha(np.float64(s)), schedule.sigma(np.float64(s))
    ratio = alpha_t / alpha_s
    beta = sigma_t**2 - ratio**2 * sigma_s**2
    precision = 1 / sigma_s**2 + ratio**2 / beta
    return (alpha_s * clean / sigma_s**2 + ratio * x / beta) / precision, 1 / precision


def gaussians(model, net, obs, chain):
    """Mean [K, B, A] and posterior standard deviation [K] of every step of chains."""
    times = np.linspace(model.t_max, 0.0, model.denoising_steps + 1)
    means, stds = [], []
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        x, level = chain[..., k, :], model.schedule
        noise = net(x, jnp.full(x.shape[:-1], t), obs)
        clean = (x - level.sigma(t) * noise) / level.alpha(t)
        mean, variance = posterior(level, t, s, x, jnp.clip(clean, -1, 1))
        means.append(mean)
        stds.append(np.sqrt(variance))
    return means, stds


of_steps = jax.jit(gaussians, static_argnums=0)


def test_a_decision_is_a_chain_of_gaussian_steps():
    net = fresh().actor.net
    chain = chains(AGENT, net)
    means, stds = of_steps(MODEL, net, OBS, chain)
    assert stds[-1] == 0 < 0.1 < stds[0]
    for k in range(3):
        z = (chain[:, k + 1] - means[k]) / max(stds[k], 0.1)
        assert np.abs(z).max() < 3.01
        assert stats.kstest(np.ravel(z), "norm").pvalue > 0.01
    start = chain[:, 0] / MODEL.schedule.sigma(MODEL.t_max)
    assert stats.kstest(start.ravel(), "norm").pvalue > 0.01


def test_the_action_is_the_end_of_the_decision():
    policy = AGENT.policy(fresh())
    decision = jax.jit(AGENT.decide)(policy, OBS, KEY)
    chain = chains(AGENT, policy.actor.net)
    np.testing.assert_allclose(decision, chain.reshape(400, -1), atol=1e-6)
    np.testing.assert_allclose(decision[:, -2:], chain[:, 3], atol=1e-6)


def test_noise_is_bounded():
    quiet = replace(AGENT, noise_clip=0.5)
    net = fresh().actor.net
    chain = chains(quiet, net)
    means, _ = of_steps(MODEL, net, OBS, chain)
    z = np.abs(chain[:, -1] - means[-1]) / 0.1
    assert z.max() == pytest.approx(0.5, abs=1e-3) and (z > 0.499).mean() > 0.5


def test_the_deterministic_mode_ends_without_noise():
    policy = AGENT.policy(fresh())
    act = compile_act(AGENT, Mode(deterministic=True))
    action = np.asarray(act(policy, OBS, KEY, 0))
    # Without a floor the posterior's own noise is left, and the last step has none.
    bare = replace(AGENT, std_floor=1e-9)
    key, _ = jax.random.split(jax.random.fold_in(KEY, 0))
    chain = draw(bare, policy.actor.net, key)
    np.testing.assert_allclose(action, np.clip(chain[:, -1], -1, 1), atol=3e-4)
    single = np.asarray(compile_act(AGENT, Mode())(policy, OBS, KEY, 0))
    assert 0.05 < np.std(single - action) < 0.15
    assert (np.abs(single) <= 1).all() and (np.abs(single) == 1).any()


def test_the_floor_of_the_deterministic_mode_is_its_own():
    steps = replace(AGENT, model=replace(MODEL, sampler=DDIM()))
    np.testing.assert_allclose(steps.steps(steps.std_floor).noise, 0.1)
    np.testing.assert_allclose(steps.steps(steps.eval_std_floor).noise, 1e-3)


def test_there_is_nothing_to_choose_by():
    with pytest.raises(SimpoError, match="no action values") as error:
        compile_act(AGENT, Mode(best_of=2))(AGENT.policy(fresh()), OBS, KEY, 0)
    assert is_one_line(error)


# --- likelihood -----------------------------------------------------------------


@pytest.mark.parametrize("average", [True, False])
def test_log_probabilities_are_those_of_the_chain(average):
    agent = replace(AGENT, mean_log_prob=average)
    net = fresh().actor.net
    chain = chains(agent, net)
    chain[:50, 1] += 2.0  # off the chain: the lower clamp
    found = log_probs(agent, net, chain)
    means, stds = of_steps(MODEL, net, OBS, chain)
    lower = []
    for k in range(3):
        each = stats.norm.logpdf(chain[:, k + 1], means[k], max(stds[k], 0.1))
        lower.append((each < -5).mean())
        each = np.clip(each, -5, 2)
        expected = each.mean(-1) if average else each.sum(-1)
        np.testing.assert_allclose(found[:, k], expected, atol=2e-4)
    assert max(lower) > 0.02


def test_single_steps_have_the_probabilities_of_the_chain():
    net = fresh().actor.net
    chain = chains(AGENT, net)
    n, k = np.arange(400), np.arange(400) % 3
    one = jax.jit(AGENT.log_prob)(net, OBS, chain[n, k], chain[n, k + 1], k)
    every = log_probs(AGENT, net, chain)
    np.testing.assert_allclose(one, every[n, k], atol=1e-5)


def test_the_clip_range_grows_along_the_chain():
    agent = DPPO(clip_base=0.01, clip_range=0.2)
    u = np.arange(10) / 9
    expected = 0.01 + 0.19 * (np.exp(3 * u) - 1) / (np.exp(3) - 1)
    np.testing.assert_allclose(agent.clip_ranges(), expected)
    np.testing.assert_allclose(DPPO().clip_ranges(), 0.1)
    one = replace(agent, model=Diffusion(denoising_steps=1))
    np.testing.assert_allclose(one.clip_ranges(), [0.2])


def test_early_steps_count_less():
    agent = replace(AGENT, gamma_denoise=0.5)
    np.testing.assert_allclose(agent.step_discounts(), [0.25, 0.5, 1.0])
    np.testing.assert_allclose(DPPO().step_discounts(), 1.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"std_floor": 0.0}, "std_floor"),
        ({"eval_std_floor": -1e-3}, "eval_std_floor"),
        ({"noise_clip": 0.0}, "noise_clip"),
        ({"clip_base": 0.0}, "clip_base"),
        ({"clip_growth": 0.0}, "clip_growth"),
        ({"gamma_denoise": 1.1}, "gamma_denoise"),
        ({"log_prob_min": 2.0}, "log_prob_min"),
        ({"model": Flow()}, "DDPM or DDIM"),
        ({"model": Diffusion(sampler=DPMSolver2M())}, "DDPM or DDIM"),
    ],
    ids=str,
)
def test_impossible_settings(wrong, words):
    with pytest.raises(SimpoError, match=words) as error:
        DPPO(**wrong)
    assert is_one_line(error)


# --- one step is PPO ------------------------------------------------------------


@pytest.fixture(scope="module")
def pair():
    """A denoiser that ignores x, and the Gaussian policy of the same mean."""
    agent = DPPO(
        model=Diffusion(denoising_steps=1, prediction=Clean(), clip=None),
        std_floor=0.4,
        mean_log_prob=False,
        log_prob_min=-1e9,
        log_prob_max=1e9,
        activation="tanh",
        width=16,
        depth=2,
    )

    def gaussian(net):
        bias = net.of_sample.bias + net.embed_time(jnp.float32(agent.model.t_max))
        mean = MLP(Dense(net.of_state, bias), net.trunk)
        return net, Gaussian(mean, jnp.log(jnp.full(2, 0.4)))

    old, far = (
        Denoiser.init(key, 2, 3, width=16, depth=2, activation="tanh")
        for key in jax.random.split(KEY)
    )
    old = eqx.tree_at(lambda d: d.of_sample.weight, old, jnp.zeros((2, 16)))
    # Near pi_old, as in an update: some ratios are clipped and some are not.
    new = jax.tree.map(lambda a, b: a + 0.1 * b, old, far)
    new = eqx.tree_at(lambda d: d.of_sample.weight, new, jnp.zeros((2, 16)))
    return agent, jax.jit(gaussian)(new), jax.jit(gaussian)(old)


def test_a_chain_of_one_step_is_a_gaussian_policy(pair):
    agent, (denoiser, gaussian), _ = pair
    chain = chains(agent, denoiser)
    z = (chain[:, 1] - gaussian.mean(OBS)) / 0.4
    assert stats.kstest(np.ravel(z), "norm").pvalue > 0.01
    one = log_probs(agent, denoiser, chain)[:, 0]
    np.testing.assert_allclose(one, gaussian.log_prob(OBS, chain[:, 1]), atol=1e-6)


def test_with_one_step_the_surrogate_and_its_gradient_are_those_of_ppo(pair):
    agent, (denoiser, gaussian), (old_denoiser, old_gaussian) = pair
    chain = chains(agent, old_denoiser)
    advantage = np.random.default_rng(0).normal(size=400).astype(np.float32)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def of_chain(net):
        log_prob, old = (
            agent.chain_log_prob(f, OBS, chain)[:, 0] for f in (net, old_denoiser)
        )
        loss, metrics = clipped_surrogate(log_prob, old, advantage, 0.1)
        return loss, (metrics, jnp.exp(log_prob - old))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def of_gaussian(net):
        log_prob, old = (f.log_prob(OBS, chain[:, 1]) for f in (net, old_gaussian))
        loss, metrics = clipped_surrogate(log_prob, old, advantage, 0.1)
        return loss, (metrics, jnp.exp(log_prob - old))

    (loss, (metrics, ratio)), grads = of_chain(denoiser)
    (expected, (others, ratios)), grad = of_gaussian(gaussian)
    assert 0.2 < metrics["clip_fraction"] < 0.8
    np.testing.assert_allclose(ratio, ratios, rtol=3e-6)
    np.testing.assert_allclose(loss, expected, atol=1e-6)
    np.testing.assert_allclose(metrics["approx_kl"], others["approx_kl"], atol=1e-6)
    found = grads.trunk, grads.of_state, grads.of_sample.bias
    wanted = grad.mean.trunk, grad.mean.first.weight, grad.mean.first.bias
    for x, y in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert np.abs(y).max() > 1e-3
        np.testing.assert_allclose(x, y, atol=1e-6)


# --- learning -------------------------------------------------------------------


def plain_log_prob(net, obs, decision, k):
    chain = decision.reshape(len(obs), 4, 2)
    means, stds = gaussians(MODEL, net, obs, chain)
    each = []
    for i in range(3):
        std = max(stds[i], 0.1)
        z = (chain[:, i + 1] - means[i]) / std
        each.append(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi))
    every = jnp.clip(jnp.stack(each, axis=1), -5, 2).mean(axis=-1)
    return jnp.take_along_axis(every, k[:, None], axis=1)[:, 0]


def acted(agent, state, seed):
    """A rollout whose decisions the agent made."""
    rollout = random_rollout(8, seed=seed)
    obs = rollout.obs.reshape(-1, 3)
    decision = compile_decide(agent)(agent.policy(state), obs, KEY, seed)
    return rollout._replace(decision=np.asarray(decision).reshape(6, 3, 8))


def test_an_update_is_the_equations():
    """The second one, whose scales are not those of nothing; it stops early."""
    update, state, seen = compile_updates(AGENT), fresh(), []
    for seed in range(2):
        seen.append(acted(AGENT, state, seed))
        if seed == 1:
            net, critic, used = plain_update(AGENT, state, seen, plain_log_prob)
            before = np.asarray(state.actor.net.of_state)
        state, metrics = update(state, Rollout(*(x[None] for x in seen[-1])))
    assert metrics["minibatches"][0] == used
    assert 1 < used < 6
    assert metrics["clip_fraction"][0] > 0.1
    assert np.abs(state.actor.net.of_state - before).max() > 1e-3
    found, expected = (state.actor.net, state.critic), (net, critic)
    for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)


def test_it_learns_a_known_answer():
    """The best action is linear in the state."""
    gain = np.array([[0.5, -0.3], [0.2, 0.3], [-0.1, 0.2]], np.float32)

    def reward(obs, action):
        return -jnp.sum((action - obs @ gain) ** 2, axis=-1)

    agent = DPPO(
        model=Diffusion(denoising_steps=3),
        **dict(width=64, depth=2, critic_width=32, critic_depth=2),
        **dict(batch_size=192, epochs=5, actor_lr=1e-3, clip_range=0.2, clip_base=0.2),
    )
    obs = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
    act = compile_act(agent, Mode(deterministic=True))

    def error(state):
        action = act(agent.policy(state), obs, KEY, 0)
        return float(np.sqrt(np.mean((action - obs @ gain) ** 2)))

    state = fresh(agent)
    before = error(state)
    state, metrics = practise(agent, state, 60, reward)
    assert before > 0.5
    assert error(state) < 0.1
    # With the noise of the last step: two coordinates of standard deviation 0.1.
    lost = metrics["return_std"] * metrics["value_target"]
    assert -0.04 < lost[-5:].mean() < -0.02
