"""Studies that are grids of runs: their options, their tables, what is missing.

<out>/runs/<scale>/        run directories, which studies of one scale share
<out>/<study>/<scale>/     scores.csv results.csv report.txt report.html, pictures

A score is the mean return of the last evaluation of a run, under the first sampler of
its evaluations; a cell of the table is the IQM over seeds. Never a maximum over
training.
"""

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from simpo.checkpoint import read_json
from simpo.experiments import page
from simpo.experiments.cells import Cell, Grid, choose, require_version
from simpo.experiments.machines import machines
from simpo.experiments.published import Published
from simpo.experiments.report import Report, Verdict
from simpo.experiments.runstudy import RunStudy, require_positive
from simpo.experiments.summary import table
from simpo.plotting import comparison as plots
from simpo.plotting import tables
from simpo.plotting.curves import align, seed_curve
from simpo.plotting.rundata import RunData, read_run
from simpo.plotting.scores import ENOUGH, score
from simpo.plotting.settings import headline, spoken
from simpo.run import Run
from simpo.statistics import Estimate, bootstrap, iqm

__all__ = ["Entry", "GridStudy", "Results", "Scale"]

Scale = Literal["smoke", "laptop", "paper"]
SEEDS = {"smoke": 1, "laptop": 3, "paper": 5}
"""Seeds by scale, unless told otherwise."""
HEADER = ("method", "sampler", "seeds", "episodes", "IQM [95 %]", "speed", "published")


