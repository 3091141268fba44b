"""Policies to export: of any agent, with random parameters, made without compiling."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from simpo.agents import AGENTS, QSM, SAC, SDAC
from simpo.agents.qsm import Langevin
from simpo.checkpoint import SavedPolicy, fresh_policy
from simpo.export.program import make_program
from simpo.generative import Diffusion, DPMSolver2M, Flow, Heun, Velocity
from simpo.types import ActionBox, SimpoError
from tiny import SPEC, tiny

BOX = ActionBox((-3.0, 0.5), (1.0, 2.5))
MULTISTEP = Diffusion(denoising_steps=3, sampler=DPMSolver2M(), prediction=Velocity())
VARIANTS = {
    **{cls.__name__: tiny(cls) for cls in AGENTS},
    "Langevin": tiny(QSM, dynamics=Langevin(steps=2)),
    "Heun, gelu": tiny(model=Flow(denoising_steps=2, solver=Heun()), activation="gelu"),
    "DDPM, silu": tiny(SDAC, activation="silu", critic_activation="relu"),
    "2M, tanh": tiny(model=MULTISTEP, activation="tanh"),
    "normalised": tiny(SAC, normalise_obs=True, normalised_clip=0.7),
    "one step": tiny(model=Flow(denoising_steps=1)),
}
"""Every agent, and what else the networks and samplers are made of."""
OBS = np.random.default_rng(0).normal(size=(5, SPEC.obs_dim)).astype(np.float32)


def saved_policy(agent, env="Nowhere-v0", spec=SPEC, box=BOX):
    """A policy with parameters of a plausible size."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(partial(fresh_policy, agent, spec), jax.random.key(0))

    def fill(path, leaf):
        values = 0.4 * rng.normal(size=leaf.shape)
        positive = jax.tree_util.keystr(path).endswith("var")
        return (np.abs(values) if positive else values).astype(leaf.dtype)

    policy = jax.tree_util.tree_map_with_path(fill, shapes)
    return SavedPolicy(agent, spec, policy, env, 7, box, jax.random.key(1))


def choosy(agent):
    """The program of three samples if the agent can choose among them, else of one."""
    saved = saved_policy(agent)
    try:
        return make_program(saved, best_of=3)
    except SimpoError:
        return make_program(saved, best_of=1)


def noise_of(program, rows, seed=2):
    """Noise [rows, K] in a list, or nothing."""
    shape = (rows, program.noise_dim)
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return [noise] if program.draws else []


def compiled(function):
    """Compiled without much optimisation, which would take longer than the test."""
    lower, options = jax.jit(function).lower, {"xla_backend_optimization_level": 0}
    return lambda *inputs: lower(*inputs).compile(options)(*inputs)


def act_and_record(program, obs, monkeypatch):
    """The agent's own action on obs [1, O], and the numbers it drew: [1, A], [1, K].

    The generator's place is taken by one that compiles in no time.
    """
    saved, drawn, rng = program.saved, [], np.random.default_rng(3)

    def draw(key, shape):
        drawn.append(rng.normal(size=shape).astype(np.float32))
        return jnp.asarray(drawn[-1])

    def act(obs):
        obs = saved.agent.observed(obs, saved.policy.moments)
        return saved.agent.act(saved.policy, obs, jax.random.key(5), program.mode)

    with monkeypatch.context() as patch:
        patch.setattr(jax.random, "normal", draw)
        patch.setattr(jax.random, "split", lambda key, n=2: [key] * n)
        action = np.asarray(compiled(act)(obs))
    low, high = (np.array(bound) for bound in saved.box)
    assert program.draws == tuple(x.shape for x in drawn)
    noise = [np.concatenate([x.reshape(1, -1) for x in drawn], 1)] if drawn else []
    return 0.5 * (low + high) + 0.5 * (high - low) * action, noise


def with_parameters(saved, change):
    """The policy with changed parameters."""
    return replace(saved, policy=jax.tree.map(change, saved.policy))
