"""Motifs and their scans against plain loops and full enumeration."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simpo.dna.motifs import (
    Motif,
    consensus,
    log_odds,
    quantise,
    read_meme,
    thresholds,
)
from simpo.dna.scan import Bank, hits, scan
from simpo.types import SimpoError

pytestmark = pytest.mark.usefixtures("compiled_quickly")

rng = np.random.default_rng(0)
JASPAR = Path(__file__).parents[2] / "shared/data/JASPAR2022_CORE_vertebrates.meme"

MEME = """MEME version 4

ALPHABET= ACGT

strands: + -

Background letter frequencies
A 0.25 C 0.25 G 0.25 T 0.25

MOTIF MA0001.1 First
letter-probability matrix: alength= 4 w= 3 nsites= 20 E= 0
0.1435 0.2480 0.3480 0.2605
 0.1170  0.2425  0.2335  0.4070
1 0 0 0
URL http://example.org/1

MOTIF second
log-odds matrix: alength= 4 w= 1
-1 1 -2 2
letter-probability matrix: alength=4
0.5 0.5 0.0 0.0
"""


def random_motif(width, name="m"):
    return Motif(name, rng.dirichlet(np.full(4, 0.3), width))


def one_hot(tokens):
    return jax.nn.one_hot(tokens, 4)


def plain_windows(matrix, probs):
    """Scores of a matrix [W, 4] by loops: windows of [L, 4] on both strands."""
    width, (length, _) = len(matrix), probs.shape
    found = np.zeros((2, length - width + 1))
    for strand, letters in enumerate((matrix, matrix[::-1, ::-1])):
        for i in range(length - width + 1):
            for w in range(width):
                for c in range(4):
                    found[strand, i] += letters[w, c] * probs[i + w, c]
    return found


# Files


def test_a_meme_file_gives_its_own_numbers(tmp_path):
    (tmp_path / "a.meme").write_text(MEME)
    first, second = read_meme(tmp_path / "a.meme")
    assert (first.name, second.name) == ("MA0001.1 First", "second")
    expected = [[0.1435, 0.2480, 0.3480, 0.2605], [0.1170, 0.2425, 0.2335, 0.4070]]
    np.testing.assert_array_equal(first.probabilities, [*expected, [1, 0, 0, 0]])
    np.testing.assert_array_equal(second.probabilities, [[0.5, 0.5, 0, 0]])
    assert first.width == 3


@pytest.mark.skipif(not JASPAR.is_file(), reason="needs the JASPAR file")
def test_every_jaspar_motif_is_read():
    motifs, text = read_meme(JASPAR), JASPAR.read_text()
    assert len(motifs) == text.count("MOTIF ") == 841
    numbers = [
        [float(word) for word in line.split()]
        for line in text.splitlines()
        if line.count(" ") == 3 and line[0] in "01"
    ]
    rows = np.concatenate([motif.probabilities for motif in motifs])
    np.testing.assert_array_equal(rows, numbers)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("MEME version 4", ">MA0001.1", "is no MEME file: it begins with '>MA0001.1'"),
        ("w= 3", "w= 4", "line 15: motif MA0001.1 First has 3 rows, 4 were announced"),
        ("0.2335  0.4070", "0.2335", "line 13: motif MA0001.1 First needs 4 numbers"),
        ("0.2335", "0.9335", "line 11: motif MA0001.1 First: position 2 is not four"),
        ("0.2335", "nan", "line 11: motif MA0001.1 First: position 2 is not four"),
        ("0.2335", "x", "line 13: motif MA0001.1 First has 1 rows, 3 were announced"),
        ("= ACGT", "= ACGU", "line 3: the alphabet must be ACGT"),
        ("MOTIF MA0001.1 First\n", "", "line 10: a matrix before any MOTIF line"),
        ("letter-prob", "other-prob", "no motif with a letter-probability matrix"),
    ],
)
def test_another_format_gets_one_line(tmp_path, old, new, said):
    path = tmp_path / "a.meme"
    path.write_text(MEME.replace(old, new))
    with pytest.raises(SimpoError, match=said.replace("(", r"\(")) as caught:
        read_meme(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_file_and_no_text_get_one_line(tmp_path):
    with pytest.raises(SimpoError, match="no file"):
        read_meme(tmp_path / "none.meme")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SimpoError, match="it is not text"):
        read_meme(tmp_path / "b")
    (tmp_path / "c").write_text("")
    with pytest.raises(SimpoError, match="begins with nothing"):
        read_meme(tmp_path / "c")


def test_consensus_letters_share_equally():
    found = consensus("arN", "x").probabilities
    np.testing.assert_array_equal(
        found, [[1, 0, 0, 0], [0.5, 0, 0.5, 0], [0.25, 0.25, 0.25, 0.25]]
    )
    with pytest.raises(SimpoError, match="motif x: 'Z' is no IUPAC letter"):
        consensus("AZ", "x")
    with pytest.raises(SimpoError, match="shape"):
        consensus("", "x")


def test_log_odds_are_their_definition():
    motif, b = random_motif(5), np.array([0.3, 0.2, 0.2, 0.3])
    expected = np.log((0.9 * motif.probabilities + 0.1 * b) / b)
    np.testing.assert_allclose(log_odds(motif, 0.1, b), expected, rtol=1e-12)


# Scans


@pytest.mark.parametrize("relaxed", [False, True])
def test_a_scan_is_a_plain_loop(relaxed):
    widths = [4, 9, 6, 4, 7, 12, 5, 4, 8, 6]
    motifs = [random_motif(w) for w in widths]
    tokens = rng.integers(0, 4, (3, 20))
    probs = rng.dirichlet(np.ones(4), (3, 20)) if relaxed else np.eye(4)[tokens]
    bank = Bank.make([log_odds(m) for m in motifs], together=4)
    assert [len(f.index) for f in bank.filters] == [4, 3, 3]
    found = jax.jit(lambda p: scan(bank, p))(jnp.asarray(probs, jnp.float32))
    for n, m in itertools.product(range(3), range(len(motifs))):
        scores = plain_windows(log_odds(motifs[m]), probs[n])
        assert found.best[n, m] == pytest.approx(scores.max(), abs=1e-4)
        assert found.total[n, m] == pytest.approx(
            np.log(np.exp(scores).sum()), abs=1e-4
        )


def test_a_scan_sees_a_site_on_either_strand_at_either_end():
    motif = consensus("ACCGGGTA", "x")
    site = motif.probabilities.argmax(1)
    for start, strand in itertools.product((0, 12), (0, 1)):
        tokens = np.zeros((1, 20), np.int8)
        tokens[0, start : start + 8] = site if strand == 0 else 3 - site[::-1]
        best = scan(Bank.of([motif]), one_hot(tokens)).best
        assert best[0, 0] == pytest.approx(log_odds(motif).max(1).sum(), abs=1e-4)


def test_both_strands_find_the_same():
    bank = Bank.of([random_motif(w) for w in (4, 7, 11)])
    tokens = rng.integers(0, 4, (5, 30))
    a, b = (scan(bank, one_hot(x)) for x in (tokens, 3 - tokens[:, ::-1]))
    np.testing.assert_allclose(a.best, b.best, atol=1e-5)
    np.testing.assert_allclose(a.total, b.total, atol=1e-5)


def test_the_gradient_of_a_scan_is_right():
    bank = Bank.of([random_motif(w) for w in (4, 7)])
    probs = rng.dirichlet(np.ones(4), (2, 12)).astype(np.float64)
    turn = rng.normal(size=probs.shape)

    @jax.jit
    @jax.value_and_grad
    def value(p):
        found = scan(bank, p)
        return (found.best * 0.3 + found.total).sum()

    with jax.enable_x64(True):
        slope = np.asarray(value(probs)[1])
        ends = [float(value(probs + e * turn)[0]) for e in (-1e-6, 1e-6)]
    assert (slope * turn).sum() == pytest.approx((ends[1] - ends[0]) / 2e-6, rel=1e-6)


def test_sequences_too_short_for_a_motif_get_one_line():
    with pytest.raises(
        SimpoError, match="5 letters are shorter than the widest motif, 7"
    ):
        scan(Bank.of([random_motif(7)]), jnp.zeros((1, 5, 4)))
    with pytest.raises(
        SimpoError, match="5 letters are shorter than the widest motif, 7"
    ):
        hits([random_motif(7)], np.zeros((1, 5), np.int8))


# P-values


def every_score(motif, background):
    """Score in steps and probability of all 4^W sequences."""
    scores = quantise(log_odds(motif, 0.01, background), 0.01)
    words = np.array(list(itertools.product(range(4), repeat=motif.width)))
    chance = np.prod(np.asarray(background)[words], axis=1)
    return scores[np.arange(motif.width), words].sum(1), chance


@pytest.mark.parametrize("background", [(0.25,) * 4, (0.3, 0.2, 0.2, 0.3)])
@pytest.mark.parametrize("p", [0.3, 0.01, 1e-3])
def test_thresholds_are_those_of_full_enumeration(p, background):
    for width in (1, 3, 6):
        motif = random_motif(width)
        scores, chance = every_score(motif, background)
        found = thresholds([motif], p, background=background)[0]
        allowed = [s for s in set(scores) if chance[scores >= s].sum() <= p + 1e-12]
        if not allowed:
            assert found == np.inf
            continue
        # The threshold may lie between two scores: what matters is who is above it.
        np.testing.assert_array_equal(
            scores >= found / 0.01 - 1e-6, scores >= min(allowed)
        )


def test_a_share_p_of_all_words_hits():
    """Every word of five letters once: those at or above the threshold are counted."""
    motif, p = random_motif(5), 0.02
    words = np.array(list(itertools.product(range(4), repeat=5)), np.int8)
    scores, chance = every_score(motif, (0.25,) * 4)
    least = thresholds([motif], p)[0] / 0.01
    forward = scores >= least - 0.5
    mirrored = {tuple(word): hit for word, hit in zip(words, forward, strict=True)}
    backward = [mirrored[tuple(3 - word[::-1])] for word in words]
    found = hits([motif], words, p)
    np.testing.assert_array_equal(found[:, 0], forward.astype(int) + backward)
    assert 0 < chance[forward].sum() <= p
    assert found.dtype == np.int64


def test_hits_count_windows_of_every_motif():
    motifs = [random_motif(w) for w in (6, 4, 9)]
    tokens = rng.integers(0, 4, (7, 40)).astype(np.int8)
    found = hits(motifs, tokens, 0.01, rows=4)
    least = thresholds(motifs, 0.01)
    for n, m in itertools.product(range(7), range(3)):
        matrix = quantise(log_odds(motifs[m]), 0.01) * 0.01
        scores = plain_windows(matrix, np.eye(4)[tokens[n]])
        assert found[n, m] == (scores >= least[m] - 1e-6).sum()
    assert found.sum() > 0


def test_a_p_value_is_a_probability():
    with pytest.raises(SimpoError, match="above 0 and at most 1, not 0"):
        thresholds([random_motif(3)], 0)
