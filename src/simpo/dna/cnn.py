"""An oracle of convolutional networks, trained until the validation loss stops falling.

z(x) = c + d mean_k f_k(x)           members k of other random numbers, f of convnet.py
y'   = link(z)                       c, d: mean and standard deviation of the labels
loss = mean (link(c + d f) - y)^2 / d^2, or the logistic loss of a classifier

Each step sees one strand of a sequence, drawn at random; values average both. Of every
member the epoch of the least validation loss is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from simpo.dna.batches import in_blocks
from simpo.dna.convnet import Conv, ConvNet, Shape
from simpo.dna.oracle import (
    Differentiable,
    Link,
    Logistic,
    Training,
    make_link,
    require_labels,
)
from simpo.randomness import uniform
from simpo.types import PyTree, SimpoError

__all__ = ["CNN", "Fitting", "train_cnn"]

Progress = Callable[[str, float], None]
"""Told what is being done and how many epochs are done."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How networks are trained.

    Attributes:
        members: Networks, whose mean is the oracle.
        epochs: Passes over the data, at most.
        patience: Passes without a new least validation loss before it stops.
        batch_size: Sequences in a step.
        lr: Learning rate of AdamW, falling to zero along a cosine over all epochs.
        weight_decay: Its decay.
        clip: Largest norm of a gradient.
        seed: Source of all random numbers.
    """

    members: int = 3
    epochs: int = 20
    patience: int = 5
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class CNN(Differentiable):
    """The mean of convolutional networks.

    Attributes:
        name: What reports and errors call it.
        networks: The members.
        centre: c.
        spread: d.
        link: From z to the value.
        training: What it was trained on.
    """

    name: str
    networks: Sequence[ConvNet]
    centre: float
    spread: float
    link: Link
    training: Training

    def soft(self, probs: Array) -> Array:
        """Values [N] of relaxed sequences [N, L, 4]."""
        self.training.require(probs.shape[-2], self.name)
        mean = jnp.stack([network(probs) for network in self.networks]).mean(0)
        return self.link(self.centre + self.spread * mean)

    def distance(self, tokens: np.ndarray) -> np.ndarray:
        """Share of letters [N] that differ from the nearest training sequence."""
        return self.training.distance(tokens, self.name)


class Target(NamedTuple):
    """What networks are fitted to."""

    link: Link
    centre: float
    spread: float

    def losses(self, f: Array, y: Array) -> Array:
        """Losses [N] of outputs f [N] at labels y [N]."""
        z = self.centre + self.spread * f
        if isinstance(self.link, Logistic):
            return jax.nn.softplus(z) - y * z
        return ((self.link(z) - y) / self.spread) ** 2


def make_target(labels: np.ndarray, classify: bool) -> Target:
    """The scale of labels [N]."""
    link, mean = make_link(labels, classify), float(labels.mean(dtype=np.float64))
    if isinstance(link, Logistic):
        return Target(link, float(np.log(mean / (1 - mean))), 1.0)
    return Target(link, mean, float(labels.std(dtype=np.float64)))


def train_cnn(
    tokens: np.ndarray,
    labels: np.ndarray,
    val: np.ndarray,
    *,
    name: str = "cnn",
    classify: bool = False,
    shape: Shape | None = None,
    stem: Conv | None = None,
    fitting: Fitting | None = None,
    progress: Progress | None = None,
) -> CNN:
    """Train an ensemble on the rows that `val` does not mark.

    Args:
        tokens: Sequences [N, L].
        labels: [N]; 0 or 1 of a classifier.
        val: True for the rows on which training stops [N].
        name: What the oracle is called.
        classify: Whether the value is a probability.
        shape: Sizes of the networks.
        stem: A first layer to start from, as of `motif_stem`.
        fitting: How to train.
        progress: Told how many of members x epochs are done, such as the `update` of a
            progress bar.

    Raises:
        SimpoError: Data that do not fit together, or a loss that is not finite.
    """
    tokens, labels, val = require_labels(tokens, labels, val, name)
    shape, fitting = shape or Shape(), fitting or Fitting()
    target = make_target(labels[~val], classify)
    rows = Rows(tokens[~val], labels[~val]), Rows(tokens[val], labels[val])
    networks = []
    for member in range(fitting.members):
        trainer = Member(fitting, target, name, member, progress or ignore)
        networks.append(trainer.fit(ConvNet.init(trainer.key(0), shape, stem), *rows))
    return CNN(
        name,
        networks,
        target.centre,
        target.spread,
        target.link,
        Training(tokens[~val]),
    )


def ignore(description: str, done: float) -> None:
    """No progress bar."""


class Rows(NamedTuple):
    """Tokens [N, L] and labels [N]."""

    tokens: np.ndarray
    labels: np.ndarray


class Member:
    """The training of one network."""

    def __init__(
        self, fitting: Fitting, target: Target, name: str, member: int, tell: Progress
    ) -> None:
        self.fitting, self.target, self.tell = fitting, target, tell
        self.name, self.member = name, member

    def key(self, number: int) -> Array:
        """A random key of this member's own."""
        mine = jax.random.fold_in(jax.random.key(self.fitting.seed), self.member)
        return jax.random.fold_in(mine, number)

    def fit(self, network: ConvNet, train: Rows, val: Rows) -> ConvNet:
        """The network at the epoch of its least validation loss."""
        fitting, target = self.fitting, self.target
        decay = {"clip": fitting.clip, "weight_decay": fitting.weight_decay}
        state: Any = network, make_optimiser(**decay).init(cast(Any, network))
        draws = np.random.default_rng((fitting.seed, self.member))
        best, least, since = network, np.inf, 0
        for number in range(fitting.epochs):
            order = batches(draws, len(train.tokens), fitting.batch_size)
            keys = jax.random.split(self.key(number + 1), len(order))
            pace = rates(fitting, number, len(order))
            for rows, key, rate in zip(order, keys, pace, strict=True):
                batch = train.tokens[rows], train.labels[rows], key, rate
                state = update(state, *batch, target=target, **decay)
            f = in_blocks(partial(values, state[0]), val.tokens)
            loss = float(target.losses(jnp.asarray(f), jnp.asarray(val.labels)).mean())
            if not np.isfinite(loss):
                raise SimpoError(
                    f"oracle {self.name}: the loss is {loss} after {number + 1} "
                    "epochs; a smaller learning rate may help"
                )
            since = 0 if loss < least else since + 1
            if loss < least:
                best, least = state[0], loss
            done = number + 1 if since < fitting.patience else fitting.epochs
            label = f"member {self.member + 1}, loss {least:.3f}"
            self.tell(label, self.member * fitting.epochs + done)
            if since >= fitting.patience:
                break
        return best


