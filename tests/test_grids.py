"""Studies that are grids: cells, claims, versions, the report; real smoke runs."""

import csv
import json
import re
from itertools import product

import numpy as np
import pytest

from simpo.cli import main
from simpo.config import flatten, to_json
from simpo.experiments import ablation, claims
from simpo.experiments.cells import Cell, choose, require_version
from simpo.experiments.grids import Entry, interval
from simpo.experiments.locomotion import TASKS, Table2
from simpo.experiments.methods import BASELINES, METHODS, WEIGHTINGS, run_of
from simpo.experiments.published import BEST, PUBLISHED
from simpo.experiments.rewards import Landscapes
from simpo.presets import PRESETS
from simpo.statistics import Estimate
from simpo.types import SimpoError

CHOSEN = ("Hopper-v4/SAC", "Hopper-v4/TD3/0")


# Cells


EVERY = [Cell(*x) for x in product(("a-v4", "b-v4"), ("SiMPO-Exp", "SAC"), (0, 1))]


@pytest.mark.parametrize(
    ("patterns", "count"),
    [
        ((), 8),
        (("a-v4",), 4),
        (("*/SAC",), 4),
        (("b-v4/SiMPO-*/1",), 1),
        (("a-v4", "*/SAC/0"), 5),
        (("?-v4/*/0",), 4),
        (("a-v4/SAC/1",), 1),
    ],
)
def test_patterns_choose_cells(patterns, count):
    chosen = choose(EVERY, patterns)
    assert len(chosen) == count and chosen == [c for c in EVERY if c in chosen]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a-v5", "no cell 'a-v5': write TASK/METHOD/SEED; did you mean 'a-v4'"),
        ("a-v4/SAQ", "did you mean 'a-v4/SAC'"),
        ("a-v4/SAC/7", "did you mean 'a-v4/SAC/"),
        ("x/y/z/0/1", "tasks are a-v4, b-v4"),
    ],
)
def test_unknown_cells_get_one_line(pattern, message):
    with pytest.raises(SimpoError, match=re.escape(message)) as caught:
        choose(EVERY, (pattern,))
    assert "\n" not in str(caught.value)


def test_runs_of_another_version_are_refused(tmp_path):
    (tmp_path / "env.json").write_text(json.dumps({"packages": {"simpo": "0.0.1"}}))
    with pytest.raises(SimpoError, match=r"made by simpo 0\.0\.1.*--force"):
        require_version([tmp_path])


# Methods


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_every_method_can_run_on_every_task_at_every_scale(scale):
    for task, method in product(TASKS, METHODS):
        run = run_of(scale, task, method, 3)
        run.check()
        assert (run.env, run.label, run.seed) == (task, method, 3)


def test_methods_differ_in_what_they_are_named_for():
    runs = {m: run_of("paper", "Hopper-v4", m, 0) for m in METHODS}
    assert {m: runs[m].agent.weighting for m in WEIGHTINGS} == WEIGHTINGS
    for method, row in BASELINES.items():
        assert (
            runs[method].agent == PRESETS["paper"].at("paper", "Hopper-v4", row).agent
        )
    assert len({r.agent for r in runs.values()}) == len(METHODS)


def test_smoke_is_the_laptop_preset_in_small():
    for row in PRESETS["laptop"].rows:
        large = run_of("laptop", "Hopper-v4", "TD3", 0)
        small = PRESETS["smoke"].at("smoke", "Hopper-v4", row)
        assert type(small.agent) is type(PRESETS["laptop"].rows[row].agent)
        assert small.agent.width <= 16 and small.steps < large.steps / 100


ABLATIONS = (
    ablation.KL,
    ablation.INTERVAL,
    ablation.CANDIDATES,
    ablation.FLOOR,
    ablation.BOUND,
    ablation.STEPS,
)


@pytest.mark.parametrize("study", ABLATIONS, ids=lambda study: study.name)
@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_ablations_vary_one_setting(study, scale):
    runs = [study(scale=scale).run_of(Cell("Hopper-v4", m, 0)) for m in study.methods]
    for run in runs:
        run.check()
        config = run.agent.temperature.target
        config.check(run.agent.weighting, run.agent.candidates)
    agents = [dict(flatten(to_json(run.agent))) for run in runs]
    names = {name for agent in agents for name in agent}
    varied = {n for n in names if len({repr(agent.get(n)) for agent in agents}) > 1}
    assert len(set(map(repr, agents))) == len(runs)
    groups = {name.split(".")[0] for name in varied}
    assert len(groups) == 1, varied
    assert study.reference in study.methods
    assert study(scale=scale).folder.name == scale


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_landscapes_have_the_values_of_halfcheetah(scale):
    study = Landscapes(scale=scale)
    assert len(study.tasks) == 8
    for task, method in product(study.tasks, study.methods):
        run = study.run_of(Cell(task, method, 1))
        run.check()
        twin = run_of(scale, "HalfCheetah-v4", method, 1)
        assert (run.env, run.agent) == (task, twin.agent)


