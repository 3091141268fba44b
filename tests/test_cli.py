import csv
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

import simpo
from simpo.agents import AGENTS, compile_init
from simpo.checkpoint import load, save_policy
from simpo.cli import COMMANDS, main
from simpo.cli import train as train_command
from simpo.cli.options import one_line
from simpo.envs import ENVIRONMENTS
from simpo.presets import PRESETS, agent_names
from simpo.types import EnvSpec
from simpo.weighting import WEIGHTINGS, Linear
from tiny import Fuse, tiny

TINY = {
    **{"width": 8, "depth": 1, "critic-width": 8, "critic-depth": 1},
    **{"candidates": 4, "batch-size": 8, "best-of": 3, "behaviour-interval": 2},
    **{"candidate-noise": 0.3, "temperature": "Fixed(value=0.1)"},
    **{"model": "Flow(denoising_steps=2)", "reward-scale": 0.5, "gamma": 0.9},
    **{"tau": 0.1, "actor-lr": 0.01, "actor-lr-updates": 10, "critic-lr": 0.01},
    "actor-lr-end": 3e-5,
    **{"activation": "mish", "critic-activation": "mish"},
    **{"steps": 120, "num-envs": 2, "warmup-steps": 40, "updates-per-step": 0.25},
    **{"updates-per-dispatch": 4, "log-every": 50, "eval-every": 100},
    **{"eval-episodes": 2, "seed": 3},
}
"""Options that make the default preset's run as small as `tiny_run`."""


def options(**changes):
    given = TINY | {name.replace("_", "-"): v for name, v in changes.items()}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


class Odd(gymnasium.Env):
    """Spaces that no agent takes."""

    def __init__(self, observation, action):
        self.observation_space, self.action_space = observation, action


BOX = spaces.Box(-1, 1, (2,), np.float32)
ODD = {
    "DiscreteObs": (spaces.Discrete(3), BOX),
    "DictAction": (BOX, spaces.Dict({"a": BOX})),
    "Unbounded": (BOX, spaces.Box(-np.inf, np.inf, (2,), np.float32)),
}


