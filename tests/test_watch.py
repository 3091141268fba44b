import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection

import pytest
from rich.console import Console

from simpo import runs
from simpo.cli import main
from simpo.loggers import CsvLogger, rewind
from simpo.plotting.curves import mean_interval
from simpo.plotting.style import PALETTE
from simpo.types import SimpoError
from simpo.watching.discovery import condition, expand
from simpo.watching.feed import Event, Feed, Shelf, frame
from simpo.watching.follow import Follower
from simpo.watching.server import Server, page, requested_range
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
    with runs.alone(run.directory):
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
            with runs.alone(run.directory):
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


# The server


@pytest.fixture
def served(run):
    server = Server(Shelf([run.directory.parent], pause=0.0), 0, pause=0.05)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.ending.set()
    server.shutdown()
    server.server_close()
    thread.join()


def get(server, path, method="GET", **headers):
    """Status, headers and body; the path is sent as it is."""
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        for one in value if isinstance(value, list) else [value]:
            connection.putheader(name, one)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_the_page_and_its_policy(served):
    status, headers, body = get(served, "/")
    assert status == 200 and body == page()[0]
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    status, headers, body = get(served, "/", "HEAD")
    assert status == 200 and int(headers["Content-Length"]) > 0 and body == b""


def test_the_page_loads_nothing_from_elsewhere_and_has_the_pictures_colours():
    text = page()[0].decode()
    assert set(re.findall(r"https?://[^\s'\"]+", text)) == {
        "http://www.w3.org/2000/svg"
    }
    assert "innerHTML" not in text and "insertAdjacentHTML" not in text
    colours = re.findall(r"--c\d: (?:light-dark\()?(#\w{6})", text)
    assert tuple(colours) == PALETTE


def test_it_listens_on_this_machine_alone(served):
    assert served.server_address[0] == "127.0.0.1"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", served.server_address[1]), 1).close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:99", 200),
        ("127.0.0.1:8642", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.nip.io:80", 403),
        ("127.0.0.1:80@evil.example", 403),
        ("0.0.0.0", 403),
        ("localhost:x", 403),
        ("", 403),
        (["localhost", "evil.example"], 403),
        ([], 403),
    ],
)
def test_only_our_own_names_are_answered(served, run, host, status):
    run.film()
    for path in ("/", "/videos/0/best.mp4"):
        assert get(served, path, Host=host)[0] == status


@pytest.mark.parametrize(
    "path",
    [
        "/videos/../../etc/passwd",
        "/videos/0/../config.json",
        "/videos/0/..%2fconfig.json",
        "/videos/0/%2e%2e%2fconfig.json",
        "/videos/0/%252e%252e%252fconfig.json",
        "/videos/0/..%5cconfig.json",
        "/videos/0//etc/passwd",
        "/videos/0/%2fetc%2fpasswd",
        "/videos/0/link.mp4",
        "/videos/0/folder.mp4",
        "/videos/0/notes.txt",
        "/videos/0/best.mp4%00",
        "/videos/1/best.mp4",
        "/videos/-1/best.mp4",
        "/videos/00000000000/best.mp4",
        "/videos/0/",
        "/../../../../etc/passwd",
        "//etc/passwd",
        "http://localhost/etc/passwd",
        "/config.json",
        "/events/",
        "/favicon.ico",
    ],
)
def test_nothing_but_videos_can_be_had(served, run, path):
    folder = run.film().directory / "videos"
    (folder / "link.mp4").symlink_to(run.directory / "config.json")
    (folder / "folder.mp4").mkdir()
    (folder / "notes.txt").write_text("mine")
    assert get(served, "/videos/0/best.mp4")[0] == 200
    status, _, body = get(served, path)
    assert (status, body) == (404, b"Not Found\n")


def test_other_methods_are_refused(served):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert get(served, "/", method)[0] == 501


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-", (0, 99)),
        ("bytes=10-19", (10, 19)),
        ("bytes=90-500", (90, 99)),
        ("bytes=-10", (90, 99)),
        ("bytes=-500", (0, 99)),
        ("", None),
        ("bytes=-", None),
        ("bytes=5-2", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
    ],
)
def test_ranges(header, span):
    assert requested_range(header, 100) == span


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=-0", f"bytes={'9' * 5000}-"])
def test_ranges_outside_of_the_file(header):
    with pytest.raises(ValueError):
        requested_range(header, 100)


