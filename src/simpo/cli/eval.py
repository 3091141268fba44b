"""`simpo eval RUN`: play episodes with a trained policy, in every setting asked for."""

import itertools
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import jax
import numpy as np
import tyro

from simpo.agents import Agent, Mode
from simpo.agents.denoising import denoising_steps, with_denoising_steps
from simpo.backend import keep_compiled
from simpo.checkpoint import SavedPolicy, load
from simpo.cli.arguments import option_registry
from simpo.cli.bar import LateBar, Watcher
from simpo.cli.films import choose_way, make_folder, make_videos
from simpo.cli.options import read_options
from simpo.cli.scores import Result, Setting, show, summarise, write
from simpo.envs import make
from simpo.evaluation import evaluate, measure_latency
from simpo.types import SimpoError, SimpoWarning

__all__ = ["main"]

Counts = Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="N...")]


@dataclass(frozen=True)
class EvalArguments:
    """Options of `simpo eval`."""

    run: Annotated[Path, tyro.conf.Positional] = Path()
    """Run directory or policy folder."""
    env: str | None = None
    """Task; the policy's own by default."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task, 'name=value, ...'; the policy's own by default."""
    episodes: int = 20
    """Episodes per setting."""
    best_of: Counts = None
    """Samples per action; the best by min Q is taken. By default the samplers of the
    evaluations in training."""
    denoising_steps: Counts = None
    """Denoising steps, for agents with a generative model; each with each --best-of. By
    default those of training. With several, RUN/plots/denoising.png compares them."""
    seed: int = 1_000_000
    """Seed of environments and actions, away from those of training."""
    csv: Path | None = None
    """Where to write a row per episode."""
    json: bool = False
    """Print JSON."""
    video: Annotated[int | None, tyro.conf.arg(metavar="[N]")] = None
    """Write videos of the first N episodes of every setting; 1 if N is left out."""
    video_dir: Path | None = None
    """Where to write videos; RUN/videos by default."""


def read_arguments(argv: list[str]) -> EvalArguments:
    """The options, checked as far as they can be without a policy."""
    words = []
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        words.append(word)
        if word == "--video" and not re.fullmatch(r"-?\d+", following):
            words.append("1")
    options = read_options(
        EvalArguments(),
        words,
        prog="simpo eval",
        description="Play episodes with a trained policy.",
        registry=option_registry(),
    )
    counts = {
        "--episodes": (options.episodes,),
        "--best-of": options.best_of,
        "--denoising-steps": options.denoising_steps,
        "--video": options.video if options.video is None else (options.video,),
    }
    for name, values in counts.items():
        if values is not None and min(values, default=0) < 1:
            raise SimpoError(f"{name} must be at least 1")
    if not 0 <= options.seed < 2**32:
        raise SimpoError("--seed must be between 0 and 2**32 - 1")
    if (options.video or 0) > options.episodes:
        raise SimpoError("--video must not be more than --episodes")
    if options.video_dir and not options.video:
        raise SimpoError("--video-dir needs --video")
    return options


def require_fit(saved: SavedPolicy, env: str, env_kwargs: dict[str, Any]) -> np.ndarray:
    """A first observation [1, O]; refuses a task of other dimensions than the policy's.

    Raises:
        SimpoError: The task does not fit, or whatever `make` refuses.
    """
    task = make(env, 1, seed=0, env_kwargs=env_kwargs)
    try:
        if task.spec != saved.spec:
            raise SimpoError(
                f"the policy, of {saved.env}, does not fit {env}: observations and "
                f"actions are {tuple(saved.spec)} and {tuple(task.spec)}"
            )
        return task.reset()
    finally:
        task.close()


def require_no_module(run: Path, env: str) -> None:
    """Refuse to import what a policy folder, which may come from anyone, names."""
    module = env.rpartition(":")[0]
    if module and not (run / "policy").is_dir() and module != "simpo.envs":
        raise SimpoError(
            f"the policy names a task of the module {module!r}, which would be "
            f"imported; if you trust it: simpo eval {run} --env {env}"
        )


