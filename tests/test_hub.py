"""Sending and fetching policies, with a hub on this machine."""

import csv
import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("huggingface_hub")

import yaml
from huggingface_hub import ModelCard, constants

from fake_hub import TOKEN, FakeHub
from plain_loop import is_one_line
from simpo import hub
from simpo.agents import compile_init
from simpo.card import require_seeds_of_one_setting, scores
from simpo.checkpoint import load, save_policy, write_json
from simpo.cli import main
from simpo.config import to_json
from simpo.directories import describe_machine
from simpo.evaluation import EpisodeRow
from simpo.hub import prepare, pull, push
from simpo.loggers import CsvLogger
from simpo.plotting.rundata import read_run
from simpo.statistics import bootstrap, iqm
from simpo.types import EnvSpec, SimpoError
from tiny import tiny_run

FILES = ["README.md", "config.json", "evaluations.csv", "model.safetensors"]


@pytest.fixture(scope="module")
def server():
    with FakeHub() as server:
        yield server
        server.shutdown()


@pytest.fixture
def hub_here(server, monkeypatch, tmp_path):
    """The library asks the fake hub, as a user who is logged in."""
    server.forget()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    url = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """What is left of a run that is done, as far as it is sent."""
    run, spec = tiny_run(seed=3), EnvSpec(4, 1)
    directory = tmp_path_factory.mktemp("runs") / "run"
    directory.mkdir()
    write_json(directory / "config.json", to_json(run))
    write_json(directory / "env.json", describe_machine())
    (directory / "command.txt").write_text("simpo train InvertedPendulum-v5\n")
    tables = CsvLogger(directory)
    for step in (0, 200):
        rows = [
            EpisodeRow(sampler, episode, 2.0 + step / 10 + 3 * episode, 7)
            for sampler in ("best-of-3", "single")
            for episode in range(2)
        ]
        tables.log_episodes(step, [row._asdict() for row in rows])
    tables.close()
    policy = run.agent.policy(compile_init(run.agent, spec)(jax.random.key(0)))
    save_policy(
        directory / "policy", run.agent, spec, policy, env=run.env, step=run.steps
    )
    return directory


