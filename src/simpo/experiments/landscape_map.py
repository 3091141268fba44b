"""`simpo reproduce landscape-map`: which weighting wins where (beyond the paper).

r(a) = 0.6 exp(-(a - c)^2 / (2 s^2)) + exp(-(a - c - d)^2 / (2 s^2)),    c = -0.5

Every weighting improves the same policy, which starts on the lower optimum, at the
same KL target, over a grid of widths s (sharpness) and distances d. Then the question
whether one could tell beforehand: a statistic of the values of the first candidates,
x = q - mean q, with a threshold chosen on the map,

participation   (mean x^2)^2 / mean x^4     small where a few candidates stand out
skewness        mean x^3 / (mean x^2)^1.5   negative where the few are bad ones

picks one of two weightings on landscapes that were held out. `simpo` offers such a rule
as a weighting only if it beats the best single one there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar, NamedTuple

import numpy as np

from simpo.envs.bandit import Bandit, Bumps
from simpo.experiments.escape import FADED
from simpo.experiments.report import Report, Study, Verdict
from simpo.experiments.summary import final, table
from simpo.experiments.trials import (
    Case,
    Method,
    Protocol,
    Setting,
    Starts,
    pretrain,
    run,
)
from simpo.matching import FadingRepulsion
from simpo.plotting import landscape_map as plots
from simpo.plotting.curves import mean_interval
from simpo.types import SimpoError
from simpo.weighting import (
    Exponential,
    InverseGap,
    Linear,
    Power,
    Square,
    Weighting,
)

__all__ = ["MapStudy"]

METHODS: dict[str, Weighting] = {
    "Exp": Exponential(),
    "Linear": Linear(),
    "Square": Square(),
    "Power(3)": Power(3.0),
    "InverseGap": InverseGap(),
    "Lin. Neg.": Linear(floor=-0.5),
    "Sqr. Neg.": Square(floor=-0.5),
}
SIGNED = ("Lin. Neg.", "Sqr. Neg.")
LEAST = {"cells": 2, "trials": 2, "held_out": 2, "held_out_trials": 2, "seed": 0}
CENTRE = -0.5
"""c, the lower optimum, where the policy starts."""


def participation(q: np.ndarray) -> np.ndarray:
    """Participation ratio of centred values, 1 / kurtosis: [..., N] -> [...]."""
    x = q - q.mean(-1, keepdims=True)
    return (x**2).mean(-1) ** 2 / np.maximum((x**4).mean(-1), 1e-30)


def skewness(q: np.ndarray) -> np.ndarray:
    """Third standardised moment: [..., N] -> [...]."""
    x = q - q.mean(-1, keepdims=True)
    return (x**3).mean(-1) / np.maximum((x**2).mean(-1), 1e-20) ** 1.5


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "participation": participation,
    "skewness": skewness,
}


class Rule(NamedTuple):
    """`below` where the statistic is below the threshold, else `above`."""

    statistic: str
    threshold: float
    below: str
    above: str

    def __str__(self) -> str:
        return (
            f"{self.below} where {self.statistic} < {self.threshold:.3g}, "
            f"else {self.above}"
        )

    def regret(
        self, statistics: dict[str, np.ndarray], regret: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Regret of landscapes [L, T] under the rule."""
        low = statistics[self.statistic] < self.threshold
        return np.where(low[:, None], regret[self.below], regret[self.above])


