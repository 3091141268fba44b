"""The authors' later port (GeMPO): v5 tasks, one environment, an update per step."""

from dataclasses import replace

from simpo.agents import SiMPO
from simpo.generative import DDPM, Diffusion
from simpo.matching import ClippedError
from simpo.presets.base import Preset, Row
from simpo.run import Run
from simpo.temperature import DualAscent, EntropyTarget
from simpo.weighting import Exponential, Linear

__all__ = ["PORT"]

GEMPO = SiMPO(
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
DPMD = replace(GEMPO, weighting=Exponential(), bound=ClippedError(limit=3.0))


def with_target(agent: SiMPO, nats: float) -> SiMPO:
    """The agent with another KL target."""
    return replace(agent, temperature=DualAscent(target=EntropyTarget(nats=nats)))


PORT = Preset(
    source="the authors' port, GeMPO; its random actions count as steps",
    run=Run(
        env="HalfCheetah-v5",
        agent=GEMPO,
        label="SiMPO",
        steps=1_000_000,
        num_envs=1,
        warmup_steps=5_000,
        updates_per_step=1.0,
        log_every=5_000,
        eval_every=10_000,
        eval_episodes=10,
    ),
    rows={
        "SiMPO": Row(
            GEMPO,
            "configuration of GeMPO, last version",
            tasks={"Hopper": with_target(GEMPO, 2.5), "Ant": with_target(GEMPO, 1.5)},
        ),
        "DPMD": Row(
            DPMD,
            "configuration of DPMD in the same port",
            tasks={"Hopper": with_target(DPMD, 3.0), "Ant": with_target(DPMD, 1.0)},
        ),
    },
    families=("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "Swimmer"),
)
