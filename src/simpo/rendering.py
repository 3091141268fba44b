"""How MuJoCo can draw where there may be no display: by EGL, OSMesa or GLFW.

egl      on a GPU, or in software by Mesa; needs no display
osmesa   in software; needs no display
glfw     in a hidden window; needs a display

The choice is the environment variable MUJOCO_GL, which has to be there before MuJoCo is
imported. A library can be there and still raise, hang or crash, so a way is tried by
drawing, in a process of its own. Nothing heavy is imported here.
"""

import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from simpo.types import SimpoWarning

__all__ = [
    "WAYS",
    "Choice",
    "attempt",
    "choose",
    "environment",
    "gist",
    "ignore_unknown",
    "ways",
]

WAYS = {
    "egl": "on Debian and Ubuntu: apt install libegl1 libgl1-mesa-dri",
    "osmesa": "on Debian and Ubuntu: apt install libosmesa6",
    "glfw": "needs a display: DISPLAY or WAYLAND_DISPLAY",
}
"""Values of MUJOCO_GL on Linux in the order of preference, and what each needs."""
SWITCHES = (
    *("", "glx", "wgl", "cgl", "enable", "enabled", "on", "true", "1"),
    *("disable", "disabled", "off", "false", "0"),
)
"""Further values with which MuJoCo can be imported."""
OWN = "simpo.types.SimpoError: "
SCENE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().max() > 0, "the picture is black"
"""
SECONDS = 60.0
"""How long a program may take to draw one picture."""


class Choice(NamedTuple):
    """The way to draw, if any.

    Attributes:
        way: MUJOCO_GL for processes that draw, "" for the system's own; None if no way
            works.
        failed: Why the ways before it do not work.
    """

    way: str | None
    failed: dict[str, str]

    @property
    def reason(self) -> str:
        """Why nothing can be drawn, each reason once."""
        reasons = dict.fromkeys(self.failed.values())
        if len(reasons) < 2:
            return "".join(reasons)
        return "; ".join(
            f"{', '.join(w for w, r in self.failed.items() if r == reason)}: {reason}"
            for reason in reasons
        )


def ways() -> list[str]:
    """What is to be tried: what the user has set, or else all there is."""
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        return [chosen]
    return list(WAYS) if sys.platform == "linux" else [""]


def environment(way: str) -> dict[str, str]:
    """Variables of a process that draws in this way and imports what this one can."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    chosen = {"MUJOCO_GL": way} if way else {}
    return os.environ | {"PYTHONPATH": path, "SDL_VIDEODRIVER": "dummy"} | chosen


def attempt(way: str, program: Sequence[str] = ("-c", SCENE)) -> str:
    """Nothing if a program can draw in this way, else why not.

    Args:
        way: MUJOCO_GL, "" to leave it unset.
        program: Arguments of Python; it exits with 0 if it has drawn something.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            done = subprocess.run(
                [sys.executable, *program],
                env=environment(way),
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no answer in {SECONDS:.0f} s"
    return gist(done.stderr, done.returncode) if done.returncode else ""


def choose(program: Sequence[str] = ("-c", SCENE)) -> Choice:
    """The first way in which a program can draw."""
    failed: dict[str, str] = {}
    for way in ways():
        error = attempt(way, program)
        if not error:
            return Choice(way, failed)
        failed[way or "default"] = error
    return Choice(None, failed)


def gist(errors: str, code: int) -> str:
    """Why a process failed: its last exception in one line, or how it ended."""
    lines = [x for x in errors.splitlines() if re.match(r"\w+(\.\w+)*: ", x)]
    if lines:
        return lines[-1].strip().removeprefix(OWN)[:120]
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"


def ignore_unknown() -> None:
    """Drop a MUJOCO_GL with which MuJoCo could not even be imported, and say so."""
    chosen = os.environ.get("MUJOCO_GL", "")
    if chosen.lower().strip() not in (*WAYS, *SWITCHES):
        del os.environ["MUJOCO_GL"]
        warnings.warn(
            f"MUJOCO_GL={chosen} is ignored: it is none of {', '.join(WAYS)}",
            SimpoWarning,
            stacklevel=2,
        )
