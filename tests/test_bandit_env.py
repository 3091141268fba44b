import os
import subprocess
import sys
from dataclasses import replace

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from scipy import optimize

from plain_loop import is_one_line
from simpo.directories import make_directory
from simpo.envs import ENVIRONMENTS, ControlEnv, make
from simpo.envs.bandit import TWO_PEAKS, Bandit, BanditEnv, Bumps, two_peaks
from simpo.loggers import CsvLogger
from simpo.presets import find
from simpo.registration import TASKS, register
from simpo.trainer import Trainer
from simpo.types import EnvSpec, SimpoError

ID = "simpo/BanditTwoPeaks-v0"
FAR = np.array([[-9.0], [-2.0], [0.3], [2.0], [9.0]], np.float32)


def two_peaks_reward(a):
    """The formula of the task, in float64."""
    a = np.asarray(a, np.float64)
    broad = 0.6 * np.exp(-((a + 0.5) ** 2) / (2 * 0.4**2))
    return broad + np.exp(-((a - 1) ** 2) / (2 * 0.3**2))


DENSE = two_peaks_reward(np.linspace(-2, 2, 4_000_001)).max()


def landscape(dims, seed=0, peaks=4):
    rng = np.random.default_rng(seed)
    heights, widths = rng.uniform(0.3, 1, peaks), rng.uniform(0.3, 0.8, peaks)
    return heights, rng.uniform(-1.5, 1.5, (peaks, dims)), widths


def oracle(action, heights, centres, widths):
    """Rewards and their gradients, peak by peak in float64."""
    value, slope = 0.0, np.zeros(action.shape)
    for h, c, w in zip(heights, centres, widths, strict=True):
        bump = h * np.exp(-((action - c) ** 2).sum(-1) / (2 * w**2))
        value = value + bump
        slope += bump[..., None] * (c - action) / w**2
    return value, slope