def rows_of(path):
    """A table's rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def rewrite(run, seed, shift):
    """Make a copy of a run into one of another seed, with other returns."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"seed": seed}))
    header, *rows = csv.reader((run / "evaluations.csv").read_text().splitlines())
    at = header.index("return")
    for row in rows:
        row[at] = str(float(row[at]) + shift)
    with (run / "evaluations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return run


@pytest.fixture
def seeds(first_run, tmp_path):
    """Three runs of one setting."""
    return [
        rewrite(shutil.copytree(first_run, tmp_path / f"run{i}"), 10 + i, 100.0 * i)
        for i in range(3)
    ]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The folder


def test_the_folder_holds_policy_scores_and_card(first_run, tmp_path):
    folder = prepare([first_run], "me/pendulum", tmp_path / "out")
    assert sorted(os.listdir(folder)) == FILES
    for name in ("config.json", "model.safetensors"):
        assert contents(folder)[name] == contents(first_run / "policy")[name]
    saved, original = load(folder), load(first_run)
    obs = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(saved.predict(obs)[0], original.predict(obs)[0])


def test_a_picture_goes_with_it(first_run, tmp_path):
    run = shutil.copytree(first_run, tmp_path / "run")
    (run / "plots").mkdir(exist_ok=True)
    (run / "plots" / "overview.png").write_bytes(b"png")
    folder = prepare([run], "me/pendulum", tmp_path / "out")
    assert contents(folder)["progress.png"] == b"png"
    assert "](progress.png)" in (folder / "README.md").read_text()


def test_the_card_is_what_the_hub_reads(seeds, tmp_path):
    folder = prepare(seeds, "me/pendulum", tmp_path / "out")
    card = ModelCard.load(folder / "README.md").data
    assert (
        card.library_name == "simpo" and card.pipeline_tag == "reinforcement-learning"
    )
    assert {"InvertedPendulum-v5", "SiMPO", "simpo"} <= set(card.tags)
    by_metric = {(r.metric_type, r.metric_name[-14:]): r for r in card.eval_results}
    (single,) = (
        s for s in scores([read_run(s) for s in seeds]) if s.sampler == "single"
    )
    mean = by_metric["mean_reward", "single actions"]
    assert (mean.dataset_name, mean.task_type) == (
        "InvertedPendulum-v5",
        "reinforcement-learning",
    )
    returns = single.returns
    assert mean.metric_value == f"{returns.mean():.2f} +/- {returns.std():.2f}"
    best = by_metric["iqm_return", "single actions"].metric_value
    assert best == pytest.approx(returns.mean(axis=1).mean())  # of three, all count


def test_scores_are_over_seeds_of_the_last_evaluation(seeds):
    found = {s.sampler: s for s in scores([read_run(seed) for seed in seeds])}
    rows = rows_of(seeds[0] / "evaluations.csv")
    last = max(int(row["step"]) for row in rows)
    for sampler, score in found.items():
        mine = [r for r in rows if r["sampler"] == sampler and int(r["step"]) == last]
        expected = np.array([float(r["return"]) for r in mine])
        np.testing.assert_allclose(
            score.returns, expected + np.array([[0], [100], [200]])
        )
        per_seed = score.returns.mean(axis=1)
        again = bootstrap(iqm, per_seed[None], rng=np.random.default_rng(0))
        assert score.iqm == again and again.low < again.value < again.high
        assert "95 % interval" in str(score)


def test_the_card_says_what_one_needs_to_know(seeds, tmp_path):
    text = (prepare(seeds, "me/pendulum", tmp_path / "out") / "README.md").read_text()
    for part in (
        "`InvertedPendulum-v5`",
        "the runs with seed 10, 11, 12",
        "that of seed 10",
        "| candidates | `4` |",
        "| weighting | `Linear(floor=-0.2)` |",
        "| model | `Flow(denoising_steps=2)` |",
        "| steps | `200` |",
        "| mujoco |",
        "simpo train",
        'simpo.load("policy")',
        "simpo pull me/pendulum",
        "95 % interval",
    ):
        assert part in text, part
    front = yaml.safe_load(text.split("---")[1])
    assert front["model-index"][0]["name"] == "me/pendulum"


def test_one_seed_has_no_interval(first_run, tmp_path):
    text = (prepare([first_run], "me/p", tmp_path / "out") / "README.md").read_text()
    assert "progress.png" not in text  # there is none
    assert "one seed, no interval" in text
    assert "nan" not in text.lower() and "95 %" not in text
    assert "iqm_return" not in text and "bootstrap" not in text


def test_a_policy_without_its_run_has_no_scores(first_run, tmp_path):
    folder = prepare([first_run / "policy"], "me/p", tmp_path / "out")
    assert sorted(os.listdir(folder)) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    text = (folder / "README.md").read_text()
    assert "came without its run" in text and "model-index" not in text


def test_evaluations_of_all_seeds_are_there(seeds, tmp_path):
    folder = prepare(seeds, "me/p", tmp_path / "out")
    rows = rows_of(folder / "evaluations.csv")
    one = rows_of(seeds[1] / "evaluations.csv")
    assert len(rows) == 3 * len(one)
    assert [r for r in rows if r["seed"] == "11"] == [{"seed": "11"} | r for r in one]


def refused(do, message, code=2):
    with pytest.raises(SimpoError, match=message) as error:
        do()
    assert is_one_line(error) and error.value.exit_code == code


def test_runs_that_do_not_belong_together(seeds, first_run, tmp_path):
    out = tmp_path / "out"
    refused(lambda: prepare([seeds[0]] * 2, "a/b", out), "several runs have one seed")
    config = json.loads((seeds[1] / "config.json").read_text())
    config["agent"]["candidates"] = 5
    (seeds[1] / "config.json").write_text(json.dumps(config))
    message = r"run1 is no other seed of .*run0: agent\.candidates differs"
    with pytest.raises(SimpoError, match=message):
        prepare(seeds, "a/b", out)
    refused(
        lambda: prepare([first_run, first_run / "policy"], "a/b", out),
        "is not the directory of a run that is done",
    )
    refused(lambda: prepare([tmp_path], "a/b", out), "neither a run directory nor")
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_unequal_steps_are_not_averaged(seeds):
    path = seeds[2] / "evaluations.csv"
    path.write_text(path.read_text().replace("\n200,", "\n190,"))
    refused(lambda: scores([read_run(seed) for seed in seeds]), "differ in their steps")


def test_what_is_there_is_not_overwritten(first_run, tmp_path):
    refused(lambda: prepare([first_run], "a/b", tmp_path), "is there already")


def test_unequal_evaluations_are_not_averaged(seeds):
    text = (seeds[0] / "evaluations.csv").read_text().splitlines()
    (seeds[0] / "evaluations.csv").write_text("\n".join(text[:-1]) + "\n")
    runs = [read_run(seed) for seed in seeds]
    require_seeds_of_one_setting(runs)
    refused(lambda: scores(runs), "last evaluations differ")


# There and back


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # their own
@pytest.mark.parametrize("large", [(), ("model.safetensors",)], ids=["small", "large"])
def test_what_is_sent_comes_back(hub_here, first_run, tmp_path, monkeypatch, large):
    """Small files go in the commit, large ones by LFS."""
    hub_here.large |= set(large)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", bool(large))
    address, names = push([first_run], "me/pendulum")
    assert address == f"{hub_here.url}/me/pendulum" and names == FILES
    folder = prepare([first_run], "me/pendulum", tmp_path / "dry")
    assert hub_here.repos["me/pendulum"] == contents(folder)
    saved = pull("me/pendulum", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    obs = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(saved.predict(obs)[0], load(folder).predict(obs)[0])
    push([first_run], "me/pendulum")  # again, over what is there


@pytest.fixture
def sent(hub_here, first_run, tmp_path):
    """A repository with a policy."""
    folder = prepare([first_run], "me/p", tmp_path / "folder")
    hub_here.repos["me/p"] = contents(folder)
    return hub_here.repos["me/p"]


def nothing_left(tmp_path):
    return not (tmp_path / "back").exists() and not list(tmp_path.glob(".back*"))


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil"])
def test_names_that_lead_elsewhere_are_refused(hub_here, sent, tmp_path, name):
    sent[name] = b"evil"
    refused(lambda: pull("me/p", tmp_path / "back"), "has a file named .*: not fetched")
    assert nothing_left(tmp_path)


def test_only_files_of_known_names_are_fetched(hub_here, sent, tmp_path, monkeypatch):
    for name in ("evil.py", "model.pkl", "environments.pickle", "x/config.json"):
        sent[name] = pickle.dumps(print)
    monkeypatch.setattr(pickle, "loads", None)
    pull("me/p", tmp_path / "back")
    assert sorted(os.listdir(tmp_path / "back")) == FILES
    assert not any("evil" in path or "pickle" in path for _, path in hub_here.asked)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"blobId": "0" * 40}),
        ("model.safetensors", {"lfs": {"size": 1, "sha256": "0", "pointerSize": 1}}),
    ],
)
def test_a_file_with_another_hash_is_refused(hub_here, sent, tmp_path, name, changes):
    hub_here.says[name] = changes
    refused(lambda: pull("me/p", tmp_path / "back"), f"{name} arrived damaged", 1)
    assert nothing_left(tmp_path)


