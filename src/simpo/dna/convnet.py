"""A small convolutional regressor whose first layer can start from motifs.

h = act(conv_W(x) + b)                stem: 4 -> C filters, each a motif's scores
h = conv_1(max over P positions of h) C -> H
h = h + conv_K(act(norm(h)))          blocks
z = dense(act(dense([mean h, max h])))
f(x) = (z(x) + z(rc(x))) / 2          both strands, so f(x) = f(rc(x))

A stem that starts from random numbers needs far more sequences than most assays have;
one that starts from known motifs begins where a motif scan ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from simpo.dna.motifs import Motif, log_odds
from simpo.randomness import normal, uniform
from simpo.types import SimpoError

__all__ = ["Conv", "ConvNet", "Shape", "motif_stem"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the network.

    Attributes:
        filters: Channels C of the stem.
        stem: Width W of its filters.
        pool: Positions P of which the largest goes on.
        width: Channels H.
        blocks: Residual blocks.
        kernel: Width K of their filters.
        dropout: Share of pooled features left out in training.
    """

    filters: int = 256
    stem: int = 21
    pool: int = 8
    width: int = 64
    blocks: int = 1
    kernel: int = 5
    dropout: float = 0.3


class Conv(eqx.Module):
    """A convolution along sequences, padded to the same length.

    Attributes:
        weight: [W, I, O].
        bias: [O].
    """

    weight: Array
    bias: Array

    @staticmethod
    def init(key: Array, width: int, inputs: int, outputs: int) -> "Conv":
        """Weights of variance 1 / (W I), zero biases."""
        weight = normal(key, (width, inputs, outputs)) / np.sqrt(width * inputs)
        return Conv(weight, jnp.zeros(outputs))

    def __call__(self, x: Array) -> Array:
        """Shapes [N, L, I] -> [N, L, O]."""
        dims = ("NWC", "WIO", "NWC")
        weight = self.weight.astype(x.dtype)
        h = lax.conv_general_dilated(x, weight, (1,), "SAME", dimension_numbers=dims)
        return h + self.bias


class ConvNet(eqx.Module):
    """The network above."""

    stem: Conv
    mix: Conv
    blocks: tuple[Conv, ...]
    hidden: Conv
    head: Conv
    pool: int = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    @staticmethod
    def init(key: Array, shape: Shape, stem: Conv | None = None) -> "ConvNet":
        """Fresh parameters; with `stem`, the first layer is that one."""
        keys = jax.random.split(key, 4 + shape.blocks)
        if stem is None:
            stem = Conv.init(keys[0], shape.stem, 4, shape.filters)
        h, filters = shape.width, stem.weight.shape[-1]
        return ConvNet(
            stem=stem,
            mix=Conv.init(keys[1], 1, filters, h),
            hidden=Conv.init(keys[2], 1, 2 * h, h),
            head=Conv.init(keys[3], 1, h, 1),
            blocks=tuple(Conv.init(k, shape.kernel, h, h) for k in keys[4:]),
            pool=shape.pool,
            dropout=shape.dropout,
        )

    @property
    def shape(self) -> Shape:
        """Its sizes; the kernel's is any where there are no blocks."""
        width, _, filters = self.stem.weight.shape
        return Shape(
            filters=filters,
            stem=width,
            pool=self.pool,
            width=self.hidden.bias.shape[0],
            blocks=len(self.blocks),
            kernel=self.blocks[0].weight.shape[0] if self.blocks else 1,
            dropout=self.dropout,
        )

    def one_strand(self, x: Array, key: Array | None = None) -> Array:
        """Z [N] of x [N, L, 4]; features are left out at random if there is a key."""
        h = jax.nn.relu(self.stem(x))
        h = self.mix(largest(h, self.pool))
        for block in self.blocks:
            h = h + block(jax.nn.relu(normalise(h)))
        both = jnp.concatenate([h.mean(1), h.max(1)], -1)[:, None]
        if key is not None:
            kept = uniform(key, both.shape) >= self.dropout
            both = jnp.where(kept, both / (1 - self.dropout), 0.0)
        return self.head(jax.nn.relu(self.hidden(both)))[:, 0, 0]

    def __call__(self, x: Array) -> Array:
        """F [N] of sequences [N, L, 4], averaged over strands."""
        return (self.one_strand(x) + self.one_strand(x[:, ::-1, ::-1])) / 2


def largest(h: Array, pool: int) -> Array:
    """The largest of every `pool` positions: [N, L, C] -> [N, ceil(L / pool), C].

    A maximum over an axis, whose gradient takes a third of the time of a window's.
    """
    n, length, channels = h.shape
    h = jnp.pad(h, ((0, 0), (0, -length % pool), (0, 0)), constant_values=-jnp.inf)
    return h.reshape(n, -1, pool, channels).max(2)


def normalise(h: Array) -> Array:
    """Channels [..., H] with mean 0 and variance 1."""
    centred = h - h.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def motif_stem(motifs: Sequence[Motif], gain: float, margin: float) -> Conv:
    """A first layer that gives gain (s - s_best + margin), on both strands.

    A site is seen if its score s, in nats, is less than `margin` below the motif's
    best. Filters 2 m and 2 m + 1 are motif m forwards and backwards.

    Raises:
        SimpoError: No motifs.
    """
    if not motifs:
        raise SimpoError("a first layer from motifs needs at least one motif")
    width = max(motif.width for motif in motifs)
    weight = np.zeros((width, 4, 2 * len(motifs)), np.float32)
    bias = np.zeros(2 * len(motifs), np.float32)
    for m, motif in enumerate(motifs):
        scores = log_odds(motif)
        start = (width - motif.width) // 2
        for strand, matrix in enumerate((scores, scores[::-1, ::-1])):
            weight[start : start + motif.width, :, 2 * m + strand] = gain * matrix
        bias[2 * m : 2 * m + 2] = gain * (margin - scores.max(1).sum())
    return Conv(jnp.asarray(weight), jnp.asarray(bias))