# --- rewards -------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 5])
@pytest.mark.parametrize("lead", [(), (7,), (3, 4)])
def test_bumps_and_their_gradient_in_closed_form(dims, lead):
    numbers = landscape(dims)
    action = np.random.default_rng(1).uniform(-2, 2, (*lead, dims))
    value, slope = oracle(action, *numbers)
    bumps = Bumps(*numbers)
    got = jax.jit(Bumps.__call__)(bumps, action)
    assert got.shape == lead and got.dtype == jnp.float32
    np.testing.assert_allclose(got, value, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(bumps(action), value, rtol=2e-5, atol=1e-7)
    gradient = jax.grad(lambda a: bumps(a).sum())(jnp.asarray(action))
    np.testing.assert_allclose(gradient, slope, rtol=5e-5, atol=1e-6)


def test_bumps_differentiate_in_their_own_arrays():
    numbers, action = landscape(2), np.array([0.2, -0.4])
    gradient = jax.grad(lambda bumps: bumps(action))(Bumps(*map(jnp.asarray, numbers)))
    for k in range(len(numbers[0])):  # r is linear in the heights
        alone = [x[k : k + 1] for x in numbers]
        expected = oracle(action, *alone)[0] / numbers[0][k]
        assert gradient.heights[k] == pytest.approx(expected, rel=1e-5)


def test_steps_clip_to_the_box():
    expected = two_peaks_reward(np.clip(FAR[:, 0], -2, 2))
    np.testing.assert_allclose(TWO_PEAKS.step(FAR), expected, rtol=2e-5)
    np.testing.assert_allclose(jax.jit(Bandit.step)(TWO_PEAKS, FAR), expected, 2e-5)


def test_many_bandits_in_one_program():
    boxes = [([-1.0, -0.5], [1.0, 0.5]), ([-2.0, 0.0], [0.1, 2.0]), ([0, 0], [1, 1])]
    bandits = [Bandit(Bumps(*landscape(2, s)), *b) for s, b in enumerate(boxes)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *bandits)
    actions = np.random.default_rng(0).uniform(-3, 3, (3, 2, 9, 2)).astype(np.float32)
    rewards = jax.jit(jax.vmap(Bandit.step))(stacked, actions)
    best, value = jax.jit(jax.vmap(Bandit.best))(stacked)
    regret = jax.jit(jax.vmap(Bandit.regret))(stacked, actions)
    for i, (low, high) in enumerate(boxes):
        expected = oracle(np.clip(actions[i], low, high), *landscape(2, i))[0]
        np.testing.assert_allclose(rewards[i], expected, rtol=2e-5, atol=1e-7)
        action = np.asarray(best[i], np.float64)
        assert (action >= low).all() and (action <= high).all()
        at_best = oracle(action, *landscape(2, i))[0]
        assert value[i] == pytest.approx(at_best, rel=1e-6)
        np.testing.assert_allclose(regret[i], value[i] - expected.mean(-1), atol=1e-6)


# --- the best action -------------------------------------------------------------


def highest(numbers, low, high):
    """The maximum by many bounded quasi-Newton searches in float64."""
    rng, dims = np.random.default_rng(2), numbers[1].shape[1]
    starts = np.clip(np.vstack([numbers[1], rng.uniform(low, high, (20, dims))]), -2, 2)

    def negated(action):
        value, slope = oracle(action, *numbers)
        return -value, -slope

    box = [(low, high)] * dims
    options = {"jac": True, "bounds": box, "tol": 1e-14}
    found = [optimize.minimize(negated, start, **options) for start in starts]
    best = min(found, key=lambda result: result.fun)
    return best.x, -best.fun


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
@pytest.mark.parametrize("high", [2.0, 0.1])
def test_best_agrees_with_an_optimiser(dims, high):
    numbers = landscape(dims, seed=dims)
    bandit = Bandit(Bumps(*numbers), [-2.0] * dims, [high] * dims)
    action, value = jax.jit(Bandit.best)(bandit)
    expected, reward = highest(numbers, -2.0, high)
    assert action.shape == (dims,) and value.shape == ()
    assert value == pytest.approx(reward, abs=3e-7)
    np.testing.assert_allclose(action, expected, atol=1e-3)


def test_best_on_a_narrow_peak_between_points_of_the_grid():
    between = -2 + 31.5 * 4 / 126  # the two-dimensional grid has 127 points a side
    centres = np.array([[between, between], [1.0, 1.0]])
    bandit = Bandit(Bumps([1.0, 0.98], centres, [0.05, 0.5]), [-2.0] * 2, [2.0] * 2)
    action, value = bandit.best()
    assert value == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(action, centres[0], atol=1e-4)


def test_best_of_the_two_peaks():
    action, value = TWO_PEAKS.best()  # without jit, as a notebook would
    assert value == pytest.approx(DENSE, abs=2e-7)
    assert DENSE > 1.0005  # the peaks overlap, so that the best is above 1
    assert two_peaks_reward(action) == pytest.approx(DENSE, abs=2e-7)


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (lambda a: a.sum(-1), [0.3, 1.7]),
        (lambda a: -a.sum(-1), [-0.7, -0.1]),
        (lambda a: -abs(a - jnp.array([0.123, 0.456])).sum(-1), [0.123, 0.456]),
        (lambda a: -abs(a - jnp.array([-0.2, 0.8])).max(-1), [-0.2, 0.8]),
    ],
    ids=["upper corner", "lower corner", "edge of a roof", "centre of the box"],
)
def test_best_where_there_is_no_slope_to_follow(reward, expected):
    bandit = Bandit(reward, low=[-0.7, -0.1], high=[0.3, 1.7])
    action, value = jax.jit(Bandit.best)(bandit)
    np.testing.assert_allclose(action, expected, atol=1e-6)
    assert value == pytest.approx(float(reward(jnp.array(expected))), abs=1e-6)


