"""`simpo dna` on a file of one's own: the chain of commands, and their refusals."""

import contextlib
import csv
import io
import itertools
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from simpo.cli import main
from simpo.dna.constraints import Template
from simpo.dna.data import Sequences, decode, read_sequences, write_sequences
from simpo.dna.external import FromGrammar
from simpo.dna.grammar import liver
from simpo.dna.motifs import read_meme
from simpo.dna.ridge import train_ridge
from simpo.dna.scan import hits
from simpo.dna.storage import load_oracle
from simpo.dna.store import load_model
from simpo.dna.usage import MotifUsage
from simpo.experiments.sequences import pages, pretraining, resuming, training, tuning
from simpo.experiments.sequences.inputs import STATE
from simpo.experiments.sequences.options import Tuned
from simpo.generative.masked import AllMasked, ExactMasks, MaskedDiffusion
from simpo.temperature import EntropyTarget, Fixed
from simpo.types import SimpoError
from simpo.weighting import Exponential, Power

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LENGTH, COUNT = 24, 600
NET = ["--width", "8", "--dilations", "1", "--denoising-steps", "6"]
PRETRAIN = [*NET, "--steps", "30", "--batch-size", "32"]
TUNE = ["--rounds", "2", "--group", "8", "--samples", "8", "--inner-updates", "1"]
FUNCTIONS = """
import numpy as np
def strong(tokens): return ((tokens == 1) | (tokens == 2)).mean(1)
def nothing(tokens): return np.full(len(tokens), np.nan)
def table(tokens): return np.zeros((len(tokens), 2))
def angry(tokens): raise ValueError("no such luck")
number = 3
"""


