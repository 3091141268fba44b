import sys

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from extras import require_extra
from plain_loop import Walk, assert_same, child_seeds, is_one_line, plain_loop, roll
from simpo import envs
from simpo.envs import ENVIRONMENTS, make
from simpo.types import EnvSpec, SimpoError

MODES = list(AutoresetMode)
by_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


@pytest.fixture(scope="module", autouse=True)
def registered():
    for name, in_place in (("Walk-v0", False), ("WalkInPlace-v0", True)):
        gymnasium.register(f"test/{name}", Walk, kwargs={"in_place": in_place})
    yield
    for name in ("Walk-v0", "WalkInPlace-v0"):
        del gymnasium.registry[f"test/{name}"]


@by_mode
@pytest.mark.filterwarnings("ignore:.*is out of date")  # the oracle's own gym.make
@pytest.mark.parametrize(
    ("env_id", "limit"),
    [
        ("InvertedDoublePendulum-v5", 1000),
        ("Hopper-v4", 12),
        ("Humanoid-v5", 1000),
        ("Pendulum-v1", 20),
    ],
)
def test_real_tasks_give_the_bytes_of_a_plain_loop(mode, env_id, limit):
    kwargs = {"max_episode_steps": limit}
    env = make(env_id, 2, seed=3, autoreset=mode, env_kwargs=kwargs)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (2, 70, env.spec.action_dim)).astype(np.float32)
    rows, episodes = roll(env, actions)
    assert episodes[0] and episodes[1]
    for e, seed in enumerate(child_seeds(3, 2)):
        plain = plain_loop(gymnasium.make(env_id, **kwargs), seed, actions[e])
        assert_same(rows[e], episodes[e], *plain)


@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP])
def test_a_task_that_reuses_its_observation_array_does_no_harm(mode):
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 40, 2)).astype(np.float32)
    rows, episodes = roll(
        make("test/WalkInPlace-v0", 2, seed=7, autoreset=mode), actions
    )
    for e, seed in enumerate(child_seeds(7, 2)):
        assert_same(rows[e], episodes[e], *plain_loop(Walk(), seed, actions[e]))


def test_the_default_mode_is_one_that_suits_every_task():
    actions = np.random.default_rng(0).uniform(-1, 1, (1, 40, 2)).astype(np.float32)
    rows, episodes = roll(make("test/WalkInPlace-v0", 1, seed=7), actions)
    plain = plain_loop(Walk(), child_seeds(7, 1)[0], actions[0])
    assert_same(rows[0], episodes[0], *plain)


@by_mode
def test_time_limits_bootstrap_and_terminations_do_not(mode):
    def discounts(env_id, **kwargs):
        env = make(env_id, 1, seed=0, autoreset=mode, env_kwargs=kwargs)
        env.reset()
        for _ in range(30):
            step = env.step(np.ones((1, env.spec.action_dim)))
            if step.episodes:
                env.close()
                return step.transition.discount.tolist(), step.episodes
        raise AssertionError("no episode ended")

    discount, episodes = discounts("HalfCheetah-v5", max_episode_steps=10)
    assert discount == [1.0] and [e.length for e in episodes] == [10]
    discount, episodes = discounts("InvertedDoublePendulum-v5")
    assert discount == [0.0] and episodes[0].length < 30


# --- seeds ---------------------------------------------------------------------


def trace(seed, **options):
    env = make("InvertedDoublePendulum-v5", 3, seed=seed, **options)
    rng = np.random.default_rng(0)
    obs = [env.reset().tobytes()]
    for _ in range(30):
        step = env.step(env.random_actions(rng))
        obs += [step.obs.tobytes(), *(x.tobytes() for x in step.transition)]
    env.close()
    return obs


def test_same_seed_same_bytes_and_other_seeds_differ():
    assert trace(0) == trace(0)
    assert trace(0) != trace(1)


def test_neighbouring_seeds_share_no_environment():
    starts = [make("Hopper-v5", 5, seed=seed).reset() for seed in range(3)]
    assert len(np.unique(np.concatenate(starts), axis=0)) == 15


def test_action_space_is_seeded():
    samples = [
        make("Hopper-v5", 2, seed=seed)._vector.action_space.sample().tobytes()
        for seed in (0, 0, 1)
    ]
    assert samples[0] == samples[1] != samples[2]


def test_only_the_first_reset_seeds():
    env = make("Hopper-v5", 2, seed=0)
    first, second = env.reset(), env.reset()
    assert not np.array_equal(first, second)
    assert np.array_equal(first, make("Hopper-v5", 2, seed=0).reset())


