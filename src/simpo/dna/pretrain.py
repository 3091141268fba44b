"""Pretraining of a masked diffusion on sequences, by its bound of the likelihood.

theta minimises E_x [ NELBO(x) / L ] by Adam, warmed up; what is kept is the running
mean of theta (decay e). Every sequence may be read from either strand.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from simpo.generative.masked import ExactMasks, MaskedDiffusion, no_labels
from simpo.randomness import uniform
from simpo.types import PyTree, SimpoError

__all__ = ["PretrainState", "Pretraining", "each_chunk", "nll", "pretrain"]

CHUNK = 50
"""Steps that run in one compiled call."""


class PretrainState(NamedTuple):
    """Everything that pretraining changes.

    Attributes:
        net: The network.
        mean: Its running mean, which is what is learnt.
        opt: The optimiser's state.
        key: Random key.
        step: Updates done.
    """

    net: Any
    mean: Any
    opt: PyTree
    key: Array
    step: Array


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Settings; the defaults are for a small network on two cores."""

    model: MaskedDiffusion
    """The generative model."""
    steps: int = 2_000
    """Updates."""
    batch_size: int = 128
    """Sequences per update."""
    learning_rate: float = 1e-3
    """Of Adam, after the warm-up; 3e-4 as published."""
    warmup: int = 100
    """Updates in which the rate rises."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    decay: float = 0.999
    """e of the running mean; 0.9999 as published, for 131,500 updates."""
    both_strands: bool = True
    """Whether sequences are read from either strand."""
    drop_label: float = 0.1
    """Chance that a network with labels is not told one."""

    def check(self, sequences: int) -> None:
        """Require numbers that are possible, and enough sequences.

        Raises:
            SimpoError: Something is not so.
        """
        if min(self.steps, self.batch_size) < 1:
            raise SimpoError("steps and batch_size must be at least 1")
        if not self.learning_rate > 0 or self.warmup < 0:
            raise SimpoError("learning_rate must be positive, warmup not negative")
        if not 0 <= self.decay < 1 or not 0 <= self.drop_label <= 1:
            raise SimpoError("decay must be in [0, 1), drop_label in [0, 1]")
        if sequences < self.batch_size:
            raise SimpoError(
                f"{sequences} sequences are fewer than a batch of {self.batch_size}"
            )

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """Adam on clipped gradients; the published AdamW decays no weights."""
        rate = optax.linear_schedule(0.0, self.learning_rate, max(self.warmup, 1))
        clip = optax.clip_by_global_norm(self.max_grad_norm)
        return optax.chain(clip, optax.adam(rate))

    def init(self, net: Any, key: Array) -> PretrainState:
        """From a fresh network."""
        opt = self.optimiser.init(net)
        return PretrainState(net, net, opt, key, jnp.zeros((), jnp.int32))

    @functools.partial(jax.jit, static_argnums=(0, 4))
    def updates(
        self, state: PretrainState, letters: Array, labels: Array, count: int
    ) -> tuple[PretrainState, Array]:
        """Some updates on random batches; the mean bound of each, nats per base."""

        def update(state: PretrainState, _: None) -> tuple[PretrainState, Array]:
            key = jax.random.fold_in(state.key, state.step)
            pick, strand, hide, match = jax.random.split(key, 4)
            rows = jax.random.randint(pick, (self.batch_size,), 0, len(letters))
            x, label = letters[rows], labels[rows]
            if self.both_strands:
                other = uniform(strand, (len(x), 1)) < 0.5
                x = jnp.where(other, 3 - x[:, ::-1], x)
            if label.shape[-1]:
                none = uniform(hide, label.shape) < self.drop_label
                label = jnp.where(none, len(state.net.labels) - 1, label)

            def loss(net: Any) -> Array:
                return self.model.matching_error(net, match, x[:, None], label).mean()

            value, grads = jax.value_and_grad(loss)(state.net)
            change, opt = self.optimiser.update(grads, state.opt, state.net)
            net = optax.apply_updates(state.net, change)
            # Early on the mean is of few updates, not of the random start.
            kept = jnp.minimum(self.decay, (state.step + 1.0) / (state.step + 10.0))
            mean = optax.incremental_update(net, state.mean, 1.0 - kept)
            return PretrainState(net, mean, opt, state.key, state.step + 1), value

        return jax.lax.scan(update, state, length=count)


def pretrain(
    settings: Pretraining,
    net: Any,
    letters: np.ndarray,
    key: Array,
    labels: np.ndarray | None = None,
    observe: Callable[[int, float], None] = lambda *_: None,
) -> Any:
    """Fit a network to sequences.

    Args:
        settings: How.
        net: A fresh network.
        letters: Sequences over ACGT [N, L].
        key: Random key.
        labels: A class per sequence [N], for a network with labels.
        observe: Told of updates done, and of the mean bound of the last ones.

    Returns:
        The running mean of the network.

    Raises:
        SimpoError: Impossible settings, too few sequences, other lengths; a bound that
            is not finite.
    """
    state = settings.init(net, key)
    for after, bound in each_chunk(settings, state, letters, labels):
        state = after
        observe(int(state.step), bound)
    return state.mean


def each_chunk(
    settings: Pretraining,
    state: PretrainState,
    letters: np.ndarray,
    labels: np.ndarray | None = None,
) -> Iterator[tuple[PretrainState, float]]:
    """The state and the mean bound after every few updates, until all are made.

    Arguments and errors as of `pretrain`; the updates of the state count.
    """
    settings.check(len(letters))
    if letters.shape[1] != settings.model.length:
        raise SimpoError(
            f"sequences have {letters.shape[1]} bases, the model has "
            f"{settings.model.length}"
        )
    data = jnp.asarray(letters, jnp.int32)
    classes = no_labels(len(letters))
    if labels is not None:
        classes = jnp.asarray(labels[:, None], jnp.int32)
    for done in range(int(state.step), settings.steps, CHUNK):
        count = min(CHUNK, settings.steps - done)
        state, values = settings.updates(state, data, classes, count)
        value = float(values.mean())
        if not np.isfinite(value):
            raise SimpoError(f"after {done + count} updates the loss is not finite")
        yield state, value


def nll(
    model: MaskedDiffusion, net: Any, letters: np.ndarray, key: Array, masks: int = 16
) -> np.ndarray:
    """The bound of -log p of each sequence: [N, L] -> [N], nats per base.

    Every sequence is masked so many times, with numbers of masks that are as far apart;
    with L masks each number comes once.
    """
    each = replace(model, masks=min(masks, model.length), masking=ExactMasks())
    keys = jax.random.split(key, len(letters))
    return np.asarray(score(each, net, keys, jnp.asarray(letters, jnp.int32)))


@functools.partial(jax.jit, static_argnums=0)
def score(model: MaskedDiffusion, net: Any, keys: Array, letters: Array) -> Array:
    """The bound of each sequence, one after the other: [N, L] -> [N]."""

    def one(row: tuple[Array, Array]) -> Array:
        key, x = row
        return model.matching_error(net, key, x[None, None], no_labels(1)).mean()

    return jax.lax.map(one, (keys, letters))
