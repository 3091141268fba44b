"""Weights are written down at evaluations, and training does not notice."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

import simpo.plotting
from simpo import candidates, runs
from tiny import tiny_run


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(simpo.plotting, "plot_run", lambda directory: [])


def state(trainer):
    """Everything that the rest of a run depends on."""
    taken = trainer.snapshot()
    numbers = {k: v for k, v in taken.numbers.items() if k != "elapsed"}
    arrays = {name: np.asarray(x).tobytes() for name, x in taken.arrays.items()}
    return numbers, arrays, taken.environments, trainer.buffer.added


def test_every_evaluation_writes_them_and_training_does_not_notice(
    tmp_path, monkeypatch
):
    usual, seen = candidates.write_candidates, []

    def spy(path, explain, trainer):
        before, was_there = state(trainer), path.exists()
        usual(path, explain, trainer)
        assert repr(state(trainer)) == repr(before)
        text = path.read_bytes() if path.exists() else None
        seen.append((trainer.step, was_there, text))

    monkeypatch.setattr(candidates, "write_candidates", spy)
    run = tiny_run()
    directory = runs.start_run(run, tmp_path).directory
    steps, was_there, texts = zip(*seen, strict=True)
    assert steps == (0, 100, 200)
    assert was_there == (False, False, True)  # nothing to explain at the first
    path = directory / "candidates.csv"
    assert texts[0] is None and texts[1] != texts[2] == path.read_bytes()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == candidates.EXPLAINED_STATES * run.agent.candidates
    assert not list(directory.glob(".*"))  # nothing half written is left


def test_agents_on_policy_write_nothing(tmp_path):
    class OnPolicy:
        rollout_steps = 32

    trainer = SimpleNamespace(run=SimpleNamespace(agent=OnPolicy))
    candidates.write_candidates(tmp_path / "candidates.csv", None, trainer)
    assert not list(tmp_path.iterdir())
