"""A convolutional denoiser of sequences, with taps ever further apart.

h_0     = relu(conv(x; 1))                             x [B, L, V + 1], soft or one-hot
h_k+1   = h_k + relu(conv(LayerNorm(h_k + e_k); d_k))  d = 1, 1, 4, 16, 64, four of each
logits  = W relu(W' h_K + b') + b                      [B, L, V]

The last channel of x is the mask. e_k is a linear map of the time's embedding, and of
the label's, where the network has them. The network of Dirichlet flow matching (Stark
et al. 2024), used by MDLM for DNA and DRAKES; at the paper's size 3,326,597 parameters.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from simpo.networks import Dense, fan_in_uniform
from simpo.randomness import normal, uniform
from simpo.types import SimpoError

__all__ = ["PAPER", "Conv", "DilatedDenoiser", "Size", "paper_dilations"]

TAPS = 9
"""Bases that a convolution sees."""
FREQUENCY = 30.0
"""Standard deviation of the frequencies of the time's embedding."""
EPSILON = 1e-5
"""Added to the variance of a layer norm, as in PyTorch."""


def paper_dilations(each: int = 4) -> tuple[int, ...]:
    """1, 1, 4, 16, 64, each so many times."""
    return tuple(d for d in (1, 1, 4, 16, 64) for _ in range(each))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Array, kernel: Array, dilation: int) -> Array:
    """y_i = sum_w x_(i + (w - half) d) K_w, zeros beyond the ends.

    Shapes x [B, L, I], kernel [W, I, O], W odd -> [B, L, O]. The gradients are written
    as convolutions of the same form: JAX's own, reversed or with axes exchanged, are
    twenty times slower on a CPU inside a scan (JAX 0.10).
    """
    pad = kernel.shape[0] // 2 * dilation
    return correlate(x, kernel, pad, dilation=dilation)


