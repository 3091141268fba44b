import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from simpo.agents.simpo import SiMPO
from simpo.networks import (
    ACTIVATIONS,
    MLP,
    Critics,
    Denoiser,
    Dense,
    fan_in_uniform,
    mish,
)
from simpo.types import EnvSpec

KEY = jax.random.key(0)
rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@jax.jit
def call(net, *inputs):
    return net(*inputs)


# Mish


def plain_mish(x):
    return x * np.tanh(np.logaddexp(0.0, x))


def test_mish_equals_its_definition():
    x = np.linspace(-100, 100, 200_001, dtype=np.float32)
    expected = plain_mish(x.astype(np.float64))
    np.testing.assert_allclose(mish(jnp.asarray(x)), expected, rtol=1e-6, atol=1e-6)


def test_mish_has_the_right_gradient_everywhere():
    x = np.linspace(-100, 100, 20_001, dtype=np.float32)
    gradient = jax.vmap(jax.grad(mish))(jnp.asarray(x))
    wide = x.astype(np.float64)
    gate = np.tanh(np.logaddexp(0.0, wide))
    expected = gate + wide * (1 - gate**2) * special.expit(wide)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("x", [-3e38, -1e4, 1e4, 3e38])
def test_mish_of_extremes_does_not_overflow(x):
    value, gradient = jax.value_and_grad(mish)(jnp.float32(x))
    assert value == np.float32(max(x, 0))
    assert gradient == (x > 0)


# Layers


def test_dense_takes_any_leading_axes():
    layer = Dense(normal(4, 3), normal(3))
    x = normal(5, 2, 4)
    expected = np.einsum("abi,io->abo", x, layer.weight) + np.asarray(layer.bias)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_dense_ensemble_is_its_members():
    layer, x = Dense(normal(2, 4, 3), normal(2, 1, 3)), normal(2, 5, 4)
    for k in range(2):
        alone = Dense(layer.weight[k], layer.bias[k, 0])(x[k])
        np.testing.assert_allclose(layer(x)[k], alone, rtol=1e-5, atol=1e-5)


def test_layers_start_at_unit_gain():
    net = Denoiser.init(KEY, 30, 50, width=256, frequencies=20)
    first = [net.of_sample.weight, net.of_state, net.of_time.weight]  # one fan-in
    weights = [(w, 30 + 50 + 40) for w in first]
    weights += [(layer.weight, 256) for layer in (*net.trunk.hidden, net.trunk.head)]
    critics = Critics.init(KEY, 300, 20, width=200)
    weights += [(critics.of_state.weight, 320), (critics.of_action, 320)]
    weights += [(layer.weight, 200) for layer in critics.trunk.hidden]
    for weight, fan_in in weights:
        weight = np.asarray(weight)
        assert weight.std() == pytest.approx(1 / np.sqrt(fan_in), rel=0.03)
        assert weight.mean() == pytest.approx(0, abs=0.03 / np.sqrt(fan_in))
        assert np.abs(weight).max() <= np.sqrt(3 / fan_in)
    for layer in (*net.trunk.hidden, net.trunk.head, net.of_sample, critics.of_state):
        np.testing.assert_array_equal(layer.bias, 0.0)


# Denoiser