@pytest.fixture(scope="module", autouse=True)
def registered():
    for name, (observation, action) in ODD.items():
        kwargs = {"observation": observation, "action": action}
        gymnasium.register(f"test/{name}-v0", Odd, kwargs=kwargs)
    fuse = {"kwargs": {"reward": np.nan}, "max_episode_steps": 10}
    gymnasium.register("test/CliFuse-v0", Fuse, **fuse)
    yield
    for name in (*ODD, "CliFuse"):
        del gymnasium.registry[f"test/{name}-v0"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty directory, and keep JAX's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIMPO_HOME", str(tmp_path / "home"))
    names = [
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    ]
    before = {name: getattr(jax.config, name) for name in names}
    for name in names:
        monkeypatch.setenv(name.upper(), "")
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run directory of a tiny `simpo train`."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(out / "cache"))
        argv = ["train", "InvertedPendulum-v5", *options(out=out / "runs")]
        assert main(argv) == 0
    (directory,) = (out / "runs" / "InvertedPendulum-v5" / "SiMPO").iterdir()
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy folder that was never trained."""
    spec = EnvSpec(4, 1)
    policy = tiny().policy(compile_init(tiny(), spec)(jax.random.key(0)))
    path = tmp_path_factory.mktemp("made") / "policy"
    return save_policy(path, tiny(), spec, policy, env="InvertedPendulum-v5", step=0)


@pytest.fixture
def refused(capfd, tmp_path):
    """Check that a command line is answered by one line and an exit code."""

    def check(argv, *parts, code=2):
        before = sorted(tmp_path.rglob("*"))
        assert main([str(word) for word in argv]) == code
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("simpo: error: ") and err.count("\n") == 1
        assert "Traceback" not in err and "Error(" not in err
        assert all(part in err for part in parts), err
        if code == 2:
            assert sorted(tmp_path.rglob("*")) == before

    return check


# Bad input


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["xyz"], "unknown command 'xyz'; see simpo --help"),
        (["--steps", "3"], "unknown command '--steps'; see simpo --help"),
        (
            ["train", "InvertedPendulm-v5"],
            "unknown environment 'InvertedPendulm-v5'; did you mean InvertedPendulum-v",
        ),
        (["train", "qqqq"], "unknown environment 'qqqq'; see `simpo list envs`"),
        (["train", "CartPole-v1"], "has a Discrete action space; only a bounded Box"),
        (
            ["train", "test/DiscreteObs-v0"],
            "has a Discrete observation space; only Box",
        ),
        (["train", "test/DictAction-v0"], "has a Dict action space; only a bounded"),
        (["train", "test/Unbounded-v0"], "has an unbounded action box"),
        (
            ["train", "--weighting", "Linear(floor=0.5)"],
            "floor must be finite and at most 0, not 0.5",
        ),
        (["train", "--weighting=square(floor=1)"], "at most 0, not 1.0"),
        (["train", "--weighting", "lineer"], "did you mean 'Linear'?"),
        (["train", "--weighting", "Linear(flor=-1)"], "did you mean 'floor'?"),
        (["train", "--weighting", "__import__('os')"], "cannot read"),
        (["train", "--weighting", "Custom(link=tanh)"], "only be passed from Python"),
        (["train", "--weighting"], "Missing value for argument '--weighting'"),
        (["train", "--temperature", "Fixed(value=0)"], "must be positive and finite"),
        (["train", "--temperature", "Fixed(value=-1)"], "must be positive and finite"),
        (["train", "--temperature", "DualAscent(initial=0)"], "must be positive"),
        (["train", "--candidates", "1"], "is out of reach of 1 candidates"),
        (["train", "--candidates", "0"], "candidates must be at least 1"),
        (["train", "--bound", "ClippedError(limit=0)"], "must be positive, got 0"),
        (
            ["train", "--model", "Flow(denoising_steps=0)"],
            "must be between 1 and 10,000",
        ),
        (["train", "--model", "Flow(solver=huen)"], "did you mean 'Heun'?"),
        (["train", "--steps", "10"], "10 steps are fewer than the"),
        (["train", "--steps", "ten"], "Error parsing --steps: invalid literal"),
        (["train", "--steps", "0"], "steps must be at least 1"),
        (["train", "--steps"], "Missing value for argument '--steps'"),
        (["train", "--stepz", "10"], "unknown option '--stepz'; did you mean '--steps"),
        (["train", "--stepz", "10", "Hopper-v5"], "did you mean '--steps'?"),
        (["train", "--kandidates=3"], "did you mean '--candidates'?"),
        (["train", "--zzzzzz"], "unknown option '--zzzzzz'; see simpo train --help"),
        (["train", "--env", "Hopper-v5"], "write its value alone: simpo train ENV"),
        (["train", "Hopper-v5", "Ant-v5"], "unknown option 'Ant-v5'"),
        (["train", "--seed", "-1"], "seed must not be negative"),
        (["train", "--updates-per-step", "nan"], "must be positive and finite"),
        (["train", "--gamma", "1.5"], "gamma must be between 0 and 1"),
        (["train", "--max-grad-norm", "abc"], "Error parsing --max-grad-norm"),
        (
            ["train", "--weight-critic", "max"],
            "invalid choice 'max' for argument '--weight-critic'. Expected one of "
            "('mean', 'min')",
        ),
        (["train", "--activation", "mesh"], "invalid choice 'mesh'"),
        (["train", "--backend", "gym"], "invalid choice 'gym'"),
        (["train", "--preset", "papr"], "did you mean 'paper'?"),
        (["train", "--preset=x"], "unknown preset 'x'; choose laptop, paper, port"),
        (["train", "--preset"], "--preset needs a value"),
        (["eval"], "which run? simpo eval RUN"),
        (["eval", "."], "is neither a run directory nor a policy folder"),
        (["eval", "nowhere"], "nowhere is neither a run directory nor a policy"),
        (["eval", "nowhere", "--epsodes", "3"], "did you mean '--episodes'?"),
        (["eval", "--epsodes", "3", "nowhere"], "did you mean '--episodes'?"),
        (["eval", "nowhere", "--episodes", "0"], "must be at least 1"),
        (["eval", "nowhere", "--best-of", "0"], "must be at least 1"),
        (["eval", "nowhere", "--seed", "-1"], "--seed must be between 0 and"),
        (["eval", "nowhere", "--seed", str(2**64)], "--seed must be between 0 and"),
        (["plot"], "which run? simpo plot RUN"),
        (["plot", "nowhere"], "nowhere is not a run directory: it does not exist"),
        (["plot", "."], "is not a run directory: no config.json"),
        (["list"], "list what; choose from envs, agents, weightings, presets"),
        (["list", "env"], "cannot list 'env'; did you mean 'envs'?"),
        (["list", "envs", "agents"], "cannot list 'envs agents'"),
        (["doctor", "--jsn"], "unknown option '--jsn'; did you mean '--json'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_one_line(refused, argv, message):
    refused(argv, message)


FRAMED = """
╭─ Value error ─────────────────────────╮
│ \x1b[31mError parsing --steps:\x1b[0m invalid │
│ literal: 'ten'                        │
│ ───────────────────────────────────── │
│ Argument helptext:                    │
│     --steps INT                       │
╰───────────────────────────────────────╯
"""
PLAIN = """
 Value error
 --------------------------------
  Error parsing --steps: invalid
  literal: 'ten'

  Got errors:
  --------------------------------
  For full helptext, see --help
"""


@pytest.mark.parametrize("text", [FRAMED, PLAIN], ids=["framed", "plain"])
def test_the_gist_of_a_message(text):
    assert (
        one_line(text.lstrip("\n")) == "Error parsing --steps: invalid literal: 'ten'"
    )


@pytest.mark.parametrize("columns", ["30", "200"])
def test_mistakes_are_told_alike_in_any_terminal(refused, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    refused(["train", "--steps", "ten"], "error: Error parsing --steps: invalid lit")
    refused(["train", "--steps", "ten"], "for int() with base 10: 'ten'\n")


def test_a_missing_extra_comes_with_its_install_line(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    argv = ["train", "InvertedPendulum-v5", "--backend", "envpool"]
    refused(argv, "pip install 'simpo[envpool]'")


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.safetensors", "is damaged"), ("config.json", "is damaged")],
)
def test_a_damaged_policy(refused, folder, tmp_path, name, message):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).write_bytes((copy / name).read_bytes()[:50])
    refused(["eval", copy], str(copy / name), message)
    (copy / name).unlink()
    refused(["eval", copy], f"no file {copy / name}")


def test_a_policy_of_another_task(refused, folder):
    refused(
        ["eval", folder, "--env", "Hopper-v5"],
        "the policy, of InvertedPendulum-v5, does not fit Hopper-v5: observations and "
        "actions are (4, 1) and (11, 3)",
    )
    refused(["eval", folder, "--env", "Hoper-v5"], "unknown environment 'Hoper-v5'")
    refused(["eval", folder, "--env", "CartPole-v1"], "Discrete action space")


def test_a_place_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("")
    refused(["train", *options(out="file")], "cannot make file/InvertedDouble")


def test_a_run_that_fails_exits_with_one(refused, tmp_path):
    argv = ["train", "test/CliFuse-v0", *options(log_every=20)]
    refused(argv, "returned a non-finite reward at step 6", "npz", code=1)
    (directory,) = (tmp_path / "runs" / "test_CliFuse-v0" / "SiMPO").iterdir()
    assert (directory / "bad_transition.npz").exists()
    assert (directory / "progress.csv").exists()


def test_an_interruption_is_no_traceback(monkeypatch, capfd):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_command, "start_run", interrupt)
    assert main(["train"]) == 130
    assert capfd.readouterr().err == "simpo: interrupted\n"


# Help


def test_help_is_quick_and_loads_no_jax():
    code = (
        "import sys\n"
        "from simpo.cli import main\n"
        "assert main(['--help']) == 0\n"
        "assert not {'jax', 'numpy', 'gymnasium', 'tyro'} & sys.modules.keys()"
    )
    seconds = []
    for _ in range(3):  # other work may slow one of them
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0, done.stderr
    assert min(seconds) < 1
    assert all(command in done.stdout for command in COMMANDS)


def test_the_command_is_installed():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="simpo")
    assert entry.load() is main


@pytest.mark.parametrize("argv", [["-h"], ["--help"], ["help"]])
def test_help_names_every_command(argv, capfd):
    assert main(argv) == 0
    out = capfd.readouterr().out
    assert all(f"  {name} " in out and text in out for name, text in COMMANDS.items())


def test_nothing_asked_is_answered_by_the_help(capfd):
    assert main([]) == 2
    assert "usage: simpo COMMAND" in capfd.readouterr().out


def test_the_version(capfd):
    for word in ("-V", "--version"):
        assert main([word]) == 0
        assert capfd.readouterr().out == f"simpo {simpo.__version__}\n"
    assert simpo.__version__ == importlib.metadata.version("simpo")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capfd):
    try:
        assert main([command, "--help"]) == 0
    except SystemExit as exit_:
        assert not exit_.code
    out = capfd.readouterr().out
    assert f"simpo {command}" in out and "usage" in out


def test_the_help_of_train_shows_every_setting(capfd):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capfd.readouterr().out
    for name in (*TINY, "preset", "out", "weighting", "precision"):
        assert f"--{name}" in out
    assert "Linear(floor=-0.2)" in out


# Lists


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("envs", list(ENVIRONMENTS)),
        ("agents", agent_names()),
        ("weightings", [cls.__name__ for cls in WEIGHTINGS]),
        ("presets", list(PRESETS)),
    ],
)
def test_lists(name, expected, capfd):
    assert main(["list", name]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0].partition("(")[0] for line in lines] == expected
    assert all(len(line.split()) > 1 for line in lines)


def test_every_agent_and_weighting_is_a_public_name():
    for cls in (*AGENTS, *WEIGHTINGS):
        assert cls.__name__ in simpo.__all__
        assert getattr(simpo, cls.__name__) is cls


def test_a_listed_weighting_can_be_pasted():
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr("builtins.print", lambda line: seen.append(line))
        main(["list", "weightings"])
    texts = [line.partition("  ")[0] for line in seen]
    assert "Linear(floor=0.0)" in texts
    run, _ = train_command.read_run(["--weighting", "Linear(floor=0.0)"])
    assert run.agent.weighting == Linear(floor=0.0)


# Options


def read(*argv):
    return train_command.read_run([str(word) for word in argv])


def test_without_options_the_run_is_the_default_preset():
    run, others = read()
    assert run == PRESETS["laptop"].run and others.out == Path("runs")
    assert others.resume == "no"


def test_options_change_single_fields():
    run, others = read("Hopper-v5", *options(out="elsewhere", weighting="square"))
    assert run.env == "Hopper-v5" and others.out == Path("elsewhere")
    assert type(run.agent.weighting).__name__ == "Square"
    expected = tiny(weighting=run.agent.weighting, bound=run.agent.bound)
    assert run.agent == expected
    assert (run.steps, run.num_envs, run.seed) == (120, 2, 3)


@pytest.mark.parametrize(
    "argv",
    [
        ["Hopper-v5", "--preset", "port", "--seed", "4"],
        ["--preset", "port", "--seed", "4", "Hopper-v5"],
        ["--seed=4", "Hopper-v5", "--preset=port"],
    ],
)
def test_the_task_decides_wherever_it_is_written(argv):
    """The port has a target of its own for Hopper."""
    run, _ = read(*argv)
    assert (run.env, run.seed) == ("Hopper-v5", 4)
    assert run.agent.temperature.target.nats == 2.5


def test_underscores_and_enums_by_value():
    run, _ = read("--weight_critic", "min", "--max_grad_norm", "None")
    assert run.agent.weight_critic.value == "min"
    assert run.agent.max_grad_norm is None
    assert read("--max-grad-norm", "2")[0].agent.max_grad_norm == 2.0


def test_what_is_compiled_is_kept_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    train_command.keep_compiled()
    folder = str(tmp_path / "home" / "compiled")
    assert jax.config.jax_compilation_cache_dir == folder
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == folder
    jax.config.update("jax_compilation_cache_dir", "mine")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    train_command.keep_compiled()
    assert jax.config.jax_compilation_cache_dir == "mine"


# End to end


def test_train_writes_a_run(run):
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert (run / "plots" / "overview.png").exists()
    command = (run / "command.txt").read_text()
    assert command.startswith("simpo train InvertedPendulum-v5 --width 8 ")
    assert "'Flow(denoising_steps=2)'" in command
    assert load(run).agent == tiny(
        weighting=PRESETS["laptop"].run.agent.weighting,
        bound=PRESETS["laptop"].run.agent.bound,
    )


def test_eval_prints_a_row_per_sampler(run, capfd, tmp_path):
    argv = ["eval", run, "--episodes", 3, "--best-of", 1, 4, "--csv", "rows.csv"]
    assert main([str(word) for word in argv]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "InvertedPendulum-v5" in out and "single" in out and "best-of-4" in out
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["sampler"], row["episode"]) for row in rows] == [
        (sampler, str(i)) for sampler in ("single", "best-of-4") for i in range(3)
    ]
    mean = np.mean([float(row["return"]) for row in rows[:3]])
    assert f"{mean:.3g} ±" in out


def test_eval_repeats_itself_but_for_the_time_it_takes(run, tmp_path):
    outputs = []
    for seed in (1, 1, 2):
        argv = ["eval", run, "--episodes", 3, "--best-of", 1, "--seed", seed]
        assert main([str(word) for word in [*argv, "--csv", "rows.csv"]]) == 0
        lines = (tmp_path / "rows.csv").read_text().splitlines()
        outputs.append([line.rpartition(",")[0] for line in lines])
    assert outputs[0] == outputs[1] != outputs[2]


def test_eval_of_a_single_episode(folder, capfd):
    assert main(["eval", str(folder), "--episodes", "1", "--best-of", "1"]) == 0
    out, err = capfd.readouterr()
    assert "single" in out and err == ""


@pytest.mark.parametrize("cls", AGENTS)
def test_eval_takes_the_samplers_of_training(cls, capfd, tmp_path):
    agent, spec = tiny(cls), EnvSpec(4, 1)
    policy = agent.policy(compile_init(agent, spec)(jax.random.key(0)))
    save_policy(tmp_path / "p", agent, spec, policy, env="InvertedPendulum-v5", step=0)
    assert main(["eval", "p", "--episodes", "2"]) == 0
    out, err = capfd.readouterr()
    assert all(f" {mode.label} " in out for mode in agent.evaluating) and not err


def test_eval_says_where_it_cannot_write(run, capfd):
    argv = ["eval", str(run), "--episodes", "1", "--best-of", "1", "--csv", "no/x.csv"]
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert "single" in out  # the result is not lost
    assert err == "simpo: error: cannot write no/x.csv: No such file or directory\n"


def test_plot_draws_a_run(run, capfd, tmp_path):
    assert main(["plot", str(run), "--out", "pictures"]) == 0
    paths = [Path(line) for line in capfd.readouterr().out.split()]
    assert {path.stem for path in paths} >= {"learning_curve", "overview"}
    assert all((tmp_path / path).stat().st_size > 1000 for path in paths)
