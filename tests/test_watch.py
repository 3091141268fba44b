import io
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from simpo import directories
from simpo.loggers import CsvLogger, rewind
from simpo.plotting.curves import mean_interval
from simpo.watching.discovery import condition, expand
from simpo.watching.feed import Event, Feed, Shelf, frame
from simpo.watching.follow import Follower
from simpo.watching.table import look, runs_table, show
from simpo.watching.tail import Added, Tail
from watched import LEVEL, Written


@pytest.fixture
def run(tmp_path):
    return Written(tmp_path / "runs" / "a").go(4).evaluate()


def listing(folder):
    paths = sorted(folder.rglob("*"))
    return [(p, p.stat().st_mtime_ns, p.stat().st_size) for p in paths]


# Files that grow


def test_only_what_was_added_is_read(tmp_path):
    tail = Tail(tmp_path / "t.csv")
    assert not tail.read() and tail.read() == Added(False, (), ())
    tail.path.write_text("step,a\n1,2\n")
    assert tail.read() == Added(False, ("step", "a"), (("1", "2"),))
    assert not tail.read()
    with tail.path.open("a") as file:
        file.write('2,"x, ""y"""\n3,4\n')
    assert tail.read().rows == (("2", 'x, "y"'), ("3", "4"))


def test_a_line_that_is_cut_off_waits_for_its_end(tmp_path):
    tail, text = Tail(tmp_path / "t.csv"), "step,a\n1,0.25\n2,0.5\n"
    rows = []
    for end in range(len(text) + 1):
        tail.path.write_text(text[:end])
        rows += tail.read().rows
    assert rows == [("1", "0.25"), ("2", "0.5")]


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    logger, tail = CsvLogger(tmp_path), Tail(tmp_path / "progress.csv")
    for step in range(4):
        logger.log(step, {"a": step})
    assert len(tail.read().rows) == 4
    logger.log(4, {"a": 4, "b": 5})  # a column more
    again = tail.read()
    assert again.fresh and again.columns == ("step", "a", "b")
    assert again.rows[0] == ("0", "0", "")
    assert len(again.rows) == 5 and not tail.read()


def test_a_run_taken_back_is_read_anew_even_if_it_is_longer_by_then(tmp_path):
    logger, tail = CsvLogger(tmp_path), Tail(tmp_path / "progress.csv")
    logger.log(1, {"a": 1})
    positions = logger.positions()
    for step in (2, 3):
        logger.log(step, {"a": 1})
    assert len(tail.read().rows) == 3
    rewind(tmp_path, positions)
    again = CsvLogger(tmp_path)
    for step in range(2, 9):
        again.log(step, {"a": 2})
    added = tail.read()
    assert added.fresh and [row[1] for row in added.rows] == ["1"] + ["2"] * 7


def test_a_file_written_over_in_place_is_read_anew(tmp_path):
    tail = Tail(tmp_path / "t.csv")
    tail.path.write_text("step,a\n1,2\n")
    tail.read()
    tail.path.write_text("step,a\n1,3\n2,4\n")
    assert tail.read() == Added(True, ("step", "a"), (("1", "3"), ("2", "4")))


def test_a_file_that_vanishes_voids_what_it_told(tmp_path):
    tail = Tail(tmp_path / "t.csv")
    tail.path.write_text("step\n1\n")
    tail.read()
    tail.path.unlink()
    assert tail.read() == Added(True, (), ()) and not tail.read()
    tail.path.write_text("step\n7\n")
    assert tail.read().rows == (("7",),)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00\n" * 9, b'"' * 200_000 + b"\n"])
def test_what_is_no_table_is_no_fault(tmp_path, data):
    tail = Tail(tmp_path / "t.csv")
    tail.path.write_bytes(data)
    tail.read()
    assert not tail.read()


def test_rows_of_another_width_are_left_out(tmp_path):
    tail = Tail(tmp_path / "t.csv")
    tail.path.write_text("step,a\n1\n2,3\n4,5,6\n")
    assert tail.read().rows == (("2", "3"),)


