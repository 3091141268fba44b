"""Studies of sequence design: methods on one generator, with one budget of scores.

dna/<scale>/world/   oracles and generators, trained once
dna/<scale>/cells/   METHOD/RATE/SEED/: made.json, sequences.csv, rounds.csv; and
                     row.json, motif_hits.csv, which tell how the set was judged
dna/<scale>/         cells.csv methods.csv motif_hits.csv report.txt report.html,
                     pictures

The rate of a method is the one of the best median by the reward oracle, of a seed that
is used for nothing else; methods are judged by the evaluation oracle. A set that is
there is not made again.
"""

import abc
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from simpo.checkpoint import read_json, write_json
from simpo.dna.data import Sequences, read_sequences, write_sequences
from simpo.dna.objective import Calls
from simpo.dna.storage import load_oracle
from simpo.dna.usage import MOTIF_HITS, MotifUsage
from simpo.experiments.designs import Judges
from simpo.experiments.dna_methods import Method, design
from simpo.experiments.dna_results import Line, tell
from simpo.experiments.dna_world import SETUPS, Setup, World, make_world, read_elements
from simpo.experiments.report import Report, Study, Verdict
from simpo.experiments.runstudy import require_positive
from simpo.types import SimpoError

__all__ = ["DnaStudy"]

TUNING_SEED = 1000
"""The seed that rates are chosen on."""
Scale = Literal["smoke", "laptop", "paper"]


class Cell(NamedTuple):
    """One set of sequences to be made."""

    method: str
    rate: float
    seed: int

    def folder(self, parent: Path) -> Path:
        """Where it is kept."""
        words = "".join(x if x.isalnum() else " " for x in self.method.lower()).split()
        return parent / "-".join(words) / f"{self.rate:g}" / str(self.seed)


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
    report: bool = False
    """Make nothing: report on the sets that are there."""

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.out / self.name / self.scale

    @property
    def setup(self) -> Setup:
        """Sizes."""
        return SETUPS[self.scale]

    @property
    def chosen(self) -> dict[str, Method]:
        """The methods to compare."""
        names = self.methods or tuple(self.methods_of)
        return {name: self.methods_of[name] for name in names}

    @abc.abstractmethod
    def rates(self, method: Method) -> tuple[float, ...]:
        """Learning rates to choose from; one if there is nothing to choose."""

    @abc.abstractmethod
    def verdicts(self, lines: Mapping[str, Line]) -> Iterator[Verdict]:
        """What is claimed, and what was found."""

    @abc.abstractmethod
    def published(self, method: str) -> float | None:
        """The paper's number, which is not comparable as a value."""

    def check(self) -> None:
        """Require files, methods and seeds.

        Raises:
            SimpoError: Something is not so.
        """
        require_positive(seeds=self.seeds)
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
        world, judges = self.make(report)
        seeds = range(self.seeds or self.setup.seeds)
        tuned = [m for m in self.chosen.values() if len(self.rates(m)) > 1]
        cells = len(self.chosen) * len(seeds) + sum(len(self.rates(m)) for m in tuned)
        report.expect(cells * self.setup.rounds)
        rates = {
            name: self.choose(name, method, world, judges, report)
            for name, method in self.chosen.items()
        }
        every = [Cell(name, rates[name], seed) for seed in seeds for name in rates]
        rows = {cell: self.row(cell, world, judges, report) for cell in every}
        made = [cell for cell in every if rows[cell]]
        lines = {
            name: self.line(name, {c: rows[c] for c in made if c.method == name})
            for name in dict.fromkeys(cell.method for cell in made)
        }
        tell(report, judges, lines, list(self.verdicts(lines)))

    def line(self, name: str, rows: Mapping[Cell, Any]) -> Line:
        """What is known of a method, from its judged sets."""
        homes = [cell.folder(self.folder / "cells") for cell in rows]
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

    def make(self, report: Report) -> tuple[World, Judges]:
        """Oracles and generators, and judges of sets."""
        assert self.data and self.motifs
        elements = read_elements(self.data, self.label)
        pool = elements.rows.tokens[:0]
        if self.pool:
            pool = read_sequences(self.pool).tokens
        home = self.out / "dna" / self.scale / "world"
        self.require_same(home)
        given = self.setup, elements, pool, self.motifs
        world = make_world(*given, home, report)
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
        )
        return world, judges

    def require_same(self, home: Path) -> None:
        """Refuse a world that was made of other files or sizes."""
        files = {"data": self.data, "motifs": self.motifs, "pool": self.pool}
        made = {
            "label": self.label,
            "setup": {k: str(v) for k, v in asdict(self.setup).items()},
            "files": {name: digest(path) for name, path in files.items() if path},
        }
        path = home / "made.json"
        if path.exists() and read_json(path) != made:
            raise SimpoError(
                f"{home} was made of other files or settings: choose another --out, or "
                "delete it"
            )
        home.mkdir(parents=True, exist_ok=True)
        write_json(path, made)

    def choose(
        self, name: str, method: Method, world: World, judges: Judges, report: Report
    ) -> float:
        """The rate of the best median by the reward oracle."""
        rates = self.rates(method)
        if len(rates) == 1:
            return rates[0]
        found = {}
        for rate in rates:
            row = self.row(Cell(name, rate, TUNING_SEED), world, judges, report)
            if row:
                found[rate] = row["reward"]
        return max(found, key=lambda rate: found[rate], default=rates[0])

    def row(
        self, cell: Cell, world: World, judges: Judges, report: Report
    ) -> dict[str, Any] | None:
        """A judged set, made now unless it is there; None if nothing is to be made."""
        folder = cell.folder(self.folder / "cells")
        done, text = 0, f"{cell.method} {cell.rate:g} #{cell.seed}"

        def tell(rounds: int) -> None:
            nonlocal done
            done += rounds
            report.advance(text, rounds)

        if not folder.exists():
            if self.report:
                return None
            method = self.methods_of[cell.method]
            made = design(method, world, cell.rate, cell.seed, tell)
            save(folder, made.letters, made.calls, made.curve)
        tell(self.setup.rounds - done)
        by = [*judges.oracles, *(["open"] if judges.accessibility else [])]
        by += [MOTIF_HITS] if judges.fitting else []
        if (path := folder / "row.json").exists() and read_json(path)["by"] == by:
            return read_json(path)
        letters = read_sequences(folder / "sequences.csv").tokens
        calls = Calls(**read_json(folder / "made.json"))
        judged = judges.judge(cell.method, letters, calls)
        if judges.fitting:
            judges.usage({cell.method: judged.rates}).write(folder / MOTIF_HITS)
        write_json(path, {**cell._asdict(), **judged.row, "by": by})
        return read_json(path)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save(folder: Path, letters: np.ndarray, calls: Calls, curve: np.ndarray) -> None:
    """Write what was made, aside and then renamed."""
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    names = tuple(str(i) for i in range(len(letters)))
    write_sequences(aside / "sequences.csv", Sequences(names, letters, None, {}))
    write_json(aside / "made.json", asdict(calls))
    if len(curve):
        np.savetxt(aside / "rounds.csv", curve, fmt="%.6g")
    aside.rename(folder)
