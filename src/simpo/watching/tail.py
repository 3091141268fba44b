"""The rows that were appended to a CSV file since it was last looked at.

A file is read from where the last complete line ended; a line that is cut off waits
for its end. A file that was replaced (a column was added, or the run was taken back to
a checkpoint) or that no longer continues what was read is read anew.
"""

import csv
import io
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

__all__ = ["Added", "Tail"]

OVERLAP = 64
"""Bytes before the position that must still be the same."""


class Added(NamedTuple):
    """Rows that came since the last look.

    Attributes:
        fresh: The file is read anew: rows told before are void.
        columns: The header; empty as long as there is none.
        rows: Cells as text, as many as there are columns.
    """

    fresh: bool
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __bool__(self) -> bool:
        return self.fresh or bool(self.rows)


class Tail:
    """Reads a CSV file that grows; it may be missing, or be replaced at any time.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.forget()

    def forget(self) -> None:
        """Begin at the beginning."""
        self.inode, self.position, self.before = 0, 0, b""
        self.columns: tuple[str, ...] = ()

    def read(self) -> Added:
        """What was added; nothing while the file is not there or cannot be read."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                fresh = self.position > 0 and not self.continues(file, status.st_ino)
                if fresh:
                    self.forget()
                self.inode = status.st_ino
                file.seek(self.position)
                data = file.read()
        except OSError:
            return self.vanished()
        whole = data[: data.rfind(b"\n") + 1]
        self.position += len(whole)
        self.before = (self.before + whole)[-OVERLAP:]
        return self.parse(whole.decode("utf-8", "replace"), fresh)

    def continues(self, file: BinaryIO, inode: int) -> bool:
        """Whether the file still begins with what was read."""
        if inode != self.inode:
            return False
        file.seek(self.position - len(self.before))
        return file.read(len(self.before)) == self.before

    def vanished(self) -> Added:
        """The file is gone: what it told is void."""
        fresh = self.position > 0
        self.forget()
        return Added(fresh, (), ())

    def parse(self, text: str, fresh: bool) -> Added:
        """Split complete lines; those that are no rows of the table are left out."""
        try:
            rows = [tuple(row) for row in csv.reader(io.StringIO(text, "")) if row]
        except csv.Error:
            rows = []
        if rows and not self.columns:
            self.columns, *rows = rows
        width = len(self.columns)
        kept = tuple(row for row in rows if len(row) == width)
        return Added(fresh, self.columns, kept)
