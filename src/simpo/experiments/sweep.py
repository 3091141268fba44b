"""`simpo sweep`: values for the fields of an agent that no source gives.

score(values) = mean over seeds of the last evaluation's mean return

Optuna proposes values and gives up, after each seed, on those below the median of what
others had after as many. The best of many noisy scores flatters itself: what it is
worth is measured on seeds that chose nothing, against the preset's own values.

<out>/        journal.log (Optuna's study) trials.csv scores.csv sweep.png report.txt
<out>/runs/   run directories, made once
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro

from simpo.engines.local import cores
from simpo.experiments import ranges
from simpo.experiments.cells import Cell, Grid
from simpo.experiments.claims import difference
from simpo.experiments.ranges import Range
from simpo.experiments.report import Report, Verdict
from simpo.experiments.runstudy import RunStudy, require_positive
from simpo.experiments.summary import table
from simpo.plotting.rundata import read_run
from simpo.plotting.scores import score
from simpo.plotting.settings import headline
from simpo.plotting.sweep import Trial, draw_sweep
from simpo.presets import DEFAULT_AGENT, DEFAULT_ENV, find
from simpo.run import Run
from simpo.types import SimpoError

__all__ = ["Sweep"]

SEARCHED, UNSEEN = 1000, 2000
"""The first of the seeds that values are chosen on, and of those that chose nothing;
tables begin with seed 0."""
SHOWN = 5
"""Rows of the table of the best."""


@dataclass(frozen=True)
class Sweep(RunStudy):
    """Search values of an agent's fields; confirm the best on fresh seeds."""

    name: ClassVar[str] = "sweep"
    task: tyro.conf.Positional[str] = DEFAULT_ENV
    """Gymnasium id."""
    search: tuple[str, ...] = ()
    """NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C: fields of agent or run."""
    agent_name: Annotated[str, tyro.conf.arg(name="agent")] = DEFAULT_AGENT
    """Which agent of the preset."""
    scale: str = "laptop"
    """The preset that all other values come from."""
    steps: int | None = None
    """Environment steps per run; the preset's by default."""
    trials: int = 30
    """Sets of values to try, those given up included."""
    seeds: int = 3
    """Seeds per set: 1000, 1001, ..."""
    fresh: int = 5
    """Fresh seeds, 2000, 2001, ..., on which the best is compared with the preset's
    values."""
    out: Path = field(default=Path("sweeps/sweep"), kw_only=True)
    """Folder of this sweep, which goes on where it was stopped."""

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out

    @property
    def ranges(self) -> list[Range]:
        """What is varied."""
        return [ranges.read(text, self.preset) for text in self.search]

    @property
    def preset(self) -> Run:
        """The run that values are changed in."""
        run = find(self.scale, self.task, self.agent_name)
        return run if self.steps is None else replace(run, steps=self.steps)

    @property
    def own(self) -> dict[str, Any]:
        """The preset's values of what is varied."""
        return {r.name: ranges.value(self.preset, r.name) for r in self.ranges}

    def check(self) -> None:
        """Require something to vary, whose ends are possible.

        Raises:
            SimpoError: Something is not so.
        """
        counts = {"trials": self.trials, "seeds": self.seeds, "jobs": self.jobs}
        require_positive(**counts)
        if self.fresh < 2:
            raise SimpoError(f"fresh must be at least 2, not {self.fresh}")
        if not self.search:
            raise SimpoError("sweep what? --search candidate_noise=0.01:0.5:log ...")
        for r in self.ranges:
            for end in r.ends:
                ranges.change(self.preset, {r.name: end}).check()
        self.preset.make_env(1, 0).close()
        require_optuna()

    def run(self, report: Report) -> None:
        """Search, confirm, tell."""
        report.expect((self.trials * self.seeds + 2 * self.fresh) * self.preset.steps)
        study = open_study(self.out, self.settings, self.own_if_in_range())
        if not self.report:
            self.search_on(study, report)
        trials = [tried(trial) for trial in study.get_trials() if ended(trial)]
        if not any(trial.complete for trial in trials):
            raise SimpoError(f"no trial in {self.out} has all its seeds yet")
        report.add("trials", [trial.row for trial in trials])
        report.say(self.describe(trials))
        report.say(self.confirm(best_of(trials), report))
        title = f"{self.agent_name} on {self.task}: mean return over {self.seeds} seeds"
        logarithmic = [r.name for r in self.ranges if r.log]
        choices = {r.name: r.choices for r in self.ranges if r.choices}
        draw_sweep(trials, self.own, logarithmic, choices, title, self.out / "sweep")

    @property
    def settings(self) -> dict[str, Any]:
        """What scores of one sweep have in common."""
        names = ("task", "agent_name", "scale", "steps", "seeds", "search")
        return {n: plain_value(getattr(self, n)) for n in names}

    def own_if_in_range(self) -> dict[str, Any]:
        """The preset's values, which are tried first; none if one is out of range."""
        own = self.own
        return own if all(r.holds(own[r.name]) for r in self.ranges) else {}

    def search_on(self, study: Any, report: Report) -> None:
        """Try sets of values, several at once, until there are enough."""
        at_once = self.jobs or len(cores())
        while (left := self.trials - sum(map(ended, study.get_trials()))) > 0:
            batch = [study.ask() for _ in range(min(left, at_once))]
            values = [{r.name: r.suggest(t) for r in self.ranges} for t in batch]
            self.try_all(study, dict(zip(batch, values, strict=True)), report)

    def try_all(self, study: Any, batch: dict[Any, dict], report: Report) -> None:
        """Try some sets of values, a seed of each at a time."""
        state = require_optuna().trial.TrialState
        scores: dict[Any, list[float]] = {trial: [] for trial in batch}
        for seed in range(self.seeds):
            number = SEARCHED + seed
            cells = {Cell(self.task, f"trial {t.number}", number): t for t in scores}
            runs = {c: self.run_of(batch[t], number) for c, t in cells.items()}
            found = self.measure(runs, report)
            for cell, trial in cells.items():
                if cell not in found:
                    trial.set_user_attr("failed", True)
                    study.tell(trial, state=state.FAIL)
                    del scores[trial]
                    continue
                scores[trial].append(found[cell])
                trial.set_user_attr("scores", scores[trial])
                trial.report(float(np.mean(scores[trial])), seed)
                if seed + 1 < self.seeds and trial.should_prune():
                    study.tell(trial, state=state.PRUNED)
                    del scores[trial]
                    spared = (self.seeds - seed - 1) * self.preset.steps
                    report.advance(f"{cell.agent} given up", spared)
        for trial, values in scores.items():
            study.tell(trial, float(np.mean(values)))

    def run_of(self, values: Mapping[str, Any], seed: int) -> Run:
        """The preset's run with these values."""
        return replace(ranges.change(self.preset, dict(values)), seed=seed)

    def measure(self, runs: Mapping[Cell, Run], report: Report) -> dict[Cell, float]:
        """Scores of runs, made if need be; without those that failed."""
        quick = self.scale == "smoke"
        folder, command = self.out / "runs", ("simpo", "sweep")
        grid = Grid(runs, folder, command, quick=quick, share=self.share)
        found = {}
        for cell, path in grid.directories(report, self.maker):
            run = read_run(path)
            found[cell] = score(run, headline(run))
        return found

    def confirm(self, best: Trial, report: Report) -> Verdict | str:
        """The best values against the preset's, on seeds that chose nothing."""
        if best.values == self.own:
            return "no values are better than the preset's own"
        sets = {"best": best.values, "preset": self.own}
        fresh = range(UNSEEN, UNSEEN + self.fresh)
        cells = {Cell(self.task, n, s): v for n, v in sets.items() for s in fresh}
        runs = {cell: self.run_of(v, cell.seed) for cell, v in cells.items()}
        found = self.measure(runs, report)
        scores = {
            n: np.array([x for c, x in found.items() if c.agent == n]) for n in sets
        }
        claim = f"trial {best.number} scores above the preset's values on fresh seeds"
        gap = difference(scores["best"], scores["preset"], "the preset")
        if gap is None:
            return Verdict(claim, None, "two seeds of both missing")
        holds = True if gap.low > 0 else False if gap.high <= 0 else None
        return Verdict(claim, holds, f"{gap}; {self.fresh} seeds of each")

    def describe(self, trials: Sequence[Trial]) -> str:
        """The best trials, and what became of the others."""
        order = sorted((t for t in trials if t.complete), key=lambda t: -t.score)
        shown = order[:SHOWN]
        own = next((t for t in trials if t.values == self.own), None)
        if own and own not in shown:
            shown.append(own)
        rows = [[*map(short, t.row.values()), "preset" * (t is own)] for t in shown]
        pruned = sum(bool(t.scores) and not t.complete for t in trials)
        failed = sum(not t.scores for t in trials)
        tried = "" if own else "; the preset's values are out of range, not tried"
        return (
            f"{len(order)} of {len(trials)} trials have {self.seeds} seeds, {pruned} "
            f"were given up before, {failed} failed{tried}; the best:\n"
            + table([*order[0].row, ""], rows)
        )


