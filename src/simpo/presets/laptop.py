"""Small networks and few denoising steps: minutes on two cores.

All agents learn from the same number of steps with networks, batches and discounts of
the same size; what is particular to an agent keeps its default. Locomotion takes longer
than the pendulum, 20,000 updates instead of 11,000, and other values of SiMPO.
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
from simpo.agents.qsm import Langevin
from simpo.generative import Diffusion, Flow
from simpo.presets.base import ON_POLICY, Preset, Row
from simpo.run import Run
from simpo.temperature import EntropyTarget, Solved
from simpo.weighting import Exponential, Linear

__all__ = ["LAPTOP"]

NETWORKS: dict[str, Any] = {
    "width": 128,
    "depth": 2,
    "activation": "relu",
    "critic_width": 128,
    "critic_depth": 2,
    "critic_activation": "relu",
}
REPLAY: dict[str, Any] = {
    **NETWORKS,
    "batch_size": 128,
    "tau": 0.01,
    "reward_scale": 0.1,
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
}
FLOW, DIFFUSION = Flow(denoising_steps=5), Diffusion(denoising_steps=5)
SOURCE = "the laptop protocol with the agent's own defaults"
LOCOMOTION_TASKS = (
    *("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "Swimmer"),
    *(
        f"simpo/{body}Run-{reward}"
        for body in ("Cheetah", "Walker")
        for reward in ("sqrt", "linear", "square", "exp")
    ),
)
"""Ids without version."""


def annealed(updates: int) -> dict[str, Any]:
    """Fields of an actor whose rate falls to a tenth by the end."""
    return {"actor_lr_end": 1e-4, "actor_lr_updates": updates}


def rows(simpo: Row, updates: int) -> dict[str, Row]:
    """All agents, for a number of updates.

    Args:
        simpo: SiMPO's; DPMD takes its values, all take its scale of rewards.
        updates: Of agents that learn from replay.
    """
    ours: Any = simpo.agent
    replay, last = {**REPLAY, "reward_scale": ours.reward_scale}, annealed(updates)
    return {
        "SiMPO": simpo,
        "DPMD": Row(
            replace(ours, weighting=Exponential()),
            "SiMPO's values with exponential weights",
        ),
        "ReleasedDPMD": Row(
            ReleasedDPMD(
                model=FLOW,
                target_samples=8,
                acting_samples=8,
                best_of=8,
                initial_alpha=3.0,
                alpha_interval=25,
                **replay,
                **last,
            ),
            SOURCE + "; 8 samples, noise tuned ten times as often",
        ),
        "SDAC": Row(
            SDAC(model=DIFFUSION, proposals=32, **replay, **last),
            SOURCE + "; 32 proposals",
        ),
        "QVPO": Row(
            QVPO(
                model=FLOW,
                candidates=8,
                uniform_weight_updates=updates,
                **replay,
                **last,
            ),
            SOURCE + "; 8 candidates",
        ),
        "QSM": Row(
            QSM(dynamics=Langevin(step_size=0.1), **replay, **last),
            SOURCE + "; Langevin dynamics, tuned on InvertedDoublePendulum-v5",
        ),
        "IDEM": Row(
            IDEM(model=DIFFUSION, proposals=32, **replay, **last),
            SOURCE + "; 32 proposals",
        ),
        "DACER": Row(
            replace(
                DACER(model=DIFFUSION, alpha=2.0, alpha_interval=500, **replay),
                actor_lr=1e-4,
            ),
            SOURCE + "; noise tuned twenty times as often, its authors' actor_lr",
        ),
        "DIPO": Row(
            DIPO(model=FLOW, pairs=20_000, new_pairs=4, **replay, **last),
            SOURCE + "; 20,000 pairs, as many new ones as there are new steps",
        ),
        "DPPO": Row(
            DPPO(
                model=DIFFUSION,
                std_floor=0.2,
                clip_range=0.2,
                clip_base=0.2,
                rollout_steps=128,
                batch_size=256,
                actor_lr=1e-3,
                width=128,
                depth=2,
                critic_width=128,
                critic_depth=2,
            ),
            SOURCE + "; tuned on InvertedDoublePendulum-v5",
            run=ON_POLICY,
        ),
        "SAC": Row(SAC(alpha_lr=1e-3, **replay), SOURCE),
        "TD3": Row(TD3(**replay), SOURCE),
        "PPO": Row(
            PPO(rollout_steps=128, actor_lr=1e-3, critic_lr=1e-3),
            SOURCE + "; tuned on InvertedDoublePendulum-v5",
            run=ON_POLICY,
        ),
    }


PENDULUM = SiMPO(
    weighting=Linear(floor=-0.2),
    temperature=Solved(target=EntropyTarget(nats=0.5)),
    model=FLOW,
    candidates=8,
    candidate_noise=0.3,
    behaviour_interval=100,
    **REPLAY,
    **annealed(11_000),
)

RUN = Run(
    env="InvertedDoublePendulum-v5",
    agent=PENDULUM,
    label="SiMPO",
    steps=45_000,
    num_envs=4,
    warmup_steps=1_000,
    updates_per_step=0.25,
    log_every=500,
    eval_every=7_500,
)

WALKER = replace(PENDULUM, candidate_noise=0.2, reward_scale=0.35, **annealed(20_000))

LOCOMOTION = Preset(
    source="ours; three minutes on one core",
    run=replace(
        RUN, env="HalfCheetah-v5", agent=WALKER, steps=81_000, eval_every=20_250
    ),
    rows=rows(
        Row(
            WALKER,
            "candidate noise and reward scale from an undecided sweep on "
            "HalfCheetah-v5 (docs/sweeps.md), the rest from the pendulum's",
        ),
        20_000,
    ),
)

LAPTOP = Preset(
    source="ours; minutes on two cores",
    run=RUN,
    rows=rows(
        Row(
            PENDULUM,
            "tuned on InvertedDoublePendulum-v5",
            # whose peaks are narrower than the noise
            tasks={"simpo/BanditTwoPeaks": replace(PENDULUM, candidate_noise=0.1)},
        ),
        11_000,
    ),
    others=dict.fromkeys(LOCOMOTION_TASKS, LOCOMOTION),
)
