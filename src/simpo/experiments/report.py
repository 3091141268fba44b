"""What every experiment leaves behind: rows, pictures, verdicts, its own options.

results/<name>/
  config.json env.json status.json      the study, the versions and devices, its state
  <table>.csv                           numbers; <table>.partial.csv until all are there
  <figure>.png <figure>.svg             pictures
  report.txt                            tables and a verdict per claim of the paper
"""

import abc
import contextlib
import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from simpo.checkpoint import write_json
from simpo.directories import describe_machine
from simpo.types import SimpoError

__all__ = ["Interrupted", "Report", "Study", "Verdict", "reproduce"]


class Interrupted(SimpoError):
    """The user stopped a study; what it had measured is kept."""

    exit_code = 130


HOLDS = {True: "holds", False: "does not hold", None: "not decided"}
"""What is said of a claim."""


class Verdict(NamedTuple):
    """What was found about one claim.

    Attributes:
        claim: The claim, in one sentence.
        holds: None where the intervals do not decide.
        evidence: The numbers, with their intervals.
        words: What is said if it holds, if it does not, if that is open.
    """

    claim: str
    holds: bool | None
    evidence: str
    words: Mapping[bool | None, str] = HOLDS

    def __str__(self) -> str:
        return f"[{self.word}] {self.claim}\n    {self.evidence}"

    @property
    def word(self) -> str:
        """Whether it holds, in words."""
        return self.words[self.holds]


class Report:
    """The folder of one study: tables row by row, text at the end, a progress bar.

    Args:
        folder: Where everything goes; made if it is not there.

    Raises:
        SimpoError: The folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.folder, self.rows = folder, 0
        self.tables: dict[str, Path] = {}
        self.lines: list[str] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.status("running")
        except OSError as error:
            reason = error.strerror or error
            raise SimpoError(f"cannot write to {folder}: {reason}") from error
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description:<24.24}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
            expand=True,
            speed_estimate_period=600.0,
        )
        self.task = self.bar.add_task("starting", total=None)

    def status(self, state: str) -> None:
        """Say in status.json how far the study is."""
        write_json(self.folder / "status.json", {"state": state, "rows": self.rows})

    def expect(self, total: int) -> None:
        """Set the length of the progress bar."""
        self.bar.update(self.task, total=total)

    def advance(self, text: str, steps: int = 1) -> None:
        """Move the progress bar on, saying what is done now."""
        self.bar.update(self.task, description=text, advance=steps)

    def bar_of(self, text: str) -> Callable[[int], None]:
        """The bar as a function of steps done since the last call, under a text."""
        return lambda steps: self.advance(text, steps)

    def add(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to a table; it is called partial until the study is done."""
        if not rows:
            return
        new = table not in self.tables
        path = self.tables.setdefault(table, self.folder / f"{table}.partial.csv")
        with path.open("w" if new else "a", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            if new:
                writer.writeheader()
            writer.writerows(rows)
        self.rows += len(rows)

    def say(self, text: object = "") -> None:
        """Add lines to the report, which is printed at the end."""
        self.lines.append(str(text))

    def finish(self) -> None:
        """Give the tables their names and write the report."""
        for table, path in self.tables.items():
            path.replace(self.folder / f"{table}.csv")
        (self.folder / "report.txt").write_text("\n".join(self.lines) + "\n")
        self.status("done")


@dataclass(frozen=True)
class Study(abc.ABC):
    """An experiment of the paper; its fields are its options."""

    name: ClassVar[str]
    """What `simpo reproduce` and the folder call it."""
    out: Path = field(default=Path("results"), kw_only=True)
    """Folder for the results; the study gets one of its own inside."""

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out / self.name

    @abc.abstractmethod
    def check(self) -> None:
        """Raise SimpoError if the options are impossible."""

    @abc.abstractmethod
    def run(self, report: Report) -> None:
        """Measure, draw and judge, into the report."""


def reproduce(study: Study) -> Report:
    """Run a study into a folder of its own.

    Raises:
        SimpoError: Impossible options, or a folder that cannot be written to.
        Interrupted: The user stopped it; the rows measured so far are kept.
    """
    study.check()
    report = Report(study.folder)
    with report.bar, closing(report):
        options = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(study).items()
        }
        write_json(report.folder / "config.json", {"study": study.name, **options})
        write_json(report.folder / "env.json", describe_machine())
        started = time.perf_counter()
        study.run(report)
        report.say(f"took {time.perf_counter() - started:.0f} s")
        report.finish()
    return report


@contextlib.contextmanager
def closing(report: Report) -> Iterator[None]:
    """Mark a study that did not end well, and name what is kept of it."""
    try:
        yield
    except KeyboardInterrupt:
        report.status("interrupted")
        kept = ", ".join(str(path) for path in report.tables.values())
        where = f"{report.rows} rows kept in {kept}" if kept else "nothing measured yet"
        raise Interrupted(f"interrupted: {where}") from None
    except BaseException:
        report.status("failed")
        raise
