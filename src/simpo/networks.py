"""Networks: the denoiser of the policy, the ensemble of critics, plain perceptrons.

Denoiser    f(x_t, t, s) = W .. act(W act(W_x x_t + W_t e(t) + W_s s + b))
Critics     Q_k(s, a),  k = 1..K, one batched product for all K
MLP         W .. act(W act(W s + b)): Gaussian and deterministic actors, V(s)

The denoiser's first layer is a sum of three products, so that in a denoising loop the
state's part is computed once per state and the time's part once per step: `condition`
and `embed_time` give the parts, `denoise` goes on from their sum.
All layers take any number of leading axes. Every field that is not an array is static,
so `jax.grad`, optax and tree averages apply to the modules as they are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.blocks import map_blocks
from simpo.randomness import uniform

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Activation",
    "Critics",
    "Denoiser",
    "Dense",
    "Initialiser",
    "fan_in_uniform",
    "lecun_uniform",
    "mish",
]

Activation = Literal["mish", "relu", "gelu", "silu", "tanh"]


def mish(x: Array) -> Array:
    """Mish, x tanh(log(1 + e^x)), as x n/(n+2) with n = e^x (e^x + 2).

    One exponential instead of three transcendental functions; above 20 the quotient
    is one in float32, so the exponent is capped there and cannot overflow.
    """
    e = jnp.exp(jnp.minimum(x, 20.0))
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "mish": mish,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


def lecun_uniform(
    key: Array, inputs: Sequence[int], outputs: Sequence[int], ensemble: tuple = ()
) -> list["Dense"]:
    """Layers with weights of variance 1/inputs and zero biases."""
    shapes = [(*ensemble, i, o) for i, o in zip(inputs, outputs, strict=True)]
    layers = []
    for shape, draws in zip(shapes, uniform_parts(key, shapes), strict=True):
        bound = math.sqrt(3.0 / max(shape[-2], 1))
        bias = (*ensemble, 1, shape[-1]) if ensemble else (shape[-1],)
        layers.append(Dense(bound * draws, jnp.zeros(bias)))
    return layers


def fan_in_uniform(
    key: Array, inputs: Sequence[int], outputs: Sequence[int], ensemble: tuple = ()
) -> list["Dense"]:
    """Layers with weights and biases within 1/sqrt(inputs): PyTorch's default.

    With weights a third of the variance of `lecun_uniform`, a Gaussian policy starts
    near the middle of the box, as its authors' does.
    """
    shapes = [(*ensemble, i + 1, o) for i, o in zip(inputs, outputs, strict=True)]
    layers = []
    for shape, draws in zip(shapes, uniform_parts(key, shapes), strict=True):
        both = draws / math.sqrt(max(shape[-2] - 1, 1))
        bias = both[..., -1:, :] if ensemble else both[-1]
        layers.append(Dense(both[..., :-1, :], bias))
    return layers


def uniform_parts(key: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Arrays in [-1, 1) from one draw, which compiles faster than a draw each."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    draws = uniform(key, (int(ends[-1]),), low=-1.0, high=1.0)
    parts = jnp.split(draws, ends[:-1])
    return [part.reshape(s) for part, s in zip(parts, shapes, strict=True)]


class Dense(eqx.Module):
    """Affine map x W + b on the last axis; with `ensemble`, K maps of K inputs.

    Attributes:
        weight: [I, O] or [K, I, O].
        bias: [O] or [K, 1, O].
    """

    weight: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        """Shapes [..., I] -> [..., O], or [K, B, I] -> [K, B, O]."""
        return x @ self.weight + self.bias


Initialiser = Callable[..., list[Dense]]
"""Fresh layers from a key, their inputs, their outputs and an ensemble's axes."""


class Trunk(eqx.Module):
    """Hidden layers after the first, and a linear head."""

    hidden: tuple[Dense, ...]
    head: Dense
    activation: Activation = eqx.field(static=True)

    def __call__(self, pre: Array) -> Array:
        """From the first layer's pre-activation [..., H] to the output [..., D]."""
        act = ACTIVATIONS[self.activation]
        h = act(pre)
        for layer in self.hidden:
            h = act(layer(h))
        return self.head(h)


class MLP(eqx.Module):
    """A perceptron with `depth` hidden layers and a linear head."""

    first: Dense
    trunk: Trunk

    @staticmethod
    def init(
        key: Array,
        inputs: int,
        outputs: int,
        *,
        width: int = 256,
        depth: int = 2,
        activation: Activation = "relu",
        head_scale: float = 1.0,
        initialiser: Initialiser = lecun_uniform,
    ) -> "MLP":
        """A perceptron from [..., inputs] to [..., outputs].

        The head's weights are multiplied by `head_scale`.
        """
        first, *hidden, head = initialiser(
            key, [inputs, *depth * [width]], [*depth * [width], outputs]
        )
        head = Dense(head_scale * head.weight, head.bias)
        return MLP(first, Trunk(tuple(hidden), head, activation))

    def __call__(self, x: Array) -> Array:
        """Shapes [..., I] -> [..., O]."""
        return self.trunk(self.first(x))


