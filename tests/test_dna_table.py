import contextlib
import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from planted import MODEL, Planted, pretrained, sequences
from simpo.cli import main
from simpo.dna.constraints import Template, satisfied
from simpo.dna.data import Sequences, read_sequences, write_sequences
from simpo.dna.drakes import Drakes
from simpo.dna.finetune import SignedTuning
from simpo.dna.grammar import liver
from simpo.dna.guidance import BestOf, Guide, Plain
from simpo.dna.motifs import read_meme
from simpo.dna.objective import Objective
from simpo.dna.usage import MotifUsage
from simpo.engines.jobs import Ended
from simpo.experiments.designs import Judges
from simpo.experiments.dna_cells import Bench, Cell, Making
from simpo.experiments.dna_methods import (
    ABLATION,
    CLAIMS,
    METHODS,
    PUBLISHED,
    compared_with,
    design,
)
from simpo.experiments.dna_results import Interval, Line, above
from simpo.experiments.dna_study import TUNING_SEEDS, choose
from simpo.experiments.dna_table import DnaAblation, DnaTable
from simpo.experiments.dna_world import (
    SETUPS,
    World,
    describe,
    make_world,
    read_elements,
)
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
    assert floors["Lin. Neg., floor -0.3"] == -0.3 and floors["SiMPO-Linear"] == 0
    constrained = {name for name, method in ABLATION.items() if method.constrained}
    assert constrained == {name for name in ABLATION if name.endswith("constrained")}
    assert METHODS["WD1"].make(world, 1.0).model.masks == 1
    assert set(PUBLISHED) <= set(METHODS)
    assert {name for pair in CLAIMS for name in pair} <= set(METHODS)


def test_claims_follow_the_published_order():
    for better, worse in CLAIMS:
        assert PUBLISHED[better] > PUBLISHED[worse]


def test_variants_are_compared_with_what_has_the_same_change():
    pairs = {name: compared_with(name) for name in ABLATION}
    assert all(
        other in ABLATION and other != name
        for name, others in pairs.items()
        for other in others
    )
    floor = (EXP, "SiMPO-Linear", "Exp, centred")
    assert pairs["SiMPO-Lin. Neg."] == pairs["Lin. Neg., floor -3"] == floor
    assert pairs["Lin. Neg., KL 0.5"] == ("Exp, KL 0.5",)
    assert pairs["Square, constrained"] == ("Exp, constrained",)
    assert pairs["Sqr. Neg., constrained"] == (
        *("Exp, constrained", "Square, constrained"),
    )
    assert pairs["Sqr. Neg., many masks"] == ("SiMPO-Sqr. Neg.",)
    for name in ("Exp, KL 0.5", "Exp, centred", "SiMPO-Linear"):
        assert pairs[name] == (EXP,)
    assert not pairs["Exp, constrained"] and not pairs[EXP]


def test_constrained_methods_are_scored_by_what_can_be_synthesised(world):
    class Seen(Planted):
        def __call__(self, tokens):
            kept.append(satisfied(world.conditions, tokens).mean())
            return super().__call__(tokens)

    kept, asked = [], dataclasses.replace(world, reward=Seen())
    tell = [].append
    free, bound = (
        design(ABLATION[name], asked, 1e-2, 0, tell).letters
        for name in (EXP, "Exp, constrained")
    )
    assert 0 < np.mean(kept) < 1 and (free != bound).any()
    assert world.conditions[0].window == MODEL.length
    whole = dataclasses.replace(world, template=Template(np.zeros(90, np.int8), 30, 38))
    assert whole.length == 90 and whole.conditions[0].window == 60


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


def test_pace_is_the_mean_of_a_curve_over_rounds():
    curves = [np.array([0.0, 1.0, 2.0]), np.array([2.0, 2.0, 2.0])]
    assert Line(None, None, {}, []).pace is None
    assert Line(None, None, {}, curves).pace == Interval.of([1.0, 2.0])


def test_orders_are_judged_by_pairs_of_seeds():
    lines = {"a": line(1.0, 2.0, 3.0), "b": line(0.5, 1.4, 2.5), "c": line(9.0)}
    shown, opposite = above("a", "b", lines), above("b", "a", lines)
    assert (shown.word, opposite.word) == ("shown", "opposite")
    assert "3 seeds" in shown.evidence
    assert above("a", "c", lines).word == above("a", "d", lines).word == "not shown"
    noisy = {"a": line(1.0, 2.0, 3.0), "b": line(2.0, 1.0, 2.5)}
    assert above("a", "b", noisy).word == "not shown"


