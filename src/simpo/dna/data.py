"""Sequences with their labels: from files, to files, and apart from each other.

All sequences of a set have one length and no letters but A, C, G and T. N sequences,
L bases. Letters and clusters live in modules of their own and are named here too:
whoever uses sequences needs no other import.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simpo.dna.alphabet import (
    canonical,
    complete,
    decode,
    encode,
    one_hot,
    reverse_complement,
    tokenise,
)
from simpo.dna.clusters import cluster, split
from simpo.dna.files import (
    LABEL,
    NAME,
    SEQUENCE,
    Table,
    is_number,
    read_table,
    write_table,
)
from simpo.types import SimpoError

__all__ = [
    "Sequences",
    "cluster",
    "decode",
    "encode",
    "one_hot",
    "read_sequences",
    "require_disjoint",
    "reverse_complement",
    "split",
    "write_sequences",
]

UNKNOWN = ("", "na", "nan")
"""Cells that hold no label, in any case of letters."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of one length, with what is known of each.

    Attributes:
        names: N names, not necessarily different.
        tokens: Bases [N, L], int8.
        labels: Measured values [N], float32, NaN where there is none; or None.
        columns: Whatever else the file says, as text [N], by the column's name.

    Raises:
        SimpoError: Fields of different lengths.
    """

    names: tuple[str, ...]
    tokens: np.ndarray
    labels: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Require as many of everything."""
        labels = [] if self.labels is None else [self.labels]
        counts = [len(x) for x in (self.tokens, *labels, *self.columns.values())]
        if set(counts) != {len(self)}:
            raise SimpoError(
                f"{len(self)} names, but fields of {', '.join(map(str, counts))} rows"
            )

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: Any) -> "Sequences":
        """Those at some numbers [n], or where a mask [N] is true."""
        rows = np.arange(len(self))[index]
        return Sequences(
            names=tuple(self.names[i] for i in rows),
            tokens=self.tokens[rows],
            labels=None if self.labels is None else self.labels[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
        )


def read_sequences(
    path: str | Path,
    *,
    sequence: str = SEQUENCE,
    label: str | None = None,
    name: str | None = None,
    require_labels: bool = False,
) -> Sequences:
    """Read a file of sequences; small letters count as large ones.

    Args:
        path: A name in .csv, .tsv, .fa or .fasta, and maybe .gz or .xz after that.
        sequence: Column of the letters; in a FASTA file they are `seq`.
        label: Column of the labels; None for `label`, if there is one. A FASTA header
            has them as `label=1.2`, or as a bare number right after the name.
        name: Column of the names; None for `name`, if there is one, or else the names
            are the lines of the file: `line 7`.
        require_labels: Refuse rows without a label.

    Raises:
        SimpoError: A file that cannot be read, a column that it does not have, or a row
            with other letters, another length, or a label that is no number. It names
            the file and the line.
    """
    table = read_table(Path(path))
    label = label or (LABEL if require_labels or LABEL in table.columns else None)
    name = name or (NAME if NAME in table.columns else None)
    used = (sequence, label, name)
    return Sequences(
        names=tuple(table.column(name) if name else map("line {}".format, table.lines)),
        tokens=read_tokens(table, sequence),
        labels=read_labels(table, label, require_labels) if label else None,
        columns={n: np.array(c) for n, c in table.columns.items() if n not in used},
    )


def read_tokens(table: Table, column: str) -> np.ndarray:
    """Bases int8 [N, L] from a column of letters."""
    texts = [text.strip() for text in table.column(column)]
    lengths = np.array([len(text) for text in texts])
    for i in np.flatnonzero((lengths != lengths[0]) | (lengths == 0))[:1]:
        if not lengths[i]:
            raise table.mistake(i, "no sequence")
        raise table.mistake(
            i,
            f"{lengths[i]} bases, but line {table.lines[0]} has {lengths[0]}: all "
            "sequences of a file must have one length",
        )
    tokens = tokenise("".join(texts)).reshape(len(texts), -1)
    for i, j in np.argwhere(tokens < 0)[:1]:
        what = f"letter {texts[i][j]!r} at base {j + 1}"
        raise table.mistake(i, f"{what}: only A, C, G and T are allowed")
    return tokens


def read_labels(table: Table, column: str, required: bool) -> np.ndarray:
    """Labels float32 [N] from a column of numbers, NaN where a cell holds none."""
    cells = table.column(column)
    labels = np.full(len(cells), np.nan, np.float32)
    largest = float(np.finfo(np.float32).max)
    for i, cell in enumerate(cells):
        if cell.strip().lower() in UNKNOWN:
            continue
        if not is_number(cell) or not abs(float(cell)) <= largest:
            text = reprlib.repr(cell)
            raise table.mistake(i, f"{column} {text} is not a finite number")
        labels[i] = float(cell)
    missing = np.flatnonzero(np.isnan(labels))
    if required and len(missing):
        share = f"{len(missing)} of {len(labels)} rows have none"
        raise table.mistake(missing[0], f"no {column}, which is needed here ({share})")
    return labels


def write_sequences(path: str | Path, sequences: Sequences) -> None:
    """Write a file that `read_sequences` reads back, aside and then renamed.

    Args:
        path: A name as for `read_sequences`; the ending chooses the format.
        sequences: What to write, as columns `name`, `seq`, `label` and its own.

    Raises:
        SimpoError: The file cannot be written, a column has one of those names, or a
            FASTA header cannot hold a cell.
    """
    columns = {NAME: sequences.names, SEQUENCE: map(decode, sequences.tokens)}
    if sequences.labels is not None:
        columns[LABEL] = ("" if np.isnan(x) else str(x) for x in sequences.labels)
    taken = set(sequences.columns) & {NAME, SEQUENCE, LABEL}
    if taken:
        raise SimpoError(f"cannot write {path}: it has two columns {min(taken)!r}")
    columns |= {name: map(str, cells) for name, cells in sequences.columns.items()}
    write_table(Path(path), columns)


def require_disjoint(a: Sequences, b: Sequences, names: tuple[str, str]) -> None:
    """Refuse two sets with a sequence in common, on either strand.

    Args:
        a: One set.
        b: The other.
        names: What to call them in the message: files, or parts of a split.

    Raises:
        SimpoError: There is such a sequence; the message names both rows.
    """
    rows = {row.tobytes(): i for i, row in enumerate(canonical(complete(a.tokens)))}
    other = [row.tobytes() for row in canonical(complete(b.tokens))]
    common = [j for j, row in enumerate(other) if row in rows]
    if common:
        j = common[0]
        i = rows[other[j]]
        raise SimpoError(
            f"{names[0]} row {i + 1} ({a.names[i]!r}) and {names[1]} row {j + 1} "
            f"({b.names[j]!r}) are the same sequence, maybe on the other strand; "
            f"{len(common)} of {len(b)} rows of {names[1]} are in {names[0]}"
        )