# Which runs, and how they stand


def test_folders_are_searched_for_runs(tmp_path):
    for name in ("b/x", "a/y", "a/x"):
        Written(tmp_path / "runs" / name)
    policy = tmp_path / "runs" / "a" / "x" / "policy"
    policy.mkdir()
    (policy / "config.json").write_text('{"env": "Hopper-v5", "agent": {}}')
    found = [tmp_path / "runs" / name for name in ("a/x", "a/y", "b/x")]
    assert expand([tmp_path]) == found
    assert expand([found[2], tmp_path / "runs", found[2]]) == [found[2], *found[:2]]


def test_a_run_that_appears_later_is_found(tmp_path):
    shelf = Shelf([tmp_path], pause=0.0)
    assert shelf.search() == []
    late = [Written(tmp_path / name).directory for name in ("b", "a")][::-1]
    assert shelf.search() == late
    first = Written(tmp_path / "0").directory
    assert shelf.search() == [*late, first]  # numbers never change


def test_states_follow_the_lock(run, tmp_path):
    def state():
        return condition(run.directory).state

    assert state() == "died"
    assert "simpo resume" in condition(run.directory).reason
    with directories.alone(run.directory):
        assert state() == "running"
        run.status("stopped")  # it is taken up again
        assert state() == "starting"
    assert state() == "stopped"
    run.status("failed", reason="a fault")
    assert condition(run.directory) == ("failed", 2000, "a fault")
    run.status("done")
    assert state() == "done"
    (run.directory / "status.json").write_text('{"sta')
    old = time.time() - 60
    os.utime(run.directory, (old, old))
    assert state() == "died"
    (tmp_path / "new").mkdir()
    assert condition(tmp_path / "new").state == "waiting"
    assert condition(tmp_path / "none").state == "gone"


def test_looking_never_keeps_a_run_from_starting(run):
    ending = threading.Event()

    def stare():
        while not ending.is_set():
            condition(run.directory)

    watcher = threading.Thread(target=stare)
    watcher.start()
    try:
        for _ in range(100):
            with directories.alone(run.directory):
                pass
    finally:
        ending.set()
        watcher.join()


