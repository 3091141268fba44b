import numpy as np
import pytest

from simpo.cli import main
from simpo.dna.motifs import Motif, read_meme, write_meme
from simpo.types import SimpoError

pytest.importorskip("pyjaspar")


def test_a_release_becomes_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("simpo.backend.keep_compiled", lambda: None)
    path = tmp_path / "motifs.meme"
    assert main(["dna", "motifs", "--out", str(path)]) == 0
    assert "841 motifs of vertebrates" in capsys.readouterr().out
    found = {motif.name: motif for motif in read_meme(path)}
    assert len(found) == 841
    # The published counts of MA0004.1, Arnt: 4 19 0 0 0 0 of A in 20 sites.
    arnt = found["MA0004.1 Arnt"].probabilities
    np.testing.assert_allclose(arnt[:, 0], np.array([4, 19, 0, 0, 0, 0]) / 20)
    before = path.read_bytes()
    assert main(["dna", "motifs", "--out", str(path)]) == 2
    assert "there already" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--release", "JASPAR1999"], "no release JASPAR1999; there are JASPAR2"),
        (["--group", "unicorns"], "no motif of the group unicorns in JASPAR2022"),
    ],
)
def test_what_is_not_there(words, reason, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("simpo.backend.keep_compiled", lambda: None)
    path = tmp_path / "motifs.meme"
    assert main(["dna", "motifs", "--out", str(path), *words]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1 and not path.exists()


def test_files_come_back(tmp_path):
    motifs = [Motif("a b", np.full((3, 4), 0.25)), Motif("c", np.eye(4)[[0, 3]])]
    write_meme(tmp_path / "x.meme", motifs)
    back = read_meme(tmp_path / "x.meme")
    assert [m.name for m in back] == ["a b", "c"]
    for one, other in zip(motifs, back, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    with pytest.raises(SimpoError, match="cannot write"):
        write_meme(tmp_path / "nowhere" / "x.meme", motifs)
