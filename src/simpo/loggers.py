"""Where the numbers of a run go: CSV files, TensorBoard, a progress bar.

A run calls `log(step, metrics)` once per reporting interval and `log_episodes(step,
rows)` once per evaluation; `step` counts environment steps. Names are those of
Stable-Baselines3: `rollout/`, `train/` and `time/`, then the metric. Everything under
`time/` differs between two runs of one seed, nothing else does, so it has a file apart.
"""

import csv
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias

from simpo.types import SimpoError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "CsvLogger",
    "EpisodeFields",
    "Logger",
    "MultiLogger",
    "ProgressBar",
    "ProgressLogger",
    "TensorBoardLogger",
    "rewind",
    "rounded",
    "thousands",
]

EpisodeFields: TypeAlias = Mapping[str, Any]
"""An evaluation episode: `sampler`, `episode`, `return_`, `length`, and what else."""

TIME = "time/"


class Logger(ABC):
    """Receives the numbers of one run, in the order of its steps."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record scalars by name; a name that has no value yet is left out."""

    @abstractmethod
    def log_episodes(self, step: int, rows: Sequence[EpisodeFields]) -> None:
        """Record evaluation episodes, one row each."""

    @abstractmethod
    def close(self) -> None:
        """Finish; nothing is recorded afterwards."""


class MultiLogger(Logger):
    """Passes everything on to several loggers, in order."""

    def __init__(self, *loggers: Logger) -> None:
        self.loggers = loggers

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record scalars in each."""
        for logger in self.loggers:
            logger.log(step, metrics)

    def log_episodes(self, step: int, rows: Sequence[EpisodeFields]) -> None:
        """Record episodes in each."""
        for logger in self.loggers:
            logger.log_episodes(step, rows)

    def close(self) -> None:
        """Finish each."""
        for logger in self.loggers:
            logger.close()


class CsvLogger(Logger):
    """`progress.csv`, `timing.csv` and `evaluations.csv` in the run directory.

    Every row is on its way to disk when the call returns, so a run that is killed
    keeps what it logged. Files that exist are continued.

    Args:
        directory: The run directory; it exists.

    Raises:
        SimpoError: A file to be continued is not a table of this logger.
    """

    FILES = ("progress.csv", "timing.csv", "evaluations.csv")

    def __init__(self, directory: Path) -> None:
        tables = (Table(directory / name) for name in self.FILES)
        self.progress, self.timing, self.evaluations = tables

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a row to progress.csv, and one to timing.csv for `time/`."""
        timing = {k: v for k, v in metrics.items() if k.startswith(TIME)}
        rest = {k: v for k, v in metrics.items() if k not in timing}
        for table, row in ((self.progress, rest), (self.timing, timing)):
            if row:
                table.append([{"step": step} | row])

    def log_episodes(self, step: int, rows: Sequence[EpisodeFields]) -> None:
        """Append a row per episode to evaluations.csv; `return_` becomes `return`."""
        named = [{k.rstrip("_"): v for k, v in row.items()} for row in rows]
        self.evaluations.append([{"step": step} | row for row in named])

    def close(self) -> None:
        """Nothing is held open."""

    def positions(self) -> dict[str, tuple[list[str], int]]:
        """Columns and rows of each table so far, by file name, for `rewind`."""
        tables = (self.progress, self.timing, self.evaluations)
        return {t.path.name: (t.columns, t.rows) for t in tables}


class Table:
    """A CSV file that grows by rows and, when a name first has a value, by a column.

    Floats are written in the shortest form that reads back as the same float64: equal
    runs give equal bytes. An empty cell is a value that was not there.

    Args:
        path: The file; continued if it exists.

    Raises:
        SimpoError: The file exists and is not such a table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = read_header(path) if path.exists() else []

    @property
    def rows(self) -> int:
        """Rows so far, the header left out."""
        return len(read_rows(self.path)) - 1 if self.columns else 0

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows, in one write."""
        unknown = {name: None for row in rows for name in row}.keys() - self.columns
        if unknown:
            self.widen([name for row in rows for name in row if name in unknown])
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(to_csv([cell(row.get(c)) for c in self.columns] for row in rows))

    def widen(self, names: Sequence[str]) -> None:
        """Add columns, empty in the rows so far, by writing aside and renaming."""
        new = list(dict.fromkeys(names))
        old = []
        if self.columns:
            old = [row + [""] * len(new) for row in read_rows(self.path)[1:]]
        self.columns = self.columns + new
        replace_rows(self.path, [self.columns, *old])


def rewind(directory: Path, positions: Mapping[str, tuple[list[str], int]]) -> None:
    """Take back what a CsvLogger wrote after it was at these positions.

    Raises:
        SimpoError: A table is shorter than that.
    """
    for name, (columns, count) in positions.items():
        path = directory / name
        if not columns:
            path.unlink(missing_ok=True)
            continue
        rows = read_rows(path) if path.exists() else []
        if len(rows) <= count or rows[0][: len(columns)] != columns:
            raise SimpoError(f"{path} has lost rows: the checkpoint knows {count}")
        replace_rows(path, [row[: len(columns)] for row in rows[: count + 1]])


