"""Run directories written by hand, as a run writes them, row by row."""

import fcntl
import json
import os

import numpy as np

from simpo.loggers import CsvLogger

LEVEL = {"single": 1.0, "best-of-10": 1.5}


class Written:
    """A run that goes on as far as it is told to."""

    def __init__(self, directory, *, label="", seed=0, steps=10_000, env="Hopper-v5"):
        directory.mkdir(parents=True)
        self.directory, self.step = directory, 0
        weighting = {"type": "Linear", "floor": -0.2}
        agent = {"type": "SiMPO", "weighting": weighting, "candidates": 8}
        config = {"type": "Run", "env": env, "agent": agent, "label": label}
        config |= {"steps": steps, "seed": seed}
        (directory / "config.json").write_text(json.dumps(config))
        self.logger = CsvLogger(directory)
        self.rng = np.random.default_rng(seed)
        self.status("running")

    def status(self, state, **more):
        text = json.dumps({"state": state, "step": self.step} | more)
        (self.directory / "status.json").write_text(text)

    def go(self, rows=1, stride=500, rate=100.0):
        """Write rows of progress and time."""
        for _ in range(rows):
            self.step += stride
            row = {"updates": self.step // 4, "rollout/ep_rew_mean": self.step / 10}
            row |= {"train/critic_loss": 1e3 / self.step, "train/q_mean": -self.step}
            row |= {"time/elapsed": self.step / rate, "time/fps": rate}
            self.logger.log(self.step, row | {"time/updates_per_second": 25.0})
        return self

    def evaluate(self, episodes=4):
        rows = [
            {"sampler": s, "episode": e, "return_": x * (self.step + e), "length": 9}
            for s, x in LEVEL.items()
            for e in range(episodes)
        ]
        self.logger.log_episodes(self.step, rows)
        return self

    def weigh(self):
        q = self.rng.normal(size=(4, 8))
        w = np.maximum(1 + q - q.mean(1, keepdims=True), -0.2)
        lines = ["state,candidate,q,weight"]
        lines += [f"{i},{j},{q[i, j]},{w[i, j]}" for i, j in np.ndindex(q.shape)]
        (self.directory / "candidates.csv").write_text("\n".join(lines) + "\n")
        return self

    def film(self, name="best.mp4", data=bytes(range(256)) * 4):
        (self.directory / "videos").mkdir(exist_ok=True)
        (self.directory / "videos" / name).write_bytes(data)
        return self

    def hold(self):
        """Hold the directory as a process that trains in it does."""
        number = os.open(self.directory, os.O_RDONLY)
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return number