def test_a_process_that_was_killed_is_seen(run):
    code = (
        "import sys, time; from pathlib import Path; from watched import Written\n"
        "run = Written.__new__(Written); run.directory = Path(sys.argv[1])\n"
        "run.hold(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, run.directory],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout.readline() == "held\n"
        assert condition(run.directory).state == "running"
        process.kill()
    assert condition(run.directory).state == "died"


# One run, followed


def test_a_run_is_followed(run):
    follower = Follower(run.directory)
    follower.look()
    held = run.hold()
    run.go(4)
    follower.look()
    os.close(held)
    assert follower.step == 4000 and follower.sampler == "single"
    assert follower.speed == pytest.approx(100) and follower.left == pytest.approx(60)
    assert follower.training == [50.0 * i for i in range(1, 9)]
    run.status("done")
    follower.look()
    assert follower.left is None


def test_scores_have_the_interval_of_the_pictures(run):
    follower = Follower(run.directory)
    follower.look()
    for sampler, level in LEVEL.items():
        score = follower.scores[2000.0, sampler]
        interval = mean_interval(level * (2000 + run.rng.permutation(4)))
        assert score[2:] == pytest.approx((*interval, 4))
    run.go().evaluate(episodes=1)
    new = follower.look().scores
    assert [(s.step, s.low, s.episodes) for s in new] == [(2500, None, 1)] * 2


# What a page is told


def poll(feed):
    events = list(feed.poll())
    assert all(frame(event) for event in events)
    return events


def test_each_change_is_told_once(run):
    run.weigh().film()
    feed = Feed(Shelf([run.directory]))
    kinds = [event.kind for event in poll(feed)]
    assert kinds == [
        "begin",
        "run",
        "status",
        "progress",
        "scores",
        "candidates",
        "videos",
    ]
    assert poll(feed) == []
    run.go()
    assert [event.kind for event in poll(feed)] == ["status", "progress"]
    run.evaluate()
    (event,) = poll(feed)
    assert [row.step for row in event.data["rows"]] == [2500, 2500]
    run.film("newer.mp4")
    (event,) = poll(feed)
    assert {name for name, _ in event.data["names"]} == {"best.mp4", "newer.mp4"}


def test_what_is_not_finite_is_sent_as_nothing(run):
    run.logger.log(2500, {"train/q_mean": float("nan"), "updates": float("inf")})
    events = poll(Feed(Shelf([run.directory])))
    (progress,) = [event.data for event in events if event.kind == "progress"]
    last = dict(zip(progress["columns"], progress["rows"][-1], strict=True))
    assert last["step"] == 2500 and last["train/q_mean"] is last["updates"] is None


def test_damaged_candidates_are_told_as_none(run):
    (run.directory / "candidates.csv").write_text("state,q,weight\n0,nan,1\n")
    events = {event.kind: event.data for event in poll(Feed(Shelf([run.directory])))}
    assert events["candidates"]["q"] == []


def test_a_frame_is_one_event_whatever_is_in_it():
    data = {"label": "a\n\ndata: b\r\nevent: c\u2028</script>"}
    lines = frame(Event("run", data)).decode().split("\n")
    assert [line.partition(":")[0] for line in lines] == ["event", "data", "", ""]
    assert json.loads(lines[1].removeprefix("data: ")) == data
    with pytest.raises(ValueError, match="JSON"):
        frame(Event("run", {"x": float("nan")}))


def test_watching_writes_nothing(run, tmp_path):
    run.weigh().film()
    before = listing(tmp_path)
    list(Feed(Shelf([tmp_path])).poll())
    show(Shelf([tmp_path]), Console(file=io.StringIO()))
    assert listing(tmp_path) == before


# In the terminal


def test_the_table_shows_every_run(tmp_path):
    going = Written(tmp_path / "going", label="[b]bold", seed=3).go(8).evaluate()
    Written(tmp_path / "dead").go(3)
    Written(tmp_path / "failed").status("failed", reason="[red]q is nan")
    held = going.hold()
    soon = time.time() + 60
    os.utime(going.directory / "timing.csv", (soon, soon))  # a row came just now
    text = io.StringIO()
    show(Shelf([tmp_path]), Console(file=text))
    os.close(held)
    lines = text.getvalue().splitlines()
    assert lines[1].split()[:5] == ["[b]bold", "Hopper-v5", "3", "running", "4k/10k"]
    assert "1 min 00 s" in lines[1] and "4,002" in lines[1] and "▁▂▃▄▅▆▇█" in lines[1]
    assert lines[2].split()[3:5] == ["died", "1.5k/10k"] and " 150 " in lines[2]
    assert lines[4].startswith("SiMPO, dead: its process is gone")
    assert lines[5] == "SiMPO, failed: [red]q is nan"
    assert all(c.isprintable() or c == "\n" for c in text.getvalue())


def test_the_table_goes_on_until_it_is_ended(tmp_path, monkeypatch):
    run, pauses = Written(tmp_path / "a").go(2), []

    def sleep(pause):
        pauses.append(pause)
        run.go(2)
        Written(tmp_path / f"new{len(pauses)}")
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("simpo.watching.table.time.sleep", sleep)
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=30)
    show(Shelf([tmp_path], pause=0.0), console)
    shown = console.file.getvalue()
    assert all(f" {step}k/10k" in shown for step in (1, 2, 3))
    assert shown.count("SiMPO") >= 1 + 2 + 3


def test_nothing_yet_is_said(tmp_path):
    console = Console(file=io.StringIO())
    console.print(runs_table(look(Shelf([tmp_path]), [])))
    assert console.file.getvalue() == "waiting for a run\n"
