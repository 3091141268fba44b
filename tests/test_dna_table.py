import csv
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from planted import MODEL, Planted, pretrained, sequences
from simpo.cli import main
from simpo.dna.data import Sequences, write_sequences
from simpo.dna.drakes import Drakes
from simpo.dna.finetune import SignedTuning
from simpo.dna.grammar import liver
from simpo.dna.guidance import BestOf, Guide, Plain
from simpo.dna.motifs import read_meme
from simpo.dna.objective import Objective
from simpo.dna.usage import MotifUsage
from simpo.experiments.dna_methods import ABLATION, CLAIMS, METHODS, PUBLISHED, design
from simpo.experiments.dna_results import Interval, Line, above
from simpo.experiments.dna_study import Cell
from simpo.experiments.dna_world import SETUPS, World, read_elements
from simpo.types import SimpoError

pytestmark = pytest.mark.usefixtures("compiled_quickly")

EXP = "RL-D2 = SiMPO-Exp"
SETUP = dataclasses.replace(
    SETUPS["smoke"], group=32, rounds=2, samples=40, soft_steps=2, inner_updates=1
)


@pytest.fixture(scope="module")
def world():
    return World(
        setup=SETUP,
        reward=Planted(),
        evaluation=Planted(),
        template=None,
        natural=sequences(50, seed=1),
        motifs=(),
        diffusion=MODEL,
        net=pretrained(),
        labelled=pretrained(),
    )


def test_every_method_is_made_as_its_name_says(world):
    for name, method in {**METHODS, **ABLATION}.items():
        made = method.make(world, 2e-4)
        assert isinstance(made, Guide) != method.tuned
        if method.tuned:
            made.check()
            assert made.learning_rate == 2e-4
        assert isinstance(made, Drakes) == name.startswith("DRAKES")
    floors = {n: getattr(m.make(world, 1.0).weighting, "floor", None)
              for n, m in ABLATION.items()}  # fmt: skip
    assert floors["Linear, floor -0.3"] == -0.3 and floors["Linear"] == 0
    assert METHODS["WD1"].make(world, 1.0).model.masks == 1
    assert set(PUBLISHED) <= set(METHODS)
    assert {name for pair in CLAIMS for name in pair} <= set(METHODS)


def test_claims_follow_the_published_order():
    for better, worse in CLAIMS:
        assert PUBLISHED[better] > PUBLISHED[worse]


def test_rl_d2_is_simpo_with_exponential(world):
    made = METHODS[EXP].make(world, 1e-3)
    assert isinstance(made, SignedTuning) and type(made.weighting).__name__ == (
        "Exponential"
    )


def test_equal_budgets_and_seeds(world):
    told = []
    sets = {
        seed: design(METHODS[EXP], world, 1e-3, seed, told.append) for seed in (0, 1)
    }
    again = design(METHODS[EXP], world, 1e-3, 0, told.append)
    assert sum(told) == 3 * SETUP.rounds
    assert len(sets[0].curve) == SETUP.rounds
    assert sets[0].letters.shape == (SETUP.samples, MODEL.length)
    assert sets[0].calls.oracle == SETUP.rounds * SETUP.group
    np.testing.assert_array_equal(sets[0].letters, again.letters)
    assert (sets[0].letters != sets[1].letters).any()
    plain = design(METHODS["Pretrained"], world, 1e-3, 0, told.append)
    assert plain.calls.oracle == 0 and not len(plain.curve)


def test_the_best_of_many_are_the_best_of_those_drawn():
    objective = Objective(Planted())
    kept = BestOf(4).sample(MODEL, pretrained(), objective, jax.random.key(0), 16)
    keys = jax.random.split(jax.random.key(0), 4)
    drawn = np.concatenate(
        [Plain().sample(MODEL, pretrained(), Objective(Planted()), k, 16) for k in keys]
    )
    best = np.sort(Planted()(drawn.astype(np.int8)))[-16:]
    np.testing.assert_array_equal(np.sort(objective.oracle(kept.astype(np.int8))), best)
    assert objective.calls.oracle == 64
    assert objective.calls.network == 64 * MODEL.denoising_steps


def test_intervals_are_students():
    mean, low, high = Interval.of([1.0, 2.0, 4.0])
    half = 4.302652730 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    assert (mean, low, high) == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half))
    assert str(Interval.of([1.5])) == "1.50" and np.isnan(Interval.of([1.5]).low)


def line(*scores):
    sets = {seed: {"evaluation": score} for seed, score in enumerate(scores)}
    return Line(None, None, sets, [])


def test_orders_are_judged_by_pairs_of_seeds():
    lines = {"a": line(1.0, 2.0, 3.0), "b": line(0.5, 1.4, 2.5), "c": line(9.0)}
    shown, opposite = above("a", "b", lines), above("b", "a", lines)
    assert (shown.word, opposite.word) == ("shown", "opposite")
    assert "3 seeds" in shown.evidence
    assert above("a", "c", lines).word == above("a", "d", lines).word == "not shown"
    noisy = {"a": line(1.0, 2.0, 3.0), "b": line(2.0, 1.0, 2.5)}
    assert above("a", "b", noisy).word == "not shown"


def test_folders_of_cells_differ():
    for names in (METHODS, ABLATION):
        folders = {Cell(name, 1e-3, 0).folder(Path("cells")) for name in names}
        assert len(folders) == len(names)


