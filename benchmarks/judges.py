"""SAC, TD3 and PPO against Stable-Baselines3: the same protocol, real tasks, seeds.

python benchmarks/judges.py [--tasks Hopper-v5] [--seeds 5] [--steps 20000]

Ours are cells of `simpo bench agents --scale laptop`, trained if they are not there.
Theirs get the same networks, rates, batches, steps, environments and number of updates,
rewards scaled in the same way, and as many evaluation episodes. Scores are kept in
<bench>/judges/, a row per run. Prints, per agent and task, both mean scores, and the
difference with its 95 % interval (Welch) over seeds: ours is worse only where the whole
interval is below zero.
"""

import argparse
import csv
import os
from pathlib import Path

import numpy as np
from scipy import stats

JUDGED = ("SAC", "TD3", "PPO")
TASKS = ("InvertedDoublePendulum-v5", "Hopper-v5")


def theirs(run) -> float:
    """Train one of their agents as `run` says; mean return of its last evaluation."""
    import gymnasium
    import torch
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    torch.set_num_threads(1)
    scale = run.agent.reward_scale

    def make():
        env = gymnasium.make(run.env)
        return gymnasium.wrappers.TransformReward(env, lambda reward: scale * reward)

    env = DummyVecEnv([make] * run.num_envs)
    test = DummyVecEnv([lambda: Monitor(gymnasium.make(run.env))])
    if run.agent.rollout_steps:
        env = VecNormalize(env, gamma=run.agent.gamma)
        test = VecNormalize(test, training=False, norm_reward=False)
        test.obs_rms = env.obs_rms
    model = build(run, env)
    model.learn(run.steps)
    test.seed(10_000 + run.seed)
    returns, _ = evaluate_policy(
        model, test, run.eval_episodes, deterministic=True, return_episode_rewards=True
    )
    return float(np.mean(returns))


def build(run, env):
    """Their agent with our hyper-parameters."""
    import stable_baselines3 as sb3
    from torch import nn

    agent = run.agent
    acts = {"relu": nn.ReLU, "tanh": nn.Tanh}
    policy = {
        "net_arch": {
            "pi": [agent.width] * agent.depth,
            "vf" if agent.rollout_steps else "qf": [agent.critic_width]
            * agent.critic_depth,
        },
        "activation_fn": acts[agent.activation],
    }
    common = {
        "learning_rate": agent.actor_lr,
        "gamma": agent.gamma,
        "batch_size": agent.batch_size,
        "policy_kwargs": policy,
        "seed": run.seed,
        "device": "cpu",
    }
    if agent.rollout_steps:
        return sb3.PPO(
            "MlpPolicy",
            env,
            n_steps=agent.rollout_steps,
            n_epochs=agent.epochs,
            clip_range=agent.clip_range,
            gae_lambda=agent.gae_lambda,
            max_grad_norm=agent.max_grad_norm,
            **common,
        )
    common |= {
        "tau": agent.tau,
        "learning_starts": run.warmup_steps,
        "train_freq": 1,
        "gradient_steps": round(run.updates_per_step * run.num_envs),
    }
    if type(agent).__name__ == "SAC":
        return sb3.SAC("MlpPolicy", env, ent_coef=f"auto_{agent.alpha}", **common)
    noise = sb3.common.noise.NormalActionNoise(
        np.zeros(env.action_space.shape),
        np.full(env.action_space.shape, agent.acting_noise),
    )
    return sb3.TD3("MlpPolicy", env, action_noise=noise, **common)


def their_scores(study, path: Path) -> dict:
    """Scores by cell, trained where the file has none; a row as each is done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {}
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = row["task"], row["agent"], int(row["seed"])
                known[key] = float(row["score"])
    else:
        path.write_text("task,agent,seed,score\n")
    for cell in study.cells():
        if tuple(cell) not in known:
            known[tuple(cell)] = theirs(study.run_of(cell))
            with path.open("a") as file:
                file.write(f"{','.join(map(str, cell))},{known[tuple(cell)]}\n")
            print(f"Stable-Baselines3 {cell}: {known[tuple(cell)]:.1f}", flush=True)
    return known


def difference(ours: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Mean difference with its 95 % interval, variances unequal."""
    found = stats.ttest_ind(ours, other, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return float(ours.mean() - other.mean()), float(low), float(high)


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--agents", nargs="*", default=list(JUDGED), choices=JUDGED)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--bench", type=Path, default=Path("bench"))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from simpo.experiments.comparison import Comparison
    from simpo.experiments.report import Report
    from simpo.plotting.rundata import read_run
    from simpo.plotting.scores import score
    from simpo.plotting.settings import headline

    study = Comparison(
        tasks=tuple(options.tasks),
        agents=tuple(options.agents),
        seeds=options.seeds,
        steps=options.steps,
        out=options.bench,
    )
    folder = options.bench / "judges"
    known = their_scores(study, folder / f"stable_baselines3_{options.steps}.csv")
    report = Report(folder)
    with report.bar:
        runs = dict(study.directories(report))
    report.finish()
    print(f"{'agent':<6}{'task':<28}{'ours':>9}{'SB3':>9}   difference [95 %]")
    for agent in study.agents:
        for task in study.tasks:
            cells = [c for c in study.cells() if (c.task, c.agent) == (task, agent)]
            played = [read_run(runs[c]) for c in cells]
            ours = np.array([score(run, headline(run)) for run in played])
            other = np.array([known[tuple(c)] for c in cells])
            mean, low, high = difference(ours, other)
            verdict = "worse" if high < 0 else "better" if low > 0 else "not different"
            print(
                f"{agent:<6}{task:<28}{ours.mean():>9.1f}{other.mean():>9.1f}   "
                f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] {verdict}"
            )


if __name__ == "__main__":
    main()
