"""Stage II's models: paths from noise to actions, their losses and their samplers."""

from simpo.generative.base import GenerativeModel
from simpo.generative.diffusion import (
    DDIM,
    DDPM,
    Clean,
    Diffusion,
    DPMSolver2M,
    Noise,
    Velocity,
)
from simpo.generative.flow import Euler, Flow, Heun
from simpo.generative.schedule import VE, VP, Cosine, Linear, StraightPath

__all__ = [
    "DDIM",
    "DDPM",
    "MODELS",
    "VE",
    "VP",
    "Clean",
    "Cosine",
    "DPMSolver2M",
    "Diffusion",
    "Euler",
    "Flow",
    "GenerativeModel",
    "Heun",
    "Linear",
    "Noise",
    "StraightPath",
    "Velocity",
]

MODELS = (Diffusion, Flow)
"""The union of generative models."""