def test_published_numbers_are_of_these_tasks_and_methods():
    assert set(BEST) == set(TASKS)
    assert all(task in TASKS and method in BASELINES for task, method in PUBLISHED)


# Claims


def results(**scores):
    """Scores [S] of methods on task t0, t1, ..., given as rows."""
    return {
        (f"t{i}", method): Entry("single", np.asarray(row, float), [])
        for method, rows in scores.items()
        for i, row in enumerate(rows)
    }


HIGH, LOW, WIDE = [10.0, 10.2, 9.8], [5.0, 5.1, 4.9], [0.0, 10.0, 20.0]
PAIR = ["t0", "t1"]


def gaps(a, b, tasks=PAIR):
    return claims.compare(results(a=a, b=b), tasks, "a", ["b"])


@pytest.mark.parametrize(
    ("a", "b", "each", "most"),
    [
        ([HIGH, HIGH], [LOW, LOW], True, True),
        ([HIGH, LOW], [LOW, HIGH], False, False),
        ([HIGH, WIDE], [LOW, LOW], None, None),
        ([HIGH], [LOW], None, None),  # one task has not been run
        ([[10.0], [10.0]], [[5.0], [5.0]], None, None),  # one seed
    ],
)
def test_claims_about_tasks(a, b, each, most):
    assert claims.each("c", PAIR, gaps(a, b)).holds is each
    assert claims.most("c", PAIR, gaps(a, b)).holds is most


def test_most_needs_no_task_that_is_left_open():
    tasks = ["t0", "t1", "t2"]
    found = gaps([HIGH, HIGH, WIDE], [LOW, LOW, LOW], tasks)
    assert claims.most("c", tasks, found).holds is True
    assert claims.each("c", tasks, found).holds is None


@pytest.mark.parametrize(
    ("a", "holds"),
    [([HIGH, HIGH], True), ([HIGH, LOW], False), ([HIGH, WIDE], None), ([HIGH], None)],
)
def test_little_change_has_to_be_shown(a, holds):
    found = gaps(a, [HIGH, HIGH])
    assert claims.unchanged("c", PAIR, found, 0.1).holds is holds


def test_a_method_is_compared_with_the_best_of_the_others():
    found = results(a=[HIGH], b=[LOW], c=[[9.0, 9.1, 8.9]])
    (gap,) = claims.compare(found, ["t0"], "a", ["b", "c"]).values()
    assert gap.against == "c" and gap.value == pytest.approx(1.0)
    # Welch's interval by hand: standard error and degrees of freedom
    s, t = np.var([10.0, 10.2, 9.8], ddof=1) / 3, np.var([9.0, 9.1, 8.9], ddof=1) / 3
    degrees = (s + t) ** 2 / (s**2 / 2 + t**2 / 2)
    half = 3.179 * np.sqrt(s + t) if abs(degrees - 2.94) < 0.01 else np.nan
    assert gap.high - gap.value == pytest.approx(half, rel=0.02)


def test_intervals_are_told_for_several_seeds_only():
    assert interval(Estimate(1234.5, np.nan, np.nan)) == "1,234.5"
    assert interval(Estimate(1234.5, 1.0, 2.0)) == "1,234.5 [1.0, 2.0]"


