"""One training run: a task, an agent, and how data and updates alternate."""

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from simpo import envs
from simpo.agents import Agent
from simpo.types import SimpoError

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """One training run: a task, an agent, and how data and updates alternate."""

    env: str
    """Task, any Gymnasium id with a bounded Box of actions."""
    agent: Agent
    """The agent with its hyper-parameters."""
    label: str = ""
    """What the agent is called in folders and tables; its class by default."""
    steps: int = 1_000_000
    """Environment steps in all, over all environments, warm-up included."""
    seed: int = 0
    """Seed of everything."""
    num_envs: int = 5
    """E, environments stepped side by side."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task, as in 'reset_noise_scale=0.2, width=64'."""
    backend: Literal["gymnasium", "envpool"] = "gymnasium"
    """What steps the environments; envpool is an extra."""
    warmup_steps: int = 5_000
    """Steps of uniformly random actions before the first update; 0 on policy."""
    updates_per_step: float = 0.2
    """Gradient updates per environment step; on policy the rollout decides."""
    updates_per_dispatch: int = 1
    """G, updates that run in one compiled call, on data of the steps before it."""
    buffer_size: int = 1_000_000
    """Transitions kept for replay."""
    log_every: int = 1_000
    """Steps between rows of progress.csv."""
    eval_every: int = 50_000
    """Steps between evaluations; there is always one at the start and at the end."""
    eval_episodes: int = 20
    """Episodes per evaluation and sampler."""
    checkpoint_every: int = 10_000
    """Steps between checkpoints, from which a run can be resumed."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """Precision of matrix products on accelerators; CPUs always use float32."""

    def make_env(self, num_envs: int, seed: int) -> envs.ControlEnv:
        """E copies of the task."""
        return envs.make(
            self.env,
            num_envs,
            seed=seed,
            backend=self.backend,
            env_kwargs=self.env_kwargs,
        )

    def check(self) -> None:
        """Reject runs that cannot make one update.

        Raises:
            SimpoError: A number out of range, or too few steps.
        """
        counts = ("steps", "num_envs", "updates_per_dispatch", "log_every")
        counts += ("eval_every", "eval_episodes", "checkpoint_every", "buffer_size")
        for name in counts:
            if getattr(self, name) < 1:
                raise SimpoError(f"{name} must be at least 1")
        for name in ("seed", "warmup_steps"):
            if getattr(self, name) < 0:
                raise SimpoError(f"{name} must not be negative")
        if not 0 < self.updates_per_step < math.inf:
            raise SimpoError("updates_per_step must be positive and finite")
        if self.buffer_size < self.num_envs:
            raise SimpoError("buffer_size must be at least num_envs")
        if not is_json(self.env_kwargs):
            raise SimpoError(
                "env_kwargs must be names with numbers, strings, true, false, null or "
                f"lists of them, not {self.env_kwargs!r}"
            )
        self.check_length()

    def check_length(self) -> None:
        """Require enough steps for an update.

        Raises:
            SimpoError: There are not, or data of other policies for one on policy.
        """
        needed = self.warmup_steps + self.updates_per_dispatch / self.updates_per_step
        if rollout := self.agent.rollout_steps:
            needed = rollout * self.num_envs
            if self.warmup_steps or self.updates_per_dispatch > 1:
                raise SimpoError(
                    f"{type(self.agent).__name__} learns from its own actions: set "
                    "warmup_steps to 0 and updates_per_dispatch to 1"
                )
        if self.steps < needed:
            raise SimpoError(
                f"{self.steps} steps are fewer than the {math.ceil(needed)} that the "
                "first update needs; raise steps or lower "
                + ("rollout_steps" if rollout else "warmup_steps")
            )


def is_json(value: Any) -> bool:
    """Whether a value is the same after it was written as JSON and read back."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False
