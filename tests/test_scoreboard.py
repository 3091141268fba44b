"""What `simpo plot` says of several runs: scores, what is pooled, tables, pictures."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from simpo import plotting
from simpo.cli import plot as cli
from simpo.experiments.scoreboard import board_rows, board_text
from simpo.plotting import aggregates, compare_runs, curves, find_runs, read_run
from simpo.plotting.scores import score
from simpo.plotting.settings import group_runs, legend_notes, versions_of_one_task
from simpo.plotting.style import STYLE
from simpo.statistics import AGGREGATES, iqm
from simpo.types import SimpoError
from test_plotting import drawn, labels, make_run

FEW = (
    "bootstrap intervals of fewer than 5 seeds are much too narrow: see "
    "docs/statistics.md"
)
TASKS = ("InvertedDoublePendulum-v5", "Hopper-v5")


def finish(directory, state="done"):
    (directory / "status.json").write_text(json.dumps({"state": state}))
    return directory


def made(folder, **options):
    """A short finished run, read."""
    return read_run(finish(make_run(folder, steps=600, **options)))


def relabelled(run, sampler, other):
    """The run with another name for a sampler."""
    names = run.evaluations["sampler"]
    names = np.where(names == sampler, other, names)
    return replace(run, evaluations=run.evaluations | {"sampler": names})


def changed(run, level):
    """The run with other returns, the same in all episodes: a function of the step."""
    step = run.evaluations["step"]
    returns = np.array([level(s) for s in step])
    return replace(run, evaluations=run.evaluations | {"return": returns})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two settings, two tasks, three seeds."""
    root = tmp_path_factory.mktemp("scores")
    return [
        made(root / env / f"{floor}-{seed}", env=env, floor=floor, seed=seed)
        for floor in (-0.2, 0.0)
        for env in TASKS
        for seed in range(3)
    ]


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context(STYLE):
        yield


# Settings


def test_a_setting_has_one_name_in_all_its_tasks(runs):
    groups = group_runs(runs)
    assert [(g.task, g.label, len(g.runs)) for g in groups] == [
        (task, f"SiMPO, Linear(floor={floor})", 3)
        for floor in (-0.2, 0.0)
        for task in TASKS
    ]


def test_values_that_differ_on_one_task_are_told_on_all(tmp_path):
    """One learning rate was tried on one task only."""
    runs = [
        made(tmp_path / "a", env=TASKS[0], lr=1),
        made(tmp_path / "b", env=TASKS[0], lr=2),
        made(tmp_path / "c", env=TASKS[1], lr=2),
    ]
    names = [group.label.removeprefix("SiMPO, Linear(") for group in group_runs(runs)]
    assert names == ["floor=-0.2), lr=1", "floor=-0.2), lr=2", "floor=-0.2), lr=2"]


def test_values_that_differ_between_tasks_only_are_the_tasks_own(tmp_path):
    runs = [made(tmp_path / env, env=env, lr=i) for i, env in enumerate(TASKS)]
    assert len({group.label for group in group_runs(runs)}) == 1


def test_settings_that_differ_in_much_are_numbered_and_explained(tmp_path):
    many = [dict.fromkeys("abcd", value) for value in (1, 2)]
    runs = [
        made(tmp_path / "0", env=TASKS[0], **many[0]),
        made(tmp_path / "1", env=TASKS[0], **many[1]),
        made(tmp_path / "2", env=TASKS[1], **many[1]),
    ]
    groups = group_runs(runs)
    name = "SiMPO, Linear(floor=-0.2)"
    assert [group.label for group in groups] == [f"{name} #{i}" for i in (1, 2, 2)]
    assert list(legend_notes(groups)) == [
        f"{name} #1: a=1, b=1, c=1, d=1",
        f"{name} #2: a=2, b=2, c=2, d=2",
    ]