# --- as a user --------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Elements with labels, parts and marks, and motifs, of the planted grammar."""
    folder = tmp_path_factory.mktemp("dna")
    grammar, rng = liver(36), np.random.default_rng(0)
    tokens = grammar.sample(rng, 400)
    activity = np.asarray(grammar.activity(jax.nn.one_hot(tokens, 4)))
    rows = {"part": np.where(np.arange(400) % 2, "A", "B")}
    rows["val"] = np.where(np.arange(400) % 5 == 0, "1", "0")
    names = tuple(f"e{i}" for i in range(400))
    labels = (activity + 0.1 * rng.normal(size=400)).astype(np.float32)
    write_sequences(folder / "elements.csv", Sequences(names, tokens, labels, rows))
    text = ["MEME version 4", "", "ALPHABET= ACGT", ""]
    for motif in grammar.motifs:
        text += [f"MOTIF {motif.name}", f"letter-probability matrix: w= {motif.width}"]
        text += [" ".join(f"{x:.6f}" for x in row) for row in motif.probabilities]
        text += [""]
    (folder / "motifs.meme").write_text("\n".join(text))
    return folder


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Without what a command sets in a process of its own."""
    monkeypatch.setattr("simpo.cli.studies.keep_compiled", lambda: None)
    monkeypatch.setattr("simpo.cli.reproduce.one_device_per_core", lambda: None)


def command(files, out, *words):
    paths = {"data": files / "elements.csv", "motifs": files / "motifs.meme"}
    options = {"scale": "smoke", "label": "label", "out": out, **paths}
    given = [word for name, x in options.items() for word in (f"--{name}", str(x))]
    return main(["reproduce", "dna", *given, *words])


def test_the_table_of_a_small_world(files, tmp_path, capsys):
    assert command(files, tmp_path, "--methods", "Pretrained", EXP, "--seeds", "2") == 0
    text = capsys.readouterr().out
    assert f"] {EXP} is above Pretrained" in text and "evaluation: " in text
    folder = tmp_path / "dna" / "smoke"
    for name in ("report.html", "report.txt", "medians.png", "rounds.svg"):
        assert (folder / name).stat().st_size > 500
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == 3 and "Hits of motifs" in page
    with (folder / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"]) for row in rows] == [
        (name, seed) for name in ("Pretrained", EXP) for seed in "01"
    ]
    budget = SETUPS["smoke"].rounds * SETUPS["smoke"].group
    assert rows[-1]["oracle_calls"] == str(budget)
    usage = MotifUsage.read(folder / "motif_hits.csv")
    assert list(usage.rates) == ["natural", "Pretrained", EXP]
    assert usage.motifs == tuple(m.name for m in read_meme(files / "motifs.meme"))
    own = sorted((folder / "cells" / "pretrained").rglob("motif_hits.csv"))
    made = sorted((folder / "cells").rglob("sequences.csv"))
    before = [path.stat().st_mtime_ns for path in made]

    # One set was judged by a version without motifs, one has other numbers.
    text, row = own[0].read_text(), own[0].parent / "row.json"
    by = json.loads(row.read_text())["by"]
    row.write_text(json.dumps(json.loads(row.read_text()) | {"by": by[:-1]}))
    own[0].unlink()
    other = np.array([1.0, 2.0, 3.0, 4.0])
    MotifUsage(usage.motifs, {"Pretrained": other}).write(own[1])

    # Sets that are there are not made again; a report makes none.
    assert command(files, tmp_path, "--report", "--seeds", "2") == 0
    assert [p.stat().st_mtime_ns for p in made] == before
    assert own[0].read_text() == text and by[-1] == "motif_hits.csv"
    seeds = [MotifUsage.read(path).rates["Pretrained"] for path in own]
    found = MotifUsage.read(folder / "motif_hits.csv").rates["Pretrained"]
    np.testing.assert_allclose(found, np.mean(seeds, axis=0), rtol=1e-5)
    np.testing.assert_array_equal(seeds[1], other)
    assert "SiMPO-Square" not in capsys.readouterr().out.split("[not shown]")[0]

    # A world of other files is not mixed with.
    home = folder / "world" / "made.json"
    home.write_text(json.dumps({**json.loads(home.read_text()), "label": "other"}))
    assert command(files, tmp_path) == 2
    assert "made of other files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, reason",
    [
        ([], "give --data"),
        (["--data", "nowhere.csv", "--motifs", "x.meme"], "no file nowhere.csv"),
        (["--seeds", "0"], "seeds must be at least 1"),
    ],
)
def test_mistakes_get_one_line(words, reason, tmp_path, capsys):
    assert main(["reproduce", "dna", "--out", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_unknown_methods_are_named(files, tmp_path, capsys):
    assert command(files, tmp_path, "--methods", "Expo") == 2
    assert "unknown method 'Expo'; choose from Pretrained" in capsys.readouterr().err


def test_elements_need_parts_and_marks(tmp_path):
    tokens = np.zeros((3, 8), np.int8)
    labels = np.arange(3, dtype=np.float32)
    names = ("a", "b", "c")
    for columns, reason in (
        ({}, "has no column part"),
        ({"part": np.array(["A", "B", "C"])}, "part is A or B, not 'C'"),
        ({"part": np.array(["A", "B", "A"])}, "has no column val"),
    ):
        path = tmp_path / "elements.csv"
        write_sequences(path, Sequences(names, tokens, labels, columns))
        with pytest.raises(SimpoError, match=reason):
            read_elements(path, "label")
