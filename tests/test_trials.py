"""The bandit trial against a plain loop, closed forms and its own bookkeeping."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simpo.agents.base import descend
from simpo.divergence import kl_to_uniform
from simpo.envs.bandit import TWO_PEAKS, Bandit
from simpo.experiments import plan, trials
from simpo.experiments.plan import Plan
from simpo.experiments.trials import Case, Method, Protocol, Setting
from simpo.matching import FadingRepulsion, matching_loss
from simpo.randomness import normal
from simpo.temperature import EntropyTarget, Solved
from simpo.types import SimpoError
from simpo.weighting import Exponential, Linear

TINY = Protocol(
    start_mean=-0.5,
    start_std=0.3,
    candidates=8,
    iterations=6,
    points=3,
    inner_steps=2,
    denoising_steps=3,
    width=8,
    pretrain_steps=20,
    pretrain_batch=16,
    final_samples=16,
    bound=FadingRepulsion(4),
)
METHODS = (
    Method(Exponential()),
    Method(Linear(-0.4), solved=False),
)
CASES = [
    Case(0, Setting.of(TWO_PEAKS, noise=0.2, rate=1e-2, kl=0.5)),
    Case(1, Setting.of(TWO_PEAKS, noise=0.1, rate=2e-2, scale=0.3)),
]


@pytest.fixture(scope="module")
def starts():
    return trials.pretrain(TINY, 3, seed=0)


@pytest.fixture(scope="module")
def results(starts):
    return trials.run(TINY, METHODS, CASES, starts)


def plain_trial(case, net, key):
    """One trial as a loop over rounds, with the library's parts called one by one."""
    cond, method, setting = jnp.zeros((1, 1)), METHODS[case.method], case.setting
    adam_state, records = None, []
    for i in range(TINY.iterations):
        keys = jax.random.split(jax.random.fold_in(key, i), 3)
        drawn = TINY.flow.sample(net, keys[0], cond, TINY.candidates)
        x = jnp.clip(drawn + setting.noise * normal(keys[1], drawn.shape), -2, 2)
        q = setting.bandit.reward(x)
        # the temperature as it is, not as a scale of the reward
        if method.solved:
            target = EntropyTarget(float(setting.kl))
            weights, lam, _ = Solved(target).weigh((), method.weighting, q)
        else:
            lam = setting.scale
            weights = method.weighting(q, lam)
        rate = setting.rate * (1 + (TINY.final_rate - 1) * i / TINY.iterations)
        for inner in jax.random.split(keys[2], TINY.inner_steps):
            grads = jax.grad(
                lambda net, key, x, w, i: matching_loss(
                    TINY.flow, net, key, x, w, cond, TINY.bound, i
                )[0]
            )(net, inner, x, weights.values, i)
            adam = optax.inject_hyperparams(optax.adam)(learning_rate=rate)
            adam_state = adam_state or adam.init(net)
            adam_state = adam_state._replace(
                hyperparams={**adam_state.hyperparams, "learning_rate": rate}
            )
            net, adam_state = descend(adam, grads, adam_state, net)
        regret = TWO_PEAKS.regret(drawn[0])
        records.append([regret, lam, kl_to_uniform(weights.values).mean()])
    return np.array(records, float).reshape(TINY.points, -1, 3).mean(1)


@pytest.mark.parametrize("case", [0, 1], ids=["solved", "scaled"])
def test_a_trial_is_the_plain_loop(starts, results, case):
    net = jax.tree.map(lambda x: x[1], starts.net)
    expected = plain_trial(CASES[case], net, starts.key[1])
    actual = np.stack(
        [curve[case, 1] for curve in (results.regret, results.temperature, results.kl)],
        axis=-1,
    )
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-4)


def test_trials_do_not_depend_on_what_runs_beside_them(starts, results, monkeypatch):
    monkeypatch.setattr(plan, "BLOCK", 2)
    alone = trials.run(TINY, METHODS, CASES[1:], starts)
    assert Plan.of(1, 3).block == 2 and Plan.of(2, 3).blocks == 2
    np.testing.assert_allclose(alone.regret, results.regret[1:], atol=1e-4)
    np.testing.assert_allclose(alone.final, results.final[1:], atol=1e-3)
    np.testing.assert_allclose(alone.start, results.start, atol=1e-5)


def test_shapes_and_progress(starts, results):
    assert results.regret.shape == results.kl.shape == (2, 3, TINY.points)
    assert results.start.shape == (3, 16) and results.final.shape == (2, 3, 16)
    assert np.all(np.abs(results.final) <= TINY.box)
    np.testing.assert_allclose(results.kl[0], 0.5, atol=1e-3)
    one = results.only(1)
    np.testing.assert_array_equal(one.final[0], results.final[1])
    done = []
    trials.run(TINY, METHODS, CASES[:1], starts, done.append)
    assert sum(done) == TINY.iterations * 3


def test_pretraining_fits_the_start():
    protocol = replace(TINY, pretrain_steps=400, pretrain_batch=128, width=32)
    protocol = replace(protocol, denoising_steps=30, final_samples=2000)
    starts = trials.pretrain(protocol, 2, seed=3)
    one = replace(protocol, iterations=1, points=1)
    drawn = trials.run(one, METHODS, CASES[:1], starts).start
    np.testing.assert_allclose(drawn.mean(1), -0.5, atol=0.05)
    np.testing.assert_allclose(drawn.std(1), 0.3, atol=0.06)
    different = jax.tree.leaves(starts.net)[0]
    assert not np.array_equal(different[0], different[1])


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize(("cases", "count"), [(1, 1), (1, 5), (3, 8), (4, 20), (7, 16)])
def test_every_trial_of_every_case_is_planned_once(monkeypatch, devices, cases, count):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    made = Plan.of(cases, count)
    assert made.case.shape[1] == devices and made.block <= plan.BLOCK
    pairs = np.stack(
        [np.broadcast_to(made.case[..., None], made.trial.shape), made.trial], axis=-1
    )
    back = made.by_case(list(pairs))
    for case in range(cases):
        for trial in range(count):
            assert tuple(back[case, trial]) == (case, trial)
    unpadded = -(-cases * made.blocks // devices)
    assert len(made.case) == unpadded


def test_impossible_protocols_are_refused(starts):
    with pytest.raises(SimpoError, match="multiple of points"):
        replace(TINY, iterations=7)
    hopeless = Case(0, Setting.of(TWO_PEAKS, noise=0.2, rate=1e-2, kl=5.0))
    with pytest.raises(SimpoError, match="out of reach"):
        trials.run(TINY, METHODS, [hopeless], starts)


def test_settings_take_any_bandit():
    setting = Setting.of(Bandit(lambda a: a[..., 0], [-1.0], [1.0]), noise=0, rate=1)
    assert setting.bandit.step(jnp.array([[0.5]]))[0] == 0.5