def noisy(module):
    """The module with random biases: zero ones would hide mistakes."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.1 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.tree.map(np.asarray, module),
    )


def denoiser(**settings):
    return noisy(Denoiser.init(KEY, 3, 5, width=16, frequencies=4, **settings))


PLAIN = {"mish": plain_mish, "relu": lambda x: np.maximum(x, 0)}


def plain_denoiser(net, x, t, cond):
    """One network on the concatenation of sample, state and time embedding."""
    net = jax.tree.map(np.asarray, net)
    act = PLAIN[net.trunk.activation]
    angles = np.pi * t[:, None] * np.geomspace(0.5, net.max_frequency, net.frequencies)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    time = act(waves @ net.time_hidden.weight + net.time_hidden.bias)
    first = np.concatenate([net.of_sample.weight, net.of_state, net.of_time.weight])
    h = np.concatenate([x, cond, time], -1) @ first
    h = act(h + net.of_sample.bias + net.of_time.bias)
    for layer in net.trunk.hidden:
        h = act(h @ layer.weight + layer.bias)
    return h @ net.trunk.head.weight + net.trunk.head.bias


@pytest.mark.parametrize(
    "settings",
    [{}, {"depth": 1}, {"activation": "relu"}, {"max_frequency": 8.0}],
    ids=str,
)
def test_hoisted_network_equals_the_concatenating_one(settings):
    net = denoiser(**settings)
    x, t, cond = normal(7, 3), jnp.linspace(0, 1, 7), normal(7, 5)

    @jax.jit
    def both_ways(net, x, t, cond):
        hoisted = net.denoise(x, net.condition(cond) + net.embed_time(t))
        return net(x, t, cond), hoisted

    out, hoisted = both_ways(net, x, t, cond)
    expected = plain_denoiser(net, *(np.asarray(a) for a in (x, t, cond)))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(hoisted, out, rtol=1e-6, atol=1e-6)
    assert len(net.trunk.hidden) == settings.get("depth", 3) - 1


def test_denoiser_takes_any_leading_axes():
    net = denoiser()
    x, t, cond = normal(2, 4, 6, 3), jnp.ones((2, 4, 6)) * 0.3, normal(5)
    out = call(net, x, t, cond)
    assert net.dim == 3
    assert out.shape == (2, 4, 6, 3)
    one = call(net, x[1, 2, 3], t[1, 2, 3], cond)
    np.testing.assert_allclose(out[1, 2, 3], one, rtol=1e-5, atol=1e-5)


def test_denoiser_without_a_condition():
    net = Denoiser.init(KEY, 2, 0, width=8)
    out = call(net, normal(4, 2), jnp.full(4, 0.5), jnp.zeros((4, 0)))
    assert out.shape == (4, 2)
    assert np.all(np.isfinite(out))


@pytest.mark.parametrize("argument", [0, 1, 2], ids=["sample", "time", "condition"])
def test_denoiser_depends_on_every_input(argument):
    net = denoiser()
    inputs = [normal(7, 3), jnp.full(7, 0.3), normal(7, 5)]
    before = call(net, *inputs)
    inputs[argument] = inputs[argument] + 0.2
    assert np.abs(call(net, *inputs) - before).min() > 1e-5


# Critics


def ensemble(critics=3, **settings):
    return noisy(Critics.init(KEY, 5, 3, critics=critics, width=16, **settings))


def plain_critic(net, k, obs, action):
    """Member k on the concatenation of observation and action."""
    net = jax.tree.map(lambda leaf: np.asarray(leaf[k]), net)
    act = PLAIN[net.trunk.activation]
    first = np.concatenate([net.of_state.weight, net.of_action])
    h = act(np.concatenate([obs, action], -1) @ first + net.of_state.bias)
    for layer in net.trunk.hidden:
        h = act(h @ layer.weight + layer.bias)
    return (h @ net.trunk.head.weight + net.trunk.head.bias)[..., 0]


@pytest.mark.parametrize("settings", [{}, {"depth": 1}, {"critics": 1}], ids=str)
def test_critics_are_networks_on_the_concatenation(settings):
    net = ensemble(**settings)
    obs, action = normal(7, 5), normal(7, 3)
    q = call(net, obs, action)
    members = settings.get("critics", 3)
    expected = [plain_critic(net, k, obs, action) for k in range(members)]
    np.testing.assert_allclose(q, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [4, 8, 2048])
@pytest.mark.parametrize("n", [1, 4])
def test_candidates_are_valued_like_single_actions(monkeypatch, rows, n):
    monkeypatch.setattr("simpo.blocks.ROWS", rows)
    net, obs, actions = ensemble(), normal(6, 5), normal(6, n, 3)
    q = jax.jit(Critics.candidates)(net, obs, actions)
    assert q.shape == (3, 6, n)
    for i in range(n):
        expected = call(net, obs, actions[:, i])
        np.testing.assert_allclose(q[:, :, i], expected, rtol=1e-4, atol=1e-5)


def test_members_are_independent():
    net = Critics.init(KEY, 5, 3, width=16)
    obs, action = normal(7, 5), normal(7, 3)
    q = call(net, obs, action)
    assert np.abs(q[0] - q[1]).min() > 1e-4
    gradient = jax.jit(jax.grad(lambda net: net(obs, action)[0].sum()))(net)
    for leaf in jax.tree.leaves(gradient):
        assert jnp.abs(leaf[0]).max() > 0
        np.testing.assert_array_equal(leaf[1], 0.0)


# Trees


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_leaf_is_a_float_array_with_a_gradient(activation):
    net = Denoiser.init(KEY, 3, 5, width=16, activation=activation)
    critics = Critics.init(KEY, 5, 3, width=16, activation=activation)
    x, t, obs = normal(7, 3), jnp.linspace(0, 1, 7), normal(7, 5)

    def loss(modules):
        net, critics = modules
        return jnp.sum(net(x, t, obs) ** 2) + jnp.sum(critics(obs, x) ** 2)

    gradient = jax.jit(jax.grad(loss))((net, critics))
    leaves = zip(
        jax.tree.leaves((net, critics)), jax.tree.leaves(gradient), strict=True
    )
    for leaf, slope in leaves:
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
        assert np.all(np.isfinite(slope))
        assert jnp.abs(slope).max() > 0


def test_initialisation_follows_the_key():
    nets = [Denoiser.init(jax.random.key(s), 3, 5, width=16) for s in (0, 0, 1)]
    weights = [net.trunk.head.weight for net in nets]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
    hidden = nets[0].trunk.hidden
    assert not np.array_equal(hidden[0].weight, hidden[1].weight)


def test_no_two_leaves_of_a_fresh_state_share_a_buffer():
    state = SiMPO(width=16, critic_width=16).init(KEY, EnvSpec(5, 3))
    data = jax.tree.map(
        lambda x: (
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        ),
        state,
    )
    leaves = [leaf for leaf in jax.tree.leaves(data) if leaf.size]
    assert len(leaves) > 50
    pointers = {leaf.unsafe_buffer_pointer() for leaf in leaves}
    assert len(pointers) == len(leaves)
    jax.tree.map(
        np.testing.assert_array_equal,
        (state.actor, state.critics),
        (state.behaviour, state.target_critics),
    )


def test_layers_can_start_as_pytorch_starts_them():
    """Weights and biases uniform within 1 / sqrt(inputs), of every critic alone."""
    mlp = MLP.init(KEY, 300, 20, width=400, initialiser=fan_in_uniform)
    critics = Critics.init(KEY, 280, 20, width=400, initialiser=fan_in_uniform)
    second = critics.trunk.hidden[0]
    inputs = [(mlp.first, 300), (mlp.trunk.hidden[0], 400), (mlp.trunk.head, 400)]
    for layer, fan_in in [*inputs, (critics.of_state, 300), (second, 400)]:
        for values in (layer.weight, layer.bias):
            scaled = np.asarray(values).ravel() * np.sqrt(fan_in)
            assert np.all(np.abs(scaled) <= 1)
            assert 1 - np.abs(scaled).max() < 10 / len(scaled)
            error = np.sqrt(4 / 45 / len(scaled))  # of a uniform's mean square
            assert abs((scaled**2).mean() - 1 / 3) < 5 * error
    assert second.weight.shape == (2, 400, 400) and second.bias.shape == (2, 1, 400)
    assert not np.allclose(second.bias[0], second.bias[1])
