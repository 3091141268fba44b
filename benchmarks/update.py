"""The paper-size update against the same number of multiply-adds as plain products.

Everything is measured in one process, alternating, and printed as ratios:

    python benchmarks/update.py            # about two minutes on two cores

Paper size: batch 256, N = 32, 20 diffusion steps, 3 x 256 Mish, HalfCheetah dimensions.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from simpo.agents import Mode, SiMPO, compile_act, compile_updates
from simpo.presets import find
from simpo.replay import ReplayBuffer
from simpo.types import EnvSpec, Transition

SPEC = EnvSpec(obs_dim=17, action_dim=6)
AGENT = find("paper").agent


def multiply_adds(agent: SiMPO, spec: EnvSpec) -> int:
    """Multiply-adds of the networks in one update; a gradient counts three times."""
    b, n, steps = agent.batch_size, agent.candidates, agent.model.denoising_steps
    hidden = (agent.depth - 1) * agent.width**2
    actor = hidden + 2 * spec.action_dim * agent.width
    inputs = spec.obs_dim + spec.action_dim + 1
    critic = (agent.critic_depth - 1) * agent.critic_width**2
    critic = agent.critics * (critic + inputs * agent.critic_width)
    sampling = (b * n + b) * steps * actor
    matching = 3 * b * n * actor
    values = (b * n + b) * critic + 3 * b * critic
    return sampling + matching + values


def batches(rng: np.random.Generator, agent: SiMPO, count: int) -> Transition:
    shape = (count, agent.batch_size)
    return Transition(
        obs=rng.normal(size=(*shape, SPEC.obs_dim)).astype(np.float32),
        action=rng.uniform(-1, 1, (*shape, SPEC.action_dim)).astype(np.float32),
        reward=rng.normal(size=shape).astype(np.float32),
        discount=np.ones(shape, np.float32),
        next_obs=rng.normal(size=(*shape, SPEC.obs_dim)).astype(np.float32),
    )


def seconds(function, *args) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - start


def update_ratio(repeats: int) -> dict[str, float]:
    """Median over pairs of update time / time of the same multiply-adds."""
    rng = np.random.default_rng(0)
    init = jax.jit(AGENT.init, static_argnums=1)
    state, update = init(jax.random.key(0), SPEC), compile_updates(AGENT)
    batch = batches(rng, AGENT, 1)
    x, w = jnp.ones((8192, 256)), jnp.eye(256)
    products = 20
    plain = jax.jit(lambda x: jax.lax.fori_loop(0, products, lambda _, y: y @ w, x))
    state, _ = update(state, batch)
    jax.block_until_ready((state, plain(x)))
    count = multiply_adds(AGENT, SPEC)
    scale = count / (products * 8192 * 256 * 256)
    pairs = []
    for _ in range(repeats):
        bound = seconds(plain, x)
        start = time.perf_counter()
        state, metrics = update(state, batch)
        jax.block_until_ready((state, metrics))
        taken = time.perf_counter() - start
        bound = 0.5 * (bound + seconds(plain, x)) * scale
        pairs.append((taken, bound))
    ratios = [taken / bound for taken, bound in pairs]
    return {
        "multiply_adds_billion": count / 1e9,
        "update_seconds": float(np.median([p[0] for p in pairs])),
        "ratio_median": float(np.median(ratios)),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def acting_and_replay(repeats: int) -> dict[str, float]:
    """Milliseconds per action of 5 environments, and per sampled batch of 256."""
    state = jax.jit(AGENT.init, static_argnums=1)(jax.random.key(0), SPEC)
    policy, key = AGENT.policy(state), jax.random.key(1)
    act, obs = compile_act(AGENT, Mode()), np.zeros((5, SPEC.obs_dim), np.float32)
    np.asarray(act(policy, obs, key, 0))
    acting = [seconds(act, policy, obs, key, i) for i in range(repeats)]
    buffer, rng = ReplayBuffer(1_000_000, SPEC), np.random.default_rng(0)
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches(rng, AGENT, 400))
    for _ in range(10):
        buffer.add(rows)
    sampling = []
    for _ in range(repeats):
        start = time.perf_counter()
        buffer.sample(rng, 1, 256)
        sampling.append(time.perf_counter() - start)
    return {
        "act_5_envs_ms": float(np.median(acting)) * 1e3,
        "replay_batch_ms": float(np.median(sampling)) * 1e3,
        "replay_1m_megabytes": buffer.nbytes / 1e6,
    }


def first_update(cache: str) -> float:
    """Seconds from the start of a fresh process to the end of its first update."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    start = time.perf_counter()
    command = [sys.executable, __file__, "--first-update-only"]
    subprocess.run(command, check=True, env=environment)
    return time.perf_counter() - start


def one_update() -> None:
    rng = np.random.default_rng(0)
    state = jax.jit(AGENT.init, static_argnums=1)(jax.random.key(0), SPEC)
    jax.block_until_ready(compile_updates(AGENT)(state, batches(rng, AGENT, 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="timed pairs")
    parser.add_argument("--first-update-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.first_update_only:
        return one_update()
    results = update_ratio(arguments.repeats) | acting_and_replay(200)
    with tempfile.TemporaryDirectory() as cache:
        results["first_update_cold_seconds"] = first_update(cache)
        results["first_update_cached_seconds"] = first_update(cache)
    for name, value in results.items():
        print(f"{name:<30} {value:10.3f}")


if __name__ == "__main__":
    main()
