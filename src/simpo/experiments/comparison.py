"""`simpo bench agents`: every agent on the same tasks, seeds and protocol.

A cell is a run of one agent on one task with one seed, in a folder of its own, so a
benchmark goes on where it was stopped, and more seeds or agents only add cells:

bench/agents/<scale>/<task>/<agent>/s<seed>/

A score is the mean return of the last evaluation under the agent's headline sampler.
Over several tasks scores are normalised, per task: 0 a uniformly random policy, 1 the
best agent's mean.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from simpo import envs
from simpo.checkpoint import write_json
from simpo.experiments.report import Report, Study
from simpo.experiments.summary import table
from simpo.loggers import ProgressLogger
from simpo.plotting import comparison as plots
from simpo.plotting.curves import align, seed_curve
from simpo.plotting.rundata import RunData, read_run
from simpo.presets import agent_names, find
from simpo.runs import start_run
from simpo.statistics import bootstrap, iqm, probability_of_improvement
from simpo.trainer import Run
from simpo.types import SimpoError

__all__ = ["Comparison"]

RANDOM_EPISODES = 100
"""Episodes of the random policy that scores are measured from."""


class Cell(NamedTuple):
    """One run of the benchmark."""

    task: str
    agent: str
    seed: int


@dataclass(frozen=True)
class Comparison(Study):
    """Train every agent on every task and seed, then rank them."""

    name: ClassVar[str] = "agents"
    tasks: tuple[str, ...] = ("InvertedDoublePendulum-v5", "Hopper-v5")
    """Gymnasium ids."""
    scale: str = "laptop"
    """The preset that all runs take their values from."""
    seeds: int = 5
    """Seeds per task and agent: 0, 1, ..."""
    agents: tuple[str, ...] = field(default_factory=lambda: tuple(agent_names()))
    """Agents by name; all of them by default."""
    steps: int | None = None
    """Environment steps per run; the preset's by default."""
    only_report: bool = False
    """Train nothing: judge the cells that are there."""
    out: Path = field(default=Path("bench"), kw_only=True)
    """Folder for runs and results."""

    def check(self) -> None:
        """Require seeds, and that every run is possible, before the first one."""
        if self.seeds < 1:
            raise SimpoError(f"seeds must be at least 1, not {self.seeds}")
        for cell in self.cells():
            self.run_of(cell).check()

    def cells(self) -> list[Cell]:
        """All runs; a seed is finished for all agents before the next begins."""
        order = product(range(self.seeds), self.tasks, self.agents)
        return [Cell(task, agent, seed) for seed, task, agent in order]

    def run_of(self, cell: Cell) -> Run:
        """What a cell trains."""
        run = replace(find(self.scale, cell.task, cell.agent), seed=cell.seed)
        return run if self.steps is None else replace(run, steps=self.steps)

    def folder_of(self, cell: Cell) -> Path:
        """Where a cell's run directory is made."""
        name = cell.task.replace("/", "_")
        return self.out / "runs" / self.scale / name / cell.agent / f"s{cell.seed}"

    def finished(self, cell: Cell) -> Path | None:
        """The run directory of a cell that is done with the same settings."""
        for status in self.folder_of(cell).glob("*/*/*/status.json"):
            if json.loads(status.read_text()).get("state") == "done":
                config = json.loads((status.parent / "config.json").read_text())
                if config.get("steps") == self.run_of(cell).steps:
                    return status.parent
        return None

    def run(self, report: Report) -> None:
        """Train what is missing, then rank."""
        report.expect(sum(self.run_of(cell).steps for cell in self.cells()))
        directories = dict(self.directories(report))
        if not directories:
            raise SimpoError(f"no finished runs in {self.out}: train first")
        for cell, directory in directories.items():
            run = read_run(directory)
            row = {"sampler": headline(run), "score": score(run)}
            report.add("scores", [{**cell._asdict(), **row}])
        self.judge(report, directories)

    def directories(self, report: Report) -> Iterator[tuple[Cell, Path]]:
        """Cells with their run directories, trained if need be."""
        for cell in self.cells():
            text = f"{cell.agent} {cell.task} s{cell.seed}"
            done = self.finished(cell)
            if done is None and not self.only_report:
                logger = Quiet(report, text)
                run, parent = self.run_of(cell), self.folder_of(cell)
                command = ["simpo", "bench", "agents"]
                done = start_run(run, parent, command=command, bar=logger).directory
            elif done is not None:
                report.advance(text, self.run_of(cell).steps)
            if done is not None:
                yield cell, done

    def judge(self, report: Report, directories: Mapping[Cell, Path]) -> None:
        """Scores, ranking and curves of the agents that have all their cells."""
        whole = [a for a in self.agents if self.has_all(a, directories)]
        if missing := [a for a in self.agents if a not in whole]:
            report.say(f"not finished, left out: {', '.join(missing)}")
        if not whole:
            return
        runs = {
            (agent, task): [
                read_run(directories[Cell(task, agent, seed)])
                for seed in range(self.seeds)
            ]
            for agent, task in product(whole, self.tasks)
        }
        scores = {
            agent: np.array([list(map(score, runs[agent, t])) for t in self.tasks])
            for agent in whole
        }
        floor = self.random_scores(report)
        ranking = rank(scores, floor)
        samplers = {agent: headline(runs[agent, self.tasks[0]][0]) for agent in whole}
        report.add("ranking", [row._asdict() for row in ranking])
        report.say(self.describe(scores, ranking, samplers, floor))
        curves = {
            task: {a: curve(runs[a, task], samplers[a]) for a in whole}
            for task in self.tasks
        }
        bars = [plots.Bar(row.agent, row.iqm, row.low, row.high) for row in ranking]
        plots.comparison(bars, curves, report.folder / "agents")

    def has_all(self, agent: str, directories: Mapping[Cell, Path]) -> bool:
        """Whether an agent has every task and seed."""
        wanted = product(self.tasks, range(self.seeds))
        return all(Cell(task, agent, seed) in directories for task, seed in wanted)

    def random_scores(self, report: Report) -> np.ndarray:
        """Mean return of a uniformly random policy [M], measured once per task."""
        path = report.folder / "random.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        for task in self.tasks:
            known.setdefault(task, random_return(task))
        write_json(path, known)
        return np.array([known[task] for task in self.tasks])

    def describe(
        self,
        scores: Mapping[str, np.ndarray],
        ranking: "Sequence[Rank]",
        samplers: Mapping[str, str],
        floor: np.ndarray,
    ) -> str:
        """The table: returns per task, and the ranking over tasks."""
        rows = []
        for row in ranking:
            per_task = [f"{x.mean():.1f} ± {spread(x):.1f}" for x in scores[row.agent]]
            beats = f"{row.beats:.2f} [{row.beats_low:.2f}, {row.beats_high:.2f}]"
            iqm_text = f"{row.iqm:.3f} [{row.low:.3f}, {row.high:.3f}]"
            last = "" if row is ranking[-1] else beats
            rows.append([row.agent, samplers[row.agent], *per_task, iqm_text, last])
        rows.append(["random", "uniform", *(f"{x:.1f}" for x in floor), "0", ""])
        header = ["agent", "sampler", *self.tasks, "IQM, normalised", "P(beats next)"]
        title = (
            f"{self.scale}: last evaluation, mean ± standard deviation over "
            f"{self.seeds} seeds; 95 % stratified bootstrap intervals\n"
        )
        return title + table(header, rows)


