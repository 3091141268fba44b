"""What tracking services get of a run, read back from their own files."""

import csv
import importlib
import json
import os
import sqlite3
import struct
import tempfile
import time
import warnings
from pathlib import Path

import pytest

import simpo
from simpo import trackers
from simpo.agents import SAC
from simpo.cli import main
from simpo.cli.train import TrainArguments
from simpo.config import to_json
from simpo.curves import ALIASES
from simpo.run import Run
from simpo.runs import resume, start_or_resume, start_run
from simpo.trainer import RunFailed, Stopped
from simpo.types import SimpoError, SimpoWarning
from tiny import tiny, tiny_run

SERVICES = ("wandb", "trackio")
TABLES = ("progress.csv", "evaluations.csv")
GROUPS = {"deterministic": "eval", "single": "eval_single"}


def small_run():
    """A run that compiles soon and evaluates under two samplers."""
    return tiny_run(agent=tiny(SAC))


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    """No network, no pictures; a folder for trackio, which looks for it once."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr("simpo.plotting.plot_run", lambda _: None)
        for name in [n for n in os.environ if n.startswith(("WANDB_", "TRACKIO_"))]:
            patch.delenv(name)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("TRACKIO_DIR", folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def library(service):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what theirs deprecate is not ours
        return pytest.importorskip(service)


# Reading back


def records(path):
    """Messages of a .wandb file: records in blocks of 32 KiB, some in several parts."""
    data, block = path.read_bytes(), 2**15
    assert data[:4] == b":W&B"
    position, message = 7, b""
    while position + 7 <= len(data):
        if block - position % block < 7:  # no room for a head: zeros
            position += block - position % block
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4) and position <= len(data):  # whole, or the last part
            yield message
            message = b""


def wandb_records(folder):
    """Records of an offline run; W&B's process writes the last ones at its leisure."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("run-*.wandb")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = [Record.FromString(record) for record in records(path)]
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.05)
    raise TimeoutError(path)


def wandb_runs(directory):
    """(project, name, config, (step, points) in order) by id."""
    found = {}
    for folder in sorted(path.name for path in directory.glob("wandb/offline-run-*")):
        for record in wandb_records(directory / "wandb" / folder):
            if record.HasField("run"):
                run = record.run
                config = {i.key: json.loads(i.value_json) for i in run.config.update}
                config.pop("_wandb", None)
                about = run.project, run.display_name, config
                rows = found.setdefault(run.run_id, (*about, []))[-1]
            elif record.HasField("history"):
                items = [((*i.nested_key, i.key)[0], i.value_json)
                         for i in record.history.item]  # fmt: skip
                row = {k: json.loads(v) for k, v in items if not k.startswith("_")}
                rows.append((row.pop("env_step"), row))
    return found


def trackio_runs(directory):
    """The same, of all runs in the project of this directory's."""
    project = json.loads((directory / "tracker.json").read_text())["project"]
    path = Path(library("trackio").utils.TRACKIO_DIR) / f"{project}.db"
    found = {}
    with sqlite3.connect(path) as base:
        for key, name, config in base.execute(
            "SELECT run_id, run_name, config FROM configs"
        ):
            config = {k: v for k, v in json.loads(config).items() if k[0] != "_"}
            found[key] = project, name, config, []
        for key, step, points in base.execute(
            "SELECT run_id, step, metrics FROM metrics ORDER BY id"
        ):
            found[key][-1].append((step, json.loads(points)))
    base.close()
    return found


def followed(service, directory):
    return {"wandb": wandb_runs, "trackio": trackio_runs}[service](directory)


def table(directory, name):
    """(step, values) of every row, cells that are empty left out."""
    with (directory / name).open() as file:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    return [(int(row.pop("step")), row) for row in rows]


def expected(directory):
    """(step, points), from the run's own tables."""
    points = []
    timing = dict(table(directory, "timing.csv"))
    for step, row in table(directory, "progress.csv"):
        values = {k: float(v) for k, v in (row | timing[step]).items()}
        values |= {a: values[n] for n, a in ALIASES.items() if n in values}
        points.append((step, values))
    episodes = table(directory, "evaluations.csv")
    for step in dict.fromkeys(step for step, _ in episodes):
        means = {}
        for name, group in GROUPS.items():
            own = [r for s, r in episodes if s == step and r["sampler"] == name]
            for column, mean in (("return", "reward"), ("length", "ep_length")):
                total = sum(float(row[column]) for row in own)
                means[f"{group}/mean_{mean}"] = total / len(own)
        points.append((step, means))
    return points


