"""Grids of runs: a cell is an ordinary run of one agent on one task with one seed.

<folder>/<task>/<agent>/<stamp>-s<seed>/   run directories

A grid goes on where it was stopped. Finished cells are found by their settings, whoever
made them, and never made again; the others go on from their checkpoints.
"""

import difflib
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from simpo.checkpoint import read_json
from simpo.directories import finished, kind_of
from simpo.engines.jobs import Engine, Job
from simpo.engines.share import Share
from simpo.experiments.report import Report
from simpo.plotting.rundata import read_run
from simpo.plotting.scores import score
from simpo.plotting.settings import headline
from simpo.run import Run
from simpo.types import SimpoError

__all__ = ["Cell", "Grid", "choose", "require_version"]


class Cell(NamedTuple):
    """One run of a grid."""

    task: str
    agent: str
    seed: int

    def __str__(self) -> str:
        return f"{self.agent} {self.task} s{self.seed}"

    @property
    def path(self) -> str:
        """`TASK/AGENT/SEED`, as on the command line."""
        return f"{self.task}/{self.agent}/{self.seed}"


@dataclass(frozen=True)
class Grid:
    """Runs by cell, and where they go.

    Attributes:
        runs: What each cell trains.
        folder: Parent of the run directories.
        command: The command, for the record.
        quick: Whether the runs take seconds; see `Job`.
        share: fsspec URL where runs are, too; see `Job`.
    """

    runs: Mapping[Cell, Run]
    folder: Path
    command: tuple[str, ...]
    quick: bool = False
    share: str | None = None

    @property
    def steps(self) -> int:
        """Environment steps of all cells, for the progress bar."""
        return sum(run.steps for run in self.runs.values())

    def check(self) -> None:
        """Require that every run is possible, before the first one."""
        for run in self.runs.values():
            run.check()
        for run in {run.env: run for run in self.runs.values()}.values():
            run.make_env(1, 0).close()

    def fetch(self, below: str = "") -> None:
        """Bring the runs that are further elsewhere.

        Raises:
            SimpoError: The URL cannot be used.
        """
        if self.share:
            Share(self.share).fetch(self.folder, below)

    def finished(self, cell: Cell) -> Path | None:
        """The run directory of a cell that is done with the very same settings."""
        return finished(self.runs[cell], self.folder)

    def directories(
        self, report: Report, engine: Engine | None
    ) -> Iterator[tuple[Cell, Path]]:
        """Cells with their run directories and a row of scores.

        Args:
            report: Told of progress, scores, failures.
            engine: What makes the runs that are missing; None makes none.
        """
        self.fetch()
        missing = {}
        for cell, run in self.runs.items():
            if directory := self.finished(cell):
                report.advance(str(cell), run.steps)
                yield cell, add_score(report, cell, directory)
            else:
                missing[str(cell)] = cell
        if engine is None or not missing:
            return
        jobs = [
            Job(
                *(name, self.runs[cell], self.folder, self.command),
                quick=self.quick,
                share=self.share,
            )
            for name, cell in missing.items()
        ]
        for ended in engine(jobs, report.advance):
            cell = missing[ended.job.name]
            if ended.directory:
                self.fetch(kind_of(self.runs[cell]))
                yield cell, add_score(report, cell, ended.directory)
            else:
                report.say(f"failed: {cell}: {ended.reason}")


def add_score(report: Report, cell: Cell, directory: Path) -> Path:
    """Write a cell's score down; its directory, as it came."""
    run = read_run(directory)
    sampler = headline(run)
    row = {"sampler": sampler, "score": score(run, sampler)}
    report.add("scores", [{**cell._asdict(), **row}])
    return directory


def choose(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Cells that a pattern such as `Hopper-v4/SiMPO-*/0` names, or its beginning.

    Args:
        cells: All there are.
        patterns: `TASK/AGENT/SEED` with `*` and `?`; parts at the end may be left out.
            None choose all.

    Raises:
        SimpoError: A pattern that no cell fits.
    """
    chosen: set[Cell] = set()
    for pattern in patterns:
        whole = (pattern, f"{pattern}/*")
        fitting = {c for c in cells if any(fnmatchcase(c.path, p) for p in whole)}
        if not fitting:
            raise SimpoError(unknown(pattern, cells))
        chosen |= fitting
    return [cell for cell in cells if cell in chosen or not patterns]


def unknown(pattern: str, cells: Sequence[Cell]) -> str:
    """What to say of a pattern that fits no cell."""
    tasks, pairs = ({c.path.rsplit("/", n)[0]: c for c in cells} for n in (2, 1))
    known = [*tasks, *pairs, *(cell.path for cell in cells)]
    near = difflib.get_close_matches(pattern, known, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"tasks are {', '.join(tasks)}"
    return f"no cell '{pattern}': write TASK/METHOD/SEED; {hint}"


def require_version(directories: Iterable[Path]) -> None:
    """Refuse runs that another version of this package made.

    Raises:
        SimpoError: The first of them, and what to do.
    """
    here = importlib.metadata.version("simpo")
    for directory in directories:
        made_by = read_json(directory / "env.json").get("packages", {}).get("simpo")
        if made_by != here:
            raise SimpoError(
                f"{directory} was made by simpo {made_by}, this is {here}: use "
                "another --out, or --force to mix them"
            )
