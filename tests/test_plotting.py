import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from simpo.cli import plot as cli
from simpo.loggers import CsvLogger
from simpo.plotting import (
    curves,
    diagnostics,
    learning_curve,
    mean_interval,
    panels,
    plot_run,
    read_run,
    weights,
    weights_against_q,
)
from simpo.plotting.style import STYLE
from simpo.types import SimpoError

N, STATES = 32, 16


def linear_weights(q, floor, temperature=0.6):
    """Linear weights by bisection on the multiplier."""
    low, high = q.min() - 10 * temperature * N, q.max()
    for _ in range(100):
        nu = (low + high) / 2
        w = np.maximum(N * (q - nu) / temperature, floor)
        low, high = (nu, high) if w.mean() > 1 else (low, nu)
    return w


def write_candidates(directory, rng, floor):
    lines = ["state,candidate,q,weight"]
    for s in range(STATES):
        q = 300 + 40 * rng.random() + (1 + 0.3 * s / STATES) * rng.normal(size=N)
        w = linear_weights(q, floor, temperature=6.0)
        lines += [f"{s},{i},{float(q[i])},{float(w[i])}" for i in range(N)]
    (directory / "candidates.csv").write_text("\n".join(lines) + "\n")


def make_run(
    directory,
    *,
    env="InvertedDoublePendulum-v5",
    floor=-0.2,
    seed=0,
    steps=60_000,
    shift=0,
    best_of=10,
    **settings,
):
    """A run as training writes it: trends, noise, and nothing in the warm-up."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed + 10_000 * (floor < 0))
    delay = 0.45 + 0.06 * rng.normal()
    weighting = {"type": "Linear", "floor": floor}
    target = {"type": "EntropyTarget", "nats": 1.5}
    agent = {"type": "SiMPO", "weighting": weighting, "candidates": N}
    agent["temperature"] = {"type": "DualAscent", "target": target}
    config = {"type": "Run", "env": env, "seed": seed, "steps": steps, "agent": agent}
    (directory / "config.json").write_text(json.dumps(config | settings))
    logger = CsvLogger(directory)

    def level(step):
        return 60 + 9240 / (1 + np.exp(-(step / steps - delay) * 12 - (floor < 0)))

    for step in range(0, steps + 1, steps // 6):
        rows = []
        for sampler in ("single", f"best-of-{best_of}"):
            spread, share = (900, 0.9) if sampler == "single" else (300, 1.0)
            for e in range(20):
                score = min(
                    level(step) * share + spread * rng.normal() * step / steps, 9360
                )
                row = {"sampler": sampler, "denoising_steps": 20, "episode": e}
                rows.append(row | {"return_": score, "length": 1000})
        logger.log_episodes(step + shift * (step > 0), rows)
    for step in range(steps // 60, steps + 1, steps // 60):
        done, noise = step / steps, 1 + 0.1 * rng.normal()
        row = {"updates": step // 2}
        row["rollout/ep_rew_mean"] = 0.9 * level(step) * noise
        row["rollout/ep_len_mean"] = 1000.0
        row["time/fps"] = 900.0
        if done > 0.1:
            row |= {
                "train/critic_loss": 10 ** (3 - 2 * done) * noise,
                "train/q_mean": 300 * done * noise,
                "train/q_target": 302 * done * noise,
                "train/multiplier": 290 * done * noise,
                "train/actor_loss": 0.4 - 0.3 * done + 0.02 * rng.normal(),
                "train/matching_error": 0.5 - 0.2 * done + 0.02 * rng.normal(),
                "train/temperature": 10 ** (0.5 * done) * noise,
                "train/weight_max": 8 * noise,
                "train/weight_min": floor,
                "train/weight_negative_mass": 0.1 * noise,
                "train/weight_negative_fraction": 0.5 * noise,
                "train/weight_active": 0.5,
                "train/weight_ess": 8 * noise,
                "train/weight_kl": 1.5 + 0.5 * np.exp(-9 * done) * noise,
                "train/q_std_candidates": 10 * np.exp(-2 * done) * noise,
                "train/clipped_fraction": 0.02 * noise,
                "train/edge_fraction": 0.3 * done * noise,
                "train/candidate_spread": 0.6 - 0.3 * done * noise,
                "train/actor_grad_norm": 0.5 * noise,
                "train/critic_grad_norm": 50 * noise,
            }
        logger.log(step, row)
    write_candidates(directory, rng, floor)
    return directory


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "a")


@pytest.fixture(scope="module")
def run(run_directory):
    return read_run(run_directory)


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context(STYLE):
        yield


def axes():
    return Figure().subplots()


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def drawn(monkeypatch, module, call):
    """The figure that a call fills, not saved."""
    figures = []

    def keep(out, size, fill):
        figure = Figure(figsize=size)
        fill(figure)
        figures.append(figure)
        return []

    monkeypatch.setattr(module, "draw", keep)
    call()
    return figures[0]


# Reading


def test_reads_what_training_wrote(run):
    assert run.title == ("InvertedDoublePendulum-v5: SiMPO, Linear(floor=-0.2), seed 0")
    assert len(run.progress["step"]) == 60
    assert np.isnan(run.progress["train/weight_ess"][:5]).all()
    assert np.isfinite(run.progress["train/weight_ess"][6:]).all()
    assert len(run.evaluations["return"]) == 7 * 2 * 20
    assert set(run.evaluations["sampler"]) == {"single", "best-of-10"}
    assert len(run.candidates["q"]) == STATES * N


def test_an_agent_without_weighting_goes_by_its_name(run):
    assert replace(run, config=run.config | {"agent": {"type": "SAC"}}).label == "SAC"


def damage(directory, name, change):
    path = directory / name
    path.write_text(change(path.read_text()))


def replace_line(number, text):
    def change(content):
        lines = content.splitlines()
        lines[number - 1] = text
        return "\n".join(lines) + "\n"

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda s: s[:-9], "config.json is damaged: line 1"),
        ("config.json", lambda s: "[1]", "config.json is damaged: it must name env"),
        ("config.json", lambda s: "{}", "config.json is damaged: it must name env"),
        ("evaluations.csv", replace_line(3, "0,single,2"), "line 3: 3 values for 6"),
        (
            "evaluations.csv",
            replace_line(5, "0,single,20,3,many,1000"),
            "evaluations.csv is damaged: line 5: return is 'many', not a number",
        ),
        (
            "evaluations.csv",
            replace_line(1, "step,sampler,denoising_steps,episode,score,length"),
            "line 1: no column 'return'",
        ),
        ("candidates.csv", replace_line(2, "0,0,,1.0"), "csv is damaged: q is not fin"),
        ("progress.csv", lambda s: "\n".join(s.splitlines()[1:]), "line 1: no column"),
    ],
)
def test_damaged_files_are_named_with_the_line(tmp_path, name, change, message):
    directory = make_run(tmp_path / "a", steps=600)
    damage(directory, name, change)
    with pytest.raises(SimpoError, match=re.escape(message)):
        read_run(directory)


def test_what_is_no_run_directory_is_refused(tmp_path):
    with pytest.raises(SimpoError, match="not a run directory: no config"):
        read_run(tmp_path)
    with pytest.raises(SimpoError, match="not a run directory: it does not exist"):
        read_run(tmp_path / "nowhere")


def test_a_run_that_logged_nothing_has_nothing_to_plot(tmp_path):
    directory = make_run(tmp_path / "a", steps=600)
    for name in ("progress.csv", "candidates.csv"):
        (directory / name).unlink()
    damage(directory, "evaluations.csv", lambda s: s.splitlines()[0] + "\n")
    with pytest.raises(SimpoError, match="nothing to plot yet"):
        read_run(directory)


# Intervals


@pytest.mark.parametrize("n", [2, 5, 20])
def test_intervals_are_students(n):
    values = np.random.default_rng(n).normal(3, 2, (n, 4))
    got = mean_interval(values, level=0.9)
    expected = stats.t.interval(0.9, n - 1, values.mean(0), stats.sem(values))
    np.testing.assert_allclose(got.mean, values.mean(0))
    np.testing.assert_allclose((got.low, got.high), expected)


def test_one_value_has_no_interval():
    got = mean_interval(np.array([[3.0, 4.0]]))
    np.testing.assert_array_equal(got.mean, [3, 4])
    assert np.isnan(got.low).all() and np.isnan(got.high).all()


# Learning curves


def band(ax, number):
    """Vertices of a band: at each x its lowest and highest y."""
    path = ax.collections[number].get_paths()[0].vertices
    return {x: (path[path[:, 0] == x, 1].min(), path[path[:, 0] == x, 1].max())
            for x in np.unique(path[:, 0])}  # fmt: skip


def test_a_run_shows_every_sampler_and_training(run):
    ax = axes()
    curves.draw_run(ax, run)
    assert labels(ax) == [
        "training",
        "single sample (20 episodes)",
        "best of 10 (20 episodes)",
    ]
    assert ax.get_xlabel() == "Environment steps"
    assert "95 % t-interval over episodes" in ax.get_ylabel()
    table = run.evaluations
    rows = (table["sampler"] == "single") & (table["step"] == 30_000)
    scores = table["return"][rows]
    line = ax.lines[1].get_xydata()
    np.testing.assert_allclose(line[line[:, 0] == 30_000], [[30_000, scores.mean()]])
    expected = stats.t.interval(0.95, 19, scores.mean(), stats.sem(scores))
    np.testing.assert_allclose(band(ax, 0)[30_000], expected)


def test_steps_are_short_and_start_at_zero(run):
    figure = Figure()
    ax = figure.subplots()
    curves.draw_run(ax, run)
    figure.draw_without_rendering()
    ticks = [t.get_text() for t in ax.get_xticklabels()]
    assert ax.get_xlim()[0] == 0 and {"0", "20k", "60k"} <= set(ticks)
    assert "8,000" in [t.get_text() for t in ax.get_yticklabels()]


def test_samplers_of_different_denoising_steps_are_apart(run):
    steps = run.evaluations["denoising_steps"].copy()
    steps[run.evaluations["sampler"] == "single"] = 5
    table = run.evaluations | {"denoising_steps": steps}
    ax = axes()
    curves.draw_run(ax, replace(run, evaluations=table))
    assert labels(ax)[1:] == [
        "single sample, 5 steps (20 episodes)",
        "best of 10, 20 steps (20 episodes)",
    ]


def final_mean(run):
    table = run.evaluations
    last = table["step"] == table["step"].max()
    return table["return"][last & (table["sampler"] == "single")].mean()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    root = tmp_path_factory.mktemp("seeds")
    return [
        read_run(make_run(root / f"{floor}{seed}", floor=floor, seed=seed, shift=seed))
        for floor in (-0.2, 0.0)
        for seed in range(4)
    ]


def test_seeds_are_averaged_and_weightings_are_not(seeds, monkeypatch):
    figure = drawn(monkeypatch, curves, lambda: learning_curve(seeds, Path("x")))
    (ax,) = figure.axes
    assert labels(ax) == [
        "SiMPO, Linear(floor=-0.2) (4 seeds)",
        "SiMPO, Linear(floor=0.0) (4 seeds)",
    ]
    assert len(ax.lines) == 2 * (4 + 1)
    assert len({line.get_color() for line in ax.lines}) == 2
    assert "over seeds" in ax.get_ylabel() and "single sample" in ax.get_title("left")
    finals = [final_mean(run) for run in seeds[:4]]
    steps, means = ax.lines[4].get_xydata()[-1]
    assert steps == 60_000
    np.testing.assert_allclose(means, np.mean(finals), rtol=1e-3)
    expected = stats.t.interval(0.95, 3, np.mean(finals), stats.sem(finals))
    np.testing.assert_allclose(band(ax, 0)[60_000], expected, rtol=1e-3)


def test_curves_a_few_steps_apart_are_interpolated_as_far_as_all_reach():
    first = np.array([0.0, 10, 20, 30]), np.array([0.0, 1, 2, 3])
    second = np.array([0.0, 11, 25]), np.array([0.0, 11, 25])
    steps, values = curves.align([first, second])
    np.testing.assert_array_equal(steps, [0, 10, 20, 25])
    np.testing.assert_allclose(values, [[0, 1, 2, 2.5], [0, 10, 20, 25]])


def test_tasks_are_never_pooled(seeds, tmp_path, monkeypatch):
    other = read_run(make_run(tmp_path / "b", env="Hopper-v5"))
    figure = drawn(
        monkeypatch, curves, lambda: learning_curve([*seeds, other], Path("x"))
    )
    titles = [ax.get_title("left") for ax in figure.axes]
    assert titles == [
        "InvertedDoublePendulum-v5, single sample",
        "Hopper-v5, single sample",
    ]
    assert labels(figure.axes[1]) == ["SiMPO, Linear(floor=-0.2) (1 seed)"]
    assert len(figure.axes[1].lines) == 1


def test_settings_that_differ_are_named_and_not_pooled(seeds, tmp_path, monkeypatch):
    other = read_run(make_run(tmp_path / "b", seed=9, num_envs=8))
    figure = drawn(
        monkeypatch, curves, lambda: learning_curve([seeds[0], other], Path("x"))
    )
    assert labels(figure.axes[0]) == [
        "SiMPO, Linear(floor=-0.2), num_envs=None (1 seed)",
        "SiMPO, Linear(floor=-0.2), num_envs=8 (1 seed)",
    ]


def test_the_same_run_twice_is_no_second_seed(seeds):
    twin = replace(seeds[0], directory=Path("twin"))
    with pytest.raises(SimpoError, match=r"twin are the same run \(seed 0\)"):
        learning_curve([seeds[0], twin], Path("x"))


def test_runs_without_a_common_sampler_are_not_compared(seeds):
    table = seeds[1].evaluations
    kept = {k: v[table["sampler"] != "single"] for k, v in table.items()}
    with pytest.raises(SimpoError, match="no evaluation with sampler 'single'"):
        learning_curve([seeds[0], replace(seeds[1], evaluations=kept)], Path("x"))


# Weights


def test_advantages_are_normalised_in_each_state():
    q = np.array([1.0, 2, 3, 50, 70, 5, 5])
    state = np.array([0, 0, 0, 1, 1, 7, 7])
    got = weights.normalised_advantage(q, state)
    np.testing.assert_allclose(got[:3], stats.zscore(q[:3]))
    np.testing.assert_allclose(got[3:], [-1, 1, 0, 0])


def test_weights_show_what_attracts_and_what_repels(run):
    ax = axes()
    weights.draw_weights(ax, run)
    w = run.candidates["weight"]
    dots = ax.collections[-1]
    np.testing.assert_array_equal(dots.get_offsets()[:, 1], w)
    colors = {tuple(c[:3]): w[(dots.get_facecolors() == c).all(1)]
              for c in np.unique(dots.get_facecolors(), axis=0)}  # fmt: skip
    assert len(colors) == 2
    assert {bool((own < 0).all()) for own in colors.values()} == {True, False}
    texts = [t.get_text() for t in ax.texts]
    assert f"repels: {np.mean(w < 0):.0%} of candidates" in texts
    assert f"attracts: {np.mean(w > 0):.0%} of candidates" in texts
    assert "Linear(floor=-0.2)" in ax.get_title("left")
    assert "Normalised advantage" in ax.get_xlabel()
    assert ax.get_title("right").startswith("16 states")


def height(ax, low, high):
    """Part of the axes' height between two weights."""
    points = ax.transData.transform([(0, low), (0, high)])[:, 1]
    return (points[1] - points[0]) / ax.bbox.height


