"""Motifs: position probabilities of binding sites, their scores and their p-values.

Score     s(x) = sum_w log( ((1 - m) p_w(x_w) + m b(x_w)) / b(x_w) )   in nats
P-value   P(s(X) >= s),  X drawn letter by letter from the background b

m is the share of background that is mixed in, so that no letter is impossible. The
distribution of s(X) is exact for scores rounded to a grid: the convolution of W
distributions of four points each (Staden 1989; the method of FIMO, Grant et al. 2011).
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simpo.types import SimpoError

__all__ = [
    "LETTERS",
    "UNIFORM",
    "Motif",
    "consensus",
    "log_odds",
    "quantise",
    "read_meme",
    "thresholds",
    "write_meme",
]

LETTERS = "ACGT"
UNIFORM = (0.25, 0.25, 0.25, 0.25)
"""Background: the share of each letter."""
IUPAC = {
    "A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT",
    "K": "GT", "M": "AC", "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
ROUNDING = 0.02
"""How far from one the probabilities of a position may add up: files round them."""


@dataclass(frozen=True, eq=False)
class Motif:
    """A motif.

    Attributes:
        name: What it is called.
        probabilities: Of A, C, G and T at each of W positions, float64 [W, 4].

    Raises:
        SimpoError: They are not probabilities.
    """

    name: str
    probabilities: np.ndarray

    def __post_init__(self) -> None:
        p = np.asarray(self.probabilities, np.float64)
        if p.ndim != 2 or p.shape[1] != 4 or not len(p):
            raise SimpoError(f"motif {self.name}: shape {p.shape}, expected (W, 4)")
        # NaN fails every comparison, so what must hold is asked for.
        good = (p >= 0).all(1) & (np.abs(p.sum(1) - 1) <= ROUNDING)
        if not good.all():
            raise SimpoError(
                f"motif {self.name}: position {np.argmin(good) + 1} is not four "
                f"probabilities: {' '.join(map(str, p[np.argmin(good)]))}"
            )
        object.__setattr__(self, "probabilities", p)

    @property
    def width(self) -> int:
        """Number of positions W."""
        return len(self.probabilities)


def consensus(text: str, name: str) -> Motif:
    """A motif from IUPAC letters; a letter that stands for several shares equally.

    Raises:
        SimpoError: Another letter, or none.
    """
    rows = []
    for letter in text.upper():
        if letter not in IUPAC:
            raise SimpoError(f"motif {name}: '{letter}' is no IUPAC letter of DNA")
        meant = IUPAC[letter]
        rows.append([(base in meant) / len(meant) for base in LETTERS])
    return Motif(name, np.array(rows, np.float64).reshape(-1, 4))


def read_meme(path: str | Path) -> tuple[Motif, ...]:
    """Motifs of a file in MEME's minimal text format, with the file's own numbers.

    A motif is called by its identifier and, where there is one, its other name.

    Raises:
        SimpoError: No such file, another format, another alphabet, or a damaged
            matrix; with the number of the line.
    """
    lines = read_lines(Path(path))
    if not lines or not lines[0][1].startswith("MEME version"):
        found = f"'{lines[0][1][:40]}'" if lines else "nothing"
        raise SimpoError(f"{path} is no MEME file: it begins with {found}")
    try:
        motifs = tuple(parse(lines))
    except SimpoError as error:
        raise SimpoError(f"{path} {error}") from error
    if not motifs:
        raise SimpoError(f"{path} has no motif with a letter-probability matrix")
    return motifs


def write_meme(path: str | Path, motifs: Sequence[Motif]) -> None:
    """Write motifs in MEME's minimal text format, aside and then renamed.

    Raises:
        SimpoError: The file cannot be written.
    """
    path = Path(path)
    text = [f"MEME version 4\n\nALPHABET= {LETTERS}\n\nstrands: + -\n"]
    for motif in motifs:
        text.append(f"MOTIF {motif.name}")
        text.append(f"letter-probability matrix: alength= 4 w= {motif.width}")
        text += [" ".join(f"{p:.6f}" for p in row) for row in motif.probabilities]
        text.append("")
    aside = path.with_name(f".{path.name}.tmp")
    try:
        aside.write_text("\n".join(text))
        aside.replace(path)
    except OSError as error:
        raise SimpoError(f"cannot write {path}: {error.strerror}") from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are not empty, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SimpoError(f"no file {path}") from None
    except UnicodeDecodeError:
        raise SimpoError(f"{path} is no MEME file: it is not text") from None
    except OSError as error:
        raise SimpoError(f"cannot read {path}: {error.strerror}") from error
    numbered = enumerate(map(str.strip, text.splitlines()), start=1)
    return [(number, line) for number, line in numbered if line]


def parse(lines: list[tuple[int, str]]) -> Iterator[Motif]:
    """Motifs of a file's lines."""
    name = None
    for place, (number, line) in enumerate(lines):
        if line.startswith("ALPHABET") and line.split("=")[-1].strip() != LETTERS:
            raise SimpoError(f"line {number}: the alphabet must be ACGT: {line[:60]}")
        if line.startswith("MOTIF"):
            name = " ".join(line.split()[1:3])
            if not name:
                raise SimpoError(f"line {number}: a motif without a name")
        if line.startswith("letter-probability matrix"):
            if name is None:
                raise SimpoError(f"line {number}: a matrix before any MOTIF line")
            yield read_matrix(name, lines[place:])


