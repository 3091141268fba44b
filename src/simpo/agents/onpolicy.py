"""Agents that learn from rollouts of the policy as it is, then throw them away.

Advantage   A_t = delta_t + gamma lambda (1 - last_t) A_{t+1}   (`bellman.advantages`)
Actor       L = - mean min(r A, clip(r, 1 - c, 1 + c) A),   r = pi(x|s) / pi_old(x|s)
Critic      L = mean (V(s) - y)^2,   y = A + V_old(s)

Schulman et al. 2016 (advantages) and 2017 (surrogate). A truncated episode bootstraps
from its true final observation, and nothing leaks into the next one. What is random in
a decision, and so what x is, is what an agent adds.

Observations are normalised by running moments that change after an update only, so that
a rollout is learnt from as it was acted; pi_old is the policy before the update, so its
log-probabilities are computed once per rollout and not stored while acting. Rewards are
divided by the running standard deviation of the discounted return, this rollout's
included. Actor and critic share nothing and have an Adam each, so the loss of neither
needs a coefficient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from simpo.agents.base import (
    POSITIVE,
    Agent,
    Mode,
    Policy,
    adam,
    descend,
    step_key,
)
from simpo.agents.normalisation import (
    EPS,
    Moments,
    Normalised,
    discounted_returns,
)
from simpo.bellman import advantages, critic_loss
from simpo.custom import CustomNetwork
from simpo.networks import MLP, Activation
from simpo.randomness import uniform
from simpo.types import EnvSpec, Metrics, PyTree, Rollout, SimpoError

__all__ = [
    "OnPolicy",
    "OnPolicyState",
    "Samples",
    "clipped_surrogate",
    "gaussian_log_prob",
    "minibatch_rows",
    "standardise",
]


class OnPolicyState(NamedTuple):
    """Everything that training changes.

    Attributes:
        actor: The policy.
        critic: V(s), of normalised observations.
        actor_opt: State of the actor's Adam.
        critic_opt: State of the critic's Adam.
        returns: Moments of the discounted return.
        key: Random key.
        step: Updates made.
    """

    actor: Normalised
    critic: MLP
    actor_opt: PyTree
    critic_opt: PyTree
    returns: Moments
    key: Array
    step: Array


class Samples(NamedTuple):
    """What is learnt from a rollout, a row for each of its N = T E steps.

    Attributes:
        obs: Normalised observations [N, O].
        decision: What the policy decided [N, D].
        advantage: Generalised advantages [N].
        value_target: y [N].
    """

    obs: Array
    decision: Array
    advantage: Array
    value_target: Array


ActorLoss = Callable[[Any, Array], tuple[Array, Metrics]]
"""Loss [] and metrics, `approx_kl` among them, of a network on a minibatch's rows."""


