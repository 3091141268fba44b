"""Which motifs sets of sequences use, as a table that is kept beside them.

motif_hits.csv   a row per motif: its name, and its hits per 100 bases in each set
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simpo.dna.files import is_number, read_table, write_table
from simpo.types import SimpoError

__all__ = ["MOTIF", "MOTIF_HITS", "USAGE", "MotifUsage"]

MOTIF_HITS = "motif_hits.csv"
"""The name of the file."""
MOTIF = "motif"
"""Its column of names; no set can be called that."""
USAGE = (
    "Hits of motifs per 100 bases, of those that the sets differ in most; "
    f"{MOTIF_HITS} has all. Windows of either strand with p < 1e-3 are hits: at most "
    "0.2 by chance, where all bases are equally frequent. Motifs of one family look "
    "alike, so several of them may tell one thing."
)
"""What a picture of them shows."""


@dataclass(frozen=True, eq=False)
class MotifUsage:
    """Hits of motifs in sets of sequences.

    Attributes:
        motifs: Their names [M].
        rates: Hits per 100 bases by set [M].
    """

    motifs: tuple[str, ...]
    rates: Mapping[str, np.ndarray]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row per motif."""
        columns = self.columns
        return [
            dict(zip(columns, cells, strict=True))
            for cells in zip(*columns.values(), strict=True)
        ]

    @property
    def columns(self) -> dict[str, list[str]]:
        """Cells by the column's name."""
        numbers = {name: [f"{x:.6g}" for x in r] for name, r in self.rates.items()}
        return {MOTIF: list(self.motifs), **numbers}

    def write(self, path: Path) -> None:
        """Write the table.

        Raises:
            SimpoError: The file cannot be written.
        """
        write_table(path, self.columns)

    @staticmethod
    def read(path: Path) -> "MotifUsage":
        """The table of a file.

        Raises:
            SimpoError: It cannot be read, or holds something else.
        """
        table = read_table(path)
        motifs, rates = tuple(table.column(MOTIF)), {}
        for name, cells in table.columns.items():
            if name == MOTIF:
                continue
            for row, cell in enumerate(cells):
                if not is_number(cell) or not 0 <= float(cell) < np.inf:
                    what = f"{name} is {cell[:40]!r}, not hits per 100 bases"
                    raise table.mistake(row, what)
            rates[name] = np.array(list(map(float, cells)))
        if not rates:
            raise SimpoError(f"{path} has no set, only motifs")
        return MotifUsage(motifs, rates)
