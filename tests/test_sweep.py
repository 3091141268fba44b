"""`simpo sweep`: real runs, known functions of the values, stops and mistakes."""

import csv
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plain_loop import is_one_line
from simpo.agents import SiMPO
from simpo.cli import main
from simpo.experiments import ranges
from simpo.experiments.report import Interrupted, reproduce
from simpo.experiments.sweep import SEARCHED, UNSEEN, Sweep
from simpo.plotting.sweep import Trial
from simpo.presets import find
from simpo.types import SimpoError
from simpo.weighting import Linear

TASK = "InvertedPendulum-v5"
RUN = find("smoke", TASK)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Ranges


def test_names_are_fields_of_the_agent_of_one_inside_or_of_the_run():
    values = {"candidate_noise": 0.25, "weighting.floor": -0.5, "num_envs": 3}
    run = ranges.change(RUN, values)
    assert isinstance(run.agent, SiMPO)
    assert run.agent.candidate_noise == 0.25
    assert run.agent.weighting == Linear(floor=-0.5)
    assert run.num_envs == 3
    assert {name: ranges.value(run, name) for name in values} == values
    agent = replace(run.agent, candidate_noise=RUN.agent.candidate_noise)
    assert replace(agent, weighting=RUN.agent.weighting) == RUN.agent


@given(st.floats(-1, 0), st.floats(0.001, 1))
def test_ranges_are_read_as_they_are_written(low, width):
    found = ranges.read(f"weighting.floor={low!r}:{low + width!r}", RUN)
    assert (found.low, found.high, found.log) == (low, low + width, False)
    assert found.holds(low) and found.holds(low + width)
    assert not found.holds(low - 1e-9) and not found.holds(low + width + 1e-9)


def test_fractions_stay_fractions_and_counts_counts():
    floor = ranges.read("weighting.floor=-1:0", RUN)
    assert [type(end) for end in floor.ends] == [float, float]
    assert ranges.read("candidate_noise=1,2", RUN).choices == (1.0, 2.0)
    assert ranges.read("best_of=1:8:log", RUN).ends == (1, 8)


@pytest.mark.parametrize(
    "text",
    [
        "candidate_noise=1",
        "candidate_noise",
        "candidate_noise=2:1",
        "candidate_noise=0:1:log",
        "candidate_noise=0:1:lin",
        "candidate_noise=a:b",
        "candidate_noise=__import__('os'):1",
        "weighting.flor=0:1",
        "nose=0:1",
        "candidate_noise.inside=0:1",
        "=0:1",
    ],
)
def test_what_is_no_range_gets_one_line(text):
    if text == "candidate_noise=1":
        assert ranges.read(text, RUN).choices == (1.0,)  # one choice is a range
        return
    with pytest.raises(SimpoError) as error:
        ranges.read(text, RUN)
    assert is_one_line(error)


# The search, on known functions


@pytest.fixture
def known(monkeypatch):
    """Scores by a known function: best at a floor of -0.4, a little noise per seed."""
    pytest.importorskip("optuna")
    measured = []

    def measure(self, runs, report):
        scores = {}
        for cell, run in runs.items():
            floor = run.agent.weighting.floor
            noise = np.random.default_rng(cell.seed).normal(scale=1e-3)
            scores[cell] = 1 - (floor + 0.4) ** 2 + noise
            measured.append((floor, cell.seed))
        return scores

    monkeypatch.setattr(Sweep, "measure", measure)
    return measured


def sweep(out, **changes):
    values = {
        "task": TASK,
        "scale": "smoke",
        "search": ("weighting.floor=-1:0",),
        "trials": 30,
        "out": out,
    }
    return Sweep(**values | changes)


