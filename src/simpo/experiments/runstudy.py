"""Studies whose measurements are runs: which engine makes them, how many at once."""

from dataclasses import dataclass, field
from typing import Any

from simpo import engines
from simpo.engines import Engine, EngineName
from simpo.experiments.report import Study
from simpo.types import SimpoError

__all__ = ["RunStudy", "require_positive"]


@dataclass(frozen=True)
class RunStudy(Study):
    """A study whose measurements are runs."""

    engine: EngineName = "local"
    """What makes runs: processes here, a Ray cluster, Slurm. See docs/clusters.md."""
    engine_options: dict[str, Any] = field(default_factory=dict)
    """The engine's own, as in 'num_gpus=0.25' (ray) or 'timeout_min=600' (slurm)."""
    jobs: int | None = None
    """Runs side by side; by default as many as there are cores, or as the cluster
    takes."""
    share: str | None = None
    """fsspec URL (s3://, gs://, sftp://, ...) where runs are kept, too: for machines
    without a common folder."""
    report: bool = False
    """Train nothing: report on the cells that are there."""

    @property
    def maker(self) -> Engine | None:
        """What makes the runs that are missing, if they are to be made.

        Raises:
            SimpoError: Options of another engine.
        """
        if self.report:
            return None
        return engines.choose(self.engine, self.jobs, self.engine_options)


def require_positive(**numbers: int | None) -> None:
    """Refuse counts below 1; None is the default.

    Raises:
        SimpoError: The first of them.
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise SimpoError(f"{name} must be at least 1, not {number}")