@pytest.mark.parametrize("floor", [-0.01, -0.2, -1.0, -20.0])
def test_the_negative_part_is_never_too_thin_to_see(run, floor):
    rng = np.random.default_rng(0)
    weight = np.maximum(rng.normal(1, 5, 512), floor)
    candidates = {"state": run.candidates["state"], "q": weight, "weight": weight}
    ax = axes()
    weights.draw_weights(ax, replace(run, candidates=candidates))
    assert height(ax, ax.get_ylim()[0], 0) > 0.15
    assert ax.get_ylim()[0] < weight.min() and ax.get_ylim()[1] > weight.max()
    assert min(ax.get_yticks()) == weight.min()
    stretched = re.search(r"below 0 drawn (\d+)", ax.get_ylabel())
    ratio = height(ax, -0.001, 0) / height(ax, 0, 0.001)
    np.testing.assert_allclose(ratio, int(stretched[1]) if stretched else 1)


def test_without_negative_weights_nothing_repels(run):
    weight = np.abs(run.candidates["weight"])
    ax = axes()
    weights.draw_weights(
        ax, replace(run, candidates=run.candidates | {"weight": weight})
    )
    assert "repels: 0% of candidates" in [t.get_text() for t in ax.texts]
    assert ax.get_ylabel() == "Weight w"


