"""Weights are written down at evaluations, and training does not notice."""

import csv
from types import SimpleNamespace

import pytest

import simpo.plotting
from simpo import runs
from simpo.loggers import MultiLogger
from tiny import tiny, tiny_run


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(simpo.plotting, "plot_run", lambda directory: [])


def trained(out, run):
    return runs.start_run(run, out, bar=Silent()).directory


class Silent(MultiLogger):
    def phase(self, text):
        pass


def bytes_of(directory):
    names = "progress.csv", "evaluations.csv", "policy/model.safetensors"
    return [(directory / name).read_bytes() for name in names]


def test_every_evaluation_writes_them_and_training_does_not_notice(
    tmp_path, monkeypatch
):
    usual, seen = runs.write_candidates, []

    def spy(path, explain, trainer):
        before = trainer.step, path.exists()
        usual(path, explain, trainer)
        seen.append((*before, path.read_bytes() if path.exists() else None))

    monkeypatch.setattr(runs, "write_candidates", spy)
    directory = trained(tmp_path / "with", tiny_run())
    steps, was_there, texts = zip(*seen, strict=True)
    assert steps == (0, 100, 200)
    assert was_there == (False, False, True)  # nothing to explain at the first
    assert texts[0] is None and texts[1] != texts[2] == candidates(directory)
    with (directory / "candidates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == runs.EXPLAINED_STATES * tiny().candidates
    assert not list(directory.glob(".*"))  # nothing half written is left
    monkeypatch.setattr(runs, "write_candidates", lambda *_: None)
    assert bytes_of(directory) == bytes_of(trained(tmp_path / "without", tiny_run()))


def candidates(directory):
    return (directory / "candidates.csv").read_bytes()


def test_agents_on_policy_write_nothing(tmp_path):
    class OnPolicy:
        rollout_steps = 32

    trainer = SimpleNamespace(run=SimpleNamespace(agent=OnPolicy))
    runs.write_candidates(tmp_path / "candidates.csv", None, trainer)
    assert not list(tmp_path.iterdir())
