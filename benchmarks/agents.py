"""Speed of every agent, and of SAC, TD3 and PPO against Stable-Baselines3.

python benchmarks/agents.py [--agents SAC TD3] [--seconds 3]

Each agent of the paper's preset in a process of its own, on HalfCheetah's dimensions:
time to compile, updates per second (from sampled batch to updated state, on policy
gradient steps per second), peak memory of the process, and environment steps per second
of the whole training loop on HalfCheetah-v5. Stable-Baselines3 makes the same gradient
steps and the same training (batch, networks, environments and updates of ours) in the
same run, before and after ours.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

JUDGED = ("SAC", "TD3", "PPO")
ENVS, OBS, ACT = 5, 17, 6
DISPATCH = 16


def per_second(step: Callable[[], int], seconds: float) -> float:
    """How many steps a second; `step` returns how many it made."""
    step()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += step()
    return done / (time.perf_counter() - started)


def ours(name: str, seconds: float) -> dict[str, float]:
    """Compile time, speed and memory of one of our agents."""
    import jax

    from simpo.agents import compile_init, compile_updates
    from simpo.presets import find
    from simpo.types import EnvSpec

    agent, spec = find("paper", agent=name).agent, EnvSpec(OBS, ACT)
    state = compile_init(agent, spec)(jax.random.key(0))
    update, batches, count = compile_updates(agent), *source(agent, spec)
    started = time.perf_counter()
    state, metrics = update(state, batches())
    jax.block_until_ready(metrics)
    compile_seconds = time.perf_counter() - started

    def step() -> int:
        nonlocal state
        state, metrics = update(state, batches())
        jax.block_until_ready(metrics)
        return count

    rate = per_second(step, seconds)
    loop = training(name, seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "compile_s": compile_seconds,
        "updates_per_s": rate,
        "steps_per_s": loop,
        "peak_mib": peak,
    }


def training(name: str, seconds: float) -> float:
    """Environment steps per second of our training loop, evaluations left out."""
    from simpo.loggers import MultiLogger
    from simpo.presets import find
    from simpo.trainer import Trainer

    run = replace(find("paper", "HalfCheetah-v5", name), buffer_size=50_000)
    if run.warmup_steps:
        run = replace(run, warmup_steps=2_000)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(run, Path(folder), MultiLogger())

        def cycle() -> int:
            """From one update to the next."""
            before, updates = trainer.step, trainer.updates
            while trainer.updates == updates:
                trainer.collect()
                while trainer.updates_due() >= run.updates_per_dispatch:
                    trainer.update()
            return trainer.step - before

        cycle()
        trainer.read_metrics(keep=0)  # the first update takes longer, and still runs
        return per_second(cycle, seconds)


def source(agent, spec) -> tuple[Callable, int]:
    """Data for an update, and the gradient steps that it makes."""
    from simpo.replay import ReplayBuffer
    from simpo.types import Rollout, Transition

    rng = np.random.default_rng(0)
    if agent.rollout_steps:
        lead = (1, agent.rollout_steps, ENVS)
        width = decision_width(agent, spec)
        normal = lambda *shape: rng.normal(size=(*lead, *shape)).astype(np.float32)  # noqa: E731
        zeros = np.zeros(lead, np.float32)
        data = Rollout(
            normal(OBS), normal(width), normal(), zeros + 1, zeros, normal(OBS)
        )
        choices = width // ACT - 1 or 1  # of DPPO, the steps of a chain
        rows = agent.rollout_steps * ENVS * choices // agent.batch_size
        return lambda: data, rows * agent.epochs
    buffer = ReplayBuffer(100_000, spec)
    n = 100_000
    buffer.add(
        Transition(
            rng.normal(size=(n, OBS)),
            rng.uniform(-1, 1, (n, ACT)),
            rng.normal(size=n),
            np.ones(n),
            rng.normal(size=(n, OBS)),
        )
    )
    return lambda: buffer.sample(rng, DISPATCH, agent.batch_size), DISPATCH


def decision_width(agent, spec) -> int:
    """D, the numbers that an agent on policy stores per step."""
    import jax

    key, obs = jax.random.key(0), np.zeros((1, OBS), np.float32)
    policy = jax.eval_shape(lambda: agent.policy(agent.init(key, spec)))
    return jax.eval_shape(agent.decide, policy, obs, key).shape[-1]


def theirs(name: str, seconds: float) -> dict[str, float]:
    """Gradient steps per second of Stable-Baselines3, with networks like ours."""
    import gymnasium
    import stable_baselines3 as sb3
    from stable_baselines3.common.vec_env import DummyVecEnv

    from simpo.presets import find

    agent = find("paper", agent=name).agent
    layers = [agent.width] * agent.depth
    env = DummyVecEnv([lambda: gymnasium.make("HalfCheetah-v5")] * ENVS)
    kwargs = {"policy_kwargs": {"net_arch": layers}, "device": "cpu", "verbose": 0}
    if name == "PPO":
        model = sb3.PPO(
            "MlpPolicy", env, n_steps=agent.rollout_steps, n_epochs=agent.epochs,
            batch_size=agent.batch_size, **kwargs,
        )  # fmt: skip
        model.learn(agent.rollout_steps * ENVS)
        rows = -(-agent.rollout_steps * ENVS // agent.batch_size)
        rate = per_second(lambda: timed_ppo(model, rows), seconds)
        return {"updates_per_s": rate, "steps_per_s": learning(model, seconds)}
    kind = {"SAC": sb3.SAC, "TD3": sb3.TD3}[name]
    model = kind(
        "MlpPolicy",
        env,
        batch_size=agent.batch_size,
        buffer_size=50_000,
        learning_starts=2_000,
        train_freq=1,
        gradient_steps=1,  # of five environment steps, as in the paper's protocol
        **kwargs,
    )
    model.learn(2_000)

    def step() -> int:
        model.train(gradient_steps=DISPATCH, batch_size=agent.batch_size)
        return DISPATCH

    rate = per_second(step, seconds)
    return {"updates_per_s": rate, "steps_per_s": learning(model, seconds)}


def learning(model, seconds: float) -> float:
    """Environment steps per second of their training loop."""
    chunk = ENVS * getattr(model, "n_steps", 20)

    def learn() -> int:
        model.learn(chunk, reset_num_timesteps=False)
        return chunk

    return per_second(learn, seconds)


def timed_ppo(model, rows: int) -> int:
    """All epochs on the rollout that is there."""
    model.train()
    return rows * model.n_epochs


def in_process(kind: str, name: str, seconds: float) -> dict[str, float]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", kind, name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--agents", nargs="*")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, name = options.one
        measure = {"ours": ours, "theirs": theirs}[kind]
        print(json.dumps(measure(name, options.seconds)))
        return
    from simpo.presets import agent_names

    header = f"{'agent':<14}{'compile s':>10}{'updates/s':>11}{'steps/s':>9}"
    print(
        header
        + f"{'peak MiB':>10}{'SB3 updates/s':>15}{'ratio':>7}{'steps/s':>9}{'ratio':>7}"
    )
    for name in options.agents or agent_names("paper"):
        judged = name in JUDGED
        before = in_process("theirs", name, options.seconds) if judged else {}
        found = in_process("ours", name, options.seconds)
        row = f"{name:<14}{found['compile_s']:>10.1f}{found['updates_per_s']:>11.1f}"
        row += f"{found['steps_per_s']:>9.0f}{found['peak_mib']:>10.0f}"
        if judged:
            after = in_process("theirs", name, options.seconds)
            for key, width in (("updates_per_s", 15), ("steps_per_s", 9)):
                rate = (before[key] + after[key]) / 2
                row += f"{rate:>{width}.0f}{found[key] / rate:>7.1f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