def test_regret_is_what_the_policy_lacks():
    actions = np.random.default_rng(0).uniform(-3, 3, (3, 5, 8, 1)).astype(np.float32)
    inside = np.clip(actions[..., 0].astype(np.float64), -2, 2)
    expected = DENSE - two_peaks_reward(inside).mean(-1)
    np.testing.assert_allclose(TWO_PEAKS.regret(actions), expected, atol=1e-6)
    best = jnp.broadcast_to(TWO_PEAKS.best()[0], (4, 1))
    assert TWO_PEAKS.regret(best) == pytest.approx(0, abs=2e-7)
    assert TWO_PEAKS.regret(FAR[:1]) == pytest.approx(DENSE, abs=1e-3)


# --- rewards of other kinds --------------------------------------------------------


class Tent(eqx.Module):
    slope: float

    def __call__(self, action):
        return -self.slope * abs(action).sum(-1)


@pytest.mark.parametrize("reward", [lambda a: -2.0 * abs(a).sum(-1), Tent(2.0)])
def test_functions_and_modules_go_through_jit(reward):
    bandit = Bandit(reward, low=[-1.0, -1.0], high=[1.0, 1.0])
    actions = np.array([[0.5, 0.25], [3.0, -3.0]], np.float32)
    rewards = jax.jit(Bandit.step)(bandit, actions)
    np.testing.assert_array_equal(rewards, [-1.5, -4.0])
    assert BanditEnv(bandit).step(actions[0])[1] == -1.5


def test_modules_that_hold_functions_need_a_lambda():
    net = eqx.nn.MLP(1, "scalar", 4, 1, key=jax.random.key(0))
    with pytest.raises(SimpoError, match=r"MLP as a reward .* lambda action:"):
        Bandit(net, low=[-1.0], high=[1.0])
    bandit = Bandit(lambda action: net(action), low=[-1.0], high=[1.0])
    action = np.array([0.5], np.float32)
    assert BanditEnv(bandit).step(action)[1] == pytest.approx(float(net(action)))


# --- refusals ----------------------------------------------------------------------

GOOD = {"heights": [1.0], "centres": [[0.0]], "widths": [1.0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": [0.0]}, "widths of bumps must be positive and finite"),
        ({"widths": [-1.0]}, "widths of bumps must be positive and finite"),
        ({"widths": [np.inf]}, "widths of bumps must be positive and finite"),
        ({"widths": jnp.array([np.nan])}, "widths of bumps must be positive"),
        ({"heights": [np.nan]}, "heights of bumps must be finite"),
        ({"centres": [[-np.inf]]}, "centres of bumps must be finite"),
        ({"heights": [1.0, 2.0]}, r"not shapes \(2,\), \(1, 1\) and \(1,\)"),
        ({"centres": [0.0]}, r"not shapes \(1,\), \(1,\) and \(1,\)"),
        ({"heights": 1.0, "centres": [0.0], "widths": 1.0}, r"not shapes \(\)"),
    ],
)
def test_impossible_bumps(changes, message):
    Bumps(**GOOD)
    with pytest.raises(SimpoError, match=message) as error:
        Bumps(**GOOD | changes)
    assert is_one_line(error)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([1.0], [1.0], r"low < high, not \[1.\] to \[1.\]"),
        ([0.0, 1.0], [1.0, 0.0], "low < high"),
        ([-np.inf], [0.0], "finite with low < high"),
        ([0.0], [np.inf], "finite with low < high"),
        ([np.nan], [1.0], "finite with low < high"),
        ([0.0], [1.0, 1.0], r"not shapes \(1,\) and \(2,\)"),
        (0.0, 1.0, r"not shapes \(\) and \(\)"),
        ([], [], r"not shapes \(0,\) and \(0,\)"),
    ],
)
def test_impossible_boxes(low, high, message):
    with pytest.raises(SimpoError, match=message) as error:
        Bandit(lambda a: a.sum(-1), low, high)
    assert is_one_line(error)


