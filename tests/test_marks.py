"""Checkpoints of someone else are not read unless the user says so."""

import os
import pickle
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from plain_loop import is_one_line
from simpo import directories, marks, runs, snapshots
from simpo.agents import SAC, compile_init
from simpo.checkpoint import load, read_json, save_policy, write_json
from simpo.cli import main
from simpo.runs import resume, start_or_resume, start_run
from simpo.trainer import Stopped, Trainer
from simpo.types import EnvSpec, SimpoError
from tiny import tiny, tiny_run


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without a key."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "simpo" / "key"


def another_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))


# The key


def test_a_mark_is_of_the_data_and_the_key(home, monkeypatch, tmp_path):
    mark = marks.make(b"data")
    assert marks.is_ours(b"data", mark) and marks.make(b"data") == mark
    assert not marks.is_ours(b"other", mark)
    another_user(monkeypatch, tmp_path)
    assert not marks.is_ours(b"data", mark)  # without a key
    assert marks.make(b"data") != mark
    assert not marks.is_ours(b"data", mark)  # with another one


@pytest.mark.parametrize("mark", [None, "", "00", 1, ["é"], "é" * 64, "z" * 64])
def test_what_is_no_mark(home, mark):
    marks.make(b"data")
    assert not marks.is_ours(b"data", mark)


def test_looking_makes_no_key(home):
    assert not marks.is_ours(b"data", "00" * 32) and not home.exists()


def test_only_the_user_can_read_the_key(home):
    marks.make(b"data")
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    assert len(home.read_bytes()) == 32 and os.listdir(home.parent) == ["key"]


def test_processes_that_start_together_get_one_key(home):
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(marks.make, [b"data"] * 32))) == 1
    assert os.listdir(home.parent) == ["key"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SIMPO_HOME": "/a", "XDG_STATE_HOME": "/b"}, "/a/key"),
        ({"XDG_STATE_HOME": "/b"}, "/b/simpo/key"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/c"}, "/c/.local/state/simpo/key"),
        ({"HOME": "/c"}, "/c/.local/state/simpo/key"),
    ],
)
def test_where_the_key_is(monkeypatch, variables, expected):
    for name in ("SIMPO_HOME", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert marks.key_path() == Path(expected)


# Checkpoints


def small_run(**changes):
    return tiny_run(agent=tiny(SAC), **{"checkpoint_every": 40} | changes)


@pytest.fixture
def stopped(home, tmp_path, monkeypatch):
    """A run of this user, stopped after some checkpoints."""
    monkeypatch.setattr("simpo.plotting.plot_run", lambda _: None)
    real = Trainer.collect

    def collect(self):
        self.stop.made |= self.vector_step == 70
        real(self)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "collect", collect)
        start_run(small_run(), tmp_path / "runs")
    (status,) = (tmp_path / "runs").rglob("status.json")
    return status.parent


@pytest.fixture
def no_pickle(monkeypatch):
    """Whoever reads a pickle fails."""

    def refuse(*_, **__):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


def refused(read, directory):
    with pytest.raises(SimpoError, match="has no mark of this user") as error:
        read()
    assert "\n" not in str(error.value)
    assert f"simpo resume {directory} --trust-checkpoint" in str(error.value)


def test_a_run_of_this_user_goes_on_wherever_it_is_moved(stopped, tmp_path):
    moved = shutil.move(stopped, tmp_path / "moved")
    assert read_json(resume(moved).directory / "status.json")["state"] == "done"


def test_a_run_of_another_user_is_refused(stopped, monkeypatch, tmp_path, no_pickle):
    another_user(monkeypatch, tmp_path)
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}
    refused(lambda: resume(stopped), stopped)
    refused(lambda: start_or_resume(small_run(), tmp_path / "runs"), stopped)
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before


def test_the_command_line_refuses_and_can_be_told_to_trust(
    stopped, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("simpo.cli.resume.keep_compiled", lambda: None)
    another_user(monkeypatch, tmp_path)
    assert main(["resume", str(stopped)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("simpo: error: ") and told.count("\n") == 1
    assert main(["resume", str(stopped), "--trust-checkpoint"]) == 0
    newest = snapshots.newest(stopped)  # what it wrote since then is its own
    assert newest and newest.name > "000000000180"


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_forged_checkpoint_is_refused_unless_trusted(stopped, tmp_path):
    """Whose manifest agrees with a pickle that runs code."""
    newest, evil = snapshots.newest(stopped), tmp_path / "evil"
    path = newest / "environments.pickle"
    path.write_bytes(pickle.dumps(Evil(str(evil))))
    manifest = read_json(newest / "manifest.json")
    manifest["files"][path.name] = snapshots.describe(path)
    write_json(newest / "manifest.json", manifest)
    refused(lambda: resume(stopped), stopped)
    assert not evil.exists()
    with pytest.raises(SimpoError, match="does not fit this run") as error:
        resume(stopped, trust=True)
    assert evil.exists() and is_one_line(error)


def test_a_pickle_in_a_policy_folder_is_not_read(stopped, tmp_path):
    resume(stopped)
    evil = tmp_path / "evil"
    for name in ("environments.pickle", "model.pkl", "pytorch_model.bin"):
        (stopped / "policy" / name).write_bytes(pickle.dumps(Evil(str(evil))))
    assert load(stopped).env and not evil.exists()


@pytest.mark.parametrize("obstacle", ["file", "short"])
def test_without_a_key_a_run_goes_on_and_says_what_that_means(
    home, tmp_path, monkeypatch, obstacle
):
    """As in a container whose home cannot be written to."""
    monkeypatch.setattr("simpo.plotting.plot_run", lambda _: None)
    if obstacle == "file":
        home.parent.parent.write_text("")  # a file where a folder should be
    else:
        home.parent.mkdir(parents=True)
        home.write_bytes(b"short")
    with pytest.warns(UserWarning, match="no key at .*; set SIMPO_HOME") as caught:
        done = start_run(small_run(steps=100), tmp_path / "runs")
    assert all("\n" not in str(one.message) for one in caught)
    (folder, *_) = snapshots.complete(done.directory)
    assert read_json(folder / "manifest.json")["mark"] is None
    refused(lambda: snapshots.newest(done.directory), done.directory)
    assert snapshots.newest(done.directory, trust=True)


def test_numbers_of_another_run_get_one_line(stopped, monkeypatch):
    """A checkpoint that does not fit the run it is in."""
    config = read_json(stopped / "config.json")
    write_json(stopped / "config.json", config | {"env": "InvertedDoublePendulum-v5"})
    with pytest.raises(SimpoError, match="does not fit") as error:
        runs.resume(stopped)
    assert is_one_line(error)


def test_settings_are_compared_before_anything_is_read(stopped, tmp_path, no_pickle):
    other = replace(small_run(), seed=1)
    assert not dict(directories.runs_like(other, tmp_path / "runs"))


def test_a_policy_folder_gets_no_module_imported(tmp_path, monkeypatch, capsys):
    """Evaluating it would import what its task's id names."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("raise AssertionError('imported')")
    agent, spec = tiny(SAC), EnvSpec(3, 1)
    policy = agent.policy(compile_init(agent, spec)(jax.random.key(0)))
    folder = tmp_path / "policy"
    save_policy(folder, agent, spec, policy, env="evil:Task-v0", step=0)
    assert main(["eval", str(folder)]) == 2
    told = capsys.readouterr().err
    assert f"simpo eval {folder} --env evil:Task-v0" in told and told.count("\n") == 1
    assert main(["eval", str(folder), "--env", "evil:Task-v0"]) == 2
    assert "cannot import 'evil': imported" in capsys.readouterr().err
