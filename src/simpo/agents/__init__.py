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
from simpo.agents.simpo import SiMPO

__all__ = [
    "AGENTS",
    "Agent",
    "Mode",
    "Policy",
    "SiMPO",
    "compile_act",
    "compile_decide",
    "compile_init",
    "compile_updates",
]

AGENTS = (SiMPO,)
"""The union of agents."""
