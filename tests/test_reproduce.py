"""`simpo reproduce`: what a study leaves behind, verdicts, and users' mistakes."""

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from simpo.cli import main
from simpo.experiments.bandit import BanditStudy
from simpo.experiments.curvature import judge
from simpo.experiments.escape import Escape
from simpo.experiments.landscape_map import (
    METHODS,
    MapStudy,
    Measured,
    best_methods,
    best_rule,
    decided,
    participation,
    rule_verdict,
    signed_verdict,
    skewness,
)
from simpo.experiments.report import Interrupted, Report, Study, Verdict, reproduce
from simpo.experiments.summary import curve_rows, final, interval_text, rate_text, table
from simpo.experiments.trials import Results
from simpo.types import SimpoError

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """JAX has devices already when these tests run the command."""
    monkeypatch.setattr("simpo.cli.reproduce.one_device_per_core", lambda: None)
    monkeypatch.setattr("simpo.cli.studies.keep_compiled", lambda: None)


@dataclass(frozen=True)
class Counting(Study):
    """Two rows, then whatever happens."""

    name: ClassVar[str] = "counting"
    error: str = ""

    def check(self):
        pass

    def run(self, report):
        report.expect(2)
        report.add("numbers", [{"n": 1}])
        report.advance("counting")
        report.add("numbers", [{"n": 2}])
        if self.error:
            raise {"stop": KeyboardInterrupt, "fail": RuntimeError}[self.error]
        report.say("all counted")


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_study_leaves_rows_options_versions_and_report(tmp_path):
    report = reproduce(Counting(out=tmp_path))
    folder = tmp_path / "counting"
    assert report.folder == folder
    assert [row["n"] for row in read(folder / "numbers.csv")] == ["1", "2"]
    assert not list(folder.glob("*.partial.csv"))
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "study": "counting",
        "error": "",
        "out": str(tmp_path),
    }
    assert "jax" in json.loads((folder / "env.json").read_text())["packages"]
    assert "all counted" in (folder / "report.txt").read_text()
    status = json.loads((folder / "status.json").read_text())
    assert status == {"state": "done", "rows": 2}


def test_an_interrupted_study_keeps_its_rows_and_says_so(tmp_path):
    with pytest.raises(Interrupted, match=r"2 rows kept in .*numbers\.partial\.csv"):
        reproduce(Counting(error="stop", out=tmp_path))
    folder = tmp_path / "counting"
    assert [row["n"] for row in read(folder / "numbers.partial.csv")] == ["1", "2"]
    assert not (folder / "numbers.csv").exists()
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    # a second run starts its tables anew
    reproduce(Counting(out=tmp_path))
    assert len(read(folder / "numbers.csv")) == 2


def test_a_failed_study_says_so(tmp_path):
    with pytest.raises(RuntimeError):
        reproduce(Counting(error="fail", out=tmp_path))
    status = json.loads((tmp_path / "counting" / "status.json").read_text())
    assert status["state"] == "failed"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bandti"], "unknown figure 'bandti'; did you mean 'bandit'?"),
        (["figure9"], "unknown figure 'figure9'; choose from bandit,"),
        ([], "reproduce what? choose from bandit,"),
        (["bandit", "--trials", "1"], "needs at least 2 trials, not 1"),
        (["bandit", "--seed", "-1"], "the seed must not be negative"),
        (["bandit", "--trails", "8"], "did you mean '--trials'?"),
        (["landscape-map", "--trials", "1"], "trials must be at least 2, not 1"),
        (["landscape-map", "--cells", "1"], "cells must be at least 2, not 1"),
    ],
)
def test_mistakes_get_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *argv]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_gets_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    argv = ["reproduce", "bandit", "--out", str(tmp_path / "file")]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("simpo: error: cannot write to") and err.count("\n") == 1


def test_help_names_the_figures(capsys):
    assert main(["reproduce", "--help"]) == 0
    assert "landscape-map" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["reproduce", "bandit", "--help"])
    assert "--trials" in capsys.readouterr().out


