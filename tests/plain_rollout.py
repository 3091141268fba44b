"""Rollouts for tests, and learning from them once more, by loops over equations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from simpo.agents.onpolicy import minibatch_rows
from simpo.types import Rollout
from tiny import SPEC


def random_rollout(decision_dim, steps=6, envs=3, seed=0, spec=SPEC):
    """A rollout [T, E, ...]; some steps terminate, some are cut, most go on."""
    rng = np.random.default_rng(seed)
    end = rng.choice(3, size=(steps, envs), p=[0.6, 0.2, 0.2])  # goes on, dies, is cut

    def numbers(*shape):
        return (0.5 + rng.normal(size=(steps, envs, *shape))).astype(np.float32)

    return Rollout(
        obs=numbers(spec.obs_dim),
        decision=numbers(decision_dim),
        reward=3 * numbers(),
        discount=(end != 1).astype(np.float32),
        last=(end != 0).astype(np.float32),
        next_obs=numbers(spec.obs_dim),
    )


def plain_advantages(rollout, reward, value, next_value, gamma, decay):
    """Sums of discounted errors, each from its own step to its episode's end."""
    steps, envs = reward.shape
    delta = reward + gamma * rollout.discount * next_value - value
    out = np.zeros((steps, envs))
    for e in range(envs):
        for t in range(steps):
            for later in range(t, steps):
                out[t, e] += decay ** (later - t) * delta[later, e]
                if rollout.last[later, e]:
                    break
    return out


def plain_returns(rollout, gamma):
    """Discounted sums of the rewards of an episode so far."""
    out = np.zeros(rollout.reward.shape)
    for e in range(out.shape[1]):
        start = 0
        for t in range(len(out)):
            past = rollout.reward[start : t + 1, e]
            out[t, e] = past @ gamma ** np.arange(t - start, -1, -1)
            start = t + 1 if rollout.last[t, e] else start
    return out


def plain_update(agent, state, rollouts, log_prob, bonus=lambda net: 0.0):
    """The networks after an update on the last of the rollouts, by its equations.

    `log_prob(net, obs [B, O], decision [B, D], k [B])` is of choice k of a decision.
    The scales are those of all rollouts. Returns the networks, and how many minibatches
    were used.
    """
    *before, rollout = rollouts
    flat = [x.reshape(-1, x.shape[-1]) for x in (r.obs for r in before)]
    scales = np.concatenate([plain_returns(r, agent.gamma).ravel() for r in rollouts])
    past = np.concatenate(flat) if flat else np.array([[-1.0] * 3, [1.0] * 3])

    def observed(x):
        z = (x - past.mean(0)) / np.sqrt(past.var(0) + 1e-8)
        return np.clip(z, -10, 10).astype(np.float32)

    net, critic = state.actor.net, state.critic
    obs, next_obs = observed(rollout.obs), observed(rollout.next_obs)
    value, next_value = (np.asarray(critic(x)[..., 0]) for x in (obs, next_obs))
    reward = np.clip(rollout.reward / np.sqrt(scales.var() + 1e-8), -10, 10)
    reward = agent.reward_scale * reward
    decay = agent.gamma * agent.gae_lambda
    adv = plain_advantages(rollout, reward, value, next_value, agent.gamma, decay)
    target = adv + value
    obs, decision = obs.reshape(-1, 3), rollout.decision.reshape(target.size, -1)
    adv, target = adv.ravel(), target.ravel()

    ranges = getattr(agent, "clip_ranges", lambda: [agent.clip_range])()
    weights = getattr(agent, "step_discounts", lambda: [1.0])()
    choices, pi_old = len(ranges), net
    obs, decision, adv, target, ranges, weights = (
        jnp.asarray(x, jnp.float32)
        for x in (obs, decision, adv, target, ranges, weights)
    )

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def actor_loss(net, n, k):
        new, old = (log_prob(f, obs[n], decision[n], k) for f in (net, pi_old))
        ratio, c = jnp.exp(new - old), ranges[k]
        a = weights[k] * (adv[n] - adv[n].mean()) / adv[n].std()
        pays = jnp.where(a > 0, jnp.minimum(ratio, 1 + c), jnp.maximum(ratio, 1 - c))
        return -jnp.mean(pays * a) - bonus(net), jnp.mean(ratio - 1 - jnp.log(ratio))

    @jax.jit
    @jax.grad
    def value_loss(critic, n):
        return jnp.mean((critic(obs[n])[..., 0] - target[n]) ** 2)

    key = jax.random.fold_in(state.key, state.step)
    rows = minibatch_rows(key, len(obs) * choices, agent.batch_size, agent.epochs)
    take_actor, take_critic = (
        stepper(agent, r) for r in (agent.actor_lr, agent.critic_lr)
    )
    actor_opt, critic_opt = state.actor_opt, state.critic_opt
    used = 0
    for row in np.asarray(rows):
        used += 1
        n, k = row // choices, row % choices
        (_, kl), grads = actor_loss(net, n, k)
        net, actor_opt = take_actor(net, grads, actor_opt)
        critic, critic_opt = take_critic(critic, value_loss(critic, n), critic_opt)
        if kl > (agent.target_kl or np.inf):
            break
    return net, critic, used


def stepper(agent, rate):
    """One step of Adam behind a clip of the gradient norm."""
    optimiser = optax.adam(rate, eps=agent.adam_eps)
    if agent.max_grad_norm is not None:
        clip = optax.clip_by_global_norm(agent.max_grad_norm)
        optimiser = optax.chain(clip, optimiser)

    @jax.jit
    def take(params, grads, opt):
        change, opt = optimiser.update(grads, opt, params)
        return jax.tree.map(jnp.add, params, change), opt

    return take


def practise(agent, state, updates, reward, steps=64, envs=4, spec=SPEC):
    """Updates on a task whose episodes last one step: the state, metrics [updates].

    `reward(obs [B, O], action [B, A])` -> [B]; observations are uniform in [-1, 1]^O.
    """

    def update(state, key):
        obs_key, act_key = jax.random.split(key)
        obs = jax.random.uniform(obs_key, (steps * envs, spec.obs_dim), minval=-1.0)
        decision = agent.decide(agent.policy(state), obs, act_key)
        action = jnp.clip(decision[:, -spec.action_dim :], -1.0, 1.0)
        ones = jnp.ones(steps * envs)
        columns = (obs, decision, reward(obs, action), 0 * ones, ones, obs)
        rollout = Rollout(*(x.reshape(steps, envs, *x.shape[1:]) for x in columns))
        return agent.update(state, rollout)

    keys = jax.random.split(jax.random.key(1), updates)
    return jax.jit(lambda state: jax.lax.scan(update, state, keys))(state)
