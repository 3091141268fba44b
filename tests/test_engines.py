"""Engines: a Ray cluster of two nodes, submitit's processes; users' mistakes.

The oracle is the local engine: the same runs end with the same bytes, also those that
went on in another process because a node was killed or a job was preempted.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from identical import same
from plain_loop import is_one_line
from simpo import engines
from simpo.agents import SAC, TD3
from simpo.directories import runs_like
from simpo.engines import Job, elsewhere
from simpo.types import SimpoError
from tiny import tiny, tiny_run

LONG = {"steps": 6_000, "checkpoint_every": 400, "log_every": 200, "eval_every": 6_000}


def jobs(out):
    """Three runs of some seconds."""
    agents = (tiny(TD3), tiny(SAC), tiny(TD3, tau=0.2))
    runs = [tiny_run(agent=agent, **LONG) for agent in agents]
    return [Job(f"run {i}", run, out, ("test",), True) for i, run in enumerate(runs)]


def ignore(*_):
    """Nobody is told of steps."""


def make(engine, jobs, advance=ignore):
    """Run directories by job."""
    ends = list(engine(jobs, advance))
    assert not [end.reason for end in ends if end.reason]
    return {end.job.name: end.directory for end in ends}


@pytest.fixture(scope="module", autouse=True)
def environment():
    """As users have it: as many threads as there are cores, unless that is changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS", raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setattr(elsewhere, "PAUSE", 0.1)
        yield


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The runs as the local engine makes them, each in a core's process."""
    out = tmp_path_factory.mktemp("local")
    return make(engines.choose("local", None, {}), jobs(out))


def directory(job):
    """Where a run is made, if it was begun."""
    found = [path for path, _ in runs_like(job.run, job.out)]
    return found[0] if found else None


def is_under_way(job):
    """Whether a run has a checkpoint and is not done."""
    path = directory(job)
    if not path or not list(path.glob("checkpoints/[0-9]*")):
        return False
    return json.loads((path / "status.json").read_text())["state"] == "running"


def starts(path):
    """How many processes have trained in a run directory."""
    return len(list(path.glob("tb/events*")))


# Ray


@pytest.fixture(scope="module")
def cluster():
    """Two raylets with a CPU each."""
    pytest.importorskip("ray")
    utils = importlib.import_module("ray.cluster_utils")
    arguments = {"num_cpus": 1, "include_dashboard": False}
    cluster = utils.Cluster(initialize_head=True, head_node_args=arguments)
    yield cluster
    cluster.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_runs_of_a_killed_node_go_on_with_the_same_bytes(cluster, expected, tmp_path):
    node, todo, told = cluster.add_node(num_cpus=1), jobs(tmp_path), {}

    def kill(name, steps):
        told[name] = told.get(name, 0) + steps
        if node in cluster.worker_nodes and all(map(is_under_way, todo[:2])):
            cluster.remove_node(node, allow_graceful=False)

    engine = engines.choose("ray", None, {"address": cluster.address})
    made = make(engine, todo, kill)
    assert node not in cluster.worker_nodes
    for name, path in made.items():
        same(expected[name], path)
    assert sorted(starts(path) for path in made.values()) == [1, 1, 2]
    assert all(steps <= LONG["steps"] for steps in told.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options, reason",
    [
        ({"num_gpus": 1}, "no node of the Ray cluster has 1 CPU and 1 GPU"),
        ({"num_gps": 1}, "--engine-options: Invalid option keyword num_gps"),
    ],
)
def test_what_ray_cannot_do_gets_one_line(cluster, tmp_path, options, reason):
    engine = engines.choose("ray", None, {"address": cluster.address, **options})
    with pytest.raises(SimpoError, match=reason) as error:
        make(engine, jobs(tmp_path))
    assert is_one_line(error)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "nonsense"])
def test_a_cluster_that_is_not_there_gets_one_line(tmp_path, address):
    pytest.importorskip("ray")
    engine = engines.choose("ray", None, {"address": address})
    with pytest.raises(SimpoError, match=f"no Ray cluster at '{address}'") as error:
        make(engine, jobs(tmp_path))
    assert is_one_line(error)


# Slurm, by submitit's processes on this machine


def interrupt(job):
    """Send the signal of a preemption to the process that submitit's controls."""
    controller = f"/proc/{job.job_id}/task/{job.job_id}/children"
    (task,) = Path(controller).read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    return task


def test_a_preempted_run_goes_on_with_the_same_bytes(expected, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    from simpo.engines.slurm import SlurmCluster

    todo, submitted, preempted = jobs(tmp_path)[:2], [], []
    real = SlurmCluster.submit

    def submit(self, job):
        submitted.append(real(self, job))
        return submitted[-1]

    def preempt(*_):
        if not preempted and is_under_way(todo[0]):
            preempted.append(interrupt(submitted[0]))

    monkeypatch.setattr(SlurmCluster, "submit", submit)
    engine = engines.choose("slurm", None, {"cluster": "local"})
    made = make(engine, todo, preempt)
    assert preempted
    for name, path in made.items():
        same(expected[name], path)
    assert [starts(made[job.name]) for job in todo] == [2, 1]


def test_a_run_that_fails_under_slurm_says_why(tmp_path):
    pytest.importorskip("submitit")
    run = tiny_run(agent=tiny(TD3, critic_lr=1e30, actor_lr=1e30))
    engine = engines.choose("slurm", 1, {"cluster": "local", "timeout_min": 5})
    (end,) = engine([Job("bad", run, tmp_path, ("test",), True)], ignore)
    assert end.directory is None
    assert "not finite" in end.reason


@pytest.mark.parametrize(
    "options, reason",
    [
        ({}, "no Slurm here"),
        ({"cluster": "local", "slurm_partion": "gpu"}, "slurm_partion"),
        ({"cluster": "nowhere"}, "nowhere"),
        ({"cluster": "local", "timeout_min": "long"}, "timeout_min"),
    ],
)
def test_what_slurm_cannot_do_gets_one_line(tmp_path, monkeypatch, options, reason):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    engine = engines.choose("slurm", None, options)
    with pytest.raises(SimpoError, match=reason) as error:
        make(engine, jobs(tmp_path))
    assert is_one_line(error)


# All


@pytest.mark.parametrize("name, library", [("ray", "ray"), ("slurm", "submitit")])
def test_an_extra_that_is_missing_gets_one_line(tmp_path, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    engine = engines.choose(name, None, {})
    with pytest.raises(SimpoError, match=rf"pip install 'simpo\[{name}\]'") as error:
        make(engine, jobs(tmp_path))
    assert is_one_line(error)


def test_the_local_engine_has_no_options():
    with pytest.raises(SimpoError, match="are for --engine ray and slurm") as error:
        engines.choose("local", None, {"num_gpus": 1})
    assert is_one_line(error)