@dataclass(frozen=True, eq=False)
class Entry:
    """A method's runs on one task.

    Attributes:
        sampler: How actions were drawn.
        scores: A score per seed [S].
        runs: The runs, by seed.
    """

    sampler: str
    scores: np.ndarray
    runs: list[RunData]

    @property
    def episodes(self) -> int:
        """Evaluation episodes behind each score."""
        table = self.runs[0].evaluations
        last = table["step"] == table["step"].max()
        return int((last & (table["sampler"] == self.sampler)).sum())

    @cached_property
    def estimate(self) -> Estimate:
        """IQM over seeds with its bootstrap interval."""
        return Estimate(
            *bootstrap(iqm, self.scores[None], rng=np.random.default_rng(0))
        )

    @property
    def speed(self) -> str:
        """Mean speed in the last evaluations, where the task tells it; in m/s."""
        speeds = []
        for run in self.runs:
            rows = run.evaluations
            if "speed" in rows:
                last = rows["step"] == rows["step"].max()
                speeds.append(rows["speed"][last & (rows["sampler"] == self.sampler)])
        return f"{np.mean(speeds):.2f}" if speeds else ""

    @property
    def curves(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Steps and mean evaluation returns of each seed."""
        return [seed_curve(run, self.sampler) for run in self.runs]


Results = Mapping[tuple[str, str], Entry]
"""Entries by task and method."""


@dataclass(frozen=True)
class GridStudy(RunStudy):
    """A study whose measurements are runs.

    Attributes:
        tasks: Gymnasium ids.
        methods: What is compared.
    """

    tasks: ClassVar[tuple[str, ...]]
    methods: ClassVar[tuple[str, ...]]
    scale: Scale = "laptop"
    """The preset of all runs; smoke takes seconds per cell and shows nothing."""
    cells: tuple[str, ...] = ()
    """Which cells: TASK/METHOD/SEED, with * and ?, or the beginning of that. All by
    default."""
    seeds: int | None = None
    """Seeds: 0, 1, ...; 1 for smoke, 3 for laptop, 5 for paper by default."""
    force: bool = False
    """Mix runs of several versions of this package."""

    @abc.abstractmethod
    def run_of(self, cell: Cell) -> Run:
        """What a cell trains."""

    @abc.abstractmethod
    def verdicts(self, results: Results) -> Iterator[Verdict]:
        """What the results say of the paper's claims."""

    @abc.abstractmethod
    def published(self, task: str, method: str) -> Published | None:
        """The paper's number."""

    @abc.abstractmethod
    def pictures(self, results: Results, folder: Path) -> list[Path]:
        """Pictures of its own, beside scores and curves."""

    @abc.abstractmethod
    def marks(self) -> Mapping[str, float]:
        """A published number by task, for the picture of scores."""

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.out / self.name / self.scale

    def at_scale(self, claim: str) -> str:
        """A claim, and the scale that it was judged at, if not the paper's."""
        return claim if self.scale == "paper" else f"{claim} [{self.scale} scale]"

    @property
    def grid(self) -> Grid:
        """The chosen cells; a seed is finished for all before the next begins."""
        seeds = range(self.seeds or SEEDS[self.scale])
        every = [Cell(t, m, s) for s in seeds for t in self.tasks for m in self.methods]
        runs = {cell: self.run_of(cell) for cell in choose(every, self.cells)}
        folder = self.out / "runs" / self.scale
        command = ("simpo", "reproduce", self.name)
        quick = self.scale == "smoke"
        return Grid(runs, folder, command, quick=quick, share=self.share)

    def check(self) -> None:
        """Require seeds and workers, cells that exist and can be run.

        Raises:
            SimpoError: Something is not so, or runs are of another version.
        """
        require_positive(seeds=self.seeds, jobs=self.jobs)
        grid = self.grid
        grid.check()
        grid.fetch()
        if not self.force:
            done = (grid.finished(cell) for cell in grid.runs)
            require_version(path for path in done if path)

    def run(self, report: Report) -> None:
        """Train what is missing, then report."""
        grid = self.grid
        report.expect(grid.steps)
        directories = dict(grid.directories(report, self.maker))
        results = collect(grid.runs, directories)
        verdicts = list(self.verdicts(results))
        missing = [cell.path for cell in grid.runs if cell not in directories]
        for task in tasks_of(results):
            lines = table(*self.lines(task, results))
            report.say(f"{task}, {self.scale} scale\n{lines}\n")
        for text in (*self.notes(results), *verdicts):
            report.say(text)
        if missing:
            report.say(f"\n{len(missing)} cells are missing:")
            report.say(listed(missing))
        report.add("results", self.rows(results))
        if results:
            title = f"{self.name}, {self.scale} scale"
            paths = draw(results, title, report.folder, self.marks())
            paths += self.pictures(results, report.folder)
            self.write_page(report.folder, results, verdicts, missing, paths)

    def write_page(
        self,
        folder: Path,
        results: Results,
        verdicts: Sequence[Verdict],
        missing: Sequence[str],
        pictures: Sequence[Path],
    ) -> None:
        """Everything in one HTML file."""
        title = f"simpo reproduce {self.name}: {self.scale} scale"
        parts = [page.verdict_list(verdicts)]
        parts += [
            page.rows(task, *self.lines(task, results)) for task in tasks_of(results)
        ]
        parts += [f"<p>{note}</p>" for note in self.notes(results)]
        drawn = [path for path in pictures if path.suffix == ".png"]
        parts += [page.picture(path, path.stem) for path in drawn]
        if missing:
            parts.append(page.details(f"{len(missing)} cells are missing", missing))
        machine = read_json(folder / "env.json")
        parts.append(page.details("Versions and devices of this report", machine))
        (folder / "report.html").write_text(page.page(title, parts), encoding="utf-8")

    def lines(self, task: str, results: Results) -> tuple[list[str], list[list[str]]]:
        """A task's table, as text; columns that nothing is in are left out."""
        lines, sources = [], self.sources(results)
        for method in (m for t, m in results if t == task):
            entry, number = results[task, method], self.published(task, method)
            note = sources.index(number.source) + 1 if number else 0
            lines.append(
                [
                    method,
                    spoken(entry.sampler),
                    str(len(entry.scores)),
                    str(entry.episodes),
                    interval(entry.estimate),
                    entry.speed,
                    f"{number.value:,.0f} ({note})" if number else "",
                ]
            )
        used = [i for i, _ in enumerate(HEADER) if any(line[i] for line in lines)]
        return [HEADER[i] for i in used], [[x[i] for i in used] for x in lines]

    def notes(self, results: Results) -> list[str]:
        """What the tables' numbers are, where from and made where."""
        sources = enumerate(self.sources(results), 1)
        notes = [f"({number}) {source}" for number, source in sources]
        if any(1 < len(entry.scores) < ENOUGH for entry in results.values()):
            notes.append(
                f"Bootstrap intervals of fewer than {ENOUGH} seeds are much too "
                "narrow: see docs/statistics.md."
            )
        runs = (run for entry in results.values() for run in entry.runs)
        return [*notes, *machines(run.directory for run in runs)]

    def sources(self, results: Results) -> list[str]:
        """Where the published numbers are from, for footnotes."""
        numbers = (self.published(*key) for key in results)
        return list(dict.fromkeys(n.source for n in numbers if n))

    def rows(self, results: Results) -> list[dict[str, object]]:
        """The table as rows."""
        rows = []
        for (task, method), entry in results.items():
            number = self.published(task, method)
            rows.append(
                {
                    "task": task,
                    "method": method,
                    "sampler": entry.sampler,
                    "seeds": len(entry.scores),
                    "episodes": entry.episodes,
                    **dict(zip(("iqm", "low", "high"), entry.estimate, strict=True)),
                    "speed": entry.speed,
                    "published": number.value if number else "",
                    "source": number.source if number else "",
                }
            )
        return rows


def collect(
    cells: Iterable[Cell], directories: Mapping[Cell, Path]
) -> dict[tuple[str, str], Entry]:
    """Runs by task and method, in the order of the cells."""
    runs: dict[tuple[str, str], list[RunData]] = {}
    for cell in filter(directories.__contains__, cells):
        runs.setdefault((cell.task, cell.agent), []).append(read_run(directories[cell]))
    entries = {}
    for key, group in runs.items():
        sampler = headline(group[0])
        scores = np.array([score(run, sampler) for run in group])
        entries[key] = Entry(sampler, scores, group)
    return entries


def tasks_of(results: Results) -> list[str]:
    """Tasks, in the order in which they come."""
    return list(dict.fromkeys(task for task, _ in results))


def draw(
    results: Results, title: str, folder: Path, marks: Mapping[str, float]
) -> list[Path]:
    """Scores with their intervals, and learning curves, a panel per task."""
    bars: dict[str, list] = {task: [] for task in tasks_of(results)}
    curves: dict[str, dict] = {task: {} for task in bars}
    for (task, method), entry in results.items():
        bars[task].append(plots.Bar(method, *entry.estimate))
        curves[task][method] = plots.Curve(*align(entry.curves))
    scores = f"{title}, last evaluation"
    return [
        *tables.draw_scores(bars, scores, folder / "scores", marks),
        *tables.draw_curves(curves, title, folder / "curves"),
    ]


def interval(estimate: Estimate) -> str:
    """`8,124 [7,950, 8,301]`; without an interval for one seed."""
    value, low, high = (f"{x:,.1f}" for x in estimate)
    return value if np.isnan(estimate.low) else f"{value} [{low}, {high}]"


def listed(paths: Sequence[str]) -> str:
    """The first cells that are missing, and how many more."""
    shown, rest = paths[:20], len(paths) - 20
    more = [f"... and {rest} more"] if rest > 0 else []
    return "\n".join(f"  {line}" for line in [*shown, *more])
