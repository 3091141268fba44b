"""The bandit trial: improve a flow policy on a known reward, many trials at once.

One iteration is the paper's Algorithm 1 with the critic replaced by the reward: draw N
candidates of the current policy, add noise inside the box, weigh them (Stage I), take a
few Adam steps on the reweighted matching loss (Stage II).

    regret = max_a r(a) - E_{a ~ pi} r(a),    from the candidates before the noise

A case is a method in a setting (landscape, noise, learning rate). Settings are arrays
and methods the branches of a switch, so that one program runs all cases of a study: the
trials of a block by `vmap`, all rounds by `scan`. Trials are independent: they go over
the devices in equal shares and through each in blocks that fit its cache.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from simpo.agents.base import descend
from simpo.divergence import kl_to_uniform
from simpo.envs.bandit import Bandit
from simpo.experiments.plan import Plan
from simpo.generative import Flow
from simpo.matching import RepulsionBound, Unbounded, matching_loss
from simpo.networks import Denoiser
from simpo.randomness import normal
from simpo.temperature import EntropyTarget, Fixed, Solved, Target
from simpo.types import PyTree, SimpoError
from simpo.weighting import Weighting, Weights

__all__ = [
    "Case",
    "Method",
    "Protocol",
    "Results",
    "Setting",
    "Starts",
    "pretrain",
    "run",
]

COND: Any = np.zeros((1, 1), np.float32)
"""The one state of a bandit."""
ADAM = optax.scale_by_adam()
NO_ROUND = 2**31 - 1
"""Folded into the keys of draws that belong to no round."""


@dataclass(frozen=True)
class Protocol:
    """What all trials of a study share."""

    start_mean: float = 0.0
    """Mean of the Gaussian that the policy starts from."""
    start_std: float = 0.5
    """Standard deviation of that Gaussian."""
    box: float = 2.0
    """Actions lie in [-box, box]."""
    candidates: int = 64
    """N, candidates per iteration."""
    iterations: int = 300
    """Rounds of drawing, weighing and fitting."""
    inner_steps: int = 5
    """Adam steps per round."""
    final_rate: float = 0.05
    """Learning rate at the end, as a share of that at the start; linear between."""
    bound: RepulsionBound = Unbounded()  # noqa: RUF009
    """What bounds the repulsion; its updates are rounds."""
    denoising_steps: int = 10
    """Euler steps of the flow."""
    width: int = 32
    """Units of each of the two hidden layers."""
    pretrain_steps: int = 1000
    """Adam steps that fit the policy to its start."""
    pretrain_batch: int = 256
    """Samples of the start per such step."""
    pretrain_rate: float = 3e-3
    """Learning rate of these steps, cosine to zero."""
    points: int = 100
    """Points of a regret curve, each a mean over iterations / points rounds."""
    final_samples: int = 512
    """Actions drawn from the policy before and after a trial, for densities."""

    def __post_init__(self) -> None:
        """Reject impossible settings.

        Raises:
            SimpoError: iterations is not a multiple of points.
        """
        if self.iterations < 1 or self.iterations % self.points:
            raise SimpoError(
                f"iterations must be a multiple of points: {self.iterations} is not "
                f"one of {self.points}"
            )

    @property
    def flow(self) -> Flow:
        """The generative model, clipped to the box."""
        return Flow(denoising_steps=self.denoising_steps, clip=self.box)


@dataclass(frozen=True)
class Nats(Target):
    """`EntropyTarget` whose bound is an array: one program for all bounds."""

    nats: Array
    """Bound, []."""

    def excess(self, weights: Weights, weighting: Weighting) -> Array:
        """Mean of ln N - H, minus the bound."""
        return kl_to_uniform(weights.values).mean() - self.nats

    def check(self, weighting: Weighting, candidates: int) -> None:
        """Arrays are checked before they are traced, by `run`."""


class Method(NamedTuple):
    """How candidates become weights.

    Attributes:
        weighting: Stage I.
        solved: Whether lambda is solved for the setting's KL target; otherwise it is
            the setting's scale.
    """

    weighting: Weighting
    solved: bool = True

    def weigh(self, kl: Array, q: Array) -> tuple[Weights, Array]:
        """Weights and temperature of values [1, N] divided by the scale."""
        rule = Solved(Nats(kl)) if self.solved else Fixed(1.0)
        return rule.weigh((), self.weighting, q)[:2]


class Setting(NamedTuple):
    """What a trial may have of its own; leaves [] or, for many, [R, ...].

    Attributes:
        bandit: The landscape.
        noise: Standard deviation of the noise on candidates.
        rate: Learning rate of Adam at the first round.
        kl: KL target of methods that solve for the temperature, in nats.
        scale: Rewards are divided by it before they are weighed: it is the temperature
            of the other methods.
    """

    bandit: Bandit
    noise: Array
    rate: Array
    kl: Array
    scale: Array

    @staticmethod
    def of(
        bandit: Bandit,
        *,
        noise: float,
        rate: float,
        kl: float = 1.0,
        scale: float = 1.0,
    ) -> "Setting":
        """A setting from plain numbers."""
        numbers = (jnp.asarray(x, jnp.float32) for x in (noise, rate, kl, scale))
        return Setting(jax.tree.map(jnp.asarray, bandit), *numbers)


class Case(NamedTuple):
    """A method, by its index, under a setting."""

    method: int
    setting: Setting


class Starts(NamedTuple):
    """Pretrained policies [T, ...], and the key of each one's trials [T]."""

    net: Denoiser
    key: Array


