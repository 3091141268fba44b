"""`simpo doctor`: is everything here that training, plotting and videos need?"""

import importlib.metadata
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from simpo import __version__
from simpo.cli.options import read_options
from simpo.rendering import WAYS, attempt, ways

__all__ = ["Check", "DoctorOptions", "main"]

STEP_SECONDS = 0.5
STEP_TASK = "InvertedDoublePendulum-v5"
NOT_AN_EXTRA = ("test", "dev")


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        value: What was found.
        ok: Whether it is as it must be; None for what is optional and not there.
        hint: What to do, or what it means.
    """

    name: str
    value: str
    ok: bool | None = True
    hint: str = ""


@dataclass(frozen=True)
class DoctorOptions:
    """Check the installation: versions, devices, simulator, rendering."""

    json: bool = False
    """Print JSON."""


def installed(package: str) -> str | None:
    """A distribution's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements() -> list[tuple[str, str]]:
    """(package, extra) of what this distribution asks for; extra "" is the core."""
    try:
        lines = importlib.metadata.requires("simpo") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        found.append((name, extra[1] if extra else ""))
    return found


def check_packages() -> list[Check]:
    """Python, this package, and what it needs."""
    checks = [Check("python", platform.python_version()), Check("simpo", __version__)]
    needed = [name for name, extra in requirements() if not extra]
    if not needed:
        hint = "pip install . in the source directory"
        checks.append(Check("dependencies", "simpo is not installed", False, hint))
    for name in dict.fromkeys(["jax", "jaxlib", *needed] if needed else []):
        version = installed(name)
        hint = "" if version else "pip install simpo"
        checks.append(Check(name, version or "missing", bool(version), hint))
    return checks


def check_extras() -> list[Check]:
    """Optional packages, with the line that installs them."""
    checks = []
    plugins = {"cuda12": "jax-cuda12-plugin", "cuda13": "jax-cuda13-plugin"}
    for name, extra in requirements():
        if not extra or extra in NOT_AN_EXTRA:
            continue
        version = installed(plugins.get(extra, name))
        hint = "" if version else f"pip install 'simpo[{extra}]'"
        found = True if version else None
        checks.append(Check(extra, version or "not installed", found, hint))
    return checks


def check_jax() -> list[Check]:
    """Devices, the time to load JAX, and the variables it reads."""
    started = time.perf_counter()
    try:
        import jax

        devices = ", ".join(f"{d.device_kind} ({d.platform})" for d in jax.devices())
    except Exception as error:  # whatever a broken accelerator stack raises
        hint = "try JAX_PLATFORMS=cpu simpo doctor"
        return [Check("devices", one_line(str(error)), False, hint)]
    seconds = time.perf_counter() - started
    cache = getattr(jax.config, "jax_compilation_cache_dir", None)
    precision = os.environ.get("JAX_DEFAULT_MATMUL_PRECISION")
    hint = "JAX_COMPILATION_CACHE_DIR=~/.cache/jax starts later runs faster"
    return [
        Check("devices", devices),
        Check("load time", f"{seconds:.1f} s"),
        Check("JAX_DEFAULT_MATMUL_PRECISION", precision or "not set"),
        Check("compilation cache", cache or "off", hint="" if cache else hint),
    ]


