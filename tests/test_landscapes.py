"""Reward landscapes; what needs the extra `dm-control` is skipped without it."""

import subprocess
import sys
from itertools import product

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.seeding import np_random

from plain_loop import is_one_line
from simpo import envs
from simpo.agents import Mode, compile_init
from simpo.cli import main
from simpo.envs import make, make_one
from simpo.envs.landscapes import (
    BODIES,
    CURVES,
    Exponential,
    Landscape,
    forget_missing,
    load_suite,
)
from simpo.evaluation import evaluate
from simpo.plotting import landscapes as pictures
from simpo.registration import TASKS
from simpo.types import EnvSpec, SimpoError
from simpo.video import build, choose_way, draw_frame, frames_per_second
from tiny import tiny

SHARES = np.linspace(0.0, 1.0, 501)
IDS = [
    f"simpo/{body.capitalize()}Run-{curve}-v0"
    for body, curve in product(BODIES, CURVES)
]


@pytest.fixture
def suite():
    pytest.importorskip("dm_control")
    return load_suite()


# Curves


@pytest.mark.parametrize("cls", CURVES.values())
def test_a_curve_rises_from_nothing_to_one(cls):
    f = cls()(SHARES)
    assert (np.diff(f) > 0).all()
    assert f[0] == 0.0 and f[-1] == pytest.approx(1.0, abs=1e-15)
    assert cls()(0.25) == pytest.approx(f[125])


def test_curves_go_from_flat_to_steep():
    u = SHARES[1:-1]
    sqrt, linear, square, exp = (cls()(u) for cls in CURVES.values())
    assert (sqrt > linear).all() and (linear > square).all() and (linear > exp).all()
    assert (square > exp)[u > 0.25].all() and (square < exp)[u < 0.2].all()
    np.testing.assert_allclose([sqrt**2, linear**2], [linear, square])
    slopes = [float((cls()(1.0) - cls()(1 - 1e-6)) / 1e-6) for cls in CURVES.values()]
    assert slopes == pytest.approx([0.5, 1.0, 2.0, 3 / (1 - np.exp(-3))], rel=1e-5)


@pytest.mark.parametrize("k", [1e-3, 1, 3.0, 20.0])
def test_the_exponential_curve_is_its_formula(k):
    expected = (np.exp(k * SHARES) - 1) / (np.exp(k) - 1)
    np.testing.assert_allclose(Exponential(k)(SHARES), expected, rtol=1e-9, atol=1e-15)


def test_no_steepness_overflows():
    np.testing.assert_array_equal(Exponential(1e6)(SHARES), SHARES == 1)


@pytest.mark.parametrize("k", [0.0, -1.0, np.nan, np.inf, "steep"])
def test_a_steepness_that_is_none(k):
    with pytest.raises(SimpoError, match="k must be positive and finite"):
        Exponential(k)


# Tasks


def bare(env_id, **options):
    """A task without wrappers."""
    return make_one(env_id, options).unwrapped


def throw(env, speed):
    """Set the horizontal speed of the root by hand, m/s."""
    env.physics.data.qvel[0 if hasattr(env.physics, "speed") else 1] = speed


@pytest.mark.parametrize("body", BODIES)
def test_linear_is_the_original_task(suite, body):
    """The same start, actions and speeds set by hand: the same episode to rounding."""
    env = bare(f"simpo/{body.capitalize()}Run-linear-v0")
    start = int(np_random(3)[0].integers(2**32))
    with envs._known_warnings_muted():
        original = suite.load(body, "run", task_kwargs={"random": start})
    obs, _ = env.reset(seed=3)
    step = original.reset()
    rng, speeds = np.random.default_rng(0), []
    for t in range(1000):
        flat = np.concatenate([np.ravel(x) for x in step.observation.values()])
        np.testing.assert_array_equal(obs, flat.astype(np.float32))
        if t % 10 == 0:
            speed = rng.uniform(-5.0, 18.0)
            throw(env._env, speed)
            throw(original, speed)
        action = rng.uniform(-1, 1, 6)
        obs, reward, terminated, truncated, info = env.step(action)
        step = original.step(action)
        assert reward == pytest.approx(step.reward, abs=1e-12)
        assert info["linear_reward"] == step.reward and not (terminated or truncated)
        speeds.append(info["speed"])
    assert step.last() and step.discount == 1.0  # the original ends by a time limit
    target = BODIES[body].target
    assert min(speeds) < -1 and max(speeds) > 1.2 * target
    assert np.histogram(speeds, 8, (0.0, target))[0].min() > 2


