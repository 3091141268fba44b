"""SAC, Soft Actor-Critic (arXiv 1801.01290; temperature of arXiv 1812.05905).

Policy       a = tanh u,  u = mu(s) + sigma(s) z,  z ~ N(0, I)
Density      log pi(a|s) = sum_d log N(u; mu, sigma) - 2 (ln 2 - u - softplus(-2u))
Critics      y = r + gamma (1 - terminated) (min_k Qbar_k(s', a') - alpha log pi(a'|s'))
Actor        theta minimises  alpha log pi(a|s) - min_k Q_k(s, a),  a ~ pi_theta(s)
Temperature  log alpha falls where the entropy -log pi exceeds its target, else rises

An update goes through these in turn: the actor climbs the new critics, the temperature
follows the log-probabilities that the actor's step has drawn.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.agents.base import NOT_NEGATIVE, POSITIVE, Mode, Policy, descend, step_key
from simpo.agents.offpolicy import OffPolicy, best_action, perturb
from simpo.bellman import Aggregate, polyak
from simpo.networks import MLP, Activation, Critics, fan_in_uniform
from simpo.randomness import normal
from simpo.types import EnvSpec, Metrics, PyTree, SimpoError, Transition

__all__ = ["SAC", "SacState", "squashed_log_prob"]


class SacState(NamedTuple):
    """Everything that training changes."""

    actor: MLP
    critics: Critics
    target_critics: Critics
    log_alpha: Array
    actor_opt: PyTree
    critic_opt: PyTree
    alpha_opt: PyTree
    key: Array
    step: Array


@dataclass(frozen=True, kw_only=True)
class SAC(OffPolicy):
    """Soft actor-critic; the defaults are those of arXiv 1812.05905."""

    alpha: float = 1.0
    """Temperature of the entropy at the start, in units of q."""
    alpha_lr: float = 3e-4
    """Adam's learning rate of log alpha; 0 keeps alpha constant."""
    target_entropy: float | None = None
    """Entropy that alpha steers to, in nats; None is minus the number of actions."""
    policy_critic: Aggregate = Aggregate.MIN
    """How the critics' values are joined in the actor's loss."""
    log_std_min: float = -20.0
    """Smallest log sigma; the network's output is clipped."""
    log_std_max: float = 2.0
    """Largest log sigma."""
    depth: int = 2
    """Hidden layers of the actor."""
    critic_depth: int = 2
    """Hidden layers of the critics."""
    activation: Activation = "relu"
    """Activation of the actor."""
    critic_activation: Activation = "relu"
    """Activation of the critics."""

    def check(self) -> None:
        """Require a positive alpha and a range of log sigma."""
        POSITIVE.require(self, "alpha")
        NOT_NEGATIVE.require(self, "alpha_lr")
        if not self.log_std_min < self.log_std_max:
            raise SimpoError("log_std_min must be below log_std_max")
        if not math.isfinite(self.target_entropy or 0.0):
            raise SimpoError("target_entropy must be finite, or None")

    @property
    def collecting(self) -> Mode:
        """A sample."""
        return Mode(noise=self.acting_noise)

    @property
    def evaluating(self) -> tuple[Mode, ...]:
        """The mean's action, and a sample."""
        return Mode(deterministic=True), Mode()

    @property
    def alpha_optimiser(self) -> optax.GradientTransformation:
        """Adam on log alpha."""
        return optax.adam(self.alpha_lr)

    def init(self, key: Array, spec: EnvSpec) -> SacState:
        """Fresh networks, optimisers and temperature."""
        actor_key, critic_key, run_key = jax.random.split(key, 3)
        outputs = 2 * spec.action_dim
        actor = self.init_mlp(
            actor_key, spec.obs_dim, outputs, initialiser=fan_in_uniform
        )
        critics = self.init_critics(critic_key, spec, initialiser=fan_in_uniform)
        log_alpha = jnp.asarray(math.log(self.alpha), jnp.float32)
        return SacState(
            actor=actor,
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            log_alpha=log_alpha,
            actor_opt=self.actor_optimiser.init(actor),  # pyright: ignore[reportArgumentType]
            critic_opt=self.critic_optimiser.init(critics),  # pyright: ignore[reportArgumentType]
            alpha_opt=self.alpha_optimiser.init(log_alpha),
            key=run_key,
            step=jnp.zeros((), jnp.int32),
        )

    def policy(self, state: SacState) -> Policy:
        """Actor and critics."""
        return Policy(state.actor, state.critics)

    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """At the mean, or the best of n samples by min Q: obs [B, O] -> [B, A]."""
        sample_key, noise_key = jax.random.split(key)
        mean, log_std = self.gaussian(policy.actor, obs)
        if mode.deterministic:
            return perturb(jnp.tanh(mean), noise_key, mode.noise)
        z = normal(sample_key, (len(obs), mode.best_of, mean.shape[-1]))
        actions = jnp.tanh(mean[:, None] + jnp.exp(log_std)[:, None] * z)
        action, _ = best_action(policy.critics, obs, actions)
        return perturb(action, noise_key, mode.noise)

    def explain(self, state: SacState, obs: Array, key: Array) -> None:
        """None: no candidates are weighted."""

    def update(self, state: SacState, batch: Transition) -> tuple[SacState, Metrics]:
        """One step of critics, actor and temperature."""
        next_key, actor_key = jax.random.split(step_key(state))
        alpha = jnp.exp(state.log_alpha)
        next_action, next_log_prob = self.sample(state.actor, batch.next_obs, next_key)
        next_q = self.target_critic(state.target_critics(batch.next_obs, next_action))
        critics, critic_opt, critic_metrics = self.fit_critics(
            state.critics, state.critic_opt, batch, next_q - alpha * next_log_prob
        )
        grads, actor_metrics = self.actor_gradient(
            state.actor, critics, alpha, batch.obs, actor_key
        )
        actor, actor_opt = descend(
            self.actor_optimiser, grads, state.actor_opt, state.actor
        )
        log_alpha, alpha_opt, alpha_metrics = self.fit_alpha(
            state.log_alpha,
            state.alpha_opt,
            actor_metrics["entropy"],
            batch.action.shape[-1],
        )
        new = SacState(
            actor=actor,
            critics=critics,
            target_critics=polyak(state.target_critics, critics, self.tau),
            log_alpha=log_alpha,
            actor_opt=actor_opt,
            critic_opt=critic_opt,
            alpha_opt=alpha_opt,
            key=state.key,
            step=state.step + 1,
        )
        rate = {"learning_rate": jnp.asarray(self.actor_rate(state.step))}
        return new, critic_metrics | actor_metrics | alpha_metrics | rate

    def gaussian(self, actor: MLP, obs: Array) -> tuple[Array, Array]:
        """Mean and log sigma before the squashing: obs [B, O] -> [B, A] each."""
        mean, log_std = jnp.split(actor(obs), 2, axis=-1)
        return mean, jnp.clip(log_std, self.log_std_min, self.log_std_max)

    def sample(self, actor: MLP, obs: Array, key: Array) -> tuple[Array, Array]:
        """An action and its log-probability: obs [B, O] -> [B, A], [B]."""
        mean, log_std = self.gaussian(actor, obs)
        z = normal(key, mean.shape)
        u = mean + jnp.exp(log_std) * z
        return jnp.tanh(u), squashed_log_prob(u, z, log_std)

    def actor_gradient(
        self, actor: MLP, critics: Critics, alpha: Array, obs: Array, key: Array
    ) -> tuple[MLP, Metrics]:
        """Gradient of mean_B alpha log pi(a|s) - min_k Q_k(s, a), a ~ pi(s)."""

        def loss(actor: MLP) -> tuple[Array, Array]:
            action, log_prob = self.sample(actor, obs, key)
            q = self.policy_critic(critics(obs, action))
            return jnp.mean(alpha * log_prob - q), -log_prob.mean()

        (value, entropy), grads = jax.value_and_grad(loss, has_aux=True)(actor)
        metrics = {
            "actor_loss": value,
            "actor_grad_norm": optax.tree.norm(grads),
            "entropy": entropy,
        }
        return grads, metrics

    def fit_alpha(
        self, log_alpha: Array, opt: PyTree, entropy: Array, action_dim: int
    ) -> tuple[Array, PyTree, Metrics]:
        """One Adam step of log alpha on log alpha (entropy - H*), all [].

        With alpha as the factor, as in the paper, the gradient is alpha times this
        one, which Adam hides where alpha changes slowly.
        """
        given = self.target_entropy
        excess = entropy - (-action_dim if given is None else given)
        metrics = {"alpha": jnp.exp(log_alpha), "alpha_loss": log_alpha * excess}
        log_alpha, opt = descend(self.alpha_optimiser, excess, opt, log_alpha)
        return log_alpha, opt, metrics


def squashed_log_prob(u: Array, z: Array, log_std: Array) -> Array:
    """Values ln pi(a) at a = tanh(mu + sigma z): u, z, log sigma [..., A] -> [...].

    Appendix C of 1812.05905. ln (1 - tanh(u)^2) as 2 (ln 2 - u - softplus(-2u)) stays
    exact where tanh u has been rounded to one.
    """
    gaussian = -0.5 * (z**2 + math.log(2 * math.pi)) - log_std
    log_slope = 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))
    return jnp.sum(gaussian - log_slope, axis=-1)
