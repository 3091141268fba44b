"""`simpo reproduce landscapes`: one skill, four rewards, flat to steep (Figures 4, 5).

Cheetah and walker of the DeepMind Control Suite are paid the square root of their
speed, the speed, its square, or an exponential of it. The paper says: Square is best
where the reward is flat (sqrt, linear), Linear where it is steep (exp).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from simpo.experiments.cells import Cell
from simpo.experiments.claims import compare, each, incomparable
from simpo.experiments.grids import GridStudy, Results
from simpo.experiments.methods import run_of
from simpo.experiments.published import Published
from simpo.experiments.report import Verdict
from simpo.plotting.landscapes import draw_curves
from simpo.run import Run

__all__ = ["Landscapes"]

BODIES, REWARDS = ("Cheetah", "Walker"), ("sqrt", "linear", "square", "exp")
METHODS = ("SiMPO-Exp", "SiMPO-Linear", "SiMPO-Square", "SiMPO-LinNeg")
CLAIMS = {
    ("sqrt", "linear"): ("SiMPO-Square", ("SiMPO-Linear", "SiMPO-Exp")),
    ("exp",): ("SiMPO-Linear", ("SiMPO-Square", "SiMPO-Exp")),
}
"""The paper's winner, and whom it beats, by rewards."""


def task(body: str, reward: str) -> str:
    """A Gymnasium id."""
    return f"simpo/{body}Run-{reward}-v0"


TASKS = tuple(task(body, reward) for body in BODIES for reward in REWARDS)


@dataclass(frozen=True)
class Landscapes(GridStudy):
    """Reward landscapes of the DeepMind Control Suite: the paper's Figures 4 and 5."""

    name: ClassVar[str] = "landscapes"
    tasks: ClassVar[tuple[str, ...]] = tuple(
        task(b, r) for b in BODIES for r in REWARDS
    )
    methods: ClassVar[tuple[str, ...]] = METHODS

    def run_of(self, cell: Cell) -> Run:
        """A method with the values of HalfCheetah: the presets have none of its own."""
        run = run_of(self.scale, "HalfCheetah-v4", cell.agent, cell.seed)
        return replace(run, env=cell.task)

    def published(self, task: str, method: str) -> Published | None:
        """None: the paper has a picture only."""

    def verdicts(self, results: Results) -> Iterator[Verdict]:
        """The winner on flat and on steep rewards, by body and reward."""
        for rewards, (winner, others) in CLAIMS.items():
            claim = f"{winner} is best where the reward is {' or '.join(rewards)}"
            if self.scale == "smoke":
                yield from incomparable([claim], self.scale)
                continue
            tasks = [task(body, reward) for body in BODIES for reward in rewards]
            gaps = compare(results, tasks, winner, others)
            yield each(self.at_scale(claim), tasks, gaps)

    def marks(self) -> Mapping[str, float]:
        """None."""
        return {}

    def pictures(self, results: Results, folder: Path) -> list[Path]:
        """Figure 4: the rewards themselves."""
        return draw_curves(folder / "rewards")
