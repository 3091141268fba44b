"""Exact resume: a run that was killed again and again ends with the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest

from extras import require_extra
from identical import same
from plain_loop import is_one_line
from simpo import envs, snapshots
from simpo.agents import PPO, SAC, SiMPO
from simpo.cli import main
from simpo.cli.train import TrainArguments
from simpo.config import to_json
from simpo.directories import alone, runs_like
from simpo.envs import ENVIRONMENTS
from simpo.replay import ReplayBuffer
from simpo.runs import resume, start_run
from simpo.trainer import Stopped, Trainer
from simpo.types import EnvSpec, SimpoError, Transition
from tiny import tiny, tiny_run


def small_run(cls, **changes):
    """A run with all kinds of intervals that do not divide each other."""
    agent, others = tiny(cls), {}
    if cls is PPO:
        agent = replace(agent, rollout_steps=16)
        others = {"warmup_steps": 0, "updates_per_dispatch": 1}
    intervals = {"log_every": 50, "eval_every": 110, "checkpoint_every": 60}
    return tiny_run(agent=agent, **others | intervals | changes)


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simpo.plotting.plot_run", lambda _: None)
        yield


@pytest.fixture(scope="module", params=[SiMPO, SAC, PPO], ids=lambda c: c.__name__)
def unbroken(request, tmp_path_factory):
    run = small_run(request.param)
    return run, start_run(run, tmp_path_factory.mktemp("unbroken")).directory


def break_at(monkeypatch, moments, errors=(False, True)):
    """Stop at these vector steps, in good order and by an error in turn."""
    real, turns = Trainer.collect, cycle(errors)

    def collect(self):
        if moments and self.vector_step == moments[0]:
            moments.pop(0)
            if next(turns):
                raise RuntimeError("broken")
            self.stop.made = True
        real(self)

    monkeypatch.setattr(Trainer, "collect", collect)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_broken_run_ends_with_the_same_bytes(unbroken, tmp_path, monkeypatch, seed):
    run, expected = unbroken
    moments = sorted(random.Random(seed).sample(range(3, 99), 5))
    break_at(monkeypatch, moments)
    with pytest.raises((Stopped, RuntimeError)):
        start_run(run, tmp_path)
    (status,) = tmp_path.rglob("status.json")
    assert json.loads(status.read_text())["state"] in ("stopped", "failed")
    while moments:
        with pytest.raises((Stopped, RuntimeError)):
            resume(status.parent)
    assert resume(status.parent).directory == status.parent
    assert json.loads(status.read_text())["state"] == "done"
    same(expected, status.parent)


CHILD = """
import os, sys, time
from pathlib import Path
import simpo.plotting
from simpo import snapshots
from simpo.runs import resume

simpo.plotting.plot_run = lambda _: None
sync, write = os.fsync, snapshots.write
os.fsync = lambda number: (time.sleep(0.004), sync(number))  # a slow disk


def first(*arguments):
    snapshots.write = write
    print("saving", flush=True)
    return write(*arguments)


snapshots.write = first
resume(Path(sys.argv[1]))
"""


def kill_soon(directory, rng):
    """Resume in a process of its own and SIGKILL it; whether it was not done."""
    command = [sys.executable, "-c", CHILD, str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if process.stdout.readline():
        time.sleep(rng.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def test_sigkill_at_random_moments(unbroken, tmp_path):
    """Seven kills for each of three agents, some in the middle of a checkpoint."""
    run, _ = unbroken
    run = replace(run, steps=3_000, checkpoint_every=50, log_every=200, eval_every=2000)
    expected = start_run(run, tmp_path / "unbroken").directory
    directory = tmp_path / "killed"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(to_json(run)))
    rng, kills, torn = random.Random(1), 0, 0
    while kills < 7 and kill_soon(directory, rng):
        kills += 1
        torn += (directory / snapshots.FOLDER / ".tmp").exists()
    assert kills == 7 and torn
    resume(directory)
    same(expected, directory)


def test_signals_save_and_say_how_to_go_on(tmp_path, capsys, monkeypatch):
    """SIGTERM during the real command, in this process."""
    monkeypatch.setattr("simpo.cli.train.keep_compiled", lambda: None)
    read = small_run(SAC), TrainArguments(out=tmp_path, resume="auto")
    monkeypatch.setattr("simpo.cli.train.read_run", lambda _: read)
    real = Trainer.collect

    def collect(self):
        if self.vector_step == 30:
            signal.raise_signal(signal.SIGTERM)
        real(self)

    monkeypatch.setattr(Trainer, "collect", collect)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["train"]) == 0
    (directory,) = (path.parent for path in tmp_path.rglob("command.txt"))
    out, _ = capsys.readouterr()
    assert out.endswith(f"go on with: simpo resume {directory}\n")
    assert out.startswith("stopped at step 62;")
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(Trainer, "collect", real)
    monkeypatch.setattr("simpo.cli.resume.keep_compiled", lambda: None)
    assert main(["train", "--resume", "auto"]) == 0
    assert [path.parent for path in tmp_path.rglob("command.txt")] == [directory]
    assert main(["resume", str(directory)]) == 2
    assert "is done: there is nothing to resume" in capsys.readouterr().err


# Damage


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run stopped at step 140, with checkpoints of 120 and 140."""
    moments = [70]
    monkeypatch.setattr(
        random, "Random", lambda _: type("R", (), {"random": lambda s: 1})()
    )
    break_at(monkeypatch, moments)
    with pytest.raises(Stopped):
        start_run(small_run(SAC), tmp_path)
    (directory,) = (path.parent for path in tmp_path.rglob("progress.csv"))
    return directory