def test_what_decides_nothing_splits_no_setting(tmp_path):
    runs = [
        made(tmp_path / "a", seed=0),
        made(tmp_path / "b", seed=1, checkpoint_every=5_000),
    ]
    assert len(group_runs(runs)) == 1


def test_a_preset_names_its_agents(tmp_path):
    runs = [made(tmp_path / name, label=name) for name in ("DPMD", "Other")]
    names = [group.label for group in group_runs(runs)]
    assert names == ["DPMD, Linear(floor=-0.2)", "Other, Linear(floor=-0.2)"]


# Scores


def test_a_score_is_the_last_evaluation_not_the_best(runs):
    run = changed(runs[0], lambda step: 900 if step == 300 else step)
    assert score(run, "single") == 600
    table = runs[0].evaluations
    last = (table["step"] == 600) & (table["sampler"] == "single")
    expected = table["return"][last].mean()
    assert score(runs[0], "single") == pytest.approx(expected)
    assert compare_runs([run, runs[1]]).settings[0].returns(TASKS[0])[0] == 600


def test_scores_are_normalised_in_each_task(runs):
    """0: mean of all untrained policies; 1: mean of the task's best setting."""
    slopes = {(-0.2, TASKS[0]): 1, (0.0, TASKS[0]): 2,
              (-0.2, TASKS[1]): 300, (0.0, TASKS[1]): 100}  # fmt: skip

    def level(run):
        floor, seed = run.config["agent"]["weighting"]["floor"], run.config["seed"]
        slope = slopes[floor, run.env]
        return lambda step: 10 * (floor == 0) + slope * step + (step > 0) * seed

    pooled = compare_runs([changed(run, level(run)) for run in runs]).pooled
    assert pooled is not None and pooled.tasks == TASKS
    zero, one = np.array([5.0, 5]), np.array([1211.0, 180_001])
    np.testing.assert_allclose(pooled.scale.zero, zero)
    np.testing.assert_allclose(pooled.scale.one, one)
    first, second = pooled.scores.values()
    seeds = np.arange(3)
    raw = np.array([600.0 + seeds, 180_000.0 + seeds])
    np.testing.assert_allclose(first, (raw - 5) / (one - zero)[:, None])
    assert first[1].mean() == pytest.approx(1) and second[0].mean() == pytest.approx(1)
    steps, values = pooled.curves["SiMPO, Linear(floor=-0.2)"]
    assert values.shape == (2, 3, len(steps)) and steps[0] == 0
    np.testing.assert_allclose(values[..., -1], first)
    np.testing.assert_allclose(values[0, 0, 0], -5 / (1211 - 5))


def test_versions_of_a_task_are_never_pooled(tmp_path):
    runs = [
        made(tmp_path / f"{env}{seed}", env=env, seed=seed)
        for env in ("Hopper-v4", "Hopper-v5")
        for seed in range(2)
    ]
    groups = group_runs(runs)
    assert [(g.task, len(g.runs)) for g in groups] == [
        ("Hopper-v4", 2),
        ("Hopper-v5", 2),
    ]
    scored = compare_runs(runs)
    (setting,) = scored.settings
    assert [len(setting.returns(task)) for task in scored.tasks] == [2, 2]
    assert scored.pooled is None
    (note,) = scored.notes
    assert "Hopper-v4 and Hopper-v5 are versions of one task" in note


@pytest.mark.parametrize(
    ("tasks", "found"),
    [
        (["Hopper-v5", "Ant-v5", "Hopper-v4"], ["Hopper-v5", "Hopper-v4"]),
        (["Hopper-v5", "Ant-v4"], []),
        (["dm/hopper-hop", "dm/hopper-stand"], []),
        (["a/Hopper-v1", "b/Hopper-v1"], []),
    ],
)
def test_versions_of_one_task_are_seen(tasks, found):
    assert versions_of_one_task(tasks) == found