def test_only_weights_of_mean_one_show_the_line_of_no_change(run):
    for factor, shown in ((1.0, True), (2.0, False)):
        weight = factor * run.candidates["weight"]
        ax = axes()
        weights.draw_weights(
            ax, replace(run, candidates=run.candidates | {"weight": weight})
        )
        assert any("unchanged" in t.get_text() for t in ax.texts) == shown


# Diagnostics


def panels_of(run, monkeypatch):
    figure = drawn(monkeypatch, panels, lambda: diagnostics(run, Path("x")))
    return {ax.get_title("left"): ax for ax in figure.axes}


def test_diagnostics_show_what_was_logged(run, monkeypatch):
    shown = panels_of(run, monkeypatch)
    assert len(shown) == 12 and all(ax.get_ylabel() for ax in shown.values())
    divergence = shown["Divergence from uniform"]
    assert labels(divergence) == ["used", "target 1.5"]
    assert divergence.lines[1].get_ydata() == [1.5, 1.5]
    assert labels(shown["Effective sample size"]) == ["used", "N = 32"]
    assert len(shown["Values"].lines) == 3
    assert shown["Critic loss"].get_yscale() == "log"
    assert shown["Matching"].get_yscale() == "linear"
    got = shown["Critic loss"].lines[0].get_ydata()
    np.testing.assert_array_equal(got, run.progress["train/critic_loss"])


