import hashlib
import inspect
import json
import os
import shutil
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import simpo
from plain_loop import is_one_line
from simpo.agents import Mode, compile_act
from simpo.checkpoint import load, read_json, save_policy, write_json
from simpo.envs import make
from simpo.types import ActionBox, SimpoError
from simpo.weighting import Custom
from tiny import SPEC, tiny

OBS = np.random.default_rng(0).normal(size=(8, SPEC.obs_dim)).astype(np.float32)


def fresh_policy(agent, spec=SPEC, seed=0):
    init = jax.jit(agent.init, static_argnums=1)
    return agent.policy(init(jax.random.key(seed), spec))


@pytest.fixture(scope="module")
def policy():
    return fresh_policy(tiny())


@pytest.fixture(scope="module")
def folder(policy, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "policy"
    return save_policy(path, tiny(), SPEC, policy, env="Hopper-v5", step=77)


@pytest.fixture
def copy(folder, tmp_path):
    """A policy that a test may damage."""
    return shutil.copytree(folder, tmp_path / "copy")


# Round trip


def test_what_is_saved_comes_back(policy, folder):
    saved = load(folder)
    assert (saved.agent, saved.spec) == (tiny(), SPEC)
    assert (saved.env, saved.step) == ("Hopper-v5", 77)
    assert jax.tree.structure(saved.policy) == jax.tree.structure(policy)
    jax.tree.map(np.testing.assert_array_equal, saved.policy, policy)


def test_a_run_directory_will_do(folder):
    direct, run = load(folder), load(folder.parent)
    jax.tree.map(np.testing.assert_array_equal, direct.policy, run.policy)
    assert load(str(folder)).step == 77


def test_actions_are_those_of_the_policy_in_memory(policy, folder):
    act = compile_act(tiny(), Mode(best_of=3))
    expected = act(policy, OBS, jax.random.key(4), 0)
    action, _ = load(folder, seed=4).predict(OBS, deterministic=True, best_of=3)
    np.testing.assert_array_equal(action, expected)


FRESH = """
import pickle, sys
def refuse(*args, **kwargs): raise AssertionError("pickle")
pickle.load = pickle.loads = pickle.Unpickler = refuse
import numpy, simpo
assert "jax" not in sys.modules
obs = numpy.frombuffer(bytes.fromhex(sys.argv[2]), numpy.float32).reshape(-1, 3)
action, state = simpo.load(sys.argv[1]).predict(obs, deterministic=True)
print(action.tobytes().hex())
"""


def test_a_fresh_process_acts_alike(folder):
    expected, _ = load(folder).predict(OBS, deterministic=True)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder), OBS.tobytes().hex()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected.tobytes().hex()


def test_the_folder_holds_json_and_plain_tensors(folder):
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["spec"] == {"obs_dim": 3, "action_dim": 2}
    assert config["agent"]["type"] == "SiMPO"
    raw = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    assert header["actor.of_sample.weight"]["shape"] == [2, 8]
    assert {tensor["dtype"] for tensor in header.values()} == {"F32"}