def best_of(trials: Sequence[Trial]) -> Trial:
    """The complete trial with the highest score."""
    return max((trial for trial in trials if trial.complete), key=lambda t: t.score)


def ended(trial: Any) -> bool:
    """Whether one of Optuna's trials has told all it will."""
    return trial.state.name in ("COMPLETE", "PRUNED") or "failed" in trial.user_attrs


def tried(trial: Any) -> Trial:
    """One of Optuna's trials as the picture and the tables want it."""
    scores = trial.user_attrs.get("scores", [])
    return Trial(trial.number, trial.params, scores, trial.state.name == "COMPLETE")


def short(value: Any) -> str:
    """A fraction with four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain_value(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def require_optuna() -> Any:
    """Optuna, which says nothing of its own.

    Raises:
        SimpoError: It is not installed.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise SimpoError(
            "Optuna is not installed: pip install 'simpo[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(out: Path, settings: Mapping[str, Any], first: Mapping[str, Any]) -> Any:
    """The study in a folder, begun with some values if it is new.

    Raises:
        SimpoError: The folder holds another sweep.
    """
    optuna = require_optuna()
    journal = optuna.storages.journal
    file = journal.JournalFileBackend(str(out / "journal.log"))
    study = optuna.create_study(
        study_name="sweep",
        storage=journal.JournalStorage(file),
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(),
    )
    done = study.get_trials()
    study.sampler = optuna.samplers.TPESampler(seed=len(done))
    if not study.user_attrs:
        for name, value in settings.items():
            study.set_user_attr(name, value)
        if first:
            study.enqueue_trial(dict(first))
    elif study.user_attrs != settings:
        raise SimpoError(f"{out} holds a sweep with other settings: use another --out")
    retry(study, optuna.trial.TrialState)
    return study


def retry(study: Any, state: Any) -> None:
    """Have trials whose command was stopped tried again; their runs go on."""
    for trial in study.get_trials(states=(state.RUNNING,)):
        study.tell(trial.number, state=state.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)