def test_diagnostics_leave_out_what_was_not(run, monkeypatch):
    kept = {k: v for k, v in run.progress.items() if "weight" not in k}
    kept["train/temperature"] = np.full(60, np.nan)
    agent = {"type": "SAC", "temperature": {"type": "Fixed", "value": 1.0}}
    bare = replace(run, progress=kept, config=run.config | {"agent": agent})
    shown = panels_of(bare, monkeypatch)
    assert len(shown) == 7 and "Temperature" not in shown
    with pytest.raises(SimpoError, match="no update was logged"):
        diagnostics(replace(run, progress={"step": np.zeros(1)}), Path("x"))


def test_a_logarithmic_axis_needs_values_that_span_one(run, monkeypatch):
    loss = 1 + 0.01 * np.arange(60)
    flat = run.progress | {"train/critic_loss": loss}
    shown = panels_of(replace(run, progress=flat), monkeypatch)
    assert shown["Critic loss"].get_yscale() == "linear"


def test_rounding_errors_are_not_blown_up(run, monkeypatch):
    used = 1.5 + 1e-8 * np.arange(60)
    solved = run.progress | {"train/weight_kl": used}
    shown = panels_of(replace(run, progress=solved), monkeypatch)
    low, high = shown["Divergence from uniform"].get_ylim()
    np.testing.assert_allclose([low, high], [1.4625, 1.5375], atol=1e-3)