def test_saving_is_deterministic(policy, folder, tmp_path):
    again = save_policy(tmp_path / "p", tiny(), SPEC, policy, env="Hopper-v5", step=77)
    for name in ("config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_an_agent_with_a_function_acts_but_does_not_weigh(tmp_path):
    agent = tiny(weighting=Custom(np.arctan))
    saved = load(
        save_policy(tmp_path / "p", agent, SPEC, fresh_policy(agent), env="e", step=0)
    )
    action, _ = saved.predict(OBS)
    assert action.shape == (8, 2)
    with pytest.raises(SimpoError, match="was not saved"):
        saved.agent.weighting(np.zeros(4), 1.0)


# Acting


def test_one_observation_or_many(folder):
    saved = load(folder)
    one, state = saved.predict(OBS[0], deterministic=True)
    many, _ = saved.predict(OBS[:1], deterministic=True)
    assert state is None
    assert one.shape == (2,) and many.shape == (1, 2)
    assert one.dtype == many.dtype == np.float32
    np.testing.assert_array_equal(one, many[0])
    batch, _ = saved.predict(OBS)
    assert batch.shape == (8, 2) and (np.abs(batch) <= 1).all()
    as_lists, _ = saved.predict(OBS[0].astype(float).tolist(), deterministic=True)
    np.testing.assert_array_equal(as_lists, one)


def test_the_signature_is_that_of_stable_baselines(folder):
    parameters = inspect.signature(simpo.load(folder).predict).parameters
    names = ["observation", "state", "episode_start", "deterministic"]
    assert list(parameters)[:4] == names
    assert [parameters[n].default for n in names[1:]] == [None, None, False]
    saved, states, starts = load(folder), None, np.ones(8, bool)
    for _ in range(2):  # the loop of its evaluate_policy
        actions, states = saved.predict(
            OBS, state=states, episode_start=starts, deterministic=True
        )
        assert actions.shape == (8, 2) and states is None


def test_deterministic_actions_repeat_and_others_do_not(folder):
    saved = load(folder)
    first, _ = saved.predict(OBS)
    second, _ = saved.predict(OBS)
    fixed, _ = saved.predict(OBS, deterministic=True)
    third, _ = saved.predict(OBS)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(saved.predict(OBS, deterministic=True)[0], fixed)
    again = load(folder)
    for expected in (first, second, third):  # deterministic calls draw nothing
        np.testing.assert_array_equal(again.predict(OBS)[0], expected)
    assert not np.array_equal(load(folder, seed=1).predict(OBS)[0], first)


def test_best_of_n_raises_the_value(folder):
    saved = load(folder)

    def value(n):
        action, _ = saved.predict(OBS, deterministic=True, best_of=n)
        return float(saved.policy.critics(OBS, action).min(axis=0).mean())

    assert value(16) > value(1) + 0.01
    with pytest.raises(SimpoError, match="best_of must be at least 1"):
        value(0)


@pytest.mark.parametrize("shape", [(), (2,), (4,), (5, 4), (1, 1, 3), (3, 1)])
def test_observations_of_another_shape(folder, shape):
    with pytest.raises(SimpoError, match="expected") as error:
        load(folder).predict(np.zeros(shape))
    assert is_one_line(error)


# Replacement


def test_a_policy_is_replaced_whole(copy):
    policy = fresh_policy(tiny(), seed=1)
    save_policy(copy, tiny(), SPEC, policy, env="Ant-v5", step=78)
    saved = load(copy)
    assert (saved.env, saved.step) == ("Ant-v5", 78)
    jax.tree.map(np.testing.assert_array_equal, saved.policy, policy)
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


@pytest.mark.parametrize("broken", ["save", "write_json"])
def test_a_failed_save_leaves_the_old_policy(copy, policy, monkeypatch, broken):
    def full(*_):
        raise OSError("no space left on device")

    before = load(copy).predict(OBS)[0]
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(f"simpo.checkpoint.{broken}", full)
        save_policy(copy, tiny(), SPEC, policy, env="Ant-v5", step=78)
    assert load(copy).step == 77
    np.testing.assert_array_equal(load(copy).predict(OBS)[0], before)
    save_policy(copy, tiny(), SPEC, policy, env="Ant-v5", step=78)
    assert load(copy).step == 78
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert read_json(path) == {"x": 1}
    write_json(path, {"x": 2})
    assert read_json(path) == {"x": 2}
    assert os.listdir(tmp_path) == ["a.json"]


# Damage


def refused(path, *parts):
    with pytest.raises(SimpoError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_what_is_no_policy(tmp_path, folder):
    neither = "is neither a run directory nor a policy folder"
    refused(tmp_path, str(tmp_path), neither)
    refused(tmp_path / "nowhere", "nowhere", neither)
    refused(folder / "config.json", "config.json", neither)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    refused(copy, f"no file {copy / name}")
    (copy / name).mkdir()
    refused(copy, f"no file {copy / name}")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "null", "\x00", '{"agent": }', 9999 * "["]
)
def test_a_config_that_is_no_json_object(copy, content):
    (copy / "config.json").write_text(content)
    refused(copy, str(copy / "config.json"), "is damaged")


