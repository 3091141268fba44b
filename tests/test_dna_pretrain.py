"""Pretraining, saved models, and the demonstration as a user runs it."""

import csv
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from plain_loop import is_one_line
from planted import LENGTH, MODEL, pretrained, sequences
from simpo.cli import main
from simpo.dilated import Size
from simpo.dna.data import read_sequences
from simpo.dna.pretrain import Pretraining, nll, pretrain
from simpo.dna.store import SequenceModel, load_model
from simpo.dna.usage import MotifUsage
from simpo.experiments.dna_demo import METHODS
from simpo.types import SimpoError

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(0)
SIZE = Size(width=16, dilations=(1, 2))


def test_pretraining_lowers_the_bound_of_unseen_sequences():
    unseen = sequences(200, seed=1)
    fresh = Size(width=16, dilations=(1, 2)).init(KEY)
    before, after = (
        nll(MODEL, net, unseen, KEY).mean() for net in (fresh, pretrained())
    )
    assert before > np.log(4) - 0.01 and after < np.log(4) - 0.002


def test_the_bound_with_all_numbers_of_masks_varies_little():
    letters = sequences(20)
    bounds = [
        nll(MODEL, pretrained(), letters, jax.random.key(k), LENGTH) for k in (0, 1)
    ]
    few = [nll(MODEL, pretrained(), letters, jax.random.key(k), 1) for k in (0, 1)]
    whole, single = (np.abs(a - b).mean() for a, b in (bounds, few))
    assert whole < 0.5 * single and bounds[0].shape == (20,)


def test_labels_are_learnt_and_dropped():
    """Two classes of constant sequences, told apart by the label alone."""
    letters = np.repeat(np.array([[0], [3]]), LENGTH, axis=1).repeat(40, axis=0)
    labels = np.arange(2).repeat(40)
    settings = Pretraining(model=MODEL, steps=150, batch_size=16, both_strands=False)
    net = pretrain(
        settings,
        Size(width=16, dilations=(1,), labels=2).init(KEY),
        letters,
        KEY,
        labels,
    )
    for label, base in [(0, 0), (1, 3)]:
        made = MODEL.sample(net, KEY, np.array([[label]]), 32)
        assert (np.asarray(made) == base).mean() > 0.9
    free = np.asarray(MODEL.sample(net, KEY, np.array([[2]]), 32))
    assert 0.1 < (free == 0).mean() < 0.9


@pytest.mark.parametrize(
    "changes, letters, reason",
    [
        (
            {"batch_size": 700},
            sequences(),
            "600 sequences are fewer than a batch of 700",
        ),
        ({"steps": 0}, sequences(), "steps and batch_size"),
        ({"decay": 1.0}, sequences(), "decay"),
        ({}, np.zeros((600, 5), int), "sequences have 5 bases, the model has 16"),
    ],
)
def test_what_cannot_be_learnt_gets_one_line(changes, letters, reason):
    settings = Pretraining(**{"model": MODEL, "steps": 1, **changes})
    with pytest.raises(SimpoError, match=reason) as error:
        pretrain(settings, SIZE.init(KEY), letters, KEY)
    assert is_one_line(error)


def test_models_come_back_as_they_were(tmp_path):
    model = SequenceModel(SIZE, MODEL, pretrained())
    again = load_model(model.save(tmp_path / "model"))
    assert (again.size, again.diffusion) == (SIZE, MODEL)
    jax.tree.map(np.testing.assert_array_equal, again.net, model.net)


def test_damaged_models_get_one_line(tmp_path):
    folder = SequenceModel(SIZE, MODEL, pretrained()).save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for change, reason in [
        ({"kind": "policy"}, "is no model of sequences"),
        ({"format": 99}, "needs a newer simpo"),
        ({"size": {"width": 0}}, "is damaged"),
        ({"size": {"width": 24, "dilations": [1, 2]}}, "does not fit"),
        ({"diffusion": {"length": "long"}}, "is damaged"),
    ]:
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(SimpoError, match=reason) as error:
            load_model(folder)
        assert is_one_line(error)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(SimpoError, match="is damaged"):
        load_model(folder)


def test_the_demonstration(tmp_path):
    """In a process of its own, as a user's command is."""
    words = ["--sequences", "1200", "--pretraining-steps", "10", "--rounds", "2"]
    words += ["--samples", "16", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "simpo", "dna", "demo", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    folder = tmp_path / "dna-demo"
    assert "reward against truth" in done.stdout and "Sqr. Neg." in done.stdout
    with (folder / "designs.csv").open(newline="") as file:
        rows = {row["set"]: row for row in csv.DictReader(file)}
    assert list(rows)[2:] == list(METHODS)
    assert {row["oracle_calls"] for row in list(rows.values())[2:]} == {str(2 * 64)}
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == 4 and "http" not in page
    usage = MotifUsage.read(folder / "motif_hits.csv")
    assert set(usage.motifs) == {"HNF4A", "HNF1A", "FOXA", "CEBP"}
    assert list(usage.rates) == list(rows) and (folder / "motifs.svg").is_file()
    made = read_sequences(folder / "Square.csv")
    assert made.tokens.shape == (16, 60)
    assert load_model(folder / "models" / "sqrneg").diffusion.length == 60


@pytest.mark.parametrize(
    "words, reason",
    [
        (["dna"], None),
        (["dna", "dmeo"], "did you mean 'demo'"),
        (["dna", "demo", "--rounds", "0"], "rounds must be at least 1"),
        (["dna", "demo", "--sequences", "100"], "at least"),
    ],
)
def test_mistakes_get_one_line(capsys, monkeypatch, words, reason):
    monkeypatch.setattr("simpo.cli.studies.keep_compiled", lambda: None)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert reason is None or (reason in error and error.count("\n") == 1)