@dataclass(frozen=True)
class MapStudy(Study):
    """Which weighting wins where: sharpness against distance."""

    name: ClassVar[str] = "landscape-map"
    cells: int = 8
    """Widths, and distances, of the map."""
    trials: int = 32
    """Trials per cell and method."""
    held_out: int = 24
    """Random landscapes on which the rule is judged."""
    held_out_trials: int = 8
    """Trials per such landscape and method."""
    rounds: int = 120
    """Rounds of a trial."""
    kl: float = 1.5
    """KL target, in nats."""
    noise: float = 0.2
    """Candidate noise."""
    rate: float = 9e-3
    """Learning rate."""
    quick: bool = False
    """A map of 3 x 3 cells with few trials and rounds: to look at only."""
    seed: int = 0
    """Of everything random."""

    @property
    def widths(self) -> np.ndarray:
        """Widths s, sharp to broad."""
        return np.geomspace(0.08, 0.6, self.cells)

    @property
    def distances(self) -> np.ndarray:
        """Distances d between the optima."""
        return np.linspace(0.5, 1.6, self.cells)

    @property
    def protocol(self) -> Protocol:
        """All trials' protocol."""
        return replace(
            Protocol(),
            start_mean=CENTRE,
            start_std=0.3,
            iterations=self.rounds,
            points=20,
            denoising_steps=6,
            inner_steps=10,
            bound=FadingRepulsion(updates=int(FADED * self.rounds)),
        )

    @property
    def methods(self) -> tuple[Method, ...]:
        """All at the same KL target."""
        return tuple(map(Method, METHODS.values()))

    def setting(self, bandit: Bandit) -> Setting:
        """A landscape, all else equal."""
        return Setting.of(bandit, noise=self.noise, rate=self.rate, kl=self.kl)

    def check(self) -> None:
        """Require two of everything and a seed that is not negative."""
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise SimpoError(
                    f"{name} must be at least {least}, not {getattr(self, name)}"
                )

    def run(self, report: Report) -> None:
        """Measure, draw and judge."""
        if self.quick:
            few = {"cells": 3, "trials": 4, "held_out": 4, "held_out_trials": 4}
            few |= {"rounds": 40}
            return replace(self, quick=False, **few).run(report)
        trials = self.cells**2 * self.trials + self.held_out * self.held_out_trials
        report.expect(len(METHODS) * trials * self.rounds)
        starts = pretrain(self.protocol, self.trials, self.seed)
        grid = list(product(self.widths, self.distances))
        parts = np.array_split(np.arange(len(grid)), self.cells)
        two = [two_optima(s, d) for s, d in grid]
        measured = [
            self.measure(report, "map", [two[i] for i in part], starts, int(part[0]))
            for part in parts
        ]
        cells = join(measured)
        rng = np.random.default_rng(self.seed)
        others = [random_landscape(rng) for _ in range(self.held_out)]
        fresh = pretrain(self.protocol, self.held_out_trials, self.seed + 1)
        held_out = self.measure(report, "held_out", others, fresh, 0)
        self.judge(report, cells, held_out)
        return None

    def measure(
        self, report: Report, name: str, bandits: list[Bandit], starts: Starts, at: int
    ) -> "Measured":
        """Final regret of every method on some landscapes."""
        cases = [
            Case(k, self.setting(bandit))
            for bandit in bandits
            for k in range(len(METHODS))
        ]
        bar = report.bar_of(name.replace("_", " "))
        out = run(self.protocol, self.methods, cases, starts, bar)
        shape = (len(bandits), len(METHODS), len(starts.key))
        regret = np.moveaxis(final(out.regret).reshape(shape), 1, 0)
        values = [np.asarray(bandit.step(out.start[..., None])) for bandit in bandits]
        statistics = {
            n: np.array([f(q).mean() for q in values]) for n, f in STATISTICS.items()
        }
        rows = [
            {
                "landscape": at + i,
                **described(bandit),
                **{n: float(s[i]) for n, s in statistics.items()},
                "method": method,
                "trial": trial,
                "final_regret": float(regret[k, i, trial]),
            }
            for i, bandit in enumerate(bandits)
            for k, method in enumerate(METHODS)
            for trial in range(shape[-1])
        ]
        report.add(name, rows)
        return Measured(statistics, dict(zip(METHODS, regret, strict=True)))

    def judge(self, report: Report, cells: "Measured", held_out: "Measured") -> None:
        """The map, the rule, and whether it helps."""
        rule = best_rule(cells)
        single = min(METHODS, key=lambda n: cells.regret[n].mean())
        report.say(self.describe(cells, held_out))
        for verdict in (
            signed_verdict(cells),
            rule_verdict(rule, single, held_out),
        ):
            report.say(verdict)
        means = {n: r.mean(-1).reshape(self.cells, -1) for n, r in cells.regret.items()}
        signed = np.array([cells.regret[n] for n in SIGNED])
        plain = np.array([r for n, r in cells.regret.items() if n not in SIGNED])
        plots.landscape_map(
            plots.Map(
                widths=self.widths,
                distances=self.distances,
                regret=means,
                decided=decided(cells).reshape(self.cells, -1),
                gap=gap(plain, signed).reshape(self.cells, -1),
                statistic=cells.statistics[rule.statistic].reshape(self.cells, -1),
                statistic_name=rule.statistic,
            ),
            report.folder / "landscape_map",
        )

    def describe(self, cells: "Measured", held_out: "Measured") -> str:
        """Wins and mean final regret of every method."""
        clear = decided(cells)
        winners = best_methods(cells)
        rows = [
            [
                name,
                str(sum(w == name for w in winners)),
                str(sum(w == name and c for w, c in zip(winners, clear, strict=True))),
                f"{cells.regret[name].mean():.4f}",
                f"{held_out.regret[name].mean():.4f}",
            ]
            for name in METHODS
        ]
        header = ["method", "cells won", "clearly", "final regret", "held out"]
        title = (
            f"Landscape map: {self.cells} x {self.cells} cells, {self.trials} trials, "
            f"KL {self.kl:g} nats, noise {self.noise:g}, {self.rounds} rounds\n"
        )
        return title + table(header, rows)


