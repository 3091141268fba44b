"""Runs at a URL: machines without a common folder, which are folders here.

The oracle is a run that nothing disturbed: one that went on on another machine ends
with the same bytes.
"""

import importlib
import shutil
import sys
from dataclasses import replace

import pytest

from identical import same
from plain_loop import is_one_line
from simpo.agents import TD3
from simpo.directories import runs_like
from simpo.engines.jobs import Job, Quiet, make
from simpo.engines.share import Share
from simpo.experiments.locomotion import Table2
from simpo.experiments.report import reproduce
from simpo.types import SimpoError
from tiny import tiny, tiny_run

pytest.importorskip("fsspec")

RUN = tiny_run(
    agent=tiny(TD3),
    steps=600,
    checkpoint_every=100,
    log_every=50,
    eval_every=300,
)


class PowerCut(Exception):
    """Nothing can be done any more, sending included."""


class DiesAt(Quiet):
    """Loses its machine at a step."""

    def __init__(self, step):
        self.step = step

    def log(self, step, metrics):
        if step >= self.step:
            raise PowerCut


class Heard(Quiet):
    """Keeps the steps at which it was told of metrics."""

    def __init__(self):
        self.steps = []

    def log(self, step, metrics):
        self.steps.append(step)


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path / 'bucket'}"


def job(out, url):
    return Job("run", RUN, out, ("test",), True, url)


def names(*steps):
    """What checkpoints are called."""
    return [f"{step:012}" for step in steps]


def lose(out, url, step):
    """A machine that begins the run and is lost."""
    with pytest.raises(PowerCut):
        make(job(out, url), DiesAt(step))
    return next(path for path, _ in runs_like(RUN, out))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return make(job(tmp_path_factory.mktemp("alone"), None), Quiet())


def test_a_run_goes_on_on_another_machine_with_the_same_bytes(expected, url, tmp_path):
    lose(tmp_path / "first", url, 450)
    lose(tmp_path / "second", url, 550)
    heard = Heard()
    made = make(job(tmp_path / "third", url), heard)
    same(expected, made)
    assert heard.steps == [550, 600]  # it went on after the checkpoint at 500
    rows = (made / "progress.csv").read_text().splitlines()[1:]
    steps = [int(row.split(",")[0]) for row in rows]
    assert steps == [*range(50, 650, 50)]
    # The second one began where the first was saved last, and saved more.
    assert [p.name for p in sorted((made / "checkpoints").iterdir())] == names(500, 600)


def test_a_checkpoint_that_was_half_sent_is_not_used(expected, url, tmp_path):
    lost = lose(tmp_path / "first", url, 450)
    there = tmp_path / "bucket" / lost.relative_to(tmp_path / "first")
    (there / "checkpoints" / names(400)[0] / "manifest.json").unlink()
    with pytest.warns(Warning, match="400"):
        made = make(job(tmp_path / "second", url), Quiet())
    same(expected, made)


def test_old_checkpoints_are_taken_away_there_too(url, tmp_path):
    first = lose(tmp_path / "first", url, 450)
    there = tmp_path / "bucket" / first.relative_to(tmp_path / "first")
    assert sorted(p.name for p in there.glob("checkpoints/*")) == names(300, 400)
    make(job(tmp_path / "second", url), Quiet())
    assert sorted(p.name for p in there.glob("checkpoints/*")) == names(500, 600)


def test_what_is_done_is_fetched_once_and_not_made_again(expected, url, tmp_path):
    made = make(job(tmp_path / "first", url), Quiet())
    again = make(job(tmp_path / "second", url), DiesAt(0))
    assert again.relative_to(tmp_path / "second") == made.relative_to(
        tmp_path / "first"
    )
    same(expected, again)
    assert not (again / "checkpoints").exists()
    there = tmp_path / "bucket" / made.relative_to(tmp_path / "first")
    assert sorted(p.name for p in there.glob("checkpoints/*")) == names(500, 600)
    mark = again / "progress.csv"
    before = mark.stat().st_mtime_ns
    Share(url).fetch(tmp_path / "second")
    assert mark.stat().st_mtime_ns == before


def test_the_further_of_two_runs_stays(url, tmp_path):
    behind = lose(tmp_path / "first", url, 250)
    shutil.copytree(tmp_path / "bucket", tmp_path / "kept")
    ahead = make(job(tmp_path / "first", url), Quiet())
    assert ahead == behind
    Share(f"file://{tmp_path / 'kept'}").fetch(tmp_path / "first")
    assert '"done"' in (ahead / "status.json").read_text()


def test_only_runs_of_one_kind_are_fetched(url, tmp_path):
    made = make(job(tmp_path / "first", url), Quiet())
    kind = made.parent.relative_to(tmp_path / "first").as_posix()
    Share(url).fetch(tmp_path / "second", kind.replace("TD3", "SAC"))
    assert not (tmp_path / "second").exists()
    Share(url).fetch(tmp_path / "second", kind)
    same(made, tmp_path / "second" / made.relative_to(tmp_path / "first"))


def test_two_commands_share_their_cells(url, tmp_path):
    study = Table2(scale="smoke", cells=("Hopper-v4/TD3",), share=url)
    reproduce(replace(study, out=tmp_path / "here"))
    told = reproduce(replace(study, out=tmp_path / "there", report=True))
    here, there = (tmp_path / out / "table2" / "smoke" for out in ("here", "there"))
    assert (there / "scores.csv").read_text() == (here / "scores.csv").read_text()
    assert not [line for line in told.lines if "missing:" in line]


@pytest.mark.parametrize(
    "url, reason",
    [
        ("nonsense://bucket", "nonsense"),
        ("file:///proc/nowhere/runs", "/proc/nowhere"),
        ("sftp://127.0.0.1:1/runs", "sftp://127.0.0.1:1/runs"),
    ],
)
def test_a_url_that_cannot_be_used_gets_one_line(url, reason, tmp_path):
    with pytest.raises(SimpoError, match=reason) as error:
        Share(url).fetch(tmp_path)
    assert is_one_line(error) and str(error.value).startswith(f"cannot use {url}: ")


def test_a_url_that_breaks_down_ends_the_run_in_one_line(url, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ConnectionError("no route to host\nand more")

    files = type(Share(url).files)
    monkeypatch.setattr(files, "put_file", broken)
    with pytest.raises(SimpoError, match=f"cannot use {url}: no route") as error:
        make(job(tmp_path / "first", url), Quiet())
    assert is_one_line(error)
    monkeypatch.undo()
    made = make(job(tmp_path / "first", url), Quiet())
    assert '"done"' in (made / "status.json").read_text()


def test_fsspec_missing_gets_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SimpoError, match=r"pip install 'simpo\[share\]'") as error:
        Share("s3://bucket")
    assert is_one_line(error)


def test_it_is_any_file_system_of_fsspec(tmp_path):
    """One without folders, as object stores are."""
    files = importlib.import_module("fsspec").filesystem("memory")
    made = make(job(tmp_path / "first", "memory://bucket/runs"), Quiet())
    assert files.exists("/bucket/runs")
    again = make(job(tmp_path / "second", "memory://bucket/runs"), DiesAt(0))
    same(made, again)
    files.rm("/bucket", recursive=True)
