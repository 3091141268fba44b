"""Names of what MuJoCo tasks observe and of what they are driven by.

The names come from the task's model, by one of the layouts that Gymnasium's tasks have.
A layout is believed only if it gives the numbers that the task itself has just
observed; where none does, names are `obs[0]`, `obs[1]`, ... Units are those of
Gymnasium's documentation, or None: nothing is guessed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import numpy as np
from gymnasium import Env

__all__ = ["LAYOUTS", "actuators", "observed"]

API: Any = mujoco  # its type stubs are not complete
SLIDE, HINGE = int(API.mjtJoint.mjJNT_SLIDE), int(API.mjtJoint.mjJNT_HINGE)
FREE = int(API.mjtJoint.mjJNT_FREE)
POSITION = {SLIDE: "m", HINGE: "rad"}
SPEED = {SLIDE: "m/s", HINGE: "rad/s"}

Row = tuple[str, str | None, float]
"""Name, unit and value of a number that may be observed."""


def positions(model: Any, data: Any) -> list[Row]:
    """A row per number of qpos."""
    rows: list[Row] = []
    for i in range(model.njnt):
        name, kind = model.joint(i).name, int(model.jnt_type[i])
        at = model.jnt_qposadr[i]
        if kind == FREE:
            parts = [(x, "m") for x in "xyz"]
            parts += [(f"quaternion_{x}", None) for x in "wxyz"]
            rows += [
                (f"{name}.{p}", u, data.qpos[at + j]) for j, (p, u) in enumerate(parts)
            ]
        else:
            rows.append((name, POSITION.get(kind), data.qpos[at]))
    return rows


def speeds(model: Any, data: Any) -> list[Row]:
    """A row per number of qvel."""
    rows: list[Row] = []
    for i in range(model.njnt):
        name, kind = model.joint(i).name, int(model.jnt_type[i])
        at = model.jnt_dofadr[i]
        if kind == FREE:
            parts = [(f"velocity_{x}", "m/s") for x in "xyz"]
            parts += [(f"angular_velocity_{x}", "rad/s") for x in "xyz"]
            rows += [
                (f"{name}.{p}", u, data.qvel[at + j]) for j, (p, u) in enumerate(parts)
            ]
        else:
            rows.append((f"{name}.velocity", SPEED.get(kind), data.qvel[at]))
    return rows


def per_body(model: Any, field: str, values: np.ndarray, first: int) -> list[Row]:
    """Rows of a table with one line per body."""
    bodies = [model.body(b).name or f"body {b}" for b in range(model.nbody)]
    return [
        (f"{field}[{bodies[b]}][{j}]", None, values[b, j])
        for b in range(first, model.nbody)
        for j in range(values.shape[1])
    ]


def moving(model: Any, data: Any) -> Iterator[list[Row]]:
    """Qpos without its first numbers and qvel; in Ant and Humanoid tables of bodies."""
    torques = numbered("qfrc_actuator", data.qfrc_actuator)
    for skipped in range(3):
        rows = positions(model, data)[skipped:] + speeds(model, data)
        yield rows
        for first in (0, 1):  # v5 leaves out the world and the root's six torques
            inertia, velocity, force = (
                per_body(model, field, getattr(data, field), first)
                for field in ("cinert", "cvel", "cfrc_ext")
            )
            yield rows + force
            yield rows + inertia + velocity + torques[6 * first :] + force


def double_pendulum(model: Any, data: Any) -> Iterator[list[Row]]:
    """InvertedDoublePendulum: sines and cosines of the hinges, constraint forces."""
    slider, *hinges = positions(model, data)
    rows = [slider, *waves(hinges, "sin", np.sin), *waves(hinges, "cos", np.cos)]
    rows += speeds(model, data)
    forces = numbered("qfrc_constraint", np.clip(data.qfrc_constraint, -10, 10))
    yield rows + forces
    yield rows + forces[:1]


def reacher(model: Any, data: Any) -> Iterator[list[Row]]:
    """Reacher: the arm's cosines and sines, the target, speeds, and the way to go."""
    joints, target = positions(model, data)[:2], positions(model, data)[2:]
    rows = waves(joints, "cos", np.cos) + waves(joints, "sin", np.sin) + target
    rows += speeds(model, data)[:2]
    tip, goal = (data.body(name).xpos for name in ("fingertip", "target"))
    names = [f"fingertip - target, {x}" for x in "xyz"]
    rows += [(name, "m", x) for name, x in zip(names, tip - goal, strict=True)]
    yield rows
    yield rows[:-1]


def pusher(model: Any, data: Any) -> Iterator[list[Row]]:
    """Pusher: the arm, and where its tip, the object and the goal are."""
    rows = positions(model, data)[:7] + speeds(model, data)[:7]
    for name in ("tips_arm", "object", "goal"):
        rows += [
            (f"{name}.{x}", "m", v)
            for x, v in zip("xyz", data.body(name).xpos, strict=True)
        ]
    yield rows


def numbered(name: str, values: np.ndarray) -> list[Row]:
    """Rows `name[0]`, `name[1]`, ... without a unit."""
    return [(f"{name}[{i}]", None, x) for i, x in enumerate(values)]


def waves(rows: list[Row], name: str, wave: Callable[[float], float]) -> list[Row]:
    """Sines or cosines of angles."""
    return [(f"{name}({joint})", None, wave(angle)) for joint, _, angle in rows]


LAYOUTS = (moving, double_pendulum, reacher, pusher)
"""Layouts of observations; a new one is a function here."""


def observed(env: Env, obs: np.ndarray) -> list[Row]:
    """The layout whose numbers are those observed, else names without meaning."""
    model: Any = getattr(env.unwrapped, "model", None)
    data: Any = getattr(env.unwrapped, "data", None)
    if not isinstance(model, API.MjModel):
        return numbered("obs", obs)
    for layout in LAYOUTS:
        try:
            for rows in layout(model, data):
                if len(rows) == len(obs) and np.allclose([r[2] for r in rows], obs):
                    return rows
        except (KeyError, ValueError, IndexError):  # a body or joint it does not have
            continue
    return numbered("obs", obs)


def actuators(env: Env, size: int) -> list[dict[str, Any]]:
    """Names of actions: those of MuJoCo's actuators, or of the joints they drive."""
    model: Any = getattr(env.unwrapped, "model", None)
    if not isinstance(model, API.MjModel) or model.nu != size:
        return [{"name": f"action[{i}]", "unit": None} for i in range(size)]
    rows = []
    for i in range(size):
        joint = None
        if model.actuator_trntype[i] == int(API.mjtTrn.mjTRN_JOINT):
            joint = model.joint(int(model.actuator_trnid[i, 0])).name
        name = model.actuator(i).name or joint or f"action[{i}]"
        gear = float(model.actuator_gear[i, 0])
        rows.append({"name": name, "unit": None, "joint": joint, "gear": gear})
    return rows
