"""Fine-tuning a masked diffusion by signed weights: SiMPO on sequences.

Propose      x_1..x_K ~ p_theta, a group; r_i their scores, q_i = (r_i - mean) / sd
Stage I      w_i = g((q_i - nu) / lambda), mean one, of any sign
Stage II     M times: theta minimises mean_i w_i NELBO(x_i) / L, with fresh masks
Anchor       + beta KL of the chains of theta and of the pretrained network, if wanted

The paper's Section 5.3. Weights, temperature and matching are those of control. With
Exponential this is RL-D2 (a softmax of advantages over the bound); with SignedSoftmax
it is WD1 with a bound for its likelihood, and WD1 as released if all is masked at once.

Where E[w | x_t] < 0 the loss has no minimum. ClippedError(1.6, negative_only=True) is
the guard: a sequence that is already less likely than noise (1.386 nats per base) is
pushed no further.

Even of mean weight one, an x_m of few masks may fit repelled sequences alone. With
`negative_masks` c > 0, these are matched at m > c L masks only:

    mean_i w_i 1/L sum_m [w_i >= 0 or m > c L] E_{x_m} [ 1/m sum_j -log p(x_ij | x_m) ]

over masked j. What is left out is not made up for: of w_i < 0 that is a part of the
bound, and no bound of log p. So, as x_m shows its m, levels m > c L learn what they
would without the guard, and the others from the positive weights alone.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from simpo.dna.guidance import write
from simpo.dna.objective import Objective
from simpo.generative.masked import MaskedDiffusion, no_labels
from simpo.matching import ClippedError, Repels, RepulsionBound, policy_improvement
from simpo.temperature import EntropyTarget, Solved, Temperature
from simpo.types import Metrics, PyTree, SimpoError
from simpo.weighting import Linear, Weighting

__all__ = ["SignedTuning", "TuneState", "each_round", "finetune", "standardise"]

SMALL = 1e-6
"""Added to the standard deviation of scores: equal ones then weigh the same."""


class TuneState(NamedTuple):
    """Everything that fine-tuning changes.

    Attributes:
        net: The network.
        opt: The optimiser's state.
        temperature: The temperature's state.
        key: Random key.
        step: Updates done.
    """

    net: Any
    opt: PyTree
    temperature: PyTree
    key: Array
    step: Array


def standardise(scores: Array) -> Array:
    """(r - mean) / sd of a group: [K] -> [K]."""
    return (scores - scores.mean()) / (scores.std() + SMALL)


@dataclass(frozen=True, kw_only=True)
class SignedTuning:
    """Rounds of proposing a group, weighing it, and fitting the network to it."""

    model: MaskedDiffusion
    """The generative model; its masks are R, per sequence and update."""
    weighting: Weighting = Linear(floor=-1.0)  # noqa: RUF009
    """Stage I: from scores to signed weights."""
    temperature: Temperature = Solved(target=EntropyTarget(1.0))  # noqa: RUF009
    """How lambda is chosen."""
    bound: RepulsionBound = ClippedError(1.6, negative_only=True)  # noqa: RUF009
    """What bounds the repulsion, in nats per base."""
    negative_masks: float = 0.0
    """c, share of the bases that negative weights need more masks than; 0 is off."""
    group: int = 64
    """K, sequences per round."""
    inner_updates: int = 4
    """M, updates per round; beyond a few the negatives are off policy."""
    learning_rate: float = 5e-4
    """Of Adam."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    path_kl: float = 0.0
    """beta, weight of the divergence from the pretrained network."""

    def check(self) -> None:
        """Require numbers that are possible, and a temperature within reach.

        Raises:
            SimpoError: Something is not so.
        """
        for name in ("group", "inner_updates"):
            if getattr(self, name) < 1:
                raise SimpoError(f"{name} must be at least 1")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise SimpoError(f"{name} must be positive")
        if self.path_kl < 0:
            raise SimpoError("path_kl must not be negative")
        if not 0 <= self.negative_masks < 1:
            raise SimpoError(
                "negative_masks is a share of the bases, from 0 to below 1, not "
                f"{self.negative_masks:g}"
            )
        self.temperature.check(self.weighting, self.group)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """Adam on clipped gradients."""
        clip = optax.clip_by_global_norm(self.max_grad_norm)
        return optax.chain(clip, optax.adam(self.learning_rate))

    @property
    def repels(self) -> Repels | None:
        """Where negative weights act: at many masks, if that is wanted."""
        if not self.negative_masks:
            return None
        return functools.partial(self.model.many_masked, share=self.negative_masks)

    def init(self, net: Any, key: Array) -> TuneState:
        """From a pretrained network."""
        opt = self.optimiser.init(net)
        step = jnp.zeros((), jnp.int32)
        return TuneState(net, opt, self.temperature.init(), key, step)

    def propose(self, state: TuneState) -> Array:
        """A group of the network's sequences [K, L]."""
        key = jax.random.fold_in(state.key, 2 * state.step)
        return write(self.model, self.group, state.net, key)

    @functools.partial(jax.jit, static_argnums=0)
    def improve(
        self, state: TuneState, letters: Array, scores: Array, reference: Any
    ) -> tuple[TuneState, Metrics]:
        """M updates on one group.

        Args:
            state: Before.
            letters: The group [K, L].
            scores: Its scores [K].
            reference: The pretrained network.
        """
        q = standardise(scores)[None]

        def update(state: TuneState, _: None) -> tuple[TuneState, Metrics]:
            key = jax.random.fold_in(state.key, 2 * state.step + 1)
            match_key, anchor_key = jax.random.split(key)
            improvement = policy_improvement(
                self.model,
                self.weighting,
                self.temperature,
                self.bound,
                net=state.net,
                temperature_state=state.temperature,
                key=match_key,
                candidates=letters[None],
                q=q,
                cond=no_labels(1),
                step=state.step,
                repels=self.repels,
            )
            grads, metrics = improvement.grads, improvement.metrics
            if self.path_kl:
                kl, pull = jax.value_and_grad(self.anchor)(
                    state.net, reference, anchor_key, letters
                )
                grads = jax.tree.map(lambda g, p: g + self.path_kl * p, grads, pull)
                metrics = metrics | {"path_kl": kl}
            change, opt = self.optimiser.update(grads, state.opt, state.net)
            net = optax.apply_updates(state.net, change)
            temperature = improvement.temperature_state
            new = TuneState(net, opt, temperature, state.key, state.step + 1)
            return new, metrics

        state, metrics = jax.lax.scan(update, state, length=self.inner_updates)
        return state, jax.tree.map(lambda x: x.mean(0), metrics)

    def anchor(self, net: Any, reference: Any, key: Array, letters: Array) -> Array:
        """KL of the chains from the pretrained network's, nats per base: []."""
        kl = self.model.divergence(net, reference, key, letters[None], no_labels(1))
        return kl.mean()

    def round(
        self, state: TuneState, objective: Objective, reference: Any
    ) -> tuple[TuneState, dict[str, float]]:
        """Propose, score, improve."""
        letters = self.propose(state)
        scores = objective(np.asarray(letters))
        state, metrics = self.improve(state, letters, jnp.asarray(scores), reference)
        per_update = self.group * self.model.masks * self.inner_updates
        objective.calls.network += self.group * self.model.denoising_steps + per_update
        told = {"score_median": float(np.median(scores)), "score_mean": scores.mean()}
        return state, {k: float(v) for k, v in {**told, **metrics}.items()}


