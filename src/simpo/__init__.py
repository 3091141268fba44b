"""Reinforcement learning of diffusion and flow policies by signed reweighting."""

__version__ = "0.1.0"
