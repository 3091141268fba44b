"""A headless Chromium, spoken to over two pipes by the DevTools protocol.

No package is needed for that: messages are JSON, each ended by a zero byte, on file
descriptors 3 and 4 of the browser (`--remote-debugging-pipe`).
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time

NAMES = "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)


def find():
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page of a browser of its own."""

    def __init__(self, folder, *flags):
        ours, theirs = os.pipe(), os.pipe()  # what we say, what it says
        start = f'exec 3<&{ours[0]} 4>&{theirs[1]}; exec "$@"'
        words = [find(), *FLAGS, f"--user-data-dir={folder}", *flags, "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", start, "bash", *words],
            pass_fds=(ours[0], theirs[1]),
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self.out, self.into = ours[1], theirs[0]
        self.number, self.data, self.events = 0, b"", []
        self.session = None
        targets = self.call("Target.getTargets")["targetInfos"]
        (target,) = [t["targetId"] for t in targets if t["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.out)  # the browser ends when its pipe does
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.into)

    def call(self, method, **params):
        """A command's result; events that come before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive(60)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self, seconds):
        while b"\0" not in self.data:
            assert select.select([self.into], [], [], seconds)[0], "no answer"
            data = os.read(self.into, 1 << 20)
            assert data, "the browser has ended"
            self.data += data
        message, _, self.data = self.data.partition(b"\0")
        return json.loads(message)

    def go(self, url):
        self.call("Page.navigate", url=url)

    def ask(self, expression):
        """The value of a JavaScript expression."""
        result = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression, seconds=30):
        """Wait until an expression is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.ask(expression)):
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(0.1)
        return value

    def complaints(self):
        """What went to the console, and exceptions that nobody caught."""
        self.ask("1")
        kinds = "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"
        return [e for e in self.events if e.get("method") in kinds]

    def look(self, path, width=1400, height=1000, dark=False):
        """Take a picture of the page."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = "dark" if dark else "light"
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.ask("new Promise(done => setTimeout(done, 600))")
        shot = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))
