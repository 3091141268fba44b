"""The dilated-convolution denoiser: its size, its equations, what it can see."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simpo.dilated import PAPER, Conv, Size, convolve, correlate, paper_dilations
from simpo.types import SimpoError

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(0)
NONE = jnp.zeros((2, 0), int)


def count(net):
    """Numbers that are trained: all but the fixed frequencies."""
    total = sum(leaf.size for leaf in jax.tree.leaves(net))
    return total - (net.time.frequencies.size if net.time else 0)


def shapes(size):
    return jax.eval_shape(lambda: size.init(KEY))


def test_the_papers_size():
    net = shapes(PAPER)
    assert count(net) == 3_326_597
    assert net.time is not None and net.time.frequencies.size == 64
    assert count(shapes(replace(PAPER, labels=2))) == 3_657_221
    assert [b.conv.dilation for b in net.blocks] == 8 * [1] + 4 * [4] + 4 * [16] + 4 * [
        64
    ]
    without = 3_326_597 - 21 * 16_512
    assert count(shapes(Size())) == without


def plain_conv(x, layer):
    """Every tap by hand, zeros beyond the ends, in float64."""
    kernel, half = np.asarray(layer.kernel, np.float64), len(layer.kernel) // 2
    out = np.tile(np.asarray(layer.bias, np.float64), (*x.shape[:-1], 1))
    for i in range(x.shape[-2]):
        for tap, weights in enumerate(kernel):
            j = i + (tap - half) * layer.dilation
            if 0 <= j < x.shape[-2]:
                out[:, i] += x[:, j] @ weights
    return out


@pytest.mark.parametrize("dilation", [1, 3, 4, 11, 12, 64])
def test_convolutions_are_those_of_the_definition(dilation):
    """Also where taps that see only zeros are left out: L = 12."""
    layer = Conv.init(KEY, 5, 6, dilation)
    x = np.random.default_rng(0).normal(size=(2, 12, 5))
    found = layer(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, plain_conv(x, layer), atol=1e-5)


@pytest.mark.parametrize("dilation", [1, 3, 12])
def test_gradients_of_convolutions_are_jaxs_own(dilation):
    """Those that JAX derives from the same convolution, also of its gradients."""
    rng = np.random.default_rng(0)
    x, kernel, dy = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in [(2, 12, 5), (7, 5, 6), (2, 12, 6)]
    )

    def own(x, kernel):
        return (convolve(x, kernel, dilation) ** 2 * dy).sum()

    def jaxs(x, kernel):
        return (correlate(x, kernel, 3 * dilation, dilation=dilation) ** 2 * dy).sum()

    for found, expected in zip(
        *(jax.grad(f, (0, 1))(x, kernel) for f in (own, jaxs)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    def twice(f):
        return jax.grad(lambda x: (jax.grad(f)(x, kernel) ** 2).sum())(x)

    np.testing.assert_allclose(twice(own), twice(jaxs), rtol=1e-3, atol=1e-2)


def affine(x, layer):
    return x @ np.asarray(layer.weight, np.float64) + np.asarray(layer.bias)


def plain(net, x, t, label):
    """The equations of the module, one line each, in float64."""
    time = None
    if net.time is not None:
        angle = 2 * np.pi * np.asarray(net.time.frequencies, np.float64) * t[:, None]
        both = np.concatenate([np.sin(angle), np.cos(angle)], -1)
        time = np.maximum(affine(both, net.time.layer), 0)
    h = np.maximum(plain_conv(x, net.first), 0)
    for block in net.blocks:
        inner = h
        if time is not None:
            inner = inner + affine(time, block.time)[:, None]
        if net.labels is not None:
            inner = inner + affine(np.asarray(net.labels)[label], block.label)[:, None]
        centred = inner - inner.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        h = h + np.maximum(plain_conv(normed, block.conv), 0)
    return affine(np.maximum(affine(h, net.hidden), 0), net.head)[..., :-1]


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"timed": True, "constant_time": False},
        {"labels": 3},
        {"timed": True, "labels": 3},
    ],
    ids=["plain", "time", "label", "constant time and label"],
)
def test_the_network_is_its_equations(parts):
    net = Size(width=8, dilations=(1, 2), **parts).init(KEY)
    rng = np.random.default_rng(1)
    x, t = rng.dirichlet(np.ones(5), size=(2, 10)), np.array([0.2, 0.7])
    label = np.array([2, 3])
    seen = t if not net.constant_time else 0 * t
    expected = plain(net, x, seen, label)
    labels = jnp.asarray(label)[:, None] if net.labels is not None else NONE
    found = net(jnp.asarray(x, jnp.float32), jnp.asarray(t), labels)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert net.alphabet == 4 and found.shape == (2, 10, 4)


def test_frequencies_are_not_trained():
    net = Size(width=8, dilations=(1,), timed=True, constant_time=False).init(KEY)
    x = jnp.ones((2, 6, 5)) / 5

    def loss(net):
        return (net(x, jnp.array([0.3, 0.4]), NONE) ** 2).sum()

    grads = jax.grad(loss)(net)
    assert not grads.time.frequencies.any()
    assert jnp.abs(grads.time.layer.weight).sum() > 0


def test_a_base_is_seen_as_far_as_the_taps_reach():
    """Four taps either side of every convolution: 4 (1 + d_1 + d_2) bases."""
    net = Size(width=8, dilations=(1, 3)).init(KEY)
    x = jnp.ones((1, 61, 5)) / 5
    changed = x.at[0, 30].set(jnp.array([1.0, 0, 0, 0, 0]))
    t, none = jnp.zeros(1), jnp.zeros((1, 0), int)
    difference = np.abs(net(x, t, none) - net(changed, t, none)).max(-1)[0]
    (seen,) = np.nonzero(difference > 1e-9)
    assert (seen.min(), seen.max()) == (30 - 20, 30 + 20)


@pytest.mark.parametrize(
    "values", [{"width": 0}, {"dilations": (0,)}, {"width": 7, "timed": True}]
)
def test_impossible_sizes_get_one_line(values):
    with pytest.raises(SimpoError):
        Size(**values).init(KEY)


def test_dilations_of_the_paper():
    assert paper_dilations(1) == (1, 1, 4, 16, 64)