def ordered(points):
    return sorted(points, key=lambda point: (point[0], len(point[1])))


def same_points(found, wanted):
    found, wanted = ordered(found), ordered(wanted)
    assert [step for step, _ in found] == [step for step, _ in wanted]
    for (_, one), (_, other) in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-12)


# Real services


def begin(service, out):
    """A tracked run that is stopped at step 100, and its directory."""

    class Stop(simpo.Callback):
        def on_step(self, trainer):
            trainer.stop.made = trainer.step == 100

    with pytest.raises(Stopped):
        start_run(small_run(), out, callbacks=[Stop()], track=service)
    (config,) = out.rglob("*-s0/config.json")
    return config.parent


@pytest.fixture(scope="module")
def untracked(tmp_path_factory):
    return start_run(small_run(), tmp_path_factory.mktemp("untracked")).directory


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_gets_the_tables_and_a_resumed_run_goes_on(
    service, tmp_path, untracked, monkeypatch
):
    library(service)
    monkeypatch.setenv(f"{service.upper()}_PROJECT", f"tests-{service}")
    directory = begin(service, tmp_path)
    monkeypatch.delenv(f"{service.upper()}_PROJECT")  # the run stays where it began
    before = followed(service, directory)
    resume(directory)
    key = json.loads((directory / "tracker.json").read_text())["id"]
    assert before.keys() == {key} == followed(service, directory).keys()
    assert before[key][-1]
    project, name, config, points = followed(service, directory)[key]
    assert (project, name) == (f"tests-{service}", directory.name)
    assert config == json.loads((directory / "config.json").read_text())
    same_points(points, expected(directory))
    for file in TABLES:
        assert (directory / file).read_bytes() == (untracked / file).read_bytes()


@pytest.mark.parametrize("service", SERVICES)
def test_steps_that_come_again_after_a_kill_are_no_fault(service, tmp_path):
    library(service)
    config = to_json(small_run())
    directory = tmp_path / "again"
    directory.mkdir()
    trackers.register(directory, service)
    for resumed, steps in ((False, (50, 100, 150)), (True, (100, 150, 200))):
        with trackers.tracked(directory, config, resumed=resumed) as (tracker,):
            for step in steps:
                tracker.log(step, {"train/q_mean": step / 3})
    key = json.loads((directory / "tracker.json").read_text())["id"]
    points = followed(service, directory)[key][-1]
    assert points == [
        (step, {"train/q_mean": step / 3}) for step in (50, 100, 150, 100, 150, 200)
    ]


def test_environment_steps_are_the_axis_of_every_curve_in_wandb(tmp_path):
    library("wandb")
    trackers.register(tmp_path, "wandb")
    with trackers.tracked(tmp_path, {}, resumed=False):
        pass
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    found = wandb_records(folder)
    metrics = [record.metric for record in found if record.HasField("metric")]
    assert ("*", "env_step") in [(m.glob_name, m.step_metric) for m in metrics]


def test_runs_that_share_a_name_are_two_in_trackio(tmp_path):
    library("trackio")
    kept = {}
    for number, parent in enumerate(("Ant-v5", "Hopper-v5", "Ant-v5")):
        directory = tmp_path / parent / "20260101-000000-s0"
        if resumed := directory.is_dir():
            assert number == 2
        else:
            directory.mkdir(parents=True)
            trackers.register(directory, "trackio")
        with trackers.tracked(directory, {"seed": 0}, resumed=resumed) as (tracker,):
            tracker.log(number, {"updates": 1})
        kept[parent] = json.loads((directory / "tracker.json").read_text())["id"]
    found = trackio_runs(directory)
    steps = {p: [step for step, _ in found[key][-1]] for p, key in kept.items()}
    assert steps == {"Ant-v5": [0, 2], "Hopper-v5": [1]}


# Faults


class Broken(Exception):
    """Whatever a service raises."""


def service_of(calls, fails=()):
    """A service that notes its calls and fails at some of them."""

    def note(name):
        calls.append(name)
        if len(calls) in fails:
            raise Broken("no route to host.\nsecond line")

    def begin(directory, project, name, config):
        note("begin")
        return trackers.Session(
            lambda step, points: note(f"log {step}"),
            lambda exit_code: note(f"finish {exit_code}"),
        )

    return begin


