"""Masked diffusion on two letters and four positions, where all can be enumerated."""

from itertools import combinations, pairwise, product
from math import log

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from simpo.generative.masked import (
    EPSILON,
    AllMasked,
    ExactMasks,
    InverseTime,
    MaskedDiffusion,
)
from simpo.types import SimpoError

pytestmark = pytest.mark.usefixtures("compiled_quickly")

V, L = 2, 4
PLACES = (V + 1) ** np.arange(L)
TABLE = np.random.default_rng(0).normal(scale=1.5, size=((V + 1) ** L, L, V))
NONE = jnp.zeros((1, 0), int)


class TableNetwork(eqx.Module):
    """Logits of every partly masked sequence, from a table."""

    alphabet: int = eqx.field(static=True, default=V)

    def __call__(self, x, t, label):
        return jnp.asarray(TABLE)[x.argmax(-1) @ PLACES]


def logp(state):
    """log p(x_0 | x_t) of one state [L, V], in float64."""
    logits = TABLE[np.asarray(state) @ PLACES]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def missed(x, masked):
    """Sum over masked positions of -log p(x_i | x_t)."""
    state = [V if i in masked else x[i] for i in range(L)]
    return -sum(logp(state)[i, x[i]] for i in masked)


def subsets(m):
    return list(combinations(range(L), m))


def exact_bound(x):
    """The any-order bound, nats per base: over numbers of masks, and which."""
    return np.mean(
        [np.mean([missed(x, s) / m for s in subsets(m)]) for m in range(1, L + 1)]
    )


def estimates(masking, x, masks, draws=200):
    """Estimates of the bound of one sequence [draws, R]."""
    model = MaskedDiffusion(length=L, masking=masking, masks=masks)
    x = jnp.asarray(x)[None, None]
    error = jax.jit(lambda key: model.matching_error(TableNetwork(), key, x, NONE))
    return np.array(jax.lax.map(error, jax.random.split(jax.random.key(0), draws)))[
        :, 0, 0
    ]


@pytest.mark.parametrize("x", [(0, 0, 0, 0), (0, 1, 1, 0), (1, 1, 0, 1)])
def test_exact_masks_estimate_the_any_order_bound(x):
    found = estimates(ExactMasks(), x, masks=64).mean(-1)
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - exact_bound(x)) < 4 * error
    assert error < 0.01


def test_as_many_masks_as_letters_are_all_numbers_of_masks():
    keys = jax.random.split(jax.random.key(1), 50)
    masks = [ExactMasks().draw(key, L, L).masked.sum(-1) for key in keys]
    np.testing.assert_array_equal(np.sort(masks), np.tile(np.arange(1, L + 1), (50, 1)))


def test_inverse_time_estimates_its_integral():
    """The integral over t of the expectation over all masks, by quadrature."""
    x = (0, 1, 1, 0)

    def integrand(t):
        p = (1 - EPSILON) * t
        total = sum(
            p**m * (1 - p) ** (L - m) * missed(x, s)
            for m in range(L + 1)
            for s in subsets(m)
        )
        return total / (t * L)

    exact = integrate.quad(integrand, EPSILON, 1)[0] / (1 - EPSILON)
    found = estimates(InverseTime(), x, masks=256).mean(-1)
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - exact) < 4 * error
    assert exact == pytest.approx(exact_bound(x), rel=5e-3)  # the same bound, but for e


def test_exact_masks_have_less_variance():
    x = (0, 1, 1, 0)
    spread = [
        estimates(m, x, masks=16).mean(-1).std() for m in (ExactMasks(), InverseTime())
    ]
    assert spread[0] < 0.7 * spread[1]


def test_all_masked_is_the_product_of_marginals():
    x = (1, 0, 1, 1)
    found = estimates(AllMasked(), x, masks=3, draws=2)
    np.testing.assert_allclose(found, missed(x, range(L)) / L, rtol=1e-5)


def test_each_sequence_gets_its_own_error():
    """B groups of N sequences of R masks, in that order."""
    x = np.array([[(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 0, 1)], [(1, 0, 0, 0)] * 3])
    model = MaskedDiffusion(length=L, masking=AllMasked(), masks=2)
    labels = jnp.zeros((2, 0), int)
    found = model.matching_error(
        TableNetwork(), jax.random.key(0), jnp.asarray(x), labels
    )
    assert found.shape == (2, 3, 2)
    expected = [[missed(row, range(L)) / L for row in group] for group in x]
    np.testing.assert_allclose(
        found, np.repeat(np.array(expected)[..., None], 2, -1), rtol=1e-5
    )


@pytest.mark.parametrize("share, least", [(0.2, 1), (0.25, 2), (0.5, 3), (0.9, 4)])
def test_many_masks_are_told_of_the_same_draw(share, least):
    """m > 4 c, of the masks that `matching_error` draws with that key."""
    model, net, seen = MaskedDiffusion(length=L, masks=3), TableNetwork(), []

    class Seeing(TableNetwork):
        def __call__(self, x, t, label):
            seen.append(np.asarray(x.argmax(-1) == V).sum(-1))
            return net(x, t, label)

    x, labels = jnp.zeros((2, 5, L), int), jnp.zeros((2, 0), int)
    model.matching_error(Seeing(), jax.random.key(6), x, labels)
    found = np.asarray(model.many_masked(jax.random.key(6), x, share))
    assert found.shape == (2, 5, 3)
    enough = seen[0] >= least  # [R B N]
    np.testing.assert_array_equal(found.transpose(2, 0, 1).ravel(), enough)


