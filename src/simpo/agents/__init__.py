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
from simpo.agents.dpmd import ReleasedDPMD
from simpo.agents.ppo import PPO
from simpo.agents.sac import SAC
from simpo.agents.simpo import SiMPO
from simpo.agents.td3 import TD3

__all__ = [
    "AGENTS",
    "PPO",
    "SAC",
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

AGENTS = (SiMPO, ReleasedDPMD, PPO, SAC, TD3)
"""The union of agents."""
