"""What a preset is: a protocol, and a row of values per agent with its source."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from simpo.agents import Agent
from simpo.run import Run
from simpo.types import SimpoError

__all__ = ["ON_POLICY", "Preset", "Row", "no_such"]

ON_POLICY: Mapping[str, Any] = {"warmup_steps": 0, "updates_per_dispatch": 1}
"""What a run of an agent on policy is without: random actions, replay."""


def no_such(what: str, name: str, choices: list[str]) -> SimpoError:
    """The error for a name that is not there, with the nearest that is."""
    import difflib

    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), lower, 1)
    hint = f"did you mean '{lower[near[0]]}'?" if near else ""
    return SimpoError(
        f"unknown {what} '{name}'; {hint or 'choose ' + ', '.join(choices)}"
    )


@dataclass(frozen=True)
class Row:
    """An agent under a preset's protocol."""

    agent: Agent
    """Its hyper-parameters for any task."""
    source: str
    """Where they come from."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the run that are not the protocol's."""
    tasks: Mapping[str, Agent] = field(default_factory=dict)
    """Agents of tasks that need other values, by id or by id without version."""

    def at(self, env: str) -> Agent:
        """The agent for a task."""
        return self.tasks.get(env, self.tasks.get(family_of(env), self.agent))


def family_of(env: str) -> str:
    """A task's id without its version."""
    return env.rpartition("-")[0]


@dataclass(frozen=True)
class Preset:
    """A protocol under a name, and the agents that it has values for."""

    source: str
    """Where the protocol comes from."""
    run: Run
    """Settings of all runs; its agent is the first row's."""
    rows: Mapping[str, Row]
    """Agents by name."""
    families: tuple[str, ...] = ()
    """Tasks without version that it has values for; any if empty."""
    others: Mapping[str, "Preset"] = field(default_factory=dict)
    """Protocols of tasks that need another, by id without version."""

    def at(self, name: str, env: str, agent: str) -> Run:
        """The run of an agent on a task.

        Raises:
            SimpoError: No values for this agent or this task.
        """
        if other := self.others.get(family_of(env)):
            return other.at(name, env, agent)
        rows = {key.lower(): (key, row) for key, row in self.rows.items()}
        if agent.lower() not in rows:
            raise no_such(f"agent of preset {name}", agent, list(self.rows))
        if self.families and family_of(env) not in self.families:
            raise SimpoError(
                f"the preset {name} has no values for {env}: it is for "
                f"{', '.join(self.families)}; use --preset laptop"
            )
        label, row = rows[agent.lower()]
        changes = {"env": env, "agent": row.at(env), "label": label, **row.run}
        return replace(self.run, **changes)