class Denoiser(eqx.Module):
    """Conditional denoiser f(x_t, t, s) of a diffusion or flow policy.

    Times are embedded by sines and cosines of `frequencies` angular rates, spaced
    geometrically from pi/2 to pi `max_frequency`, then one hidden layer.
    """

    of_sample: Dense
    of_state: Array
    of_time: Dense
    time_hidden: Dense
    trunk: Trunk
    frequencies: int = eqx.field(static=True)
    max_frequency: float = eqx.field(static=True)

    @staticmethod
    def init(
        key: Array,
        dim: int,
        cond_dim: int,
        *,
        width: int = 256,
        depth: int = 3,
        activation: Activation = "mish",
        frequencies: int = 16,
        max_frequency: float = 32.0,
    ) -> "Denoiser":
        """A denoiser of samples [..., dim] given conditions [..., cond_dim]."""
        embedding = 2 * frequencies
        inputs = [dim + cond_dim + embedding, embedding, *depth * [width]]
        outputs = [width, embedding, *(depth - 1) * [width], dim]
        first, time_hidden, *hidden, head = lecun_uniform(key, inputs, outputs)
        # One fan-in for the three parts: together they are one layer's input.
        of_x, of_s, of_t = jnp.split(first.weight, [dim, dim + cond_dim])
        return Denoiser(
            of_sample=Dense(of_x, first.bias),
            of_state=of_s,
            of_time=Dense(of_t, jnp.zeros(width)),
            time_hidden=time_hidden,
            trunk=Trunk(tuple(hidden), head, activation),
            frequencies=frequencies,
            max_frequency=max_frequency,
        )

    @property
    def dim(self) -> int:
        """Dimension of a sample."""
        return self.trunk.head.bias.shape[-1]

    def condition(self, cond: Array) -> Array:
        """The state's part of the first layer: [..., O] -> [..., H]."""
        return cond @ self.of_state

    def embed_time(self, t: Array) -> Array:
        """The time's part of the first layer: times [...] in [0, 1] -> [..., H]."""
        rates = jnp.geomspace(0.5, self.max_frequency, self.frequencies)
        angles = jnp.pi * t[..., None] * rates
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        act = ACTIVATIONS[self.trunk.activation]
        return self.of_time(act(self.time_hidden(waves)))

    def denoise(self, x: Array, context: Array) -> Array:
        """Prediction [..., D] at x [..., D], `context` = condition + time part."""
        return self.trunk(self.of_sample(x) + context)

    def __call__(self, x: Array, t: Array, cond: Array) -> Array:
        """Prediction [..., D] at samples x [..., D], times t [...], cond [..., O]."""
        return self.denoise(x, self.condition(cond) + self.embed_time(t))


class Critics(eqx.Module):
    """K independent action-value functions Q_k(s, a), the first of D outputs each."""

    of_state: Dense
    of_action: Array
    trunk: Trunk

    @staticmethod
    def init(
        key: Array,
        obs_dim: int,
        action_dim: int,
        *,
        critics: int = 2,
        width: int = 256,
        depth: int = 3,
        activation: Activation = "mish",
        outputs: int = 1,
        initialiser: Initialiser = lecun_uniform,
    ) -> "Critics":
        """An ensemble of `critics` networks with `depth` hidden layers each."""
        ins = [obs_dim + action_dim, *depth * [width]]
        outs = [*depth * [width], outputs]
        first, *hidden, head = initialiser(key, ins, outs, (critics,))
        of_state = Dense(first.weight[:, :obs_dim], first.bias)
        trunk = Trunk(tuple(hidden), head, activation)
        return Critics(of_state, first.weight[:, obs_dim:], trunk)

    def __call__(self, obs: Array, action: Array) -> Array:
        """Values [K, B] of obs [B, O] and action [B, A]."""
        return self.heads(obs, action)[..., 0]

    def heads(self, obs: Array, action: Array) -> Array:
        """All outputs [K, B, D] of obs [B, O] and action [B, A]."""
        return self.trunk(self.of_state(obs[None]) + action[None] @ self.of_action)

    def candidates(self, obs: Array, actions: Array) -> Array:
        """Values [K, B, N] of N actions per state: obs [B, O], actions [B, N, A]."""

        def values(_: Array, obs: Array, actions: Array) -> Array:
            b, n, a = actions.shape
            action = actions.reshape(1, b * n, a) @ self.of_action
            pre = self.of_state(obs[None])[:, :, None] + action.reshape(-1, b, n, width)
            q = self.trunk(pre.reshape(-1, b * n, width))[..., 0]
            return q.reshape(-1, b, n).swapaxes(0, 1)

        width, n = self.of_action.shape[-1], actions.shape[1]
        unused = jax.random.key(0)
        return map_blocks(values, unused, obs, actions, rows_per_state=n).swapaxes(0, 1)