FILES = ("numbers.json", "arrays.safetensors", "environments.pickle")


def damage_by_truncating(path):
    path.write_bytes(path.read_bytes()[:-2])


def damage_by_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage", [damage_by_truncating, damage_by_a_bit, lambda path: path.unlink()]
)
@pytest.mark.parametrize("name", [*FILES, "manifest.json", "replay/000000.npy"])
def test_damage_is_found_and_the_checkpoint_before_is_used(stopped, name, damage):
    newest = snapshots.newest(stopped)
    assert newest.name.endswith("142")
    damage(newest / name)
    with pytest.warns(UserWarning, match="looking at the checkpoint before") as caught:
        found = snapshots.newest(stopped)
    # the manifest's damage shows in whatever it says of another file
    named = newest if name == "manifest.json" else newest / name
    assert str(named) in str(caught[0].message)
    assert found and found < newest


def test_files_that_the_manifest_does_not_list_are_refused(stopped):
    """Above all no pickle is read that nothing vouches for."""
    newest = snapshots.newest(stopped)
    (newest / "replay" / "000001.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"000001\.npy is not listed in manifest"):
        assert snapshots.newest(stopped) < newest


def test_warnings_are_one_line(stopped):
    (snapshots.newest(stopped) / "numbers.json").unlink()
    command = [sys.executable, "-m", "simpo", "resume", str(stopped)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("simpo: warning: ") and done.stderr.count("\n") == 1
    assert "numbers.json is missing; looking at the checkpoint before" in done.stderr


@pytest.mark.parametrize("agent", [SAC, PPO])
def test_a_run_whose_simulators_cannot_be_saved_says_so(tmp_path, monkeypatch, agent):
    """As with EnvPool: the run goes on, and is done in the end."""

    def out_of_reach(self):
        raise SimpoError("out of reach")

    monkeypatch.setattr(envs.ControlEnv, "snapshot", out_of_reach)
    break_at(monkeypatch, [70], errors=[False])
    with pytest.raises(Stopped):
        start_run(small_run(agent), tmp_path)
    (directory,) = (path.parent for path in tmp_path.rglob("command.txt"))
    with pytest.warns(UserWarning, match="not resumed exactly.*out of reach"):
        resume(directory)
    assert json.loads((directory / "status.json").read_text())["state"] == "done"


def test_nothing_is_begun_anew_over_damaged_checkpoints(stopped):
    for folder in (stopped / snapshots.FOLDER).iterdir():
        (folder / "numbers.json").unlink()
    before = (stopped / "progress.csv").read_bytes()
    with pytest.warns(UserWarning, match=r"numbers\.json is missing"):  # noqa: SIM117
        with pytest.raises(SimpoError, match="all checkpoints in") as error:
            resume(stopped)
    assert is_one_line(error) and (stopped / "progress.csv").read_bytes() == before


def test_lost_logs_are_not_made_up(stopped):
    (stopped / "evaluations.csv").unlink()
    with pytest.raises(SimpoError, match=r"evaluations\.csv has lost rows") as error:
        resume(stopped)
    assert is_one_line(error)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_ends_with_one_line_and_the_last_checkpoint(small_disk):
    run = small_run(SAC, steps=3_000, buffer_size=3_000)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_500_000))
    with pytest.raises(SimpoError, match="No space left on device") as error:
        start_run(run, small_disk)
    assert is_one_line(error)
    (directory,) = (path.parent for path in small_disk.rglob("command.txt"))
    assert snapshots.newest(directory)
    ballast.unlink()
    resume(directory)
    assert json.loads((directory / "status.json").read_text())["state"] == "done"


def test_a_log_directory_that_vanishes(tmp_path, monkeypatch):
    real = Trainer.collect

    def collect(self):
        if self.vector_step == 30:
            shutil.rmtree(self.directory)
        real(self)

    monkeypatch.setattr(Trainer, "collect", collect)
    with pytest.raises(SimpoError, match="cannot write") as error:
        start_run(small_run(SAC), tmp_path)
    assert is_one_line(error) and "No such file or directory" in str(error.value)


