"""Gymnasium ids of this package: strings only, so that nothing heavy is loaded.

Gymnasium 1 looks for no plug-ins: it knows the ids once `simpo.envs` is imported, which
`gymnasium.make("simpo.envs:simpo/BanditTwoPeaks-v0")` does by itself.
"""

from typing import Any, NamedTuple

import gymnasium

__all__ = ["TASKS", "Task", "register"]


class Task(NamedTuple):
    """What Gymnasium has to know of a task.

    Attributes:
        entry_point: What builds it, as "module:name"; loaded when it is first made.
        max_episode_steps: Its time limit, if it has one.
        kwargs: What is passed to the entry point.
    """

    entry_point: str
    max_episode_steps: int | None = None
    kwargs: dict[str, Any] = {}  # noqa: RUF012


def _runs(body: str) -> dict[str, Task]:
    return {
        f"simpo/{body.capitalize()}Run-{curve}-v0": Task(
            "simpo.envs.landscapes:Landscape", 1000, {"body": body, "curve": curve}
        )
        for curve in ("sqrt", "linear", "square", "exp")
    }


TASKS = {
    "simpo/BanditTwoPeaks-v0": Task("simpo.envs.bandit:two_peaks"),
    **_runs("cheetah"),
    **_runs("walker"),
}
"""Tasks by id."""


def register() -> None:
    """Make the ids known to `gymnasium.make`; those it knows already stay."""
    for env_id, task in TASKS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, **task._asdict())
