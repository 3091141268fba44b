"""A web page on this machine alone that shows runs while they go on.

GET /                    the page, one file, with a content security policy
GET /events              server-sent events, see `simpo.watching.feed`
GET /videos/<n>/<name>   a video of run n, whole or a range of it

The server listens on 127.0.0.1. It answers only where the browser was told `localhost`
or `127.0.0.1`, so a web site that makes its name point here (DNS rebinding) gets
nothing. A video is looked up by name among the files of the run's `videos` folder; no
path is ever made of what was asked for.
"""

import base64
import hashlib
import re
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from simpo.types import SimpoError
from simpo.watching.feed import Feed, Shelf, frame, videos

__all__ = ["Server", "requested_range"]

ADDRESS = "127.0.0.1"
HOST = re.compile(r"(localhost|127\.0\.0\.1)(:\d{1,5})?", re.IGNORECASE)
STREAMS = 32
"""Pages that may be open at once."""
SILENCE = 15.0
"""Seconds after which a page is told that there is nothing new."""
CHUNK = 1 << 18
"""Bytes of a video that are in memory at once."""


def page() -> tuple[bytes, str]:
    """The page, and the policy that lets it run its own script and nothing else."""
    text = files("simpo.watching").joinpath("page.html").read_text(encoding="utf-8")
    hashes = {}
    for tag in ("script", "style"):
        (part,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = hashlib.sha256(part.encode()).digest()
        hashes[tag] = f"'sha256-{base64.b64encode(digest).decode()}'"
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; "
        f"style-src {hashes['style']}; connect-src 'self'; media-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def requested_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of `bytes=a-b`, `bytes=a-` or `bytes=-n` of a file.

    None for whatever else, several ranges included: the whole file answers these.

    Raises:
        ValueError: The range lies outside of the file.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if not match or not any(match.groups()):
        return None
    first, last = (int(text) if text else None for text in match.groups())
    if first is None:
        first, last = max(0, size - (last or 0)), size - 1
    elif last is not None and last < first:
        return None
    last = size - 1 if last is None else min(last, size - 1)
    if first > last:
        raise ValueError(f"bytes {first} to {last} of {size}")
    return first, last


class Server(ThreadingHTTPServer):
    """The server of some runs; `serve_forever` serves, Ctrl-C ends it.

    Args:
        shelf: The runs.
        port: Where to listen; 0 for any free port.
        pause: Seconds between two looks at the runs.

    Raises:
        SimpoError: The port is out of range, in use or not allowed.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, shelf: Shelf, port: int, pause: float = 1.0) -> None:
        if not 0 <= port <= 65535:
            raise SimpoError(f"--port must be between 0 and 65535, not {port}")
        self.shelf, self.pause = shelf, pause
        self.page, self.policy = page()
        self.ending = threading.Event()
        self.streams = threading.BoundedSemaphore(STREAMS)
        try:
            ThreadingHTTPServer.__init__(self, (ADDRESS, port), Handler)
        except OSError as error:
            raise SimpoError(
                f"cannot listen on port {port}: {error.strerror}; --port 0 takes a "
                "free one"
            ) from None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://localhost:{self.server_address[1]}/"

    def serve(self) -> None:
        """Answer until Ctrl-C."""
        try:
            self.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass
        finally:
            self.ending.set()
            self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a page that was closed is no fault."""


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "simpo", ""
    timeout = 60.0
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        """Answer, if it was asked for by one of our names."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not HOST.fullmatch(hosts[0].strip()):
            return self.refuse(HTTPStatus.FORBIDDEN)
        path = urlsplit(self.path).path
        if path == "/":
            return self.whole(self.server.page, "text/html; charset=utf-8")
        if path == "/events" and self.command == "GET":
            return self.events()
        if match := re.fullmatch(r"/videos/(\d{1,6})/([^/]+)", path):
            return self.video(int(match[1]), unquote(match[2]))
        return self.refuse(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def head(self, status: HTTPStatus, kind: str, **headers: object) -> None:
        """Status and headers, those that keep other sites out included."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", self.server.policy)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def whole(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        """A short answer."""
        self.head(status, kind, Content_Length=len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: HTTPStatus) -> None:
        """An answer without content, after which the connection is closed."""
        self.close_connection = True
        self.whole(f"{status.phrase}\n".encode(), "text/plain", status)

    def events(self) -> None:
        """Events, until the page is closed or the server ends."""
        if not self.server.streams.acquire(blocking=False):
            return self.refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        self.close_connection = True
        try:
            self.head(HTTPStatus.OK, "text/event-stream", Connection="close")
            self.stream(Feed(self.server.shelf))
        except OSError:
            pass  # the page was closed
        finally:
            self.server.streams.release()
        return None

    def stream(self, feed: Feed) -> None:
        """Poll and send."""
        self.wfile.write(b"retry: 1000\n\n")
        sent = time.monotonic()
        while not self.server.ending.is_set():
            data = b"".join(frame(event) for event in feed.poll())
            if not data and time.monotonic() - sent > SILENCE:
                data = b": nothing new\n\n"
            if data:
                self.wfile.write(data)
                sent = time.monotonic()
            self.server.ending.wait(self.server.pause)

    def video(self, run: int, name: str) -> None:
        """A video of a run, by its name in the folder."""
        directories = self.server.shelf.search()
        found = videos(directories[run]) if run < len(directories) else {}
        if name not in found:
            return self.refuse(HTTPStatus.NOT_FOUND)
        try:
            return self.part(found[name])
        except FileNotFoundError:
            return self.refuse(HTTPStatus.NOT_FOUND)

    def part(self, path: Path) -> None:
        """A file, or the range of it that was asked for."""
        with path.open("rb") as file:
            size = file.seek(0, 2)
            status, extra = HTTPStatus.OK, {}
            try:
                span = requested_range(self.headers.get("Range", ""), size)
            except ValueError:
                return self.refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            if span:
                status = HTTPStatus.PARTIAL_CONTENT
                extra = {"Content_Range": f"bytes {span[0]}-{span[1]}/{size}"}
            first, last = span or (0, size - 1)
            length = last - first + 1
            self.head(
                status,
                "video/mp4",
                Accept_Ranges="bytes",
                Content_Length=length,
                **extra,
            )
            if self.command != "HEAD":
                file.seek(first)
                copy(file, self.wfile, length)
        return None


def copy(source: Any, target: Any, length: int) -> None:
    """Copy so many bytes."""
    while length > 0 and (data := source.read(min(length, CHUNK))):
        target.write(data)
        length -= len(data)