def correlate(
    x: Array, kernel: Array, pad: int, *, stride: int = 1, dilation: int = 1
) -> Array:
    """The one form of convolution that is fast everywhere."""
    return jax.lax.conv_general_dilated(
        *(x, kernel, (stride,), [(pad, pad)]),
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


def convolve_forward(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple]:
    """The value, and what its gradients need."""
    y: Any = convolve(x, kernel, dilation)
    return y, (x, kernel)


def convolve_backward(dilation: int, kept: tuple, dy: Array) -> tuple[Array, Array]:
    """With j = i - (w - half) d: dx_i = sum_w dy_j K_w^T, dK_w = sum_i x_i^T dy_j."""
    x, kernel = kept
    pad = kernel.shape[0] // 2 * dilation
    dx: Any = convolve(dy, kernel[::-1].transpose(0, 2, 1), dilation)
    rows, taps = x.transpose(2, 1, 0), dy.transpose(1, 0, 2)  # [I, L, B], [L, B, O]
    return dx, correlate(rows, taps, pad, stride=dilation).transpose(1, 0, 2)


convolve.defvjp(convolve_forward, convolve_backward)


class Conv(eqx.Module):
    """A convolution of [B, L, I] to [B, L, O], zeros beyond the ends.

    Attributes:
        kernel: [W, I, O], W odd.
        bias: [O].
        dilation: Bases between taps.
    """

    kernel: Array
    bias: Array
    dilation: int = eqx.field(static=True, default=1)

    @staticmethod
    def init(key: Array, inputs: int, outputs: int, dilation: int = 1) -> "Conv":
        """A layer with weights and biases within 1/sqrt(W I), PyTorch's default."""
        bound = 1.0 / math.sqrt(TAPS * inputs)
        draws = bound * uniform(key, (TAPS * inputs + 1, outputs), low=-1.0)
        return Conv(draws[:-1].reshape(TAPS, inputs, outputs), draws[-1], dilation)

    def __call__(self, x: Array) -> Array:
        """Taps that would see nothing but the zeros beyond both ends are left out."""
        half = self.kernel.shape[0] // 2
        reach = min(half, (x.shape[-2] - 1) // self.dilation)
        seen = self.kernel[half - reach : half + reach + 1]
        y: Any = convolve(x, seen, self.dilation)
        return self.bias + y


class Norm(eqx.Module):
    """Layer norm over channels: scale and shift [H]."""

    scale: Array
    shift: Array

    def __call__(self, x: Array) -> Array:
        """Shapes [..., H] -> [..., H]."""
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.mean(centred**2, -1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + EPSILON) * self.scale + self.shift


class Block(eqx.Module):
    """h + relu(conv(norm(h + e))); e of time and label, where there are such."""

    conv: Conv
    norm: Norm
    time: Dense | None
    label: Dense | None

    def __call__(self, h: Array, time: Array | None, label: Array | None) -> Array:
        """Shapes h [B, L, H], time [1 or B, H], label [B, H] -> [B, L, H]."""
        inner = h
        if self.time is not None and time is not None:
            inner = inner + self.time(time)[:, None]
        if self.label is not None and label is not None:
            inner = inner + self.label(label)[:, None]
        return h + jax.nn.relu(self.conv(self.norm(inner)))


class TimeEmbedding(eqx.Module):
    """relu(W [sin 2 pi f t, cos 2 pi f t] + b), frequencies f fixed at random."""

    frequencies: Array
    layer: Dense

    def __call__(self, t: Array) -> Array:
        """Shapes [B] -> [B, H]."""
        angle = 2 * jnp.pi * jax.lax.stop_gradient(self.frequencies) * t[:, None]
        both = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
        return jax.nn.relu(self.layer(both))


class DilatedDenoiser(eqx.Module):
    """Logits of every base from a partly masked sequence.

    Attributes:
        first: From V + 1 channels to H.
        blocks: One per dilation.
        hidden: H to H, per base.
        head: H to V + 1, per base; the logit of the mask is not used.
        time: The time's embedding; None without.
        labels: A row per label [C + 1, H], the last for none; None without.
        constant_time: Whether time 0 is always embedded, as the published one does.
    """

    first: Conv
    blocks: tuple[Block, ...]
    hidden: Dense
    head: Dense
    time: TimeEmbedding | None
    labels: Array | None
    constant_time: bool = eqx.field(static=True, default=True)

    @property
    def alphabet(self) -> int:
        """V, letters."""
        return self.first.kernel.shape[1] - 1

    def __call__(self, x: Array, t: Array, label: Array) -> Array:
        """Logits of letters.

        Args:
            x: Sequences, soft or one-hot, the mask last [B, L, V + 1].
            t: Time, 0 nothing masked, 1 all [B].
            label: Class, C for none; [B, 1], or [B, 0] for a network without.

        Returns:
            [B, L, V].
        """
        time = None
        if self.time is not None:
            time = self.time(jnp.zeros(1) if self.constant_time else t)
        embedded = None
        if self.labels is not None and label.shape[-1]:
            embedded = self.labels[label[:, 0]]
        h = jax.nn.relu(self.first(x))
        for block in self.blocks:
            h = block(h, time, embedded)
        return self.head(jax.nn.relu(self.hidden(h)))[..., :-1]


@dataclass(frozen=True)
class Size:
    """How large a denoiser is, and what it is told."""

    width: int = 128
    """H, channels."""
    dilations: tuple[int, ...] = paper_dilations()
    """Bases between taps, of each block."""
    labels: int = 0
    """C, classes that sequences may have; 0 for none."""
    timed: bool = False
    """Whether blocks add an embedding of time."""
    constant_time: bool = True
    """Whether that is always the one of time 0."""
    alphabet: int = 4
    """V, letters."""

    def __post_init__(self) -> None:
        """Reject impossible sizes.

        Raises:
            SimpoError: Sizes that are not positive, an odd width with time.
        """
        if min(self.alphabet, self.width, 1, *self.dilations) < 1 or self.labels < 0:
            raise SimpoError("alphabet, width and dilations must be at least 1")
        if self.timed and self.width % 2:
            raise SimpoError(f"width must be even to embed time, not {self.width}")

    def init(self, key: Array) -> DilatedDenoiser:
        """A fresh network."""
        h, n = self.width, len(self.dilations)
        keys = jax.random.split(key, 6 + n)

        def dense(key: Array, count: int) -> list[Dense]:
            return fan_in_uniform(key, count * [h], count * [h])

        of_time = dense(keys[0], n) if self.timed else n * [None]
        of_label = dense(keys[1], n) if self.labels else n * [None]
        convs = [
            Conv.init(k, h, h, d) for k, d in zip(keys[6:], self.dilations, strict=True)
        ]
        parts = zip(convs, of_time, of_label, strict=True)
        blocks = (Block(c, Norm(jnp.ones(h), jnp.zeros(h)), t, l) for c, t, l in parts)
        time = None
        if self.timed:
            frequencies = FREQUENCY * normal(keys[2], (h // 2,))
            time = TimeEmbedding(frequencies, *dense(keys[3], 1))
        hidden, head = fan_in_uniform(keys[4], [h, h], [h, self.alphabet + 1])
        first, rows = jax.random.split(keys[5])
        return DilatedDenoiser(
            Conv.init(first, self.alphabet + 1, h),
            tuple(blocks),
            hidden,
            head,
            time,
            normal(rows, (self.labels + 1, h)) if self.labels else None,
            self.constant_time,
        )


PAPER = Size(timed=True)
"""The network of the published denoiser."""
