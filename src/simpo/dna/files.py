"""Files of sequences as tables of text, by the ending of their names.

    .csv, .tsv      a header, then one sequence a line
    .fa, .fasta     >name, >name 1.2 or >name label=1.2 key=value, then lines of letters

each also compressed (.gz, .xz). Nothing here looks at letters or numbers: a table says
at which line a row begins, so that whoever does can name it.
"""

import csv
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from simpo.types import SimpoError

__all__ = [
    "LABEL",
    "NAME",
    "SEQUENCE",
    "Table",
    "is_number",
    "read_table",
    "write_table",
]

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FASTA = (".fa", ".fasta")
OPENERS: Mapping[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".xz": lzma.open}
NAME, SEQUENCE, LABEL = "name", "seq", "label"
"""Columns of a FASTA file, and of a table unless others are chosen."""


class Table(NamedTuple):
    """Text of a file.

    Attributes:
        path: The file.
        columns: Cells by the column's name, all columns of one length.
        lines: The line of the file that each row begins at.
    """

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]

    def mistake(self, row: int, what: str) -> SimpoError:
        """An error in a row, to be raised."""
        return mistake(self.path, self.lines[row], what)

    def column(self, name: str) -> list[str]:
        """Cells of a column.

        Raises:
            SimpoError: There is no such column.
        """
        if name not in self.columns:
            there = ", ".join(map(repr, self.columns))[:300] or "none"
            raise SimpoError(f"{self.path} has no column {name!r}; it has {there}")
        return self.columns[name]


def mistake(path: Path, line: int, what: str) -> SimpoError:
    """An error in a line of a file, to be raised."""
    return SimpoError(f"{path}, line {line}: {what}")


def kind_of(path: Path) -> tuple[str, Callable[..., IO[Any]]]:
    """The ending that tells the format, and the function that opens the file.

    Raises:
        SimpoError: A name with another ending.
    """
    *before, last = ["", "", *(ending.lower() for ending in path.suffixes)]
    kind = before[-1] if last in OPENERS else last
    if kind not in (*DELIMITERS, *FASTA):
        raise SimpoError(
            f"the name of {path} must end in {', '.join((*DELIMITERS, *FASTA))}, and "
            "maybe .gz or .xz after that"
        )
    return kind, OPENERS.get(last, open)


def read_table(path: Path) -> Table:
    """The text of a file; that of a FASTA file has columns `name` and `seq`.

    Raises:
        SimpoError: A file that cannot be read, of another format, or without rows.
    """
    kind, opener = kind_of(path)
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            table = (
                read_fasta(path, file)
                if kind in FASTA
                else read_cells(
                    path, csv.reader(file, delimiter=DELIMITERS[kind], strict=True)
                )
            )
    except FileNotFoundError:
        raise SimpoError(f"no file {path}") from None
    except UnicodeDecodeError:
        raise SimpoError(
            f"{path} is not text in UTF-8; a compressed file must end in .gz or .xz"
        ) from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        what = getattr(error, "strerror", None) or error
        raise SimpoError(f"cannot read {path}: {what}") from error
    if not table.lines:
        raise SimpoError(f"{path} holds no sequences")
    return table


def read_cells(path: Path, reader: Any) -> Table:
    """Rows below a header; empty lines are left out."""
    rows: list[tuple[int, list[str]]] = []
    end = 0
    try:
        for cells in reader:
            if cells:
                rows.append((end + 1, cells))
            end = reader.line_num
    except csv.Error as error:
        what = str(error).replace("\t", "\\t")
        raise mistake(path, end + 1, what) from error
    header = rows[0][1] if rows else []
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise SimpoError(f"{path} has two columns {twice[0]!r}")
    for line, cells in rows:
        if len(cells) != len(header):
            what = f"{len(cells)} cells, but the header has {len(header)}"
            raise mistake(path, line, what)
    columns = {name: [row[i] for _, row in rows[1:]] for i, name in enumerate(header)}
    return Table(path, columns, [line for line, _ in rows[1:]])


def read_fasta(path: Path, file: Iterable[str]) -> Table:
    """Records of a FASTA file; their lines are those of the headers."""
    headers: list[dict[str, str]] = []
    parts: list[list[str]] = []
    lines: list[int] = []
    for number, text in enumerate(map(str.strip, file), 1):
        if text.startswith(">"):
            headers.append(read_header(path, number, text[1:]))
            parts.append([])
            lines.append(number)
        elif text and not parts:
            raise mistake(path, number, "a FASTA file begins with '>' and a name")
        elif text:
            parts[-1].append(text)
    keys = dict.fromkeys(key for header in headers for key in header)
    columns = {key: [header.get(key, "") for header in headers] for key in keys}
    columns[SEQUENCE] = ["".join(part) for part in parts]
    return Table(path, columns, lines)


def read_header(path: Path, line: int, text: str) -> dict[str, str]:
    """The name in a FASTA header, words `key=value`, and a bare number as the label.

    Other words are a description, which is left out.
    """
    name, *words = text.split() or [""]
    pairs = [word.split("=", 1) for word in words if "=" in word]
    pairs += [[LABEL, w] for w in words[:1] if "=" not in w and is_number(w)]
    found = {NAME: name}
    for key, value in pairs:
        if key in (*found, SEQUENCE):
            raise mistake(path, line, f"the header has another {key!r}")
        found[key] = value
    return found


def is_number(text: str) -> bool:
    """Whether a text is a number, infinity and NaN included."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_table(path: Path, columns: Mapping[str, Iterable[str]]) -> None:
    """Write columns as a file that `read_table` reads back, aside and then renamed.

    Args:
        path: Where to write; the ending chooses the format.
        columns: Cells by the column's name; `name` and `seq` are among them.

    Raises:
        SimpoError: The file cannot be written, or a FASTA header cannot hold the cells.
    """
    kind, opener = kind_of(path)
    rows = list(zip(*columns.values(), strict=True))
    if kind in FASTA:
        rows = [to_record(path, dict(zip(columns, row, strict=True))) for row in rows]
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with opener(aside, "wt", encoding="utf-8", newline="") as file:
            if kind in FASTA:
                file.writelines(rows)
            else:
                writer = csv.writer(file, delimiter=DELIMITERS[kind])
                writer.writerows([tuple(columns), *rows])
        aside.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        what = getattr(error, "strerror", None) or error
        raise SimpoError(f"cannot write {path}: {what}") from error
    finally:
        aside.unlink(missing_ok=True)


def to_record(path: Path, cells: Mapping[str, str]) -> str:
    """A FASTA record of a row.

    Raises:
        SimpoError: A name, key or value that a header cannot hold.
    """
    name, letters = cells[NAME], cells[SEQUENCE]
    pairs = {key: x for key, x in cells.items() if key not in (NAME, SEQUENCE)}
    words = [name, *(f"{key}={value}" for key, value in pairs.items())]
    if any(word.split() != [word] for word in words) or any("=" in k for k in pairs):
        raise SimpoError(
            f"cannot write {path}: a FASTA header cannot hold spaces within words or "
            f"empty names, as in {' '.join(words)[:300]!r}; a .csv file can"
        )
    return f">{' '.join(words)}\n{letters}\n"
