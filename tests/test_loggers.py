import csv
import io
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from simpo.loggers import (
    CsvLogger,
    Logger,
    MultiLogger,
    ProgressBar,
    Table,
    TensorBoardLogger,
    thousands,
)
from simpo.types import SimpoError

EPISODES = [
    {"sampler": s, "episode": e, "return_": 100.0 * k + e, "length": 10 + e}
    for k, s in enumerate(("single", "best-of-10"), 1)
    for e in range(3)
]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_go_to_progress_and_time_goes_apart(tmp_path):
    logger = CsvLogger(tmp_path)
    logger.log(1000, {"updates": 7, "rollout/ep_rew_mean": 1.5, "time/fps": 9.0})
    logger.log(2000, {"updates": 9, "rollout/ep_rew_mean": 2.5, "time/fps": 8.0})
    logger.close()
    assert (tmp_path / "progress.csv").read_text() == (
        "step,updates,rollout/ep_rew_mean\n1000,7,1.5\n2000,9,2.5\n"
    )
    assert (tmp_path / "timing.csv").read_text() == (
        "step,time/fps\n1000,9.0\n2000,8.0\n"
    )


def test_a_row_per_episode(tmp_path):
    CsvLogger(tmp_path).log_episodes(500, EPISODES)
    lines = (tmp_path / "evaluations.csv").read_text().splitlines()
    assert lines[0] == "step,sampler,episode,return,length"
    assert lines[1] == "500,single,0,100.0,10"
    assert lines[-1] == "500,best-of-10,2,202.0,12"
    assert len(lines) == 7


def test_what_episodes_do_not_have_gets_no_column(tmp_path):
    logger = CsvLogger(tmp_path)
    path = tmp_path / "evaluations.csv"
    logger.log_episodes(500, [row | {"speed": None} for row in EPISODES])
    assert path.read_text().startswith("step,sampler,episode,return,length\n")
    logger.log_episodes(600, [row | {"speed": 1.5} for row in EPISODES[:1]])
    lines = path.read_text().splitlines()
    assert lines[0] == "step,sampler,episode,return,length,speed"
    assert lines[1] == "500,single,0,100.0,10,"
    assert lines[-1] == "600,single,0,100.0,10,1.5"


def test_what_is_not_there_is_an_empty_cell(tmp_path):
    logger = CsvLogger(tmp_path)
    logger.log(1, {"a": 1.0, "b": 2.0})
    logger.log(2, {"b": 3.0})
    assert (tmp_path / "progress.csv").read_text() == "step,a,b\n1,1.0,2.0\n2,,3.0\n"


def test_a_metric_that_comes_later_adds_a_column(tmp_path):
    logger = CsvLogger(tmp_path)
    logger.log(1, {"a": 0.1})
    logger.log(2, {"c": 3.0, "a": 0.2, "b": 2.0})
    logger.log(3, {"b": 4.0})
    assert (tmp_path / "progress.csv").read_text() == (
        "step,a,c,b\n1,0.1,,\n2,0.2,3.0,2.0\n3,,,4.0\n"
    )
    assert os.listdir(tmp_path) == ["progress.csv"]


