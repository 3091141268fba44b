"""Exports that need no extra: the program, the contract, the check, the command."""

import json
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from gymnasium import spaces
from jax import export as jax_export
from safetensors.numpy import load_file

from exporting import (
    BOX,
    OBS,
    VARIANTS,
    act_and_record,
    choosy,
    compiled,
    noise_of,
    saved_policy,
    with_parameters,
)
from simpo import randomness
from simpo.agents import PPO, QSM, SAC, SDAC, TD3, Mode
from simpo.agents.qsm import Langevin
from simpo.checkpoint import load, save_policy
from simpo.cli import main
from simpo.envs import ENVIRONMENTS, make_one
from simpo.export import export_policy, formats, parity
from simpo.export.names import observed
from simpo.export.program import make_program
from simpo.generative import Flow
from simpo.randomness import drawing
from simpo.types import ActionBox, EnvSpec, SimpoError
from tiny import SPEC, tiny


@pytest.fixture
def folder(tmp_path):
    """A policy folder of a real task."""
    spec, box = EnvSpec(4, 1), ActionBox((-3.0,), (3.0,))
    saved = saved_policy(tiny(SAC), spec=spec, box=box)
    name = "InvertedPendulum-v5"
    path = tmp_path / "policy"
    return save_policy(
        path, saved.agent, spec, saved.policy, env=name, step=7, box=saved.box
    )


@pytest.fixture
def few(monkeypatch):
    """A small check."""
    monkeypatch.setattr(parity, "ROWS", 100)
    monkeypatch.setattr(parity, "CALLS", 3)


# The program


def test_the_program_is_the_agent_with_its_random_numbers_given(monkeypatch):
    """Of all agents: tests/test_export_onnx.py."""
    program = choosy(tiny(SAC))
    expected, noise = act_and_record(program, OBS[:1], monkeypatch)
    actual = compiled(program)(OBS[:1], *noise)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("agent", VARIANTS.values(), ids=VARIANTS)
def test_any_batch_can_be_traced(agent):
    """Which is what the formats take; no number is drawn by the agent itself."""
    program = choosy(agent)
    (batch,) = jax_export.symbolic_shape("b")
    closed = program.trace(batch)
    assert closed.out_avals[0].shape == (batch, SPEC.action_dim)
    assert len(closed.jaxpr.invars) == 1 + bool(program.draws)


@pytest.mark.parametrize("name", ["SAC", "normalised"])
def test_the_program_is_predict(name):
    saved = saved_policy(VARIANTS[name])
    program = compiled(make_program(saved, deterministic=True))
    expected, _ = saved.predict(OBS, deterministic=True)
    np.testing.assert_allclose(program(OBS), expected, atol=1e-6)


def test_rows_of_a_batch_do_not_touch_each_other():
    program = choosy(tiny(SAC))
    call, (noise,) = jax.jit(program), noise_of(program, 5)
    alone = [call(OBS[i : i + 1], noise[i : i + 1])[0] for i in range(5)]
    np.testing.assert_allclose(call(OBS, noise), np.stack(alone), atol=1e-5)


def test_noise_reaches_the_action_and_stays_in_the_box():
    program = make_program(saved_policy(tiny(SAC)), best_of=1)
    call, zeros = jax.jit(program), np.zeros((5, program.noise_dim), np.float32)
    far = call(OBS, zeros + 1e6)
    assert not np.allclose(call(OBS, zeros), call(OBS, zeros + 1))
    assert (far >= np.float32(BOX.low)).all() and (far <= np.float32(BOX.high)).all()


def test_the_sampler_is_the_headline_unless_one_is_asked_for():
    saved = saved_policy(tiny(SAC))
    assert make_program(saved).mode == Mode(deterministic=True)
    assert make_program(saved).noise_dim == 0
    assert make_program(saved, best_of=1).mode == Mode()
    assert make_program(saved, best_of=4).noise_dim == 4 * SPEC.action_dim
    assert make_program(saved_policy(tiny()), deterministic=True).mode.deterministic


def test_denoising_steps_are_those_asked_for():
    saved = saved_policy(tiny(model=Flow(denoising_steps=2)))
    five = make_program(saved, denoising_steps=5)
    assert five.saved.agent.model.denoising_steps == 5
    assert "length=4" in str(five.trace().jaxpr)
    same = make_program(saved, denoising_steps=2)
    assert str(same.trace().jaxpr) == str(make_program(saved).trace().jaxpr)


