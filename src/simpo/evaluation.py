"""Evaluation: whole episodes, one row each, the sampler named with every score.

Each of the episodes runs in an environment of its own, so short episodes are not
counted more often than long ones. Evaluations draw from keys and seeds of their own and
leave training as it was. Tasks whose info has a `speed` at every step are also scored
by its mean, which compares policies that were trained on different rewards.

Latency is what acting costs: the time from an observation on the host to its action on
the host, one observation at a time.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from simpo.agents import Agent, Mode, Policy, compile_act
from simpo.envs import Step, make
from simpo.types import SimpoError

__all__ = ["EpisodeRow", "Latency", "Watch", "evaluate", "measure_latency"]

LIMIT = 100_000
"""Steps after which an evaluation gives up on a task that never ends."""


CALLS = 200
"""Calls that a latency is measured over."""

Watch: TypeAlias = Callable[[np.ndarray, Step], None]
"""Told the actions [E, A] of each step and what the step gave."""


class EpisodeRow(NamedTuple):
    """One evaluation episode.

    Attributes:
        sampler: How actions were drawn, `single` or `best-of-n`.
        episode: Index of the episode.
        return_: Undiscounted sum of rewards.
        length: Steps.
        speed: Mean of info["speed"], in the task's unit; None where it does not say.
    """

    sampler: str
    episode: int
    return_: float
    length: int
    speed: float | None = None


class Latency(NamedTuple):
    """Milliseconds from an observation to its action, both on the host.

    Attributes:
        median: Half of the calls take no longer.
        p95: 95 % of the calls take no longer.
    """

    median: float
    p95: float


def unwatched(action: np.ndarray, step: Step) -> None:
    """Nobody looks."""


def evaluate(
    agent: Agent,
    policy: Policy,
    env_id: str,
    mode: Mode,
    *,
    episodes: int,
    seed: int,
    env_kwargs: dict[str, Any] | None = None,
    watch: Watch = unwatched,
) -> list[EpisodeRow]:
    """Play whole episodes, side by side.

    Args:
        agent: The agent.
        policy: Its parameters.
        env_id: Task.
        mode: How actions are drawn.
        episodes: Number of episodes, each in its own environment.
        seed: Seed of the environments and of the actions.
        env_kwargs: Keyword arguments of the task.
        watch: Told of every step.

    Returns:
        A row per episode, in order.

    Raises:
        SimpoError: The task never ends, or whatever `make` refuses.
    """
    env = make(env_id, episodes, seed=seed, env_kwargs=env_kwargs)
    act, key = compile_act(agent, mode), jax.random.key(seed)
    rows: dict[int, EpisodeRow] = {}
    obs, step, path = env.reset(), 0, np.zeros(episodes)
    while len(rows) < episodes:
        action = np.asarray(act(policy, obs, key, step))
        stepped = env.step(action)
        watch(action, stepped)
        obs, step, path = stepped.obs, step + 1, path + speeds(stepped)
        for e in stepped.episodes:
            speed = None if np.isnan(path[e.env]) else float(path[e.env] / e.length)
            row = EpisodeRow(mode.label, e.env, e.return_, e.length, speed)
            rows.setdefault(e.env, row)
        if step >= LIMIT:
            raise SimpoError(
                f"episodes of {env_id} do not end within {LIMIT:,} steps; "
                "give the task a time limit"
            )
    env.close()
    return [rows[i] for i in range(episodes)]


def speeds(step: Step) -> np.ndarray:
    """What a task says of its speed at a step [E]; NaN where it says nothing."""
    told, shape = np.asarray(step.info.get("speed")), step.valid.shape
    is_number = told.shape == shape and np.issubdtype(told.dtype, np.floating)
    return told if is_number else np.full(shape, np.nan)


def measure_latency(
    agent: Agent,
    policy: Policy,
    obs: np.ndarray,
    mode: Mode,
    *,
    calls: int = CALLS,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time single actions, compilation left out.

    Args:
        agent: The agent.
        policy: Its parameters.
        obs: An observation [1, O], on the host.
        mode: How actions are drawn.
        calls: Actions to time.
        clock: Seconds.
    """
    act, key = compile_act(agent, mode), jax.random.key(0)
    np.asarray(act(policy, obs, key, 0))
    seconds = []
    for step in range(calls):
        started = clock()
        np.asarray(act(policy, obs, key, step))
        seconds.append(clock() - started)
    return Latency(*(1e3 * float(q) for q in np.quantile(seconds, (0.5, 0.95))))
