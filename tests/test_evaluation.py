import random

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

from plain_loop import child_seeds
from simpo import evaluation
from simpo.agents import Mode, compile_init
from simpo.envs import NonFiniteTransition
from simpo.evaluation import evaluate, measure_latency
from simpo.types import EnvSpec, SimpoError
from tiny import Fuse, tiny


class Dice(gymnasium.Env):
    """Episodes of random length, whatever the actions."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def _observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def step(self, action):
        reward = self.np_random.normal()
        ends = self.np_random.random() < 0.2
        return self._observe(), reward, ends, False, {}


class Moving(gymnasium.Env):
    """At step t it tells of a speed; it ends at a random step, from the third on."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, tells):
        self.tells, self.steps = tells, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        ends = self.steps > 2 and self.np_random.random() < 0.3
        speed = self.tells(self.steps)
        info = {} if speed is None else {"speed": speed}
        return np.zeros(3, np.float32), 0.0, bool(ends), False, info


@pytest.fixture(scope="module", autouse=True)
def registered():
    gymnasium.register("test/Dice-v0", Dice)
    gymnasium.register("test/Moving-v0", Moving)
    gymnasium.register("test/Fuse-v0", Fuse, kwargs={"after": 3, "obs": np.nan})
    yield
    for name in ("Dice", "Moving", "Fuse"):
        del gymnasium.registry[f"test/{name}-v0"]


@pytest.fixture(scope="module")
def policy():
    init = compile_init(tiny(), EnvSpec(3, 2))
    return tiny().policy(init(jax.random.key(0)))


def play(policy, seed=0, mode=Mode(), env_id="test/Dice-v0", **kwargs):  # noqa: B008
    kwargs = {"episodes": 6} | kwargs
    return evaluate(tiny(), policy, env_id, mode, seed=seed, **kwargs)


def first_episode(seed):
    """Return and length of the first episode of one environment by itself."""
    env, total, length, ended = Dice(), 0.0, 0, False
    env.reset(seed=seed)
    while not ended:
        _, reward, ended, _, _ = env.step(None)
        total, length = total + reward, length + 1
    return total, length


def test_each_environment_is_counted_once(policy):
    rows = play(policy, seed=3)
    assert [row.episode for row in rows] == list(range(6))
    expected = [first_episode(seed) for seed in child_seeds(3, 6)]
    assert [row.length for row in rows] == [length for _, length in expected]
    assert [row.return_ for row in rows] == pytest.approx([r for r, _ in expected])
    assert len({row.length for row in rows}) > 2


def test_rows_name_their_sampler(policy):
    for mode in (Mode(), Mode(best_of=3)):
        assert {row.sampler for row in play(policy, mode=mode)} == {mode.label}


def test_the_seed_decides(policy):
    assert play(policy, seed=1) == play(policy, seed=1)
    assert play(policy, seed=1) != play(policy, seed=2)


def test_actions_follow_the_seed_and_the_mode():
    """On a task whose rewards are what the policy does."""
    env_id, spec = "InvertedPendulum-v5", EnvSpec(4, 1)
    policy = tiny().policy(compile_init(tiny(), spec)(jax.random.key(1)))

    def returns(seed, mode):
        rows = evaluate(tiny(), policy, env_id, mode, episodes=3, seed=seed)
        return [row.return_ for row in rows]

    single = returns(5, Mode())
    assert single == returns(5, Mode())
    assert single != returns(5, Mode(best_of=3))


def test_every_step_draws_afresh(policy, monkeypatch):
    seen = []

    def act(policy, obs, key, step):
        seen.append((jax.random.key_data(key).tolist(), step))
        return np.zeros((6, 2))

    monkeypatch.setattr(evaluation, "compile_act", lambda agent, mode: act)
    rows = play(policy, seed=9)
    steps = max(row.length for row in rows)
    assert seen == [([0, 9], step) for step in range(steps)]


def test_random_generators_of_others_are_left_alone(policy):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    leaves = [np.array(leaf) for leaf in jax.tree.leaves(policy)]
    play(policy)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    for old, new in zip(leaves, jax.tree.leaves(policy), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_task_that_never_ends_is_given_up(policy, monkeypatch):
    monkeypatch.setattr(evaluation, "LIMIT", 1)
    with pytest.raises(SimpoError, match="do not end within 1 steps"):
        play(policy)


def test_one_episode(policy):
    (row,) = play(policy, episodes=1, seed=7)
    assert (row.return_, row.length) == first_episode(*child_seeds(7, 1))


@pytest.mark.parametrize("tells", [lambda t: float(t), np.float32])
def test_the_mean_speed_is_that_of_the_episode_alone(policy, tells):
    """The mean of 1 to T, whatever came after in the same environment."""
    rows = play(policy, env_id="test/Moving-v0", env_kwargs={"tells": tells})
    assert len({row.length for row in rows}) > 2
    assert [row.speed for row in rows] == [(row.length + 1) / 2 for row in rows]


@pytest.mark.parametrize(
    "tells",
    [
        lambda t: None,
        lambda t: "fast",
        lambda t: np.ones(2),
        lambda t: float(t) if t != 2 else None,
        lambda t: np.nan if t == 1 else 1.0,
    ],
)
def test_a_speed_that_is_not_a_number_at_every_step_is_none(policy, tells):
    rows = play(policy, env_id="test/Moving-v0", env_kwargs={"tells": tells})
    assert {row.speed for row in rows} == {None}


def test_a_task_that_breaks_is_reported():
    policy = tiny().policy(compile_init(tiny(), EnvSpec(4, 1))(jax.random.key(1)))
    with pytest.raises(NonFiniteTransition):
        evaluate(tiny(), policy, "test/Fuse-v0", Mode(), episodes=2, seed=0)


def test_every_step_is_watched(policy, monkeypatch):
    actions, ended = [], []

    def watch(action, step):
        actions.append(action)
        ended.extend(step.episodes)

    rows = play(policy, watch=watch)
    assert rows == play(policy)
    assert len(actions) == max(row.length for row in rows)
    assert all(action.shape == (6, 2) for action in actions)
    first = {e.env: e.return_ for e in reversed(ended)}
    assert first == {row.episode: row.return_ for row in rows}


def test_a_latency_is_that_of_single_actions_after_compilation(monkeypatch):
    """A call compiles for 100 s, later ones take 1 ms, every tenth 5 ms."""
    now, calls = [0.0], []

    def act(policy, obs, key, step):
        calls.append(obs.shape)
        slow = 100.0 if len(calls) == 1 else 5e-3 if len(calls) % 10 == 0 else 1e-3
        now[0] += slow
        return np.zeros((1, 2))

    monkeypatch.setattr(evaluation, "compile_act", lambda agent, mode: act)
    obs = np.zeros((1, 3), np.float32)
    found = measure_latency(tiny(), None, obs, Mode(), calls=100, clock=lambda: now[0])
    assert calls == [(1, 3)] * 101
    assert found == pytest.approx((1.0, 5.0))


def test_a_latency_is_measured(policy):
    found = measure_latency(tiny(), policy, np.zeros((1, 3), np.float32), Mode())
    assert 0 < found.median <= found.p95 < 1000