# Sampling


def sampled_distribution(steps):
    """P(x) of the sampler, by its transitions over all partly masked sequences."""
    mass = {(V,) * L: 1.0}
    times = np.linspace(1.0, 1e-5, steps + 1)
    for t, s in pairwise(times):
        mass = moved(mass, (t - s) / t)
    ended: dict = {}
    for state, p in mass.items():
        likeliest = logp(state).argmax(-1)
        full = tuple(k if a == V else a for a, k in zip(state, likeliest, strict=True))
        ended[full] = ended.get(full, 0.0) + p
    return ended


def moved(mass, chance):
    """One step: every masked position is revealed or not, independently."""
    after: dict = {}
    for state, p in mass.items():
        own = np.exp(logp(state))
        options = [
            [(a, 1.0)]
            if a < V
            else [(V, 1 - chance), *((k, chance * own[i, k]) for k in range(V))]
            for i, a in enumerate(state)
        ]
        for choice in product(*options):
            letters = tuple(a for a, _ in choice)
            share = np.prod([q for _, q in choice])
            after[letters] = after.get(letters, 0.0) + p * share
    return after


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_samples_follow_the_enumerated_distribution(steps):
    """Chi-square over all 16 sequences; wrong with probability 0.001."""
    n, exact = 40_000, sampled_distribution(steps)
    assert sum(exact.values()) == pytest.approx(1)
    model = MaskedDiffusion(length=L, denoising_steps=steps)
    draw = jax.jit(lambda key: model.sample(TableNetwork(), key, NONE, n)[0])
    letters = np.array(draw(jax.random.key(2)))
    states = list(product(range(V), repeat=L))
    counts = np.bincount(letters @ (V ** np.arange(L)[::-1]), minlength=V**L)
    expected = [n * exact.get(state, 0.0) for state in states]
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_many_steps_are_any_order_sampling():
    """One letter at a time in random order: the limit of many steps."""
    exact: dict = {(V,) * L: 1.0}
    for revealed in range(L):
        after: dict = {}
        for state, p in exact.items():
            masked = [i for i in range(L) if state[i] == V]
            for i, k in product(masked, range(V)):
                new = (*state[:i], k, *state[i + 1 :])
                share = p * np.exp(logp(state)[i, k]) / (L - revealed)
                after[new] = after.get(new, 0.0) + share
        exact = after
    many = sampled_distribution(400)
    for state, p in exact.items():
        assert many[state] == pytest.approx(p, abs=2e-3)


def count_calls(model, start):
    """Calls of the network while sampling from a start."""
    calls, labels = [], jnp.zeros((len(start), 0), int)

    def predict(letters, t):
        jax.debug.callback(lambda: calls.append(1))
        return model.predictor(TableNetwork(), labels)(letters, t)

    jax.block_until_ready(model.reveal(predict, jax.random.key(3), start))
    jax.effects_barrier()
    return len(calls)


def test_a_step_without_a_change_calls_no_network():
    start = jnp.full((1, L), V)
    plain = MaskedDiffusion(length=L, denoising_steps=100)
    timed = MaskedDiffusion(length=L, denoising_steps=100, timed=True)
    few, many = (count_calls(model, start) for model in (plain, timed))
    assert few <= 1 + L and many >= 100
    draws = [
        m.sample(TableNetwork(), jax.random.key(5), NONE, 50) for m in (plain, timed)
    ]
    np.testing.assert_array_equal(*draws)


def test_letters_that_are_given_stay():
    model = MaskedDiffusion(length=L, denoising_steps=5)
    start = jnp.tile(jnp.array([[V, 1, V, 0]]), (64, 1))
    predict = model.predictor(TableNetwork(), jnp.zeros((64, 0), int))
    letters = np.array(model.reveal(predict, jax.random.key(4), start))
    assert (letters[:, 1] == 1).all() and (letters[:, 3] == 0).all()
    assert set(np.unique(letters[:, [0, 2]])) == {0, 1}


def test_predictions_copy_what_is_known():
    model = MaskedDiffusion(length=L)
    letters = jnp.array([[0, V, 1, V]])
    found = np.exp(model.predictor(TableNetwork(), NONE)(letters, jnp.ones(())))[0]
    np.testing.assert_array_equal(found[[0, 2]], [[1, 0], [0, 1]])
    np.testing.assert_allclose(
        found[[1, 3]], np.exp(logp(letters[0]))[[1, 3]], rtol=1e-5
    )


@pytest.mark.parametrize(
    "values", [{"length": 0}, {"masks": 0}, {"denoising_steps": 0}]
)
def test_impossible_settings_get_one_line(values):
    with pytest.raises(SimpoError):
        MaskedDiffusion(**values)


def test_a_bound_is_above_the_true_likelihood():
    """-log p of any-order sampling is at most the bound, and the sum of p is one."""
    exact = sampled_distribution(400)
    for x, p in exact.items():
        assert exact_bound(x) * L >= -log(p) - 0.02
