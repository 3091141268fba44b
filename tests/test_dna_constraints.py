"""Constraints against the same conditions on plain text."""

import re
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from simpo.dna.constraints import (
    ForbiddenSites,
    GCWindow,
    Homopolymer,
    MinimumDistance,
    Template,
    satisfied,
)
from simpo.dna.data import decode, encode, one_hot, reverse_complement
from simpo.types import SimpoError

FEW = settings(max_examples=60, deadline=None)
SHARES = st.sampled_from([0.0, 0.25, 0.3, 1 / 3, 0.5, 0.57, 0.6, 1.0])
LETTERS = {
    "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip


def sets(rows=(1, 8), bases=(1, 12), top=3):
    """Tokens [N, L]."""
    shapes = st.tuples(st.integers(*rows), st.integers(*bases))
    return shapes.flatmap(
        lambda shape: arrays(np.int8, shape, elements=st.integers(0, top))
    )


def tokens_of(*texts):
    return np.stack([encode(text) for text in texts])


@FEW
@given(sets(), SHARES, SHARES, st.data())
def test_every_window_has_its_gc(tokens, a, b, data):
    low, high = sorted((a, b))
    window = data.draw(st.integers(1, tokens.shape[1]) | st.none())
    width = window or tokens.shape[1]
    expected = [
        all(
            low <= sum(base in "GC" for base in text[i : i + width]) / width <= high
            for i in range(len(text) - width + 1)
        )
        for text in map(decode, tokens)
    ]
    assert GCWindow(low, high, window).check(tokens).tolist() == expected


def test_bounds_of_gc_are_allowed():
    for strong in range(101):
        tokens = np.array([[1] * strong + [0] * (100 - strong)])
        assert GCWindow(strong / 100, strong / 100).check(tokens).all()


@FEW
@given(sets(top=1), st.integers(1, 13))
def test_runs_are_not_too_long(tokens, longest):
    expected = [
        max(len(run.group()) for run in re.finditer(r"(.)\1*", text)) <= longest
        for text in map(decode, tokens)
    ]
    assert Homopolymer(longest).check(tokens).tolist() == expected


SITES = st.lists(st.text("ACGTRYSWKMBDHVNacgtn", min_size=1, max_size=5), max_size=3)


@FEW
@given(sets(), SITES)
def test_sites_are_on_neither_strand(tokens, sites):
    patterns = [
        "".join(f"[{LETTERS.get(letter, letter)}]" for letter in site.upper())
        for site in sites
    ]
    expected = [
        not any(re.search(p, decode(s)) for p in patterns for s in (row, other))
        for row, other in zip(tokens, reverse_complement(tokens), strict=True)
    ]
    found = ForbiddenSites(tuple(sites)).check(tokens)
    assert found.tolist() == expected


@pytest.mark.parametrize("letter", ["A", "C", "G", "T", *LETTERS])
def test_a_letter_stands_for_its_bases(letter):
    """Before CA, since no XCA is on the other strand of one."""
    tokens = tokens_of("ACA", "CCA", "GCA", "TCA")
    bases = LETTERS.get(letter, letter)
    found = ForbiddenSites((f"{letter}CA",)).check(tokens)
    assert found.tolist() == [base not in bases for base in "ACGT"]


def test_sites_of_known_enzymes():
    """BsaI cuts at GGTCTC, on whichever strand; CCWGG is Dcm's."""
    tokens = tokens_of("AAGGTCTCAA", "AAGAGACCAA", "AACCAGGAAA", "AACCGGGAAA")
    bsa, dcm = ForbiddenSites(("GGTCTC",)), ForbiddenSites(("CCWGG",))
    assert bsa.check(tokens).tolist() == [False, False, True, True]
    assert dcm.check(tokens).tolist() == [True, True, False, True]
    both = satisfied([bsa, dcm, Homopolymer(2)], tokens)
    assert both.tolist() == [False, False, False, False]
    assert satisfied([bsa, dcm], tokens).tolist() == [False, False, False, True]
    assert satisfied([], tokens).tolist() == [True] * 4
    assert satisfied([bsa], np.zeros((0, 5), int)).tolist() == []


def test_constraints_say_what_they_ask():
    names = [
        GCWindow(0.25, 0.65, 50).name,
        GCWindow(0.4, 0.6).name,
        Homopolymer(6).name,
        ForbiddenSites(("GGTCTC", "CGTCTC")).name,
        MinimumDistance(0.1).name,
    ]
    assert names == [
        "GC of 25 to 65 % in every 50 bases",
        "GC of 40 to 60 %",
        "runs of at most 6 equal bases",
        "no GGTCTC, CGTCTC on either strand",
        "every two differ in at least 10 % of their bases",
    ]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: GCWindow(0.6, 0.4), "0 <= low <= high <= 1, not 0.6 and 0.4"),
    (lambda: GCWindow(0, 40), "0 <= low <= high <= 1, not 0 and 40"),
    (lambda: GCWindow(float("nan"), 1), "0 <= low <= high <= 1"),
    (lambda: GCWindow(0, 1, 0), "needs at least 1 base, not 0"),
    (lambda: Homopolymer(0), "at least 1, not 0"),
    (lambda: ForbiddenSites(("GGTCTC", "GAXTC")), "site 'GAXTC' .*, not 'X'"),
    (lambda: ForbiddenSites(("",)), "site '' must be IUPAC letters"),
    (lambda: ForbiddenSites("GGTCTC"), "must be a tuple of texts, not 'GGTCTC'"),
    (lambda: MinimumDistance(20), "the least distance is a share, not 20"),
    (lambda: Template("ACGT", 2, 2), "from 2 to 2 does not fit a backbone of 4"),
    (lambda: Template("ACGT", -1, 2), "from -1 to 2 does not fit"),
    (lambda: Template("ACGT", 1, 5), "from 1 to 5 does not fit"),
    (lambda: Template("ACNT", 1, 2), "letter 'N' at base 3"),
    (lambda: Template([0, 4, 1], 1, 2), "token 4 at base 2"),
    (lambda: Template(np.zeros((2, 4)), 1, 2), r"must be \[sequences, bases\]"),
    (lambda: GCWindow(0, 1, 5).check([[0] * 4]), "window of 5 bases does not fit"),
    (lambda: Homopolymer(3).check([[0, 4]]), "sequence 1 has token 4 at base 2"),
    (lambda: satisfied([], [[0, 4]]), "sequence 1 has token 4 at base 2"),
    (lambda: MinimumDistance(0.1).choose([[0], [1]], [1]), r"but scores \(1,\)"),
])  # fmt: skip
def test_settings_that_cannot_be(make, message):
    with pytest.raises(SimpoError, match=message):
        make()


