"""`simpo reproduce ablation-kl` and its kin: SiMPO with one setting varied.

The paper varies the KL target over 1.0, 1.5 and 2.0 nats and finds little difference
(Section 5.4, Figure 6). The other settings are varied here in the same way, all else as
in the preset; with at least 16 candidates, so that every KL target can be reached.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from simpo.agents import SiMPO
from simpo.experiments.cells import Cell
from simpo.experiments.claims import compare, incomparable, unchanged
from simpo.experiments.grids import GridStudy, Results
from simpo.experiments.published import Published
from simpo.experiments.report import Verdict
from simpo.matching import ClippedError, FadingRepulsion, Unbounded
from simpo.presets import find
from simpo.run import Run
from simpo.temperature import EntropyTarget
from simpo.weighting import Linear

__all__ = ["Ablation"]

LEAST = 16
"""Candidates; ln 16 = 2.77 nats is above every KL target."""
LITTLE = 0.1
"""Share of a score that counts as little difference."""
Change = Callable[[SiMPO], SiMPO]


def kl(nats: float) -> Change:
    """The KL target."""

    def change(agent: SiMPO) -> SiMPO:
        rule: Any = agent.temperature
        return replace(agent, temperature=replace(rule, target=EntropyTarget(nats)))

    return change


def field(name: str, value: object) -> Change:
    """One field of the agent."""
    changes: dict[str, Any] = {name: value}
    return lambda agent: replace(agent, **changes)


def steps(number: int) -> Change:
    """Denoising steps."""

    def change(agent: SiMPO) -> SiMPO:
        model: Any = agent.model
        return replace(agent, model=replace(model, denoising_steps=number))

    return change


@dataclass(frozen=True)
class Ablation(GridStudy):
    """One setting varied.

    Attributes:
        ways: What each value changes, by its name.
        reference: The name of the value that the others are compared with.
    """

    tasks: ClassVar[tuple[str, ...]] = ("HalfCheetah-v4", "Hopper-v4")
    ways: ClassVar[Mapping[str, Change]]
    reference: ClassVar[str]

    def run_of(self, cell: Cell) -> Run:
        """SiMPO of the preset with one value."""
        run = find(self.scale, cell.task, "SiMPO")
        assert isinstance(run.agent, SiMPO)
        agent = replace(run.agent, candidates=max(LEAST, run.agent.candidates))
        agent = self.ways[cell.agent](agent)
        return replace(run, agent=agent, label=cell.agent, seed=cell.seed)

    def published(self, task: str, method: str) -> Published | None:
        """None: the paper has a picture only."""

    def verdicts(self, results: Results) -> Iterator[Verdict]:
        """Whether each value makes little difference."""
        claims = {
            m: f"{m} changes the score of {self.reference} by less than 10 %"
            for m in self.methods
            if m != self.reference
        }
        if self.scale == "smoke":
            yield from incomparable(claims.values(), self.scale)
            return
        for method, claim in claims.items():
            gaps = compare(results, self.tasks, method, [self.reference])
            yield unchanged(self.at_scale(claim), self.tasks, gaps, LITTLE)

    def marks(self) -> Mapping[str, float]:
        """None."""
        return {}

    def pictures(self, results: Results, folder: Path) -> list[Path]:
        """None beside scores and curves."""
        return []


def ablation(what: str, reference: str, ways: Mapping[str, Change]) -> type[Ablation]:
    """The study of one setting, under `ablation-<what>`."""
    values = {
        "name": f"ablation-{what}",
        "ways": ways,
        "methods": tuple(ways),
        "reference": reference,
        "__doc__": f"SiMPO with several values of one setting: {what}.",
    }
    return dataclass(frozen=True)(type("Ablation", (Ablation,), values))


KL = ablation("kl", "KL=1.5", {f"KL={n}": kl(n) for n in (0.5, 1.0, 1.5, 2.0, 2.5)})
INTERVAL = ablation(
    "interval",
    "interval=1000",
    {f"interval={n}": field("behaviour_interval", n) for n in (1, 100, 1000, 10_000)},
)
CANDIDATES = ablation(
    "candidates",
    "N=32",
    {f"N={n}": field("candidates", n) for n in (16, 32, 64, 128)},
)
FLOOR = ablation(
    "floor",
    "floor=-0.2",
    {
        f"floor={c}": field("weighting", Linear(floor=c))
        for c in (0.0, -0.1, -0.2, -0.5, -1.0)
    },
)
BOUND = ablation(
    "bound",
    "bound=clipped",
    {
        "bound=none": field("bound", Unbounded()),
        "bound=clipped": field("bound", ClippedError()),
        "bound=fading": field("bound", FadingRepulsion(updates=10_000)),
    },
)
STEPS = ablation("steps", "T=10", {f"T={n}": steps(n) for n in (2, 5, 10, 20)})
