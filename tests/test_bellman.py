import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simpo.bellman import Aggregate, critic_loss, polyak, td_target


def test_the_target_is_cut_where_the_discount_is_zero_and_nowhere_else():
    reward, value = np.array([1.0, 1.0, -2.0]), np.array([10.0, 10.0, 0.5])
    gamma, alive = 0.9, np.array([0.0, 1.0, 1.0])  # terminated, truncated, went on
    np.testing.assert_allclose(
        td_target(reward, gamma * alive, value), [1.0, 10.0, -1.55], rtol=1e-6
    )


def test_no_gradient_flows_through_the_target():
    q = jnp.array([[0.5, 2.0]])

    def loss(w):
        return critic_loss(w * q, td_target(1.0, 0.9, w * q[0]))

    fixed = jax.grad(lambda w: critic_loss(w * q, 1.0 + 0.9 * q[0]))(1.0)
    assert jax.grad(loss)(1.0) == fixed != 0


def test_the_loss_is_the_mean_over_critics_and_batch():
    q = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    target = jnp.array([1.0, 0.0, 1.0])
    assert critic_loss(q, target) == pytest.approx((0 + 4 + 4 + 1 + 0 + 1) / 6)
    grads = jax.grad(critic_loss)(q, target)
    np.testing.assert_allclose(grads, (q - target) / 3, rtol=1e-6)


def test_aggregates():
    q = jnp.array([[1.0, 5.0], [3.0, -1.0]])
    np.testing.assert_array_equal(Aggregate.MIN(q), [1.0, -1.0])
    np.testing.assert_array_equal(Aggregate.MEAN(q), [2.0, 2.0])
    assert Aggregate.MEAN(jnp.zeros((3, 4, 5))).shape == (4, 5)


def test_polyak_moves_every_leaf_by_tau():
    target = {"a": jnp.zeros(3), "b": (jnp.full((2, 2), 4.0),)}
    online = {"a": jnp.ones(3), "b": (jnp.zeros((2, 2)),)}
    moved = polyak(target, online, 0.25)
    np.testing.assert_allclose(moved["a"], 0.25)
    np.testing.assert_allclose(moved["b"][0], 3.0)


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_polyak_at_its_ends_is_exact(tau):
    target, online = (jax.random.normal(jax.random.key(i), (50,)) for i in (0, 1))
    expected = online if tau else target
    np.testing.assert_allclose(polyak(target, online, tau), expected, atol=3e-7)


def test_polyak_forgets_geometrically():
    value = jnp.ones(())
    for _ in range(100):
        value = polyak(value, jnp.zeros(()), 0.02)
    assert value == pytest.approx(0.98**100, rel=1e-5)
