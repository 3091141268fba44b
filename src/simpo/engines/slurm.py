"""Runs as Slurm jobs, by submitit: one that is preempted or out of time goes on.

The machines see one folder of runs, and the same Python environment.
"""

import importlib
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from simpo.engines.elsewhere import follow, make_elsewhere
from simpo.engines.jobs import Advance, Ended, Job
from simpo.types import SimpoError

__all__ = ["train_all"]

DEFAULTS: Mapping[str, Any] = {
    "name": "simpo",
    "cpus_per_task": 1,
    "timeout_min": 24 * 60,
}
LOGS = ".slurm"
"""Where submitit keeps what it needs and what jobs print, beside the runs."""
TIMEOUTS = 1000
"""How often a run may go on in another job; submitit would stop after three."""
LOOK = 0.2
"""Seconds between looks at whether jobs have ended."""


def train_all(
    jobs: Sequence[Job],
    advance: Advance,
    at_once: int | None,
    options: Mapping[str, Any],
) -> Iterator[Ended]:
    """Make every run, in order, as many at once as Slurm starts.

    Args:
        jobs: What to train.
        advance: Told a job's name and how many steps it has made since the last call.
        at_once: Jobs in the queue at most.
        options: submitit's: timeout_min, mem_gb, gpus_per_node, slurm_partition, ...;
            `cluster="local"` makes processes on this machine instead.

    Yields:
        Each job as it ends.

    Raises:
        SimpoError: submitit is not installed, no Slurm here, no such option.
    """
    folder = jobs[0].out.resolve() / LOGS
    cluster = SlurmCluster(folder, {**DEFAULTS, **options})
    return follow(jobs, advance, at_once, cluster)


class Task:
    """Makes a run; submitit starts it again where something else ends it."""

    def __call__(self, job: Job) -> Path | str:
        """The run directory, or what went wrong."""
        # Slurm sends it with every preemption; submitit hears another signal.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return make_elsewhere(job)

    def checkpoint(self, job: Job) -> Any:
        """What to start instead: the same, which goes on from the run's checkpoint."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self, job)


class SlurmCluster:
    """Jobs of submitit.

    Args:
        folder: Its own.
        options: Of every job.

    Raises:
        SimpoError: submitit is not installed, no Slurm here, no such option.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        parameters = dict(options)
        kind = parameters.pop("cluster", "slurm")
        try:
            submitit = importlib.import_module("submitit")
        except ImportError as error:
            raise SimpoError(
                "submitit is not installed: pip install 'simpo[slurm]'"
            ) from error
        if kind == "slurm" and not shutil.which("sbatch"):
            raise SimpoError(
                "no Slurm here (there is no sbatch): give the command where jobs are "
                "submitted"
            )
        try:
            self.executor = submitit.AutoExecutor(
                folder, kind, slurm_max_num_timeout=TIMEOUTS
            )
            self.executor.update_parameters(**parameters)
        except (AssertionError, NameError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split()).partition(". ")[0]
            raise SimpoError(f"--engine-options: {reason}") from error
        self.uncompleted = submitit.core.utils.UncompletedJobError

    def submit(self, job: Job) -> Any:
        """A job that makes the run."""
        return self.executor.submit(Task(), job)

    def wait(self, under_way: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Those that have ended, after some seconds at most."""
        until = time.monotonic() + seconds
        while not (ended := [which for which in under_way if which.done()]):
            if time.monotonic() > until:
                break
            time.sleep(LOOK)
        return ended

    def result(self, which: Any) -> Path | str:
        """What the job returned; the last line of its message if it was lost."""
        try:
            return which.result()
        except Exception as error:  # FailedJobError holds a traceback as text
            return str(error).strip().splitlines()[-1]

    def cancel(self, under_way: Sequence[Any]) -> None:
        """Take them out of the queue."""
        for which in under_way:
            which.cancel(check=False)
