"""Studies of sequence design: methods on one generator, with one budget of scores.

dna/<scale>/world/      oracles and generators, trained once
dna/<scale>/cells/      designed sets, which studies share
<study>/<scale>/        cells.csv methods.csv motif_hits.csv report.txt report.html,
                        pictures

The rate of a method is the one of the best median by the reward oracle, on average over
seeds that are used for nothing else; methods are judged by the evaluation oracle. A set
that is there is not made again.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from simpo import snapshots
from simpo.checkpoint import read_json, write_json
from simpo.dna.data import read_sequences
from simpo.dna.storage import load_oracle
from simpo.dna.usage import MOTIF_HITS, MotifUsage
from simpo.engines import local
from simpo.experiments.designs import Judges
from simpo.experiments.dna_cells import Bench, Cell, Making
from simpo.experiments.dna_methods import Method
from simpo.experiments.dna_results import Line, tell
from simpo.experiments.dna_world import (
    SETUPS,
    Advance,
    Elements,
    Setup,
    describe,
    make_world,
    read_elements,
)
from simpo.experiments.report import Report, Study, Verdict
from simpo.experiments.runstudy import require_positive
from simpo.types import SimpoError

__all__ = ["DnaStudy"]

TUNING_SEEDS = (1000, 1001, 1002)
"""What rates are chosen on."""
FREE = "rates", "rate", "seeds"
"""Of a setup: what may change from one study to another in the same world."""
Scale = Literal["smoke", "laptop", "paper"]


@dataclass(frozen=True)
class DnaStudy(Study):
    """Methods of sequence design on one generator, with equal numbers of scores."""

    methods_of: ClassVar[Mapping[str, Method]]
    """What is compared, by name."""
    data: Path | None = None
    """Elements: a table with seq, part (A or B), val (0 or 1) and a label."""
    label: str = "hepg2"
    """The column of the label."""
    motifs: Path | None = None
    """A MEME file, for the reward and for motif hits."""
    pool: Path | None = None
    """Further natural sequences for the generator."""
    judge: Path | None = None
    """A third oracle's folder (simpo dna oracle), best of another assay."""
    accessibility: Path | None = None
    """A classifier of open chromatin: an oracle's folder."""
    scale: Scale = "laptop"
    """Sizes and numbers of rounds; smoke shows nothing."""
    seeds: int | None = None
    """Seeds: 0, 1, ...; by default as the scale has them."""
    methods: tuple[str, ...] = ()
    """Which methods; all by default."""
    rate: float | None = None
    """One learning rate for all; the table has the best for each by default."""
    rounds: int | None = None
    """Groups that a method proposes; by default as the scale has them."""
    pretraining_steps: int | None = None
    """Updates of the generator; by default as the scale has them."""
    jobs: int | None = None
    """Sets made side by side, a core each; all cores by default, one on a GPU."""
    report: bool = False
    """Make nothing: report on the sets that are there."""

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.out / self.name / self.scale

    @property
    def shared(self) -> Path:
        """Where what studies share is."""
        return self.out / "dna" / self.scale

    @property
    def setup(self) -> Setup:
        """Sizes."""
        given = {"rounds": self.rounds, "pretraining_steps": self.pretraining_steps}
        changed = {name: number for name, number in given.items() if number}
        return replace(SETUPS[self.scale], **changed)

    @property
    def chosen(self) -> dict[str, Method]:
        """The methods to compare."""
        names = self.methods or tuple(self.methods_of)
        return {name: self.methods_of[name] for name in names}

    def rates(self, method: Method) -> tuple[float, ...]:
        """Learning rates to choose from; one if there is nothing to choose."""
        if not method.tuned:
            return self.setup.rates[:1]
        return self.setup.rates if self.rate is None else (self.rate,)

    @abc.abstractmethod
    def verdicts(self, lines: Mapping[str, Line]) -> Iterator[Verdict]:
        """What is claimed, and what was found."""

    @abc.abstractmethod
    def published(self, method: str) -> float | None:
        """The paper's number, which is not comparable as a value."""

    def check(self) -> None:
        """Require files, methods, and numbers that are possible.

        Raises:
            SimpoError: Something is not so.
        """
        require_positive(
            seeds=self.seeds,
            jobs=self.jobs,
            rounds=self.rounds,
            pretraining_steps=self.pretraining_steps,
        )
        if self.rate is not None and not self.rate > 0:
            raise SimpoError(f"rate must be positive, not {self.rate:g}")
        for name, path in (("data", self.data), ("motifs", self.motifs)):
            if path is None:
                raise SimpoError(
                    f"no {name}: give --data ELEMENTS.csv and --motifs MOTIFS.meme; "
                    "simpo dna demo needs no files"
                )
        for path in (self.data, self.motifs, self.pool, self.judge, self.accessibility):
            if path is not None and not path.exists():
                raise SimpoError(f"no file {path}")
        for name in self.methods:
            if name not in self.methods_of:
                known = ", ".join(self.methods_of)
                raise SimpoError(f"unknown method '{name}'; choose from {known}")

    def run(self, report: Report) -> None:
        """Make what is missing, judge it, and tell."""
        elements = self.elements()
        self.require_same()
        bench = self.bench(report.advance, elements)
        for text in describe(bench.world, elements):
            report.say(f"{text}\n")
        seeds = range(self.seeds or self.setup.seeds)
        grids = {name: self.rates(method) for name, method in self.chosen.items()}
        tuning = [
            Cell(name, rate, seed)
            for name, rates in grids.items()
            if len(rates) > 1
            for rate in rates
            for seed in TUNING_SEEDS
        ]
        report.expect((len(tuning) + len(grids) * len(seeds)) * self.setup.rounds)
        self.make(tuning, bench, report)
        best = {name: choose(name, rates, bench) for name, rates in grids.items()}
        cells = [Cell(name, best[name], seed) for seed in seeds for name in grids]
        self.make(cells, bench, report)
        rows = {cell: row for cell in cells if (row := bench.judged(cell))}
        lines = {
            name: self.line(name, {c: rows[c] for c in rows if c.method == name})
            for name in grids
            if any(c.method == name for c in rows)
        }
        tell(report, bench.judges, lines, list(self.verdicts(lines)))

    def make(self, cells: Sequence[Cell], bench: Bench, report: Report) -> None:
        """Make and judge what is missing, side by side; tell of sets that failed."""
        missing = [cell for cell in cells if not bench.known(cell)]
        for _ in range(len(cells) - len(missing)):
            report.advance("sets that are there", self.setup.rounds)
        if self.report or not missing:
            return
        cores = len(local.cores()) if jax.default_backend() == "cpu" else 1
        making = [Making(self, cell) for cell in missing]
        for ended in local.train_all(making, report.advance, self.jobs or cores):
            if ended.reason:
                report.say(f"not made: {ended.job.name}: {ended.reason}")

    def line(self, name: str, rows: Mapping[Cell, Any]) -> Line:
        """What is known of a method, from its judged sets."""
        homes = [cell.folder(self.shared / "cells") for cell in rows]
        files = [home / "rounds.csv" for home in homes]
        used = [home / MOTIF_HITS for home in homes if (home / MOTIF_HITS).exists()]
        rates = [MotifUsage.read(path).rates[name] for path in used]
        return Line(
            rate=next(iter(rows)).rate if self.chosen[name].tuned else None,
            published=self.published(name),
            sets={cell.seed: row for cell, row in rows.items()},
            curves=[np.loadtxt(file, ndmin=1) for file in files if file.exists()],
            rates=np.mean(rates, axis=0) if rates else None,
        )

    def elements(self) -> Elements:
        """Labelled sequences, read."""
        assert self.data
        return read_elements(self.data, self.label)

    def bench(
        self, advance: Advance = lambda *_: None, elements: Elements | None = None
    ) -> Bench:
        """Oracles, generators and judges; trained now unless they are there."""
        assert self.motifs
        elements = elements or self.elements()
        pool = elements.rows.tokens[:0]
        if self.pool:
            pool = read_sequences(self.pool).tokens
        given = self.setup, elements, pool, self.motifs
        world = make_world(*given, self.shared / "world", advance)
        oracles = {"reward": world.reward, "evaluation": world.evaluation}
        if self.judge:
            oracles["judge"] = load_oracle(self.judge)
        opened = load_oracle(self.accessibility) if self.accessibility else None
        judges = Judges(
            oracles=oracles,
            natural=world.natural,
            diffusion=world.diffusion,
            pretrained=world.net,
            template=world.template,
            motifs=world.motifs,
            accessibility=opened,
            conditions=world.conditions,
        )
        return Bench(world, judges, self.methods_of, self.shared / "cells")

    def require_same(self) -> None:
        """Refuse a world that was made of other files or sizes."""
        files = {"data": self.data, "motifs": self.motifs, "pool": self.pool}
        sizes = asdict(self.setup).items()
        made = {
            "label": self.label,
            "setup": {k: str(v) for k, v in sizes if k not in FREE},
            "files": {
                name: snapshots.describe(path)["sha256"]
                for name, path in files.items()
                if path
            },
        }
        home = self.shared / "world"
        path = home / "made.json"
        if path.exists() and read_json(path) != made:
            raise SimpoError(
                f"{home} was made of other files or settings: choose another --out, or "
                "delete it"
            )
        home.mkdir(parents=True, exist_ok=True)
        write_json(path, made)


def choose(name: str, rates: Sequence[float], bench: Bench) -> float:
    """The rate whose medians by the reward oracle are the best on average.

    One of which a seed failed comes last; the first is taken if nothing is there.
    """
    found = {}
    for rate in rates if len(rates) > 1 else ():
        rows = [bench.judged(Cell(name, rate, seed)) for seed in TUNING_SEEDS]
        if made := [row["reward"] for row in rows if row]:
            complete = len(made) == len(rows)
            found[rate] = (complete, np.mean(made))
    return max(found, key=lambda rate: found[rate], default=rates[0])