def test_numbers_that_are_not_known_yet_pass():
    @jax.jit
    def build(width, high):
        bumps = Bumps(jnp.ones(1), jnp.zeros((1, 1)), width[None])
        return Bandit(bumps, jnp.zeros(1), high[None]).step(jnp.ones((1, 1)))

    assert build(1.0, 2.0)[0] == pytest.approx(np.exp(-0.5))
    assert build(-1.0, -2.0).shape == (1,)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda a: a, r"must have the shape \(5,\), not \(5, 1\)"),
        (lambda a: a.sum(), r"must have the shape \(5,\), not \(\)"),
        (Bumps([1.0], [[0.0, 0.0]], [1.0]), "1 dimensions, the centres of the bumps 2"),
    ],
)
def test_rewards_that_do_not_fit(reward, message):
    bandit = Bandit(reward, [-1.0], [1.0])
    with pytest.raises(SimpoError, match=message) as error:
        bandit.step(FAR)
    assert is_one_line(error)


def test_no_grid_fills_many_dimensions():
    bandit = Bandit(lambda a: a.sum(-1), [0.0] * 5, [1.0] * 5)
    with pytest.raises(SimpoError, match=r"box of 5 dimensions .* 4 is the most"):
        bandit.best()


# --- as a Gymnasium task -------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*recommend using a symmetric and normalized")
def test_gymnasium_finds_nothing_wrong():
    check_env(gymnasium.make(ID).unwrapped)


def test_gymnasium_finds_nothing_to_warn_about_in_a_unit_box():
    env = BanditEnv(Bandit(lambda a: a.sum(-1), low=[-1.0, 0.0], high=[1.0, 1.0]))
    check_env(env, skip_render_check=True)


def test_one_step_is_an_episode():
    env = two_peaks()
    for seed in (0, None):
        obs, info = env.reset(seed=seed)
        assert env.observation_space.contains(obs) and obs == 0 and info == {}
        for action in FAR:
            obs, reward, terminated, truncated, info = env.step(action)
            assert env.observation_space.contains(obs) and obs == 0 and info == {}
            assert (terminated, truncated) == (True, False)
            assert type(reward) is float
            expected = two_peaks_reward(np.clip(action[0], -2, 2))
            assert reward == pytest.approx(expected, rel=2e-5)
    assert env.action_space == gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)


def test_a_seed_restarts_the_generator_and_none_goes_on():
    env = two_peaks()

    def draw(seed):
        env.reset(seed=seed)
        return env.np_random.random()

    first, second = draw(3), draw(None)
    assert first == draw(3) != second == draw(None)


def test_environments_of_one_bandit_compile_once():
    traces = []

    def reward(action):
        traces.append(action)
        return -(action**2).sum(-1)

    bandit = Bandit(reward, [-1.0], [1.0])
    for value in (0.5, 0.25):
        env = BanditEnv(bandit)
        assert env.step(np.array([value], np.float32))[1] == -(value**2)
        assert env.step(np.array([2 * value], np.float32))[1] == -4 * value**2
    assert len(traces) == 1


