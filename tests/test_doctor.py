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
    names = {"cuda12", "cuda13", "dm-control", "envpool", "hub", "judges", "onnx"}
    names |= {
        "jaspar",
        "ray",
        "share",
        "slurm",
        "sweep",
        "torch",
        "trackio",
        "video",
        "wandb",
    }
    assert names == extras.keys()
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


def rendering(monkeypatch, *works, chosen=None, encoder="1"):
    """What is said when these ways work."""
    if chosen:
        monkeypatch.setenv("MUJOCO_GL", chosen)
    else:
        monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(doctor, "installed", lambda package: encoder)
    monkeypatch.setattr(
        doctor, "attempt", lambda way: "" if way in works else "no library"
    )
    return doctor.check_rendering()


@pytest.mark.parametrize(
    ("works", "drawn"),
    [
        (("egl", "osmesa", "glfw"), "draws by egl"),
        (("glfw", "osmesa"), "draws by osmesa"),
        (("glfw",), "draws by glfw"),
        ((), "not possible here"),
    ],
)
def test_every_way_to_draw_is_tried_and_the_first_is_chosen(monkeypatch, works, drawn):
    chosen, *ways, videos = rendering(monkeypatch, *works)
    assert chosen.value == "not set" and drawn in videos.value
    assert [w.name for w in ways] == [f"rendering, {w}" for w in doctor.WAYS]
    for check in ways:
        way = check.name.removeprefix("rendering, ")
        if way in works:
            assert check.ok and check.value == "works" and not check.hint
        else:
            assert check.ok is None and check.value == "no library"
            assert check.hint == doctor.WAYS[way]
    assert videos.ok is (True if works else None)


def test_the_packages_of_a_distribution_are_named(monkeypatch):
    _, egl, osmesa, glfw, _ = rendering(monkeypatch)
    assert "apt install libegl1 libgl1-mesa-dri" in egl.hint
    assert "apt install libosmesa6" in osmesa.hint and "DISPLAY" in glfw.hint


def test_a_chosen_way_of_rendering_is_the_only_one_tried(monkeypatch):
    for works, ok in ((("egl", "osmesa"), True), (("egl",), None)):
        chosen, tried, videos = rendering(monkeypatch, *works, chosen="osmesa")
        assert chosen.value == "osmesa" and tried.name == "rendering, osmesa"
        assert tried.ok is videos.ok is ok
    assert tried.hint == "unset MUJOCO_GL"


def test_a_missing_encoder_comes_with_the_line_that_installs_it(monkeypatch):
    videos = rendering(monkeypatch, "egl", encoder=None)[-1]
    assert videos.ok is None and videos.hint == "pip install 'simpo[video]'"


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
