import contextlib
import csv
import io
import json
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from simpo.agents import AGENTS, DPPO, PPO, QSM, SAC, TD3, Mode
from simpo.agents.denoising import denoising_steps, with_denoising_steps
from simpo.agents.qsm import Langevin
from simpo.checkpoint import save_policy
from simpo.cli import bar, main
from simpo.cli.bar import LateBar, Watcher
from simpo.cli.scores import COLUMNS, Result, Setting, show, summarise, write
from simpo.envs import Episode, Step
from simpo.evaluation import EpisodeRow, Latency
from simpo.plotting.denoising import Point, draw_lines, return_against_steps
from simpo.types import EnvSpec, SimpoError, SimpoWarning
from tiny import tiny

pytestmark = pytest.mark.usefixtures("elsewhere")

SPEC = EnvSpec(4, 1)
GRID = ["--episodes", 4, "--best-of", 1, 3, "--denoising-steps", 1, 2]


def zeros(agent):
    """Parameters of the right shapes, which need no compilation."""
    shapes = jax.eval_shape(
        lambda key: agent.policy(agent.init(key, SPEC)), jax.random.key(0)
    )
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def saved(folder, agent, policy=None):
    policy = policy or zeros(agent)
    env = "InvertedPendulum-v5"
    return save_policy(folder, agent, SPEC, policy, env=env, step=0)


@pytest.fixture(scope="module")
def grid(run):
    """Rows of a whole grid, and what was printed."""
    path, out = run / "grid.csv", io.StringIO()
    with contextlib.redirect_stdout(out):
        evaluate(run, *GRID, "--csv", path)
    return read(path), out.getvalue()


def evaluate(run, *words):
    assert main(["eval", str(run), *map(str, words)]) == 0


