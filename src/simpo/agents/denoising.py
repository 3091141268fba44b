"""Denoising steps as a setting of a trained agent: fewer act faster."""

from dataclasses import replace
from typing import Any

from simpo.agents.base import Agent
from simpo.agents.qsm import Langevin
from simpo.types import SimpoError

__all__ = ["denoising_steps", "with_denoising_steps"]


def denoising_steps(agent: Agent) -> int | None:
    """T, of agents that act by a generative model; None of others."""
    if isinstance(getattr(agent, "dynamics", None), Langevin):
        return None
    return getattr(getattr(agent, "model", None), "denoising_steps", None)


def with_denoising_steps(agent: Agent, steps: int) -> Agent:
    """The agent with T denoising steps.

    Raises:
        SimpoError: It has none to set.
    """
    if denoising_steps(agent) is None:
        raise SimpoError(
            f"{type(agent).__name__} has no denoising steps: leave out "
            "--denoising-steps"
        )
    model: Any = getattr(agent, "model", None)
    changes: Any = {"model": replace(model, denoising_steps=steps)}
    return replace(agent, **changes)