def read_matrix(name: str, lines: list[tuple[int, str]]) -> Motif:
    """The motif whose matrix the first line announces."""
    (number, heading), *rest = lines
    announced = re.search(r"\bw\s*=\s*(\d+)", heading)
    rows = []
    for number, line in rest:
        try:
            rows.append([float(word) for word in line.split()])
        except ValueError:
            break
        if len(rows[-1]) != 4:
            raise SimpoError(
                f"line {number}: motif {name} needs 4 numbers, not {len(rows[-1])}"
            )
    wanted = int(announced[1]) if announced else max(len(rows), 1)
    if wanted != len(rows):
        raise SimpoError(
            f"line {number}: motif {name} has {len(rows)} rows, {wanted} were announced"
        )
    try:
        return Motif(name, np.array(rows))
    except SimpoError as error:
        raise SimpoError(f"line {lines[0][0]}: {error}") from error


def log_odds(
    motif: Motif, mixture: float = 0.01, background: Sequence[float] = UNIFORM
) -> np.ndarray:
    """Scores of the letters, in nats, float64 [W, 4].

    Args:
        motif: The motif.
        mixture: Share of background mixed in, above 0 and below 1.
        background: Shares of A, C, G and T.
    """
    b = np.asarray(background, np.float64)
    return np.log(((1 - mixture) * motif.probabilities + mixture * b) / b)


def quantise(scores: np.ndarray, step: float) -> np.ndarray:
    """Scores in whole steps, int64 [W, 4]."""
    return np.rint(scores / step).astype(np.int64)


def thresholds(
    motifs: Sequence[Motif],
    p: float = 1e-3,
    *,
    step: float = 0.01,
    mixture: float = 0.01,
    background: Sequence[float] = UNIFORM,
) -> np.ndarray:
    """The lowest scores whose p-values are at most `p`, in nats, float64 [M].

    Exact for scores rounded to multiples of `step`; infinity where not even the best
    score is that rare.

    Raises:
        SimpoError: `p` is no probability.
    """
    if not 0 < p <= 1:
        raise SimpoError(f"a p-value must be above 0 and at most 1, not {p}")
    return np.array([
        step * lowest(quantise(log_odds(m, mixture, background), step), p, background)
        for m in motifs
    ])  # fmt: skip


def lowest(scores: np.ndarray, p: float, background: Sequence[float]) -> float:
    """The threshold of integer scores [W, 4]."""
    floor = scores.min(axis=1, keepdims=True)
    chance = np.ones(1)
    for row in scores - floor:
        longer = np.zeros(len(chance) + row.max())
        for above, share in zip(row, background, strict=True):
            longer[above : above + len(chance)] += share * chance
        chance = longer
    tail = np.cumsum(chance[::-1])[::-1]
    # A sum of shares can miss p by its rounding.
    enough = np.flatnonzero(tail <= p * (1 + 1e-12))
    return float(enough[0] + floor.sum()) if len(enough) else math.inf
