"""The agents; the union at the end is their registry."""

from simpo.agents.base import (
    Agent,
    Mode,
    Policy,
    compile_act,
    compile_decide,
    compile_init,
    compile_updates,
)
from simpo.agents.dacer import DACER
from simpo.agents.dipo import DIPO
from simpo.agents.dpmd import ReleasedDPMD
from simpo.agents.dppo import DPPO
from simpo.agents.idem import IDEM
from simpo.agents.ppo import PPO
from simpo.agents.qsm import QSM
from simpo.agents.qvpo import QVPO
from simpo.agents.sac import SAC
from simpo.agents.sdac import SDAC
from simpo.agents.simpo import SiMPO
from simpo.agents.td3 import TD3

__all__ = [
    "AGENTS",
    "DACER",
    "DIPO",
    "DPPO",
    "IDEM",
    "PPO",
    "QSM",
    "QVPO",
    "SAC",
    "SDAC",
    "TD3",
    "Agent",
    "Mode",
    "Policy",
    "ReleasedDPMD",
    "SiMPO",
    "compile_act",
    "compile_decide",
    "compile_init",
    "compile_updates",
]

AGENTS = (
    SiMPO,
    ReleasedDPMD,
    SDAC,
    QVPO,
    QSM,
    IDEM,
    DACER,
    DIPO,
    DPPO,
    PPO,
    SAC,
    TD3,
)
"""The union of agents."""
