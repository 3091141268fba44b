"""A small convolutional regressor whose first layer can start from motifs.

h = softplus(max over P positions of (conv_W(x) + b))    4 -> C, motifs' scores
h = conv_1(h)                                            C -> H
h = h + conv_K(relu(norm(h)))                            blocks
z = dense(relu(dense([mean h, max h])))
f(x) = (z(x) + z(rc(x))) / 2          both strands, so f(x) = f(rc(x))

Softplus, since where no site is near a rectifier would leave no gradient to follow. A
stem that starts from random numbers needs far more sequences than most assays have;
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
from simpo.randomness import normal
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
        filters = shape.filters if stem is None else stem.weight.shape[-1]
        h, k = shape.width, shape.kernel
        sizes = [(1, filters, h), (1, 2 * h, h), (1, h, 1), *shape.blocks * [(k, h, h)]]
        mix, hidden, head, *blocks, fresh = fresh_convs(
            key, [*sizes, (shape.stem, 4, shape.filters)]
        )
        return ConvNet(
            stem=stem or fresh,
            mix=mix,
            blocks=tuple(blocks),
            hidden=hidden,
            head=head,
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

    def one_strand(self, x: Array, draws: Array | None = None) -> Array:
        """Outputs z [N] of sequences x [N, L, 4].

        In training, features whose draws [N, 2 H] in [0, 1) are small are left out.
        """
        h = self.mix(jax.nn.softplus(largest(self.stem(x), self.pool)))
        for block in self.blocks:
            h = h + block(jax.nn.relu(normalise(h)))
        both = jnp.concatenate([h.mean(1), h.max(1)], -1)[:, None]
        if draws is not None:
            kept = draws[:, None] >= self.dropout
            both = jnp.where(kept, both / (1 - self.dropout), 0.0)
        return self.head(jax.nn.relu(self.hidden(both)))[:, 0, 0]

    def __call__(self, x: Array) -> Array:
        """Outputs f [N] of sequences [N, L, 4], averaged over strands."""
        return (self.one_strand(x) + self.one_strand(x[:, ::-1, ::-1])) / 2


def fresh_convs(key: Array, sizes: Sequence[tuple[int, int, int]]) -> list[Conv]:
    """Weights [W, I, O] of variance 1 / (W I), zero biases; one draw for all."""
    ends = np.cumsum([w * i * o for w, i, o in sizes])
    parts = jnp.split(normal(key, (int(ends[-1]),)), ends[:-1])
    return [
        Conv(part.reshape(size) / np.sqrt(size[0] * size[1]), jnp.zeros(size[-1]))
        for part, size in zip(parts, sizes, strict=True)
    ]


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