class Results(NamedTuple):
    """What T trials of C cases gave.

    Attributes:
        regret: Curves [C, T, points].
        temperature: Curves of lambda, in the units of the reward [C, T, points].
        kl: Curves of ln N - H(w / N), in nats [C, T, points].
        start: Actions of the policy before the first round [T, final_samples].
        final: Actions after the last round [C, T, final_samples].
    """

    regret: np.ndarray
    temperature: np.ndarray
    kl: np.ndarray
    start: np.ndarray
    final: np.ndarray

    def only(self, case: int) -> "Results":
        """One case's results, C = 1."""
        one = slice(case, case + 1)
        return self._replace(
            regret=self.regret[one],
            temperature=self.temperature[one],
            kl=self.kl[one],
            final=self.final[one],
        )


class State(NamedTuple):
    """A trial under way."""

    net: Denoiser
    opt: PyTree
    key: Array
    round: Array


def pretrain(protocol: Protocol, trials: int, seed: int) -> Starts:
    """Policies fitted to the start Gaussian, each from its own random network [T]."""

    def fit(key: Array, mean: Array, std: Array) -> Starts:
        init_key, fit_key, trial_key = jax.random.split(key, 3)
        net = Denoiser.init(
            init_key, 1, 1, width=protocol.width, depth=2, frequencies=4
        )
        rate = optax.cosine_decay_schedule(
            protocol.pretrain_rate, protocol.pretrain_steps
        )
        adam = optax.adam(rate)

        def step(carry: tuple[Denoiser, PyTree], i: Array) -> tuple:
            net, opt = carry
            draw_key, match_key = jax.random.split(jax.random.fold_in(fit_key, i))
            x = normal(draw_key, (1, protocol.pretrain_batch, 1))
            x = jnp.clip(mean + std * x, -protocol.box, protocol.box)
            grads = jax.grad(mismatch)(net, match_key, x)
            return descend(adam, grads, opt, net), None

        def mismatch(net: Denoiser, key: Array, x: Array) -> Array:
            return protocol.flow.matching_error(net, key, x, COND).mean()

        start = net, adam.init(net)  # pyright: ignore[reportArgumentType]
        (net, _), _ = jax.lax.scan(step, start, jnp.arange(protocol.pretrain_steps))
        return Starts(net, trial_key)

    plan = Plan.of(1, trials)
    fit_all = plan.compile(jax.vmap(fit))
    keys = jax.random.split(jax.random.key(seed), trials)
    means = jnp.full(trials, protocol.start_mean)  # data: one program for all starts
    stds = jnp.full(trials, protocol.start_std)
    groups = [fit_all(keys[at], means[at], stds[at]) for at in plan.trial]
    return jax.tree.map(lambda x: x[0], plan.by_case(groups))


