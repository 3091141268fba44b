import csv
import json
import re
import shlex
from dataclasses import replace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import simpo
from plain_loop import is_one_line
from simpo.agents import Mode, compile_act
from simpo.checkpoint import load
from simpo.config import from_json
from simpo.directories import make_directory
from simpo.loggers import CsvLogger
from simpo.run import Run
from simpo.runs import start_run
from simpo.trainer import RunFailed, Trainer
from simpo.types import SimpoError
from tiny import Fuse, batches, tiny, tiny_run


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def train(directory, **changes):
    """A run without pictures: its trainer, and what it wrote."""
    directory.mkdir()
    trainer = Trainer(tiny_run(**changes), directory, CsvLogger(directory))
    trainer.train()
    return trainer


def result(directory):
    names = ("progress.csv", "policy/model.safetensors", "evaluations.csv")
    return [(directory / name).read_bytes() for name in names]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run through the public function; its pictures are another test's."""
    run = tiny_run()
    settings = {k: v for k, v in vars(run).items() if k not in ("agent", "env")}
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simpo.plotting.plot_run", lambda run: (run / "plots").mkdir())
        return simpo.train(run.agent, run.env, out=out, **settings)


# Run directories


def test_the_run_directory_is_complete(finished):
    directory = finished.directory
    assert directory.parent.name == "SiMPO"
    assert directory.parent.parent.name == "InvertedPendulum-v5"
    assert re.fullmatch(r"\d{8}-\d{6}-s0", directory.name)
    assert {path.name for path in directory.iterdir()} == {
        *("config.json", "command.txt", "env.json", "status.json"),
        *("progress.csv", "timing.csv", "evaluations.csv", "candidates.csv"),
        *("tb", "plots", "policy"),
    }
    assert any((directory / "tb").iterdir())


def test_the_run_can_be_read_back(finished):
    config = json.loads((finished.directory / "config.json").read_text())
    assert from_json(config, Run) == tiny_run()
    status = json.loads((finished.directory / "status.json").read_text())
    assert status == {"state": "done", "step": 200}
    machine = json.loads((finished.directory / "env.json").read_text())
    assert {"simpo", "jax", "gymnasium", "mujoco"} <= machine["packages"].keys()
    assert machine["devices"] and machine["python"]


def test_the_numbers_are_in_the_tables(finished):
    progress = table(finished.directory / "progress.csv")
    assert [int(row["step"]) for row in progress] == [50, 100, 150, 200]
    assert [int(row["updates"]) for row in progress] == [0, 12, 24, 40]
    assert progress[0]["train/critic_loss"] == ""
    for row in progress[1:]:
        train = [float(v) for k, v in row.items() if k.startswith("train/")]
        assert len(train) > 15 and np.isfinite(train).all()
        assert float(row["rollout/ep_rew_mean"]) > 0
    assert not any(name.startswith("time/") for name in progress[0])
    timing = table(finished.directory / "timing.csv")
    assert {"time/fps", "time/elapsed", "time/updates_per_second"} <= timing[0].keys()


def test_evaluations_have_a_row_per_episode(finished):
    rows = table(finished.directory / "evaluations.csv")
    expected = [
        (str(step), sampler, str(episode))
        for step in (0, 100, 200)
        for sampler in ("single", "best-of-3")
        for episode in (0, 1)
    ]
    assert [(r["step"], r["sampler"], r["episode"]) for r in rows] == expected
    last = [float(row["return"]) for row in rows if row["step"] == "200"]
    assert last == [row.return_ for row in finished.rows]
    np.testing.assert_array_equal(finished.returns(), last[:2])
    np.testing.assert_array_equal(finished.returns("best-of-3"), last[2:])


def test_candidates_are_explained(finished):
    rows = table(finished.directory / "candidates.csv")
    assert len(rows) == 16 * 4
    weights = np.array([float(row["weight"]) for row in rows]).reshape(16, 4)
    np.testing.assert_allclose(weights.mean(axis=1), 1, rtol=1e-5)


def test_the_policy_is_the_last_one(finished):
    saved = load(finished.directory)
    assert saved.agent == tiny() and saved.step == 200
    assert load(finished.policy).env == "InvertedPendulum-v5"