class Quiet(ProgressLogger):
    """A run's share of the benchmark's progress bar."""

    def __init__(self, report: Report, text: str) -> None:
        self.report, self.text, self.done = report, text, 0

    def phase(self, text: str) -> None:
        """Nothing: one line shows all runs."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar on."""
        self.report.advance(self.text, step - self.done)
        self.done = step

    def log_episodes(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Rank(NamedTuple):
    """An agent's place; `beats` is its probability of improvement on the next."""

    agent: str
    iqm: float
    low: float
    high: float
    beats: float
    beats_low: float
    beats_high: float


def headline(run: RunData) -> str:
    """The sampler that a run's scores are told for: the first of its evaluations."""
    return str(run.evaluations["sampler"][0])


def score(run: RunData) -> float:
    """Mean return of the last evaluation under the headline sampler."""
    rows = run.evaluations
    chosen = (rows["step"] == rows["step"].max()) & (rows["sampler"] == headline(run))
    return float(rows["return"][chosen].mean())


def curve(runs: Sequence[RunData], sampler: str) -> plots.Curve:
    """Mean evaluation returns of several seeds at common steps."""
    return plots.Curve(*align([seed_curve(run, sampler) for run in runs]))


def spread(scores: np.ndarray) -> float:
    """Standard deviation over seeds; NaN for one."""
    return float(scores.std(ddof=1)) if len(scores) > 1 else float("nan")


def rank(raw: Mapping[str, np.ndarray], floor: np.ndarray) -> list[Rank]:
    """Agents [M, S] each by the IQM of normalised scores, best first."""
    top = np.max([x.mean(axis=1) for x in raw.values()], axis=0)
    width = np.where(top > floor, top - floor, 1.0)[:, None]
    scores = {a: (x - floor[:, None]) / width for a, x in raw.items()}
    order = sorted(scores, key=lambda a: -float(iqm(scores[a])))
    ranks = []
    for agent, following in zip(order, [*order[1:], order[-1]], strict=True):
        rng, pair = np.random.default_rng(0), (scores[agent], scores[following])
        overall = bootstrap(iqm, scores[agent], rng=rng)
        beats = bootstrap(probability_of_improvement, *pair, rng=rng, draws=2_000)
        ranks.append(Rank(agent, *overall, *beats))
    return ranks


def random_return(task: str) -> float:
    """Mean return of uniformly random actions."""
    env, rng = envs.make(task, 10, seed=0), np.random.default_rng(0)
    env.reset()
    returns: list[float] = []
    while len(returns) < RANDOM_EPISODES:
        returns += [e.return_ for e in env.step(env.random_actions(rng)).episodes]
    env.close()
    return float(np.mean(returns))
