"""A policy folder: `config.json` and `model.safetensors`, and nothing executable.

The folder is written aside, synced to disk and renamed, so it is never half there. The
parameters are stored by their path in the tree (`actor.of_sample.weight`), readable
from any language that reads safetensors.
"""

import json
import os
import reprlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from simpo.agents import Agent, Mode, Policy, compile_act
from simpo.agents.normalisation import Moments
from simpo.config import from_json, functions_missing, require_same, to_json
from simpo.types import ActionBox, EnvSpec, ObservationParts, PyTree, SimpoError

__all__ = [
    "SavedPolicy",
    "flatten",
    "load",
    "plain",
    "read_json",
    "save_policy",
    "unflatten",
    "write_json",
]

CONFIG, MODEL = "config.json", "model.safetensors"
FORMAT = 1
LARGEST_JSON = 2**24
"""Bytes of a JSON file; ours have thousands."""


def plain(error: object) -> str:
    """A message in one short line of printable text, whatever a file put into it."""
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in str(error))
    return text.partition("\n")[0][:300]


def write_json(path: Path, data: Any) -> None:
    """Write JSON aside, sync, rename."""
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("w") as file:
        json.dump(data, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON object.

    Raises:
        SimpoError: The file is missing or damaged.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise SimpoError(f"{path} is damaged: it is too large")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SimpoError(f"no file {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SimpoError(f"{path} is damaged: {plain(error)}") from error
    if not isinstance(data, dict):
        raise SimpoError(f"{path} is damaged: not a JSON object")
    return data


def flatten(tree: PyTree) -> dict[str, np.ndarray]:
    """Leaves by path, `actor.of_sample.weight`."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): np.asarray(leaf)
            for p, leaf in leaves}  # fmt: skip


def unflatten(template: PyTree, arrays: dict[str, np.ndarray], where: Path) -> PyTree:
    """Arrays put in the places of a template of the same paths, shapes and types."""
    paths, structure = jax.tree.flatten_with_path(template)
    names = [jax.tree_util.keystr(p, simple=True, separator=".") for p, _ in paths]
    if set(names) != set(arrays):
        odd = sorted(set(names) ^ set(arrays))[0]
        raise SimpoError(f"{where} does not fit its {CONFIG}: tensor '{plain(odd)}'")
    for name, (_, leaf) in zip(names, paths, strict=True):
        found, expected = ((*x.shape, str(x.dtype)) for x in (arrays[name], leaf))
        if found != expected:
            raise SimpoError(
                f"{where} does not fit its {CONFIG}: tensor '{name}' is {found}, "
                f"expected {expected}"
            )
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[n]) for n in names])


def save_policy(
    folder: Path,
    agent: Agent,
    spec: EnvSpec,
    policy: Policy,
    *,
    env: str,
    step: int,
    env_kwargs: dict[str, Any] | None = None,
    box: ActionBox | None = None,
    parts: ObservationParts = (),
) -> Path:
    """Write a policy folder, in one rename; an earlier one of that name is replaced.

    Args:
        folder: Where to write.
        agent: The agent; its fields rebuild the networks.
        spec: Dimensions of the task.
        policy: Parameters.
        env: The task's id, for the record.
        step: Environment steps seen in training.
        env_kwargs: Keyword arguments of the task.
        box: Bounds of the task's actions; None for [-1, 1]^A.
        parts: Names and shapes of the task's observations, if it has several.
    """
    box = box or unit_box(spec.action_dim)
    config = {"format": FORMAT, "env": env, "step": step, "spec": spec._asdict()}
    config |= {"env_kwargs": env_kwargs or {}, "parts": parts}
    config |= {"action_box": box._asdict(), "agent": to_json(agent)}
    return save_folder(folder, config, policy)


def save_folder(folder: Path, config: Mapping[str, Any], tree: PyTree) -> Path:
    """Write settings and arrays, in one rename; an earlier one is replaced."""
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with (aside / MODEL).open("wb") as file:
        file.write(save(flatten(tree)))
        file.flush()
        os.fsync(file.fileno())
    write_json(aside / CONFIG, config)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def unit_box(action_dim: int) -> ActionBox:
    """[-1, 1]^A."""
    return ActionBox((-1.0,) * action_dim, (1.0,) * action_dim)


@dataclass
class SavedPolicy:
    """A policy that acts; `predict` has the signature of Stable-Baselines3.

    Attributes:
        agent: The agent that trained it.
        spec: Dimensions of the task.
        policy: Parameters.
        env: The task's id.
        step: Environment steps seen in training.
        box: Bounds of the task's actions.
        key: Random key of the actions drawn.
        env_kwargs: Keyword arguments of the task.
        parts: Names and shapes of the observations that [O] is made of, in order; empty
            where the task has just one.
        calls: Calls of `predict` so far; each draws with a key of its own.
    """

    agent: Agent
    spec: EnvSpec
    policy: Policy
    env: str
    step: int
    box: ActionBox
    key: jax.Array
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    parts: ObservationParts = ()
    calls: int = 0

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        *,
        best_of: int = 1,
    ) -> tuple[np.ndarray, None]:
        """Actions for observations [O] or [B, O], in the task's own box.

        Args:
            observation: One observation or a batch; a dict of them by name where the
                task's are.
            state: Unused; there for the signature.
            episode_start: Unused; there for the signature.
            deterministic: Equal observations get equal actions: the mean of a Gaussian
                policy, a generative one's sample from the same noise at every call.
                Otherwise every call draws afresh.
            best_of: Samples per state, of which the best by min Q is returned.

        Returns:
            The action, [A] or [B, A], and None.

        Raises:
            SimpoError: Observations of another dimension.
        """
        obs = self.joined(observation)
        if obs.shape[-1:] != (self.spec.obs_dim,) or obs.ndim > 2:
            raise SimpoError(
                f"observations have shape {obs.shape}, expected "
                f"({self.spec.obs_dim},) or (B, {self.spec.obs_dim})"
            )
        self.calls += not deterministic
        number = 0 if deterministic else self.calls
        mode = Mode(best_of=best_of, deterministic=deterministic)
        act = compile_act(self.agent, mode)
        action = act(self.policy, np.atleast_2d(obs), self.key, number)
        low, high = (np.asarray(x, np.float32) for x in self.box)
        scaled = 0.5 * (low + high) + 0.5 * (high - low) * np.asarray(action)
        return np.clip(scaled, low, high).reshape(*obs.shape[:-1], -1), None

    def joined(self, observation: Any) -> np.ndarray:
        """Observations as vectors [O] or [B, O]; those of a dict one after another."""
        if not isinstance(observation, Mapping):
            return np.asarray(observation, np.float32)
        if set(observation) != {name for name, _ in self.parts}:
            names = ", ".join(name for name, _ in self.parts) or "no names, one array"
            raise SimpoError(
                f"observations are named {', '.join(map(str, observation))}; expected "
                + names
            )
        flat, leads = [], set()
        for name, shape in self.parts:
            array = np.asarray(observation[name], np.float32)
            split = array.ndim - len(shape)
            if split < 0 or array.shape[split:] != shape:
                raise SimpoError(
                    f"observation '{name}' has shape {array.shape}, expected {shape} "
                    "or a batch of them"
                )
            leads.add(array.shape[:split])
            flat.append(array.reshape(*array.shape[:split], -1))
        if len(leads) > 1:
            raise SimpoError(f"batches of observations differ: {sorted(leads)}")
        return np.concatenate(flat, axis=-1)


def read_config(path: Path) -> dict[str, Any]:
    """Fields of a saved policy from `config.json`."""
    match config := read_json(path):
        case {"format": int(number)} if number > FORMAT:
            raise SimpoError(f"{path} has format {number}: it needs a newer simpo")
        case {
            "agent": dict(agent),
            "spec": {"obs_dim": int(obs_dim), "action_dim": int(action_dim)},
            "env": str(env),
            "step": int(step),
            "action_box": {"low": [*low], "high": [*high]},
        } if (
            len(low) == len(high) == action_dim
            and min(obs_dim, action_dim) > 0
            and env.isprintable()
        ):
            spec = EnvSpec(obs_dim, action_dim)
        case _:
            raise SimpoError(
                f"{path} is damaged: it needs agent, spec, env, step and action_box, "
                f"not {reprlib.repr(list(config))}"
            )
    try:
        return {
            "agent": from_json(agent, Agent),
            "spec": spec,
            "env": env,
            "step": step,
            "box": ActionBox(*(tuple(map(float, bounds)) for bounds in (low, high))),
            "env_kwargs": from_json(config.get("env_kwargs", {}), dict[str, Any]),
            "parts": tuple(
                (str(n), tuple(map(int, s))) for n, s in config.get("parts", [])
            ),
        }
    except (SimpoError, TypeError, ValueError, OverflowError) as error:
        raise SimpoError(f"{path} is damaged: {plain(error)}") from error


def fresh_policy(agent: Agent, spec: EnvSpec, key: jax.Array) -> Policy:
    """A policy that has learnt nothing."""
    policy = agent.policy(agent.init(key, spec))
    seen = None if agent.moments_clip is None else Moments.init(spec.obs_dim)
    return policy._replace(moments=seen)


def make_template(agent: Agent, spec: EnvSpec, path: Path) -> PyTree:
    """Shapes and types of a policy's parameters; nothing of their size is allocated."""
    try:
        with np.errstate(invalid="raise"):
            return jax.eval_shape(partial(fresh_policy, agent, spec), jax.random.key(0))
    except Exception as error:  # whatever networks of impossible sizes raise
        raise SimpoError(
            f"{path} is damaged: no such networks: {plain(error)}"
        ) from error


def require_layers(agent: Agent, tensors: int, path: Path) -> None:
    """Refuse more layers than there are tensors: the template has an entry for each."""
    deepest = max(
        0 if agent.actor_network else agent.depth,
        0 if agent.critic_network else agent.critic_depth,
    )
    if deepest > tensors:
        raise SimpoError(
            f"{path} does not fit its {MODEL}: {deepest} layers, {tensors} tensors"
        )


def choose_agent(saved: Agent, given: Agent | None, path: str | Path) -> Agent:
    """The agent passed from Python, if it is the one saved; or else the one saved.

    Raises:
        SimpoError: They differ, or the saved one has networks that only Python has.
    """
    if given is not None:
        require_same(saved, given, path)
        return given
    for name, function in functions_missing(saved):
        if name in ("actor_network", "critic_network"):
            raise SimpoError(
                f"{path} has networks that were passed from Python, {name} = "
                f"{plain(function)}: load it there, simpo.load(path, agent=...)"
            )
    return saved


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder, by name.

    Raises:
        SimpoError: They are damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise SimpoError(f"{path} is damaged: {plain(error)}") from error


def load(path: str | Path, *, seed: int = 0, agent: Agent | None = None) -> SavedPolicy:
    """Load a policy folder, or the policy of a run directory.

    Args:
        path: The folder.
        seed: Seed of the actions that `predict` draws.
        agent: The agent that was trained, where it holds functions: a file names them
            and no more.

    Raises:
        SimpoError: Not a policy, or a damaged one; another agent's, or one whose
            networks are missing.
    """
    folder = Path(path)
    if (folder / "policy").is_dir():
        folder = folder / "policy"
    missing = [name for name in (CONFIG, MODEL) if not (folder / name).is_file()]
    if missing:
        raise SimpoError(
            f"{path} is neither a run directory nor a policy folder: "
            f"no file {folder / missing[0]}"
        )
    fields = read_config(folder / CONFIG)
    arrays = read_arrays(folder / MODEL)
    fields["agent"] = agent = choose_agent(fields["agent"], agent, path)
    spec = fields["spec"]
    require_layers(agent, len(arrays), folder / CONFIG)
    template = make_template(agent, spec, folder / CONFIG)
    policy = unflatten(template, arrays, folder / MODEL)
    return SavedPolicy(policy=policy, key=jax.random.key(seed), **fields)