# Diversity


def slow_choice(tokens, scores, least):
    """From the best down, whatever is far enough from all that was chosen."""
    chosen = []
    for i in sorted(range(len(tokens)), key=lambda i: -scores[i]):
        apart = [np.mean(tokens[i] != tokens[j]) >= least for j in chosen]
        if all(apart):
            chosen.append(i)
    return chosen


@FEW
@given(sets(rows=(0, 12), bases=(1, 5), top=1), SHARES, st.data())
def test_a_diverse_set_is_chosen_from_the_best(tokens, least, data):
    values = st.lists(st.integers(0, 3), min_size=len(tokens), max_size=len(tokens))
    scores = data.draw(values)
    found = MinimumDistance(least).choose(tokens, scores).tolist()
    assert found == slow_choice(tokens, scores, least)
    plain = MinimumDistance(least).choose(tokens).tolist()
    assert plain == slow_choice(tokens, [0] * len(tokens), least)


# Inserts


@FEW
@given(sets(top=4), st.text("ACGT", max_size=4), st.text("ACGT", max_size=4))
def test_inserts_make_a_round_trip(inserts, before, after):
    width = inserts.shape[1]
    template = Template(before + "A" * width + after, len(before), len(before) + width)
    whole = template.place(inserts)
    assert whole.dtype == inserts.dtype and template.width == width
    for row, insert in zip(whole, inserts, strict=True):
        assert decode(row) == before + decode(insert) + after
    np.testing.assert_array_equal(template.cut(whole), inserts)
    soft = np.eye(5, dtype=np.float32)[:, :4]
    found = template.place_soft(soft[inserts])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, soft[whole])
    assert str(template) == f"{before}[{width}]{after}"


def test_inserts_in_jax():
    template = Template(encode("ACGTACGT"), 2, 5)
    inserts = jnp.array(list(product(range(5), repeat=3))).reshape(5, 25, 3)
    whole = jax.jit(template.place)(inserts)
    assert whole.shape == (5, 25, 8) and whole.dtype == inserts.dtype
    np.testing.assert_array_equal(whole, template.place(np.asarray(inserts)))
    assert jax.jit(template.cut)(whole).tolist() == inserts.tolist()

    def total(soft):
        return (template.place_soft(soft) * jnp.arange(32.0).reshape(8, 4)).sum()

    gradient = jax.jit(jax.grad(total))(one_hot(inserts[0]))
    expected = np.broadcast_to(np.arange(8.0, 20.0).reshape(3, 4), gradient.shape)
    np.testing.assert_array_equal(gradient, expected)


def test_inserts_of_another_length():
    template = Template("ACGTACGT", 2, 5)
    assert template.backbone.dtype == np.int8
    for wrong in (np.zeros((2, 4), int), np.zeros((3, 2), int), np.zeros(())):
        with pytest.raises(SimpoError, match="inserts must have 3 bases, not shape"):
            template.place(wrong)
    for wrong in (np.zeros((2, 4, 4)), np.zeros(3)):
        with pytest.raises(SimpoError, match="inserts must have 3 bases, not shape"):
            template.place_soft(wrong)
    with pytest.raises(SimpoError, match="of 7 bases, but the backbone has 8"):
        template.cut(np.zeros((2, 7)))
