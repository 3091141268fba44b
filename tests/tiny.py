"""The smallest agents, runs, batches and tasks that still go through everything."""

from dataclasses import fields

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

from simpo.agents import SiMPO, compile_decide, compile_init
from simpo.generative import Diffusion, Flow
from simpo.run import Run
from simpo.temperature import Fixed
from simpo.types import EnvSpec, Rollout, Transition

SPEC = EnvSpec(obs_dim=3, action_dim=2)
SMALL = {
    "width": 8,
    "depth": 1,
    "critic_width": 8,
    "critic_depth": 1,
    "candidates": 4,
    "proposals": 4,
    "candidate_noise": 0.3,
    "batch_size": 8,
    "best_of": 3,
    "behaviour_interval": 2,
    "temperature": Fixed(0.1),
    "model": Flow(denoising_steps=2),
    "reward_scale": 0.5,
    "gamma": 0.9,
    "tau": 0.1,
    "actor_lr": 1e-2,
    "actor_lr_updates": 10,
    "critic_lr": 1e-2,
}


def tiny(cls=SiMPO, **changes):
    """An agent of any class, small in whichever of these fields it has."""
    types = {field.name: field.type for field in fields(cls)}
    small = {k: v for k, v in SMALL.items() if k in types}
    if types.get("model") is Diffusion:  # some learn scores
        small["model"] = Diffusion(denoising_steps=2)
    return cls(**small | changes)


def tiny_run(**changes):
    """A run of two hundred steps of a real task."""
    values = {
        "env": "InvertedPendulum-v5",
        "agent": tiny(),
        "steps": 200,
        "num_envs": 2,
        "warmup_steps": 40,
        "updates_per_step": 0.25,
        "updates_per_dispatch": 4,
        "log_every": 50,
        "eval_every": 100,
        "eval_episodes": 2,
    }
    return Run(**values | changes)


def batches(updates=4, batch=8, seed=0, spec=SPEC):
    """G random batches of B transitions; some terminate."""
    rng = np.random.default_rng(seed)
    lead = (updates, batch)
    return Transition(
        obs=rng.normal(size=(*lead, spec.obs_dim)).astype(np.float32),
        action=rng.uniform(-1, 1, (*lead, spec.action_dim)).astype(np.float32),
        reward=rng.normal(size=lead).astype(np.float32),
        discount=rng.integers(0, 2, lead).astype(np.float32),
        next_obs=rng.normal(size=(*lead, spec.obs_dim)).astype(np.float32),
    )


def rollouts(agent, updates=4, steps=6, envs=2, seed=0, spec=SPEC):
    """G rollouts [G, T, E, ...] of a fresh policy; what it meets is random."""
    rng = np.random.default_rng(seed)
    lead = (updates, steps, envs)
    policy = agent.policy(compile_init(agent, spec)(jax.random.key(0)))
    obs = rng.normal(size=(*lead, spec.obs_dim)).astype(np.float32)
    flat = obs.reshape(-1, spec.obs_dim)
    decision = compile_decide(agent)(policy, flat, jax.random.key(seed), 0)
    discount = rng.integers(0, 2, lead).astype(np.float32)
    return Rollout(
        obs=obs,
        decision=np.asarray(decision).reshape(*lead, -1),
        reward=rng.normal(size=lead).astype(np.float32),
        discount=discount,
        last=np.maximum(1 - discount, rng.integers(0, 2, lead)).astype(np.float32),
        next_obs=rng.normal(size=(*lead, spec.obs_dim)).astype(np.float32),
    )


def experience(agent, updates=4, seed=0, spec=SPEC):
    """What G updates of an agent take: transitions from replay, or rollouts."""
    if agent.rollout_steps:
        return rollouts(agent, updates, seed=seed, spec=spec)
    return batches(updates, seed=seed, spec=spec)


class Fuse(gymnasium.Env):
    """A task of InvertedPendulum's dimensions that goes wrong after some steps.

    What is given is then added to each reward, observation or first observation.
    """

    def __init__(self, after=15, reward=0.0, obs=0.0, first=0.0):
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = spaces.Box(-3, 3, (1,), np.float32)
        self.after, self.wrong = after, {"reward": reward, "obs": obs, "first": first}
        self.steps = 0

    def _add(self, value, name):
        return value + self.wrong[name] if self.steps > self.after else value

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._add(self.np_random.normal(size=4), "first"), {}

    def step(self, action):
        self.steps += 1
        obs = self._add(self.np_random.normal(size=4), "obs")
        return obs, self._add(1.0, "reward"), False, False, {}


class Named(gymnasium.Env):
    """Balancing InvertedPendulum, observed under names; units may be chosen."""

    def __init__(self, unit=1.0, offset=0.0):
        self.inner = gymnasium.make("InvertedPendulum-v5")
        self.action_space = self.inner.action_space
        box = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = spaces.Dict({"velocity": box, "angle": box})
        self.unit, self.offset = unit, offset

    def _named(self, obs):
        obs = self.unit * obs + self.offset
        return {"angle": obs[:2], "velocity": obs[2:]}

    def reset(self, *, seed=None, options=None):
        obs, info = self.inner.reset(seed=seed)
        return self._named(obs), info

    def step(self, action):
        obs, *rest = self.inner.step(action)
        return self._named(obs), *rest