@pytest.mark.parametrize("env_id", IDS)
def test_rewards_are_curves_of_the_speed(suite, env_id):
    """By what the step itself tells: the speed, and the original reward."""
    env = bare(env_id)
    task = TASKS[env_id].kwargs
    curve, target = CURVES[task["curve"]](), BODIES[task["body"]].target
    env.reset(seed=0)
    rng = np.random.default_rng(1)
    for speed in np.linspace(-1.0, 1.3 * target, 60):
        throw(env._env, speed)
        _, reward, _, _, info = env.step(env.action_space.low * rng.uniform(-1, 1))
        u = min(max(info["speed"] / target, 0.0), 1.0)
        expected = float(curve(u))
        if task["body"] == "walker":
            expected = info["linear_reward"] / (5 * u + 1) * (5 * expected + 1)
        assert reward == pytest.approx(expected, abs=1e-12) and type(reward) is float


def test_speeds_are_metres_per_second_of_the_whole_body(suite):
    """The centre of mass goes as far as the speeds say."""
    for env_id in ("simpo/CheetahRun-sqrt-v0", "simpo/WalkerRun-sqrt-v0"):
        env = bare(env_id)
        env.reset(seed=0)
        throw(env._env, 5.0)
        data = env._env.physics.data
        before, path = data.subtree_com[0, 0], 0.0
        for _ in range(40):
            path += env.step(np.zeros(6))[-1]["speed"] * env.dt
        assert path == pytest.approx(data.subtree_com[0, 0] - before, rel=0.1)
        assert abs(path) > 0.5


def test_the_steepness_is_an_option_of_the_task(suite):
    one, other = (bare("simpo/CheetahRun-exp-v0", **x) for x in ({}, {"k": 1.0}))
    for env in (one, other):
        env.reset(seed=0)
        throw(env._env, 5.0)
    (_, less, *_, info), (_, more, *_) = (env.step(np.zeros(6)) for env in (one, other))
    u = info["speed"] / 10
    assert less == pytest.approx(np.expm1(3 * u) / np.expm1(3))
    assert more == pytest.approx(np.expm1(u) / np.expm1(1))


@pytest.mark.parametrize(
    ("curve", "kwargs", "message"),
    [
        ("exp", {"k": 0}, "k must be positive and finite, got 0"),
        ("sqrt", {"k": 2.0}, "with k=2.0: (.* unexpected keyword|.* takes no arg)"),
    ],
)
def test_options_that_make_no_sense(suite, curve, kwargs, message):
    with pytest.raises(SimpoError, match=message) as error:
        make(f"simpo/CheetahRun-{curve}-v0", 1, seed=0, env_kwargs=kwargs)
    assert is_one_line(error)


def test_a_render_mode_that_it_lacks():
    with pytest.raises(SimpoError, match="no render mode 'human'; choose 'rgb_array'"):
        Landscape("cheetah", "sqrt", render_mode="human")


@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*imum value is")
@pytest.mark.parametrize("env_id", [IDS[0], IDS[-1]])
def test_gymnasium_finds_nothing_wrong(suite, env_id):
    env = bare(env_id)
    check_env(env, skip_render_check=True)
    assert env.observation_space.dtype == env.action_space.dtype == np.float32
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)


def test_a_time_limit_is_a_truncation(suite):
    """What the last step led to is kept apart from the start of the next episode."""
    env = make(IDS[0], 2, seed=0, env_kwargs={"max_episode_steps": 20})
    env.reset()
    rng = np.random.default_rng(0)
    steps = [env.step(env.random_actions(rng)) for _ in range(40)]
    assert [len(step.episodes) for step in steps] == ([0] * 19 + [2]) * 2
    assert all((step.transition.discount == 1).all() for step in steps)
    assert not np.array_equal(steps[19].obs, steps[19].transition.next_obs)
    assert {e.length for e in steps[19].episodes} == {20}


@pytest.mark.parametrize("env_id", [IDS[0], IDS[-1]])
def test_seeds(suite, env_id):
    env = bare(env_id)

    def starts(seed):
        return [env.reset(seed=s)[0].tobytes() for s in (seed, None, None)]

    one = starts(3)
    assert one == starts(3) and len({*one, *starts(4)}) == 6


@pytest.mark.parametrize("env_id", [IDS[0], IDS[-1]])
def test_it_goes_on_from_little_where_nothing_has_begun(suite, env_id):
    """Of a simulator that was never reset, and over the end of an episode."""
    kwargs = {"max_episode_steps": 70}
    env, other = (make(env_id, 1, seed=s, env_kwargs=kwargs) for s in (3, 9))
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(50):
        env.step(env.random_actions(rng))
    snapshot = env.snapshot()
    assert len(snapshot) < 10_000  # the model, with its textures, is 12 million
    other.restore(snapshot)
    for _ in range(100):
        action = env.random_actions(rng)
        (obs, one, *_), (also, two, *_) = env.step(action), other.step(action)
        np.testing.assert_array_equal(obs, also)
        for x, y in zip(one, two, strict=True):
            np.testing.assert_array_equal(x, y)