@pytest.mark.parametrize(
    ("agent", "options", "message"),
    [
        (tiny(PPO), {"best_of": 2}, "PPO has no action values to choose by"),
        (tiny(TD3), {"best_of": 2}, "TD3, single, has no use for best of 2"),
        (
            tiny(SAC),
            {"best_of": 2, "deterministic": True},
            "SAC, deterministic, has no use for best of 2",
        ),
        (tiny(), {"best_of": 0}, "best_of must be at least 1"),
        (tiny(SAC), {"denoising_steps": 3}, "SAC has no denoising steps"),
        (
            tiny(),
            {"denoising_steps": 0},
            "denoising_steps must be between 1 and 10,",
        ),
        (
            tiny(QSM, dynamics=Langevin(steps=2)),
            {"denoising_steps": 3},
            "QSM has no denoising steps",
        ),
    ],
    ids=str,
)
def test_settings_without_an_effect_are_refused(agent, options, message):
    with pytest.raises(SimpoError, match=message):
        make_program(saved_policy(agent), **options)


def test_an_agent_that_draws_by_itself_is_refused():
    """Its numbers would be the same at every call of the exported policy."""

    class Odd(PPO):
        def act(self, policy, obs, key, mode):
            return jax.random.uniform(key, (len(obs), 2))

    saved = replace(saved_policy(tiny(PPO)), agent=tiny(Odd))
    with pytest.raises(SimpoError, match="Odd cannot be exported: it draws random"):
        make_program(saved).trace()


def test_drawing_ends_with_its_block():
    key = jax.random.key(0)
    before = randomness.normal(key, (3,))
    with drawing(lambda shape: np.full(shape, 7.0)):
        assert (randomness.normal(key, (2,)) == 7).all()
    np.testing.assert_array_equal(randomness.normal(key, (3,)), before)


# Formats


def test_stablehlo_takes_any_batch_on_any_platform(tmp_path, few):
    folder, saved = tmp_path / "out", saved_policy(tiny(SAC))
    report = export_policy(saved, folder, format="stablehlo", best_of=3)
    assert report.ok and report.max_error <= 1e-6
    data = (folder / "policy.stablehlo").read_bytes()
    exported = jax_export.deserialize(bytearray(data))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    program = make_program(saved, best_of=3)
    inputs = (OBS, *noise_of(program, 5))
    expected = compiled(program)(*inputs)
    np.testing.assert_allclose(exported.call(*inputs), expected, atol=1e-5)


def test_a_denoising_loop_becomes_stablehlo(tmp_path):
    program = make_program(saved_policy(tiny()))
    formats.StableHlo().write(program, tmp_path / "p")
    read = formats.StableHlo().read(program, tmp_path / "p")
    inputs = (OBS, *noise_of(program, 5))
    np.testing.assert_allclose(read(*inputs), compiled(program)(*inputs), atol=1e-5)


def mish(x):
    return x * np.tanh(np.log1p(np.exp(x)))


def numpy_policy(folder, obs, noise):
    """A flow policy of one sample, from its exported folder and by NumPy alone."""
    contract = json.loads((folder / "contract.json").read_text())
    w = load_file(folder / contract["model"]["file"])
    assert {n: list(x.shape) for n, x in w.items()} == contract["tensors"]
    steps = contract["denoising_steps"]

    def layer(name, x):
        return x @ w[f"actor.{name}.weight"] + w[f"actor.{name}.bias"]

    def velocity(x, t):
        angles = np.pi * t * np.geomspace(0.5, 32.0, 16)
        waves = np.concatenate([np.sin(angles), np.cos(angles)])
        time = layer("of_time", mish(layer("time_hidden", waves)))
        h = mish(layer("of_sample", x) + obs @ w["actor.of_state"] + time)
        return layer("trunk.head", h)

    x = noise
    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        clean = np.clip(x - t * velocity(x, t), -1, 1)
        x = x + (s - t) * (x - clean) / t
    low, high = (
        np.array([a[end] for a in contract["action"]["entries"]])
        for end in ("low", "high")
    )
    return 0.5 * (low + high) + 0.5 * (high - low) * x


