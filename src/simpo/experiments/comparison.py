"""`simpo bench agents`: every agent on the same tasks, seeds and protocol.

A cell is an ordinary run of one agent on one task with one seed. A benchmark goes on
where it was stopped, and more seeds or agents only add cells:

bench/runs/<scale>/<task>/<agent>/<stamp>-s<seed>/   run directories
bench/agents/                                        scores, ranking, pictures, report

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
from simpo.experiments.cells import Cell, Grid
from simpo.experiments.report import Report
from simpo.experiments.runstudy import RunStudy, require_positive
from simpo.experiments.summary import table
from simpo.plotting import aggregates
from simpo.plotting import comparison as plots
from simpo.plotting.curves import align, seed_curve
from simpo.plotting.rundata import RunData, read_run
from simpo.plotting.scores import Pooled, Setting
from simpo.plotting.settings import headline, seed_count
from simpo.presets import agent_names, find
from simpo.run import Run
from simpo.statistics import (
    Estimate,
    Scale,
    bootstrap,
    iqm,
    probability_of_improvement,
)
from simpo.types import SimpoError

__all__ = ["Comparison"]

DRAWS = 10_000
"""Bootstrap resamples of the picture of all aggregates."""
RANDOM_EPISODES = 100
"""Episodes of the random policy that scores are measured from."""


@dataclass(frozen=True)
class Comparison(RunStudy):
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
    out: Path = field(default=Path("bench"), kw_only=True)
    """Folder for runs and results."""

    @property
    def runs(self) -> Path:
        """Parent of the run directories."""
        return self.out / "runs" / self.scale

    def check(self) -> None:
        """Require seeds, and that every run is possible, before the first one."""
        require_positive(seeds=self.seeds, jobs=self.jobs)
        if not self.tasks or not self.agents:
            raise SimpoError("a comparison needs at least one task and one agent")
        self.grid.check()

    def cells(self) -> list[Cell]:
        """All runs; a seed is finished for all agents before the next begins."""
        order = product(range(self.seeds), self.tasks, self.agents)
        return [Cell(task, agent, seed) for seed, task, agent in order]

    @property
    def grid(self) -> Grid:
        """All runs by cell, and where they go."""
        runs = {cell: self.run_of(cell) for cell in self.cells()}
        command = ("simpo", "bench", "agents")
        return Grid(runs, self.runs, command, share=self.share)

    def run_of(self, cell: Cell) -> Run:
        """What a cell trains."""
        run = replace(find(self.scale, cell.task, cell.agent), seed=cell.seed)
        return run if self.steps is None else replace(run, steps=self.steps)

    def run(self, report: Report) -> None:
        """Train what is missing, then rank."""
        report.expect(self.grid.steps)
        directories = dict(self.directories(report))
        if not directories:
            raise SimpoError(f"no finished runs in {self.runs}")
        self.judge(report, directories)

    def directories(self, report: Report) -> Iterator[tuple[Cell, Path]]:
        """Cells with their run directories and a row of scores, trained if need be."""
        return self.grid.directories(report, self.maker)

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
        samplers = {agent: headline(runs[agent, self.tasks[0]][0]) for agent in whole}
        settings = {
            agent: Setting(
                agent,
                {task: runs[agent, task] for task in self.tasks},
                dict.fromkeys(self.tasks, samplers[agent]),
            )
            for agent in whole
        }
        scores = {
            agent: np.array([setting.returns(task) for task in self.tasks])
            for agent, setting in settings.items()
        }
        floor = self.random_scores(report)
        ranking = rank(scores, floor)
        report.add("ranking", [row._asdict() for row in ranking])
        report.say(self.describe(scores, ranking, samplers, floor))
        curves = {
            task: {a: curve(runs[a, task], samplers[a]) for a in whole}
            for task in self.tasks
        }
        bars = [plots.Bar(row.agent, row.iqm, row.low, row.high) for row in ranking]
        plots.comparison(bars, curves, report.folder / "agents")
        scale = Scale.between(floor, scores)
        if scale.flat.any():
            flat = ", ".join(np.array(self.tasks)[scale.flat])
            report.say(f"no agent is better than random actions on {flat}")
        else:
            self.draw(report, settings, scores, scale)

    def draw(
        self,
        report: Report,
        settings: Mapping[str, Setting],
        returns: Mapping[str, np.ndarray],
        scale: Scale,
    ) -> None:
        """Aggregates, profiles and sample efficiency, as `simpo plot` draws them."""
        pooled = Pooled(
            self.tasks,
            {agent: scale.normalise(x) for agent, x in returns.items()},
            {agent: self.efficiency(s, scale) for agent, s in settings.items()},
            scale,
            {agent: setting.sampler for agent, setting in settings.items()},
            about="0 random policy, 1 best agent's mean",
        )
        aggregates.draw_all(pooled, report.folder, DRAWS)

    def efficiency(
        self, setting: Setting, scale: Scale
    ) -> tuple[np.ndarray, np.ndarray]:
        """Steps [P] and normalised evaluations [M, S, P]."""
        steps, returns = setting.curves(self.tasks)
        return steps, scale.normalise(returns)

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
            per_task = [f"{x.mean():.1f}{spread(x)}" for x in scores[row.agent]]
            beats = str(Estimate(row.beats, row.beats_low, row.beats_high))
            iqm_text = str(Estimate(row.iqm, row.low, row.high))
            last = "" if row is ranking[-1] else beats
            rows.append([row.agent, samplers[row.agent], *per_task, iqm_text, last])
        rows.append(["random", "uniform", *(f"{x:.1f}" for x in floor), "0", ""])
        header = ["agent", "sampler", *self.tasks, "IQM, normalised", "P(beats next)"]
        title = (
            f"{self.scale}: last evaluation, mean ± standard deviation over "
            f"{seed_count(self.seeds)}; 95 % stratified bootstrap intervals, none for "
            "1 seed\n"
        )
        return title + table(header, rows)


class Rank(NamedTuple):
    """An agent's place; `beats` is its probability of improvement on the next."""

    agent: str
    iqm: float
    low: float
    high: float
    beats: float
    beats_low: float
    beats_high: float


def curve(runs: Sequence[RunData], sampler: str) -> plots.Curve:
    """Mean evaluation returns of several seeds at common steps."""
    return plots.Curve(*align([seed_curve(run, sampler) for run in runs]))


def spread(scores: np.ndarray) -> str:
    """` ± ` and the standard deviation over seeds; nothing for one."""
    return f" ± {scores.std(ddof=1):.1f}" if len(scores) > 1 else ""


def rank(raw: Mapping[str, np.ndarray], floor: np.ndarray) -> list[Rank]:
    """Agents [M, S] each by the IQM of normalised scores, best first."""
    scale = Scale.between(floor, raw)
    scores = {agent: scale.normalise(x) for agent, x in raw.items()}
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