def test_an_enormous_file_is_not_fetched(hub_here, sent, tmp_path):
    hub_here.says["config.json"] = {"size": 2**40}
    refused(lambda: pull("me/p", tmp_path / "back"), r"its config\.json is too large")
    assert not any("resolve" in path for _, path in hub_here.asked)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("config.json", None, r"holds no policy of simpo: no file config\.json"),
        ("config.json", b"{", "is damaged"),
        ("model.safetensors", b"junk", "is damaged"),
    ],
)
def test_what_is_no_policy_is_not_kept(hub_here, sent, tmp_path, name, data, message):
    sent[name] = data
    if data is None:
        del sent[name]
    with pytest.raises(SimpoError, match=message):
        pull("me/p", tmp_path / "back")
    assert nothing_left(tmp_path)


def test_a_folder_that_is_there_is_kept(sent, tmp_path):
    refused(lambda: pull("me/p", tmp_path), "is there already")


# What can go wrong


def test_a_repository_that_is_not_there(hub_here, tmp_path):
    refused(lambda: pull("me/nothing", tmp_path / "back"), "no repository me/nothing")
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("name", ["", "a b/c", "a/b/c", "../x", "a--b/c", "é/x"])
def test_a_name_that_is_no_repository(hub_here, first_run, tmp_path, name):
    refused(lambda: pull(name, tmp_path / "back"), "is no repository: write USER/NAME")
    refused(lambda: push([first_run], name), "is no repository: write USER/NAME")


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [(401, "no access to me/p|no repository me/p", 2), (403, "no access to me/p", 2)],
)
def test_no_access(hub_here, first_run, tmp_path, status, message, code):
    hub_here.answers["/api/"] = status
    refused(lambda: pull("me/p", tmp_path / "back"), message, code)
    refused(lambda: push([first_run], "me/p"), message, code)


