"""The planted grammar: its truth is bounded, the same on both strands, and monotone."""

import itertools

import jax
import numpy as np
import pytest

from simpo.dna.grammar import Element, Grammar, Pairing, liver
from simpo.dna.motifs import consensus, log_odds
from simpo.types import SimpoError

pytestmark = pytest.mark.usefixtures("compiled_quickly")

rng = np.random.default_rng(0)
GRAMMAR = liver(60)
activity = jax.jit(GRAMMAR.activity)


def value(tokens):
    return np.asarray(activity(jax.nn.one_hot(np.atleast_2d(tokens), 4)))


def site(text):
    return consensus(text, "x").probabilities.argmax(1)


def plain_activity(grammar, tokens):
    """The equations by loops, for one sequence [L]."""
    names = [e.name for e in grammar.elements]
    matrices = [log_odds(m, grammar.mixture) for m in grammar.motifs]

    def occupied(x, m, strand):
        matrix = matrices[m] if strand == 0 else matrices[m][::-1, ::-1]
        best, width = matrix.max(1).sum(), len(matrix)
        scores = [
            sum(matrix[w, x[i + w]] for w in range(width))
            for i in range(len(x) - width + 1)
        ]
        z = (np.array(scores) - best + grammar.margin) / grammar.softness
        return 1 / (1 + np.exp(-z))

    total = 0.0
    for m, element in enumerate(grammar.elements):
        count = occupied(tokens, m, 0).sum() + occupied(tokens, m, 1).sum()
        total += element.weight * (1 - np.exp(-count))
    for rule in grammar.pairings:
        a, b = names.index(rule.first), names.index(rule.second)
        count = 0.0
        for x in (tokens, 3 - tokens[::-1]):
            first = occupied(x, a, 0)
            second = occupied(x, b, 0 if rule.same_strand else 1)
            for i, j in itertools.product(range(len(first)), range(len(second))):
                gap = j - i - len(matrices[a])
                count += first[i] * second[j] * (rule.nearest <= gap <= rule.farthest)
        total += rule.weight * (1 - np.exp(-count))
    return grammar.ceiling * np.tanh(total / grammar.ceiling)


def planted(*sites):
    """A poor background with sites at given places."""
    tokens = np.tile([0, 2], 30).astype(np.int8)
    for start, letters in sites:
        tokens[start : start + len(letters)] = letters
    return tokens


def test_activity_is_its_equations():
    tokens = GRAMMAR.sample(rng, 6)
    tokens[0] = planted((3, site("TATTTAC")), (14, site("CAAAGTCCA")))
    expected = [plain_activity(GRAMMAR, row) for row in tokens]
    np.testing.assert_allclose(value(tokens), expected, rtol=1e-4, atol=1e-5)


def test_both_strands_have_one_activity():
    tokens = GRAMMAR.sample(rng, 50)
    np.testing.assert_allclose(value(tokens), value(3 - tokens[:, ::-1]), atol=1e-5)


def test_every_planted_site_adds():
    words = [e.consensus for e in GRAMMAR.elements]
    places = list(itertools.accumulate([1, *[len(w) + 1 for w in words[:-1]]]))
    sites = [(p, site(w)) for p, w in zip(places, words, strict=True)]
    for order in itertools.permutations(range(4)):
        found = value(
            np.stack([planted(*(sites[i] for i in order[:n])) for n in range(5)])
        )
        assert np.all(np.diff(found) > 0.05)
        assert found[0] < 0.1


def test_activity_is_bounded_by_the_ceiling():
    crowded = np.tile(site("CAAAGTCCA"), 7)[:60]
    extreme = np.stack([np.full(60, c) for c in range(4)] + [crowded])
    tokens = np.concatenate([extreme, rng.integers(0, 4, (100, 60))])
    found = value(tokens)
    assert np.all((found >= 0) & (found <= GRAMMAR.ceiling))
    assert GRAMMAR.ceiling / 4 < found.max()


def test_a_second_site_adds_less_than_the_first():
    one = site("CAAAGTCCA")
    none, first, both = value(
        np.stack([planted(), planted((2, one)), planted((2, one), (30, one))])
    )
    assert 0 < both - first < first - none


def test_spacing_and_strand_matter():
    foxa, hnf4a = site("TATTTAC"), site("CAAAGTCCA")
    near = value(planted((3, foxa), (14, hnf4a)))  # four letters between them
    far = value(planted((3, foxa), (40, hnf4a)))
    swapped = value(planted((3, hnf4a), (16, foxa)))
    turned = value(planted((3, foxa), (14, 3 - hnf4a[::-1])))
    for other in (far, swapped, turned):
        assert near - other > 0.2


def test_the_gradient_is_right():
    probs = rng.dirichlet(np.ones(4), (2, 60))
    probs[0] = 0.9 * np.eye(4)[planted((3, site("TATTTAC")), (14, site("CAAAGTCCA")))]
    turn = rng.normal(size=probs.shape)
    with jax.enable_x64(True):
        both = jax.jit(jax.value_and_grad(lambda p: GRAMMAR.activity(p).sum()))
        slope = np.asarray(both(probs)[1])
        ends = [float(both(probs + e * turn)[0]) for e in (-1e-6, 1e-6)]
    found = (slope * turn).sum()
    assert found == pytest.approx((ends[1] - ends[0]) / 2e-6, rel=1e-5)
    assert abs(found) > 0.01


def test_samples_look_as_they_should():
    grammar = Grammar(elements=GRAMMAR.elements, planted=0, gc=0.4, repeat=0.2)
    tokens = grammar.sample(rng, 4000)
    assert tokens.shape == (4000, 60) and tokens.dtype == np.int8
    assert np.isin(tokens, [1, 2]).mean() == pytest.approx(0.4, abs=0.01)
    again = (tokens[:, 1:] == tokens[:, :-1]).mean()
    chance = 2 * 0.2**2 + 2 * 0.3**2
    assert again == pytest.approx(0.2 + 0.8 * chance, abs=0.01)


def test_most_samples_have_little_activity_and_a_few_have_much():
    found = value(GRAMMAR.sample(np.random.default_rng(1), 2000))
    low, middle, high = np.quantile(found, [0.1, 0.5, 0.99])
    assert low < 0.3 and middle < 0.25 * GRAMMAR.ceiling
    assert high > 0.4 * GRAMMAR.ceiling


def test_samples_follow_the_generator():
    a, b, c = (GRAMMAR.sample(np.random.default_rng(s), 5) for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"elements": ()}, "at least one element"),
        ({"pairings": (Pairing("A", "X", 1, 2, True, 1.0),)}, "no element X to pair"),
        ({"pairings": (Pairing("A", "A", 3, 2, True, 1.0),)}, "3 to 2 letters apart"),
        ({"gc": 1.5}, "shares, from 0 to 1"),
        ({"softness": 0.0}, "above 0"),
        ({"length": 2}, "shorter than the widest motif"),
    ],
)
def test_a_bad_grammar_gets_one_line(settings, said):
    with pytest.raises(SimpoError, match=said):
        Grammar(**{"elements": (Element("A", "ACGT", 1.0),), **settings})