def test_unfinished_runs_have_no_score(runs):
    longer = runs[0].config | {"steps": 900}
    scored = compare_runs([replace(runs[0], config=longer, directory=Path("x")), *runs])
    assert len(scored.settings) == 2
    assert scored.notes[0] == "no score yet: x is at 600 of 900 steps"


def test_equally_many_seeds_of_each_task_are_pooled(runs):
    scored = compare_runs(runs[:-1])
    other = scored.settings[1]
    assert [len(other.returns(task)) for task in TASKS] == [3, 2]
    assert scored.pooled is not None
    assert scored.pooled.scores[other.label].shape == (2, 2)
    note, few = scored.notes
    assert few == FEW
    assert note == (
        "fewer seeds pooled (the first 2 of up to 3, as many as every task has): "
        "SiMPO, Linear(floor=0.0)"
    )


def test_settings_without_all_tasks_are_not_pooled(runs):
    scored = compare_runs(runs[:9])  # the second setting on the first task only
    assert scored.pooled is not None
    assert list(scored.pooled.scores) == ["SiMPO, Linear(floor=-0.2)"]
    assert scored.notes == [
        "not pooled (no finished run on Hopper-v5): SiMPO, Linear(floor=0.0)",
        FEW,
    ]


def test_samplers_are_never_mixed(runs):
    """A setting is scored under its own headline sampler; of one task, all seeds."""
    mode = [relabelled(run, "single", "mode") for run in runs[6:]]
    scored = compare_runs([*runs[:6], *mode])
    assert [s.sampler for s in scored.settings] == ["single", "mode"]
    assert scored.pooled is not None
    assert scored.pooled.samplers["SiMPO, Linear(floor=0.0)"] == "mode"
    with pytest.raises(SimpoError, match="no evaluation with sampler 'single'"):
        compare_runs([*runs[:2], relabelled(runs[2], "single", "mode")])
    other = [relabelled(run, "single", "mode") for run in runs[3:6]]
    scored = compare_runs([*runs[:3], *other, *runs[6:]])
    assert scored.notes == [
        "not pooled (another sampler on every task): SiMPO, Linear(floor=-0.2)",
        FEW,
    ]
    scored = compare_runs([*runs[:6], *mode], sampler="best-of-10")
    assert {s.sampler for s in scored.settings} == {"best-of-10"}
    assert scored.settings[0].returns(TASKS[0])[0] == score(runs[0], "best-of-10")


def test_a_task_that_nobody_learns_has_no_scale(runs):
    scored = compare_runs([changed(r, lambda step: -step) for r in runs[:3]])
    assert scored.pooled is None
    assert scored.notes == [
        FEW,
        "nothing is pooled: no setting is better than the untrained policies on "
        + TASKS[0],
    ]


# Folders


def test_folders_stand_for_their_finished_runs(tmp_path):
    root = tmp_path / "runs" / "A-v5" / "SiMPO"
    whole = [finish(make_run(root / f"1-s{i}", seed=i, steps=600)) for i in range(2)]
    finish(make_run(root / "2-s2", seed=2, steps=600), "running")
    finish(make_run(root / "3-s0", seed=0, steps=600))  # again
    (whole[0] / "policy").mkdir()
    (whole[0] / "policy" / "config.json").write_text("{}")
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "config.json").write_text('{"type": "Comparison"}')
    for folder in (tmp_path, tmp_path / "runs", tmp_path / "runs" / "A-v5", root):
        found = find_runs([folder])
        assert [run.directory for run in found.runs] == whole
        assert found.notes == [
            f"left out 1 unfinished runs in {folder}",
            f"left out 1 repeated runs in {folder}",
        ]
    found = find_runs([root / "2-s2", whole[1], tmp_path])
    assert {run.config["seed"] for run in found.runs} == {0, 1, 2}
    assert len(found.runs) == 3


