"""`simpo reproduce table2`: MuJoCo locomotion, every method on every v4 task.

The paper says of its Table 2: Linear, Square and Exp outperform the other diffusion
methods on most tasks, Swimmer excepted; negative weights (Lin. Neg.) gain on
HalfCheetah and Humanoid and change little elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from simpo.experiments.cells import Cell
from simpo.experiments.claims import compare, each, incomparable, most, unchanged
from simpo.experiments.grids import GridStudy, Results
from simpo.experiments.methods import (
    BEYOND,
    DIFFUSION,
    METHODS,
    WEIGHTINGS,
    run_of,
)
from simpo.experiments.published import BEST, PUBLISHED, Published
from simpo.experiments.report import Verdict
from simpo.run import Run

__all__ = ["Table2"]

TASKS = tuple(
    f"{name}-v4"
    for name in ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "Swimmer")
)
MOST, GAIN = TASKS[:-1], ("HalfCheetah-v4", "Humanoid-v4")
REST = tuple(task for task in TASKS if task not in GAIN)
LITTLE = 0.1
"""Share of Linear's score that counts as little change."""
POSITIVE = ("SiMPO-Exp", "SiMPO-Linear", "SiMPO-Square")
BETTER = "{} outperforms the other diffusion methods on most tasks but Swimmer"
GAINS = "SiMPO-LinNeg gains on SiMPO-Linear on HalfCheetah and Humanoid"
LEAVES = "SiMPO-LinNeg changes SiMPO-Linear's score by less than 10 % on the others"


@dataclass(frozen=True)
class Table2(GridStudy):
    """MuJoCo locomotion: the paper's Table 2."""

    name: ClassVar[str] = "table2"
    tasks: ClassVar[tuple[str, ...]] = TASKS
    methods: ClassVar[tuple[str, ...]] = METHODS

    def run_of(self, cell: Cell) -> Run:
        """A method at the study's scale."""
        return run_of(self.scale, *cell)

    def published(self, task: str, method: str) -> Published | None:
        """The paper's number, as far as it is known."""
        if method in BEYOND:
            return None
        return BEST.get(task) if method in WEIGHTINGS else PUBLISHED.get((task, method))

    def verdicts(self, results: Results) -> Iterator[Verdict]:
        """The claims, from runs of a size that can bear on them."""
        claims = [*map(BETTER.format, POSITIVE), GAINS, LEAVES]
        if self.scale == "smoke":
            yield from incomparable(claims, self.scale)
            return
        for method in POSITIVE:
            gaps = compare(results, MOST, method, DIFFUSION)
            yield most(self.at_scale(BETTER.format(method)), MOST, gaps)
        pair = "SiMPO-LinNeg", ["SiMPO-Linear"]
        gaps = compare(results, GAIN, *pair)
        yield each(self.at_scale(GAINS), GAIN, gaps)
        gaps = compare(results, REST, *pair)
        yield unchanged(self.at_scale(LEAVES), REST, gaps, LITTLE)

    def pictures(self, results: Results, folder: Path) -> list[Path]:
        """None beside scores and curves."""
        return []

    def marks(self) -> dict[str, float]:
        """The paper's best SiMPO, where scores can be compared with it."""
        found = {task: number.value for task, number in BEST.items()}
        return found if self.scale == "paper" else {}
