"""Exact resume: a run that was killed again and again ends with the same bytes."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest

from plain_loop import is_one_line
from simpo import envs, snapshots
from simpo.agents import PPO, SAC, SiMPO
from simpo.cli import main
from simpo.config import to_json
from simpo.envs import ENVIRONMENTS
from simpo.replay import ReplayBuffer
from simpo.runs import resume, start_run
from simpo.trainer import Stopped, Trainer
from simpo.types import EnvSpec, SimpoError, Transition
from tiny import tiny, tiny_run

RESULTS = ("progress.csv", "evaluations.csv", "policy/model.safetensors")


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


def same(one, other):
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def break_at(monkeypatch, moments, errors=(False, True)):
    """Stop at these vector steps, in good order and by an error in turn."""
    real, turns = Trainer.collect, cycle(errors)

    def collect(self):
        if moments and self.vector_step == moments[0]:
            moments.pop(0)
            if next(turns):
                raise RuntimeError("broken")
            self.stopping = True
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
    monkeypatch.setattr(
        "simpo.cli.train.read_run", lambda _: (small_run(SAC), tmp_path)
    )
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
    assert main(["resume", str(directory)]) == 0
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
    with pytest.warns(UserWarning, match="using the checkpoint before it") as caught:
        found = snapshots.newest(stopped)
    # the manifest's damage shows in whatever it says of another file
    named = newest if name == "manifest.json" else newest / name
    assert str(named) in str(caught[0].message)
    assert found and found < newest


def test_only_the_last_checkpoints_are_kept(stopped):
    assert len(list((stopped / snapshots.FOLDER).iterdir())) == 2


# Parts


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_go_on_exactly(name):
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


def test_blocks_that_did_not_change_are_named(monkeypatch):
    monkeypatch.setattr("simpo.replay.BLOCK", 8)
    buffer = ReplayBuffer(20, EnvSpec(3, 2))
    for number in range(30):
        before, since = buffer.blocks(), buffer.added
        filled(buffer, 1 + number % 5, number)
        after = buffer.blocks()
        changed = {
            k
            for k in after
            if k not in before
            or (after[k].shape != before[k].shape)
            or (after[k] != before[k]).any()
        }
        assert buffer.unchanged(since) == set(after) - changed


def test_unchanged_blocks_are_linked(tmp_path):
    blocks = {0: np.zeros((4, 2)), 1: np.ones((4, 2))}
    snapshot = snapshots.Snapshot(5, {}, {}, None, blocks)
    first = snapshots.write(tmp_path, snapshot, None)
    later = snapshot._replace(step=6, unchanged=frozenset({0}))
    second = snapshots.write(tmp_path, later, first)
    files = [
        [(f / f"replay/00000{i}.npy").stat().st_ino for i in (0, 1)]
        for f in (first, second)
    ]
    assert files[0][0] == files[1][0] and files[0][1] != files[1][1]
    assert snapshots.newest(tmp_path) == second
    np.testing.assert_equal(snapshots.read(second).replay, blocks)


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