def test_folders_without_finished_runs_are_refused(tmp_path):
    with pytest.raises(SimpoError, match=r"no config\.json, and no run in it"):
        find_runs([tmp_path])
    finish(make_run(tmp_path / "a", steps=600), "failed")
    with pytest.raises(SimpoError, match=r"no finished run in it \(1 not finished\)"):
        find_runs([tmp_path])


def test_damage_in_a_folder_is_told(tmp_path):
    finish(make_run(tmp_path / "a", steps=600))
    (tmp_path / "a" / "config.json").write_text("{")
    with pytest.raises(SimpoError, match=r"config\.json is damaged"):
        find_runs([tmp_path])


# Tables


def test_the_table_has_every_number(runs):
    scored = compare_runs(runs)
    rows = board_rows(scored, draws=200)
    pooled = scored.pooled
    assert pooled is not None
    for label, scores in pooled.scores.items():
        own = {row.statistic: row for row in rows if row.setting == label}
        for name, statistic in AGGREGATES.items():
            assert own[name].value == pytest.approx(float(statistic(scores)))
            assert own[name].low <= own[name].value <= own[name].high
            assert (own[name].seeds, own[name].sampler) == (3, "single")
            assert own[name].task == " ".join(TASKS)
    (beats,) = [row for row in rows if row.against]
    best = max(pooled.scores, key=lambda k: iqm(pooled.scores[k]))
    assert beats.setting == best != beats.against and 0 <= beats.value <= 1
    means = [row for row in rows if row.unit == "return" and row.statistic == "mean"]
    assert len(means) == 4
    for row in means:
        (setting,) = [s for s in scored.settings if s.label == row.setting]
        assert row.value == pytest.approx(setting.returns(row.task).mean())
        assert row.interval == "t"
    text = board_text(scored, rows)
    assert "last evaluation" in text and "(3 seeds)" in text and "single" in text
    assert "0 untrained policies, 1 best setting's mean" in text
    for row in rows:
        if row.task == " ".join(TASKS) and not row.against:
            assert f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" in text


def test_one_seed_has_no_interval_in_the_table(runs):
    scored = compare_runs([runs[0], runs[3]])
    rows = board_rows(scored, draws=10)
    assert {(row.low, row.high, row.interval) for row in rows} == {
        (None, None, "none: one seed")
    }
    assert "[" not in board_text(scored, rows)


# Pictures


@pytest.fixture(scope="module")
def pooled(runs):
    return compare_runs(runs).pooled


def crowd(pooled, seeds=3):
    """Eight settings."""
    rng = np.random.default_rng(0)
    names = [f"setting {i}" for i in range(8)]
    steps, start = np.arange(4.0), rng.uniform(0, 1, (8, 2, seeds, 1))
    return replace(
        pooled,
        scores={k: x[..., 0] for k, x in zip(names, start, strict=True)},
        curves={k: (steps, x + steps) for k, x in zip(names, start, strict=True)},
        samplers=dict.fromkeys(names, "single"),
    )


def test_the_chart_shows_every_estimate(pooled, monkeypatch):
    found = aggregates.estimates(pooled, draws=100)
    figure = drawn(
        monkeypatch,
        aggregates,
        lambda: aggregates.draw_estimates(pooled, found, Path("x")),
    )
    assert [ax.get_title("left").split()[0] for ax in figure.axes] == [
        "IQM", "median", "mean", "optimality",
    ]  # fmt: skip
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == [f"{label} (single, 3 seeds)" for label in found]
    assert list(found) == aggregates.by_iqm(pooled)
    for ax, name in zip(figure.axes, AGGREGATES, strict=True):
        rows = [estimates[name] for estimates in found.values()]
        thick = [line for line in ax.lines if line.get_linewidth() == 3]
        ends = [tuple(line.get_xdata()) for line in thick]
        assert ends == [(row.low, row.high) for row in rows]
        dots = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
        assert dots == [row.value for row in rows]
    assert "0 untrained policies" in figure.get_supxlabel()