def test_the_best_value_is_found_and_confirmed_on_fresh_seeds(known, tmp_path):
    report = reproduce(sweep(tmp_path))
    trials = rows(tmp_path / "trials.csv")
    assert len(trials) == 30
    assert float(trials[0]["weighting.floor"]) == RUN.agent.weighting.floor
    best = max(
        (r for r in trials if r["seeds"] == "3"), key=lambda r: float(r["score"])
    )
    assert float(best["weighting.floor"]) == pytest.approx(-0.4, abs=0.1)
    given_up = [row for row in trials if row["seeds"] != "3"]
    assert given_up
    assert all(float(r["score"]) < float(best["score"]) for r in given_up)
    searched = range(SEARCHED, SEARCHED + 3)
    assert {s for _, s in known} == {*searched, *range(UNSEEN, UNSEEN + 5)}
    assert "[holds]" in report.lines[-2]
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_a_stopped_sweep_goes_on(known, tmp_path, monkeypatch):
    real, calls = Sweep.measure, []

    def measure(self, runs, report):
        calls.append(runs)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(self, runs, report)

    monkeypatch.setattr(Sweep, "measure", measure)
    study = sweep(tmp_path, trials=10, jobs=2)
    with pytest.raises(Interrupted):
        reproduce(study)
    stopped = {run.agent.weighting.floor for run in calls[7].values()}
    reproduce(study)
    floors = [row["weighting.floor"] for row in rows(tmp_path / "trials.csv")]
    assert len(floors) == 10
    assert {str(floor) for floor in stopped} <= set(floors)
    made = len(known)
    reproduce(study)  # nothing is searched again, only the confirmation is looked up
    assert {seed for _, seed in known[made:]} == set(range(UNSEEN, UNSEEN + 5))


def test_another_sweep_is_not_mixed_in(known, tmp_path):
    reproduce(sweep(tmp_path, trials=4))
    with pytest.raises(SimpoError, match="holds a sweep with other settings") as error:
        reproduce(sweep(tmp_path, trials=4, seeds=2))
    assert is_one_line(error)


def test_trials_that_fail_are_told_and_count(known, tmp_path, monkeypatch):
    monkeypatch.setattr(Sweep, "measure", lambda *_: {})
    with pytest.raises(SimpoError, match=r"no trial in .* has all its seeds") as error:
        reproduce(sweep(tmp_path, trials=3))
    assert is_one_line(error)


def test_a_report_before_the_first_trial_gets_one_line(known, tmp_path):
    with pytest.raises(SimpoError, match="no trial in") as error:
        reproduce(sweep(tmp_path, report=True))
    assert is_one_line(error) and not known


def test_scores_of_a_failed_trial_are_none():
    assert np.isnan(Trial(0, {}, [], False).score)


# The command, on real runs


def test_the_command_makes_ordinary_runs(tmp_path, capsys, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setattr("simpo.cli.studies.keep_compiled", lambda: None)
    out = tmp_path / "sweep"
    words = ["sweep", TASK, "--scale", "smoke", "--trials", "2", "--seeds", "1"]
    words += ["--fresh", "2", "--search", "candidate_noise=0.05,0.1", "--out", str(out)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "2 of 2 trials have 1 seeds" in text and f"results  {out}" in text
    assert len(list(out.glob("runs/*/*/*/status.json"))) in (2, 6)
    assert (out / "journal.log").is_file()


@pytest.mark.parametrize(
    "words, reason",
    [
        ([], "sweep what?"),
        (["--search", "candidate_noise=0.1:0.5", "--trials", "0"], "at least 1"),
        (["--search", "candidate_noise=0.1:0.5", "--fresh", "1"], "at least 2"),
        (["--search", "candidate_noise=-1:0.5"], "candidate_noise"),
        (["--search", "weighting=Linear(),Square()"], "cannot read"),
        (["--agent", "SAK", "--search", "tau=0.1,0.2"], "did you mean 'SAC'"),
    ],
)
def test_mistakes_get_one_line(capsys, monkeypatch, words, reason):
    pytest.importorskip("optuna")
    monkeypatch.setattr("simpo.cli.studies.keep_compiled", lambda: None)
    assert main(["sweep", TASK, *words]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_the_missing_extra_gets_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SimpoError, match=r"pip install 'simpo\[sweep\]'") as error:
        reproduce(sweep(tmp_path))
    assert is_one_line(error)
