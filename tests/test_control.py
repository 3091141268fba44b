import gymnasium
import hypothesis.strategies as st
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import given, settings

from plain_loop import Walk, assert_same, is_one_line, plain_loop, roll
from simpo.envs import ControlEnv, Episode, NonFiniteTransition, control, make
from simpo.types import EnvSpec, SimpoError

MODES = list(AutoresetMode)
by_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


class Fixed(gymnasium.Env):
    """Any spaces; returns the given rewards and observations in turn."""

    def __init__(self, observation=None, action=None, script=()):
        box = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = observation or box
        self.action_space = action or box
        self.script = iter(script)

    def reset(self, *, seed=None, options=None):
        return next(self.script), {}

    def step(self, action):
        obs, reward, terminated = next(self.script)
        return obs, reward, terminated, False, {}


# --- against the plain loop ----------------------------------------------------


@by_mode
@settings(max_examples=25, deadline=None)
@given(
    num_envs=st.sampled_from([1, 2, 5]),
    terminates=st.sampled_from([0.0, 0.1, 1.0]),
    truncates=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 2**31),
)
def test_transitions_are_those_of_a_plain_loop(
    mode, num_envs, terminates, truncates, seed
):
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1.5, 1.5, (num_envs, 20, 2)).astype(np.float32)
    seeds = rng.integers(2**31, size=num_envs).tolist()

    def walk():
        return Walk(terminates, truncates)

    vector = SyncVectorEnv([walk] * num_envs, autoreset_mode=mode)
    rows, episodes = roll(ControlEnv(vector, seed=seeds), actions)
    for e in range(num_envs):
        assert_same(rows[e], episodes[e], *plain_loop(walk(), seeds[e], actions[e]))


@by_mode
def test_returns_leave_out_what_a_wrapper_makes_of_a_restart(mode):
    actions = np.random.default_rng(0).uniform(-1, 1, (1, 40, 2)).astype(np.float32)
    vector = SyncVectorEnv([Walk], autoreset_mode=mode)
    shifted = gymnasium.wrappers.vector.TransformReward(vector, lambda r: r + 100)
    _, episodes = roll(ControlEnv(shifted, seed=0), actions)
    _, plain = plain_loop(Walk(), 0, actions[0])
    expected = [(return_ + 100 * length, length) for return_, length in plain]
    assert episodes[0][: len(plain)] == [pytest.approx(pair) for pair in expected]


def test_reset_forgets_unfinished_episodes():
    env = make("Pendulum-v1", 1, seed=0, env_kwargs={"max_episode_steps": 5})
    env.reset()
    for _ in range(3):
        assert not env.step(np.zeros((1, 1))).episodes
    env.reset()
    rewards = [env.step(np.zeros((1, 1))) for _ in range(5)]
    (episode,) = rewards[-1].episodes
    assert episode.length == 5
    total = sum(float(step.transition.reward[0]) for step in rewards)
    assert episode.return_ == pytest.approx(total, rel=1e-6)


# --- actions -------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    ends=st.tuples(*[st.floats(-(2.0**127), 2.0**127, width=32)] * 2),
    action=st.floats(-1, 1, width=32),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_actions_stay_in_the_box_and_reach_its_ends(ends, action, dtype):
    low, high = sorted(ends)
    space = spaces.Box(np.array([low], dtype), np.array([high], dtype), dtype=dtype)
    unit = np.array([[-1.0], [1.0], [action]], np.float32)
    scaled = control._ActionBox.of(space).rescale(unit)
    assert scaled.dtype == dtype
    assert ((space.low <= scaled) & (scaled <= space.high)).all()
    width = high / 2 - low / 2
    assert abs(float(scaled[0, 0]) - low) <= 1e-6 * max(width, abs(low))
    assert abs(float(scaled[1, 0]) - high) <= 1e-6 * max(width, abs(high))


def test_unit_boxes_keep_the_action_exactly():
    space = spaces.Box(-1, 1, (1000,))
    action = np.random.default_rng(0).uniform(-1, 1, (1, 1000)).astype(np.float32)
    np.testing.assert_array_equal(control._ActionBox.of(space).rescale(action), action)


def test_humanoid_gets_its_own_range():
    env = make("Humanoid-v5", 1, seed=0)
    scaled = env._box.rescale(np.full((1, 17), 0.5, np.float32))
    np.testing.assert_array_equal(scaled, np.full((1, 17), 0.2, np.float32))


def test_the_recorded_action_is_the_clipped_one():
    env = make("Pendulum-v1", 2, seed=0)
    env.reset()
    step = env.step([[3.0], [-0.25]])
    assert step.transition.action.tolist() == [[1.0], [-0.25]]