def make_optimiser(clip: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW of clipped gradients, without its rate."""
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay),
    )


def rates(fitting: Fitting, number: int, steps: int) -> np.ndarray:
    """Learning rates of the steps of an epoch: half a cosine over all epochs."""
    share = (number + np.arange(steps) / steps) / fitting.epochs
    return (fitting.lr * (1 + np.cos(np.pi * share)) / 2).astype(np.float32)


def batches(draws: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """A random order of the rows in whole batches [steps, size]; the rest wait."""
    size = min(size, rows)
    return draws.permutation(rows)[: rows // size * size].reshape(-1, size)


def of_tokens(network: ConvNet, tokens: Array) -> Array:
    """Outputs f [N] of tokens [N, L]."""
    return network(jax.nn.one_hot(tokens, 4))


def loss(
    network: ConvNet, tokens: Array, y: Array, key: Array, target: Target
) -> Array:
    """Mean loss of tokens [B, L] with labels y [B], each read from either strand."""
    draws = uniform(key, (len(tokens), 1 + 2 * network.shape.width))
    strand = jnp.where(draws[:, :1] < 0.5, 3 - tokens[:, ::-1], tokens)
    f = network.one_strand(jax.nn.one_hot(strand, 4), draws[:, 1:])
    return target.losses(f, y).mean()


@partial(jax.jit, static_argnames=("clip", "weight_decay", "target"))
def update(
    state: PyTree,
    tokens: Array,
    y: Array,
    key: Array,
    rate: Array,
    *,
    clip: float,
    weight_decay: float,
    target: Target,
) -> PyTree:
    """One step of the optimiser; in a loop of JAX's, it would take 20 times as long."""
    network, memory = state
    slope = jax.grad(loss)(network, tokens, y, key, target)
    change, memory = make_optimiser(clip, weight_decay).update(slope, memory, network)
    return jax.tree.map(lambda w, d: w - rate * d, network, change), memory


values = jax.jit(of_tokens)