@pytest.fixture
def faked(monkeypatch):
    def install(calls, fails=()):
        monkeypatch.setattr(trackers, "find_spec", lambda name: True)
        monkeypatch.setitem(trackers.BEGIN, "wandb", service_of(calls, fails))

    return install


def test_a_service_that_fails_is_left_out_and_the_run_ends_well(
    tmp_path, untracked, faked
):
    faked(calls := [], fails=(3,))
    with pytest.warns(SimpoWarning) as said:
        run = start_run(small_run(), tmp_path, track="wandb")
    assert calls == ["begin", "log 0", "log 50"]
    text = "wandb failed, the run goes on without it: no route to host"
    assert [str(w.message) for w in said] == [text]
    status = json.loads((run.directory / "status.json").read_text())
    assert status["state"] == "done"
    for file in TABLES:
        assert (run.directory / file).read_bytes() == (untracked / file).read_bytes()


def test_a_service_that_does_not_finish_is_a_warning_after_the_run(
    tmp_path, faked, monkeypatch
):
    faked(calls := [], fails=(9,))
    states = []
    real = trackers.warn

    def warn(text):
        (status,) = tmp_path.rglob("status.json")
        states.append(json.loads(status.read_text())["state"])
        real(text)

    monkeypatch.setattr(trackers, "warn", warn)
    with pytest.warns(SimpoWarning, match="wandb failed"):
        start_run(small_run(), tmp_path, track="wandb")
    assert calls[-1] == "finish 0" and len(calls) == 9
    assert states == ["done"]


def test_what_does_not_begin_is_refused_once_and_never_stops_a_resumed_run(
    tmp_path, faked
):
    faked(calls := [], fails=(1, 2))
    with pytest.raises(SimpoError, match="wandb does not begin: no route") as error:
        start_run(small_run(), tmp_path, track="wandb")
    (config,) = tmp_path.rglob("config.json")
    assert str(error.value).endswith(f" mended: simpo resume {config.parent}")
    with pytest.warns(SimpoWarning, match="to host; the run goes on untracked"):
        resume(config.parent)
    assert calls == ["begin", "begin"]


@pytest.mark.parametrize("text", ["[]", '{"service": "other"}', "{"])
def test_a_damaged_file_is_a_warning(tmp_path, text):
    (tmp_path / "tracker.json").write_text(text)
    with (
        pytest.warns(SimpoWarning, match="is damaged: .*; the run goes on untracked"),
        trackers.tracked(tmp_path, {}, resumed=True) as followers,
    ):
        assert followers == []


def test_how_a_run_ended_is_told(tmp_path, faked):
    ends = (None, 0), (Stopped(""), 0), (RunFailed(""), 1), (OSError(), 1)
    for error, code in ends:
        faked(calls := [])
        trackers.register(tmp_path, "wandb")
        try:
            with trackers.tracked(tmp_path, {}, resumed=False):
                if error:
                    raise error
        except type(error or OSError):
            pass
        assert calls == ["begin", f"finish {code}"]


# Asking for it


@pytest.mark.parametrize("service", SERVICES)
def test_a_missing_extra_is_one_line_and_no_directory(
    service, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert main(["train", "--track", service, "--out", str(tmp_path / "runs")]) == 2
    line = f"simpo: error: {service} is missing: pip install 'simpo[{service}]'\n"
    assert capsys.readouterr().err == line
    assert not (tmp_path / "runs").exists()


def test_an_unknown_service_is_one_line(tmp_path):
    with pytest.raises(SimpoError, match="track must be one of no, wandb, trackio"):
        simpo.train(
            small_run().agent, "InvertedPendulum-v5", out=tmp_path, track="mlflow"
        )


def test_no_library_is_loaded_unasked(tmp_path, monkeypatch):
    def refuse(name, package=None):
        raise AssertionError(name)

    with trackers.tracked(tmp_path, {}, resumed=True) as followers:
        assert followers == []
    monkeypatch.setattr(importlib, "import_module", refuse)
    trackers.register(tmp_path, "no")
    trackers.require("no")
    assert list(tmp_path.iterdir()) == []


def test_tracking_is_no_setting_of_a_run(tmp_path, faked):
    assert "track" not in vars(small_run()) and issubclass(TrainArguments, Run)
    faked(calls := [])
    directory = begin("wandb", tmp_path)
    assert start_or_resume(small_run(), tmp_path, track="no").directory == directory
    assert calls[0] == "begin" and calls.count("begin") == 2
    assert calls.count("finish 0") == 2