# Files


def test_a_run_directory_gets_its_pictures(run_directory, capsys):
    assert cli.main([str(run_directory)]) == 0
    names = ["learning_curve", "diagnostics", "weights_against_q", "overview"]
    expected = [
        run_directory / "plots" / f"{name}.{kind}"
        for name in names
        for kind in ("png", "svg")
    ]
    assert capsys.readouterr().out.split() == [str(path) for path in expected]
    for path in expected:
        start = path.read_bytes()[:8]
        assert start.startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")


def test_equal_data_give_equal_bytes(seeds, tmp_path):
    for draw in (
        lambda out: learning_curve(seeds, out),
        lambda out: weights_against_q(seeds[0], out),
    ):
        first, second = draw(tmp_path / "1"), draw(tmp_path / "2")
        for a, b in zip(first, second, strict=True):
            assert a.read_bytes() == b.read_bytes()
        assert b"<dc:date>" not in first[1].read_bytes()


def test_a_run_without_candidates_shows_the_rest(tmp_path, run):
    directory = make_run(tmp_path / "a", steps=600)
    (directory / "candidates.csv").unlink()
    names = {path.stem for path in plot_run(directory)}
    assert names == {"learning_curve", "diagnostics", "overview"}
    with pytest.raises(SimpoError, match=r"no candidates\.csv"):
        weights_against_q(read_run(directory), tmp_path / "w")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "which run"),
        (["nowhere"], "nowhere is not a run directory"),
        (["a", "--otu", "b"], "unknown option '--otu'; did you mean '--out'"),
        (["a", "--out"], "Missing value for argument '--out'"),
    ],
)
def test_the_command_explains_mistakes(argv, message):
    with pytest.raises(SimpoError, match=re.escape(message)):
        cli.main(argv)


def test_plotting_loads_no_jax():
    code = (
        "import sys, simpo.plotting, simpo.cli.plot, simpo.cli.doctor\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
