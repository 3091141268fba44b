"""What policies observe: normalised, by name, of tasks with keyword arguments."""

import json

import gymnasium
import jax
import numpy as np
import pytest

import simpo
from plain_loop import is_one_line
from simpo import envs
from simpo.agents import AGENTS, Mode, compile_act
from simpo.agents.normalisation import nothing_seen
from simpo.cli import main
from simpo.cli.train import read_run
from simpo.config import from_json, to_json
from simpo.loggers import CsvLogger
from simpo.run import Run
from simpo.trainer import Trainer
from simpo.types import SimpoError
from tiny import tiny, tiny_run

NORMALISED = {"normalise_obs": True}


@pytest.fixture(scope="module", autouse=True)
def registered():
    gymnasium.register("Named-v0", "tiny:Named", max_episode_steps=50)
    yield
    gymnasium.registry.pop("Named-v0")


def trained(directory, **changes):
    directory.mkdir()
    trainer = Trainer(tiny_run(**changes), directory, CsvLogger(directory))
    trainer.train()
    return trainer


# Normalisation


@pytest.fixture(scope="module")
def normalised(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "run"
    return trained(directory, agent=tiny(**NORMALISED))


def test_moments_are_those_of_all_collected_observations(normalised):
    obs = normalised.buffer.sample(np.random.default_rng(0), 1, 20_000).obs[0]
    obs = np.unique(obs, axis=0).astype(float)  # every row was seen once
    mean, var, seen = normalised.moments
    assert seen == normalised.step == len(obs)
    np.testing.assert_allclose(mean, obs.mean(0), rtol=1e-12)
    np.testing.assert_allclose(var, obs.var(0), rtol=1e-12)


def test_the_policy_file_holds_them(normalised):
    saved = simpo.load(normalised.directory)
    for mine, theirs in zip(saved.policy.moments, normalised.moments, strict=True):
        np.testing.assert_array_equal(mine, np.float32(theirs))
    agent, (mean, var, _) = tiny(), normalised.moments
    spread = np.random.default_rng(1).normal(size=(5, 4))
    obs = np.float32(mean + np.sqrt(var) * spread)
    act = compile_act(agent, Mode())
    raw = saved.policy._replace(moments=None)
    by_hand = act(raw, np.float32((obs - mean) / np.sqrt(var)), saved.key, 0)
    scaled, _ = saved.predict(obs, deterministic=True)
    np.testing.assert_allclose(scaled, 3 * np.asarray(by_hand), atol=1e-5)


def test_units_do_not_matter(tmp_path):
    """In other units a normalised run goes the same way, another one does not."""
    for agent, same in ((tiny(**NORMALISED), True), (tiny(), False)):
        ends = []
        for unit in (1.0, 64.0):  # a power of two scales without rounding
            trainer = trained(
                tmp_path / f"{same}-{unit}",
                env="Named-v0",
                agent=agent,
                env_kwargs={"unit": unit, "offset": 0.0},
            )
            ends.append(np.concatenate([x.ravel() for x in weights(trainer)]))
        close = np.allclose(*ends, rtol=0.02, atol=1e-3)
        assert close == same


def weights(trainer):
    return jax.tree.leaves(trainer.run.agent.policy(trainer.state).actor)


@pytest.mark.parametrize(
    "cls", [a for a in AGENTS if a().rollout_steps is None], ids=lambda a: a.__name__
)
def test_every_agent_from_replay_offers_it(cls):
    assert tiny(cls).moments_clip is None
    assert tiny(cls, **NORMALISED).moments_clip == 10.0


def test_without_it_nothing_is_stored(tmp_path):
    trainer = trained(tmp_path / "run")
    assert trainer.moments is None and trainer.policy.moments is None


def test_far_observations_are_clipped():
    agent, moments = tiny(normalise_obs=True, normalised_clip=2.0), nothing_seen(3)
    seen = agent.observed(np.array([[-100.0, 0.5, 100.0]]), moments)
    np.testing.assert_allclose(seen, [[-2.0, 0.5, 2.0]])


# Observations by name


def test_named_observations_are_joined_in_the_order_of_the_space():
    env = envs.make("Named-v0", 2, seed=0)
    plain = envs.make("InvertedPendulum-v5", 2, seed=0)
    assert env.spec == plain.spec
    np.testing.assert_array_equal(env.reset(), plain.reset())
    assert env.parts == (("angle", (2,)), ("velocity", (2,)))
    action = np.zeros((2, 1), np.float32)
    one, other = env.step(action), plain.step(action)
    np.testing.assert_array_equal(one.transition.next_obs, other.transition.next_obs)


def test_their_environments_can_be_saved():
    env, other = (envs.make("Named-v0", 1, seed=3) for _ in range(2))
    env.reset(), other.reset()
    env.step(np.ones((1, 1)))
    other.restore(env.snapshot())
    one, two = (e.step(np.ones((1, 1))).obs for e in (env, other))
    np.testing.assert_array_equal(one, two)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "run"
    trained(directory, env="Named-v0", env_kwargs={"unit": 2.0})
    return simpo.load(directory)


def test_predict_takes_them_by_name(named):
    space = gymnasium.make("Named-v0").observation_space
    obs = {k: np.float32(v) for k, v in space.sample().items()}
    joined = np.concatenate([obs["angle"], obs["velocity"]])
    expected, _ = named.predict(joined, deterministic=True)
    action, _ = named.predict(obs, deterministic=True)
    np.testing.assert_array_equal(action, expected)
    many, _ = named.predict({k: v[None] for k, v in obs.items()}, deterministic=True)
    np.testing.assert_array_equal(many, expected[None])


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ({"angle": np.zeros(2)}, "expected angle, velocity"),
        (
            {"angle": np.zeros(2), "velocity": np.zeros(3)},
            r"'velocity' has shape \(3,\), expected",
        ),
    ],
)
def test_other_names_and_sizes_are_refused(named, obs, message):
    with pytest.raises(SimpoError, match=message) as caught:
        named.predict(obs)
    assert is_one_line(caught)


