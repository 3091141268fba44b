"""Videos; what needs the extra `video` or OpenGL is skipped where it is not there."""

import csv
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import drawn
from simpo import video
from simpo.cli import main
from simpo.envs import make, spawn_seeds
from simpo.rendering import Choice
from simpo.types import SimpoWarning
from simpo.video import Film, choose_way, record

pytestmark = pytest.mark.usefixtures("elsewhere")

DRAWN = "drawn:test/Drawn-v0"
encoder = pytest.mark.skipif(
    importlib.util.find_spec("imageio_ffmpeg") is None,
    reason="needs the extra: pip install 'simpo[video]'",
)


@pytest.fixture(scope="module")
def way():
    """How MuJoCo draws here."""
    choice = choose_way("InvertedPendulum-v5", {})
    if choice.way is None:
        pytest.skip(f"MuJoCo cannot draw here: {choice.reason}")
    return choice.way


@pytest.fixture
def drawable(monkeypatch):
    """Spare the trial: what is drawn needs no OpenGL."""
    monkeypatch.setattr(video, "choose_way", lambda *_: Choice("", {}))


def evaluate(run, *words):
    assert main(["eval", str(run), *map(str, words)]) == 0


def read(path):
    """Frames [T, H, W, 3] of a video, and how many go by in a second."""
    ffmpeg = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run([ffmpeg, "-i", path, *raw], capture_output=True, check=True)
    facts = re.search(rb"Video: h264.*?, (\d+)x(\d+).*? (\d+) fps", done.stderr)
    width, height, fps = map(int, facts.groups())
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3), fps


def episodes(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def film(env=DRAWN, steps=4, seed=3, return_=None, path="v.mp4"):
    """An episode of random actions, scored as an evaluation scores it."""
    task = make(env, 1, seed=seed)
    task.reset()
    rng, actions, ended = np.random.default_rng(0), [], []
    while not ended and len(actions) < 100:
        actions.append(rng.uniform(-1.2, 1.2, (1, 1)).astype(np.float32))
        ended = task.step(actions[-1]).episodes
    score = ended[0].return_ if return_ is None else return_
    (own,) = spawn_seeds(seed, 1)
    done = np.concatenate(actions)
    return Film(env, {}, own, done, score, Path(path).absolute(), "t")


def recorded(*films, way=""):
    counts = []
    return list(record(films, way, counts.append)), sum(counts)


@encoder
def test_a_film_shows_every_state_of_the_episode():
    given = film()
    assert recorded(given) == ([(given, "")], len(given.actions) // 10 * 10)
    frames, fps = read("v.mp4")
    assert frames.shape == (len(given.actions) + 1, *drawn.SIZE, 3) and fps == 12
    shades = frames.mean(axis=(1, 2, 3))
    expected = 20 + drawn.SHADE * np.arange(len(frames))
    np.testing.assert_allclose(shades, expected, atol=4)
    assert os.listdir() == ["v.mp4"]


@encoder
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"return_": 1.0}, "played again with the same seed and actions, its return"),
        ({"env": "drawn:test/DrawnChance-v0"}, "played again with the same seed"),
        ({"env": "drawn:test/DrawnBlind-v0"}, "it draws no pictures"),
        ({"env": "drawn:test/DrawnCrash-v0"}, "killed by signal 6"),
        ({"path": "nowhere/v.mp4"}, ""),
    ],
    ids=["return", "chance", "blind", "crash", "nowhere"],
)
def test_a_film_that_cannot_be_made_is_explained_and_leaves_nothing(given, reason):
    wrong = film(**given)
    ((told, error),), _ = recorded(wrong)
    assert told is wrong and error and error.startswith(reason), error
    assert os.listdir() in ([], [".v.mp4"])  # what a crash leaves is hidden
    assert not wrong.path.exists()


@encoder
def test_a_film_that_fails_takes_no_other_with_it():
    good, bad = film(path="good.mp4"), film(return_=1.0)
    last = film(path="last.mp4", seed=4)
    errors = [error for _, error in recorded(good, bad, last)[0]]
    assert [bool(error) for error in errors] == [False, True, False]
    crash = film("drawn:test/DrawnCrash-v0", path="crash.mp4")
    errors = [error for _, error in recorded(good, crash, last)[0]]
    assert errors == ["", "killed by signal 6", "killed by signal 6"]


def names(folder="videos"):
    pattern = r"(.+)_(\w+|best-of-\d+)_(\d+)-steps_seed-(\d+)_episode-(\d+)_return-(.+)"
    found = (re.fullmatch(pattern, p.stem) for p in sorted(Path(folder).iterdir()))
    return [match.groups() for match in found]


