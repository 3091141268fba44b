import json
import os
from dataclasses import asdict

import pytest

from simpo.cli import doctor
from simpo.cli.doctor import Check
from simpo.types import SimpoError


def by_name(checks):
    return {check.name: check for check in checks}


def sections(monkeypatch, *checks):
    monkeypatch.setattr(doctor, "SECTIONS", {"one": lambda: list(checks)})


GOOD, BAD, ABSENT = (
    Check("a", "1"),
    Check("b", "2", False, "do c"),
    Check("d", "3", None),
)


@pytest.mark.parametrize(
    ("checks", "code"), [((GOOD,), 0), ((GOOD, ABSENT), 0), ((GOOD, BAD), 1)]
)
def test_only_what_training_needs_fails(monkeypatch, capsys, checks, code):
    sections(monkeypatch, *checks)
    assert doctor.main([]) == code
    shown = capsys.readouterr().out
    assert all(check.name in shown and check.hint in shown for check in checks)
    assert doctor.main(["--json"]) == code
    assert json.loads(capsys.readouterr().out) == {
        "ok": not code,
        "checks": {"one": [asdict(check) for check in checks]},
    }


def test_an_unknown_option_is_named():
    with pytest.raises(SimpoError, match="unknown option '--jsn'; did you mean"):
        doctor.main(["--jsn"])


def test_packages_are_those_that_the_distribution_asks_for():
    found = by_name(doctor.check_packages())
    assert {"python", "simpo", "jax", "jaxlib", "tyro", "gymnasium"} <= found.keys()
    assert all(check.ok for check in found.values())


def test_missing_extras_come_with_the_line_that_installs_them(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda package: None)
    extras = by_name(doctor.check_extras())
    assert {"cuda12", "cuda13", "envpool", "hub", "judges", "torch"} == extras.keys()
    assert extras["envpool"] == Check(
        "envpool", "not installed", None, "pip install 'simpo[envpool]'"
    )


def test_a_cuda_extra_is_its_plugin(monkeypatch):
    versions = {"jax": "1", "jax-cuda12-plugin": "2"}
    monkeypatch.setattr(doctor, "installed", versions.get)
    extras = by_name(doctor.check_extras())
    assert extras["cuda12"].value == "2" and extras["cuda13"].ok is None


def test_the_simulator_steps():
    (check,) = doctor.check_simulator()
    assert check.ok and int(check.value.split()[0].replace(",", "")) > 100


def test_a_simulator_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(doctor, "STEP_TASK", "NoSuchTask-v0")
    (check,) = doctor.check_simulator()
    assert check.ok is False and "NoSuchTask" in check.value and "pip" in check.hint


@pytest.mark.parametrize(
    ("works", "names"),
    [
        ("egl", ["MUJOCO_GL", "rendering, egl"]),
        ("osmesa", ["MUJOCO_GL", "rendering, egl", "rendering, osmesa"]),
        ("", ["MUJOCO_GL", "rendering, egl", "rendering, osmesa", "videos"]),
    ],
)
def test_rendering_tries_one_way_after_the_other(monkeypatch, works, names):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    monkeypatch.setattr(
        doctor, "try_rendering", lambda way: "" if way == works else "no library"
    )
    checks = doctor.check_rendering()
    assert [check.name for check in checks] == names
    assert all(check.ok is not False for check in checks)
    assert checks[-1].hint.startswith(f"MUJOCO_GL={works}" if works else "needed only")


def test_a_chosen_way_of_rendering_is_the_only_one_tried(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    tried = []
    monkeypatch.setattr(doctor, "try_rendering", lambda way: tried.append(way) or "")
    assert doctor.check_rendering()[0].value == "osmesa"
    assert tried == ["osmesa"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("pass", ""),
        ("import no_such_module", "ModuleNotFoundError: No module named"),
        ("import os; os._exit(7)", "exit code 7"),
        ("import time; time.sleep(60)", "no answer in"),
        ("import os; assert os.environ['MUJOCO_GL'] == 'egl'", ""),
    ],
)
def test_a_failed_rendering_is_explained(monkeypatch, code, message):
    monkeypatch.setattr(doctor, "RENDER", code)
    monkeypatch.setattr(doctor, "RENDER_SECONDS", 1.0)
    found = doctor.try_rendering("egl")
    assert found.startswith(message) and bool(found) == bool(message)


def test_runs_can_be_written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (check,) = doctor.check_runs()
    assert check.ok and str(tmp_path) in check.value and not os.listdir(tmp_path)

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    (check,) = doctor.check_runs()
    assert check.ok is False and "Permission denied" in check.value


def test_devices_are_listed():
    checks = by_name(doctor.check_jax())
    assert "cpu" in checks["devices"].value and checks["load time"].ok