@given(st.lists(st.floats(), min_size=1, max_size=5))
def test_floats_are_read_back_exactly(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    Table(path).append([{"step": i, "x": v} for i, v in enumerate(values)])
    for row, value in zip(rows(path), values, strict=True):
        np.testing.assert_equal(float(row["x"]), value)


def test_numbers_of_numpy_are_written_like_others(tmp_path):
    CsvLogger(tmp_path).log(
        np.int64(3), {"a": np.float32(0.5), "b": np.int32(4), "c": np.float64(0.1)}
    )
    assert (tmp_path / "progress.csv").read_text() == "step,a,b,c\n3,0.5,4,0.1\n"


def test_names_with_commas_and_quotes_survive(tmp_path):
    row = EPISODES[0] | {"sampler": 'a, "b"'}
    CsvLogger(tmp_path).log_episodes(1, [row])
    assert rows(tmp_path / "evaluations.csv")[0]["sampler"] == 'a, "b"'


def test_equal_runs_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        logger, rng = CsvLogger(tmp_path / name), np.random.default_rng(0)
        for step in range(5):
            logger.log(step, {"x": rng.normal(), "time/fps": time.perf_counter()})
            logger.log_episodes(step, EPISODES)
    for name in ("progress.csv", "evaluations.csv"):
        a, b = (tmp_path / run / name for run in ("a", "b"))
        assert a.read_bytes() == b.read_bytes()


def test_files_are_continued(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    logger = CsvLogger(whole)
    for step in range(4):
        metrics = {"a": step / 3} | ({"b": 1.0} if step > 2 else {})
        logger.log(step, metrics)
        logger.log_episodes(step, EPISODES)
        again = CsvLogger(parts)
        again.log(step, metrics)
        again.log_episodes(step, EPISODES)
    for name in ("progress.csv", "evaluations.csv"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1000,0.5\n", "line 1 is not its header"),
        ("", "line 1 is not its header"),
        ("step,a,a\n", "line 1 is not its header"),
        ("step,a\n1,2.0\n2,3", "line 3 is cut off"),
    ],
)
def test_files_that_cannot_be_continued_are_left_alone(tmp_path, content, message):
    path = tmp_path / "progress.csv"
    path.write_text(content)
    with pytest.raises(SimpoError, match=message):
        CsvLogger(tmp_path)
    assert path.read_text() == content


def test_a_killed_run_keeps_what_it_logged(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from simpo.loggers import CsvLogger\n"
        "logger = CsvLogger(Path(sys.argv[1]))\n"
        "for i in range(3): logger.log(i, {'a': i / 7})\n"
        "print('logged', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "logged\n"
        process.send_signal(signal.SIGKILL)
    assert [float(r["a"]) for r in rows(tmp_path / "progress.csv")] == [0, 1 / 7, 2 / 7]


class Recorder(Logger):
    def __init__(self):
        self.calls = []

    def log(self, step, metrics):
        self.calls.append((step, metrics))

    def log_episodes(self, step, rows):
        self.calls.append((step, rows))

    def close(self):
        self.calls.append("closed")


def test_several_loggers_get_everything():
    loggers = Recorder(), Recorder()
    together = MultiLogger(*loggers)
    together.log(1, {"a": 1.0})
    together.log_episodes(2, EPISODES)
    together.close()
    expected = [(1, {"a": 1.0}), (2, EPISODES), "closed"]
    assert [logger.calls for logger in loggers] == [expected, expected]


# TensorBoard


def events(directory):
    """(tag, step) -> value of every scalar in the event files."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in directory.iterdir():
        data, position = path.read_bytes(), 0
        while position < len(data):  # a record: length, checksum, message, checksum
            length = int.from_bytes(data[position : position + 8], "little")
            event = Event.FromString(data[position + 12 : position + 12 + length])
            position += length + 16
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_tensorboard_gets_metrics_aliases_and_evaluations(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log(10, {"rollout/ep_rew_mean": 5.0, "time/fps": 7.0, "train/q_mean": 2.0})
    logger.log_episodes(20, EPISODES)
    logger.close()
    assert events(tmp_path) == {
        ("rollout/ep_rew_mean", 10): 5.0,
        ("time/fps", 10): 7.0,
        ("train/q_mean", 10): 2.0,
        ("charts/episodic_return", 10): 5.0,
        ("charts/SPS", 10): 7.0,
        ("eval/mean_reward", 20): 101.0,
        ("eval/mean_ep_length", 20): 11.0,
        ("eval_best-of-10/mean_reward", 20): 201.0,
        ("eval_best-of-10/mean_ep_length", 20): 11.0,
    }


def test_tensorboard_gets_speeds_where_all_episodes_have_them(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    speeds = (1.0, 2.0, 6.0, 1.0, 2.0, None)
    rows = [row | {"speed": v} for row, v in zip(EPISODES, speeds, strict=True)]
    logger.log_episodes(20, rows)
    logger.close()
    found = {tag: v for (tag, _), v in events(tmp_path).items() if "speed" in tag}
    assert found == {"eval/mean_speed": 3.0}


# Progress bar


def terminal(width=80, **options):
    return Console(file=io.StringIO(), force_terminal=True, width=width, **options)


def row(step, seconds, value=1234.5):
    rate = {"time/updates_per_second": 9.0}
    return step, {"rollout/ep_rew_mean": value, "time/elapsed": seconds, **rate}


def watch(console, **options):
    bar = ProgressBar(100_000, console, **options)
    bar.phase("evaluating")
    bar.log_episodes(0, EPISODES)
    bar.phase("training")
    bar.log(*row(10_000, 10.0, 1000.0))
    bar.log(*row(20_000, 30.0))
    bar.close()
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_shows_steps_speed_time_left_and_returns(width):
    shown = watch(terminal(width, color_system=None))
    upper, lower = [line for line in shown.splitlines() if "━" in line or "▁" in line][
        -2:
    ]
    for text in ("training", "20k/100k", "500/s", "2 min 40 s left"):
        assert text in upper, text
    for text in ("return 1,234 ▁█", "single 101 ▁"):
        assert text in lower, text
    assert "…" not in shown and max(map(len, (upper, lower))) <= width + 20


def test_time_left_runs_down_between_rows(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("simpo.loggers.time.monotonic", lambda: now[0])
    bar = ProgressBar(100_000, Console(file=io.StringIO()))
    bar.log(*row(10_000, 10.0))
    bar.log(*row(20_000, 30.0))
    for seconds, left in ((0, "2 min 40 s"), (60, "1 min 40 s"), (1000, "0 s")):
        now[0] = 100.0 + seconds
        assert bar.pace() == f"20k/100k  500/s  {left} left"


def test_time_left_is_not_guessed_from_warm_up():
    bar = ProgressBar(100_000, Console(file=io.StringIO()))
    for step in (1000, 2000, 3000):
        fast = {"time/elapsed": step / 1e6, "time/updates_per_second": 0.0}
        bar.log(step, fast)
    assert bar.pace() == "3k/100k"
    bar.log(*row(4000, 10.0))  # compiled
    assert bar.pace() == "4k/100k"
    bar.log(*row(5000, 20.0))
    assert bar.pace() == "5k/100k  100/s  15 min 50 s left"


def test_an_evaluation_leaves_a_line_with_every_sampler():
    shown = watch(terminal(color_system=None))
    assert "0 steps   evaluation return   single 101   best-of-10 201\n" in shown


def test_a_file_gets_plain_lines_now_and_then():
    shown = watch(Console(file=io.StringIO()), pause=0.0)
    assert shown.splitlines() == [
        "training  10k/100k  return 1,000  single 101",
        "training  20k/100k  500/s  2 min 40 s left  return 1,234  single 101",
    ]
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert watch(Console(file=io.StringIO())) == ""  # not in the first half minute


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in watch(terminal(), pause=0.0)


def test_nobody_who_reads_is_no_reason_to_fail():
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    bar = ProgressBar(10, Console(file=Closed()), pause=0.0)
    bar.log(*row(5, 1.0))
    assert bar.step == 5


def test_nothing_is_printed_where_there_is_no_terminal(capfd):
    bar = ProgressBar(10)
    bar.log(5, {"rollout/ep_rew_mean": 1.0})
    bar.log_episodes(5, EPISODES)
    bar.close()
    assert capfd.readouterr() == ("", "")


def test_no_color_is_respected(monkeypatch):
    colored = r"\x1b\[(1;)?(3[0-8]|9[0-7])"
    assert re.search(colored, watch(terminal(color_system="256")))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(colored, watch(terminal(color_system="256")))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.05, "0.05"), (999, "999"), (20_000, "20k"), (1_500_000, "1.5M")],
)
def test_large_numbers_are_short(number, text):
    assert thousands(number) == text
    assert number == 0 or thousands(-number) == f"-{text}"