def read(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def refuse(capfd, argv, message):
    before = sorted(Path().rglob("*"))
    assert main([str(word) for word in argv]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("simpo: error: ") and err.count("\n") == 1
    assert message in err, err
    assert sorted(Path().rglob("*")) == before


# The grid


def test_every_sampler_is_played_with_every_number_of_steps(run, grid):
    rows, out = grid
    assert list(rows[0]) == [
        *("env", "sampler", "denoising_steps", "episode", "return", "length"),
        "latency_ms",
    ]
    settings = [(row["sampler"], row["denoising_steps"]) for row in rows[::4]]
    assert settings == [(s, t) for s in ("single", "best-of-3") for t in "12"]
    assert [row["episode"] for row in rows] == list("0123") * 4
    assert all(float(row["latency_ms"]) > 0 for row in rows)
    lines = [line.split() for line in out.splitlines()]
    shown = [tuple(w[:2]) for w in lines if w and w[0] in ("single", "best-of-3")]
    assert shown == settings
    assert len({tuple(r["return"] for r in rows[i : i + 4]) for i in (0, 4)}) == 2
    assert [Path(line) for line in out.split() if "/" in line] == [
        run / "plots" / f"denoising.{kind}" for kind in ("png", "svg")
    ]
    assert (run / "plots" / "denoising.png").stat().st_size > 10_000


def test_the_steps_of_training_are_the_default(run, grid, capfd):
    evaluate(run, "--episodes", 4, "--best-of", 1, 3, "--csv", "own.csv")
    out, err = capfd.readouterr()
    assert "denoising.png" not in out and err == ""
    own = read("own.csv")
    assert {row["denoising_steps"] for row in own} == {"2"}
    same = [row for row in grid[0] if row["denoising_steps"] == "2"]
    for row in (*own, *same):
        row.pop("latency_ms", None)
    assert own == same


def test_settings_named_twice_are_played_once(run):
    words = ["--episodes", 1, "--best-of", 1, 1, "--denoising-steps", 2, 2]
    evaluate(run, *words, "--csv", "rows.csv")
    assert len(read("rows.csv")) == 1


def test_json_has_what_the_table_has(run, grid, capfd):
    words = ["--episodes", 4, "--best-of", 1, "--denoising-steps", 1, 2]
    evaluate(run, *words, "--json")
    report = json.loads(capfd.readouterr().out)
    assert report["env"] == "InvertedPendulum-v5" and report["seed"] == 1_000_000
    assert len(report["settings"]) == 2 and len(report["files"]) == 2
    returns = [float(row["return"]) for row in grid[0][:4]]
    first = report["settings"][0]
    assert (first["sampler"], first["denoising_steps"]) == ("single", 1)
    assert first["mean"] == pytest.approx(np.mean(returns))
    assert first["latency_ms"].keys() == {"median", "p95"}


def result(returns, steps=2):
    rows = [EpisodeRow("single", i, r, 1) for i, r in enumerate(returns)]
    return Result(Setting(None, Mode(), steps), rows, Latency(1.0, 2.0), [])


def test_a_summary():
    """Student's t of 3 degrees of freedom is 3.1824."""
    found = summarise(result([0.0, 1.0, 2.0, 9.0]))
    half = 3.182446 * np.std([0, 1, 2, 9], ddof=1) / 2
    assert found["mean"] == 3.0 and found["median"] == 1.5 and found["iqm"] == 1.5
    assert (found["min"], found["max"]) == (0.0, 9.0)
    assert (found["low"], found["high"]) == pytest.approx((3 - half, 3 + half))
    assert found["latency_ms"] == {"median": 1.0, "p95": 2.0}
    assert summarise(result([0.0, 1.0, 2.0]))["iqm"] is None
    alone = summarise(result([5.0]))
    assert alone["mean"] == 5.0 and alone["low"] is alone["high"] is None
    assert "NaN" not in json.dumps(alone)


def told(*speeds):
    """A result of episodes with these speeds, and return 1."""
    rows = [EpisodeRow("single", i, 1.0, 1, v) for i, v in enumerate(speeds)]
    return result([])._replace(rows=rows)


def test_speeds_are_shown_where_the_task_tells_them(tmp_path, capsys):
    """Student's t of 1 degree of freedom is 12.706."""
    path, results = tmp_path / "rows.csv", [told(2.0, 4.0), told(3.0, 3.0)]
    found = summarise(results[0])["speed"]
    expected = {"mean": 3, "low": 3 - 12.7062, "high": 3 + 12.7062}
    assert found == pytest.approx(expected, rel=1e-5)
    show(results, "Task-v0", "cpu")
    head, _, first, second = capsys.readouterr().out.splitlines()[2:6]
    assert head.split()[-4:] == ["speed", "±", "95", "%"]
    assert first.split()[-3:] == ["3", "±", "12.7"]
    assert second.split()[-3:] == ["3", "±", "0"]
    write(path, results, "Task-v0")
    assert [float(row["speed"]) for row in read(path)] == [2.0, 4.0, 3.0, 3.0]


def test_other_tasks_have_no_column_of_speeds(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    for results in ([result([1.0])], [told(1.0, None)]):
        assert "speed" not in summarise(results[0])
        show(results, "Task-v0", "cpu")
        assert "speed" not in capsys.readouterr().out
        write(path, results, "Task-v0")
        assert path.read_text().splitlines()[0] == ",".join(COLUMNS)


@pytest.mark.parametrize("cls", AGENTS)
def test_denoising_steps_change_how_an_agent_acts_or_are_refused(cls):
    agent, obs = tiny(cls), np.zeros((2, 4), np.float32)
    if denoising_steps(agent) is None:
        assert cls in (PPO, SAC, TD3)
        with pytest.raises(SimpoError, match=f"{cls.__name__} has no denoising steps"):
            with_denoising_steps(agent, 5)
        return
    policy = zeros(agent)
    mode, key = agent.evaluating[0], jax.random.key(1)
    programs = {
        str(jax.make_jaxpr(lambda *x, a=a: a.act(*x, mode))(policy, obs, key))
        for a in (agent, with_denoising_steps(agent, 2), with_denoising_steps(agent, 5))
    }
    assert len(programs) == 2


def test_labels_name_the_steps():
    assert Setting(None, Mode(), None).label == "single"
    assert Setting(None, Mode(), 1).label == "single, 1 step"
    assert Setting(None, Mode(best_of=10), 5).label == "best-of-10, 5 steps"


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--denoising-steps", 0], "--denoising-steps must be at least 1"),
        (["--denoising-steps", 5, -1], "--denoising-steps must be at least 1"),
        (["--denoising-steps", "five"], "--denoising-steps"),
        (["--best-of", 3, 0], "--best-of must be at least 1"),
        (["--episodes", 0], "--episodes must be at least 1"),
        (["--video", 0], "--video must be at least 1"),
        (["--video", -1], "--video must be at least 1"),
        (["--video=0"], "--video must be at least 1"),
        (["--video", 3, "--episodes", 2], "--video must not be more than --episodes"),
        (["--video-dir", "there"], "--video-dir needs --video"),
        (["--video", "--video-dir", "file/x"], "cannot write videos to file/x"),
        (["--video", "--video-dir", "file"], "cannot write videos to file"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_one_line(run, capfd, words, message):
    Path("file").touch()
    refuse(capfd, ["eval", run, *words], message)


@pytest.mark.parametrize(
    ("agent", "words", "message"),
    [
        (tiny(SAC), ["--denoising-steps", 5], "SAC has no denoising steps"),
        (
            tiny(QSM, dynamics=Langevin()),
            ["--denoising-steps", 5],
            "QSM has no denoising steps",
        ),
        (tiny(PPO), ["--best-of", 1, 4], "PPO has no action values to choose by"),
        (tiny(DPPO), ["--best-of", 4], "DPPO has no action values to choose by"),
        (tiny(TD3), ["--best-of", 4], "TD3 has one action per state to choose from"),
    ],
    ids=["SAC", "QSM", "PPO", "DPPO", "TD3"],
)
def test_what_an_agent_cannot_do_is_told_before_anything_is_played(
    capfd, agent, words, message
):
    saved(Path("p"), agent)
    refuse(capfd, ["eval", "p", *words], message)


def test_a_picture_that_cannot_be_written_is_a_warning(capfd):
    saved(Path("r/policy"), tiny())
    Path("r/plots").touch()
    words = ["--episodes", 1, "--best-of", 1, "--denoising-steps", 1, 2]
    with pytest.warns(SimpoWarning, match="cannot write r/plots: File exists"):
        evaluate("r", *words)
    assert "single" in capfd.readouterr().out


# What is seen on the way


def step(*ended):
    return Step(None, None, [Episode(1.0, 1, e) for e in ended], None, {})


class Seen(list):
    def update(self, description, completed):
        self.append((description, completed))


def test_actions_are_kept_to_the_end_of_the_first_episodes():
    seen = Seen()
    watch = Watcher(seen, "x", before=10, episodes=3, limit=4, kept=2)
    for i, ended in enumerate([(), (1,), (1,), (0, 2)]):
        watch(np.full((3, 1), i), step(*ended))
    assert [np.ravel(a).tolist() for a in watch.actions] == [[0, 1, 2, 3], [0, 1]]
    assert seen == [("x", 10.75), ("x", 12.0), ("x", 12.5), ("x", 13.0)]


def test_without_a_limit_only_whole_episodes_count():
    seen = Seen()
    watch = Watcher(seen, "x", before=0, episodes=2, limit=None, kept=0)
    watch(np.zeros((2, 1)), step())
    watch(np.zeros((2, 1)), step(1))
    assert seen == [("x", 0.0), ("x", 1.0)]


@pytest.mark.parametrize(("patience", "shown"), [(0.0, True), (60.0, False)])
def test_the_bar_comes_late_and_only_on_a_terminal(monkeypatch, capfd, patience, shown):
    monkeypatch.setattr(bar, "PATIENCE", patience)
    with LateBar("episodes", 3) as late:
        late.update("single", 1)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with LateBar("episodes", 3) as late:
        late.update("single", 1)
    out, err = capfd.readouterr()
    assert out == "" and ("single" in err and "1/3" in err) == shown
    assert bool(err) == shown


# The picture


def points():
    rng = np.random.default_rng(0)
    return [
        Point(sampler, steps, 100.0 * i + steps + rng.normal(size=6))
        for i, sampler in enumerate(("single", "best-of-10"))
        for steps in (5, 1, 20)
    ]


def test_a_line_per_sampler_goes_through_the_means():
    axes, given = Figure().subplots(), points()
    draw_lines(axes, given)
    assert axes.get_legend_handles_labels()[1] == ["single sample", "best of 10"]
    for container, name in zip(axes.containers, ("single", "best-of-10"), strict=True):
        x, y = container.lines[0].get_xydata().T
        own = {p.steps: p.returns for p in given if p.sampler == name}
        np.testing.assert_allclose(x, [1, 5, 20], rtol=0.02)
        np.testing.assert_allclose(y, [own[s].mean() for s in (1, 5, 20)])
        segments = container.lines[2][0].get_segments()
        ends = np.array([[float(y) for _, y in segment] for segment in segments])
        spread = np.array([own[s].std(ddof=1) for s in (1, 5, 20)])
        half = 2.570582 * spread / np.sqrt(6)
        np.testing.assert_allclose(np.ptp(ends, axis=1), 2 * half, rtol=1e-5)


def test_the_picture_of_single_episodes_has_no_intervals(tmp_path):
    alone = [point._replace(returns=point.returns[:1]) for point in points()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = return_against_steps(alone, "Task-v0", tmp_path / "a" / "p")
    assert [path.name for path in paths] == ["p.png", "p.svg"]
    assert all(path.stat().st_size > 5000 for path in paths)
