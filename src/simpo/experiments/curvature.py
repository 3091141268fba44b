"""Figure 3: broad or sharp optima, and which weighting suits them.

r(a) = 0.7 exp(-(a + 1.2)^2 / (2 s^2)) + exp(-(a - 1.2)^2 / (2 s^2)),    s = 0.8 or 0.15

The policy starts half-way, at N(0, 0.5^2). The paper says: Square is best on broad
optima, Linear on sharp ones, Exp on neither. What comes out hangs on what is held
equal, so the methods are compared three times: each at its own best, at one KL target,
and at one temperature. The best settings are chosen on trials of their own.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np

from simpo.envs.bandit import Bandit, Bumps
from simpo.experiments.report import Report, Verdict
from simpo.experiments.summary import curve_rows, final, interval_text, table
from simpo.experiments.trials import (
    Case,
    Method,
    Protocol,
    Results,
    Setting,
    pretrain,
    run,
)
from simpo.plotting import bandit as plots
from simpo.plotting.curves import mean_interval
from simpo.weighting import Exponential, Linear, Square, Weighting

__all__ = ["Curvature"]

METHODS: dict[str, Weighting] = {
    "Exp": Exponential(),
    "Linear": Linear(),
    "Square": Square(),
}
WIDTHS = {"broad": 0.8, "sharp": 0.15}
BEST, SAME_KL, SAME_TEMPERATURE = "each at its best", "same KL", "same temperature"
CLAIMS = (("broad", "Square"), ("sharp", "Linear"))
"""The paper's winner on each landscape."""


class Choice(NamedTuple):
    """What is chosen for a method: a KL target or a temperature, and a rate."""

    kind: str
    value: float
    rate: float

    def __str__(self) -> str:
        name = {"kl": "KL", "temperature": "λ"}[self.kind]
        return f"{name} {self.value:g}, rate {self.rate:g}"


def landscape(width: float) -> Bandit:
    """Two optima of a width."""
    bumps = Bumps([0.7, 1.0], [[-1.2], [1.2]], [width, width])
    return Bandit(bumps, low=[-2.0], high=[2.0])