def lines_of(ax):
    """Coloured lines by label."""
    return {line.get_label(): line.get_xydata() for line in ax.lines}


def test_profiles_show_the_share_of_runs_above(pooled, monkeypatch):
    found = aggregates.profiles(pooled)
    figure = drawn(
        monkeypatch,
        aggregates,
        lambda: aggregates.draw_profiles(pooled, found, Path("x")),
    )
    (ax,) = figure.axes
    assert len(ax.lines) == len(ax.collections) == 2
    for label, points in lines_of(ax).items():
        scores = pooled.scores[label]
        above = [(scores > tau).mean() for tau in points[:, 0]]
        np.testing.assert_allclose(points[:, 1], above)
        assert points[0, 0] <= scores.min() and points[-1, 1] == 0
    assert "τ (0 untrained policies" in ax.get_xlabel() and "> τ" in ax.get_ylabel()
    assert "pointwise 95 % stratified bootstrap" in figure.get_suptitle()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{label} (single, 3 seeds)" for label in found
    ]


def test_sample_efficiency_shows_the_iqm_of_every_evaluation(pooled, monkeypatch):
    found = aggregates.efficiency(pooled)
    figure = drawn(
        monkeypatch,
        aggregates,
        lambda: aggregates.draw_efficiency(pooled, found, Path("x")),
    )
    (ax,) = figure.axes
    for label, points in lines_of(ax).items():
        steps, values = pooled.curves[label]
        np.testing.assert_array_equal(points[:, 0], steps)
        expected = [iqm(values[..., i]) for i in range(len(steps))]
        np.testing.assert_allclose(points[:, 1], expected)


def test_many_settings_get_a_panel_each(pooled, monkeypatch):
    many = crowd(pooled)
    found = aggregates.efficiency(many)
    figure = drawn(
        monkeypatch,
        aggregates,
        lambda: aggregates.draw_efficiency(many, found, Path("x")),
    )
    assert len(figure.axes) == 8 and not figure.legends
    (limits,) = {ax.get_ylim() for ax in figure.axes}  # only the first column has ticks
    assert limits[1] > max(line.band.high.max() for line in found.values())
    for ax, (label, line) in zip(figure.axes, found.items(), strict=True):
        assert ax.get_title("left") == f"{label}\nsingle, 3 seeds"
        assert len(ax.lines) == 8 + 1 and len(ax.collections) == 1
        np.testing.assert_array_equal(ax.lines[-1].get_ydata(), line.band.value)


@pytest.mark.parametrize("name", ["estimates", "profiles", "efficiency"])
def test_one_seed_has_no_interval_in_a_picture_and_it_says_so(
    pooled, monkeypatch, name
):
    alone = replace(
        pooled,
        scores={k: x[:, :1] for k, x in pooled.scores.items()},
        curves={k: (s, x[:, :1]) for k, (s, x) in pooled.curves.items()},
    )
    draws = (10,) if name == "estimates" else ()
    found = getattr(aggregates, name)(alone, *draws)
    figure = drawn(
        monkeypatch,
        aggregates,
        lambda: getattr(aggregates, f"draw_{name}")(alone, found, Path("x")),
    )
    assert "1 seed: no interval" in figure.get_suptitle()
    for ax in figure.axes:
        assert not ax.collections
        assert all(line.get_linewidth() != 3 for line in ax.lines)


def test_learning_curves_of_one_seed_say_so(runs):
    figure = Figure()
    groups = group_runs([runs[0], runs[6]])
    looks = dict.fromkeys((g.label for g in groups), curves.Look("C0", "solid"))
    names = curves.legend_names(groups, None)
    curves.draw_groups(figure.subplots(), groups, looks, names)
    assert figure.axes[0].get_ylabel() == "Return (1 seed: no interval)"