def test_random_actions_fill_the_box_and_follow_the_generator():
    env = make("Humanoid-v5", 2, seed=0)
    draws = [env.random_actions(np.random.default_rng(s)) for s in (0, 0, 1)]
    assert draws[0].shape == (2, 17) and draws[0].dtype == np.float32
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    many = np.stack([env.random_actions(np.random.default_rng(s)) for s in range(99)])
    assert many.min() < -0.99 and many.max() > 0.99 and abs(many.mean()) < 0.05


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros((2, 2)), r"actions have shape \(2, 2\), expected \(2, 1\)"),
        (np.array([[0.0], [np.nan]]), "environment 1 of Pendulum-v1 is not finite"),
        (np.array([[np.inf], [0.0]]), "environment 0 of Pendulum-v1 is not finite"),
    ],
)
def test_bad_actions(action, message):
    env = make("Pendulum-v1", 2, seed=0)
    env.reset()
    with pytest.raises(SimpoError, match=message):
        env.step(action)


# --- non-finite values ---------------------------------------------------------

OK = np.array([0.5, 0.25], np.float32)
BAD = np.array([0.5, np.nan], np.float32)


def scripted(script, mode=AutoresetMode.SAME_STEP):
    calm = [OK] + [(OK, 1.0, False)] * 9
    vector = SyncVectorEnv(
        [lambda: Fixed(script=calm), lambda: Fixed(script=script)], autoreset_mode=mode
    )
    return ControlEnv(vector, seed=0, name="Fixed")


@by_mode
@pytest.mark.parametrize(
    ("ending", "what"),
    [
        ((OK, np.nan, False), "reward"),
        ((OK, -np.inf, True), "reward"),
        ((OK, 1e39, False), "reward"),  # overflows float32
        ((BAD, 1.0, False), "observation"),
        ((BAD, 1.0, True), "observation"),
    ],
)
def test_non_finite_transitions_stop_and_are_handed_over(mode, ending, what):
    env = scripted([OK, (OK, 1.0, False), ending, OK], mode)
    env.reset()
    env.step(np.zeros((2, 2)))
    with pytest.raises(NonFiniteTransition) as caught:
        env.step([[0.0, 0.0], [0.25, -2.0]])
    assert str(caught.value) == (
        f"environment 1 of Fixed returned a non-finite {what} at step 2 of its episode"
    )
    obs, action, reward, discount, next_obs = caught.value.transition
    np.testing.assert_array_equal(obs, [OK])
    np.testing.assert_array_equal(action, [[0.25, -1.0]])
    np.testing.assert_array_equal(reward, [np.inf if ending[1] == 1e39 else ending[1]])
    np.testing.assert_array_equal(discount, [0.0 if ending[2] else 1.0])
    np.testing.assert_array_equal(next_obs, [ending[0]])


@by_mode
def test_a_non_finite_restart_is_told_apart(mode):
    env = scripted([OK, (OK, 1.0, True), BAD], mode)
    env.reset()
    message = r"environment 1 .* observation on reset"
    with pytest.raises(SimpoError, match=message) as error:
        for _ in range(2):
            env.step(np.zeros((2, 2)))
    assert not isinstance(error.value, NonFiniteTransition)


def test_a_non_finite_first_observation():
    with pytest.raises(SimpoError, match=r"environment 1 .* observation on reset"):
        scripted([BAD]).reset()


# --- spaces ---

BOX = spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Dict({"a": BOX}), BOX, "a Dict observation space; only Box"),
        (spaces.Tuple([BOX]), BOX, "a Tuple observation space; only Box"),
        (spaces.Discrete(3), BOX, "a Discrete observation space; only Box"),
        (BOX, spaces.Discrete(3), "a Discrete action space; only a bounded Box"),
        (BOX, spaces.MultiBinary(3), "a MultiBinary action space; only a bounded Box"),
        (BOX, spaces.Dict({"a": BOX}), "a Dict action space; only a bounded Box"),
        (BOX, spaces.Box(-np.inf, 1, (2,)), "an unbounded action box"),
        (BOX, spaces.Box(0, np.inf, (2,)), "an unbounded action box"),
        (BOX, spaces.Box(0, 9, (2,), np.int32), "actions of type int32"),
    ],
)
def test_unsupported_spaces(observation, action, message):
    vector = SyncVectorEnv([lambda: Fixed(observation, action)])
    with pytest.raises(SimpoError, match=f"^Fixed has {message}") as error:
        ControlEnv(vector, seed=0, name="Fixed")
    assert is_one_line(error)


def test_boxes_of_any_shape_and_type_are_flattened():
    pixels = spaces.Box(0, 255, (2, 3, 1), np.uint8)
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    vector = SyncVectorEnv([lambda: Fixed(pixels, script=[image])])
    env = ControlEnv(vector, seed=0)
    assert env.spec == EnvSpec(6, 2)
    np.testing.assert_array_equal(env.reset(), [np.arange(6.0)])


def test_an_undeclared_autoreset_mode_is_refused():
    vector = VectorEnv()
    vector.single_observation_space = vector.single_action_space = BOX
    vector.num_envs = 1
    with pytest.raises(SimpoError, match="declares the autoreset mode None"):
        ControlEnv(vector, seed=0)


def test_an_episode_record_defaults_to_the_first_environment():
    assert Episode(1.5, 3) == (1.5, 3, 0)