class Measured(NamedTuple):
    """Landscapes' statistics [L] and final regret by method [L, T]."""

    statistics: dict[str, np.ndarray]
    regret: dict[str, np.ndarray]


def join(parts: list[Measured]) -> Measured:
    """All landscapes of several measurements."""
    return Measured(
        *(
            {k: np.concatenate([p[i][k] for p in parts]) for k in parts[0][i]}
            for i in range(2)
        )
    )


def two_optima(width: float, distance: float) -> Bandit:
    """The lower optimum at the start and the best one at a distance."""
    centres = [[CENTRE], [CENTRE + distance]]
    return Bandit(Bumps([0.6, 1.0], centres, [width, width]), low=[-2.0], high=[2.0])


def random_landscape(rng: np.random.Generator) -> Bandit:
    """Three bumps of random heights, centres and widths."""
    heights = rng.uniform(0.3, 1.0, 3)
    centres = rng.uniform(-1.8, 1.8, (3, 1))
    spread = np.exp(rng.uniform(np.log(0.08), np.log(0.8), 3))
    return Bandit(Bumps(heights, centres, spread), low=[-2.0], high=[2.0])


def described(bandit: Bandit) -> dict[str, str]:
    """Columns that say what a landscape is."""
    bumps: Any = bandit.reward
    columns = {
        "heights": bumps.heights,
        "centres": bumps.centres[:, 0],
        "widths": bumps.widths,
    }
    return {k: " ".join(f"{x:.4g}" for x in np.asarray(v)) for k, v in columns.items()}


def best_methods(cells: Measured) -> list[str]:
    """The method of least mean regret in every cell."""
    means = np.array([r.mean(-1) for r in cells.regret.values()])
    return [list(METHODS)[k] for k in means.argmin(0)]


def decided(cells: Measured) -> np.ndarray:
    """Whether the winner beats every other method, in pairs of trials, at 95 % [L]."""
    found = []
    for i, winner in enumerate(best_methods(cells)):
        gaps = [
            mean_interval(r[i] - cells.regret[winner][i]).low > 0
            for n, r in cells.regret.items()
            if n != winner
        ]
        found.append(all(gaps))
    return np.array(found)


def gap(plain: np.ndarray, signed: np.ndarray) -> np.ndarray:
    """Regret of the best non-negative method minus the best signed one [L]."""
    return plain.mean(-1).min(0) - signed.mean(-1).min(0)


def best_rule(cells: Measured) -> Rule:
    """The statistic, threshold and two methods of least mean regret on the map."""
    rules = [
        Rule(name, float(threshold), below, above)
        for name, values in cells.statistics.items()
        for threshold in np.unique(values)
        for below, above in product(METHODS, METHODS)
        if below != above
    ]
    return min(rules, key=lambda r: r.regret(cells.statistics, cells.regret).mean())


def signed_verdict(cells: Measured) -> Verdict:
    """Whether negative weights ever hurt, and where they help."""
    signed = np.array([cells.regret[n] for n in SIGNED])
    plain = np.array([r for n, r in cells.regret.items() if n not in SIGNED])
    better, worse = 0, 0
    for i in range(signed.shape[1]):
        one = plain[plain[:, i].mean(-1).argmin(), i]
        other = signed[signed[:, i].mean(-1).argmin(), i]
        difference = mean_interval(one - other)
        better += difference.low > 0
        worse += difference.high < 0
    return Verdict(
        "The best signed weighting is nowhere worse than the best non-negative one",
        not worse,
        f"better in {better}, worse in {worse}, the same in "
        f"{signed.shape[1] - better - worse} of {signed.shape[1]} cells",
    )


def rule_verdict(rule: Rule, single: str, held_out: Measured) -> Verdict:
    """The rule against the best single weighting on held-out landscapes."""
    by_rule = rule.regret(held_out.statistics, held_out.regret).mean(-1)
    by_one = held_out.regret[single].mean(-1)
    best = np.min([r.mean(-1) for r in held_out.regret.values()], axis=0)
    mean, low, high = mean_interval(by_one - by_rule)
    return Verdict(
        "A rule on the first candidates' values beats the best single weighting",
        True if low > 0 else False if high <= 0 or mean <= 0 else None,
        f"rule: {rule}; single: {single}; on {len(by_one)} held-out landscapes the "
        f"rule gains {mean:+.4f} [{low:+.4f}, {high:+.4f}] in final regret, of "
        f"{(by_one - best).mean():.4f} that knowing the best method would",
    )
