"""What every agent is: a frozen dataclass whose fields are its hyper-parameters.

init(key, spec) -> state        update(state, batch) -> state, metrics
policy(state) -> parameters     act(policy, obs, key, mode) -> actions
                                decide(policy, obs, key) -> decisions, to learn from

All are pure. The state is one pytree that carries its own random key and step counter;
the key of an update is fold_in(state.key, state.step), so a state restored from disk
goes on exactly as it would have.

An agent learns off policy, from transitions drawn at random from replay, or on policy,
from rollouts of the policy as it is: `offpolicy.py` and `onpolicy.py`.
"""

import abc
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar, cast

import jax
import optax
from jax import Array

from simpo.agents.normalisation import Moments
from simpo.custom import CustomDenoiser, CustomNetwork, Factory, require_factory
from simpo.networks import MLP, Activation, Denoiser, Initialiser, lecun_uniform
from simpo.types import EnvSpec, Metrics, PyTree, SimpoError

__all__ = [
    "COUNT",
    "NOT_NEGATIVE",
    "POSITIVE",
    "SHARE",
    "Agent",
    "Mode",
    "Policy",
    "adam",
    "compile_act",
    "compile_decide",
    "compile_init",
    "compile_updates",
    "descend",
    "step_key",
]

M = TypeVar("M")


@dataclass(frozen=True)
class Mode:
    """How actions are drawn; it names the sampler beside every score."""

    best_of: int = 1
    """Samples per state; the one with the highest min_k Q_k is taken."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise added, then clipped to the box."""
    deterministic: bool = False
    """Without the randomness that a policy can do without: the mean of a Gaussian; a
    generative policy still starts from noise."""

    def __post_init__(self) -> None:
        """Reject impossible settings.

        Raises:
            SimpoError: No samples, or negative noise.
        """
        if self.best_of < 1:
            raise SimpoError("best_of must be at least 1")
        if self.noise < 0:
            raise SimpoError("noise must not be negative")

    @property
    def label(self) -> str:
        """`single`, `best-of-n`, `deterministic`, with the noise if there is any."""
        name = "single" if self.best_of == 1 else f"best-of-{self.best_of}"
        if self.deterministic:
            name = "deterministic" if self.best_of == 1 else f"{name}-deterministic"
        return name if self.noise == 0 else f"{name}+noise-{self.noise:g}"


class Policy(NamedTuple):
    """All that acting needs: what a policy folder stores.

    Attributes:
        actor: Parameters that actions come from.
        critics: Parameters that actions are judged by.
        moments: Of the observations in training, if the agent's `moments_clip` is set.
    """

    actor: PyTree
    critics: PyTree
    moments: Moments | None = None


@dataclass(frozen=True, kw_only=True)
class Agent(abc.ABC):
    """An algorithm with its hyper-parameters."""

    batch_size: int = 256
    """B, transitions per gradient step."""
    gamma: float = 0.99
    """Discount factor."""
    reward_scale: float = 1.0
    """Factor on rewards."""
    actor_lr: float = 3e-4
    """Adam's learning rate of the actor, at the start."""
    critic_lr: float = 3e-4
    """Adam's learning rate of the critics."""
    width: int = 256
    """Units per hidden layer of the actor."""
    depth: int = 3
    """Hidden layers of the actor."""
    critic_width: int = 256
    """Units per hidden layer of the critics."""
    critic_depth: int = 3
    """Hidden layers of the critics."""
    activation: Activation = "mish"
    """Activation of the actor."""
    critic_activation: Activation = "mish"
    """Activation of the critics."""
    actor_network: Factory | None = None
    """Makes the actor's network instead of these settings; see `custom`."""
    critic_network: Factory | None = None
    """Makes the network of each critic instead of these settings; see `custom`."""

    def __post_init__(self) -> None:
        """Reject impossible settings, first of all agents, then of this one.

        Raises:
            SimpoError: A number out of range, or a network that is no function.
        """
        require_factory(self.actor_network, "actor_network")
        require_factory(self.critic_network, "critic_network")
        present = {field.name for field in fields(self)}
        for allowed, names in RANGES.items():
            allowed.require(self, *(name for name in names if name in present))
        self.check()

    def init_actor(self, key: Array, spec: EnvSpec) -> Denoiser:
        """A fresh denoiser, ours or one of the user's that does the same."""
        dims = spec.action_dim, spec.obs_dim
        if self.actor_network is not None:
            made = CustomDenoiser.init(self.actor_network, "actor_network", key, *dims)
            return cast("Denoiser", made)
        return Denoiser.init(
            key,
            *dims,
            width=self.width,
            depth=self.depth,
            activation=self.activation,
        )

    def init_mlp(
        self,
        key: Array,
        inputs: int,
        outputs: int,
        *,
        head_scale: float = 1.0,
        initialiser: Initialiser = lecun_uniform,
    ) -> MLP:
        """A fresh actor without denoising, ours or one of the user's."""
        if self.actor_network is not None:
            made = CustomNetwork.init(
                self.actor_network, "actor_network", key, inputs, outputs
            )
            return cast("MLP", made)
        return MLP.init(
            key,
            inputs,
            outputs,
            width=self.width,
            depth=self.depth,
            activation=self.activation,
            head_scale=head_scale,
            initialiser=initialiser,
        )

    def observed(self, obs: Array, moments: Moments | None) -> Array:
        """Observations as the networks see them: [..., O] -> [..., O]."""
        if moments is None or self.moments_clip is None:
            return obs
        return moments.normalise(obs, self.moments_clip)

    @abc.abstractmethod
    def check(self) -> None:
        """Raise SimpoError if settings of this agent do not fit together."""

    @property
    @abc.abstractmethod
    def rollout_steps(self) -> int | None:
        """Steps per environment between updates; None for agents that use replay."""

    @property
    @abc.abstractmethod
    def moments_clip(self) -> float | None:
        """Bound on observations normalised by moments of all that were collected.

        None for agents that take observations as they are, or keep their own moments.
        """

    @property
    @abc.abstractmethod
    def evaluating(self) -> tuple[Mode, ...]:
        """How actions are drawn in evaluations, the headline first."""

    @abc.abstractmethod
    def init(self, key: Array, spec: EnvSpec) -> Any:
        """A fresh training state; no two of its fields share a buffer."""

    @abc.abstractmethod
    def policy(self, state: Any) -> Policy:
        """The part of a training state that acting needs."""

    @abc.abstractmethod
    def act(self, policy: Policy, obs: Array, key: Array, mode: Mode) -> Array:
        """Actions [B, A] in [-1, 1] for observations [B, O].

        Raises:
            SimpoError: The agent cannot act in this mode.
        """

    @abc.abstractmethod
    def decide(self, policy: Policy, obs: Array, key: Array) -> Array:
        """What collecting does and stores [B, D]; the last A numbers are the action."""

    @abc.abstractmethod
    def explain(self, state: Any, obs: Array, key: Array) -> tuple[Array, Array] | None:
        """Values and weights [B, N] of candidates at obs [B, O]; None without any."""

    @abc.abstractmethod
    def update(self, state: Any, batch: Any) -> tuple[Any, Metrics]:
        """One update, on Transition [B, ...] or Rollout [T, E, ...]; scalar metrics."""


