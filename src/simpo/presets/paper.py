"""The paper's protocol: five environments, 200k updates in a million steps, v4 tasks.

The random steps come on top of the million. Values of SiMPO are those of Table F.1 and
Section 5; the paper says of its baselines only that they run under the same protocol,
so each takes its original defaults, and, where it has a generative policy, the table's
networks and learning rates.
"""

from dataclasses import replace
from typing import Any

from simpo.agents import (
    DACER,
    DIPO,
    DPPO,
    IDEM,
    PPO,
    QSM,
    QVPO,
    SAC,
    SDAC,
    TD3,
    ReleasedDPMD,
    SiMPO,
)
from simpo.generative import Diffusion
from simpo.presets.base import ON_POLICY, Preset, Row
from simpo.run import Run
from simpo.temperature import DualAscent, EntropyTarget
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

DACER_PAPER = DACER(actor_lr=1e-4, critic_lr=1e-4)
DIPO_PAPER = DIPO(actor_lr_updates=0, new_pairs=5)
WIDE_NOISE = replace(DACER_PAPER, noise_factor=0.15)

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
        "SDAC": Row(SDAC(**TABLE), SOURCE),
        "QVPO": Row(QVPO(uniform_weight_updates=200_000), OWN),
        "QSM": Row(QSM(**TABLE), SOURCE),
        "IDEM": Row(IDEM(**TABLE), SOURCE),
        "DACER": Row(
            DACER_PAPER,
            OWN + "; its noise per task",
            tasks={"Humanoid": WIDE_NOISE, "HalfCheetah": WIDE_NOISE},
        ),
        "DIPO": Row(
            DIPO_PAPER,
            OWN + "; its settings per task, none for Swimmer",
            tasks={
                "Hopper": replace(DIPO_PAPER, action_norm=0.3, max_grad_norm=1.0),
                "Walker2d": replace(DIPO_PAPER, action_norm=0.08),
                "Ant": replace(DIPO_PAPER, max_grad_norm=0.8),
                "HalfCheetah": replace(
                    DIPO_PAPER, action_norm=0.08, action_steps=40, target_interval=2
                ),
            },
        ),
        "DPPO": Row(
            DPPO(),
            OWN,
            run={**ON_POLICY, "steps": 1_000_000, "eval_every": 50_000},
        ),
        "SAC": Row(SAC(), OWN),
        "TD3": Row(TD3(), OWN),
        "PPO": Row(
            PPO(), OWN, run={**ON_POLICY, "steps": 1_000_000, "eval_every": 49_200}
        ),
    },
    families=("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "Swimmer"),
)
