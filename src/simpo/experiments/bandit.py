"""`simpo reproduce bandit`: the paper's bandit study, Figures 2 and 3."""

from dataclasses import asdict, dataclass
from typing import ClassVar

from simpo.checkpoint import write_json
from simpo.experiments.curvature import Curvature
from simpo.experiments.escape import Escape
from simpo.experiments.report import Report, Study
from simpo.types import SimpoError

__all__ = ["BanditStudy"]


@dataclass(frozen=True)
class BanditStudy(Study):
    """Escapes from a local optimum (Figure 2); broad and sharp optima (Figure 3)."""

    name: ClassVar[str] = "bandit"
    trials: int = 64
    """Trials per method and setting."""
    quick: bool = False
    """Few trials and rounds, under a minute: to look at, not to conclude from."""
    seed: int = 0
    """Of everything random."""

    def check(self) -> None:
        """Require two trials and a seed that is not negative."""
        if self.trials < 2:
            raise SimpoError(f"an interval needs at least 2 trials, not {self.trials}")
        if self.seed < 0:
            raise SimpoError(f"the seed must not be negative, got {self.seed}")

    def run(self, report: Report) -> None:
        """Measure, draw and judge both figures."""
        figures = self.figures
        settings = {type(figure).__name__: asdict(figure) for figure in figures}
        write_json(report.folder / "figures.json", settings)
        report.expect(sum(figure.work for figure in figures))
        for figure in figures:
            figure.run(report, self.seed)
            report.say()

    @property
    def figures(self) -> tuple[Escape, Curvature]:
        """Both figures, at the size asked for."""
        if not self.quick:
            return Escape(self.trials), Curvature(self.trials)
        trials = min(self.trials, 8)
        return (
            Escape(trials, rounds=200, sweep_trials=0),
            Curvature(
                trials,
                rounds=40,
                points=20,
                sweep_trials=trials,
                kls=(1.0,),
                temperatures=(0.1, 3.0),
                rates=(4e-3,),
            ),
        )
