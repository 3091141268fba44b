"""Designed sets that studies share: made once, each on a core of its own, and judged.

<cells>/METHOD/RATE/SEED/   made.json sequences.csv rounds.csv; and row.json,
                            motif_hits.csv, which tell how the set was judged

Who judges may change later; sets are then judged again, and not made again.
"""

import functools
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from simpo.checkpoint import read_json, write_json
from simpo.dna.data import Sequences, read_sequences, write_sequences
from simpo.dna.objective import Calls
from simpo.dna.usage import MOTIF_HITS
from simpo.engines.jobs import Steps
from simpo.experiments.designs import Judges
from simpo.experiments.dna_methods import Designed, Method, design
from simpo.experiments.dna_world import World

__all__ = ["Bench", "Cell", "Making", "Source"]


class Cell(NamedTuple):
    """A set of sequences: who makes it, at which learning rate, from which seed."""

    method: str
    rate: float
    seed: int

    def folder(self, parent: Path) -> Path:
        """Where it is kept."""
        words = "".join(x if x.isalnum() else " " for x in self.method.lower()).split()
        return parent / "-".join(words) / f"{self.rate:g}" / str(self.seed)


@dataclass(frozen=True, eq=False)
class Bench:
    """What sets are made with, and judged by.

    Attributes:
        world: Oracles and generators.
        judges: Of sets.
        methods: By name.
        folder: Parent of the sets.
    """

    world: World
    judges: Judges
    methods: Mapping[str, Method]
    folder: Path

    def make(self, cell: Cell, advance: Steps) -> None:
        """Make a set unless it is there, and judge it; told of rounds."""
        done, folder = 0, cell.folder(self.folder)

        def tell(rounds: int) -> None:
            nonlocal done
            done += rounds
            advance(rounds)

        if not folder.exists():
            method = self.methods[cell.method]
            save(folder, design(method, self.world, cell.rate, cell.seed, tell))
        self.judged(cell)
        advance(self.world.setup.rounds - done)

    @property
    def by(self) -> list[str]:
        """What sets are judged by, in words."""
        judges = self.judges
        by = [*judges.oracles, *(["open"] if judges.accessibility else [])]
        by += [MOTIF_HITS] if judges.fitting else []
        return by + [condition.name for condition in judges.conditions]

    def known(self, cell: Cell) -> dict[str, Any] | None:
        """What a set is worth, if these judges have said so."""
        path = cell.folder(self.folder) / "row.json"
        row = read_json(path) if path.exists() else None
        return row if row and row["by"] == self.by else None

    def judged(self, cell: Cell) -> dict[str, Any] | None:
        """What a set is worth by these judges; None if it has not been made."""
        folder, judges = cell.folder(self.folder), self.judges
        if not folder.exists():
            return None
        if row := self.known(cell):
            return row
        letters = read_sequences(folder / "sequences.csv").tokens
        calls = Calls(**read_json(folder / "made.json"))
        judged = judges.judge(cell.method, letters, calls)
        if judges.fitting:
            judges.usage({cell.method: judged.rates}).write(folder / MOTIF_HITS)
        row = {**cell._asdict(), **judged.row, "by": self.by}
        write_json(folder / "row.json", row)
        return row


def save(folder: Path, made: Designed) -> None:
    """Write a set, aside and then renamed."""
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    names = tuple(str(i) for i in range(len(made.letters)))
    write_sequences(aside / "sequences.csv", Sequences(names, made.letters, None, {}))
    write_json(aside / "made.json", asdict(made.calls))
    if len(made.curve):
        np.savetxt(aside / "rounds.csv", made.curve, fmt="%.6g")
    aside.rename(folder)


class Source(Protocol):
    """Settings that a bench is read from; equal ones give the same."""

    def bench(self) -> Bench:
        """Read it from what is on disk."""
        ...


class Making(NamedTuple):
    """A set that is made in a process of its own.

    Attributes:
        source: Of the bench, which a process reads once.
        cell: The set.
    """

    source: Source
    cell: Cell

    @property
    def name(self) -> str:
        """What the progress bar says."""
        return f"{self.cell.method} {self.cell.rate:g} #{self.cell.seed}"

    def make(self, advance: Steps) -> Path:
        """Make and judge it."""
        bench = read(self.source)
        bench.make(self.cell, advance)
        return self.cell.folder(bench.folder)


@functools.lru_cache(maxsize=1)
def read(source: Source) -> Bench:
    """The bench, read once per process."""
    return source.bench()
