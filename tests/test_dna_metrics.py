"""Metrics of sets against SciPy and plain counting."""

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from simpo.dna.data import decode, reverse_complement
from simpo.dna.metrics import (
    gc,
    hit_rate,
    kmer_correlation,
    kmer_counts,
    kmer_entropy,
    motif_correlation,
    pairwise_hamming,
    pearson,
    quantiles,
    spearman,
    unique_share,
)
from simpo.types import SimpoError

FEW = settings(max_examples=40, deadline=None)


def sets(rows=(1, 8), bases=(1, 9), top=3):
    """Tokens [N, L]."""
    shapes = st.tuples(st.integers(*rows), st.integers(*bases))
    return shapes.flatmap(
        lambda shape: arrays(np.int8, shape, elements=st.integers(0, top))
    )


def words(tokens, k):
    """All words of a set, as text."""
    return [t[i : i + k] for t in map(decode, tokens) for i in range(len(t) - k + 1)]


@FEW
@given(sets(), st.data())
def test_counts_and_entropy_are_of_all_words(tokens, data):
    k = data.draw(st.integers(1, min(4, tokens.shape[1])))
    counts, expected = kmer_counts(tokens, k), Counter(words(tokens, k))
    alphabet = map("".join, product("ACGT", repeat=k))
    assert counts.tolist() == [expected[word] for word in alphabet]
    entropy = stats.entropy(list(expected.values()))
    assert kmer_entropy(tokens, k) == pytest.approx(entropy, abs=1e-12)


def test_entropy_lies_between_one_word_and_all():
    every = np.array(list(product(range(4), repeat=3)))
    assert kmer_entropy(every, 3) == pytest.approx(3 * np.log(4))
    assert kmer_entropy(np.full((5, 9), 2)) == 0


def test_gc_is_a_share_per_sequence():
    tokens = np.array([[0, 1, 2, 3], [1, 1, 2, 2], [0, 0, 3, 3], [0, 0, 0, 1]])
    assert gc(tokens).tolist() == [0.5, 1, 0, 0.25]
    np.testing.assert_array_equal(gc(reverse_complement(tokens)), gc(tokens))


@FEW
@given(sets(rows=(2, 8)))
def test_hamming_is_the_mean_over_pairs(tokens):
    expected = np.mean([np.mean(a != b) for a, b in combinations(tokens, 2)])
    assert pairwise_hamming(tokens) == pytest.approx(expected, abs=1e-12)
    assert pairwise_hamming(np.repeat(tokens[:1], 3, axis=0)) == 0


def test_hamming_of_random_sequences():
    tokens = np.random.default_rng(0).integers(0, 4, (640, 200))
    assert pairwise_hamming(tokens) == pytest.approx(0.75, abs=2e-3)


@FEW
@given(sets(bases=(1, 2), top=1))
def test_unique_sequences_are_counted_once(tokens):
    assert unique_share(tokens) == len(set(map(decode, tokens))) / len(tokens)


NUMBERS = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        *(arrays(float, n, elements=st.integers(-5, 5).map(float)) for _ in "xy")
    )
)


@FEW
@given(NUMBERS)
def test_correlations_are_scipys(rows):
    x, y = rows
    assume(np.ptp(x) and np.ptp(y))
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    assert pearson(x, 3 * x + 1) == pytest.approx(1)
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert pearson(x, y) == pytest.approx(pearson(y, x))
    assert spearman(x, -y) == pytest.approx(-spearman(x, y))


def test_correlations_of_what_does_not_vary():
    for x, y in (([1, 1], [0, 1]), ([0, 1], [2, 2]), ([1], [2]), ([], [])):
        assert np.isnan(pearson(x, y)) and np.isnan(spearman(x, y))


def test_correlations_of_sets():
    rng = np.random.default_rng(1)
    a = rng.choice(4, (50, 30), p=[0.4, 0.1, 0.1, 0.4])
    b = rng.choice(4, (20, 40), p=[0.4, 0.1, 0.1, 0.4])
    c = rng.choice(4, (20, 40), p=[0.1, 0.4, 0.4, 0.1])
    for k in (1, 3):
        x, y = (Counter(words(s, k)) for s in (a, b))
        every = list(map("".join, product("ACGT", repeat=k)))
        expected = stats.pearsonr([x[w] for w in every], [y[w] for w in every])
        assert kmer_correlation(a, b, k) == pytest.approx(expected.statistic)
    assert kmer_correlation(a, a) == pytest.approx(1)
    assert kmer_correlation(a, b) > 0.9 > 0 > kmer_correlation(a, c)


def test_motifs_are_compared_by_their_ranks():
    rng = np.random.default_rng(2)
    a, b = rng.poisson(0.3, (40, 25)), rng.poisson(0.3, (60, 25))
    expected = stats.spearmanr(a.sum(axis=0), b.sum(axis=0)).statistic
    assert motif_correlation(a, b) == pytest.approx(expected)
    assert motif_correlation(a, np.tile(a, (3, 1))) == pytest.approx(1)
    assert np.isnan(motif_correlation(a, np.zeros((3, 25))))
    for wrong in (b[:, :-1], b[0]):
        with pytest.raises(SimpoError, match="of the same motifs, not"):
            motif_correlation(a, wrong)


def test_hit_rates_are_per_hundred_bases():
    counts = np.array([[0, 2], [1, 4], [0, 0], [0, 6]])
    np.testing.assert_allclose(hit_rate(counts, 60), [100 / 240, 100 * 12 / 240])
    for wrong in (counts[0], counts[:0]):
        with pytest.raises(SimpoError, match=r"needs hits \[sequences, motifs\]"):
            hit_rate(wrong, 60)


def test_quantiles_show_two_modes():
    found = quantiles([0.0] * 45 + [1.0] * 55)
    assert found == (0, 1, 1)
    assert quantiles(np.arange(101)) == (10, 50, 90)
    assert quantiles(np.float32([2.0])) == (2, 2, 2)
    for wrong in ([], [1.0, np.nan], [[1.0]], [np.inf]):
        with pytest.raises(SimpoError, match="quantiles need finite scores"):
            quantiles(wrong)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: gc([[0, 4]]), "sequence 1 has token 4 at base 2"),
    (lambda: kmer_counts([[0, 1], [4, 1]], 1), "sequence 2 has token 4 at base 1"),
    (lambda: kmer_counts([[0, 1]], 3), "words must have 1 to 2 bases"),
    (lambda: kmer_entropy(np.zeros((0, 5))), "at least one sequence"),
    (lambda: pairwise_hamming([[0, 1]]), "two sequences at least, not 1"),
    (lambda: unique_share(np.zeros((0, 5))), "at least one"),
    (lambda: pearson([1, 2], [1, 2, 3]), r"two rows \[M\], not \(2,\), \(3,\)"),
    (lambda: spearman([[1, 2]], [[1, 2]]), r"two rows \[M\]"),
])  # fmt: skip
def test_sets_without_a_metric(make, message):
    with pytest.raises(SimpoError, match=message):
        make()