class Range(NamedTuple):
    """What numbers a field may hold.

    Attributes:
        what: The rule in words.
        holds: The rule.
    """

    what: str
    holds: Callable[[Any], bool]

    def require(self, agent: Agent, *names: str) -> None:
        """Raise SimpoError if one of these fields is out of range."""
        for name in names:
            if not self.holds(getattr(agent, name)):
                raise SimpoError(f"{name} must {self.what}")


COUNT = Range("be at least 1", lambda x: x >= 1)
NOT_NEGATIVE = Range("not be negative", lambda x: x >= 0)
POSITIVE = Range("be positive and finite", lambda x: 0 < x < math.inf)
SHARE = Range("be between 0 and 1", lambda x: 0 <= x <= 1)

RANGES: dict[Range, tuple[str, ...]] = {
    COUNT: (
        *("acting_samples", "batch_size", "best_of", "critic_depth", "critic_width"),
        *("critics", "depth", "epochs", "rollout_steps", "target_samples", "width"),
    ),
    NOT_NEGATIVE: ("acting_noise", "actor_lr_updates"),
    POSITIVE: (
        "actor_lr",
        "adam_eps",
        "clip_range",
        "critic_lr",
        "normalised_clip",
        "reward_scale",
    ),
    SHARE: ("gae_lambda", "gamma", "tau"),
}
"""Fields that several agents have; each is checked in those that have it."""


def adam(
    rate: optax.ScalarOrSchedule, max_grad_norm: float | None, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam behind a clip of the global gradient norm, if any."""
    if max_grad_norm is None:
        return optax.adam(rate, eps=eps)
    clip = optax.clip_by_global_norm(max_grad_norm)
    return optax.chain(clip, optax.adam(rate, eps=eps))


def descend(
    optimiser: optax.GradientTransformation, grads: Any, opt: PyTree, params: M
) -> tuple[M, PyTree]:
    """One step of an optimiser: new parameters and its new state."""
    change, opt = optimiser.update(grads, opt, cast("Any", params))
    return cast("M", optax.apply_updates(cast("Any", params), change)), opt


def step_key(state: Any) -> Array:
    """The random key of the update that `state` is about to make."""
    return jax.random.fold_in(state.key, state.step)


@functools.cache
def compile_init(agent: Agent, spec: EnvSpec) -> Callable[[Array], Any]:
    """`agent.init` in one dispatch: key -> state."""
    return jax.jit(lambda key: agent.init(key, spec))


@functools.cache
def compile_updates(agent: Agent) -> Callable[..., tuple[Any, Metrics]]:
    """G updates in one dispatch: (state, batches [G, ...]) -> state, metrics [G].

    A third argument are the moments to normalise observations by. The state is
    donated: the one passed in is gone.
    """

    def updates(
        state: Any, batches: Any, moments: Moments | None = None
    ) -> tuple[Any, Metrics]:
        obs = agent.observed(batches.obs, moments)
        next_obs = agent.observed(batches.next_obs, moments)
        batches = batches._replace(obs=obs, next_obs=next_obs)
        return jax.lax.scan(agent.update, state, batches)

    return jax.jit(updates, donate_argnums=0)


@functools.cache
def compile_act(agent: Agent, mode: Mode) -> Callable[..., Array]:
    """`agent.act` in one mode: (policy, obs [B, O], key, step []) -> actions [B, A].

    The step is folded into the key inside, so no key is split on the host.
    """

    def act(policy: Policy, obs: Array, key: Array, step: Array) -> Array:
        obs = agent.observed(obs, policy.moments)
        return agent.act(policy, obs, jax.random.fold_in(key, step), mode)

    return jax.jit(act)


@functools.cache
def compile_decide(agent: Agent) -> Callable[..., Array]:
    """`agent.decide`: (policy, obs [B, O], key, step []) -> decisions [B, D]."""

    def decide(policy: Policy, obs: Array, key: Array, step: Array) -> Array:
        obs = agent.observed(obs, policy.moments)
        return agent.decide(policy, obs, jax.random.fold_in(key, step))

    return jax.jit(decide)