# --- bad input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "near"),
    [
        ("HalfCheeta-v5", "HalfCheetah-v5"),
        ("halfcheetah-v4", "HalfCheetah-v4"),
        ("HalfCheetah", "HalfCheetah-v5"),
        ("Hopper-v9", "Hopper-v5"),
        ("CartPol-v1", "CartPole-v1"),
        ("qqqq", "simpo list envs"),
        ("", "simpo list envs"),
    ],
)
def test_unknown_tasks_name_near_matches(env_id, near):
    with pytest.raises(SimpoError, match=near) as error:
        make(env_id, 1, seed=0)
    assert str(error.value).startswith(f"unknown environment {env_id!r}")
    assert is_one_line(error)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("no_such_package:Task-v0", {}, "cannot import 'no_such_package'"),
        ("Hopper-v5", {"foo": 1}, "cannot build Hopper-v5 with foo=1: .*'foo'"),
        ("Hopper-v5", {"xml_file": "/no.xml"}, "cannot build Hopper-v5 with xml_file="),
        ("Hopper-v5", {"reset_noise_scale": "a"}, "with reset_noise_scale='a': bad"),
        ("Hopper-v3", {}, "cannot build Hopper-v3: .*gymnasium-robotics"),
        ("Pusher-v4", {}, "cannot build Pusher-v4: .*mujoco<3"),
        ("CartPole-v1", {}, "CartPole-v1 has a Discrete action space; only a bounded"),
        ("FrozenLake-v1", {}, "FrozenLake-v1 has a Discrete observation space; only"),
    ],
)
def test_tasks_that_cannot_be_used(env_id, kwargs, message):
    with pytest.raises(SimpoError, match=message) as error:
        make(env_id, 2, seed=0, env_kwargs=kwargs)
    assert is_one_line(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "number of environments must be positive, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"backend": "ray"}, "unknown backend 'ray'; choose from gymnasium, envpool"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(SimpoError, match=message):
        make("Hopper-v5", **{"num_envs": 1, "seed": 0} | options)


def test_a_missing_envpool_gives_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(SimpoError, match=r"pip install 'simpo\[envpool\]'"):
        make("Hopper-v5", 1, seed=0, backend="envpool")


# --- the table -----------------------------------------------------------------


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_the_table_tells_the_truth(env_id, tmp_path, monkeypatch, capfd):
    require_extra(env_id)
    monkeypatch.chdir(tmp_path)
    row, env = ENVIRONMENTS[env_id], make(env_id, 1, seed=0)
    assert env.spec == EnvSpec(row.obs_dim, row.action_dim)
    assert gymnasium.spec(env_id).max_episode_steps == row.max_steps
    env.reset()
    env.step(env.random_actions(np.random.default_rng(0)))
    env.close()
    # neither a log file in the working directory nor a line on the terminal
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")


def test_other_simulator_warnings_are_passed_on():
    with (
        pytest.warns(UserWarning, match="inertia is odd"),
        envs._known_warnings_muted(),
    ):
        mujoco.get_mju_user_warning()("inertia is odd")
        mujoco.get_mju_user_warning()("attribute is deprecated")
    assert mujoco.get_mju_user_warning() is None


# --- EnvPool -------------------------------------------------------------------


@pytest.fixture
def envpool():
    return pytest.importorskip("envpool")


@pytest.mark.parametrize(
    "env_id", ["InvertedDoublePendulum-v5", "Hopper-v4", "Humanoid-v5"]
)
def test_envpool_rows_form_unbroken_episodes(envpool, env_id):
    env = make(env_id, 3, seed=0, backend="envpool")
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 120, env.spec.action_dim))
    rows, episodes = roll(env, actions.astype(np.float32))
    obs_dim = env.spec.obs_dim
    for e in range(3):
        row = np.array(rows[e])
        obs, next_obs = row[:, :obs_dim], row[:, -obs_dim:]
        reward, discount = row[:, -obs_dim - 2], row[:, -obs_dim - 1]
        last = np.cumsum([length for _, length in episodes[e]]) - 1
        assert len(last) > 2
        np.testing.assert_array_equal(np.flatnonzero(discount == 0), last)
        linked = (obs[1:] == next_obs[:-1]).all(-1)
        np.testing.assert_array_equal(np.flatnonzero(~linked), last[: (~linked).sum()])
        assert (reward != 0).all()  # EnvPool's restart rows carry a reward of zero
        for (return_, length), end in zip(episodes[e], last, strict=True):
            assert return_ == pytest.approx(reward[end - length + 1 : end + 1].sum())


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "HalfCheetah-v4"])
def test_envpool_time_limit_is_a_truncation(envpool, env_id):
    env = make(env_id, 2, seed=0, backend="envpool")
    env.reset()
    assert env.spec == EnvSpec(17, 6)
    steps = [env.step(np.zeros((2, 6))) for _ in range(1003)]
    assert [len(s.episodes) for s in steps] == [0] * 999 + [2] + [0] * 3
    assert [e.length for e in steps[999].episodes] == [1000, 1000]
    assert all((s.transition.discount == 1).all() for s in steps)
    assert [s.valid.all() for s in steps[998:]] == [True, True, False, True, True]
    assert len(steps[1000].transition.reward) == 0
    np.testing.assert_array_equal(steps[1001].transition.obs, steps[1000].obs)


def test_envpool_is_seeded_per_environment(envpool):
    assert trace(0, backend="envpool") == trace(0, backend="envpool")
    assert trace(0, backend="envpool") != trace(1, backend="envpool")
    starts = [
        make("Hopper-v5", 5, seed=seed, backend="envpool").reset() for seed in range(3)
    ]
    assert len(np.unique(np.concatenate(starts), axis=0)) == 15


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("HalfCheeta-v5", {}, "did you mean HalfCheetah-v5"),
        ("Hopper-v5", {"foo": 1}, "cannot build Hopper-v5 with foo=1"),
        ("Hopper-v5", {"batch_size": 1}, "batch_size=1 would leave environments out"),
        ("CartPole-v1", {}, "has a Discrete action space"),
    ],
)
def test_envpool_bad_input(envpool, env_id, kwargs, message):
    with pytest.raises(SimpoError, match=message) as error:
        make(env_id, 2, seed=0, backend="envpool", env_kwargs=kwargs)
    assert is_one_line(error)