def test_names_are_refused_where_there_are_none(normalised):
    with pytest.raises(SimpoError, match="no names, one array"):
        simpo.load(normalised.directory).predict({"angle": np.zeros(4)})


# Keyword arguments of tasks


def test_keyword_arguments_reach_training_evaluation_and_the_policy(named):
    assert named.env_kwargs == {"unit": 2.0}
    env = envs.make("Named-v0", 1, seed=0, env_kwargs={"unit": 2.0})
    plain = envs.make("Named-v0", 1, seed=0)
    np.testing.assert_array_equal(env.reset(), 2 * plain.reset())


def test_they_are_an_option():
    text = "reset_noise_scale=0.5, width=64"
    run, _ = read_run(["InvertedPendulum-v5", "--env-kwargs", text])
    assert run.env_kwargs == {"reset_noise_scale": 0.5, "width": 64}
    assert from_json(json.loads(json.dumps(to_json(run))), Run) == run


def test_a_batch_must_be_one(named):
    obs = {"angle": np.zeros((3, 2)), "velocity": np.zeros((2, 2))}
    with pytest.raises(SimpoError, match="batches of observations differ"):
        named.predict(obs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reset_noise_scale", "write 'name=value, other=1'"),
        ("a=f()", "cannot read 'a=f()'"),
        ("a=(1, 2)", "env_kwargs must be names with numbers"),
        ("no_such=1", "cannot build InvertedPendulum-v5 with no_such=1"),
    ],
)
def test_what_is_not_keyword_arguments_is_refused(tmp_path, capsys, text, message):
    command = ["train", "InvertedPendulum-v5", "--out", str(tmp_path)]
    assert main([*command, "--env-kwargs", text]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())
