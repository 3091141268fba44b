"""`simpo bench agents`: real runs in worker processes, ranked, and users' mistakes."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from plain_loop import is_one_line
from simpo.agents import QVPO, SAC, TD3
from simpo.cli import main
from simpo.directories import parent_of
from simpo.engines import local
from simpo.engines.jobs import Job
from simpo.engines.local import cores, train_all
from simpo.experiments.comparison import Comparison, rank
from simpo.experiments.report import reproduce
from simpo.types import SimpoError
from tiny import tiny, tiny_run

TASK = "InvertedPendulum-v5"
SMALL = {"tasks": (TASK,), "agents": ("SAC", "TD3"), "seeds": 2, "steps": 200}


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Processes started from here share what they compile."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("compiled")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def small_run(**changes):
    return tiny_run(**{"agent": tiny(TD3)} | changes)


def jobs(out, *runs):
    return [Job(f"run {i}", run, out, ("test",)) for i, run in enumerate(runs)]


# Worker processes


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run that works, one that cannot start, one that fails, side by side."""
    out, told = tmp_path_factory.mktemp("runs"), []
    runs = [
        small_run(),
        small_run(env="Hoper-v5"),
        small_run(agent=tiny(TD3, critic_lr=1e30, actor_lr=1e30)),
    ]
    ends = train_all(jobs(out, *runs), lambda *step: told.append(step), 2)
    return {end.job.name: end for end in ends}, told


def test_a_run_is_an_ordinary_run(ended):
    ends, told = ended
    run = ends["run 0"].job.run
    directory = ends["run 0"].directory
    assert directory.parent == parent_of(ends["run 0"].job.out, run)
    assert json.loads((directory / "status.json").read_text())["state"] == "done"
    assert (directory / "command.txt").read_text() == "test\n"
    assert sum(steps for name, steps in told if name == "run 0") == run.steps


def test_a_failed_run_takes_no_other_with_it(ended):
    ends, _ = ended
    assert ends["run 1"].directory is None
    assert "unknown environment 'Hoper-v5'" in ends["run 1"].reason
    assert ends["run 2"].directory is None
    assert "not finite" in ends["run 2"].reason


def test_a_dead_process_is_reported(tmp_path, monkeypatch):
    """As the system kills one that asks for too much memory."""
    started = []

    def start(job, core):
        worker = real(job, core)
        started.append(worker)
        os.kill(worker.process.pid, signal.SIGKILL)
        return worker

    real = local.start
    monkeypatch.setattr(local, "start", start)
    (end,) = train_all(jobs(tmp_path, small_run()), lambda *_: None, 1)
    assert end.directory is None
    assert end.reason == "its process died (exit code -9)"


def test_a_dead_process_is_replaced_and_one_alive_goes_on(tmp_path, monkeypatch):
    """Three runs, one at a time: the first process dies, a second makes the others."""
    started = []

    def start(job, core):
        worker = real(job, core)
        if not started:
            os.kill(worker.process.pid, signal.SIGKILL)
        started.append(job.name)
        return worker

    real = local.start
    monkeypatch.setattr(local, "start", start)
    runs = [small_run(seed=seed) for seed in range(3)]
    ends = list(train_all(jobs(tmp_path, *runs), lambda *_: None, 1))
    assert [end.job.name for end in ends] == ["run 0", "run 1", "run 2"]
    assert [end.directory is None for end in ends] == [True, False, False]
    assert started == ["run 0", "run 1"]


def test_runs_that_are_stopped_leave_no_process(tmp_path):
    def interrupt(*_):
        assert multiprocessing.active_children()
        raise KeyboardInterrupt

    endless = small_run(steps=10**6)
    with pytest.raises(KeyboardInterrupt):
        next(train_all(jobs(tmp_path, endless), interrupt, 1))
    assert not multiprocessing.active_children()


def test_cores_are_those_that_may_be_used():
    assert 1 <= len(cores()) <= os.cpu_count()


# The benchmark


