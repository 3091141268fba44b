"""ONNX exports of every agent, run by ONNX Runtime; and the example, without simpo."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from simpo.agents import AGENTS, QSM, SDAC, Policy, SiMPO, compile_init
from simpo.agents.qsm import Langevin
from simpo.checkpoint import SavedPolicy, load, save_policy
from simpo.export import export_policy, parity
from simpo.export.program import make_program
from simpo.generative import Diffusion, DPMSolver2M, Flow, Heun, Velocity
from simpo.types import ActionBox, EnvSpec, SimpoError
from tiny import SPEC, tiny

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from simpo.export.onnx_graph import to_onnx  # noqa: E402

EXAMPLE = Path(__file__).parent.parent / "examples" / "onnx_policy.py"
BOX = ActionBox((-3.0, 0.5), (1.0, 2.5))
MULTISTEP = Diffusion(denoising_steps=3, sampler=DPMSolver2M(), prediction=Velocity())
VARIANTS = {
    **{cls.__name__: tiny(cls) for cls in AGENTS},
    "Langevin": tiny(QSM, dynamics=Langevin(steps=2)),
    "Heun, gelu": tiny(model=Flow(denoising_steps=2, solver=Heun()), activation="gelu"),
    "DPM, silu": tiny(SDAC, activation="silu", critic_activation="relu"),
    "2M, tanh": tiny(model=MULTISTEP, activation="tanh"),
}
rng = np.random.default_rng(0)
OBS = rng.normal(size=(4, SPEC.obs_dim)).astype(np.float32)


def saved_policy(agent, env="Nowhere-v0", spec=SPEC, box=BOX):
    policy = agent.policy(compile_init(agent, spec)(jax.random.key(0)))
    return SavedPolicy(agent, spec, policy, env, 7, box, jax.random.key(1))


def choosy(agent):
    """Three samples if the agent can choose among them."""
    try:
        return make_program(saved_policy(agent), best_of=3)
    except SimpoError:
        return make_program(saved_policy(agent), best_of=1)


def session(model):
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("agent", VARIANTS.values(), ids=VARIANTS)
def test_every_agent_gives_the_actions_of_jax(agent):
    program = choosy(agent)
    model = to_onnx(program)
    noise = rng.normal(size=(4, program.noise_dim)).astype(np.float32)
    inputs = {"observation": OBS} | ({"noise": noise} if program.draws else {})
    run = session(model)
    assert [x.name for x in run.get_inputs()] == list(inputs)
    expected = np.asarray(jax.jit(program)(*inputs.values()))
    (actual,) = run.run(["action"], inputs)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    (one,) = run.run(["action"], {k: x[:1] for k, x in inputs.items()})
    np.testing.assert_allclose(one, expected[:1], atol=1e-6)
    assert actual.std() > 1e-3


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
    np.testing.assert_allclose(action, np.tile([-1.0, 1.5], (4, 1)))


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """The ONNX export of a policy folder of a real task."""
    monkeypatch.setattr(parity, "ROWS", 50)
    monkeypatch.setattr(parity, "CALLS", 3)
    spec, box = EnvSpec(4, 1), ActionBox((-3.0,), (3.0,))
    saved = saved_policy(tiny(), "InvertedPendulum-v5", spec, box)
    save_policy(
        tmp_path / "policy", saved.agent, spec, saved.policy, env=saved.env, step=7
    )
    export_policy(load(tmp_path / "policy"), tmp_path / "onnx", best_of=3)
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