def test_safetensors_are_enough_for_numpy(tmp_path, few):
    saved = saved_policy(tiny(model=Flow(denoising_steps=3)))
    folder = tmp_path / "out"
    assert export_policy(saved, folder, format="safetensors").max_error == 0
    program = make_program(saved)
    (noise,) = noise_of(program, 5)
    expected = compiled(program)(OBS, noise)
    np.testing.assert_allclose(numpy_policy(folder, OBS, noise), expected, atol=1e-4)


# The contract


def test_the_contract_of_a_real_task(folder, few):
    out = folder.parent / "out"
    export_policy(load(folder), out, format="safetensors", best_of=3)
    contract = json.loads((out / "contract.json").read_text())
    assert contract["settings"]["type"] == "SAC"
    assert contract["env"] == "InvertedPendulum-v5" and contract["step"] == 7
    assert (contract["agent"], contract["best_of"]) == ("SAC", 3)
    assert contract["sampler"] == "best-of-3" and contract["denoising_steps"] is None
    assert contract["control_rate_hz"] == pytest.approx(25.0)
    entries = contract["observation"]["entries"]
    assert [(e["name"], e["unit"]) for e in entries] == [
        ("slider", "m"),
        ("hinge", "rad"),
        ("slider.velocity", "m/s"),
        ("hinge.velocity", "rad/s"),
    ]
    assert contract["observation"]["shape"] == ["batch", 4]
    assert contract["noise"]["shape"] == ["batch", 3]
    assert contract["noise"]["parts"] == [[1, 3, 1]]
    (action,) = contract["action"]["entries"]
    assert (action["name"], action["low"], action["high"]) == ("slide", -3.0, 3.0)
    assert (action["joint"], action["unit"]) == ("slider", None)
    assert json.loads((out / "parity.json").read_text())["observations"].startswith(
        "10"
    )


def test_the_contract_of_a_task_that_cannot_be_made(tmp_path, few):
    export_policy(saved_policy(tiny(TD3)), tmp_path / "out", format="safetensors")
    contract = json.loads((tmp_path / "out" / "contract.json").read_text())
    rows = contract["observation"]["entries"]
    assert rows[2] == {"name": "obs[2]", "unit": None, "low": None, "high": None}
    assert contract["action"]["entries"][1] == {
        **{"name": "action[1]", "unit": None, "low": 0.5, "high": 2.5}
    }
    assert contract["noise"] is None and contract["control_rate_hz"] is None
    checked = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert checked["observations"] == "standard normal"


MUJOCO = [n for n, e in ENVIRONMENTS.items() if "-v4" in n or "-v5" in n]


@pytest.mark.parametrize("name", MUJOCO)
def test_names_are_known_for_every_mujoco_task(name):
    env = make_one(name)
    env.reset(seed=0)
    assert isinstance(env.action_space, spaces.Box)
    still = np.zeros(env.action_space.shape, np.float32)
    obs = np.asarray(env.step(still)[0], float)
    rows = observed(env, obs)
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names) == len(obs)
    assert "obs[0]" not in names
    np.testing.assert_allclose([row[2] for row in rows], obs)
    assert observed(env, obs + 1e-3)[0][0] == "obs[0]"
    env.close()


# The check


def spoil(monkeypatch, change):
    """Let safetensors read back something else: change(actions, obs, noise)."""
    usual = formats.Safetensors.read

    def read(self, program, path):
        act = usual(self, program, path)
        return lambda *inputs: change(act(*inputs), program, *inputs)

    monkeypatch.setattr(formats.Safetensors, "read", read)


@pytest.mark.parametrize("wrong", [1e-3, np.nan])
def test_a_file_that_acts_otherwise_is_not_kept(tmp_path, monkeypatch, few, wrong):
    spoil(monkeypatch, lambda action, *_: action + np.float32(wrong))
    with pytest.raises(SimpoError, match=r"nothing was written to .*out: ") as error:
        export_policy(saved_policy(tiny(TD3)), tmp_path / "out", format="safetensors")
    assert error.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def last_candidate(rows):
    """Actions of the last of three candidates in the first rows."""

    def change(action, program, obs, noise):
        if len(obs) == 1:
            return action
        single = make_program(program.saved, best_of=1)
        last = parity.candidate_noise(program, single, noise)[-1]
        return np.concatenate([single(obs[:rows], last[:rows]), action[rows:]])

    return change


def export_best_of_three(folder):
    saved = saved_policy(tiny(SAC))
    return export_policy(saved, folder, format="safetensors", best_of=3)