def small_run_of(study, cell):
    """Tiny agents instead of a preset's."""
    agent = tiny({"SAC": SAC, "TD3": TD3}.get(cell.agent, QVPO))
    run = tiny_run(agent=agent, env=cell.task, label=cell.agent, seed=cell.seed)
    return replace(run, steps=study.steps)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(Comparison, "run_of", small_run_of)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Two agents, two seeds of a real task."""
    study = Comparison(**SMALL, out=tmp_path_factory.mktemp("bench"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Comparison, "run_of", small_run_of)
        return study, reproduce(study)


def test_every_cell_has_its_score(bench):
    study, report = bench
    scores = rows(report.folder / "scores.csv")
    cells = {(row["task"], row["agent"], int(row["seed"])) for row in scores}
    assert cells == set(study.cells())
    for row in scores:
        (directory,) = study.runs.glob(f"{TASK}/{row['agent']}/*-s{row['seed']}")
        last = [
            float(episode["return"])
            for episode in rows(directory / "evaluations.csv")
            if episode["step"] == "200" and episode["sampler"] == row["sampler"]
        ]
        assert len(last) == 2 and float(row["score"]) == pytest.approx(np.mean(last))


def test_the_report_ranks_and_draws(bench):
    _, report = bench
    text = "\n".join(report.lines)
    assert "mean ± standard deviation over 2 seeds" in text and "random" in text
    assert {row["agent"] for row in rows(report.folder / "ranking.csv")} == {
        "SAC",
        "TD3",
    }
    for suffix in (".png", ".svg"):
        assert (report.folder / f"agents{suffix}").stat().st_size > 10_000


def test_what_is_there_is_not_trained_again(bench, small, monkeypatch):
    study, report = bench

    def no_more(jobs, *_, **__):
        assert not jobs
        return iter(())

    monkeypatch.setattr("simpo.engines.local.train_all", no_more)
    again = reproduce(study)
    assert again.lines[:-1] == report.lines[:-1]  # the last is the time it took


def test_other_settings_are_other_cells(bench, small):
    study, _ = bench
    other = Comparison(**SMALL | {"steps": 220}, out=study.out)
    for cell in study.cells():
        assert study.grid.finished(cell)
        assert not other.grid.finished(cell)


def test_agents_without_all_cells_are_left_out(bench, small):
    study, _ = bench
    options = SMALL | {"agents": ("SAC", "QVPO"), "report": True}
    report = reproduce(Comparison(**options, out=study.out))
    assert "not finished, left out: QVPO" in report.lines
    assert [r["agent"] for r in rows(report.folder / "ranking.csv")] == ["SAC"]


def test_nothing_to_report_gets_one_line(tmp_path, small):
    with pytest.raises(SimpoError, match="no finished runs in") as error:
        reproduce(Comparison(**SMALL, report=True, out=tmp_path))
    assert is_one_line(error)


def test_failed_cells_are_reported(tmp_path, monkeypatch, bench):
    """One agent's runs fail; the other's, made before, are ranked."""
    study, _ = bench

    def broken(self, cell):
        run = small_run_of(self, cell)
        diverging = tiny(TD3, critic_lr=1e30, actor_lr=1e30)
        return run if cell.agent == "SAC" else replace(run, agent=diverging)

    monkeypatch.setattr(Comparison, "run_of", broken)
    report = reproduce(Comparison(**SMALL, out=study.out))
    assert any(
        line.startswith(f"failed: TD3 {TASK} s1: ") and "not finite" in line
        for line in report.lines
    )
    assert "not finished, left out: TD3" in report.lines


def test_a_ranking_is_by_normalised_scores():
    """Two tasks of different scale count the same."""
    raw = {
        "a": np.array([[100.0, 100.0], [0.6, 0.6]]),
        "b": np.array([[60.0, 60.0], [1.0, 1.0]]),
        "c": np.array([[0.0, 0.0], [0.2, 0.2]]),
    }
    ranks = rank(raw, floor=np.array([0.0, 0.2]))
    assert [r.agent for r in ranks] == ["b", "a", "c"]
    np.testing.assert_allclose([r.iqm for r in ranks], [0.8, 0.75, 0.0])
    assert ranks[1].beats == 1.0  # a beats c everywhere


HEEDING = """import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"""
"""As in a terminal: a shell starts what runs in the background deaf to Ctrl-C."""


def test_ctrl_c_ends_the_workers(tmp_path):
    """A real interrupt of the real command, while a run is under way."""
    command = [
        *(sys.executable, "-c", HEEDING, "-m", "simpo", "bench", "agents"),
        *("--tasks", TASK, "--agents", "TD3", "--seeds", "1", "--jobs", "1"),
        *("--out", str(tmp_path)),
    ]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not [*tmp_path.rglob("command.txt")] and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    _, err = process.communicate(timeout=300)  # it may be compiling
    assert process.returncode == 130
    assert err == "simpo: error: interrupted: nothing measured yet\n"
    with pytest.raises(ProcessLookupError):  # once nobody is left
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "bench what? simpo bench agents"),
        (["agents", "--seeds", "0"], "seeds must be at least 1, not 0"),
        (["agents", "--jobs", "0"], "jobs must be at least 1, not 0"),
        (["agents", "--agents", "SACC"], "'SACC'; did you mean 'SAC'?"),
        (["agents", "--tasks", "Hoper-v5"], "unknown environment 'Hoper-v5'"),
        (["agents", "--tasks", "CartPole-v1"], "Discrete action space"),
        (["agents", "--scale", "lap"], "unknown preset 'lap'; did you mean 'laptop'?"),
        (["agents", "--scale", "paper", "--tasks", "Reacher-v5"], "has no values for"),
        (["agents", "--steps", "10"], "10 steps are fewer than"),
        (["agents", "--sedes", "5"], "did you mean '--seeds'?"),
    ],
)
def test_mistakes_get_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simpo.cli.studies.keep_compiled", lambda: None)
    assert main(["bench", *argv]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())