def test_the_summary_says_what_next(finished):
    lines = finished.summary().splitlines()
    assert re.match(r"return +-?[\d,.]+ ± [\d,.]+ \(single, mean ± std of 2", lines[0])
    assert "best-of-3" in lines[1]
    assert lines[-1] == f"next     simpo eval {finished.directory}"
    paths = [finished.directory / part for part in ("", "plots/overview.png", "policy")]
    assert [line.split()[1] for line in lines[2:5]] == [str(path) for path in paths]


def test_the_summary_tells_speeds_where_there_are_some(finished):
    assert "speed" not in finished.summary()
    rows = [row._replace(speed=2.0 + i) for i, row in enumerate(finished.rows)]
    lines = replace(finished, rows=rows).summary().splitlines()
    assert lines[1].startswith("speed    2.5 ± 0.5 (single, mean ± std of 2")
    assert lines[3].startswith("speed    4.5 ± 0.5 (best-of-3, ")


def test_the_command_can_be_pasted(tmp_path):
    command = ["simpo", "train", "--out", "my runs"]
    with pytest.raises(SimpoError):  # a run that fails keeps its command too
        start_run(fuse_run("Reward"), tmp_path, command=command)
    (written,) = tmp_path.rglob("command.txt")
    assert shlex.split(written.read_text()) == command


def test_runs_of_one_second_have_directories_of_their_own(tmp_path):
    run = tiny_run(env="some:Thing/Else-v0", seed=3)
    made = [make_directory(tmp_path, run) for _ in range(3)]
    assert len(set(made)) == 3
    assert {path.parent for path in made} == {tmp_path / "some:Thing_Else-v0" / "SiMPO"}


# Counting


@pytest.mark.parametrize(
    ("num_envs", "per_step", "per_dispatch", "warmup", "steps"),
    [
        (1, 1.0, 1, 10, 60),
        (5, 1.0, 1, 10, 60),  # several dispatches after one step of the environments
        (5, 0.2, 1, 0, 60),
        (4, 0.5, 16, 7, 90),
        (3, 2.0, 5, 11, 47),
        (2, 0.3, 4, 9, 61),
        (7, 0.1, 1, 0, 33),
    ],
)
def test_updates_keep_pace_with_steps(
    tmp_path, monkeypatch, num_envs, per_step, per_dispatch, warmup, steps
):
    run = tiny_run(
        num_envs=num_envs,
        updates_per_step=per_step,
        updates_per_dispatch=per_dispatch,
        warmup_steps=warmup,
        steps=steps,
        log_every=10,
    )
    trainer = Trainer(run, tmp_path, CsvLogger(tmp_path))
    sampled = []

    def update(state, batches, moments):
        sampled.append((trainer.step, batches.reward.shape))
        return state, {}

    monkeypatch.setattr(trainer, "apply_updates", update)
    monkeypatch.setattr(trainer, "evaluate", list)
    monkeypatch.setattr(trainer, "decide", lambda *_: np.zeros((num_envs, 1)))
    trainer.train()
    assert steps <= trainer.step < steps + num_envs
    assert len(trainer.buffer) == trainer.step
    paid = int((trainer.step - warmup) * per_step + 1e-9)
    assert paid - per_dispatch < trainer.updates <= paid
    assert trainer.updates == per_dispatch * len(sampled) > 0
    assert {shape for _, shape in sampled} == {(per_dispatch, 8)}
    for dispatch, (step, _) in enumerate(sampled, 1):
        assert dispatch * per_dispatch <= (step - warmup) * per_step + 1e-9
    assert int(table(tmp_path / "progress.csv")[-1]["updates"]) == trainer.updates


def test_warm_up_actions_are_uniform_and_later_ones_are_the_policys(tmp_path):
    run = tiny_run(warmup_steps=100, steps=120, updates_per_step=0.2, num_envs=4)
    trainer = Trainer(run, tmp_path, CsvLogger(tmp_path))
    asked = []
    trainer.decide = lambda *args: asked.append(args[3]) or np.full((4, 1), 0.25)
    while trainer.step < run.steps:
        trainer.collect()
    assert asked == [25, 26, 27, 28, 29]
    action = trainer.buffer.action[:120, 0]
    assert (action[100:] == 0.25).all() and len(set(action[:100])) == 100
    assert action[:100].min() < -0.8 and action[:100].max() > 0.8


