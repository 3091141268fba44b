"""The paper's protocol: five environments, 200k updates in a million steps, v4 tasks.

The random steps come on top of the million. Values of SiMPO are those of Table F.1 and
Section 5; the paper says of its baselines only that they run under the same protocol,
so each takes its original defaults, and, where it has a generative policy, the table's
networks and learning rates.
"""

from dataclasses import replace
from typing import Any

from simpo.agents import PPO, SAC, TD3, ReleasedDPMD, SiMPO
from simpo.generative import Diffusion
from simpo.presets.base import ON_POLICY, Preset, Row
from simpo.temperature import DualAscent, EntropyTarget
from simpo.trainer import Run
from simpo.weighting import Exponential, Linear

__all__ = ["PAPER"]

TABLE: dict[str, Any] = {
    "width": 256,
    "depth": 3,
    "activation": "mish",
    "critic_width": 256,
    "critic_depth": 3,
    "critic_activation": "mish",
    "actor_lr": 3e-4,
    "actor_lr_end": 3e-5,
    "actor_lr_updates": 200_000,
}
"""Table F.1."""
SOURCE = "defaults of its paper and code; networks and rates of Table F.1"
OWN = "defaults of its paper and code"

SIMPO = SiMPO(
    weighting=Linear(floor=-0.2),
    temperature=DualAscent(target=EntropyTarget(nats=1.5)),
    model=Diffusion(denoising_steps=20),
    candidates=32,
    **TABLE,
)

PAPER = Preset(
    source="paper, Table F.1, Sections 5.2 and 5.4; where it is silent, method.md",
    run=Run(
        env="HalfCheetah-v4",
        agent=SIMPO,
        label="SiMPO",
        steps=1_030_000,
        num_envs=5,
        warmup_steps=30_000,
        updates_per_step=0.2,
        log_every=5_000,
        eval_every=50_000,
    ),
    rows={
        "SiMPO": Row(SIMPO, "Table F.1, Sections 5.2 and 5.4"),
        "DPMD": Row(
            replace(SIMPO, weighting=Exponential()), "SiMPO with exponential weights"
        ),
        "ReleasedDPMD": Row(ReleasedDPMD(**TABLE), SOURCE),
        "SAC": Row(SAC(), OWN),
        "TD3": Row(TD3(), OWN),
        "PPO": Row(
            PPO(), OWN, run={**ON_POLICY, "steps": 1_000_000, "eval_every": 49_200}
        ),
    },
    families=("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "Swimmer"),
)