def test_learning_curves_name_samplers_that_differ(runs, monkeypatch):
    mode = [relabelled(run, "single", "mode") for run in runs[6:9]]
    figure = drawn(
        monkeypatch,
        curves,
        lambda: curves.learning_curve([*runs[:3], *mode], Path("x")),
    )
    (ax,) = figure.axes
    assert ax.get_title("left") == TASKS[0]
    assert labels(ax) == [
        "SiMPO, Linear(floor=-0.2) (single, 3 seeds)",
        "SiMPO, Linear(floor=0.0) (mode, 3 seeds)",
    ]


def test_learning_curves_of_many_settings_share_a_legend(tmp_path, monkeypatch):
    runs = [made(tmp_path / str(i), label=f"agent {i}") for i in range(8)]
    runs += [made(tmp_path / "b", label="agent 0", seed=1)]
    figure = drawn(monkeypatch, curves, lambda: curves.learning_curve(runs, Path("x")))
    (ax,), (legend,) = figure.axes, figure.legends
    assert ax.get_legend() is None and len(ax.lines) == 8
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:2] == [
        "agent 0, Linear(floor=-0.2) (2 seeds)",
        "agent 1, Linear(floor=-0.2) (1 seed)",
    ]
    assert "none for 1 seed" in ax.get_ylabel()
    looks = {(line.get_color(), str(line.get_linestyle())) for line in ax.lines}
    assert len(looks) == 8


# The command

PICTURES = ("learning_curve", "statistics", "profiles", "sample_efficiency")


def test_the_command_compares_folders(runs, tmp_path, capsys):
    folder, out = runs[0].directory.parents[1], tmp_path / "out"
    assert cli.main([str(folder), "--out", str(out), "--draws", "50"]) == 0
    text, _, paths = capsys.readouterr().out.rpartition("\n\n")
    expected = [f"{name}.{kind}" for name in PICTURES for kind in ("png", "svg")]
    assert paths.split() == [str(out / name) for name in [*expected, "scores.csv"]]
    assert all((out / name).stat().st_size > 5_000 for name in expected)
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["seeds"] for row in rows} == {"3"}
    assert {row["sampler"] for row in rows} == {"single"}
    (one,) = [
        row
        for row in rows
        if (row["setting"], row["statistic"]) == ("SiMPO, Linear(floor=0.0)", "IQM")
    ]
    scores = compare_runs(runs).pooled.scores[one["setting"]]
    assert float(one["value"]) == pytest.approx(float(iqm(scores)))
    assert f"{float(one['value']):.3f} [" in text
    assert not any("best" in name or "max" in name for row in rows for name in row)


def test_the_command_keeps_versions_of_a_task_apart(tmp_path, capsys):
    for env in ("Hopper-v4", "Hopper-v5"):
        for seed in range(2):
            made(tmp_path / "runs" / env / str(seed), env=env, seed=seed)
    out = tmp_path / "out"
    assert cli.main([str(tmp_path / "runs"), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "nothing is pooled: Hopper-v4 and Hopper-v5 are versions of one task" in text
    assert sorted(path.name for path in out.iterdir()) == [
        "learning_curve.png", "learning_curve.svg", "scores.csv",
    ]  # fmt: skip
    with (out / "scores.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["statistic"] == "mean"]
    assert [(r["task"], r["seeds"]) for r in rows] == [
        ("Hopper-v4", "2"),
        ("Hopper-v5", "2"),
    ]


def test_a_folder_with_one_run_is_that_run(tmp_path, capsys, monkeypatch):
    made(tmp_path / "only")
    monkeypatch.setattr(plotting, "plot_run", lambda path, out: [path, out])
    assert cli.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "only"), "None"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--draws", "0"], "draws must be at least 1, not 0"),
        (["--sampler", "mode"], "has no evaluation with sampler 'mode' to compare"),
    ],
)
def test_the_command_explains_mistakes(runs, options, message):
    directories = [str(run.directory) for run in runs[:2]]
    with pytest.raises(SimpoError, match=re.escape(message)):
        cli.main([*directories, *options])
