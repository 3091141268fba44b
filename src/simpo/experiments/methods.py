"""The methods of Table 2: rows of a preset, and SiMPO with every weighting.

SiMPO's methods differ in the weighting alone. `DPMD` is the released algorithm, since
DPMD's weights in SiMPO's loop are SiMPO-Exp itself.
"""

from collections.abc import Mapping
from dataclasses import replace

from simpo.agents import SiMPO
from simpo.presets import find
from simpo.run import Run
from simpo.weighting import (
    Exponential,
    InverseGap,
    Linear,
    Power,
    Square,
    Weighting,
)

__all__ = ["BASELINES", "BEYOND", "DIFFUSION", "METHODS", "WEIGHTINGS", "run_of"]

WEIGHTINGS: Mapping[str, Weighting] = {
    "SiMPO-Exp": Exponential(),
    "SiMPO-Square": Square(),
    "SiMPO-Linear": Linear(),
    "SiMPO-LinNeg": Linear(floor=-0.2),
    "SiMPO-SqrNeg": Square(floor=-0.2),
    "SiMPO-Power3": Power(3.0),
    "SiMPO-InverseGap": InverseGap(),
}
"""SiMPO's methods; LinNeg and SqrNeg are the paper's Lin. Neg. and Sqr. Neg."""
BEYOND = ("SiMPO-SqrNeg", "SiMPO-Power3", "SiMPO-InverseGap")
"""Methods that the paper's table does not have."""
BASELINES: Mapping[str, str] = {
    "TD3": "TD3",
    "SAC": "SAC",
    "PPO": "PPO",
    "QSM": "QSM",
    "DIPO": "DIPO",
    "DACER": "DACER",
    "QVPO": "QVPO",
    "DPPO": "DPPO",
    "DPMD": "ReleasedDPMD",
    "SDAC": "SDAC",
}
"""Baselines, each with its row in the presets."""
DIFFUSION = ("QSM", "DIPO", "DACER", "QVPO", "DPPO", "DPMD", "SDAC")
"""Baselines whose policy is a diffusion or flow model."""
METHODS = (*WEIGHTINGS, *BASELINES)


def run_of(scale: str, task: str, method: str, seed: int) -> Run:
    """What a method trains on a task at a scale, which is a preset's name."""
    if method in BASELINES:
        run = find(scale, task, BASELINES[method])
        return replace(run, label=method, seed=seed)
    run = find(scale, task, "SiMPO")
    assert isinstance(run.agent, SiMPO)
    agent = replace(run.agent, weighting=WEIGHTINGS[method])
    return replace(run, agent=agent, label=method, seed=seed)
