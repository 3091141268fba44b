"""Tasks that draw themselves without OpenGL; import this module to register them."""

import os

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE = (64, 96)
SHADE = 12
"""How much brighter a frame is than the one before it."""


class Drawn(gymnasium.Env):
    """A walk of random length, of InvertedPendulum's dimensions; steps are shades."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012
    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = spaces.Box(-3, 3, (1,), np.float32)

    def __init__(self, render_mode=None, trouble=""):
        self.render_mode, self.trouble, self.steps = render_mode, trouble, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=4), {}

    def step(self, action):
        self.steps += 1
        reward = float(self.np_random.normal() + action[0])
        if self.trouble == "chance":
            reward += int.from_bytes(os.urandom(4), "big")
        ends = (self.steps >= 3 and self.np_random.random() < 0.2) or self.steps == 15
        return self.np_random.normal(size=4), reward, bool(ends), False, {}

    def render(self):
        if self.trouble == "crash" and self.steps == 2:
            os.abort()
        if self.trouble == "blind":
            return None
        print("drawing", self.steps)
        return np.full((*SIZE, 3), 20 + SHADE * self.steps, np.uint8)


for trouble in ("", "chance", "crash", "blind"):
    name = f"test/Drawn{trouble.title()}-v0"
    gymnasium.register(name, Drawn, kwargs={"trouble": trouble})
