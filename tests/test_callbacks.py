"""What is hung into a run is told of everything, and changes nothing but its end."""

import json

import pytest

import simpo
from simpo.runs import resume, start_run
from simpo.trainer import Stopped
from tiny import tiny_run


class Diary(simpo.Callback):
    def __init__(self, until=None):
        self.until, self.steps, self.evaluations, self.saved = until, [], [], []

    def on_step(self, trainer):
        self.steps.append((trainer.step, trainer.updates))
        return trainer.step != self.until

    def on_evaluation(self, trainer, rows):
        saved = simpo.load(trainer.directory)
        self.evaluations.append((trainer.step, saved.step, len(rows)))

    def on_checkpoint(self, trainer, folder):
        assert (folder / "manifest.json").is_file()
        self.saved.append((trainer.step, folder.name))


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr("simpo.plotting.plot_run", lambda _: None)


def settings(**changes):
    values = vars(tiny_run(checkpoint_every=80, **changes)).copy()
    return {"agent": values.pop("agent"), "env": values.pop("env")}, values


def model(directory):
    return (directory / "policy" / "model.safetensors").read_bytes()


def test_it_is_told_of_everything_and_training_does_not_notice(tmp_path):
    (task, others), diary = settings(), Diary()
    run = simpo.train(**task, out=tmp_path / "a", callbacks=[diary], **others)
    assert [step for step, _ in diary.steps] == list(range(2, 202, 2))
    assert diary.steps[-1] == (200, 40) and diary.steps[0] == (2, 0)
    assert diary.evaluations == [(0, 0, 4), (100, 100, 4), (200, 200, 4)]
    assert [step for step, _ in diary.saved] == [80, 160]
    alone = simpo.train(**task, out=tmp_path / "b", **others)
    assert model(run.directory) == model(alone.directory)


def test_false_ends_a_run_in_good_order(tmp_path):
    task, others = settings()
    diary, silent = Diary(until=120), simpo.Callback()
    run = simpo.train(**task, out=tmp_path, callbacks=[diary, silent], **others)
    assert diary.steps[-1][0] == 120 and diary.evaluations[-1][:2] == (120, 120)
    status = json.loads((run.directory / "status.json").read_text())
    assert status == {"state": "done", "step": 120}


def test_a_resumed_run_may_have_others(tmp_path):
    class Stop(simpo.Callback):
        def on_step(self, trainer):
            trainer.stop.made = trainer.step == 100

    with pytest.raises(Stopped):
        start_run(tiny_run(), tmp_path, callbacks=[Stop()])
    (config,) = tmp_path.rglob("*-s0/config.json")
    diary = Diary()
    resume(config.parent, callbacks=[diary])
    assert [step for step, _ in diary.steps] == list(range(104, 202, 2))