def require_choice(agent: Agent, mode: Mode) -> None:
    """Refuse best-of-n of an agent that has one action per state.

    Raises:
        SimpoError: All n would be the same.
    """
    one_action = agent.evaluating == (Mode(deterministic=True),)
    if mode.best_of > 1 and one_action and not hasattr(agent, "best_of"):
        raise SimpoError(
            f"{type(agent).__name__} has one action per state to choose from: leave "
            "--best-of at 1"
        )


def grid(options: EvalArguments, saved: SavedPolicy, obs: np.ndarray) -> list[Setting]:
    """Every sampler with every number of denoising steps.

    Raises:
        SimpoError: The agent cannot act in one of them.
    """
    agent, counts = saved.agent, dict.fromkeys(options.best_of or ())
    modes = [Mode(best_of=n) for n in counts] or agent.evaluating
    steps = dict.fromkeys(options.denoising_steps or ())
    agents = [with_denoising_steps(agent, n) for n in steps] or [agent]
    pairs = itertools.product(modes, agents)
    settings = [Setting(a, m, denoising_steps(a)) for m, a in pairs]
    for setting in settings:
        require_choice(agent, setting.mode)
        act = partial(setting.agent.act, mode=setting.mode)
        jax.eval_shape(act, saved.policy, obs, saved.key)
    return settings


def score(
    settings: Sequence[Setting],
    saved: SavedPolicy,
    env: str,
    env_kwargs: dict[str, Any],
    obs: np.ndarray,
    options: EvalArguments,
) -> list[Result]:
    """Play every setting's episodes, and time its actions."""
    limit = gymnasium.registry[env.rpartition(":")[2]].max_episode_steps
    episodes, kept, results = options.episodes, options.video or 0, []
    with LateBar("episodes", len(settings) * episodes) as bar:
        for i, setting in enumerate(settings):
            watch = Watcher(
                *(bar, setting.label, i * episodes, episodes),
                *(limit, kept),
            )
            agent, mode, policy = setting.agent, setting.mode, saved.policy
            latency = measure_latency(agent, policy, obs, mode)
            rows = evaluate(
                *(agent, policy, env, mode),
                episodes=episodes,
                seed=options.seed,
                env_kwargs=env_kwargs,
                watch=watch,
            )
            actions = [np.stack(done) for done in watch.actions]
            results.append(Result(setting, rows, latency, actions))
    return results


def draw(results: Sequence[Result], env: str, home: Path) -> list[Path]:
    """The picture that compares denoising steps, if there are several."""
    if len({result.setting.steps for result in results}) < 2:
        return []
    from simpo.plotting.denoising import Point, return_against_steps

    points = [
        Point(r.setting.mode.label, r.setting.steps or 0, r.returns) for r in results
    ]
    try:
        return return_against_steps(points, env, home / "plots" / "denoising")
    except OSError as error:
        warnings.warn(
            f"cannot write {home / 'plots'}: {error.strerror}",
            SimpoWarning,
            stacklevel=2,
        )
        return []


def main(argv: list[str]) -> int:
    """Evaluate, print, draw."""
    if not argv:
        raise SimpoError("which run? simpo eval RUN")
    options = read_arguments(argv)
    saved = load(options.run)
    if not options.env:
        require_no_module(options.run, saved.env)
    env = options.env or saved.env
    own = options.env is None and not options.env_kwargs
    env_kwargs = saved.env_kwargs if own else options.env_kwargs
    obs = require_fit(saved, env, env_kwargs)
    settings = grid(options, saved, obs)
    is_run = (options.run / "policy").is_dir()
    home = options.run if is_run else options.run.parent
    folder, way = options.video_dir or home / "videos", None
    if options.video:
        make_folder(folder)
        way = choose_way(env, env_kwargs)
    keep_compiled()
    results = score(settings, saved, env, env_kwargs, obs, options)
    device = jax.devices()[0].device_kind
    if not options.json:
        show(results, env, device)
    paths = draw(results, env, home)
    if way is not None:
        paths += make_videos(results, env, env_kwargs, options.seed, folder, way)
    if options.json:
        report = {
            "env": env,
            "seed": options.seed,
            "device": device,
            "settings": [summarise(result) for result in results],
            "files": [str(path) for path in paths],
        }
        print(json.dumps(report, indent=2))
    else:
        print(*paths, sep="\n", end="\n" * bool(paths))
    if options.csv:
        write(options.csv, results, env)
    return 0