def dna(*words):
    """The exit code of a command, what it printed, and its error."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = main(["dna", *map(str, words)])
    return SimpleNamespace(code=code, out=out.getvalue(), error=error.getvalue())


def done(*words):
    """What a command printed that ended well."""
    found = dna(*words)
    assert found.code == 0, found.error
    return found.out


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with data, motifs and functions, worked in, and what commands said."""
    folder = tmp_path_factory.mktemp("world")
    rng, grammar = np.random.default_rng(0), liver(LENGTH)
    letters = grammar.sample(rng, COUNT)
    activity = FromGrammar("truth", grammar)(letters) + 0.1 * rng.normal(size=COUNT)
    columns = {
        "activity": activity.round(3),
        "part": np.array(["train", "train", "train", "val", "test"] * (COUNT // 5)),
        "odd": np.array(["train"] * (COUNT - 1) + ["other"]),
        "some": np.array(["", *map(str, activity[1:].round(2))]),
        "open": (activity > 0.5).astype(int),
    }
    names = tuple(f"s{i}" for i in range(COUNT))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("simpo.backend.keep_compiled", lambda: None)
        patch.setattr(sys, "path", [*sys.path])
        write_sequences("data.csv", Sequences(names, letters, None, columns))
        (folder / "functions.py").write_text(FUNCTIONS)
        with (folder / "motifs.meme").open("w") as file:
            file.write("MEME version 4\n\nALPHABET= ACGT\n")
            for motif in grammar.motifs:
                file.write(f"MOTIF {motif.name}\nletter-probability matrix:\n")
                file.writelines(
                    " ".join(map(str, row)) + "\n" for row in motif.probabilities
                )
        backbone = rng.integers(0, 4, 40)
        write_sequences(
            "backbones.fasta", Sequences(("locus",), backbone[None].astype(np.int8))
        )
        said = {
            "pretrain": done("pretrain", "data.csv", "--out", "model", *PRETRAIN),
            "oracle": done(
                *("oracle", "data.csv", "--label", "activity", "--out", "reward"),
                *("--motifs", "motifs.meme"),
            ),
        }
        said["finetune"] = done(
            *("finetune", "model", "--oracle", "reward", "--out", "tuned", *TUNE),
            *("--longest-run", "4", "--diversity", "0.1"),
        )
        said["sample"] = done(
            *("sample", "tuned", "--count", "8", "--batch-size", "8"),
            *("--oracle", "reward", "--out", "samples.csv"),
            *("--gc", "0.3", "0.7", "--distance", "0.5", "--longest-run", "3"),
        )
        said["evaluate"] = done(
            *("evaluate", "samples.csv", "tuned/after.csv", "--model", "model"),
            *("--oracles", "reward=reward", "strong=functions:strong"),
            *("--bounds", "0", "1", "--natural", "data.csv", "--label", "activity"),
            *("--top", "0.0133", "--motifs", "motifs.meme", "--out", "judged"),
        )
        said["report"] = done("report", "tuned", "judged", "samples.csv")
        yield SimpleNamespace(
            folder=folder, said=said, letters=letters, backbone=backbone
        )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_pretraining_is_measured_on_other_clusters(world):
    model = load_model(world.folder / "model")
    assert model.diffusion.length == LENGTH and model.size.width == 8
    found = json.loads((world.folder / "model" / "training.json").read_text())
    assert found["rows_learnt"] + found["rows_held_out"] == COUNT
    assert found["rows_held_out"] == pytest.approx(COUNT / 10, rel=0.4)
    shares = np.bincount(world.letters.ravel(), minlength=4) / world.letters.size
    entropy = -(shares * np.log(shares)).sum()
    assert found["composition"] == pytest.approx(entropy, abs=0.02)
    said = world.said["pretrain"]
    assert f"{found['bound']:.4f} nats per base" in said
    assert f"{found['composition']:.4f} by the composition" in said
    assert rows(world.folder / "model" / "bound.csv")[-1]["update"] == "30"


def test_an_oracle_is_saved_with_its_calibration(world):
    assert load_oracle(world.folder / "reward").name == "reward"
    found = json.loads((world.folder / "reward" / "training.json").read_text())
    assert sum(found["rows"].values()) == COUNT and found["rows"]["test"] > 30
    assert found["calibration"]["pearson"] > 0.7  # made by the very motifs
    text = (world.folder / "reward" / "calibration.txt").read_text()
    assert text in world.said["oracle"] and "Pearson" in text
    assert (world.folder / "reward" / "calibration.png").stat().st_size > 5_000


def test_finetuning_leaves_model_rounds_and_sequences(world):
    folder = world.folder / "tuned"
    table = rows(folder / "rounds.csv")
    assert [row["oracle_calls"] for row in table] == ["8", "16"]
    assert "weight_min" in table[0] and (folder / "rounds.png").is_file()
    assert json.loads((folder / "status.json").read_text()) == {
        "state": "done",
        "rounds": 2,
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["wanted"]["longest_run"] == 4 and config["method"] == "SqrNeg"
    assert json.loads((folder / "env.json").read_text())["packages"]["jax"]
    before, after = (load_model(f) for f in (world.folder / "model", folder / "model"))
    assert before.diffusion == after.diffusion
    assert not np.array_equal(before.net.head.weight, after.net.head.weight)
    said = world.said["finetune"]
    assert "Sqr. Neg.: 2 rounds, 16 oracle calls" in said and "satisfy" in said
    for name in ("before", "after"):
        written = read_sequences(folder / f"{name}.csv")
        scores = load_oracle(world.folder / "reward")(written.tokens)
        found = written.columns["score"].astype(float)
        np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-5)
        assert f"{np.median(scores):.3f}" in said


def test_samples_satisfy_what_was_wanted(world):
    found = read_sequences(world.folder / "samples.csv")
    assert found.tokens.shape == (8, LENGTH) and "kept     8" in world.said["sample"]
    share = ((found.tokens == 1) | (found.tokens == 2)).mean(1)
    assert (share >= 0.3).all() and (share <= 0.7).all()
    assert not any(4 * base in decode(x) for x in found.tokens for base in "ACGT")
    differ = (found.tokens[:, None] != found.tokens).mean(-1)[np.triu_indices(8, 1)]
    assert differ.min() >= 0.5
    assert "broke 'runs of at most 3 equal bases'" in world.said["sample"]


def test_evaluation_is_a_row_per_set(world):
    table = rows(world.folder / "judged" / "designs.csv")
    assert [row["set"] for row in table] == ["natural", "samples", "after"]
    assert table[0]["sequences"] == "8" and float(table[0]["distance"]) < 0.3
    assert float(table[0]["kmer_correlation"]) == pytest.approx(1)
    assert "oracle_calls" not in table[0] and "motif_correlation" in table[0]
    again = read_sequences(world.folder / "judged" / "samples.csv")
    strong = ((again.tokens == 1) | (again.tokens == 2)).mean(1)
    bounded = 0.5 + 0.5 * np.tanh((strong - 0.5) / 0.5)
    found = again.columns["score:strong"].astype(float)
    np.testing.assert_allclose(found, bounded, atol=1e-5)
    assert float(table[1]["strong"]) == pytest.approx(np.median(bounded), abs=1e-4)


def test_motif_hits_are_kept_for_every_set(world):
    usage = MotifUsage.read(world.folder / "judged" / "motif_hits.csv")
    motifs = read_meme("motifs.meme")
    assert usage.motifs == tuple(motif.name for motif in motifs)
    assert list(usage.rates) == ["natural", "samples", "after"]
    for name, rates in usage.rates.items():
        tokens = read_sequences(world.folder / "judged" / f"{name}.csv").tokens
        expected = 100 * hits(motifs, tokens).sum(0) / tokens.size
        np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_damaged_motif_hits_get_one_line(world, tmp_path):
    shutil.copytree(world.folder / "judged", tmp_path / "judged")
    (tmp_path / "judged" / "motif_hits.csv").write_text("motif,after\nHNF1A,few\n")
    found = dna("report", tmp_path / "judged", "--out", tmp_path / "page.html")
    assert found.code == 2 and found.error.count("\n") == 1
    assert "motif_hits.csv, line 2: after is 'few'" in found.error
    assert not (tmp_path / "page.html").exists()


def test_a_page_holds_everything(world):
    page = (world.folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == 4 and "http" not in page
    shown = ("Judges", "Rounds", "Motifs", "tuned/after", "judged/natural")
    for text in (*shown, "longest_run", "Hits of motifs per 100 bases"):
        assert text in page
    assert decode(read_sequences(world.folder / "samples.csv").tokens[0]) in page
    assert "1 sets" not in world.said["report"] and "6 sets" in world.said["report"]


def test_methods_are_known_by_name():
    def of(method, **changes):
        given = Tuned(model=None, oracle="", out=None, method=method, **changes)
        return tuning.method_of(given, MaskedDiffusion(length=LENGTH))

    drakes = of("DRAKES", path_kl=0.1, group=5)
    assert (drakes.path_kl, drakes.batch_size, drakes.learning_rate) == (0.1, 5, 1e-4)
    released, bound = of("WD1-released"), of("wd1", path_kl=0.2)
    assert of("SqrNeg", negative_masks=0.25).negative_masks == 0.25
    assert released.model.masking == AllMasked() and bound.path_kl == 0.2
    assert bound.model.masking == ExactMasks() and bound.temperature == Fixed(1.0)
    power = of("Power(exponent=3, floor=-0.5)", learning_rate=1e-3, target=0.7)
    assert power.weighting == Power(3.0, -0.5) and power.learning_rate == 1e-3
    assert power.temperature.target == EntropyTarget(0.7)
    assert of("Exp").weighting == of("RL-D2").weighting == Exponential()


@pytest.mark.parametrize(
    "name, floor", [("Lin. Neg.", -1.0), ("LinNeg", -1.0), ("linear", 0.0)]
)
def test_names_of_weightings_are_read_kindly(name, floor):
    assert tuning.weighting_of(name).floor == floor


def test_inserts_are_scored_in_their_place(world):
    words = ["--backbone", "backbones.fasta:locus", "--start", 8, "--stop", 32]
    bounds = ["--oracle", "functions:strong", "--bounds", "0", "1"]
    done("sample", "model", "--count", 8, "--batch-size", 8, "--out", "in.csv",
         *words, *bounds)  # fmt: skip
    found = read_sequences("in.csv")
    whole = Template(world.backbone, 8, 32).place(found.tokens)
    assert [decode(x) for x in whole] == list(found.columns["whole"])
    share = ((whole == 1) | (whole == 2)).mean(1)
    bounded = 0.5 + 0.5 * np.tanh((share - 0.5) / 0.5)
    scores = found.columns["score"].astype(float)
    np.testing.assert_allclose(scores, bounded, atol=1e-5)


def test_labels_and_a_window_reach_the_network(world, monkeypatch):
    given = {}

    def fresh(settings, state, letters, labels):
        given.update(letters=letters, labels=labels)
        yield state._replace(step=state.step + 1), 1.4

    monkeypatch.setattr(pretraining, "each_chunk", fresh)
    words = ["--label", "activity", "--good", "0.6", "--start", "4", "--stop", "20"]
    done("pretrain", "data.csv", "--out", "labelled", *words, *PRETRAIN)
    data = read_sequences("data.csv", label="activity")
    good = {
        row[4:20].tobytes(): y > 0.6
        for row, y in zip(data.tokens, data.labels, strict=True)
    }
    assert given["letters"].shape[1] == 16
    assert [good[x.tobytes()] for x in given["letters"]] == list(given["labels"])
    words = ["labelled", "--count", 8, "--batch-size", 8]
    done("sample", *words, "--guide", "CFG", "--out", "cfg.fasta")
    assert read_sequences("cfg.fasta").tokens.shape == (8, 16)
    refused = dna("finetune", "labelled", "--oracle", "reward", "--out", "t", *TUNE)
    assert "was pretrained with labels" in refused.error


def test_guides_ask_the_oracle(world):
    words = ["--count", 8, "--batch-size", 8, "--oracle", "reward", "--guide", "SMC"]
    said = done("sample", "model", *words, "--out", "smc.csv")
    assert f"{8 * 7} oracle calls, {8 * 7} network calls" in said


def test_networks_classify_the_rows_of_a_column(world, monkeypatch):
    given = {}

    def linear(tokens, labels, val, *, name, classify, **settings):
        given.update(settings, val=val)
        motifs = read_meme("motifs.meme")
        return train_ridge(motifs, tokens, labels, val, name=name, classify=classify)

    monkeypatch.setattr(training, "train_cnn", linear)
    said = done("oracle", "data.csv", "--label", "open", "--out", "open", "--classify",
                "--kind", "cnn", "--motifs", "motifs.meme", "--filters", "4",
                "--width", "4", "--epochs", "1", "--members", "2",
                "--split-column", "part")  # fmt: skip
    assert "trained on 360 rows, 120 for validation, 120 for the test" in said
    assert given["val"].sum() == 120 and not given["val"][:360].any()
    assert given["stem"].weight.shape[-1] == 4  # two motifs, forwards and backwards
    assert (given["shape"].width, given["fitting"].members) == (4, 2)
    area = float(said.partition("area under the ROC curve ")[2].split()[0])
    assert 0.8 < area <= 1


def stopping(module, name, error, after=1):
    """A loop of a module that an error ends after some turns."""
    loop = getattr(module, name)

    def some(*words):
        yield from itertools.islice(loop(*words), after)
        raise error

    return module, name, some


@pytest.mark.parametrize(
    "error, code, state, what",
    [
        (KeyboardInterrupt(), 130, "interrupted", "interrupted after 1 of 2 rounds"),
        (SimpoError("oracle x returned nan"), 2, "failed", "oracle x returned nan"),
    ],
)
def test_a_stopped_run_says_what_is_kept(world, monkeypatch, error, code, state, what):
    monkeypatch.setattr(*stopping(tuning, "each_round", error))
    words = ["finetune", "model", "--oracle", "reward", "--out", state, *TUNE]
    found = dna(*words)
    assert found.code == code and found.error.count("\n") == 1
    assert f"{what}; kept: the model after round 1, {state}/model" in found.error
    assert load_model(f"{state}/model").diffusion.length == LENGTH
    assert len(rows(world.folder / state / "rounds.csv")) == 1
    assert json.loads((world.folder / state / "status.json").read_text()) == {
        "state": state,
        "rounds": 1,
    }


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "data.csv", *PRETRAIN],
        ["finetune", "model", "--oracle", "reward", *TUNE],
    ],
)
def test_what_is_stopped_at_once_leaves_nothing(world, monkeypatch, words):
    stop = KeyboardInterrupt()
    monkeypatch.setattr(*stopping(pretraining, "each_chunk", stop, after=0))
    monkeypatch.setattr(*stopping(tuning, "each_round", stop, after=0))
    found = dna(*words, "--out", "gone")
    assert found.code == 130 and "interrupted after 0 of" in found.error
    assert "nothing is kept" in found.error and not (world.folder / "gone").exists()