def finetune(
    tuning: Any,
    net: Any,
    objective: Objective,
    rounds: int,
    key: Array,
    observe: Callable[[int, dict[str, float]], None] = lambda *_: None,
) -> Any:
    """Fine-tune a pretrained network.

    Args:
        tuning: `SignedTuning`, or `drakes.Drakes`.
        net: The pretrained network.
        objective: What sequences are scored by.
        rounds: How often a group is proposed.
        key: Random key.
        observe: Told of each round: its number and metrics.

    Returns:
        The network.

    Raises:
        SimpoError: Impossible settings; scores or weights that are not finite.
    """
    tuning.check()
    state = tuning.init(net, key)
    for number, (after, metrics) in enumerate(
        each_round(tuning, state, net, objective, range(rounds))
    ):
        state = after
        observe(number, metrics)
    return state.net


def each_round(
    tuning: Any, state: TuneState, reference: Any, objective: Objective, rounds: range
) -> Iterator[tuple[TuneState, dict[str, float]]]:
    """The state and the metrics after each of some rounds.

    Args:
        tuning: As of `finetune`.
        state: Before the first of them.
        reference: The pretrained network.
        objective: What sequences are scored by.
        rounds: Their numbers.

    Raises:
        SimpoError: Scores or weights that are not finite.
    """
    for number in rounds:
        state, metrics = tuning.round(state, objective, reference)
        bad = [name for name, value in metrics.items() if not np.isfinite(value)]
        if bad:
            raise SimpoError(f"round {number}: {bad[0]} is not finite; lower the rate")
        yield state, metrics