@dataclass(frozen=True)
class Curvature:
    """Figure 3, at some size."""

    trials: int = 64
    """Trials per method, landscape and condition."""
    rounds: int = 200
    """Rounds of a trial."""
    points: int = 50
    """Points of a curve."""
    sweep_trials: int = 8
    """Trials per method, landscape and setting in the sweep."""
    noise: float = 0.1
    """Candidate noise."""
    kl: float = 1.0
    """The KL target when it is the same for all, in nats."""
    temperature: float = 3.0
    """The temperature when it is the same for all, in units of the reward."""
    rate: float = 4e-3
    """The learning rate when KL target or temperature are the same."""
    kls: tuple[float, ...] = (0.1, 0.3, 1.0, 2.0)
    """KL targets in the sweep."""
    temperatures: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Temperatures in the sweep."""
    rates: tuple[float, ...] = (1e-3, 4e-3)
    """Learning rates in the sweep."""

    @property
    def choices(self) -> list[Choice]:
        """The sweep's grid."""
        values = [("kl", v) for v in self.kls]
        values += [("temperature", v) for v in self.temperatures]
        return [Choice(*v, rate) for v, rate in product(values, self.rates)]

    @property
    def conditions(self) -> dict[str, Choice | None]:
        """What is held equal; None for each method's best."""
        return {
            BEST: None,
            SAME_KL: Choice("kl", self.kl, self.rate),
            SAME_TEMPERATURE: Choice("temperature", self.temperature, self.rate),
        }

    @property
    def work(self) -> int:
        """Rounds of trials, for the progress bar."""
        cases = len(METHODS) * len(WIDTHS)
        sweep = len(self.choices) * self.sweep_trials
        return cases * self.rounds * (3 * self.trials + sweep)

    @property
    def protocol(self) -> Protocol:
        """All trials' protocol."""
        return replace(Protocol(), iterations=self.rounds, points=self.points)

    @property
    def methods(self) -> tuple[Method, ...]:
        """For each weighting, at a KL target and at a temperature."""
        return tuple(Method(w, s) for w in METHODS.values() for s in (True, False))

    def case(self, name: str, width: float, choice: Choice) -> Case:
        """A method on a landscape; a temperature is the scale of the reward."""
        solved = choice.kind == "kl"
        held = {"kl" if solved else "scale": choice.value}
        bandit = landscape(width)
        setting = Setting.of(bandit, noise=self.noise, rate=choice.rate, **held)
        return Case(self.methods.index(Method(METHODS[name], solved)), setting)

    def run(self, report: Report, seed: int) -> None:
        """Measure, draw and judge."""
        sweep = self.sweep(report, seed + 1)
        best = {
            at: self.choices[regret.mean(-1).argmin()] for at, regret in sweep.items()
        }
        results = self.compare(report, best, seed)
        report.say(self.describe(results, best))
        for verdict in self.verdicts(results):
            report.say(verdict)
        rows = [self.row(width, results, sweep) for width in WIDTHS]
        plots.curvature(rows, report.folder / "curvature")
        plots.curvature_sweep(rows, report.folder / "curvature_sweep")

    def sweep(self, report: Report, seed: int) -> dict[tuple[str, str], np.ndarray]:
        """Mean regret by landscape and method: [choices, T]."""
        report.advance("Figure 3: sweep", 0)
        starts, results = pretrain(self.protocol, self.sweep_trials, seed), {}
        for (width, s), name in product(WIDTHS.items(), METHODS):
            cases = [self.case(name, s, choice) for choice in self.choices]
            bar = report.bar_of(f"Figure 3 sweep: {name}, {width}")
            out = run(self.protocol, self.methods, cases, starts, bar)
            results[width, name] = out.regret.mean(-1)
            for choice, regret in zip(self.choices, out.regret, strict=True):
                rows = trial_rows(width, name, choice, regret)
                report.add("curvature_sweep", rows)
        return results

    def compare(
        self, report: Report, best: dict[tuple[str, str], Choice], seed: int
    ) -> dict[tuple[str, str, str], Results]:
        """Fresh trials by landscape, condition and method."""
        report.advance("Figure 3: start", 0)
        starts, results = pretrain(self.protocol, self.trials, seed), {}
        for (width, s), (what, choice) in product(
            WIDTHS.items(), self.conditions.items()
        ):
            chosen = {name: choice or best[width, name] for name in METHODS}
            cases = [self.case(name, s, c) for name, c in chosen.items()]
            bar = report.bar_of(f"Figure 3: {width}, {what}")
            out = run(self.protocol, self.methods, cases, starts, bar)
            for k, (name, c) in enumerate(chosen.items()):
                results[width, what, name] = out.only(k)
                rows = trial_rows(width, name, c, out.regret[k], condition=what)
                report.add("curvature", rows)
                curve = curve_rows(
                    name, out.regret[k], self.rounds, landscape=width, condition=what
                )
                report.add("curvature_curves", curve)
        return results

    def describe(self, results: dict, best: dict) -> str:
        """The table of all conditions."""
        rows = []
        for (width, what, name), result in results.items():
            choice = self.conditions[what] or best[width, name]
            regret = result.regret[0]
            rows.append(
                [
                    width,
                    what,
                    name,
                    str(choice),
                    f"{result.kl.mean():.2f}",
                    interval_text(regret.mean(-1)),
                    interval_text(final(regret)),
                ]
            )
        header = ["optima", "held equal", "method", "setting", "KL used"]
        title = (
            f"Figure 3: start half-way, {self.rounds} rounds, {self.trials} trials\n"
        )
        return title + table([*header, "mean regret", "final regret"], rows)

    def verdicts(self, results: dict) -> list[Verdict]:
        """The paper's three statements under each condition."""
        found = []
        for what in self.conditions:
            for width, winner in CLAIMS:
                regret = {
                    n: results[width, what, n].regret[0].mean(-1) for n in METHODS
                }
                gaps = {n: r - regret[winner] for n, r in regret.items() if n != winner}
                claim = f"{winner} is best on {width} optima ({what})"
                found.append(judge(claim, gaps))
            found.append(self.exp_verdict(results, what))
        return found

    def exp_verdict(self, results: dict, what: str) -> Verdict:
        """Exp is not optimal: on both landscapes some other method has less regret."""
        gaps, texts = [], []
        for width in WIDTHS:
            regret = {n: results[width, what, n].regret[0].mean(-1) for n in METHODS}
            other = min(
                (n for n in METHODS if n != "Exp"), key=lambda n: regret[n].mean()
            )
            gaps.append(mean_interval(regret["Exp"] - regret[other]))
            texts.append(f"{width}: Exp minus {other} {gap_text(gaps[-1])}")
        worse = all(gap.low > 0 for gap in gaps)
        better = any(gap.high < 0 for gap in gaps)
        holds = True if worse else False if better else None
        return Verdict(f"Exp is best on neither ({what})", holds, "; ".join(texts))

    def row(self, width: str, results: dict, sweep: dict) -> plots.Row:
        """What the figures show of one landscape."""
        box = self.protocol.box
        action = np.linspace(-box, box, 801, dtype=np.float32)
        of_best = {n: results[width, BEST, n] for n in METHODS}
        shown = plots.Landscape(
            f"Two {width} optima, start half-way",
            action,
            np.asarray(landscape(WIDTHS[width]).step(action[:, None])),
            of_best["Exp"].start.ravel(),
            {n: r.final.ravel() for n, r in of_best.items()},
        )
        names = {
            BEST: "Each at its best",
            SAME_KL: f"Same KL target, {self.kl:g} nat",
            SAME_TEMPERATURE: f"Same temperature, {self.temperature:g}",
        }
        conditions = [
            plots.Curves(
                names[what],
                {n: results[width, what, n].regret[0] for n in METHODS},
                self.rounds,
            )
            for what in self.conditions
        ]
        return plots.Row(
            shown,
            conditions,
            [
                self.best_of_rates(width, sweep, "kl", "KL target, nats"),
                self.best_of_rates(width, sweep, "temperature", "temperature"),
            ],
        )

    def best_of_rates(
        self, width: str, sweep: dict, kind: str, label: str
    ) -> plots.Sweep:
        """Regret by one parameter, at the learning rate that is best for each value."""
        values = self.kls if kind == "kl" else self.temperatures
        measured = {}
        for name in METHODS:
            by_choice = dict(zip(self.choices, sweep[width, name], strict=True))
            options = [
                [by_choice[Choice(kind, v, rate)] for rate in self.rates]
                for v in values
            ]
            measured[name] = np.array([min(o, key=np.mean) for o in options])
        return plots.Sweep(label, values, measured)