OUT = ["--out", "drawn.csv"]
LONG = {
    "pretrain": ["pretrain", "data.csv", *PRETRAIN, "--steps", "120"],
    "finetune": ["finetune", "model", "--oracle", "reward", *TUNE, "--rounds", "4",
                 "--path-kl", "0.1", "--diversity", "0.1"],
    "drakes": ["finetune", "model", "--oracle", "reward", *TUNE, "--rounds", "4",
               "--method", "DRAKES", "--soft-steps", "2"],
}  # fmt: skip


@pytest.fixture(scope="module", params=LONG)
def whole(request, world):
    """Words of a command, and what it makes without a stop."""
    out = world.folder / f"whole-{request.param}"
    done(*LONG[request.param], "--out", out.name)
    return LONG[request.param], out


def same(one, other):
    """Whether two folders hold the same, but for their options and times."""
    names = {
        path.relative_to(one)
        for path in one.rglob("*")
        if path.suffix in (".csv", ".safetensors") and path.name != STATE
    }
    assert names
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_what_goes_on_ends_with_the_same_bytes(
    world, monkeypatch, whole, killed, request
):
    words, out = whole
    other = world.folder / request.node.callspec.id
    error = ZeroDivisionError() if killed else KeyboardInterrupt()
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "SAVE_EVERY", 0.0 if killed else 60.0)
        patch.setattr(*stopping(pretraining, "each_chunk", error, 2))
        patch.setattr(*stopping(tuning, "each_round", error, 3))
        if killed:
            with pytest.raises(ZeroDivisionError):
                dna(*words, "--out", other.name)
        else:
            assert "--resume goes on" in dna(*words, "--out", other.name).error
    assert "--resume goes on with it, --force" in dna(*words, "--out", other.name).error
    assert not list(world.folder.glob(".*.tmp"))
    if killed:
        assert f"no model {other.name} yet" in dna("sample", other.name, *OUT).error
    done(*words, "--out", other.name, "--resume")
    same(out, other)


