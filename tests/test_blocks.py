import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpo.blocks import ROWS, count_blocks, map_blocks, mean_over_blocks, split_blocks

KEY = jax.random.key(0)
rng = np.random.default_rng(0)


@pytest.fixture(params=[1, 2, 4, 8, 1000], ids="{} rows".format)
def rows(monkeypatch, request):
    """Rows per block; 8 states of 2 rows then make 8, 8, 4, 2 and 1 blocks."""
    monkeypatch.setattr("simpo.blocks.ROWS", request.param)
    return request.param


@settings(deadline=None, max_examples=300, derandomize=True)
@given(batch=st.integers(1, 5000), rows_per_state=st.integers(1, 3000))
def test_the_fewest_equal_blocks_that_fit(batch, rows_per_state):
    n = count_blocks(batch, rows_per_state)
    assert batch % n == 0
    fits = [
        d
        for d in range(1, batch + 1)
        if batch % d == 0 and batch // d * rows_per_state <= ROWS
    ]
    # Blocks less than half full, or a state larger than a block, gain nothing.
    enough = -(-batch * rows_per_state // ROWS)
    worthwhile = [d for d in fits if d < 2 * enough]
    assert n == (worthwhile[0] if worthwhile else 1)


def test_one_block_on_an_accelerator(monkeypatch):
    assert count_blocks(256, 32) == 4
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert count_blocks(256, 32) == 1


def test_blocks_of_a_tree_in_order(rows):
    tree = {"x": jnp.arange(16.0).reshape(8, 2), "y": (jnp.arange(8),)}
    keys, blocks = split_blocks(KEY, tree, rows_per_state=2)
    n = count_blocks(8, 2)
    assert n == {1: 1, 2: 8, 4: 4, 8: 2, 1000: 1}[rows]
    assert len(keys) == len(np.unique(jax.random.key_data(keys), axis=0)) == n
    assert blocks["x"].shape == (n, 8 // n, 2)
    joined = jax.tree.map(lambda b: b.reshape(8, *b.shape[2:]), blocks)
    jax.tree.map(np.testing.assert_array_equal, joined, tree)


def test_map_equals_one_call(rows):
    x, y = (jnp.asarray(rng.normal(size=(8, 2, 3)), jnp.float32) for _ in range(2))

    def function(_, x, y):
        return jnp.sin(x) @ y.swapaxes(1, 2)

    out = map_blocks(function, KEY, x, y, rows_per_state=2)
    np.testing.assert_allclose(out, function(KEY, x, y), rtol=1e-5, atol=1e-6)


def test_map_gives_every_block_its_own_randomness(rows):
    def function(key, x):
        return x + jax.random.normal(key, x.shape)

    x = jnp.zeros((8, 2))
    out = map_blocks(function, KEY, x, rows_per_state=2)
    assert len(np.unique(out)) == 16
    np.testing.assert_array_equal(out, map_blocks(function, KEY, x, rows_per_state=2))
    other = map_blocks(function, jax.random.key(1), x, rows_per_state=2)
    assert not np.isin(out, other).any()


def test_mean_equals_one_call(rows):
    x = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32)
    scale = jnp.asarray([0.5, -2.0], jnp.float32)

    def loss(scale, _, x):
        return jnp.mean(jnp.tanh(scale * x)), {"square": jnp.mean(x**2, axis=0)}

    def function(key, x):
        return jax.value_and_grad(loss, has_aux=True)(scale, key, x)

    out = mean_over_blocks(function, KEY, x, rows_per_state=2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        out,
        function(KEY, x),
    )


def test_differentiates_through_blocks(rows):
    x = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32)

    def blocked(scale):
        out = map_blocks(lambda _, x: jnp.sin(scale * x), KEY, x, rows_per_state=2)
        return out.sum()

    gradient = jax.grad(blocked)(0.7)
    assert gradient == pytest.approx(float((x * jnp.cos(0.7 * x)).sum()), rel=1e-5)
