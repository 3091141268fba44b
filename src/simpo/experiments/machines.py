"""Where runs were made, and how long they took: what a table has to say of itself."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from simpo.checkpoint import read_json
from simpo.plotting.rundata import read_table

__all__ = ["machines"]


def machines(directories: Iterable[Path]) -> list[str]:
    """A line per kind of machine and versions, with how many runs it made.

    `12 runs: AMD EPYC, cpu:0, Python 3.11.7, JAX 0.10.2; 2.9 to 5.1 minutes each`
    """
    minutes: dict[str, list[float]] = {}
    for directory in directories:
        made_on = described(read_json(directory / "env.json"))
        minutes.setdefault(made_on, []).append(duration(directory))
    return [
        f"{counted(len(times))}: {made_on}{spread(times)}"
        for made_on, times in sorted(minutes.items(), key=lambda item: -len(item[1]))
    ]


def described(machine: dict[str, Any]) -> str:
    """Processor, devices and the versions that numbers depend on most."""
    packages = machine.get("packages", {})
    parts = [
        machine.get("processor") or machine.get("platform", "unknown machine"),
        " ".join(machine.get("devices", [])),
        f"Python {machine.get('python', '?')}",
        f"JAX {packages.get('jax', '?')}",
        f"MuJoCo {packages.get('mujoco', '?')}",
    ]
    return ", ".join(parts)


def duration(directory: Path) -> float:
    """Minutes of training; NaN where the run does not tell."""
    table = read_table(directory / "timing.csv", ("step",))
    elapsed = table.get("time/elapsed", np.array([np.nan]))
    return float(elapsed[-1]) / 60


def counted(number: int) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} run{'s' * (number != 1)}"


def spread(minutes: list[float]) -> str:
    """`; 2.9 to 5.1 minutes each`, or seconds; nothing where no run tells."""
    known = [value for value in minutes if value == value]
    if not known:
        return ""
    scale, digits, unit = (1, 1, "minutes") if max(known) >= 1 else (60, 0, "seconds")
    low, high = (f"{scale * end:.{digits}f}" for end in (min(known), max(known)))
    return f"; {low if low == high else f'{low} to {high}'} {unit} each"