def test_a_small_buffer_keeps_the_newest(tmp_path):
    run = tiny_run(buffer_size=30, warmup_steps=100)
    trainer = Trainer(run, tmp_path, CsvLogger(tmp_path))
    for _ in range(25):
        trainer.collect()
    assert trainer.step == 50 and len(trainer.buffer) == 30


# Randomness


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    directory = tmp_path_factory.mktemp("again") / "run"
    train(directory)
    return directory


def test_one_seed_gives_the_same_bytes(finished, repeated):
    assert result(repeated) == result(finished.directory)


def test_another_seed_gives_others(repeated, tmp_path):
    train(tmp_path / "run", seed=1)
    pairs = zip(result(repeated), result(tmp_path / "run"), strict=True)
    assert all(a != b for a, b in pairs)


def test_evaluations_change_nothing_in_training(repeated, tmp_path):
    often = tmp_path / "often"
    train(often, eval_every=30, eval_episodes=3)
    assert len(table(often / "evaluations.csv")) > len(
        table(repeated / "evaluations.csv")
    )
    assert result(often)[:2] == result(repeated)[:2]


def test_reports_change_nothing_in_training(repeated, tmp_path):
    rarely = tmp_path / "rarely"
    train(rarely, log_every=200)
    assert len(table(rarely / "progress.csv")) == 1
    assert result(rarely)[1:] == result(repeated)[1:]


def test_learning_learns_something(repeated, tmp_path):
    idle = tmp_path / "idle"
    train(idle, warmup_steps=184)
    assert result(idle)[1] != result(repeated)[1]
    evaluations = table(repeated / "evaluations.csv")
    first, last = evaluations[:4], evaluations[-4:]
    assert [r["return"] for r in first] != [r["return"] for r in last]


# Failures

FUSES = {
    "Reward": {"reward": np.nan},
    "Obs": {"obs": np.inf},
    "First": {"first": np.nan},
    "Early": {"obs": np.nan, "after": 5},
    "Huge": {"reward": 1e38},
}


@pytest.fixture(scope="module", autouse=True)
def registered():
    for name, kwargs in FUSES.items():
        gymnasium.register(f"test/{name}-v0", Fuse, kwargs=kwargs, max_episode_steps=10)
    yield
    for name in FUSES:
        del gymnasium.registry[f"test/{name}-v0"]


def fuse_run(name, **changes):
    values = {"env": f"test/{name}-v0", "log_every": 20, "warmup_steps": 8}
    return tiny_run(**values | changes)


def fail(out, run):
    """The directory and the error of a run that fails."""
    with pytest.raises(RunFailed) as error:
        start_run(run, out)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1
    (status,) = out.rglob("status.json")
    assert json.loads(status.read_text())["state"] == "failed"
    assert json.loads(status.read_text())["reason"] == str(error.value)
    return status.parent, str(error.value)


@pytest.mark.parametrize("name", ["Reward", "Obs"])
def test_a_transition_that_is_not_finite_is_saved(tmp_path, name):
    directory, message = fail(tmp_path, fuse_run(name))
    assert "at step 6 of its episode; saved in" in message
    assert message.endswith("bad_transition.npz")
    saved = np.load(directory / "bad_transition.npz", allow_pickle=False)
    assert saved["obs"].shape == saved["next_obs"].shape == (2, 4)
    assert saved["action"].shape == (2, 1) and saved["discount"].tolist() == [1, 1]
    wrong = {"Reward": "reward", "Obs": "next_obs"}[name]
    for field in saved.files:
        assert np.isfinite(saved[field]).all() == (field != wrong)
    assert [int(r["step"]) for r in table(directory / "progress.csv")] == [20]
    assert json.loads((directory / "status.json").read_text())["step"] == 30
    assert load(directory).step == 0


def test_a_first_observation_that_is_not_finite_fails_the_run(tmp_path):
    directory, message = fail(tmp_path, fuse_run("First"))
    assert "non-finite observation on reset" in message
    assert len(table(directory / "progress.csv")) == 1


def test_a_task_that_breaks_in_an_evaluation_fails_the_run(tmp_path):
    directory, message = fail(tmp_path, fuse_run("Early"))
    assert "non-finite observation at step 6" in message
    assert np.isnan(np.load(directory / "bad_transition.npz")["next_obs"]).any()


