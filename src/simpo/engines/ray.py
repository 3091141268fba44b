"""Runs on a Ray cluster, a task each: one whose node is lost is begun on another.

`ray start --head`, on further nodes `ray start --address=HOST:6379`. All nodes have the
same versions and see one folder of runs, where a task goes on from the last checkpoint.
"""

import importlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from simpo.engines.elsewhere import follow, make_elsewhere
from simpo.engines.jobs import Advance, Ended, Job
from simpo.types import SimpoError

__all__ = ["train_all"]

DEFAULTS: Mapping[str, Any] = {"num_cpus": 1, "max_retries": 10}
"""Of a task; retries are for lost nodes, not for runs that fail."""
REACH = 5.0
"""Seconds in which a cluster answers."""
START = 'start one with `ray start --head`, or name one: address="HOST:6379"'


def train_all(
    jobs: Sequence[Job],
    advance: Advance,
    at_once: int | None,
    options: Mapping[str, Any],
) -> Iterator[Ended]:
    """Make every run, in order, as many at once as the cluster has room for.

    Args:
        jobs: What to train.
        advance: Told a job's name and how many steps it has made since the last call.
        at_once: Runs side by side at most.
        options: `address` of the cluster, RAY_ADDRESS or that of this machine by
            default; all others are `ray.remote`'s: num_cpus, num_gpus, max_retries.

    Yields:
        Each job as it ends.

    Raises:
        SimpoError: Ray is not installed, no such cluster or option, no such room.
    """
    told = {**DEFAULTS, **options}
    ray = connect(told.pop("address", os.environ.get("RAY_ADDRESS", "auto")))
    try:
        yield from follow(jobs, advance, at_once, RayCluster(ray, told))
    finally:
        ray.shutdown()


class RayCluster:
    """Tasks that are told apart by references to what they return.

    Args:
        ray: The library, connected.
        options: Of every task.

    Raises:
        SimpoError: No such option, or no node that could run a task with it.
    """

    def __init__(self, ray: ModuleType, options: Mapping[str, Any]) -> None:
        self.ray = ray
        try:
            self.task = ray.remote(make_elsewhere).options(**options)
        except (TypeError, ValueError) as error:
            reason = str(error).partition(". ")[0]
            raise SimpoError(f"--engine-options: {reason}") from error
        require_room(ray, {"CPU": options["num_cpus"], "GPU": options.get("num_gpus")})

    def submit(self, job: Job) -> Any:
        """A task that makes the run."""
        return self.task.remote(job)

    def wait(self, under_way: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Those that have ended, after some seconds at most."""
        return self.ray.wait(under_way, num_returns=1, timeout=seconds)[0]

    def result(self, which: Any) -> Path | str:
        """What the task returned; the last line of Ray's message if it was lost."""
        try:
            return self.ray.get(which)
        except self.ray.exceptions.RayError as error:
            return str(error).strip().splitlines()[-1]

    def cancel(self, under_way: Sequence[Any]) -> None:
        """As Ctrl-C does: runs save and stop."""
        for which in under_way:
            self.ray.cancel(which)
        if under_way:
            self.ray.wait(under_way, num_returns=len(under_way), timeout=REACH)


def connect(address: str) -> ModuleType:
    """Ray, connected to a cluster.

    Raises:
        SimpoError: Ray is not installed, or there is no such cluster.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise SimpoError("Ray is not installed: pip install 'simpo[ray]'") from error
    try:
        if address != "auto":
            require_answer(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise SimpoError(f"no Ray cluster at '{address}': {START}") from error
    return ray


def require_answer(address: str) -> None:
    """Require that someone answers, for which Ray itself waits many minutes.

    Raises:
        OSError: No one does.
        ValueError: No port.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), REACH).close()


def require_room(ray: ModuleType, asked: Mapping[str, float | None]) -> None:
    """Require a node that a run fits on: Ray would wait for one for ever.

    Raises:
        SimpoError: There is none.
    """
    wanted = {name: amount for name, amount in asked.items() if amount}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(n.get(k, 0) >= v for k, v in wanted.items()) for n in nodes):
        room = " and ".join(f"{v:g} {k}" for k, v in wanted.items())
        raise SimpoError(f"no node of the Ray cluster has {room}, which a run takes")
