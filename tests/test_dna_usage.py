"""Which motifs sets use: counted once, kept as a table, drawn."""

import re

import numpy as np
import pytest

from plain_loop import is_one_line
from planted import LENGTH, MODEL, Planted, pretrained, sequences
from simpo.dna.motifs import consensus
from simpo.dna.objective import Calls
from simpo.dna.scan import hits
from simpo.dna.usage import MotifUsage
from simpo.experiments import designs
from simpo.experiments.designs import Judges
from simpo.plotting.designs import MOTIFS, draw_motifs
from simpo.types import SimpoError

MOTIF_SET = (
    consensus("TGCAG", "planted"),
    consensus("A" * (LENGTH + 1), "too wide"),
    consensus("CCGG", "rare"),
)


def judges(motifs):
    reward = {"reward": Planted()}
    return Judges(reward, sequences(40, seed=1), MODEL, pretrained(), motifs=motifs)


def test_motifs_are_looked_for_once(monkeypatch):
    """For the correlation and for the rates, of a set and of the natural sequences."""
    seen = []

    def counted(motifs, tokens):
        seen.append(len(tokens))
        return hits(motifs, tokens)

    monkeypatch.setattr(designs, "hits", counted)
    judge = judges(MOTIF_SET)
    letters = np.random.default_rng(0).integers(0, 4, (30, LENGTH)).astype(np.int8)
    natural = judge.judge("natural", judge.natural, Calls())
    made = judge.judge("made", letters, Calls())
    assert seen == [40, 30]
    for found, tokens in ((natural, judge.natural), (made, letters)):
        counts = hits([MOTIF_SET[0], MOTIF_SET[2]], tokens)
        np.testing.assert_allclose(
            found.rates, 100 * counts.sum(0) / tokens.size, rtol=1e-6
        )
    assert natural.row["motif_correlation"] == pytest.approx(1)
    usage = judge.usage({"natural": natural.rates, "made": made.rates})
    assert usage.motifs == ("planted", "rare")
    assert usage.rates["natural"][0] > 1 > usage.rates["made"][0]


def test_without_motifs_there_are_no_rates():
    judge = judges(())
    found = judge.judge("natural", judge.natural, Calls())
    assert found.rates.shape == (0,) and "motif_correlation" not in found.row


def test_tables_come_back(tmp_path):
    """Also where motifs share a name."""
    rates = {"natural": np.array([0.5, 12.25, 0]), "a, b": np.array([1e-3, 0, 1 / 3])}
    MotifUsage(("x", "x", "M 1, y"), rates).write(tmp_path / "motif_hits.csv")
    again = MotifUsage.read(tmp_path / "motif_hits.csv")
    assert again.motifs == ("x", "x", "M 1, y") and list(again.rates) == list(rates)
    for name, found in again.rates.items():
        np.testing.assert_allclose(found, rates[name], rtol=1e-5)
    assert again.rows[1] == {"motif": "x", "natural": "12.25", "a, b": "0"}


@pytest.mark.parametrize(
    "text, reason",
    [
        ("name,a\nx,1\n", "has no column 'motif'"),
        ("motif,a\nx,1\ny,much\n", "line 3: a is 'much', not hits per 100 bases"),
        ("motif,a\nx,nan\n", "line 2: a is 'nan'"),
        ("motif,a\nx,-1\n", "line 2: a is '-1'"),
        ("motif\nx\n", "has no set"),
    ],
)
def test_damaged_tables_get_one_line(tmp_path, text, reason):
    path = tmp_path / "motif_hits.csv"
    path.write_text(text)
    with pytest.raises(SimpoError, match=reason) as error:
        MotifUsage.read(path)
    assert is_one_line(error)


def texts(path):
    """What an SVG's comments say it writes, in order."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def test_the_motifs_that_differ_most_are_drawn(tmp_path):
    """In order of their spread, not of their rates, with a number per set."""
    rng = np.random.default_rng(0)
    base, spread = rng.uniform(0, 50, 30), rng.permutation(30) / 10
    rates = {"natural": base, "one": base + spread, "two": base + spread / 2}
    names = [f"MA{i:04d}.1" for i in range(30)]
    names[int(spread.argmax())] = "MA9999.1 a $name$ that is far too long"
    files = draw_motifs(names, rates, tmp_path / "motifs")
    assert {file.name for file in files} == {"motifs.png", "motifs.svg"}
    found = texts(tmp_path / "motifs.svg")
    drawn = [text for text in found if text.startswith("MA")]
    most = np.argsort(-spread)[:MOTIFS]
    assert drawn == ["MA9999.1 a $name$ that …", *(names[i] for i in most[1:])]
    numbers = [text for text in found if re.fullmatch(r"\d+\.\d\d", text)]
    expected = [f"{r[i]:.2f}" for r in rates.values() for i in most]
    assert numbers == expected
    assert {"natural", "one", "two", "Motif", "Set", "Hits per 100 bases"} <= set(found)


def test_few_motifs_and_no_hits_can_be_drawn(tmp_path):
    zeros = {"natural": np.zeros(2), "made": np.zeros(2)}
    draw_motifs(["a", "b"], zeros, tmp_path / "none")
    assert texts(tmp_path / "none.svg").count("0.00") == 4
