"""Every agent solves five probes, each of which only one part can fail.

constant   reward 1, always                       the critics' loss
observed   reward = s, s = 1 or -1                critics see the state
delayed    reward 1 at the second of two steps    discounting and bootstrapping
acted      reward = 1 - (a - 1/2)^2               the actor
both       reward = 1 - (a - s/2)^2               the actor sees the state

Agents off policy learn from uniformly random actions, agents on policy from their own.
"""

from dataclasses import fields
from typing import NamedTuple

import jax
import numpy as np
import pytest

from simpo.agents import (
    AGENTS,
    DACER,
    Mode,
    compile_act,
    compile_decide,
    compile_init,
    compile_updates,
)
from simpo.generative import Diffusion
from simpo.types import EnvSpec, Rollout, Transition
from tiny import tiny

SPEC = EnvSpec(1, 1)
GAMMA = 0.8
ROUNDS, UPDATES, BATCH = 16, 50, 64
STEPS, ENVS = 8, 32
LEARNING = {
    "width": 32,
    "depth": 2,
    "critic_width": 32,
    "critic_depth": 2,
    "batch_size": BATCH,
    "gamma": GAMMA,
    "tau": 0.05,
    "reward_scale": 1.0,
    "actor_lr": 2e-3,
    "actor_lr_updates": 0,
    "critic_lr": 3e-3,
    "candidates": 8,
    "proposals": 16,
    "behaviour_interval": 20,
    "normalise": False,
    "epochs": 4,
    "alpha": 0.01,
}


class Probe(NamedTuple):
    """A task of one-dimensional states and actions.

    Attributes:
        starts: First states, drawn from evenly.
        target: Value of the best action in each of them, discounted.
        best: Best action there, None where it does not matter.
        two_steps: Whether state 0 leads to state 1 before the episode ends.
        reward: Of states and actions.
    """

    starts: tuple
    target: tuple
    best: tuple | None
    two_steps: bool
    reward: object

    def step(self, obs, action):
        """Reward, discount, next state; all [...]."""
        over = ~(self.two_steps & (obs == 0))
        following = np.where(over, obs, 1.0)
        reward = self.reward(obs, action) * over
        return reward, 1.0 - over, following


PROBES = {
    "constant": Probe((0.0,), (1.0,), None, False, lambda s, a: np.ones_like(s)),
    "observed": Probe((-1.0, 1.0), (-1.0, 1.0), None, False, lambda s, a: s),
    "delayed": Probe((0.0,), (GAMMA,), None, True, lambda s, a: np.ones_like(s)),
    "acted": Probe((0.0,), (1.0,), (0.5,), False, lambda s, a: 1 - (a - 0.5) ** 2),
    "both": Probe(
        (-1.0, 1.0), (1.0, 1.0), (-0.5, 0.5), False, lambda s, a: 1 - (a - s / 2) ** 2
    ),
}


@pytest.fixture(scope="module", params=AGENTS, ids=lambda cls: cls.__name__)
def agent(request):
    types = {field.name: field.type for field in fields(request.param)}
    settings = {k: v for k, v in LEARNING.items() if k in types}
    if types.get("model") is Diffusion:
        settings["model"] = Diffusion(denoising_steps=10)
    if request.param is DACER:
        # Clipped actions have no gradient: a fast actor that reaches the edge of the
        # box before the critics know anything stays there.
        settings["actor_lr"] = 1e-3
    return tiny(request.param, **settings)


def replay(probe, rng):
    """G batches of uniformly random actions."""
    lead = (UPDATES, BATCH)
    states = (*probe.starts, 1.0) if probe.two_steps else probe.starts
    obs = rng.choice(states, lead).astype(np.float32)
    action = rng.uniform(-1, 1, lead).astype(np.float32)
    reward, discount, following = probe.step(obs, action)
    return Transition(
        *(
            np.asarray(x, np.float32)
            for x in (obs[..., None], action[..., None], reward, discount)
        ),
        np.asarray(following, np.float32)[..., None],
    )


def rollout(probe, agent, policy, rng, number):
    """A rollout of the policy as it is."""
    decide, rows = compile_decide(agent), []
    obs = rng.choice(probe.starts, ENVS).astype(np.float32)
    for t in range(STEPS):
        column = obs[:, None]
        decision = np.asarray(decide(policy, column, jax.random.key(number), t))
        action = np.clip(decision[:, -1], -1, 1)
        reward, discount, following = probe.step(obs, action)
        rows.append(
            [column, decision, reward, discount, 1.0 - discount, following[:, None]]
        )
        fresh = rng.choice(probe.starts, ENVS)
        obs = np.where(discount == 0, fresh, following).astype(np.float32)
    columns = zip(*rows, strict=True)
    return Rollout(*(np.stack(c).astype(np.float32)[None] for c in columns))


def train(agent, probe):
    """The policy after half a thousand updates, or a hundred rollouts."""
    rng = np.random.default_rng(0)
    state = compile_init(agent, SPEC)(jax.random.key(1))
    update = compile_updates(agent)
    if agent.rollout_steps:
        for number in range(60):
            data = rollout(probe, agent, agent.policy(state), rng, number)
            state, _ = update(state, data)
    else:
        for _ in range(ROUNDS):
            state, _ = update(state, replay(probe, rng))
    return agent.policy(state)


def values(agent, policy, obs, action):
    """Values that the agent believes in [B]."""
    if agent.rollout_steps:
        return np.asarray(policy.critics(obs))[..., 0]
    return np.asarray(policy.critics(obs, action)).mean(axis=0)


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_solved(agent, name):
    probe = PROBES[name]
    policy = train(agent, probe)
    obs = np.repeat(np.float32(probe.starts), 64)[:, None]
    act = compile_act(agent, Mode(deterministic=True))
    action = np.asarray(act(policy, obs, jax.random.key(2), 0))
    believed = values(agent, policy, obs, action).reshape(-1, 64).mean(axis=1)
    np.testing.assert_allclose(believed, probe.target, atol=0.15)
    if probe.best is not None:
        means = action.reshape(-1, 64).mean(axis=1)
        np.testing.assert_allclose(means, probe.best, atol=0.2)
