"""`simpo dna demo`: sequence design with nothing to download, and the truth known.

World     a grammar of liver factors' motifs: activity of any 60 bases, bounded
Data      natural-like sequences, most of low activity, measured with noise
Reward    a ridge on motif features, trained on the measurements: it is not the truth
Model     a masked diffusion, pretrained on the sequences alone
Tuning    SiMPO with Exponential (RL-D2), Square, and Square with negative weights

The reward is what methods see; the truth tells what they found.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from simpo.checkpoint import read_json
from simpo.dilated import Size
from simpo.dna.calibration import calibrate
from simpo.dna.data import Sequences, write_sequences
from simpo.dna.external import FromGrammar
from simpo.dna.finetune import SignedTuning, finetune
from simpo.dna.grammar import liver
from simpo.dna.guidance import write
from simpo.dna.objective import Calls, Objective
from simpo.dna.oracle import Oracle
from simpo.dna.pretrain import Pretraining, pretrain
from simpo.dna.ridge import train_ridge
from simpo.dna.store import SequenceModel
from simpo.dna.usage import USAGE
from simpo.experiments import page
from simpo.experiments.designs import Judges, header, lines
from simpo.experiments.report import Report, Study
from simpo.experiments.runstudy import require_positive
from simpo.experiments.summary import table
from simpo.generative.masked import MaskedDiffusion
from simpo.plotting.designs import (
    count_bases,
    draw_distributions,
    draw_logos,
    draw_motifs,
    draw_rounds,
)
from simpo.weighting import Exponential, Square, Weighting

__all__ = ["DnaDemo"]

LENGTH = 60
METHODS: dict[str, Weighting] = {
    "Exp (RL-D2)": Exponential(),
    "Square": Square(),
    "Sqr. Neg.": Square(floor=-1.0),
}
SIZE = Size(width=48, dilations=(1, 2, 4))
DIFFUSION = MaskedDiffusion(length=LENGTH, denoising_steps=20, masks=2)


@dataclass(frozen=True)
class DnaDemo(Study):
    """Design enhancers of a planted grammar, with and without negative weights."""

    name: ClassVar[str] = "dna-demo"
    sequences: int = 6_000
    """Natural-like sequences; half of them are measured."""
    noise: float = 0.3
    """Standard deviation of a measurement."""
    pretraining_steps: int = 600
    """Updates of the generative model before any reward."""
    rounds: int = 60
    """Groups of 64 sequences that each method proposes."""
    samples: int = 320
    """Sequences that each method is judged by."""
    seed: int = 0
    """Seed of everything."""
    out: Path = field(default=Path("results"), kw_only=True)
    """Folder for the results; the study gets one of its own inside."""

    def check(self) -> None:
        """Require numbers that are possible."""
        require_positive(
            pretraining_steps=self.pretraining_steps,
            rounds=self.rounds,
            samples=self.samples,
            **{"sequences / 512": self.sequences // 512},
        )

    def run(self, report: Report) -> None:
        """Make the world, pretrain, fine-tune, judge, draw."""
        report.expect(self.pretraining_steps + len(METHODS) * self.rounds)
        grammar, rng = liver(LENGTH), np.random.default_rng(self.seed)
        truth = FromGrammar("truth", grammar)
        natural = grammar.sample(rng, self.sequences)
        reward = self.measure(truth, natural, rng, report)
        report.advance("pretraining", 0)
        model = self.pretrain(natural, report)
        best = natural[np.argsort(truth(natural))[-max(20, len(natural) // 100) :]]
        judges = Judges(
            *({"reward": reward, "truth": truth}, best, DIFFUSION, model.net),
            motifs=grammar.motifs,
        )
        sets: dict[str, Any] = {
            "natural, top 1 %": (best, Calls()),
            "pretrained": (self.draw(model.net), Calls()),
        }
        curves = {}
        for name, weighting in METHODS.items():
            objective, curve = Objective(reward), []
            tuned = self.tune(model, weighting, objective, curve, name, report)
            slug = name.partition(" (")[0].replace(". ", "").replace(".", "").lower()
            SequenceModel(SIZE, DIFFUSION, tuned).save(report.folder / "models" / slug)
            sets[name] = (self.draw(tuned), objective.calls)
            curves[name] = np.array(curve)
        self.tell(report, judges, sets, curves)

    def measure(
        self,
        truth: Oracle,
        natural: np.ndarray,
        rng: np.random.Generator,
        report: Report,
    ) -> Oracle:
        """The reward: a ridge on noisy measurements of half of the sequences."""
        measured = natural[: len(natural) // 2]
        labels = truth(measured) + self.noise * rng.normal(size=len(measured))
        val = np.arange(len(measured)) % 5 == 0
        motifs = truth.grammar.motifs if isinstance(truth, FromGrammar) else ()
        reward = train_ridge(
            motifs, measured, labels.astype(np.float32), val, name="reward"
        )
        others = natural[len(natural) // 2 :]
        found = calibrate(reward, others, truth(others))
        report.say(f"reward against truth on other sequences: {found}\n")
        return reward

    def pretrain(self, natural: np.ndarray, report: Report) -> SequenceModel:
        """The generative model, saved."""
        done = 0

        def observe(steps: int, bound: float) -> None:
            nonlocal done
            report.advance(f"pretraining {bound:.3f} nats", steps - done)
            done = steps

        settings = Pretraining(model=DIFFUSION, steps=self.pretraining_steps)
        key = jax.random.key(self.seed)
        net = pretrain(settings, SIZE.init(key), natural, key, observe=observe)
        model = SequenceModel(SIZE, DIFFUSION, net)
        model.save(report.folder / "models" / "pretrained")
        return model

    def tune(
        self,
        model: SequenceModel,
        weighting: Weighting,
        objective: Objective,
        curve: list[float],
        name: str,
        report: Report,
    ) -> Any:
        """A fine-tuned network; the median reward of every round goes to the curve."""

        def observe(_: int, metrics: dict[str, float]) -> None:
            report.advance(name)
            curve.append(metrics["score_median"])

        tuning = SignedTuning(model=DIFFUSION, weighting=weighting)
        key = jax.random.key(self.seed)
        return finetune(tuning, model.net, objective, self.rounds, key, observe)

    def draw(self, net: Any) -> np.ndarray:
        """Sequences of a network [N, L]."""
        letters = write(DIFFUSION, self.samples, net, jax.random.key(self.seed + 1))
        return np.asarray(letters, np.int8)

    def tell(
        self, report: Report, judges: Judges, sets: dict[str, Any], curves: dict
    ) -> None:
        """The table, the pictures, the page, the sequences."""
        judged = {name: judges.judge(name, *given) for name, given in sets.items()}
        rows = [found.row for found in judged.values()]
        usage = judges.usage({name: found.rates for name, found in judged.items()})
        report.add("designs", rows)
        report.add("motif_hits", usage.rows)
        shown = header(judges, rows), lines(judges, rows)
        report.say(table(*shown))
        folder, letters = report.folder, {n: x for n, (x, _) in sets.items()}
        scores = {n: judges.scores(x) for n, x in letters.items()}
        by_judge = {
            judge: {n: found[judge] for n, found in scores.items()}
            for judge in judges.oracles
        }
        rounds = "Median reward of the group", "Fine-tuning", folder / "rounds"
        bases = {n: count_bases(x) for n, x in letters.items()}
        pictures = [
            *draw_rounds(curves, *rounds),
            *draw_distributions(by_judge, folder / "scores"),
            *draw_motifs(usage.motifs, usage.rates, folder / "motifs"),
            *draw_logos(bases, folder / "logos"),
        ]
        for name, x in letters.items():
            names = tuple(f"{name}-{i}".replace(" ", "_") for i in range(len(x)))
            file = f"{name.partition(' (')[0].replace(' ', '_').replace('.', '')}.csv"
            data = Sequences(names, x, scores[name]["reward"], {})
            write_sequences(folder / file.replace(",", "").replace("%", ""), data)
        parts = [page.rows("Designed sequences", *shown)]
        parts += [f"<p>{note}</p>" for note in (NOTE, USAGE)]
        parts += [
            page.picture(path, path.stem) for path in pictures if path.suffix == ".png"
        ]
        machine = read_json(folder / "env.json")
        parts.append(page.details("Versions and devices", machine))
        html = page.page("simpo dna demo", parts)
        (folder / "report.html").write_text(html, encoding="utf-8")


NOTE = (
    "Medians of each judge over the set. The reward is a ridge that was trained on "
    "noisy measurements; the truth is the grammar itself, which no method has seen. "
    "nats/base: bound of the negative log-likelihood under the pretrained model "
    "(1.386 is noise). 3-mers: Pearson correlation of 3-mer counts with the natural "
    "top 1 %; motifs: Spearman correlation of the hits of the grammar's motifs with "
    "those there. distance: share of bases that differ from the nearest measured "
    "sequence. One seed: differences between methods are no evidence."
)