def test_a_config_that_is_no_text(copy):
    (copy / "config.json").write_bytes(b"\xff\xfe{}")
    refused(copy, str(copy / "config.json"), "is damaged")


def edit(copy, **changes):
    config = json.loads((copy / "config.json").read_text()) | changes
    config = {k: v for k, v in config.items() if v is not ...}
    (copy / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("key", ["agent", "spec", "env", "step", "action_box"])
@pytest.mark.parametrize("value", [..., None, [1], 1.5])
def test_a_missing_or_wrong_key(copy, key, value):
    edit(copy, **{key: value})
    refused(copy, str(copy / "config.json"), "it needs agent, spec, env")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": {"type": "SIMPLE"}}, "unknown Agent 'SIMPLE'; did you mean 'SiMPO'"),
        ({"agent": {"type": "SiMPO", "width": "8"}}, "SiMPO.width: expected int"),
        ({"agent": {"type": "SiMPO", "width": 0}}, "width must be at least 1"),
        ({"spec": {"obs_dim": 3}}, "it needs agent, spec, env"),
        ({"spec": {"obs_dim": 0, "action_dim": 2}}, "it needs agent, spec, env"),
        ({"format": 2}, "has format 2: it needs a newer simpo"),
    ],
)
def test_a_config_of_something_else(copy, changes, message):
    edit(copy, **changes)
    refused(copy, str(copy / "config.json"), message)


def test_a_config_of_other_networks(copy):
    edit(copy, spec={"obs_dim": 4, "action_dim": 2})
    expected = "tensor 'actor.of_state' is (3, 8, 'float32'), expected (4, 8, 'float32"
    refused(copy, str(copy / "model.safetensors"), expected)


@pytest.mark.parametrize("size", [2**40, 2**63, 10**30])
def test_a_config_of_impossible_networks(copy, size):
    edit(copy, spec={"obs_dim": size, "action_dim": 2})
    refused(copy, str(copy))


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_a_truncated_model(copy, kept):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(copy, str(path), "is damaged")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("critics.of_action"),
        lambda tensors: tensors.update({"more": np.zeros(3, np.float32)}),
        lambda tensors: tensors.update({"critics.of_action": np.zeros(3, np.float32)}),
        lambda tensors: tensors.update(
            {"critics.of_action": tensors["critics.of_action"].astype(np.float64)}
        ),
    ],
    ids=["missing", "unknown", "shape", "type"],
)
def test_tensors_that_do_not_fit(copy, change):
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors")
    refused(copy, str(copy / "model.safetensors"), "does not fit its config.json")


def test_tensors_of_a_type_that_numpy_lacks(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"F16"', 1))
    refused(copy, str(path))


def test_loading_changes_nothing_on_disk(folder):
    def digest():
        return [hashlib.sha256(p.read_bytes()).digest() for p in folder.iterdir()]

    before = digest()
    load(folder).predict(OBS)
    assert digest() == before


def test_predict_answers_in_the_box_of_the_task(tmp_path):
    env = make("InvertedPendulum-v5", 1, seed=0)
    env.close()
    assert env.action_box == ActionBox((-3.0,), (3.0,))
    spec, unit = env.spec, {"env": "InvertedPendulum-v5", "step": 0}
    policy = fresh_policy(tiny(), spec)
    own = load(save_policy(tmp_path / "a", tiny(), spec, policy, **unit))
    task = save_policy(tmp_path / "b", tiny(), spec, policy, **unit, box=env.action_box)
    obs = np.random.default_rng(0).normal(size=(64, spec.obs_dim))
    stretched, _ = load(task).predict(obs, deterministic=True)
    np.testing.assert_allclose(
        stretched, 3 * own.predict(obs, deterministic=True)[0], rtol=1e-6
    )
    assert np.abs(stretched).max() <= 3
