"""Evaluation: whole episodes, one row each, the sampler named with every score.

Each of the episodes runs in an environment of its own, so short episodes are not
counted more often than long ones. Evaluations draw from keys and seeds of their own and
leave training as it was.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from simpo.agents import Agent, Mode, Policy, compile_act
from simpo.envs import make
from simpo.types import SimpoError

__all__ = ["EpisodeRow", "evaluate"]

LIMIT = 100_000
"""Steps after which an evaluation gives up on a task that never ends."""


class EpisodeRow(NamedTuple):
    """One evaluation episode.

    Attributes:
        sampler: How actions were drawn, `single` or `best-of-n`.
        episode: Index of the episode.
        return_: Undiscounted sum of rewards.
        length: Steps.
    """

    sampler: str
    episode: int
    return_: float
    length: int


def evaluate(
    agent: Agent,
    policy: Policy,
    env_id: str,
    mode: Mode,
    *,
    episodes: int,
    seed: int,
    env_kwargs: dict[str, Any] | None = None,
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

    Returns:
        A row per episode, in order.

    Raises:
        SimpoError: The task never ends, or whatever `make` refuses.
    """
    env = make(env_id, episodes, seed=seed, env_kwargs=env_kwargs)
    act, key = compile_act(agent, mode), jax.random.key(seed)
    rows: dict[int, EpisodeRow] = {}
    obs, step = env.reset(), 0
    while len(rows) < episodes:
        stepped = env.step(np.asarray(act(policy, obs, key, step)))
        obs, step = stepped.obs, step + 1
        for e in stepped.episodes:
            rows.setdefault(e.env, EpisodeRow(mode.label, e.env, e.return_, e.length))
        if step >= LIMIT:
            raise SimpoError(
                f"episodes of {env_id} do not end within {LIMIT:,} steps; "
                "give the task a time limit"
            )
    env.close()
    return [rows[i] for i in range(episodes)]