def test_evaluations_tell_the_mean_speed(suite):
    agent, told = tiny(), []
    policy = agent.policy(compile_init(agent, EnvSpec(17, 6))(jax.random.key(0)))
    rows = evaluate(
        *(agent, policy, IDS[0], Mode()),
        episodes=2,
        seed=0,
        env_kwargs={"max_episode_steps": 15},
        watch=lambda _, step: told.append(step.info["speed"]),
    )
    assert [row.speed for row in rows] == pytest.approx(np.mean(told, axis=0).tolist())


# Around it

SIDE_EFFECTS = """
import os, sys
import mujoco
import simpo.envs.landscapes, simpo.plotting.landscapes
from simpo.cli import main

before = dict(os.environ)
main(["list", "envs"])
assert "dm_control" not in sys.modules
if sys.argv[1:]:
    simpo.envs.make("simpo/WalkerRun-sqrt-v0", 1, seed=0).reset()
    assert "dm_control" in sys.modules
    assert not {"OpenGL.EGL", "OpenGL.osmesa"} & sys.modules.keys()
    assert mujoco.get_mju_user_warning() is None
assert dict(os.environ) == before
"""


@pytest.mark.parametrize("built", [False, True])
def test_dm_control_comes_late_and_starts_no_opengl(built):
    if built:
        pytest.importorskip("dm_control")
    command = [sys.executable, "-W", "error", "-c", SIDE_EFFECTS, *["built"] * built]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(env_id in done.stdout for env_id in IDS)


def test_a_missing_extra_gives_the_install_line(monkeypatch, run, capsys):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    for words in (["train", IDS[0]], ["eval", str(run), "--env", IDS[-1]]):
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert "pip install 'simpo[dm-control]'" in err
    with pytest.raises(SimpoError, match=r"pip install 'simpo\[dm-control\]'"):
        bare(IDS[0])


def test_names_that_mujoco_lacks_are_forgotten():
    fields = {"real": ("nq",), "strange": ("nv",)}
    forget_missing(fields, complex)
    assert fields == {"real": ("nq",)}


def test_it_draws_itself(suite):
    """Moving bodies in colour at the task's own rate; in a process of its own."""
    choice = choose_way(IDS[0], {})
    if choice.way is None:
        pytest.skip(f"MuJoCo cannot draw here: {choice.reason}")
    for env_id, rate in ((IDS[0], 100), (IDS[-1], 40)):
        program = (
            "import sys, numpy as np\n"
            f"from test_landscapes import frames; frames({env_id!r}, {rate})"
        )
        command = [sys.executable, "-c", program]
        folder = [str(path) for path in sys.path if path]
        environment = {"MUJOCO_GL": choice.way, "PYTHONPATH": ":".join(folder)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def frames(env_id, rate):
    vector = build(env_id, {})
    assert frames_per_second(vector) == rate
    vector.reset(seed=0)
    first = draw_frame(vector)
    assert first.shape == (480, 480, 3) and first.std(axis=(0, 1)).min() > 5
    for _ in range(20):
        vector.step(np.ones((1, 6), np.float32))
    assert (draw_frame(vector) != first).mean() > 0.01
    vector.close()


def test_figure_4(tmp_path, monkeypatch):
    """Both panels' lines are the rewards at the speeds below them."""
    figures, real = [], pictures.draw

    def draw(out, size, fill):
        return real(out, size, lambda figure: (fill(figure), figures.append(figure)))

    monkeypatch.setattr(pictures, "draw", draw)
    paths = pictures.draw_curves(tmp_path / "curves", k=5.0)
    assert [path.name for path in paths] == ["curves.png", "curves.svg"]
    assert all(path.stat().st_size > 5_000 for path in paths)
    (figure,) = figures
    for axes, body in zip(figure.axes, BODIES.values(), strict=True):
        assert axes.get_xlabel() == "speed $v$ (m/s)"
        assert axes.get_title("left").endswith(f"target {body.target:g} m/s")
        assert axes.get_ylabel().startswith("reward per step")
        lines = axes.lines[:4]
        assert len({line.get_color() for line in lines}) == 4
        for line, cls in zip(lines, CURVES.values(), strict=True):
            curve = cls(5.0) if cls is Exponential else cls()
            v, reward = line.get_data()
            f = curve(np.clip(v / body.target, 0, 1))
            expected = (5 * f + 1) / 6 if body.stands else f
            np.testing.assert_allclose(reward, expected)
            assert v[-1] > body.target
    (legend,) = figure.legends
    words = [text.get_text().partition(":")[0] for text in legend.get_texts()]
    assert words == list(CURVES) and "k=5" in legend.get_texts()[-1].get_text()