def test_flips_between_candidates_are_counted(tmp_path, monkeypatch, few):
    monkeypatch.setattr(parity, "FLIPS", 0.2)
    spoil(monkeypatch, last_candidate(rows=20))
    report = export_best_of_three(tmp_path / "o")
    assert 5 < report.flips <= 20 and report.rows == 100
    assert report.max_error < 1e-6 < 1e-2 < report.max_error_with_flips


def test_many_flips_are_an_error(tmp_path, monkeypatch, few):
    spoil(monkeypatch, last_candidate(rows=20))
    with pytest.raises(SimpoError, match=r"another candidate in \d+ of 100 rows \(at"):
        export_best_of_three(tmp_path / "o")


def test_a_mixture_of_candidates_is_no_flip(tmp_path, monkeypatch, few):
    spoil(monkeypatch, lambda action, *_: np.where(np.arange(2) == 0, action, 0.9))
    with pytest.raises(SimpoError, match="in 0 of 100 rows"):
        export_best_of_three(tmp_path / "o")


def test_rounding_of_large_outputs_is_told_from_errors():
    """Predicted noise is divided by alpha ~ 0.01, and large noise leaves few digits."""
    saved = saved_policy(tiny(SDAC))
    large = with_parameters(saved, lambda x: 5 * x)
    usual, more = (
        parity.rounding_error(make_program(x), (OBS, *noise_of(make_program(x), 5)))
        for x in (saved, large)
    )
    assert 0 < usual < 1e-5 and more > 3 * usual


# The command


def test_the_command_says_where_and_how_exact(folder, capfd, few):
    assert main(["export", str(folder), "--format", "stablehlo"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert f"exported {folder}/export/stablehlo/policy.stablehlo\n" in out
    assert "100 observations from 10 episodes of InvertedPendulum-v5" in out
    assert "ms per action" in out
    names = sorted(p.name for p in (folder / "export" / "stablehlo").iterdir())
    assert names == ["contract.json", "parity.json", "policy.stablehlo"]
    load(folder)  # still a policy


def test_an_export_is_replaced_only_by_force(folder, capfd, few):
    argv = ["export", str(folder), "--format", "safetensors", "--out"]
    out = folder.parent / "out"
    assert main([*argv, str(out)]) == 0
    assert main([*argv, str(out)]) == 2
    assert capfd.readouterr().err == (
        f"simpo: error: {out} exists; --force replaces it, --out names another\n"
    )
    (out / "policy.onnx").write_text("left over")
    assert main([*argv, str(out), "--force"]) == 0
    assert not (out / "policy.onnx").exists()
    before = sorted(folder.iterdir())
    assert main([*argv, str(folder), "--force"]) == 2
    assert "is no export, so --force does not replace it" in capfd.readouterr().err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--best-of", "0"], "--best-of must be at least 1"),
        (["--denoising-steps", "0"], "--denoising-steps must be at least 1"),
        (["--format", "onx"], "invalid choice 'onx' for argument '--format'"),
        (["--format", "tflite"], "'onnx', 'stablehlo', 'safetensors'"),
        (["--formt", "onnx"], "did you mean '--format'?"),
        (
            ["--out", "file/x", "--format", "stablehlo"],
            "cannot write file/x: Not a",
        ),
    ],
    ids=str,
)
def test_mistakes_are_told_in_one_line(folder, capfd, monkeypatch, words, message):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "file").write_text("")
    before = sorted(folder.parent.rglob("*"))
    assert main(["export", "policy", *words]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("simpo: error: ") and err.count("\n") == 1
    assert message in err
    assert sorted(folder.parent.rglob("*")) == before


def test_no_policy_is_told_in_one_line(tmp_path, capfd):
    assert main(["export"]) == 2
    assert capfd.readouterr().err == (
        "simpo: error: which policy? simpo export POLICY\n"
    )
    assert main(["export", str(tmp_path)]) == 2
    assert "is neither a run directory nor a policy folder" in capfd.readouterr().err


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_extra_comes_with_its_install_line(
    folder, capfd, monkeypatch, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["export", str(folder)]) == 2
    err = capfd.readouterr().err
    assert err.endswith("not installed: pip install 'simpo[onnx]'\n")
    assert err.count("\n") == 1
    assert not (folder / "export").exists()
