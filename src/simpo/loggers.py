"""Where the numbers of a run go: CSV files, TensorBoard, a progress bar.

A run calls `log(step, metrics)` once per reporting interval and `log_episodes(step,
rows)` once per evaluation; `step` counts environment steps. Names are those of
Stable-Baselines3: `rollout/`, `train/` and `time/`, then the metric. Everything under
`time/` differs between two runs of one seed, nothing else does, so it has a file apart.
"""

import contextlib
import csv
import io
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpo.curves import (
    EpisodeFields,
    curves,
    evaluation_curves,
    evaluation_means,
)
from simpo.pace import Mark, duration, sparkline, speed, time_left
from simpo.types import SimpoError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

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
        named = [
            {k.rstrip("_"): v for k, v in row.items() if v is not None} for row in rows
        ]
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


class TensorBoardLogger(Logger):
    """TensorBoard event files, with curves named by `simpo.curves`.

    Args:
        directory: Where the event files go.
    """

    def __init__(self, directory: Path) -> None:
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(directory))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each metric's curve."""
        self.add(step, curves(metrics))

    def log_episodes(self, step: int, rows: Sequence[EpisodeFields]) -> None:
        """Add the mean return and length of each sampler."""
        self.add(step, evaluation_curves(rows))

    def add(self, step: int, points: Mapping[str, float]) -> None:
        """Add points and write them to the file."""
        for name, value in points.items():
            self.writer.add_scalar(name, value, step)
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
    """Two live lines on standard error; plain ones, now and then, in a file or pipe.

    Phase, steps, speed, time left; returns of training and evaluation as curves. Each
    evaluation leaves a line above them. `NO_COLOR` is respected.

    Args:
        total: Environment steps of the run.
        console: Where to draw; standard error by default.
        pause: Seconds between plain lines.
    """

    def __init__(
        self, total: int, console: "Console | None" = None, pause: float = 30.0
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = console or Console(stderr=True)
        self.total, self.pause, self.step = total, pause, 0
        self.doing, self.live = "starting", None
        self.marks: list[Mark] = []
        self.training: list[float] = []
        self.evaluations: dict[str, list[float]] = {}
        self.heard = self.said = time.monotonic()
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live = Live(console=self.console, get_renderable=self.render)
            self.live.start()

    def phase(self, text: str) -> None:
        """Say what is going on (compiling, training, evaluating) in ten characters."""
        self.doing = text
        if self.live:
            self.live.refresh()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move on to `step`; note the mean training return and the time."""
        self.step, self.heard = step, time.monotonic()
        if "rollout/ep_rew_mean" in metrics:
            self.training.append(metrics["rollout/ep_rew_mean"])
        if "time/elapsed" in metrics:
            rate = metrics.get("time/updates_per_second", 0.0)
            self.marks.append(Mark(step, metrics["time/elapsed"], rate))
        if not self.live and self.heard - self.said >= self.pause:
            self.said = self.heard
            with contextlib.suppress(OSError):  # nobody reads it: no reason to fail
                print(self.plain(), file=self.console.file, flush=True)

    def log_episodes(self, step: int, rows: Sequence[EpisodeFields]) -> None:
        """Note the mean returns by sampler, on a line that stays."""
        means = {s: m["mean_reward"] for s, m in evaluation_means(rows).items()}
        for sampler, mean in means.items():
            self.evaluations.setdefault(sampler, []).append(mean)
        if self.live and means:
            words = (f"{s} [bold]{rounded(m)}[/bold]" for s, m in means.items())
            line = f"{thousands(step):>10} steps   evaluation return   "
            self.console.print(line + "   ".join(words), highlight=False)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self.live:
            self.live.stop()

    def pace(self) -> str:
        """Steps done, of all; speed; time left, which runs down between rows."""
        words = [f"{thousands(self.step)}/{thousands(self.total)}"]
        if rate := speed(self.marks):
            words.append(f"{rounded(rate)}/s")
        if left := time_left(self.marks, self.total):
            since = time.monotonic() - self.heard
            words.append(f"{duration(max(0.0, left - since))} left")
        return "  ".join(words)

    def scores(self) -> list[tuple[str, list[float]]]:
        """Returns so far: of training, and under the evaluation's first sampler."""
        named = [("return", self.training), *list(self.evaluations.items())[:1]]
        return [(name, values) for name, values in named if values]

    def plain(self) -> str:
        """Everything in one line without control characters."""
        scores = [f"{name} {rounded(values[-1])}" for name, values in self.scores()]
        return "  ".join([self.doing, self.pace(), *scores])

    def render(self) -> "RenderableType":
        """The two lines, as wide as the terminal."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar as Bar
        from rich.table import Table as Grid
        from rich.text import Text

        first, second = Grid.grid(expand=True, padding=(0, 2, 0, 0)), Text(no_wrap=True)
        first.add_column(width=10, no_wrap=True)
        first.add_column(ratio=1)
        first.add_column(no_wrap=True, justify="right")
        bar = Bar(self.total, min(self.step, self.total))
        first.add_row(self.doing[:10], bar, self.pace())
        width = max(4, min(30, (self.console.width - 48) // 2))
        width = 0 if self.console.options.ascii_only else width
        for name, values in self.scores():
            second.append(f"{name} ").append(rounded(values[-1]), "bold")
            second.append(f" {sparkline(values, width)}   ", "progress.percentage")
        return Group(first, second)


def thousands(number: float) -> str:
    """`20k`, `1.5M`: a count or a tick in as few characters as it needs."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.4g}{suffix}"
    return f"{number:.4g}"


def rounded(number: float) -> str:
    """`8,124` or `-3.52`: a score in about four characters."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
