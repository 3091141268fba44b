import os
import subprocess
import sys

import pytest

from simpo import rendering
from simpo.rendering import Choice, attempt, choose, gist, ignore_unknown, ways
from simpo.types import SimpoWarning


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")


def test_without_a_wish_all_ways_are_tried_on_linux_and_the_own_one_elsewhere(
    monkeypatch,
):
    assert ways() == ["egl", "osmesa", "glfw"]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert ways() == [""]
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert ways() == ["glfw"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("pass", ""),
        ("import no_such_module", "ModuleNotFoundError: No module named"),
        ("import os; os._exit(7)", "exit code 7"),
        ("import os; os.abort()", "killed by signal 6"),
        ("import os; assert os.environ['MUJOCO_GL'] == 'egl'", ""),
        ("import tiny_module_of_this_test", ""),
    ],
)
def test_a_failed_rendering_is_explained(monkeypatch, tmp_path, code, message):
    (tmp_path / "tiny_module_of_this_test.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = attempt("egl", ("-c", code))
    assert found.startswith(message) and bool(found) == bool(message)


def test_a_rendering_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(rendering, "SECONDS", 0.5)
    assert attempt("egl", ("-c", "input_ = 1\nwhile True: pass")) == "no answer in 0 s"


def test_the_systems_own_way_is_chosen_by_no_variable():
    code = "import os; assert 'MUJOCO_GL' not in os.environ"
    assert attempt("", ("-c", code)) == ""


@pytest.mark.parametrize(
    ("works", "expected"),
    [
        ("egl", Choice("egl", {})),
        ("osmesa", Choice("osmesa", {"egl": "no egl"})),
        ("", Choice(None, {w: f"no {w}" for w in ("egl", "osmesa", "glfw")})),
    ],
)
def test_the_first_way_that_works_is_chosen(monkeypatch, works, expected):
    def stub(way, program):
        assert program == ("x",)
        return "" if way == works else f"no {way}"

    monkeypatch.setattr(rendering, "attempt", stub)
    assert choose(("x",)) == expected


def test_a_reason_is_told_once():
    assert Choice(None, {"egl": "a", "osmesa": "a"}).reason == "a"
    assert Choice(None, {"egl": "a", "osmesa": "b", "glfw": "a"}).reason == (
        "egl, glfw: a; osmesa: b"
    )


def test_the_gist_is_the_last_exception():
    text = "Traceback\n  File x\nKeyError: 1\nmore\nimport_.Error: two\n  three\n"
    assert gist(text, 1) == "import_.Error: two"
    assert gist("Segmentation fault", -11) == "killed by signal 11"


@pytest.mark.parametrize("value", ["egl", "osmesa", "glfw", "disabled", "1", ""])
def test_what_mujoco_knows_is_left_alone(monkeypatch, value):
    monkeypatch.setenv("MUJOCO_GL", value)
    ignore_unknown()
    assert os.environ["MUJOCO_GL"] == value


def test_what_mujoco_cannot_be_imported_with_is_dropped(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.warns(SimpoWarning, match="MUJOCO_GL=vulkan is ignored"):
        ignore_unknown()
    assert "MUJOCO_GL" not in os.environ


def test_choosing_loads_nothing_heavy():
    code = (
        "import sys, simpo.rendering\n"
        "assert not {'jax', 'numpy', 'mujoco', 'gymnasium'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