@dataclass(frozen=True, kw_only=True)
class OnPolicy(Agent):
    """What agents that learn from rollouts share."""

    rollout_steps: int = 820  # pyright: ignore[reportIncompatibleMethodOverride]
    """T, steps per environment between updates."""
    epochs: int = 10
    """Passes over a rollout."""
    clip_range: float = 0.2
    """c, how far the ratio may move before it stops to pay."""
    target_kl: float | None = None
    """Estimated KL from pi_old after which an update stops; None for never."""
    gae_lambda: float = 0.95
    """lambda of the generalised advantage estimate."""
    reward_scale: float = 1.0
    """Factor on rewards, after their normalisation."""
    normalise: bool = True
    """Whether observations and rewards are divided by their running scale."""
    normalised_clip: float = 10.0
    """Bound on what was normalised, observations and rewards."""
    max_grad_norm: float | None = 0.5
    """Clip of the global gradient norm, actor and critic each; None for none."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    activation: Activation = "tanh"
    """Activation of the actor."""
    critic_activation: Activation = "tanh"
    """Activation of the critic."""

    @property
    def moments_clip(self) -> None:
        """None: moments are part of the actor, and change with each rollout."""
        return None

    def check_rollouts(self) -> None:
        """Reject impossible settings that all agents on policy have.

        Raises:
            SimpoError: A number out of range.
        """
        limits = ("max_grad_norm", "target_kl")
        given = (name for name in limits if getattr(self, name) is not None)
        POSITIVE.require(self, *given)

    @property
    def evaluating(self) -> tuple[Mode, ...]:
        """Without needless randomness, and as the policy collects."""
        return Mode(deterministic=True), Mode()

    @property
    def actor_optimiser(self) -> optax.GradientTransformation:
        """Adam behind the clip."""
        return adam(self.actor_lr, self.max_grad_norm, self.adam_eps)

    @property
    def critic_optimiser(self) -> optax.GradientTransformation:
        """Adam behind the clip."""
        return adam(self.critic_lr, self.max_grad_norm, self.adam_eps)

    def init_state(self, net: Any, key: Array, spec: EnvSpec) -> OnPolicyState:
        """A fresh state around an actor's network."""
        critic_key, run_key = jax.random.split(key)
        critic = self.init_critic(critic_key, spec)
        return OnPolicyState(
            actor=Normalised(net, Moments.init(spec.obs_dim)),
            critic=critic,
            actor_opt=self.actor_optimiser.init(net),
            critic_opt=self.critic_optimiser.init(critic),  # pyright: ignore[reportArgumentType]
            returns=Moments.init(1),
            key=run_key,
            step=jnp.zeros((), jnp.int32),
        )

    def init_critic(self, key: Array, spec: EnvSpec) -> MLP:
        """A fresh V(s), ours or one of the user's."""
        if self.critic_network is not None:
            made = CustomNetwork.init(
                self.critic_network, "critic_network", key, spec.obs_dim, 1
            )
            return cast("MLP", made)
        return MLP.init(
            key,
            spec.obs_dim,
            1,
            width=self.critic_width,
            depth=self.critic_depth,
            activation=self.critic_activation,
        )

    def policy(self, state: OnPolicyState) -> Policy:
        """Actor, with its normaliser, and V(s)."""
        return Policy(state.actor, state.critic)

    def explain(self, state: Any, obs: Array, key: Array) -> None:
        """None: there are no weighted candidates."""
        return None

    def observe(self, actor: Normalised, obs: Array) -> Array:
        """Observations as the networks see them: [..., O] -> [..., O]."""
        if not self.normalise:
            return obs
        return actor.moments.normalise(obs, self.normalised_clip)

    def refuse_best_of(self, mode: Mode) -> None:
        """Raise SimpoError if a mode asks to choose among actions by their values."""
        if mode.best_of > 1:
            raise SimpoError(
                f"{type(self).__name__} has no action values to choose by: "
                "leave best_of at 1"
            )

    def estimate(
        self, state: OnPolicyState, rollout: Rollout
    ) -> tuple[OnPolicyState, Samples]:
        """Advantages and value targets of a rollout, which joins the reward scale."""
        reward = rollout.reward
        if self.normalise:
            totals = discounted_returns(rollout, self.gamma)[..., None]
            state = state._replace(returns=state.returns.update(totals))
            bound = self.normalised_clip
            reward = jnp.clip(reward / state.returns.std, -bound, bound)
        obs, next_obs = (
            self.observe(state.actor, x) for x in (rollout.obs, rollout.next_obs)
        )
        value, next_value = (state.critic(x)[..., 0] for x in (obs, next_obs))
        advantage = advantages(
            self.reward_scale * reward,
            self.gamma * rollout.discount,
            rollout.last,
            value,
            next_value,
            self.gamma * self.gae_lambda,
        )
        columns = (obs, rollout.decision, advantage, advantage + value)
        flat = (jnp.reshape(x, (-1, *x.shape[2:])) for x in columns)
        return state, Samples(*flat)

    def learn(
        self,
        state: OnPolicyState,
        rollout: Rollout,
        samples: Samples,
        actor_loss: ActorLoss,
        choices: int = 1,
    ) -> tuple[OnPolicyState, Metrics]:
        """Epochs of minibatches, until the policy is `target_kl` away from pi_old.

        Args:
            state: The state that acted.
            rollout: What it acted; its observations join the moments at the end.
            samples: What `estimate` made of it.
            actor_loss: The agent's objective on rows, numbered from 0 to N K.
            choices: K, rows per step; row i belongs to step i // K.

        Returns:
            The new state and metrics, means over the minibatches used.
        """
        rows = minibatch_rows(
            step_key(state), len(samples.obs) * choices, self.batch_size, self.epochs
        )
        limit = np.inf if self.target_kl is None else self.target_kl

        def fit(state: OnPolicyState, rows: Array) -> tuple[OnPolicyState, Metrics]:
            state, metrics = self.fit_actor(state, actor_loss, rows)
            state, more = self.fit_critic(state, samples, rows // choices)
            return state, metrics | more

        def goes_on(carry: tuple) -> Array:
            number, _, _, kl = carry
            return (number < len(rows)) & (kl <= limit)

        def minibatch(carry: tuple) -> tuple:
            number, state, totals, _ = carry
            state, metrics = fit(state, rows[number])
            totals = jax.tree.map(jnp.add, totals, metrics)
            return number + 1, state, totals, metrics["approx_kl"]

        shapes = jax.eval_shape(fit, state, rows[0])[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        start = (jnp.zeros((), jnp.int32), state, zeros, jnp.zeros(()))
        number, state, totals, _ = jax.lax.while_loop(goes_on, minibatch, start)
        metrics = {name: total / number for name, total in totals.items()}
        metrics |= {"minibatches": number.astype(jnp.float32)}
        return self.finish(state, rollout), metrics | describe(state, samples)

    def fit_actor(
        self, state: OnPolicyState, loss: ActorLoss, rows: Array
    ) -> tuple[OnPolicyState, Metrics]:
        """One Adam step of the actor on the agent's objective."""
        net = state.actor.net
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(net, rows)
        net, opt = descend(self.actor_optimiser, grads, state.actor_opt, net)
        metrics |= {"actor_loss": value, "actor_grad_norm": optax.tree.norm(grads)}
        actor = state.actor._replace(net=net)
        return state._replace(actor=actor, actor_opt=opt), metrics

    def fit_critic(
        self, state: OnPolicyState, samples: Samples, rows: Array
    ) -> tuple[OnPolicyState, Metrics]:
        """One Adam step of V(s) towards y."""
        obs, target = samples.obs[rows], samples.value_target[rows]

        def loss(critic: MLP) -> Array:
            return critic_loss(critic(obs)[..., 0], target)

        value, grads = jax.value_and_grad(loss)(state.critic)
        critic, opt = descend(
            self.critic_optimiser, grads, state.critic_opt, state.critic
        )
        metrics = {"critic_loss": value, "critic_grad_norm": optax.tree.norm(grads)}
        return state._replace(critic=critic, critic_opt=opt), metrics

    def finish(self, state: OnPolicyState, rollout: Rollout) -> OnPolicyState:
        """The state of the next rollout: what was observed joins the moments."""
        moments = state.actor.moments
        if self.normalise:
            moments = moments.update(rollout.obs)
        actor = state.actor._replace(moments=moments)
        return state._replace(actor=actor, step=state.step + 1)


def describe(state: OnPolicyState, samples: Samples) -> Metrics:
    """Metrics of the values before the update, and of the rewards' scale."""
    target, advantage = samples.value_target, samples.advantage
    return {
        "value_mean": (target - advantage).mean(),
        "value_target": target.mean(),
        "explained_variance": 1.0 - advantage.var() / (target.var() + EPS),
        "return_std": state.returns.std[0],
    }


def gaussian_log_prob(x: Array, mean: Array, log_std: Array) -> Array:
    """Log-density of independent Gaussians, elementwise: [..., A]."""
    z = (x - mean) * jnp.exp(-log_std)
    return -0.5 * z**2 - log_std - 0.5 * np.log(2.0 * np.pi)


def standardise(advantage: Array) -> Array:
    """Advantages of a minibatch with mean 0 and standard deviation 1: [B] -> [B]."""
    return (advantage - advantage.mean()) / (advantage.std() + EPS)


def clipped_surrogate(
    log_prob: Array, old_log_prob: Array, advantage: Array, clip_range: Array | float
) -> tuple[Array, Metrics]:
    """The clipped surrogate loss, Schulman et al. 2017, equation 7.

    Args:
        log_prob: Log-probabilities under pi [B].
        old_log_prob: Under pi_old [B].
        advantage: Advantages [B].
        clip_range: c, [] or [B].

    Returns:
        The loss [], and metrics: the estimate mean(r - 1 - log r) of KL(pi_old, pi),
        and the share of ratios beyond the clip.
    """
    log_ratio = log_prob - old_log_prob
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - clip_range, 1.0 + clip_range)
    loss = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
    metrics = {
        "approx_kl": (ratio - 1.0 - log_ratio).mean(),
        "clip_fraction": (jnp.abs(ratio - 1.0) > clip_range).mean(dtype=float),
    }
    return loss, metrics


def minibatch_rows(key: Array, rows: int, batch_size: int, epochs: int) -> Array:
    """Shuffled row numbers: every epoch uses each row at most once [G, B].

    What does not fill a batch is left out of that epoch. A rollout smaller than a batch
    is one batch.
    """
    size = min(batch_size, rows)
    count = rows // size
    order = jnp.argsort(uniform(key, (epochs, rows)), axis=-1)
    return order[:, : count * size].reshape(-1, size)
