"""Stable-Baselines3 as a judge: from the same weights and data, the same weights.

Its SAC, TD3 and PPO make gradient steps beside ours. What is random, or only another
convention, is taken away: noise is zero, intervals are one, gradients are not clipped.
Their losses differ from ours by factors (a sum over critics, half the value loss, an
unbiased standard deviation), which Adam does not see but through its epsilon.
"""

from types import SimpleNamespace

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

from simpo.agents import PPO, SAC, TD3, compile_init, compile_updates
from simpo.bellman import advantages
from simpo.checkpoint import load, save_policy
from simpo.networks import Critics
from simpo.types import ActionBox, EnvSpec, Rollout
from tiny import batches, tiny

torch = pytest.importorskip("torch")
sb3 = pytest.importorskip("stable_baselines3")

OBS, ACT, WIDTH, BATCH, UPDATES = 3, 2, 16, 32, 5
SPEC = EnvSpec(OBS, ACT)
SMALL = {"width": WIDTH, "depth": 2, "critic_width": WIDTH, "critic_depth": 2}


def twice(x):
    return 2 * x


class Still(gymnasium.Env):
    """Spaces of the right shape; nothing happens."""

    observation_space = spaces.Box(-10, 10, (OBS,), np.float32)
    action_space = spaces.Box(-1, 1, (ACT,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(OBS, np.float32), {}

    def step(self, action):
        return np.zeros(OBS, np.float32), 0.0, False, False, {}


# Weights of ours as those of theirs


def layers(network):
    """(weight [I, O], bias [O]) of our MLP, or of each of our critics."""
    trunk = network.trunk
    if not isinstance(network, Critics):
        return [(d.weight, d.bias) for d in (network.first, *trunk.hidden, trunk.head)]
    rows = []
    for k in range(len(network.of_action)):
        weight = np.concatenate([network.of_state.weight[k], network.of_action[k]])
        rows.append((weight, network.of_state.bias[k, 0]))
        rows += [(d.weight[k], d.bias[k, 0]) for d in (*trunk.hidden, trunk.head)]
    return rows


def linears(module):
    return [m for m in module.modules() if isinstance(m, torch.nn.Linear)]


def hand_over(rows, theirs):
    """Write (weight, bias) rows into their linear layers, in order."""
    with torch.no_grad():
        for (weight, bias), layer in zip(rows, theirs, strict=True):
            layer.weight.copy_(torch.tensor(np.asarray(weight).T.copy()))
            layer.bias.copy_(torch.tensor(np.array(bias)))


def same(rows, theirs, moved):
    """Equal up to float32, and not where they began."""
    for (weight, bias), layer, (start, _) in zip(rows, theirs, moved, strict=True):
        np.testing.assert_allclose(weight, layer.weight.detach().T, atol=2e-5)
        np.testing.assert_allclose(bias, layer.bias.detach(), atol=2e-5)
        assert np.abs(np.asarray(weight) - np.asarray(start)).max() > 1e-3


def host(tree):
    """A copy that outlives donation."""
    return jax.tree.map(np.array, tree)


def split_actor(rows):
    """SAC's last layer, mean and log sigma in one, as their two layers."""
    *hidden, (weight, bias) = rows
    return [*hidden, (weight[:, :ACT], bias[:ACT]), (weight[:, ACT:], bias[ACT:])]


@pytest.fixture
def no_noise(monkeypatch):
    """Samples are means, in both."""
    monkeypatch.setattr("simpo.agents.sac.normal", lambda key, shape: np.zeros(shape))
    monkeypatch.setattr(
        torch.distributions.Normal, "rsample", lambda self, *_: self.mean + 0.0
    )


def off_policy(kind, agent, **options):
    """One of their agents with the agent's settings."""
    model = kind(
        "MlpPolicy",
        Still(),
        learning_rate=agent.actor_lr,
        batch_size=BATCH,
        tau=agent.tau,
        gamma=agent.gamma,
        policy_kwargs={"net_arch": [WIDTH, WIDTH]},
        buffer_size=10,
        device="cpu",
        **options,
    )
    model.set_logger(sb3.common.logger.configure(None, []))
    return model


def feed(model, data):
    """Let a model's buffer return these batches, one after another."""
    rows = iter(range(UPDATES))

    def sample(*_, **__):
        g = next(rows)
        named = data._replace(discount=1.0 - data.discount)._asdict()
        column = {
            k: torch.tensor(np.array(x[g])).view(BATCH, -1) for k, x in named.items()
        }
        return SimpleNamespace(
            observations=column["obs"],
            actions=column["action"],
            rewards=column["reward"],
            dones=column["discount"],
            next_observations=column["next_obs"],
            discounts=None,
        )

    model.replay_buffer.sample = sample


def test_td3_makes_the_same_steps():
    agent = TD3(
        batch_size=BATCH, target_noise=0.0, policy_interval=1, tau=0.05, **SMALL
    )
    data = batches(UPDATES, BATCH, spec=SPEC)
    start = compile_init(agent, SPEC)(jax.random.key(0))
    # Gradients of such small networks would be near Adam's epsilon, which factors of
    # the losses do reach.
    nets = ("actor", "target_actor", "target_critics")
    larger = {n: jax.tree.map(twice, getattr(start.delayed, n)) for n in nets}
    critics = jax.tree.map(twice, start.critics)
    start = start._replace(critics=critics, delayed=start.delayed._replace(**larger))
    model = off_policy(sb3.TD3, agent, policy_delay=1, target_policy_noise=0.0)
    before = host((start.delayed.actor, start.critics))
    for nets in (model.actor, model.actor_target):
        hand_over(layers(before[0]), linears(nets))
    for nets in (model.critic, model.critic_target):
        hand_over(layers(before[1]), linears(nets))
    feed(model, data)
    model.train(UPDATES, BATCH)
    state, _ = compile_updates(agent)(start, data)
    delayed = state.delayed
    same(layers(delayed.actor), linears(model.actor), layers(before[0]))
    same(layers(state.critics), linears(model.critic), layers(before[1]))
    for ours, theirs in (
        (delayed.target_actor, model.actor_target),
        (delayed.target_critics, model.critic_target),
    ):
        for (weight, _), layer in zip(layers(ours), linears(theirs), strict=True):
            np.testing.assert_allclose(weight, layer.weight.detach().T, atol=2e-5)


@pytest.mark.parametrize("alpha_lr", [0.0, 3e-4])
def test_sac_makes_the_same_steps(no_noise, alpha_lr):
    agent = SAC(batch_size=BATCH, alpha=0.5, alpha_lr=alpha_lr, tau=0.05, **SMALL)
    data = batches(UPDATES, BATCH, spec=SPEC)
    start = compile_init(agent, SPEC)(jax.random.key(0))
    entropy = "auto_0.5" if alpha_lr else 0.5
    model = off_policy(sb3.SAC, agent, ent_coef=entropy)
    before = host((start.actor, start.critics))
    hand_over(split_actor(layers(before[0])), linears(model.actor))
    for nets in (model.critic, model.critic_target):
        hand_over(layers(before[1]), linears(nets))
    feed(model, data)
    model.train(UPDATES, BATCH)
    compile_updates.cache_clear()  # whose programs draw noise
    state, _ = compile_updates(agent)(start, data)
    compile_updates.cache_clear()
    old = split_actor(layers(before[0]))
    same(split_actor(layers(state.actor)), linears(model.actor), old)
    same(layers(state.critics), linears(model.critic), layers(before[1]))
    if alpha_lr:
        theirs = model.log_ent_coef.item()
        np.testing.assert_allclose(state.log_alpha, theirs, atol=1e-6)
        assert abs(theirs - np.log(0.5)) > 1e-3


def rollout(steps=16, envs=4, seed=0):
    """Random steps with terminations, and an end in the middle that cuts an episode."""
    rng = np.random.default_rng(seed)
    lead = (steps, envs)
    terminated = rng.random(lead) < 0.1
    cut = rng.random(lead) < 0.1
    obs = rng.normal(size=(steps + 1, envs, OBS)).astype(np.float32)
    return Rollout(
        obs=obs[:-1],
        decision=rng.normal(size=(*lead, ACT)).astype(np.float32),
        reward=rng.normal(size=lead).astype(np.float32),
        discount=1.0 - terminated.astype(np.float32),
        last=(terminated | cut).astype(np.float32),
        next_obs=obs[1:],
    )


def fill(buffer, data, values, next_values, log_probs, gamma):
    """Their rollout buffer with ours in it, as their collecting would."""
    start = np.ones(data.reward.shape[1])
    for t in range(len(data.reward)):
        # an episode that is cut bootstraps by adding to its reward
        cut = data.last[t] * data.discount[t]
        reward = data.reward[t] + gamma * cut * next_values[t]
        columns = (values[t], log_probs[t])
        buffer.add(
            data.obs[t],
            data.decision[t],
            reward,
            start,
            *(torch.tensor(np.array(c)) for c in columns),
        )
        start = data.last[t]
    last = torch.tensor(np.array(next_values[-1]))
    buffer.compute_returns_and_advantage(last, dones=data.last[-1])


def test_advantages_are_the_same():
    data, gamma, lam = rollout(), 0.97, 0.9
    rng = np.random.default_rng(1)
    all_values = rng.normal(size=(17, 4)).astype(np.float32)
    values, next_values = all_values[:-1], all_values[1:]
    buffer = sb3.common.buffers.RolloutBuffer(
        16, Still.observation_space, Still.action_space, "cpu", lam, gamma, 4
    )
    fill(buffer, data, values, next_values, np.zeros((16, 4), np.float32), gamma)
    found = advantages(
        data.reward, gamma * data.discount, data.last, values, next_values, gamma * lam
    )
    np.testing.assert_allclose(found, buffer.advantages, atol=1e-5)


def test_ppo_makes_the_same_steps():
    """Five epochs on a rollout that is one minibatch."""
    data = rollout()
    agent = PPO(
        batch_size=64,
        rollout_steps=16,
        epochs=UPDATES,
        normalise=False,
        max_grad_norm=None,
        actor_lr=1e-3,
        critic_lr=1e-3,
        entropy_coefficient=0.01,
        clip_range=0.05,  # so that it is reached
        **SMALL,
    )
    start = compile_init(agent, SPEC)(jax.random.key(0))
    net, critic = before = host((start.actor.net, start.critic))
    model = sb3.PPO(
        "MlpPolicy",
        sb3.common.vec_env.DummyVecEnv([Still] * 4),
        learning_rate=1e-3,
        n_steps=16,
        batch_size=64,
        n_epochs=UPDATES,
        gamma=agent.gamma,
        gae_lambda=agent.gae_lambda,
        clip_range=agent.clip_range,
        ent_coef=agent.entropy_coefficient,
        vf_coef=1.0,
        max_grad_norm=np.inf,
        policy_kwargs={"net_arch": [WIDTH, WIDTH]},
        device="cpu",
    )
    model.set_logger(sb3.common.logger.configure(None, []))
    extractor = model.policy.mlp_extractor
    actor = [*linears(extractor.policy_net), model.policy.action_net]
    value = [*linears(extractor.value_net), model.policy.value_net]
    hand_over(layers(net.mean), actor)
    hand_over(layers(critic), value)
    values, next_values = (
        np.asarray(start.critic(x)[..., 0]) for x in (data.obs, data.next_obs)
    )
    flat = (data.obs.reshape(-1, OBS), data.decision.reshape(-1, ACT))
    log_probs = np.asarray(start.actor.net.log_prob(*flat)).reshape(16, 4)
    fill(model.rollout_buffer, data, values, next_values, log_probs, agent.gamma)
    model.train()
    rollouts = jax.tree.map(lambda x: x[None], data)
    state, metrics = compile_updates(agent)(start, rollouts)
    assert metrics["clip_fraction"][0] > 0.01
    same(layers(state.actor.net.mean), actor, layers(before[0].mean))
    same(layers(state.critic), value, layers(before[1]))
    log_std = model.policy.log_std.detach().numpy()
    np.testing.assert_allclose(state.actor.net.log_std, log_std, atol=2e-5)
    assert np.abs(log_std).max() > 1e-3


def test_their_evaluate_policy_takes_ours_unchanged(tmp_path):
    agent, spec = tiny(SAC), EnvSpec(obs_dim=4, action_dim=1)
    policy = agent.policy(compile_init(agent, spec)(jax.random.key(0)))
    box = ActionBox((-3.0,), (3.0,))
    name = "InvertedPendulum-v5"
    saved = load(
        save_policy(tmp_path / "p", agent, spec, policy, env=name, step=0, box=box)
    )
    env = sb3.common.monitor.Monitor(gymnasium.make(name))
    env.reset(seed=3)
    returns, lengths = sb3.common.evaluation.evaluate_policy(
        saved, env, 2, return_episode_rewards=True
    )
    env = gymnasium.make(name)
    env.reset(seed=3)
    for return_, length in zip(returns, lengths, strict=True):
        obs, total, steps, done = env.reset()[0], 0.0, 0, False
        while not done:
            action, _ = saved.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, steps, done = total + reward, steps + 1, terminated or truncated
        assert (return_, length) == (pytest.approx(total), steps)