def test_without_a_cpu_backend_the_default_device_serves(monkeypatch):
    def missing(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", missing)
    reward = two_peaks().step(np.array([1.0], np.float32))[1]
    assert reward == pytest.approx(two_peaks_reward(1.0), rel=1e-6)


def test_actions_are_stretched_to_the_box():
    env = make(ID, 5, seed=0)
    assert env.spec == EnvSpec(obs_dim=1, action_dim=1)
    assert env.action_box == ((-2.0,), (2.0,))
    obs = env.reset()
    np.testing.assert_array_equal(obs, np.zeros((5, 1)))
    action = np.array([[-1.0], [0.0], [0.5], [1.0], [9.0]])
    for _ in range(3):
        step = env.step(action)
        expected = two_peaks_reward([-2.0, 0.0, 1.0, 2.0, 2.0])
        np.testing.assert_allclose(step.transition.reward, expected, rtol=2e-5)
        np.testing.assert_array_equal(step.transition.discount, np.zeros(5))
        assert [e.length for e in step.episodes] == [1] * 5 and step.valid.all()
        np.testing.assert_allclose([e.return_ for e in step.episodes], expected, 2e-5)


def test_boxes_of_several_dimensions():
    bandit = Bandit(Bumps(*landscape(2)), low=[-1.0, 0.0], high=[1.0, 4.0])
    vector = SyncVectorEnv([lambda: BanditEnv(bandit)] * 2)
    env = ControlEnv(vector, seed=0)
    env.reset()
    rewards = env.step(np.array([[1.0, -1.0], [0.0, 0.5]])).transition.reward
    native = np.array([[1.0, 0.0], [0.0, 3.0]])
    np.testing.assert_allclose(rewards, oracle(native, *landscape(2))[0], rtol=2e-5)


@pytest.mark.slow
def test_a_small_agent_learns_the_higher_peak(tmp_path):
    run = find("laptop", ID)
    small = {"width": 32, "critic_width": 32, "batch_size": 64, "candidate_noise": 0.1}
    run = replace(run, agent=replace(run.agent, **small), steps=4000, warmup_steps=500)
    directory = make_directory(tmp_path, run)
    assert directory.parent == tmp_path / "simpo_BanditTwoPeaks-v0" / "SiMPO"
    trainer = Trainer(run, directory, CsvLogger(directory))
    rows = trainer.train()
    assert {row.length for row in rows} == {1}
    returns = [row.return_ for row in rows if row.sampler == "single"]
    assert 0.95 < np.mean(returns) < DENSE
    size = trainer.buffer.size
    actions = 2 * trainer.buffer.action[:size, 0]
    rewards = trainer.buffer.reward[:size]
    np.testing.assert_allclose(rewards, two_peaks_reward(actions), rtol=2e-5)
    assert size == run.steps and trainer.buffer.terminated[:size].all()


# --- registration --------------------------------------------------------------------


def python(code, **environment):
    command = [sys.executable, "-W", "error", "-c", code]
    environment = os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_gymnasium_alone_makes_the_task():
    out = python(
        "import gymnasium, numpy as np\n"
        f"env = gymnasium.make('simpo.envs:{ID}')\n"
        "env.reset(seed=0)\n"
        "print(env.step(np.array([1.0], np.float32))[1])\n"
    )
    assert float(out) == pytest.approx(two_peaks_reward(1.0), rel=1e-6)


@pytest.mark.parametrize("first", ["simpo.registration.register()", "simpo.envs"])
def test_ids_are_registered_once_whatever_comes_first(first):
    out = python(
        "import sys, gymnasium, simpo.registration\n"
        "assert 'jax' not in sys.modules and 'mujoco' not in sys.modules\n"
        f"{first if '(' in first else f'import {first}'}\n"
        f"spec = gymnasium.spec('{ID}')\n"
        "import simpo.envs\n"
        "simpo.registration.register()\n"
        f"print(gymnasium.spec('{ID}') is spec, 'jax' in sys.modules)\n"
    )
    assert out.split() == ["True", "False"]


def test_importing_the_module_starts_no_backend():
    out = python(
        "import simpo.envs.bandit, jax.numpy\n"
        "try:\n"
        "    jax.numpy.zeros(1)\n"
        "except RuntimeError as error:\n"
        "    print(error)\n",
        JAX_PLATFORMS="nonesuch",
    )
    assert "nonesuch" in out


def test_every_registered_task_is_listed_and_can_be_made():
    assert TASKS.keys() == {name for name in ENVIRONMENTS if "simpo/" in name}
    gymnasium.make(ID).close()


def test_a_task_that_is_known_already_stays(monkeypatch):
    mine = object()
    monkeypatch.setitem(gymnasium.registry, ID, mine)
    register()
    assert gymnasium.registry[ID] is mine
