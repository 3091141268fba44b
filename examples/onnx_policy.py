"""One episode of an exported policy: python onnx_policy.py RUN/export/onnx [SEED]."""

import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
import onnxruntime

folder, seed = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
contract = json.loads((folder / "contract.json").read_text())
session = onnxruntime.InferenceSession(folder / contract["model"]["file"])
rng = np.random.default_rng(seed)

env = gymnasium.make(contract["env"], **contract["env_kwargs"])
obs, _ = env.reset(seed=seed)
total, done = 0.0, False
while not done:
    inputs = {"observation": np.asarray(obs, np.float32).reshape(1, -1)}
    if noise := contract["noise"]:
        inputs["noise"] = rng.standard_normal((1, noise["shape"][1]), np.float32)
    (action,) = session.run(["action"], inputs)
    obs, reward, terminated, truncated, _ = env.step(
        action[0].reshape(env.action_space.shape)
    )
    total, done = total + float(reward), terminated or truncated
print(f"{contract['env']}, {contract['sampler']}: return {total:.1f}")
