import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import chisquare

from simpo.replay import ReplayBuffer
from simpo.types import EnvSpec, SimpoError, Transition

SPEC = EnvSpec(obs_dim=3, action_dim=2)


def numbered(first, count, spec=SPEC):
    """Transitions whose every field tells their number."""
    n = np.arange(first, first + count, dtype=np.float64)
    return Transition(
        obs=n[:, None] + np.arange(spec.obs_dim) / 8,
        action=-n[:, None] + np.arange(spec.action_dim) / 8,
        reward=2 * n,
        discount=n % 3 != 0,
        next_obs=n[:, None] + 0.5 + np.arange(spec.obs_dim) / 8,
    )


def assert_rows_are(transition, numbers):
    assert {x.dtype for x in transition} == {np.dtype(np.float32)}
    for got, all_rows in zip(transition, numbered(0, 300), strict=True):
        np.testing.assert_array_equal(got, all_rows[numbers])


@settings(max_examples=150, deadline=None)
@given(capacity=st.integers(1, 12), data=st.data(), seed=st.integers(0, 9))
def test_holds_what_a_list_of_the_last_transitions_holds(capacity, data, seed):
    buffer, oracle, number = ReplayBuffer(capacity, SPEC), [], 0
    for count in data.draw(st.lists(st.integers(0, capacity), max_size=15)):
        buffer.add(numbered(number, count))
        oracle = (oracle + list(range(number, number + count)))[-capacity:]
        number += count
        assert len(buffer) == buffer.size == len(oracle)
        assert buffer.position == number % capacity
        oldest = (buffer.position - buffer.size) % capacity
        order = (oldest + np.arange(buffer.size)) % capacity
        held = Transition(
            buffer.obs[order],
            buffer.action[order],
            buffer.reward[order],
            np.float32(1) - buffer.terminated[order],
            buffer.next_obs[order],
        )
        assert_rows_are(held, oracle)
    if oracle:
        batch = buffer.sample(np.random.default_rng(seed), 2, 7)
        numbers = (batch.reward / 2).astype(int)
        assert set(numbers.ravel()) <= set(oracle)
        assert_rows_are(batch, numbers)


def test_samples_have_the_axes_asked_for():
    buffer = ReplayBuffer(10, SPEC)
    buffer.add(numbered(0, 4))
    batch = buffer.sample(np.random.default_rng(0), 5, 6)
    shapes = [x.shape for x in batch]
    assert shapes == [(5, 6, 3), (5, 6, 2), (5, 6), (5, 6), (5, 6, 3)]


def test_samples_do_not_change_when_the_buffer_does():
    buffer = ReplayBuffer(4, SPEC)
    buffer.add(numbered(0, 4))
    batch = buffer.sample(np.random.default_rng(0), 1, 8)
    before = [x.copy() for x in batch]
    buffer.add(numbered(100, 4))
    for x, y in zip(batch, before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_samples_follow_the_generator():
    buffer = ReplayBuffer(50, SPEC)
    buffer.add(numbered(0, 50))
    a, b, c = (buffer.sample(np.random.default_rng(s), 2, 9).reward for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("added", [37, 90])  # partly filled, and wrapped around
def test_sampling_is_uniform(added):
    # a correct buffer fails this for one seed in a thousand; the seed is fixed
    buffer = ReplayBuffer(50, SPEC)
    for first in range(added):
        buffer.add(numbered(first, 1))
    reward = buffer.sample(np.random.default_rng(0), 100, 256).reward
    numbers, counts = np.unique(reward / 2, return_counts=True)
    np.testing.assert_array_equal(numbers, np.arange(added)[-50:])
    assert chisquare(counts).pvalue > 1e-3


def test_pairs_within_a_batch_are_independent():
    # with replacement: of 25,600 pairs of 16 rows one in 16 coincides; the bound
    # is four standard deviations (6e-5 of correct buffers fail it)
    buffer = ReplayBuffer(16, SPEC)
    buffer.add(numbered(0, 16))
    reward = buffer.sample(np.random.default_rng(0), 25_600, 2).reward
    same = np.mean(reward[:, 0] == reward[:, 1])
    assert abs(same - 1 / 16) < 4 * np.sqrt(15 / 16**2 / 25_600)


def test_a_million_halfcheetah_transitions_fit_170_mb():
    buffer = ReplayBuffer(1_000_000, EnvSpec(obs_dim=17, action_dim=6))
    assert buffer.nbytes == 165_000_000 and buffer.capacity == 1_000_000


def test_truncation_and_termination_come_back_as_discounts():
    buffer = ReplayBuffer(2, SPEC)
    rows = numbered(0, 2)._replace(discount=np.array([0.0, 1.0]))
    buffer.add(rows)
    batch = buffer.sample(np.random.default_rng(0), 1, 50)
    np.testing.assert_array_equal(batch.discount, (batch.reward > 0).astype(np.float32))
    assert set(batch.discount.ravel()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": np.zeros((4, 2))}, r"'obs' has shape \(4, 2\), expected \(4, 3\)"),
        ({"action": np.zeros((4, 3))}, "'action' has shape"),
        ({"reward": np.zeros((4, 1))}, "'reward' has shape"),
        ({"reward": np.float32(0)}, "'obs' has shape"),
        ({"discount": np.ones(3)}, "'discount' has shape"),
        ({"next_obs": np.zeros((3, 3))}, "'next_obs' has shape"),
        ({"discount": np.full(4, 0.99)}, "discount must be 0 or 1"),
        ({"discount": np.full(4, np.nan)}, "discount must be 0 or 1"),
    ],
)
def test_malformed_transitions_are_refused(change, message):
    buffer = ReplayBuffer(10, SPEC)
    with pytest.raises(SimpoError, match=message):
        buffer.add(numbered(0, 4)._replace(**change))
    assert len(buffer) == buffer.position == 0


def test_more_rows_than_the_capacity_are_refused():
    with pytest.raises(SimpoError, match="6 transitions do not fit a replay"):
        ReplayBuffer(5, SPEC).add(numbered(0, 6))


def test_an_empty_buffer_cannot_be_sampled():
    with pytest.raises(SimpoError, match="buffer is empty"):
        ReplayBuffer(5, SPEC).sample(np.random.default_rng(0), 1, 1)


@pytest.mark.parametrize("capacity", [0, -3])
def test_capacity_must_be_positive(capacity):
    with pytest.raises(SimpoError, match="capacity must be at least 1"):
        ReplayBuffer(capacity, SPEC)