def test_a_simulator_that_raises(tmp_path, monkeypatch):
    """The run can be resumed where it was last saved."""
    real, left = envs.ControlEnv.step, [90]

    def step(self, action):
        left[0] -= 1
        if left[0] == 0:
            raise ValueError("the solver\nhas diverged")
        return real(self, action)

    monkeypatch.setattr(envs.ControlEnv, "step", step)
    with pytest.raises(SimpoError, match="raised ValueError: the solver;") as error:
        start_run(small_run(SAC), tmp_path)
    assert is_one_line(error)
    (directory,) = (path.parent for path in tmp_path.rglob("command.txt"))
    assert "the solver\nhas diverged" in (directory / "error.txt").read_text()
    resume(directory)


def test_only_the_last_checkpoints_are_kept(stopped):
    assert len(list((stopped / snapshots.FOLDER).iterdir())) == 2


# Parts


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_go_on_exactly(name):
    require_extra(name)
    env, other = (envs.make(name, 2, seed=seed) for seed in (3, 9))
    for each in (env, other):
        each.reset()
    rng = np.random.default_rng(0)
    for _ in range(60):
        env.step(env.random_actions(rng))
    other.restore(env.snapshot())
    for _ in range(60):
        action = env.random_actions(rng)
        one, two = env.step(action), other.step(action)
        for x, y in zip(
            (one.obs, *one.transition), (two.obs, *two.transition), strict=True
        ):
            np.testing.assert_array_equal(x, y)
        assert one.episodes == two.episodes


def filled(buffer, count, seed=0):
    rng = np.random.default_rng(seed)
    obs, action = buffer.spec
    buffer.add(
        Transition(
            rng.normal(size=(count, obs)),
            rng.normal(size=(count, action)),
            rng.normal(size=count),
            rng.integers(0, 2, count),
            rng.normal(size=(count, obs)),
        )
    )


@pytest.mark.parametrize("added", [1, 7, 16, 17, 40])
def test_replay_comes_back_from_its_blocks(monkeypatch, added):
    monkeypatch.setattr("simpo.replay.BLOCK", 8)
    one, two = (ReplayBuffer(20, EnvSpec(3, 2)) for _ in range(2))
    for number in range(added):
        filled(one, 1, number)
    two.restore(one.blocks(), one.added)
    assert (one.position, one.size) == (two.position, two.size)
    for name in ("obs", "action", "reward", "terminated", "next_obs"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_blocks_that_changed_are_given(monkeypatch):
    monkeypatch.setattr("simpo.replay.BLOCK", 8)
    buffer = ReplayBuffer(20, EnvSpec(3, 2))
    for number in range(30):
        before, since = buffer.blocks(), buffer.added
        filled(buffer, 1 + number % 5, number)
        after = buffer.blocks()
        same = {k for k in after if np.array_equal(after[k], before.get(k))}
        assert set(buffer.blocks(since)) == set(after) - same
        assert len(after) == buffer.block_count


def test_unchanged_blocks_are_linked(tmp_path):
    blocks = {0: np.zeros((4, 2)), 1: np.ones((4, 2))}
    snapshot = snapshots.Snapshot(5, {}, {}, None, blocks, 2)
    first = snapshots.write(tmp_path, snapshot, None)
    later = snapshot._replace(step=6, replay={1: np.full((4, 2), 2.0)})
    second = snapshots.write(tmp_path, later, first)
    for number, linked in ((0, True), (1, False)):
        one, two = (f / f"replay/{number:06d}.npy" for f in (first, second))
        assert one.samefile(two) == linked
    assert snapshots.newest(tmp_path) == second
    np.testing.assert_equal(snapshots.read(second).replay, blocks | later.replay)


def test_two_processes_do_not_train_in_one_directory(stopped):
    with alone(stopped), pytest.raises(SimpoError, match="by another process") as error:
        resume(stopped)
    assert is_one_line(error)


def test_other_settings_are_not_resumed(stopped):
    out = stopped.parent.parent.parent
    run = small_run(SAC)
    assert dict(runs_like(run, out)) == {stopped: "stopped"}
    assert not dict(runs_like(replace(run, seed=1), out))
    (stopped / "config.json").write_text('{"type": "Run", "a field of old": 1}')
    assert not dict(runs_like(run, out))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is not a run directory: no file"),
        ({"config.json": "{"}, "is damaged"),
        ({"config.json": "{}"}, "Run needs env, agent"),
    ],
)
def test_what_cannot_be_resumed_gets_one_line(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SimpoError) as error:
        resume(tmp_path)
    assert message in str(error.value) and is_one_line(error)