def check_machine() -> list[Check]:
    """Cores and memory that this process may use."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    checks = [Check("system", platform.platform()), Check("cores", str(cores))]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        checks.append(Check("memory", f"{memory:.1f} GiB"))
    return checks


def check_simulator() -> list[Check]:
    """Step a MuJoCo task of Gymnasium for a moment."""
    try:
        import gymnasium

        env = gymnasium.make(STEP_TASK)
        env.action_space.seed(0)
        env.reset(seed=0)
        steps, started = 0, time.perf_counter()
        while time.perf_counter() - started < STEP_SECONDS:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            steps += 1
            if terminated or truncated:
                env.reset()
        rate = steps / (time.perf_counter() - started)
        env.close()
    except Exception as error:  # whatever a broken simulator raises
        chosen = os.environ.get("MUJOCO_GL")
        hint = f"unset MUJOCO_GL={chosen}, or " if chosen else ""
        hint += "pip install 'gymnasium[mujoco]'"
        return [Check(STEP_TASK, one_line(str(error)), False, hint)]
    return [Check(STEP_TASK, f"{rate:,.0f} steps/s")]


def check_rendering() -> list[Check]:
    """Try the ways MuJoCo can draw, each in a process of its own; say which is used."""
    chosen, tried = os.environ.get("MUJOCO_GL"), ways()
    with ThreadPoolExecutor() as pool:
        errors = list(pool.map(attempt, tried))
    checks = [Check("MUJOCO_GL", chosen or "not set")]
    for way, error in zip(tried, errors, strict=True):
        advice = "unset MUJOCO_GL" if chosen else WAYS.get(way, "")
        checks.append(
            Check(
                f"rendering, {way or 'default'}",
                error or "works",
                None if error else True,
                advice if error else "",
            )
        )
    working = [w for w, error in zip(tried, errors, strict=True) if not error]
    return [*checks, check_videos(working)]


def check_videos(working: list[str]) -> Check:
    """Whether `simpo eval --video` works, given the ways that do."""
    if not working:
        hint = "needed only for simpo eval --video, which goes on without"
        return Check("videos", "not possible here", None, hint)
    if not installed("imageio-ffmpeg"):
        hint = "pip install 'simpo[video]'"
        return Check("videos", "the encoder is not installed", None, hint)
    way = working[0] or "the system's own way"
    hint = f"elsewhere: export MUJOCO_GL={working[0]}" if working[0] else ""
    return Check("videos", f"simpo eval --video draws by {way}", hint=hint)


def check_runs() -> list[Check]:
    """Whether run directories can be made here."""
    place = next((p for p in (Path("runs"), Path()) if p.is_dir()), Path())
    try:
        with tempfile.TemporaryFile(dir=place):
            return [Check("runs", f"{place.resolve()} is writable")]
    except OSError as error:
        hint = "train elsewhere with --out DIR"
        return [Check("runs", f"{place.resolve()}: {error.strerror}", False, hint)]


def one_line(text: str) -> str:
    """The first line, cut to what a table shows."""
    return (text.strip().splitlines() or ["failed"])[0][:120]


SECTIONS: dict[str, Callable[[], list[Check]]] = {
    "packages": check_packages,
    "extras": check_extras,
    "jax": check_jax,
    "machine": check_machine,
    "simulator": check_simulator,
    "rendering": check_rendering,
    "directories": check_runs,
}
"""Checks in the order in which they are made."""


def show(report: dict[str, list[Check]]) -> None:
    """Print a table for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {True: ("ok", "green"), False: ("fail", "bold red"), None: ("-", "yellow")}
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for section, checks in report.items():
        table.add_row(Text(section, "bold"))
        for check in checks:
            value = Text(check.value)
            if check.hint:
                value.append(f"\n{check.hint}", "dim")
            table.add_row(Text(f"  {check.name}"), Text(*marks[check.ok]), value)
    Console().print(table)


def main(argv: list[str]) -> int:
    """Check and report; returns 1 if something that training needs is not right."""
    options = read_options(DoctorOptions(), argv, prog="simpo doctor")
    report = {section: check() for section, check in SECTIONS.items()}
    failed = [c.name for checks in report.values() for c in checks if c.ok is False]
    if options.json:
        checks = {k: [asdict(c) for c in v] for k, v in report.items()}
        print(json.dumps({"ok": not failed, "checks": checks}, indent=2))
        return int(bool(failed))
    show(report)
    print(
        f"not right: {', '.join(failed)}" if failed else "all that training needs works"
    )
    return int(bool(failed))