# Summaries


def test_summaries():
    curves = np.arange(40.0).reshape(1, 40).repeat(3, 0)
    np.testing.assert_array_equal(final(curves), [38.5] * 3)
    assert interval_text(np.array([1.0, 2.0, 3.0])) == "2.0000 [-0.4841, 4.4841]"
    assert rate_text(np.array([1, 1, 1, 0])) == "3/4 [30, 95] %"
    assert table(["a", "bb"], [["ccc", "d"]]) == "a    bb\nccc  d"
    rows = curve_rows("Exp", curves[:, :2], 100, landscape="broad")
    assert [row["round"] for row in rows] == [25.0, 75.0]
    assert rows[1] == {
        "landscape": "broad",
        "method": "Exp",
        "round": 75.0,
        "mean": 1.0,
        "low": 1.0,
        "high": 1.0,
    }


@pytest.mark.parametrize(
    ("gaps", "holds"),
    [((0.1, 0.2), True), ((0.1, -0.2), False), ((0.1, 0.0), None)],
)
def test_a_claim_is_judged_by_paired_intervals(gaps, holds):
    noise = rng.normal(0, 0.01, 64)
    noise -= noise.mean()
    verdict = judge("best", {str(k): gap + noise for k, gap in enumerate(gaps)})
    assert verdict.holds is holds
    word = {True: "holds", False: "does not hold", None: "not decided"}[holds]
    assert str(verdict).startswith(f"[{word}] best\n")


# Figure 2's verdicts on made-up trials


def results(final_regret):
    regret = np.linspace(0.4, final_regret, 100).T[None]
    regret[..., -10:] = np.asarray(final_regret)[None, :, None]
    return Results(regret, regret, regret, np.zeros((4, 8)), np.zeros((1, 4, 8)))


def test_escape_verdicts():
    trapped, out = results([0.4] * 4), results([0.01] * 4)
    three = results([0.01, 0.01, 0.01, 0.4])
    study = Escape(trials=4)
    common = {
        "Exp": trapped,
        "Linear": three,
        "Square": trapped,
        "Lin. Neg.": out,
        "Sqr. Neg.": three,
    }
    holds = [v.holds for v in study.verdicts(common, None)]
    assert holds == [True, True, False]
    common["Linear"] = out
    assert study.verdicts(common, None)[0].holds is False
    assert "3/4" in study.describe(common)


def test_a_sweep_says_from_which_noise_a_method_escapes():
    study = Escape(noises=(0.1, 0.2), kls=(0.5, 1.0), sweep_trials=4)
    lost, won = results([0.4] * 4).regret[0], results([0.01] * 4).regret[0]
    at_second = np.array([[lost, lost], [lost, won]])
    never = np.array([[lost, lost], [lost, lost]])
    sweep = {"Exp": never, "Linear": at_second, "Square": never, "Lin. Neg.": at_second}
    verdict = study.sweep_verdict(sweep)
    assert verdict.holds is False
    assert "Exp nowhere" in verdict.evidence
    assert "Linear from noise 0.2" in verdict.evidence
    assert study.sweep_verdict({**sweep, "Linear": never}).holds is True
    np.testing.assert_array_equal(study.best_rates(sweep)["Linear"].mean(1), [0, 1])


def test_sizes():
    full, quick = BanditStudy().figures, BanditStudy(quick=True).figures
    assert full[0].trials == full[1].trials == 64
    assert sum(f.work for f in quick) < 0.1 * sum(f.work for f in full)
    assert BanditStudy(trials=4, quick=True).figures[0].trials == 4


# The map's statistics and rule


def test_statistics_of_values():
    flat, peak = np.linspace(-1, 1, 64), np.eye(64)[0]
    assert participation(peak) < 0.02 < 0.5 < participation(flat)
    assert participation(np.array([-1.0, 1.0])) == pytest.approx(1)
    assert skewness(peak) > 5 and skewness(-peak) < -5
    assert skewness(flat) == pytest.approx(0, abs=1e-6)
    assert participation(np.ones(8)) == skewness(np.ones(8)) == 0
    np.testing.assert_allclose(participation(3 * peak + 7), participation(peak))