def test_a_forced_run_that_is_killed_leaves_no_other_model(world, monkeypatch):
    done("pretrain", "data.csv", *PRETRAIN, "--out", "forced")
    words = [*LONG["pretrain"], "--out", "forced", "--force"]
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "SAVE_EVERY", 0.0)
        patch.setattr(*stopping(pretraining, "each_chunk", ZeroDivisionError(), 1))
        with pytest.raises(ZeroDivisionError):
            dna(*words)
    assert "no model forced yet" in dna("sample", "forced", *OUT).error
    done(*words[:-1], "--resume")
    assert load_model("forced").size.width == 8


def test_a_fine_tuning_does_not_go_on_with_another_oracle(world):
    train = ["oracle", "data.csv", "--motifs", "motifs.meme", "--out", "changing"]
    done(*train, "--label", "activity")
    words = ["finetune", "model", "--oracle", "changing", "--out", "faithful", *TUNE]
    done(*words)
    done(*train, "--label", "open", "--force")
    found = dna(*words, "--resume")
    assert found.code == 2 and found.error.count("\n") == 1
    assert "changing/model.safetensors is not what faithful was beg" in found.error


def test_what_is_done_goes_on_to_more(world, whole):
    words, out = whole
    length = {"pretrain": ("--steps", "50"), "finetune": ("--rounds", "3")}[words[0]]
    short = f"short-{out.name}"
    done(*words, *length, "--out", short)
    refused = dna(*words, length[0], "1", "--out", short, "--resume")
    assert refused.code == 2 and f"{length[0]} 1 is fewer" in refused.error
    done(*words, "--out", short, "--resume")
    same(out, world.folder / short)


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--out", "nowhere"], "nothing to go on with: no file nowhere/state.safet"),
        (["--out", "model", "--force"], "--resume goes on, --force begins anew"),
        (["--out", "model", "--width", "4"], "begun with --width 8, not 4"),
        (["--out", "changed"], "data.csv is not what changed was begun with"),
        (["--out", "damaged"], "damaged/state.safetensors is damaged"),
    ],
)
def test_what_cannot_go_on_gets_one_line(world, words, reason):
    for name in ("changed", "damaged"):
        shutil.copytree(world.folder / "model", name, dirs_exist_ok=True)
    state = world.folder / "damaged" / STATE
    state.write_bytes(state.read_bytes()[:-8])
    with safe_open(world.folder / "changed" / STATE, "numpy") as file:
        begun = json.loads(file.metadata()["begun"])
    begun["files"]["data.csv"]["size"] += 1
    arrays = load_file(world.folder / "changed" / STATE)
    save_file(arrays, "changed/" + STATE, {"begun": json.dumps(begun)})
    found = dna("pretrain", "data.csv", *PRETRAIN, "--resume", *words)
    assert found.code == 2 and reason in found.error and found.error.count("\n") == 1