def test_methods_of_two_studies_share_a_folder_only_if_they_are_the_same():
    every = {**METHODS, **ABLATION}
    folders = {Cell(name, 1e-3, 0).folder(Path("cells")) for name in every}
    assert len(folders) == len(every)
    assert all(ABLATION[name] is METHODS[name] for name in METHODS if name in ABLATION)


class Rows(Bench):
    """A bench that knows what sets are worth, by rate and seed."""

    def __init__(self, rows):
        self.__dict__["rows"] = rows

    def judged(self, cell):
        score = self.rows.get((cell.rate, cell.seed))
        return None if score is None else {"reward": score}


def test_a_rate_is_the_best_on_average_and_one_that_failed_comes_last():
    scores = {1e-4: (0.0, 0.0, 9.0), 1e-3: (2.0, 2.0, 2.0), 1e-2: (4.0, 4.0, 0.5)}
    rows = {
        (rate, seed): score
        for rate, found in scores.items()
        for seed, score in zip(TUNING_SEEDS, found, strict=True)
    }
    rates = tuple(scores)
    assert choose("SiMPO", rates, Rows(rows)) == 1e-4
    rows.pop((1e-4, TUNING_SEEDS[0]))
    assert choose("SiMPO", rates, Rows(rows)) == 1e-2
    assert choose("SiMPO", rates, Rows({(1e-3, TUNING_SEEDS[1]): 0.0})) == 1e-3
    assert (
        choose("SiMPO", rates, Rows({})) == choose("SiMPO", (1e-4,), Rows({})) == 1e-4
    )


def test_a_set_is_made_once_and_all_its_rounds_are_told(world, tmp_path):
    judges = Judges({"reward": Planted(), "evaluation": Planted()}, sequences(50, 1),
                    MODEL, pretrained())  # fmt: skip
    made, told = Bench(world, judges, METHODS, tmp_path), []

    class From:
        def bench(self):
            return made

    making = Making(From(), Cell(EXP, 1e-3, 0))
    for _ in range(2):
        folder = making.make(told.append)
        assert sum(told) == SETUP.rounds and not told.clear()
    assert folder == tmp_path / "rl-d2-simpo-exp" / "0.001" / "0"
    assert read_sequences(folder / "sequences.csv").tokens.shape == (40, MODEL.length)
    assert not list(tmp_path.rglob("*.tmp")) and making.name == f"{EXP} 0.001 #0"
    assert made.judged(Cell(EXP, 1e-3, 1)) is None


def test_an_ablation_has_one_rate_for_all_and_a_table_the_best_for_each():
    tuned, guide = METHODS[EXP], METHODS["CG"]
    laptop = SETUPS["laptop"].rates
    assert DnaAblation().rates(tuned) == (3e-3,)
    assert DnaAblation(rate=1e-3).rates(tuned) == (1e-3,)
    assert DnaTable().rates(tuned) == laptop
    assert DnaTable(rate=2e-3).rates(tuned) == (2e-3,)
    assert DnaTable(rate=2e-3).rates(guide) == DnaTable().rates(guide) == laptop[:1]


def test_sizes_of_a_scale_can_be_changed():
    setup = DnaTable(scale="paper", rounds=9, pretraining_steps=7).setup
    assert (setup.rounds, setup.pretraining_steps) == (9, 7)
    assert setup.size == SETUPS["paper"].size == DnaTable(scale="paper").setup.size
    assert DnaTable(scale="paper").setup == SETUPS["paper"]


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


def command(files, out, *words, figure="dna"):
    paths = {"data": files / "elements.csv", "motifs": files / "motifs.meme"}
    options = {"scale": "smoke", "label": "label", "out": out, **paths}
    given = [word for name, x in options.items() for word in (f"--{name}", str(x))]
    return main(["reproduce", figure, *given, *words])


def all_fail(jobs, advance, at_once):
    """Instead of processes."""
    return (Ended(job, None, "lower the rate") for job in jobs)


