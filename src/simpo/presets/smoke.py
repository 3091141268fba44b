"""The smallest runs that go through everything: seconds each, nothing is learnt.

Every agent of the laptop preset, with networks, batches and samples cut down.
"""

from dataclasses import fields, replace
from typing import Any

from simpo.agents import Agent
from simpo.presets.base import Preset, Row
from simpo.presets.laptop import LAPTOP

__all__ = ["SMOKE"]

SMALL: dict[str, Any] = {
    "width": 16,
    "depth": 1,
    "critic_width": 16,
    "critic_depth": 1,
    "batch_size": 16,
    "candidates": 4,
    "proposals": 4,
    "target_samples": 2,
    "acting_samples": 2,
    "best_of": 2,
    "pairs": 400,
    "rollout_steps": 20,
    "epochs": 2,
}
"""Fields of agents, each with the most that it may be."""
STEPS = 2


def small(agent: Agent) -> Agent:
    """The agent, with no field above `SMALL` and few denoising steps."""
    present = {f.name: getattr(agent, f.name) for f in fields(agent)}
    changes = {k: min(v, present[k]) for k, v in SMALL.items() if k in present}
    if model := present.get("model"):
        changes["model"] = replace(model, denoising_steps=STEPS)
    return replace(agent, **changes)


def shrink(row: Row) -> Row:
    """A row of the laptop preset, in small; a task's own agents are left out."""
    return Row(small(row.agent), "the laptop preset in small", run=row.run)


SMOKE = Preset(
    source="ours; seconds, to see that everything runs",
    run=replace(
        LAPTOP.run,
        agent=small(LAPTOP.run.agent),
        steps=240,
        num_envs=2,
        warmup_steps=80,
        log_every=80,
        eval_every=240,
        eval_episodes=1,
        env_kwargs={"max_episode_steps": 100},
    ),
    rows={name: shrink(row) for name, row in LAPTOP.rows.items()},
)
