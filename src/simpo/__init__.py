"""Reinforcement learning of diffusion and flow policies by signed reweighting.

`simpo.train(agent, env, ...)` trains, `simpo.load(path).predict(obs)` acts; agents,
weightings and generative models are `simpo.SiMPO`, `simpo.Linear`, `simpo.Flow`, ...
Names are loaded on first use, so that `import simpo` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from simpo.agents import DACER as DACER
    from simpo.agents import DIPO as DIPO
    from simpo.agents import DPPO as DPPO
    from simpo.agents import IDEM as IDEM
    from simpo.agents import PPO as PPO
    from simpo.agents import QSM as QSM
    from simpo.agents import QVPO as QVPO
    from simpo.agents import SAC as SAC
    from simpo.agents import SDAC as SDAC
    from simpo.agents import TD3 as TD3
    from simpo.agents import ReleasedDPMD as ReleasedDPMD
    from simpo.agents import SiMPO as SiMPO
    from simpo.callbacks import Callback as Callback
    from simpo.checkpoint import load as load
    from simpo.envs import make as make
    from simpo.evaluation import evaluate as evaluate
    from simpo.generative import Diffusion as Diffusion
    from simpo.generative import Flow as Flow
    from simpo.runs import train as train
    from simpo.temperature import DualAscent as DualAscent
    from simpo.temperature import Fixed as Fixed
    from simpo.temperature import Shared as Shared
    from simpo.temperature import Solved as Solved
    from simpo.types import SimpoError as SimpoError
    from simpo.weighting import Advantage as Advantage
    from simpo.weighting import Centred as Centred
    from simpo.weighting import Custom as Custom
    from simpo.weighting import Exponential as Exponential
    from simpo.weighting import InverseGap as InverseGap
    from simpo.weighting import Linear as Linear
    from simpo.weighting import Power as Power
    from simpo.weighting import SignedSoftmax as SignedSoftmax
    from simpo.weighting import Square as Square

NAMES = {
    "simpo.agents": [
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
        "ReleasedDPMD",
        "SiMPO",
    ],
    "simpo.weighting": [
        "Advantage",
        "Centred",
        "Custom",
        "Exponential",
        "InverseGap",
        "Linear",
        "Power",
        "SignedSoftmax",
        "Square",
    ],
    "simpo.temperature": ["DualAscent", "Fixed", "Shared", "Solved"],
    "simpo.generative": ["Diffusion", "Flow"],
    "simpo.envs": ["make"],
    "simpo.runs": ["train"],
    "simpo.evaluation": ["evaluate"],
    "simpo.callbacks": ["Callback"],
    "simpo.checkpoint": ["load"],
    "simpo.types": ["SimpoError"],
}
"""Public names by module."""

__all__ = [
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
    "Advantage",
    "Callback",
    "Centred",
    "Custom",
    "Diffusion",
    "DualAscent",
    "Exponential",
    "Fixed",
    "Flow",
    "InverseGap",
    "Linear",
    "Power",
    "ReleasedDPMD",
    "Shared",
    "SiMPO",
    "SignedSoftmax",
    "SimpoError",
    "Solved",
    "Square",
    "__version__",
    "evaluate",
    "load",
    "make",
    "train",
]


def __getattr__(name: str) -> Any:
    for module, names in NAMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'simpo' has no attribute '{name}'")