@pytest.fixture(scope="module")
def first(files, tmp_path_factory):
    """Where the table of two methods and two seeds is, and what was printed."""
    out, text = tmp_path_factory.mktemp("first"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        patch.setattr("simpo.cli.studies.keep_compiled", lambda: None)
        patch.setattr("simpo.cli.reproduce.one_device_per_core", lambda: None)
        assert command(files, out, "--methods", "Pretrained", EXP, "--seeds", "2") == 0
    return out, text.getvalue()


@pytest.fixture
def table(first, tmp_path):
    """A copy of it, to be gone on with."""
    return shutil.copytree(first[0], tmp_path / "out")


def sets(out):
    """Files of designed sequences, and when they were made."""
    made = sorted((out / "dna" / "smoke" / "cells").rglob("sequences.csv"))
    return [(path, path.stat().st_mtime_ns) for path in made]


def test_the_table_of_a_small_world(first, files):
    out, text = first
    assert f"] {EXP} is above Pretrained" in text and "evaluation: " in text
    folder = out / "dna" / "smoke"
    for name in ("report.html", "report.txt", "medians.png", "rounds.svg"):
        assert (folder / name).stat().st_size > 500
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == 3 and "Hits of motifs" in page
    with (folder / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"]) for row in rows] == [
        (name, seed) for name in ("Pretrained", EXP) for seed in "01"
    ]
    assert all(0 <= float(row["satisfy"]) <= 1 for row in rows)
    budget = SETUPS["smoke"].rounds * SETUPS["smoke"].group
    assert rows[-1]["oracle_calls"] == str(budget)
    usage = MotifUsage.read(folder / "motif_hits.csv")
    assert list(usage.rates) == ["natural", "Pretrained", EXP]
    assert usage.motifs == tuple(m.name for m in read_meme(files / "motifs.meme"))


def test_whole_elements_are_designed_where_there_is_no_insert(files, tmp_path):
    setup = dataclasses.replace(SETUPS["smoke"], insert=None, pretraining_steps=2)
    elements = read_elements(files / "elements.csv", "label")
    none = elements.rows.tokens[:0]
    given = (setup, elements, none, files / "motifs.meme", tmp_path, lambda *_: None)
    world = make_world(*given)
    assert world.length == world.diffusion.length == 36
    letters = design(METHODS["SiMPO-Sqr. Neg."], world, 1e-4, 0, [].append).letters
    assert letters.shape == (setup.samples, 36)
    np.testing.assert_array_equal(world.template.place(letters), letters)
    assert "on 80 unseen sequences" in list(describe(world, elements))[-1]


def test_sets_that_are_there_are_judged_again_at_most(table, files, capsys):
    folder, before = table / "dna" / "smoke", sets(table)
    own = sorted((folder / "cells" / "pretrained").rglob("motif_hits.csv"))

    # One set was judged by a version without motifs, one has other numbers.
    text, row = own[0].read_text(), own[0].parent / "row.json"
    by = json.loads(row.read_text())["by"]
    fewer = [judge for judge in by if judge != "motif_hits.csv"]
    row.write_text(json.dumps(json.loads(row.read_text()) | {"by": fewer}))
    own[0].unlink()
    other, names = np.array([1.0, 2.0, 3.0, 4.0]), MotifUsage.read(own[1]).motifs
    MotifUsage(names, {"Pretrained": other}).write(own[1])

    assert command(files, table, "--report", "--seeds", "2") == 0
    assert sets(table) == before
    assert own[0].read_text() == text and len(fewer) == len(by) - 1
    seeds = [MotifUsage.read(path).rates["Pretrained"] for path in own]
    found = MotifUsage.read(folder / "motif_hits.csv").rates["Pretrained"]
    np.testing.assert_allclose(found, np.mean(seeds, axis=0), rtol=1e-5)
    np.testing.assert_array_equal(seeds[1], other)
    assert "SiMPO-Square" not in capsys.readouterr().out.split("[not shown]")[0]


def test_a_set_that_fails_takes_no_other_with_it(table, files, capsys, monkeypatch):
    monkeypatch.setattr("simpo.engines.local.train_all", all_fail)
    assert command(files, table, "--methods", EXP, "CG", "--seeds", "2") == 0
    text = capsys.readouterr().out
    assert "not made: CG 0.0005 #1: lower the rate" in text and EXP in text


def test_another_study_has_what_they_have_in_common(table, files, monkeypatch):
    monkeypatch.setattr("simpo.engines.local.train_all", None)
    given = ("--methods", EXP, "--rate", "0.0005", "--seeds", "2")
    assert command(files, table, *given, figure="dna-ablation") == 0
    assert (table / "dna-ablation" / "smoke" / "report.html").exists()


def test_a_world_of_other_files_is_not_mixed_with(table, files, capsys):
    home = table / "dna" / "smoke" / "world" / "made.json"
    home.write_text(json.dumps({**json.loads(home.read_text()), "label": "other"}))
    assert command(files, table) == 2
    assert "made of other files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, reason",
    [
        ([], "give --data"),
        (["--data", "nowhere.csv", "--motifs", "x.meme"], "no file nowhere.csv"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--jobs", "0"], "jobs must be at least 1"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--rate", "-1"], "rate must be positive, not -1"),
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
