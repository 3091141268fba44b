"""ONNX exports of every agent, run by ONNX Runtime; and the example, without simpo."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from exporting import (
    OBS,
    VARIANTS,
    act_and_record,
    choosy,
    noise_of,
    saved_policy,
)
from simpo.agents import SAC, Policy, SiMPO
from simpo.checkpoint import load, save_policy
from simpo.export import export_policy, parity
from simpo.export.program import make_program
from simpo.types import ActionBox, EnvSpec, SimpoError
from tiny import tiny

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from simpo.export.onnx_graph import to_onnx  # noqa: E402

EXAMPLE = Path(__file__).parent.parent / "examples" / "onnx_policy.py"


def session(model):
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("agent", VARIANTS.values(), ids=VARIANTS)
def test_every_agent_acts_as_in_jax_with_the_numbers_it_drew(agent, monkeypatch):
    program = choosy(agent)
    run = session(to_onnx(program))
    expected, drawn = act_and_record(program, OBS[:1], monkeypatch)
    noise = [np.concatenate([x, *noise_of(program, 4)]) for x in drawn]
    feed = dict(zip(["observation", "noise"], (OBS, *noise), strict=False))
    assert [x.name for x in run.get_inputs()] == list(feed)
    (actions,) = run.run(["action"], feed)
    np.testing.assert_allclose(actions[:1], expected, atol=1e-5)
    for i in range(5):  # alone, a row acts as among others
        (alone,) = run.run(["action"], {k: x[i : i + 1] for k, x in feed.items()})
        np.testing.assert_allclose(alone[0], actions[i], atol=1e-5)
    assert actions.std(axis=0).max() > 1e-3


def test_what_depends_on_no_input_is_a_constant():
    """No sine of a time is left, no loop, and no weight is stored twice."""
    model = to_onnx(make_program(saved_policy(tiny())))
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Sin", "Cos", "Log", "Pow", "Loop", "Scan"}
    longer = to_onnx(make_program(saved_policy(tiny()), denoising_steps=8))
    weights = [x for x in longer.graph.initializer if len(x.dims) == 2]
    assert len(longer.graph.node) > len(model.graph.node)
    assert sum(list(x.dims) == [2, 8] for x in weights) == 1


def test_a_primitive_without_a_rule_is_named():
    class Sorting(SiMPO):
        def act(self, policy, obs, key, mode):
            return jax.numpy.sort(obs, axis=-1)[:, :2]

    saved = saved_policy(tiny())
    saved.agent = tiny(Sorting)
    with pytest.raises(SimpoError, match="no rule for 'sort'; --format stablehlo"):
        to_onnx(make_program(saved, best_of=1))


def test_an_agent_that_ignores_its_input_is_a_constant():
    class Still(SiMPO):
        def act(self, policy, obs, key, mode):
            return jax.numpy.zeros((len(obs), 2))

    saved = saved_policy(tiny())
    saved.agent, saved.policy = tiny(Still), Policy((), ())
    run = session(to_onnx(make_program(saved, best_of=1)))
    (action,) = run.run(["action"], {"observation": OBS})
    np.testing.assert_allclose(action, np.tile([-1.0, 1.5], (5, 1)))


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """The ONNX export of a policy folder of a real task."""
    monkeypatch.setattr(parity, "ROWS", 50)
    monkeypatch.setattr(parity, "CALLS", 3)
    spec, box = EnvSpec(4, 1), ActionBox((-3.0,), (3.0,))
    saved = saved_policy(tiny(SAC), "InvertedPendulum-v5", spec, box)
    path, agent = tmp_path / "policy", saved.agent
    save_policy(path, agent, spec, saved.policy, env=saved.env, step=7, box=box)
    export_policy(load(path), tmp_path / "onnx", best_of=3)
    return tmp_path / "onnx"


def test_the_example_needs_neither_simpo_nor_jax(exported):
    contract = json.loads((exported / "contract.json").read_text())
    assert contract["model"]["file"] == "policy.onnx" and contract["opset"] == 18
    assert json.loads((exported / "parity.json").read_text())["ok"]
    assert len(EXAMPLE.read_text().splitlines()) <= 30
    code = (
        "import sys, runpy\n"
        "sys.modules |= dict.fromkeys(['simpo', 'jax', 'onnx'])\n"
        f"sys.argv = ['onnx_policy.py', {str(exported)!r}, '3']\n"
        f"runpy.run_path({str(EXAMPLE)!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("InvertedPendulum-v5, best-of-3: return ")
    assert 1 <= float(done.stdout.split()[-1]) <= 1000
