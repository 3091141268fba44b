"""Figure 2: negative weights escape a local optimum.

r(a) = 0.6 exp(-(a + 0.5)^2 / (2 0.4^2)) + exp(-(a - 1)^2 / (2 0.3^2))    on [-2, 2]

The policy starts on the lower optimum. Candidate noise alone may carry a policy across
the valley if there is enough of it, so the study has two parts: all methods in one
setting, and a sweep of noise and KL target, the same for every method, from which each
takes its best. Repulsion fades over the first 80 % of the rounds (`FadingRepulsion`;
weights without a negative part do not notice).
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from simpo.envs.bandit import TWO_PEAKS
from simpo.experiments.report import Report, Verdict
from simpo.experiments.summary import (
    curve_rows,
    final,
    interval_text,
    rate_text,
    table,
)
from simpo.experiments.trials import (
    Case,
    Method,
    Protocol,
    Results,
    Setting,
    pretrain,
    run,
)
from simpo.matching import FadingRepulsion
from simpo.plotting import bandit as plots
from simpo.plotting.curves import mean_interval
from simpo.weighting import Exponential, Linear, Square, Weighting

__all__ = ["Escape"]

METHODS: dict[str, Weighting] = {
    "Exp": Exponential(),
    "Linear": Linear(),
    "Square": Square(),
    "Lin. Neg.": Linear(floor=-0.3),
    "Sqr. Neg.": Square(floor=-0.3),
}
NEGATIVE = ("Lin. Neg.", "Sqr. Neg.")
PROTOCOL = Protocol(start_mean=-0.5, start_std=0.3, inner_steps=10)
FADED = 0.8
"""Share of the rounds after which no negative weight is left."""


@dataclass(frozen=True)
class Escape:
    """Figure 2, at some size."""

    trials: int = 64
    """Trials per method in the common setting."""
    rounds: int = 1200
    """Rounds of a trial."""
    sweep_trials: int = 8
    """Trials per method and setting in the sweep; 0 leaves it out."""
    sweep_rounds: int = 600
    """Rounds of a trial in the sweep."""
    noise: float = 0.2
    """Candidate noise of the common setting."""
    kl: float = 1.5
    """KL target of the common setting, in nats."""
    rate: float = 3e-3
    """Learning rate."""
    noises: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    """Candidate noise in the sweep."""
    kls: tuple[float, ...] = (1.0, 1.5, 2.0)
    """KL targets in the sweep."""
    settled: float = 0.05
    """Final regret under which a policy has settled on the best optimum."""

    @property
    def work(self) -> int:
        """Rounds of trials, for the progress bar."""
        sweep = len(self.noises) * len(self.kls) * self.sweep_trials * self.sweep_rounds
        return len(METHODS) * (self.trials * self.rounds + sweep)

    def run(self, report: Report, seed: int) -> None:
        """Measure, draw and judge."""
        common = self.common(report, seed)
        sweep = self.sweep(report, seed + 1) if self.sweep_trials else None
        report.say(self.describe(common))
        for verdict in self.verdicts(common, sweep):
            report.say(verdict)
        plots.escape(self.picture(common, sweep), report.folder / "escape")

    def protocol(self, rounds: int) -> Protocol:
        """All trials' protocol for so many rounds."""
        fade = FadingRepulsion(updates=int(FADED * rounds))
        return replace(PROTOCOL, iterations=rounds, bound=fade)

    def setting(self, noise: float, kl: float) -> Setting:
        """The landscape with some candidate noise and KL target."""
        return Setting.of(TWO_PEAKS, noise=noise, rate=self.rate, kl=kl)

    def common(self, report: Report, seed: int) -> dict[str, Results]:
        """Every method in the common setting: a case of T trials each."""
        protocol = self.protocol(self.rounds)
        methods = tuple(map(Method, METHODS.values()))
        report.advance("Figure 2: start", 0)
        starts, results = pretrain(protocol, self.trials, seed), {}
        for k, name in enumerate(METHODS):
            bar = report.bar_of(f"Figure 2: {name}")
            case = Case(k, self.setting(self.noise, self.kl))
            results[name] = out = run(protocol, methods, [case], starts, bar)
            report.add("escape", self.rows(name, self.noise, self.kl, out.regret[0]))
            report.add("escape_curves", curve_rows(name, out.regret[0], self.rounds))
        return results

    def sweep(self, report: Report, seed: int) -> dict[str, np.ndarray]:
        """Regret of every method by noise and KL target [noises, kls, T, points]."""
        protocol = self.protocol(self.sweep_rounds)
        methods = tuple(map(Method, METHODS.values()))
        report.advance("Figure 2: sweep", 0)
        starts, results = pretrain(protocol, self.sweep_trials, seed), {}
        grid = list(product(self.noises, self.kls))
        for k, name in enumerate(METHODS):
            bar = report.bar_of(f"Figure 2 sweep: {name}")
            cases = [Case(k, self.setting(*at)) for at in grid]
            regret = run(protocol, methods, cases, starts, bar).regret
            for at, one in zip(grid, regret, strict=True):
                report.add("escape_sweep", self.rows(name, *at, one))
            shape = (len(self.noises), len(self.kls), *regret.shape[1:])
            results[name] = regret.reshape(shape)
        return results

    def escaped(self, regret: np.ndarray) -> np.ndarray:
        """Whether trials left the lower optimum: final regret under half of its [T]."""
        local = TWO_PEAKS.best()[1] - TWO_PEAKS.step(
            np.array([PROTOCOL.start_mean], np.float32)
        )
        return final(regret) < 0.5 * float(local)

    def rows(self, name: str, noise: float, kl: float, regret: np.ndarray) -> list:
        """A row per trial."""
        columns = final(regret), regret.mean(-1), self.escaped(regret)
        return [
            {
                "method": name,
                "noise": noise,
                "kl": kl,
                "rate": self.rate,
                "trial": trial,
                "final_regret": float(last),
                "mean_regret": float(mean),
                "escaped": int(out),
                "settled": int(last < self.settled),
            }
            for trial, (last, mean, out) in enumerate(zip(*columns, strict=True))
        ]

    def describe(self, common: dict[str, Results]) -> str:
        """The table of the common setting."""
        rows = []
        for name, result in common.items():
            regret = result.regret[0]
            last, out = final(regret), self.escaped(regret)
            rows.append(
                [
                    name,
                    interval_text(last),
                    interval_text(regret.mean(-1)),
                    rate_text(out),
                    rate_text(last < self.settled),
                ]
            )
        title = (
            f"Figure 2: start on the lower optimum, noise {self.noise:g}, "
            f"KL {self.kl:g} nats, {self.rounds} rounds, {self.trials} trials\n"
        )
        header = ["method", "final regret", "mean regret", "escaped", "settled"]
        return title + table(header, rows)

    def verdicts(
        self, common: dict[str, Results], sweep: dict[str, np.ndarray] | None
    ) -> list[Verdict]:
        """What the paper says of Figure 2, and what was found."""
        escaped = {n: self.escaped(r.regret[0]) for n, r in common.items()}
        trapped = {n: e for n, e in escaped.items() if n not in NEGATIVE}
        found = [
            Verdict(
                "Without negative weights no method escapes in every trial",
                all(not e.all() for e in trapped.values()),
                "; ".join(f"{n} {rate_text(e)}" for n, e in trapped.items()),
            )
        ]
        for name in NEGATIVE:
            last = final(common[name].regret[0])
            settled = mean_interval(last)
            found.append(
                Verdict(
                    f"{name} escapes in at least 95 % of trials and settles",
                    bool(escaped[name].mean() >= 0.95 and settled.mean < self.settled),
                    f"{rate_text(escaped[name])}; final regret {interval_text(last)}",
                )
            )
        return found + ([self.sweep_verdict(sweep)] if sweep else [])

    def sweep_verdict(self, sweep: dict[str, np.ndarray]) -> Verdict:
        """Whether non-negative weights escape anywhere in the sweep, and from where."""
        texts, never = [], True
        for name, by_noise in self.best_rates(sweep).items():
            enough = [v for v, e in zip(self.noises, by_noise, strict=True) if all(e)]
            where = f"from noise {enough[0]:g}" if enough else "nowhere"
            texts.append(f"{name} {where}")
            never &= name in NEGATIVE or not enough
        return Verdict(
            "Over the whole sweep, only negative weights escape in every trial",
            never,
            f"in every one of {self.sweep_trials} trials, at the best KL target: "
            + ", ".join(texts),
        )

    def best_rates(self, sweep: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Escapes by noise at the KL target with most of them [noises, T]."""
        rates = {}
        for name, regret in sweep.items():
            escaped = np.array([[self.escaped(x) for x in row] for row in regret])
            best = escaped.mean(-1).argmax(-1)
            rates[name] = escaped[np.arange(len(best)), best]
        return rates

    def picture(
        self, common: dict[str, Results], sweep: dict[str, np.ndarray] | None
    ) -> plots.Escape:
        """What the figure shows."""
        action = np.linspace(-PROTOCOL.box, PROTOCOL.box, 401, dtype=np.float32)
        landscape = plots.Landscape(
            "Start on the lower optimum",
            action,
            np.asarray(TWO_PEAKS.step(action[:, None])),
            common["Exp"].start.ravel(),
            {name: r.final.ravel() for name, r in common.items()},
        )
        curves = plots.Curves(
            f"Noise {self.noise:g}, KL {self.kl:g}, {self.trials} trials",
            {name: r.regret[0] for name, r in common.items()},
            self.rounds,
        )
        success = None
        if sweep:
            rates = self.best_rates(sweep)
            success = plots.Sweep("candidate noise", self.noises, rates)
        return plots.Escape(landscape, curves, self.settled, success)