def test_a_checkpoint_of_drakes(world):
    torch = pytest.importorskip("torch")
    from test_dna_convert import Denoiser, written

    torch.manual_seed(0)
    written(world.folder / "a.ckpt", Denoiser())
    said = done("convert-drakes", "a.ckpt", "--out", "drakes")
    assert "200 bases, 128 steps" in said and load_model("drakes").size.width == 16
    found = dna("convert-drakes", "data.csv", "--out", "drakes2")
    assert found.code == 2 and "--trust" in found.error


FILES = {
    "letters.csv": "seq,y\nACGT,1\nACNT,2\n",
    "ragged.csv": "seq,y\nACGT,1\nACG,2\n",
    "none.csv": "seq,y\n",
    "short.csv": "seq,y\nACGT,1\nACGA,2\n",
    "other.meme": ">MA0001\nA [ 1 2 3 ]\n",
}
P, O, F, S = ("pretrain", "oracle", "finetune", "sample")
REFUSED = {
    "letters.csv, line 3: letter 'N' at base 3": [P, "letters.csv"],
    "ragged.csv, line 3: 3 bases, but line 2 has 4": [P, "ragged.csv"],
    "none.csv holds no sequences": [P, "none.csv"],
    "no file missing.csv": [P, "missing.csv"],
    "sequences to learn are fewer than a batch of 900": [
        *(P, "data.csv", "--batch-size", 900),
    ],
    "short.csv: 1 clusters are too few": [P, "short.csv"],
    "bases 4 to 30 are not in data.csv": [P, "data.csv", "--start", 4, "--stop", 30],
    "data.csv has no other column 'family'": [
        *(P, "data.csv", "--cluster-column", "family"),
    ],
    "steps and batch_size must be at least 1": [P, "data.csv", "--steps", 0],
    "--held-out is a share": [P, "data.csv", "--held-out", 1.5],
    "--label and --good belong together": [P, "data.csv", "--label", "activity"],
    "have a activity above 99": [
        *(P, "data.csv", "--label", "activity", "--good", 99),
    ],
    "data.csv, line 2: no some, which is needed here (1 of 600": [
        *(O, "data.csv", "--label", "some", "--motifs", "motifs.meme"),
    ],
    "data.csv has no column 'y'": [O, "data.csv", "--label", "y", "--kind", "cnn"],
    "other.meme is no MEME file: it begins with '>MA0001'": [
        *(O, "data.csv", "--label", "activity", "--motifs", "other.meme"),
    ],
    "a ridge needs motifs": [O, "data.csv", "--label", "activity"],
    "labels of a classifier are 0 and 1": [
        *(O, "data.csv", "--label", "activity", "--motifs", "motifs.meme"),
        "--classify",
    ],
    "row 600 (s599): odd is 'other', not train, val or test": [
        *(O, "data.csv", "--label", "activity", "--motifs", "motifs.meme"),
        *("--split-column", "odd"),
    ],
    "--members must be at least 1": [
        *(O, "data.csv", "--label", "activity", "--kind", "cnn", "--members", 0),
    ],
    "unknown Weighting 'Sqare'": [
        *(F, "model", "--oracle", "reward", "--method", "Sqare"),
    ],
    "negative_masks is a share of the bases, from 0 to below 1, not 1": [
        *(F, "model", "--oracle", "reward", "--negative-masks", 1),
    ],
    "a target of 1 nats is out of reach of 2 candidates": [
        *(F, "model", "--oracle", "reward", "--group", 2),
    ],
    "oracle functions:nothing returned nan for row 0": [
        *(F, "model", "--oracle", "functions:nothing", "--bounds", 0, 1, *TUNE),
    ],
    "oracle functions:table returned shape [8, 2] for 8 sequences": [
        *(F, "model", "--oracle", "functions:table", "--bounds", 0, 1, *TUNE),
    ],
    "oracle functions:angry: ValueError: no such luck": [
        *(F, "model", "--oracle", "functions:angry", "--bounds", 0, 1, *TUNE),
    ],
    "oracle functions:number is no function, but int": [
        *(F, "model", "--oracle", "functions:number"),
    ],
    "functions has no 'missing'": [F, "model", "--oracle", "functions:missing"],
    "no module nowhere": [F, "model", "--oracle", "nowhere:missing"],
    "no oracle nothing": [F, "model", "--oracle", "nothing"],
    "what values can functions:strong have?": [
        *(F, "model", "--oracle", "functions:strong"),
    ],
    "constraints and diversity have no gradient": [
        *(F, "model", "--oracle", "reward", "--method", "DRAKES", "--soft-steps", 2),
        *("--longest-run", 3, *TUNE),
    ],
    "oracle functions:strong has no gradient": [
        *(F, "model", "--oracle", "functions:strong", "--bounds", 0, 1, *TUNE),
        *("--method", "DRAKES", "--soft-steps", 2),
    ],
    "no model nothing": [F, "nothing", "--oracle", "reward"],
    "--gc is LOW HIGH [WINDOW], not 1 numbers": [
        *(F, "model", "--oracle", "reward", "--gc", 0.3),
    ],
    "a GC window of 50 bases does not fit sequences of 24": [
        *(F, "model", "--oracle", "reward", "--gc", 0.3, 0.6, 50, *TUNE),
    ],
    "site 'GGXCTC' must be IUPAC letters": [
        *(F, "model", "--oracle", "reward", "--forbid", "GGXCTC"),
    ],
    "--backbone needs --start and --stop": [
        *(F, "model", "--oracle", "reward", "--backbone", "ACGT"),
    ],
    "is an insert of 10 bases, but the model writes 24": [
        *(F, "model", "--oracle", "reward", "--backbone", "backbones.fasta:locus"),
        *("--start", 0, "--stop", 10),
    ],
    "the backbone itself breaks 'no GGTCTC on either strand'": [
        *(F, "model", "--oracle", "reward", "--backbone", "AAGAGACC" + 24 * "A"),
        *("--start", 8, "--stop", 32, "--forbid", "GGTCTC"),
    ],
    "backbones.fasta has no sequence 'nowhere'": [
        *(F, "model", "--oracle", "reward", "--backbone", "backbones.fasta:nowhere"),
        *("--start", 0, "--stop", 24),
    ],
    "was trained on sequences of 24 letters, not 40": [
        *(F, "model", "--oracle", "reward", "--backbone", "backbones.fasta:locus"),
        *("--start", 0, "--stop", 24, *TUNE),
    ],
    "the guide TDS needs an --oracle": [S, "model", "--guide", "TDS"],
    "CFG needs a network trained with labels": [S, "model", "--guide", "CFG"],
    "none of 64 sequences is left: 64 broke 'GC of 0 to 0 %'": [
        *(S, "model", "--gc", 0, 0, "--count", 8, "--most", 1),
    ],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_mistakes_get_one_line_and_leave_nothing(world, reason):
    for name, text in FILES.items():
        (world.folder / name).write_text(text)
    out = "refused.csv" if REFUSED[reason][0] == S else "refused"
    there = set(world.folder.iterdir())
    found = dna(*REFUSED[reason], "--out", out)
    assert reason in found.error and found.error.count("\n") == 1
    assert found.code == 2 and not found.out
    assert set(world.folder.iterdir()) - there <= {world.folder / "__pycache__"}


JUDGE = ["evaluate", "samples.csv", "--model", "model", "--out", "refused"]


@pytest.mark.parametrize(
    "words, reason",
    [
        ([*JUDGE, "--oracles", "reward", "--natural", "data.csv"], "takes NAME=ORACLE"),
        (
            [*JUDGE, "--oracles", "r=reward", "--natural", "short.csv"],
            "short.csv has sequences of 4 bases, but the model of model writes 24",
        ),
        (["report", "nowhere"], "no file or folder nowhere"),
        (["report", "model"], "model holds no sequences"),
        (["sample", "model", "--out", "samples.csv"], "samples.csv is there already"),
        (["sample", "model", "--out", "samples.txt"], "must end in .csv"),
        (["pretrain", "data.csv", "--out", ".", "--force"], "is not replaced"),
        (["pretrain", "data.csv"], "Missing from simpo dna pretrain: --out"),
        (["finetue"], "did you mean 'finetune'"),
    ],
)
def test_other_mistakes(world, words, reason):
    (world.folder / "short.csv").write_text(FILES["short.csv"])
    found = dna(*words)
    assert found.code == 2 and reason in found.error and found.error.count("\n") == 1
    assert not (world.folder / "refused").exists()


def test_empty_logos_are_left_out():
    counts = np.full((5, 4), 25)
    assert pages.most_bits(counts) == 0
    counts[2] = [100, 0, 0, 0]
    assert pages.most_bits(counts) == pytest.approx(2)


def test_help_loads_no_jax():
    import subprocess

    code = (
        "import sys; from simpo.cli import main\n"
        "try: main(['dna', 'finetune', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'jax', 'numpy', 'matplotlib'} & sys.modules.keys()"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not found.returncode and "--longest-run" in found.stdout, found.stderr