def test_a_loss_that_is_not_finite_saves_its_batch(tmp_path):
    directory, message = fail(tmp_path, fuse_run("Huge"))
    number = re.search(r"critic_loss is not finite at update (\d+); ", message)[1]
    assert message.endswith("bad_batch.npz")
    saved = np.load(directory / "bad_batch.npz", allow_pickle=False)
    assert saved["obs"].shape == (4, 8, 4) and saved["reward"].shape == (4, 8)
    assert saved["reward"].max() > 9e37
    assert np.isfinite(saved["reward"]).all()
    assert int(number) % 4 == 0
    rows = table(directory / "progress.csv")
    assert rows and int(rows[-1]["updates"]) < int(number)
    assert load(directory).step == 0


@pytest.mark.parametrize("loss", [1.0, np.nan])
def test_a_policy_that_has_diverged_fails_the_run(tmp_path, loss):
    """Its next action tells, before the loss has been read; the loss tells more."""
    trainer = Trainer(tiny_run(), tmp_path, CsvLogger(tmp_path))
    trainer.step = trainer.run.warmup_steps
    actor = jax.tree.map(lambda x: x * jnp.nan, trainer.state.actor)
    trainer.state = trainer.state._replace(actor=actor)
    trainer.unread = [(12, {"actor_loss": np.array([loss])}, batches(1))]
    finite = np.isfinite(loss)
    message = "has diverged" if finite else "actor_loss is not finite at update 12"
    with pytest.raises(RunFailed, match=message):
        trainer.collect()
    assert (tmp_path / "bad_batch.npz").exists() != finite


def test_an_interrupted_run_says_so(tmp_path, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start_run(tiny_run(), tmp_path)
    (status,) = tmp_path.rglob("status.json")
    assert json.loads(status.read_text()) == {
        "state": "failed",
        "step": 0,
        "reason": "KeyboardInterrupt",
    }


# Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: 0}, f"{name} must be at least 1")
            for name in (
                "steps",
                "num_envs",
                "updates_per_dispatch",
                "log_every",
                "eval_every",
                "eval_episodes",
                "buffer_size",
            )
        ),
        ({"seed": -1}, "seed must not be negative"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative"),
        ({"updates_per_step": 0.0}, "updates_per_step must be positive and finite"),
        ({"updates_per_step": float("nan")}, "updates_per_step must be positive"),
        ({"updates_per_step": float("inf")}, "updates_per_step must be positive"),
        ({"buffer_size": 1}, "buffer_size must be at least num_envs"),
        (
            {"steps": 55},
            "55 steps are fewer than the 56 that the first update needs; raise steps "
            "or lower warmup_steps",
        ),
        ({"steps": 43, "updates_per_step": 1.2}, "fewer than the 44 that"),
    ],
)
def test_impossible_runs(tmp_path, changes, message):
    with pytest.raises(SimpoError) as error:
        start_run(tiny_run(**changes), tmp_path)
    assert message in str(error.value)
    assert is_one_line(error) and error.value.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_the_fewest_steps_make_one_update(tmp_path, monkeypatch):
    run = tiny_run(steps=56)
    trainer = Trainer(run, tmp_path, CsvLogger(tmp_path))
    monkeypatch.setattr(trainer, "apply_updates", lambda s, *_: (s, {}))
    monkeypatch.setattr(trainer, "evaluate", list)
    trainer.train()
    assert trainer.updates == 4


def test_a_task_that_cannot_be_used_leaves_no_directory(tmp_path):
    for env in ("Nothing-v0", "CartPole-v1"):
        with pytest.raises(SimpoError, match=env):
            start_run(tiny_run(env=env), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SimpoError, match="cannot make") as error:
        start_run(tiny_run(), tmp_path / "file")
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_data_are_collected_in_the_agents_own_mode(tmp_path):
    agent = tiny(acting_samples=2, acting_noise=0.3)
    trainer = Trainer(tiny_run(agent=agent), tmp_path, CsvLogger(tmp_path))
    policy, obs = agent.policy(trainer.state), trainer.obs
    trainer.step = trainer.run.warmup_steps
    trainer.collect()
    act = compile_act(agent, Mode(best_of=2, noise=0.3))
    expected = act(policy, obs, trainer.act_key, 0)
    np.testing.assert_array_equal(trainer.buffer.action[:2], expected)
