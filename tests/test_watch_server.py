"""The server of `simpo watch`, and the command that starts it."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection

import pytest

from simpo.cli import main
from simpo.plotting.style import PALETTE
from simpo.types import SimpoError
from simpo.watching.feed import Shelf
from simpo.watching.server import Server, page, requested_range
from watched import Written


@pytest.fixture
def run(tmp_path):
    return Written(tmp_path / "runs" / "a").go(4).evaluate()


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