def measured(good, statistic):
    """Landscapes on which a method has regret 0.1 if it is `good` there, else 0.3."""
    noise = rng.normal(0, 1e-3, (len(good), 16))
    regret = {
        name: np.array([0.1 if name == best else 0.3 for best in good])[:, None] + noise
        for name in METHODS
    }
    values = np.asarray(statistic, float)
    return Measured({"participation": values, "skewness": 0 * values}, regret)


def test_the_rule_finds_a_threshold_and_is_judged_on_others():
    good = ["Exp"] * 5 + ["Sqr. Neg."] * 5
    cells = measured(good, range(10))
    rule = best_rule(cells)
    assert rule == ("participation", 5.0, "Exp", "Sqr. Neg.")
    assert best_methods(cells) == good and decided(cells).all()
    assert rule_verdict(rule, "Exp", measured(good, range(10))).holds is True
    other = measured(good, range(9, -1, -1))
    assert rule_verdict(rule, "Exp", other).holds is not True
    same = measured(["Exp"] * 10, range(10))
    assert rule_verdict(rule, "Exp", same).holds is False


def test_signed_weights_are_judged_cell_by_cell():
    better = signed_verdict(measured(["Lin. Neg."] * 3, range(3)))
    assert better.holds is True and "better in 3" in better.evidence
    worse = signed_verdict(measured(["Lin. Neg.", "Exp"], range(2)))
    assert worse.holds is False and "worse in 1" in worse.evidence


def test_the_map_needs_more_than_one_of_each():
    for changes in ({"cells": 1}, {"trials": 1}, {"held_out": 1}, {"seed": -1}):
        with pytest.raises(SimpoError, match="at least"):
            MapStudy(**changes).check()


def test_a_report_without_a_terminal_draws_no_bar(tmp_path, capsys):
    report = Report(tmp_path / "r")
    with report.bar:
        report.advance("step")
    assert capsys.readouterr() == ("", "")


def test_a_verdict_that_is_open_says_so():
    assert str(Verdict("c", None, "e")) == "[not decided] c\n    e"


# The commands as a user runs them


def reproduce_quickly(name, tmp_path, *options):
    argv = [sys.executable, "-m", "simpo", "reproduce", name, "--quick", *options]
    done = subprocess.run(
        [*argv, "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / name
    assert f"results  {folder}" in done.stdout
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    assert not list(folder.glob("*partial*"))
    assert all(p.stat().st_size > 10_000 for p in folder.glob("*.png"))
    return done.stdout, folder


def test_the_bandit_study(tmp_path):
    out, folder = reproduce_quickly("bandit", tmp_path, "--trials", "2")
    names = {path.stem for path in folder.glob("*.svg")}
    assert names == {"escape", "curvature", "curvature_sweep"}
    settings = json.loads((folder / "figures.json").read_text())
    assert settings["Escape"]["noise"] == 0.2 and settings["Curvature"]["trials"] == 2
    rows = read(folder / "escape.csv")
    assert len(rows) == 5 * 2 and {row["method"] for row in rows} >= {"Lin. Neg."}
    assert len(read(folder / "curvature.csv")) == 2 * 3 * 3 * 2
    assert out.count("best on broad optima") == out.count("best on sharp optima") == 3
    verdicts = [line for line in out.splitlines() if line.startswith("[")]
    assert len(verdicts) == 3 + 9


def test_the_landscape_map(tmp_path):
    out, folder = reproduce_quickly("landscape-map", tmp_path)
    assert (folder / "landscape_map.png").exists()
    assert len(read(folder / "map.csv")) == 9 * 7 * 4
    assert len(read(folder / "held_out.csv")) == 4 * 7 * 4
    assert "beats the best single weighting" in out