def advance(
    protocol: Protocol,
    methods: tuple[Method, ...],
    method: Array,
    setting: Setting,
    state: State,
) -> tuple[State, dict[str, Array]]:
    """One round of one trial."""
    key = jax.random.fold_in(state.key, state.round)
    sample_key, noise_key, match_key = jax.random.split(key, 3)
    drawn = protocol.flow.sample(state.net, sample_key, COND, protocol.candidates)
    x = drawn + setting.noise * normal(noise_key, drawn.shape)
    x = jnp.clip(x, -protocol.box, protocol.box)
    ways = [m.weigh for m in methods]
    q = setting.bandit.step(x) / setting.scale
    weights, temperature = jax.lax.switch(method, ways, setting.kl, q)

    def mismatch(net: Denoiser, key: Array) -> Array:
        w, bound = weights.values, protocol.bound
        flow = protocol.flow
        return matching_loss(flow, net, key, x, w, COND, bound, state.round)[0]

    progress = state.round / protocol.iterations
    rate = setting.rate * (1 - (1 - protocol.final_rate) * progress)

    def fit(carry: tuple[Denoiser, PyTree], key: Array) -> tuple:
        net, opt = carry
        change, opt = ADAM.update(jax.grad(mismatch)(net, key), opt)
        return (jax.tree.map(lambda x, d: x - rate * d, net, change), opt), None

    keys = jax.random.split(match_key, protocol.inner_steps)
    (net, opt), _ = jax.lax.scan(fit, (state.net, state.opt), keys)
    record = {
        "reward": setting.bandit.step(drawn).mean(),
        "temperature": temperature * setting.scale,
        "kl": kl_to_uniform(weights.values).mean(),
    }
    return State(net, opt, state.key, state.round + 1), record


def run(
    protocol: Protocol,
    methods: tuple[Method, ...],
    cases: Sequence[Case],
    starts: Starts,
    progress: Callable[[int], None] = lambda rounds: None,
) -> Results:
    """Run T trials of each of C cases.

    Args:
        protocol: What all trials share.
        methods: What the cases' indices refer to.
        cases: Methods under settings.
        starts: T pretrained policies, the same for all cases.
        progress: Called with the number of rounds of trials done since the last call.

    Raises:
        SimpoError: A temperature that cannot be solved for.
    """
    for case in cases:
        if (m := methods[case.method]).solved:
            target = EntropyTarget(float(case.setting.kl))
            target.check(m.weighting, protocol.candidates)
    plan = Plan.of(len(cases), len(starts.key))
    index = jnp.array([case.method for case in cases], jnp.int32)
    settings = jax.tree.map(lambda *xs: jnp.stack(xs), *(c.setting for c in cases))
    begin, draw = edges(protocol.flow, protocol.final_samples, plan.program)
    proceed = rounds(protocol, methods, plan.program)
    done = plan.devices * plan.block * protocol.iterations // protocol.points
    groups = []
    for case, trial in zip(plan.case, plan.trial, strict=True):
        state = begin(take(starts, trial))
        first = jax.device_get(draw(state))
        setting, curves = take(settings, case), []
        for _ in range(protocol.points):
            state, record = proceed(index[case], setting, state)
            curves.append(jax.device_get(record))
            progress(done)
        curves = jax.tree.map(lambda *xs: np.stack(xs, -1), *curves)
        groups.append((curves, first, jax.device_get(draw(state))))
    curves, first, last = plan.by_case(groups)
    best = np.array([best_reward(case.setting.bandit) for case in cases])
    return Results(
        regret=best[:, None, None] - curves["reward"],
        temperature=curves["temperature"],
        kl=curves["kl"],
        start=first[0],
        final=last,
    )


def take(tree: PyTree, index: np.ndarray) -> PyTree:
    """Rows of all leaves."""
    return jax.tree.map(lambda x: x[index], tree)


@functools.cache
def rounds(
    protocol: Protocol, methods: tuple[Method, ...], plan: Plan
) -> Callable[..., tuple[State, dict[str, Array]]]:
    """Compiled: the rounds of one point of a curve, and their mean records."""

    def proceed(
        method: Array, setting: Setting, state: State
    ) -> tuple[State, dict[str, Array]]:
        def step(state: State, _: None) -> tuple[State, dict[str, Array]]:
            one = functools.partial(advance, protocol, methods, method, setting)
            return jax.vmap(one)(state)

        length = protocol.iterations // protocol.points
        state, records = jax.lax.scan(step, state, length=length)
        return state, jax.tree.map(lambda r: r.mean(axis=0), records)

    return plan.compile(proceed)


@jax.jit
def best_reward(bandit: Bandit) -> Array:
    """max_a r(a), []."""
    return bandit.best()[1]


@functools.cache
def edges(flow: Flow, samples: int, plan: Plan) -> tuple[Callable[..., Any], ...]:
    """Compiled: the first state of trials; actions drawn from a state."""

    def begin(start: Starts) -> State:
        opt = ADAM.init(start.net)  # pyright: ignore[reportArgumentType]
        return State(start.net, opt, start.key, jnp.zeros((), jnp.int32))

    def draw(state: State) -> Array:
        key = jax.random.fold_in(state.key, NO_ROUND)
        return flow.sample(state.net, key, COND, samples)[0, :, 0]

    return plan.compile(jax.vmap(begin)), plan.compile(jax.vmap(draw))