def test_a_video_can_be_had_in_parts(served, run):
    name, data = "a video, the 2nd.mp4", bytes(range(256)) * 4
    run.film(name, data)
    url = "/videos/0/a%20video%2C%20the%202nd.mp4?at=1.5"
    status, headers, body = get(served, url)
    assert (status, body) == (200, data)
    assert (
        headers["Content-Type"] == "video/mp4" and headers["Accept-Ranges"] == "bytes"
    )
    status, headers, body = get(served, url, Range="bytes=3-9")
    assert (status, body) == (206, data[3:10])
    assert headers["Content-Range"] == f"bytes 3-9/{len(data)}"
    assert get(served, url, Range="bytes=9999-")[0] == 416
    assert get(served, url, "HEAD")[2] == b""


def stream(server):
    """An open stream of events, read event by event."""
    connection = socket.create_connection(server.server_address, 10)
    connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return connection, connection.makefile("rb")


def told(file, kind):
    """The next event of a kind."""
    while line := file.readline():
        if line == f"event: {kind}\n".encode():
            return json.loads(file.readline().removeprefix(b"data: "))
    return None


def test_events_come_as_they_happen(served, run):
    connection, file = stream(served)
    with connection, file:
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"
        assert told(file, "progress")["rows"][-1][0] == 2000
        run.go()
        added = told(file, "progress")
        assert [row[0] for row in added["rows"]] == [2500] and not added["fresh"]
        late = Written(run.directory.parent / "b")
        assert told(file, "run")["directory"] == str(late.directory)
        served.ending.set()
        assert told(file, "never") is None  # the stream ends with the server


def test_a_page_that_is_closed_frees_its_place(served, run, monkeypatch):
    served.streams = threading.BoundedSemaphore(1)
    connection, file = stream(served)
    told(file, "videos")
    assert get(served, "/events")[0] == 503
    file.close()
    connection.close()
    end = time.monotonic() + 10
    while not served.streams.acquire(blocking=False):
        run.go()  # something to tell
        time.sleep(0.05)
        assert time.monotonic() < end


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


# The command


@pytest.fixture
def refused(capfd):
    def check(argv, message):
        assert main(["watch", *map(str, argv)]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.startswith("simpo: error: ") and err.count("\n") == 1
        assert message in err, err

    return check


def test_mistakes_get_one_line(refused, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "text").write_text("")
    refused([tmp_path / "nothing"], "nothing does not exist")
    refused([run.directory, "text"], "text is not a run directory, and holds none")
    refused(["other", "--terminal"], "other is not a run directory, and holds none")
    for port in (-1, 65536, 99999999999):
        refused([run.directory, "--port", port], "--port must be between 0 and 65535")
    refused([run.directory, "--port", "x"], "--port")
    refused([run.directory, "--host", "0.0.0.0"], "unknown option '--host'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused([run.directory, "--port", port], f"cannot listen on port {port}: Addr")
    run.directory.parent.rename(tmp_path / "elsewhere")
    refused([], "which run? simpo watch RUN")


def test_the_command_serves_until_ctrl_c(run, monkeypatch, capfd):
    def interrupted(self, poll_interval):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    monkeypatch.chdir(run.directory.parent.parent)
    assert main(["watch", "--port", "0"]) == 0
    first, second = capfd.readouterr().out.splitlines()
    assert re.fullmatch(r"watching 1 run: http://localhost:\d+/", first)
    assert second == "Ctrl-C ends it"


def test_the_table_by_command(run, capfd):
    assert main(["watch", str(run.directory), "--terminal"]) == 0
    assert "died" in capfd.readouterr().out


def test_watching_loads_no_jax():
    code = (
        "import sys, simpo.watching.server, simpo.watching.table\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_path_that_is_no_folder_is_a_mistake(tmp_path):
    with pytest.raises(SimpoError, match="does not exist"):
        Shelf([tmp_path / "x"])
