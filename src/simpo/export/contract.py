"""`contract.json`: what goes into an exported policy, what comes out, and what it is.

Names, units and rates are those of the task, where it can be made here and says them;
a unit that is not known is null.
"""

import hashlib
import importlib.metadata
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simpo.config import to_json
from simpo.envs import make_one
from simpo.export.names import actuators, observed
from simpo.export.program import Program
from simpo.types import SimpoError

__all__ = ["FORMAT", "Task", "describe_task", "make_contract"]

FORMAT = 1


@dataclass(frozen=True)
class Task:
    """What is known of a task.

    Attributes:
        observations: One dictionary per number: name, unit, low, high.
        actions: One dictionary per number: name, unit, low, high, and the actuator.
        control_rate: Actions per second; None if the task does not say.
    """

    observations: list[dict[str, Any]]
    actions: list[dict[str, Any]]
    control_rate: float | None


def finite(x: Any) -> float | None:
    """A bound; None for infinity, which JSON does not have."""
    return float(x) if math.isfinite(x) else None


def describe_task(program: Program, seed: int = 0) -> Task:
    """What the task says of itself; names without meaning if it cannot be made here."""
    saved = program.saved
    box = [{"low": lo, "high": hi} for lo, hi in zip(*saved.box, strict=True)]
    try:
        env = make_one(saved.env, saved.env_kwargs)
    except SimpoError:
        rows = [{"name": f"obs[{i}]", "unit": None, "low": None, "high": None}
                for i in range(saved.spec.obs_dim)]  # fmt: skip
        nameless = [{"name": f"action[{i}]", "unit": None} for i in range(len(box))]
        return Task(rows, [a | b for a, b in zip(nameless, box, strict=True)], None)
    env.reset(seed=seed)
    # After a step forces are not zero any more, and speeds not yet clipped.
    middle = [0.5 * (lo + hi) for lo, hi in zip(*saved.box, strict=True)]
    action: Any = env.action_space
    obs, *_ = env.step(np.asarray(middle, action.dtype).reshape(action.shape))
    space: Any = env.observation_space
    bounds = zip(space.low.ravel(), space.high.ravel(), strict=True)
    names = observed(env, np.asarray(obs, np.float64).ravel())
    rows = [
        {"name": name, "unit": unit, "low": finite(low), "high": finite(high)}
        for (name, unit, _), (low, high) in zip(names, bounds, strict=True)
    ]
    actions = [a | b for a, b in zip(actuators(env, len(box)), box, strict=True)]
    dt = getattr(env.unwrapped, "dt", None)
    env.close()
    return Task(rows, actions, 1 / dt if dt else None)


def make_contract(
    program: Program, model: Path, kind: str, packages: tuple[str, ...]
) -> dict:
    """Everything that a caller of the model file must know; JSON."""
    saved, task = program.saved, describe_task(program)
    steps = getattr(getattr(saved.agent, "model", None), "denoising_steps", None)
    contract = {
        "format": FORMAT,
        "model": {
            "file": model.name,
            "kind": kind,
            "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        },
        "env": saved.env,
        "env_kwargs": saved.env_kwargs,
        "agent": type(saved.agent).__name__,
        "settings": to_json(saved.agent),
        "step": saved.step,
        "sampler": program.mode.label,
        "best_of": program.mode.best_of,
        "denoising_steps": steps,
        "control_rate_hz": task.control_rate,
        "observation": {
            "name": "observation",
            "shape": ["batch", saved.spec.obs_dim],
            "dtype": "float32",
            "entries": task.observations,
        },
        "noise": None,
        "action": {
            "name": "action",
            "shape": ["batch", saved.spec.action_dim],
            "dtype": "float32",
            "entries": task.actions,
        },
        "versions": {p: importlib.metadata.version(p) for p in ("simpo", *packages)},
    }
    if program.draws:
        contract["noise"] = {
            "name": "noise",
            "shape": ["batch", program.noise_dim],
            "dtype": "float32",
            "distribution": "independent standard normal, fresh at every call",
            "parts": [list(shape) for shape in program.draws],
        }
    return contract
