"""Presets: named settings of a run, each with where its values come from.

paper    Table F.1 and Section 5.2 of the paper; v4 tasks, 200k updates in 1M steps
port     the authors' later port (GeMPO); v5 tasks, one update per step
laptop   small networks, few denoising steps: minutes on two cores

`find(name, env)` gives the run; options then change single fields.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from simpo.agents import Agent, SiMPO
from simpo.generative import DDPM, Diffusion, Flow
from simpo.matching import ClippedError
from simpo.temperature import DualAscent, EntropyTarget, Solved
from simpo.trainer import Run
from simpo.types import SimpoError
from simpo.weighting import Linear

__all__ = ["DEFAULT_ENV", "DEFAULT_PRESET", "PRESETS", "Preset", "find"]

DEFAULT_PRESET, DEFAULT_ENV = "laptop", "InvertedDoublePendulum-v5"
"""What `simpo train` without arguments does."""


@dataclass(frozen=True)
class Preset:
    """Settings under a name."""

    source: str
    """Where the values come from."""
    run: Run
    """Settings for any task."""
    tasks: Mapping[str, Agent] = field(default_factory=dict)
    """Agents of tasks that need other values, by id."""

    def at(self, env: str) -> Run:
        """The run for a task."""
        return replace(self.run, env=env, agent=self.tasks.get(env, self.run.agent))


PAPER = SiMPO(
    weighting=Linear(floor=-0.2),
    temperature=DualAscent(target=EntropyTarget(nats=1.5)),
    model=Diffusion(denoising_steps=20),
    candidates=32,
    actor_lr=3e-4,
    actor_lr_end=3e-5,
    actor_lr_updates=200_000,
)

PORT = SiMPO(
    weighting=Linear(floor=0.0),
    temperature=DualAscent(target=EntropyTarget(nats=2.0)),
    model=Diffusion(sampler=DDPM(fixed_large=True), denoising_steps=20),
    bound=ClippedError(limit=5.0),
    candidates=64,
    candidate_noise=0.2,
    actor_lr=1e-4,
    actor_lr_updates=0,
    critic_width=256,
    critic_depth=2,
    critic_activation="relu",
)


def port_with(nats: float) -> SiMPO:
    """The port's agent with another KL target."""
    return replace(PORT, temperature=DualAscent(target=EntropyTarget(nats=nats)))


LAPTOP = SiMPO(
    weighting=Linear(floor=-0.2),
    temperature=Solved(target=EntropyTarget(nats=0.5)),
    model=Flow(denoising_steps=5),
    candidates=8,
    candidate_noise=0.3,
    behaviour_interval=100,
    batch_size=128,
    tau=0.01,
    reward_scale=0.1,
    actor_lr=1e-3,
    actor_lr_end=1e-4,
    actor_lr_updates=11_000,
    critic_lr=1e-3,
    width=128,
    depth=2,
    activation="relu",
    critic_width=128,
    critic_depth=2,
    critic_activation="relu",
)

PRESETS: dict[str, Preset] = {
    "laptop": Preset(
        source="ours; minutes on two cores",
        run=Run(
            env=DEFAULT_ENV,
            agent=LAPTOP,
            steps=45_000,
            num_envs=4,
            warmup_steps=1_000,
            updates_per_step=0.25,
            updates_per_dispatch=16,
            log_every=500,
            eval_every=7_500,
        ),
        # whose peaks are narrower than the noise
        tasks={"simpo/BanditTwoPeaks-v0": replace(LAPTOP, candidate_noise=0.1)},
    ),
    "paper": Preset(
        source="paper, Table F.1, Sections 5.2 and 5.4; where it is silent, method.md",
        run=Run(
            env="HalfCheetah-v4",
            agent=PAPER,
            steps=1_030_000,
            num_envs=5,
            warmup_steps=30_000,
            updates_per_step=0.2,
            log_every=5_000,
            eval_every=50_000,
        ),
    ),
    "port": Preset(
        source="the authors' port, GeMPO; its random actions count as steps",
        run=Run(
            env="HalfCheetah-v5",
            agent=PORT,
            steps=1_000_000,
            num_envs=1,
            warmup_steps=5_000,
            updates_per_step=1.0,
            log_every=5_000,
            eval_every=10_000,
            eval_episodes=10,
        ),
        tasks={"Hopper-v5": port_with(2.5), "Ant-v5": port_with(1.5)},
    ),
}
"""Every preset by name."""


def find(name: str, env: str | None = None) -> Run:
    """The run of a preset, for its own task or another.

    Raises:
        SimpoError: No such preset.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose {', '.join(PRESETS)}"
        raise SimpoError(f"unknown preset '{name}'; {hint}")
    preset = PRESETS[name]
    return preset.run if env is None else preset.at(env)