def test_a_hub_that_fails(hub_here, first_run, tmp_path):
    hub_here.answers["/api/"] = 501
    refused(lambda: pull("me/p", tmp_path / "back"), "the hub answers 501 for me/p", 1)
    refused(lambda: push([first_run], "me/p"), "the hub answers 501 for me/p", 1)


def test_nobody_there(hub_here, first_run, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(lambda: pull("me/p", tmp_path / "back"), "no answer from", 1)
    refused(lambda: push([first_run], "me/p"), "no answer from", 1)


def test_offline(hub_here, first_run, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True, raising=False)
    refused(lambda: pull("me/p", tmp_path / "back"), "HF_HUB_OFFLINE is set", 1)


def test_not_logged_in(hub_here, first_run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    refused(lambda: push([first_run], "me/p"), "not logged in: hf auth login")
    assert not hub_here.asked


def test_a_wrong_token(hub_here, first_run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(lambda: push([first_run], "me/p"), "me/p.*hf auth login")


def test_the_extra_is_named(first_run, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    for do in (
        lambda: pull("me/p", tmp_path / "back"),
        lambda: push([first_run], "me/p"),
        lambda: prepare([first_run], "me/p", tmp_path / "out"),
    ):
        refused(do, re.escape("pip install 'simpo[hub]'"))


# The commands


def test_a_dry_run_writes_what_would_be_sent(first_run, tmp_path, capsys, hub_here):
    out = tmp_path / "out"
    assert main(["push", str(first_run), "me/p", "--dry-run", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [*FILES, f"in {out} (not sent)"]
    assert sorted(os.listdir(out)) == FILES and not hub_here.asked


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["push"], "what, and where to?"),
        (["push", "me/p"], "what, and where to?"),
        (["push", "a", "."], "last comes the repository"),
        (["push", "nowhere", "me/p"], "neither a run directory nor"),
        (["pull"], "simpo pull USER/NAME"),
        (["pull", "me/p", "--revison", "x"], "did you mean '--revision'"),
    ],
)
def test_mistakes_get_one_line(argv, message, capsys, hub_here):
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert told.startswith("simpo: error: ") and message in told
    assert told.count("\n") == 1


def test_the_commands_as_a_user_types_them(hub_here, first_run, tmp_path):
    """In processes of their own, with the library as it is."""
    home = {"HF_ENDPOINT": hub_here.url, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}

    def simpo(*words):
        return subprocess.run(
            [sys.executable, "-m", "simpo", *words],
            cwd=tmp_path,
            env=os.environ | home,
            capture_output=True,
            text=True,
            check=False,
        )

    done = simpo("push", str(first_run), "me/pendulum", "--private")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [*FILES, f"in {hub_here.url}/me/pendulum"]
    done = simpo("pull", "me/pendulum")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("next     simpo eval pendulum\n")
    assert "SiMPO on InvertedPendulum-v5, step 200" in done.stdout
    assert load(tmp_path / "pendulum").step == 200