def read_rows(path: Path) -> list[list[str]]:
    """All cells of a table, the header first."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def replace_rows(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write a whole table aside, then rename."""
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("w", encoding="utf-8", newline="") as file:
        file.write(to_csv(rows))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def read_header(path: Path) -> list[str]:
    """Columns of a table that is to be continued."""
    text = path.read_text(encoding="utf-8")
    columns = next(csv.reader(io.StringIO(text)), [])
    if columns[:1] != ["step"] or len(set(columns)) < len(columns):
        raise SimpoError(f"{path} cannot be continued: line 1 is not its header")
    if not text.endswith("\n"):
        line = text.count("\n") + 1
        raise SimpoError(f"{path} cannot be continued: line {line} is cut off")
    return columns


def to_csv(rows: Iterable[Sequence[str]]) -> str:
    """Rows as text, with the same line ends on every system."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def cell(value: Any) -> str:
    """A value as text: whole numbers and names as they are, floats by `repr`."""
    if value is None:
        return ""
    if isinstance(value, str | Integral):
        return str(value)
    return repr(float(value))


def evaluation_means(rows: Sequence[EpisodeFields]) -> dict[str, tuple[float, float]]:
    """Mean return and length by sampler, in the order of first appearance."""
    samplers = dict.fromkeys(str(row["sampler"]) for row in rows)
    means = {}
    for sampler in samplers:
        own = [row for row in rows if row["sampler"] == sampler]
        returns = fmean(float(row["return_"]) for row in own)
        means[sampler] = returns, fmean(float(row["length"]) for row in own)
    return means


class TensorBoardLogger(Logger):
    """TensorBoard event files.

    `charts/episodic_return` and `charts/SPS` repeat two metrics under the names that
    OpenRL Benchmark reads. The first sampler of an evaluation is `eval/`, the others
    are `eval_<sampler>/`.

    Args:
        directory: Where the event files go.
    """

    ALIASES = {  # noqa: RUF012
        "rollout/ep_rew_mean": "charts/episodic_return",
        "time/fps": "charts/SPS",
    }

    def __init__(self, directory: Path) -> None:
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(directory))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each metric's curve."""
        aliases = {a: metrics[n] for n, a in self.ALIASES.items() if n in metrics}
        for name, value in {**metrics, **aliases}.items():
            self.writer.add_scalar(name, float(value), step)
        self.writer.flush()

    def log_episodes(self, step: int, rows: Sequence[EpisodeFields]) -> None:
        """Add the mean return and length of each sampler."""
        for i, (sampler, means) in enumerate(evaluation_means(rows).items()):
            group = "eval" if i == 0 else f"eval_{sampler}"
            self.writer.add_scalar(f"{group}/mean_reward", means[0], step)
            self.writer.add_scalar(f"{group}/mean_ep_length", means[1], step)
        self.writer.flush()

    def close(self) -> None:
        """Write what is pending."""
        self.writer.close()


class ProgressLogger(Logger):
    """A logger that also says what is going on."""

    @abstractmethod
    def phase(self, text: str) -> None:
        """Say what is going on (compiling, training, evaluating) in ten characters."""


class ProgressBar(ProgressLogger):
    """One line on standard error; nothing at all where that is not a terminal.

    Each evaluation leaves a line above the bar. `NO_COLOR` is respected.

    Args:
        total: Environment steps of the run.
        console: Where to draw; standard error by default.
    """

    def __init__(self, total: int, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console or Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description:<10.10}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[steps]}"),
            TextColumn("[bold]{task.fields[score]}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
            expand=True,
            speed_estimate_period=120.0,
        )
        self.total, self.training, self.evaluation = total, "-", ""
        self.task = self.bar.add_task(
            "starting", total=total, steps=self.steps(0), score="", speed=""
        )
        self.bar.start()

    def phase(self, text: str) -> None:
        """Say what is going on (compiling, training, evaluating) in ten characters."""
        self.bar.update(self.task, description=text)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move on to `step`; show the mean training return and the speed."""
        if "rollout/ep_rew_mean" in metrics:
            self.training = rounded(metrics["rollout/ep_rew_mean"])
        if "time/fps" in metrics:
            self.bar.update(self.task, speed=f"{rounded(metrics['time/fps'])}/s")
        self.bar.update(
            self.task, completed=step, steps=self.steps(step), score=self.score()
        )

    def log_episodes(self, step: int, rows: Sequence[EpisodeFields]) -> None:
        """Show the mean returns by sampler, on a line that stays and in the bar."""
        means = {s: m[0] for s, m in evaluation_means(rows).items()}
        if not means:
            return
        sampler, mean = next(iter(means.items()))
        self.evaluation = f"{sampler} {rounded(mean)}"
        self.bar.update(self.task, score=self.score())
        if self.console.is_terminal:
            line = "   ".join(
                f"{s} [bold]{rounded(m)}[/bold]" for s, m in means.items()
            )
            self.console.print(
                f"{thousands(step):>10} steps   evaluation return   {line}",
                highlight=False,
            )

    def close(self) -> None:
        """Leave the last state on the screen."""
        self.bar.stop()

    def steps(self, step: int) -> str:
        """Steps done, of all."""
        return f"{thousands(step)}/{thousands(self.total)}"

    def score(self) -> str:
        """The latest mean returns: of training, and of the evaluation's sampler."""
        return f"return {self.training}  {self.evaluation}".rstrip()


def thousands(number: float) -> str:
    """`20k`, `1.5M`: a count or a tick in as few characters as it needs."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.4g}{suffix}"
    return f"{number:.4g}"


def rounded(number: float) -> str:
    """`8,124` or `-3.52`: a score in about four characters."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