@encoder
def test_videos_show_the_episodes_of_the_table(run, capfd, drawable):
    grid = ["--episodes", 3, "--best-of", 1, 3]
    argv = ["--env", DRAWN, "--seed", 5, *grid, "--csv", "rows.csv"]
    evaluate(run, *argv, "--video", 2, "--video-dir", "videos")
    out, err = capfd.readouterr()
    assert err == ""
    rows = {
        (r["sampler"], r["denoising_steps"], r["episode"]): r
        for r in episodes("rows.csv")
    }
    found = names()
    assert len(found) == 4
    assert {(s, t, e) for _, s, t, _, e, _ in found} == {
        (s, t, e) for s, t, e in rows if e in "01"
    }
    for env, sampler, steps, seed, episode, return_ in found:
        row = rows[sampler, steps, episode]
        assert env == "drawn_test_Drawn-v0" and seed == "5"
        assert return_ == f"{float(row['return']):.2f}"
    paths = sorted(Path("videos").iterdir())
    assert all(str(path) in out for path in paths)
    lengths = [int(rows[s, t, e]["length"]) for _, s, t, _, e, _ in found]
    assert [len(read(path)[0]) - 1 for path in paths] == lengths


@encoder
def test_one_episode_is_shown_unless_told_otherwise(run, capfd):
    evaluate(run, "--env", DRAWN, "--video", "--episodes", 3, "--best-of", 1)
    (path,) = (run / "videos").iterdir()
    assert "_episode-0_" in path.name and str(path) in capfd.readouterr().out


@encoder
def test_a_policy_of_mujoco_is_shown(run, way):
    argv = ["--episodes", 3, "--best-of", 1, "--csv", "rows.csv", "--video"]
    evaluate(run, *argv, "--video-dir", "videos")
    (path,), row = Path("videos").iterdir(), episodes("rows.csv")[0]
    assert path.stem.endswith(f"_episode-0_return-{float(row['return']):.2f}")
    frames, fps = read(path)
    assert frames.shape == (int(row["length"]) + 1, 480, 480, 3) and fps == 25
    assert frames[0].std() > 5  # there is something to see
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 50  # and it moves


# What goes wrong ends no evaluation


def test_without_opengl_scores_are_printed_and_one_line_says_why(run):
    argv = ["eval", run, "--episodes", 3, "--best-of", 1, "--video"]
    done = subprocess.run(
        [sys.executable, "-m", "simpo", *map(str, argv)],
        env=os.environ | {"MUJOCO_GL": "disabled"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "single" in done.stdout and ".mp4" not in done.stdout
    assert done.stderr.startswith("simpo: warning: no videos: ")
    assert done.stderr.count("\n") == 1


def test_a_task_that_cannot_be_drawn_is_a_warning(run, capfd, monkeypatch):
    monkeypatch.setattr(video, "encoder_missing", lambda: False)
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    argv = ["--episodes", 3, "--best-of", 1, "--video"]
    message = "no videos: InvertedPendulum-v5 cannot be drawn here .*; simpo doctor"
    with pytest.warns(SimpoWarning, match=message):
        evaluate(run, *argv)
    assert "single" in capfd.readouterr().out


def test_a_missing_encoder_is_a_warning(run, capfd, monkeypatch):
    monkeypatch.setattr(video, "encoder_missing", lambda: True)
    argv = ["--episodes", 3, "--best-of", 1, "--video"]
    with pytest.warns(SimpoWarning, match=r"pip install 'simpo\[video\]'"):
        evaluate(run, *argv)
    assert "single" in capfd.readouterr().out


@encoder
def test_a_video_that_fails_is_a_warning(run, capfd, drawable):
    words = ["--episodes", 3, "--best-of", 1, "--video", 2]
    message = "2 of 2 videos could not be made: killed by signal 6"
    with pytest.warns(SimpoWarning, match=message):
        evaluate(run, "--env", "drawn:test/DrawnCrash-v0", *words)
    assert "single" in capfd.readouterr().out


def test_a_task_without_pictures_says_so(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    reason = choose_way("drawn:test/DrawnBlind-v0", {}).reason
    assert reason == "it draws no pictures"


def test_a_way_is_asked_for_the_task_itself(monkeypatch):
    seen = []
    monkeypatch.setattr(video, "choose", lambda p: seen.append(p) or Choice("egl", {}))
    assert choose_way("Task-v0", {}).way == "egl"
    assert seen == [("-m", "simpo.video", "--first", "Task-v0", "{}")]
