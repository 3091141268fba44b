"""The oracle of the environment tests: a task and a loop without vectors."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Walk(gymnasium.Env):
    """A random walk of shape [2, 2] that both terminates and truncates at random."""

    def __init__(self, terminates=0.2, truncates=0.2, in_place=False):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2, 2), np.float64)
        low = np.array([[-2.0], [0.5]], np.float32)
        high = np.array([[2.0], [4.0]], np.float32)
        self.action_space = spaces.Box(low, high)
        self.terminates, self.truncates, self.in_place = terminates, truncates, in_place
        self.state = np.zeros((2, 2))

    def _observe(self):
        return self.state if self.in_place else self.state.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state[:] = self.np_random.normal(size=(2, 2))
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.state += action + self.np_random.normal(size=(2, 2))
        reward = float(self.state.sum() + action[0, 0])
        ends = self.np_random.random(2) < (self.terminates, self.truncates)
        return self._observe(), reward, bool(ends[0]), bool(ends[1]), {}


def plain_loop(env, seed, actions):
    """The oracle: (obs, action, reward, discount, next_obs) rows, and episodes."""
    box = env.action_space
    low, high = box.low.astype(np.float64), box.high.astype(np.float64)
    rows, episodes, total, length = [], [], 0.0, 0
    obs, _ = env.reset(seed=seed)
    for action in np.clip(actions, -1, 1):
        native = (low + high) / 2 + (high - low) / 2 * action.reshape(box.shape)
        step = env.step(np.clip(native, low, high).astype(box.dtype))
        next_obs, reward, terminated, truncated, _ = step
        discount = 0.0 if terminated else 1.0
        rows.append((obs.ravel(), action, [reward], [discount], next_obs.ravel()))
        total, length, obs = total + reward, length + 1, next_obs
        if terminated or truncated:
            episodes.append((total, length))
            obs, total, length = env.reset()[0], 0.0, 0
    env.close()
    return [np.concatenate(row).astype(np.float32) for row in rows], episodes


def roll(env, actions):
    """Feed each environment its own actions [E, T, A]; collect its own rows."""
    num_envs, steps, action_dim = actions.shape
    rows, episodes = ([[] for _ in range(num_envs)] for _ in range(2))
    obs = env.reset()
    assert obs.dtype == np.float32 and obs.shape == (num_envs, env.spec.obs_dim)
    while min(map(len, rows)) < steps:
        # 9 is what an environment gets that has no action left
        action = np.full((num_envs, action_dim), 9.0, np.float32)
        for e, row in enumerate(rows):
            if len(row) < steps:
                action[e] = actions[e, len(row)]
        seen, step = obs, env.step(action)
        obs = step.obs
        assert step.obs.dtype == np.float32 and step.obs.shape == seen.shape
        assert {x.dtype for x in step.transition} == {np.dtype(np.float32)}
        valid = np.flatnonzero(step.valid)
        np.testing.assert_array_equal(step.transition.obs, seen[valid])
        for e, *row in zip(valid, *step.transition, strict=True):
            rows[e].append(np.concatenate([np.atleast_1d(x) for x in row]))
        for return_, length, e in step.episodes:
            assert type(return_) is float and type(length) is int
            episodes[e].append((return_, length))
    env.close()
    return rows, episodes


def assert_same(rows, episodes, expected_rows, expected_episodes):
    steps = len(expected_rows)
    np.testing.assert_array_equal(rows[:steps], expected_rows)
    assert episodes[: len(expected_episodes)] == expected_episodes


def child_seeds(seed, num_envs):
    return (np.random.SeedSequence(seed).generate_state(num_envs) >> 1).tolist()


def is_one_line(error):
    text = str(error.value)
    return "\n" not in text and len(text) < 300