def trial_rows(
    width: str, name: str, choice: Choice, regret: np.ndarray, **fields: object
) -> list:
    """A row per trial of [T, P]."""
    return [
        {
            "landscape": width,
            **fields,
            "method": name,
            "held": choice.kind,
            "value": choice.value,
            "rate": choice.rate,
            "trial": trial,
            "mean_regret": float(mean),
            "final_regret": float(last),
        }
        for trial, (mean, last) in enumerate(
            zip(regret.mean(-1), final(regret), strict=True)
        )
    ]


def gap_text(gap: tuple) -> str:
    """A paired difference with its interval."""
    return f"{gap[0]:+.4f} [{gap[1]:+.4f}, {gap[2]:+.4f}]"


def judge(claim: str, gaps: dict[str, np.ndarray]) -> Verdict:
    """Whether all paired differences [T] in regret, others minus winner, are positive.

    Trials of different methods share start and random key, hence the pairs.
    """
    found = {name: mean_interval(gap) for name, gap in gaps.items()}
    holds = None
    if all(gap.low > 0 for gap in found.values()):
        holds = True
    elif any(gap.high < 0 for gap in found.values()):
        holds = False
    texts = (f"{name} minus it {gap_text(gap)}" for name, gap in found.items())
    return Verdict(claim, holds, "; ".join(texts))
