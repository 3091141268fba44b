"""What a report says of the machines that made its runs."""

import pytest

from simpo.checkpoint import write_json
from simpo.directories import describe_machine, processor
from simpo.experiments.machines import machines


def made(folder, seconds, **machine):
    """A run directory with a machine and a duration."""
    folder.mkdir()
    write_json(folder / "env.json", machine)
    rows = "".join(f"{step},{step * seconds / 2}\n" for step in (1, 2))
    (folder / "timing.csv").write_text(f"step,time/elapsed\n{rows}")
    return folder


def test_runs_are_counted_by_machine_with_the_range_of_their_minutes(tmp_path):
    fast = {
        "processor": "Xeon",
        "devices": ["cpu:0"],
        "python": "3.12.3",
        "packages": {"jax": "0.11.2", "mujoco": "4.0.0"},
    }
    runs = [made(tmp_path / str(i), 60 * i, **fast) for i in (2, 3, 5)]
    slow = fast | {"processor": "EPYC"}
    runs.insert(1, made(tmp_path / "slow", 90, **slow))
    assert machines(runs) == [
        "3 runs: Xeon, cpu:0, Python 3.12.3, JAX 0.11.2, MuJoCo 4.0.0; "
        "2.0 to 5.0 minutes each",
        "1 run: EPYC, cpu:0, Python 3.12.3, JAX 0.11.2, MuJoCo 4.0.0; 1.5 minutes each",
    ]


def test_a_run_of_before_names_its_platform(tmp_path):
    (line,) = machines([made(tmp_path / "old", 60, platform="Linux-6")])
    assert line.startswith("1 run: Linux-6, ")


def test_runs_of_less_than_a_minute_are_told_in_seconds(tmp_path):
    runs = [made(tmp_path / str(i), i, platform="Linux-6") for i in (4, 9)]
    assert machines(runs)[0].endswith("; 4 to 9 seconds each")


def test_nothing_is_said_of_times_that_are_not_known(tmp_path):
    directory = made(tmp_path / "run", 60, platform="Linux-6")
    (directory / "timing.csv").unlink()
    (line,) = machines([directory])
    assert line.endswith("MuJoCo ?")


def test_a_machine_names_its_processor():
    assert describe_machine()["processor"] == processor() != ""


@pytest.mark.parametrize("text", ["", "flags : fpu\n"])
def test_a_system_that_does_not_tell_still_has_a_name(monkeypatch, text, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr("simpo.directories.CPUINFO", tmp_path / "cpuinfo")
    assert processor()