# The command


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """Two cells of the smoke scale, trained by worker processes."""
    out = tmp_path_factory.mktemp("results")
    argv = ["reproduce", "table2", "--scale", "smoke", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("reproduce.one_device_per_core", "studies.keep_compiled"):
            patch.setattr(f"simpo.cli.{name}", lambda: None)
        assert main([*argv, "--cells", *CHOSEN]) == 0
        yield out, argv


@pytest.fixture
def here(monkeypatch):
    """JAX has devices already when these tests run the command."""
    for name in ("reproduce.one_device_per_core", "studies.keep_compiled"):
        monkeypatch.setattr(f"simpo.cli.{name}", lambda: None)


def test_cells_are_run_directories_with_scores(reproduced):
    out, _ = reproduced
    folder = out / "table2" / "smoke"
    with (folder / "results.csv").open() as file:
        found = {row["method"]: row for row in csv.DictReader(file)}
    assert set(found) == {"SAC", "TD3"}
    for method, row in found.items():
        (run,) = (out / "runs" / "smoke" / "Hopper-v4" / method).iterdir()
        with (run / "evaluations.csv").open() as file:
            episodes = list(csv.DictReader(file))
        last = [
            float(e["return"])
            for e in episodes
            if e["step"] == episodes[-1]["step"] and e["sampler"] == row["sampler"]
        ]
        assert float(row["iqm"]) == pytest.approx(np.mean(last))
        assert not (run / "plots").exists()  # of the smoke scale
        assert int(row["episodes"]) == len(last)


def test_the_page_has_everything_inside(reproduced):
    folder = reproduced[0] / "table2" / "smoke"
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "Hopper-v4" in page and "not comparable at this scale" in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    for name in ("scores", "curves"):
        assert (folder / f"{name}.svg").stat().st_size > 10_000


def test_a_report_trains_nothing_and_lists_what_is_missing(reproduced, here, capsys):
    out, argv = reproduced
    runs = set((out / "runs").rglob("config.json"))
    assert main([*argv, "--report", "--cells", "Hopper-v4/*/0"]) == 0
    printed = capsys.readouterr().out
    assert f"{len(METHODS) - 2} cells are missing:" in printed
    assert "  Hopper-v4/SiMPO-Exp/0" in printed
    assert printed.count("not comparable at this scale (smoke)") == 5
    assert set((out / "runs").rglob("config.json")) == runs


def test_finished_cells_are_not_made_again(reproduced, here, monkeypatch):
    def no_more(jobs, *_, **__):
        assert not jobs
        return iter(())

    monkeypatch.setattr("simpo.engines.local.train_all", no_more)
    assert main([*reproduced[1], "--cells", *CHOSEN]) == 0


def test_another_version_is_refused_unless_forced(reproduced, here, capsys):
    out, argv = reproduced
    (run,) = (out / "runs" / "smoke" / "Hopper-v4" / "SAC").iterdir()
    text = (run / "env.json").read_text()
    data = json.loads(text)
    data["packages"]["simpo"] = "0.0.9"
    (run / "env.json").write_text(json.dumps(data))
    argv = [*argv, "--report", "--cells", *CHOSEN]
    try:
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert "made by simpo 0.0.9" in error and error.count("\n") == 1
        assert main([*argv, "--force"]) == 0
    finally:
        (run / "env.json").write_text(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cells", "Hoper-v4"], "did you mean 'Hopper-v4'?"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--jobs", "0"], "jobs must be at least 1"),
    ],
)
def test_mistakes_get_one_line(words, message, here, tmp_path, capsys):
    argv = ["reproduce", "table2", "--out", str(tmp_path), *words]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_landscape_claims_name_the_rewards():
    scores = {"SiMPO-Square": HIGH, "SiMPO-Linear": LOW, "SiMPO-Exp": LOW}
    found = {
        (task, method): Entry("single", np.asarray(row), [])
        for task in Landscapes.tasks
        for method, row in scores.items()
    }
    flat, steep = Landscapes(scale="paper").verdicts(found)
    assert flat.claim == "SiMPO-Square is best where the reward is sqrt or linear"
    assert flat.holds is True and steep.holds is False
    assert "against SiMPO-Square" in steep.evidence
    for verdict in Landscapes(scale="smoke").verdicts(found):
        assert verdict.holds is None


def test_ablation_claims_are_about_little_change():
    near, far = [10.1, 10.0, 10.05], [20.0, 20.1, 19.9]
    scores = {"KL=1.5": HIGH, "KL=1.0": near, "KL=2.0": far}
    found = {
        (task, method): Entry("single", np.asarray(row), [])
        for task in ablation.KL.tasks
        for method, row in scores.items()
    }
    by_claim = {v.claim.split()[0]: v.holds for v in ablation.KL().verdicts(found)}
    assert by_claim == {"KL=0.5": None, "KL=1.0": True, "KL=2.0": False, "KL=2.5": None}


def test_claims_are_judged_from_runs_of_a_size():
    scores = {"SiMPO-LinNeg": HIGH, "SiMPO-Linear": LOW, "SiMPO-Exp": LOW, "QSM": HIGH}
    found = {
        (task, method): Entry("single", np.asarray(row), [])
        for task in TASKS
        for method, row in scores.items()
    }
    by_claim = {v.claim: v.holds for v in Table2(scale="laptop").verdicts(found)}
    assert all(claim.endswith("[laptop scale]") for claim in by_claim)
    exp, linear, square, gain, little = by_claim.values()
    assert (exp, linear, square, gain, little) == (False, False, None, True, False)
