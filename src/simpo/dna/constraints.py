"""What designers need of a sequence besides activity.

GCWindow          low <= share of G and C <= high, in every window
Homopolymer       no run of one base longer than `longest`
ForbiddenSites    no recognition site of an enzyme, on either strand
MinimumDistance   of a set: every two differ in at least a share of their bases
Template          of an insert: fixed flanks around the bases that are designed

N sequences, L bases, l bases of an insert.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.lib.stride_tricks import sliding_window_view

from simpo.dna.alphabet import complete, decode, encode
from simpo.types import SimpoError

__all__ = [
    "Constraint",
    "ForbiddenSites",
    "GCWindow",
    "Homopolymer",
    "MinimumDistance",
    "Template",
    "satisfied",
]

IUPAC = {
    letter: np.array([base in bases for base in "ACGT"])
    for letter, bases in {
        "A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG",
        "W": "AT", "K": "GT", "M": "AC", "B": "CGT", "D": "AGT", "H": "ACT",
        "V": "ACG", "N": "ACGT",
    }.items()
}  # fmt: skip
"""Which bases a letter stands for, [4] each (Cornish-Bowden, 1985)."""


class Constraint(ABC):
    """A condition on single sequences."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it asks for, in words."""

    @abstractmethod
    def check(self, tokens: Any) -> np.ndarray:
        """Whether sequences [N, L] satisfy it, bool [N].

        Raises:
            SimpoError: Sequences with masks, or too short for the condition.
        """


def satisfied(constraints: Iterable[Constraint], tokens: Any) -> np.ndarray:
    """Whether sequences [N, L] satisfy all constraints, bool [N].

    Raises:
        SimpoError: As `Constraint.check`.
    """
    tokens = complete(tokens)
    found = [constraint.check(tokens) for constraint in constraints]
    return np.logical_and.reduce(found, axis=0) if found else np.ones(len(tokens), bool)


@dataclass(frozen=True)
class GCWindow(Constraint):
    """A share of G and C within bounds, in every window.

    Attributes:
        low: Least share.
        high: Largest share.
        window: Bases of a window; None for the whole sequence.

    Raises:
        SimpoError: Bounds out of order or outside [0, 1], or an empty window.
    """

    low: float
    high: float
    window: int | None = None

    def __post_init__(self) -> None:
        """Reject what nothing satisfies."""
        if not 0 <= self.low <= self.high <= 1:
            raise SimpoError(
                f"shares of GC must satisfy 0 <= low <= high <= 1, not {self.low} "
                f"and {self.high}"
            )
        if self.window is not None and self.window < 1:
            raise SimpoError(f"a GC window needs at least 1 base, not {self.window}")

    @property
    def name(self) -> str:
        """What it asks for, in words."""
        where = "" if self.window is None else f" in every {self.window} bases"
        return f"GC of {100 * self.low:g} to {100 * self.high:g} %{where}"

    def check(self, tokens: Any) -> np.ndarray:
        """Whether sequences [N, L] satisfy it, bool [N]."""
        tokens = complete(tokens)
        bases = tokens.shape[1]
        window = bases if self.window is None else self.window
        if window > bases:
            raise SimpoError(
                f"a GC window of {window} bases does not fit sequences of {bases}"
            )
        strong = np.cumsum((tokens == 1) | (tokens == 2), axis=1)
        strong = np.pad(strong, ((0, 0), (1, 0)))
        share = (strong[:, window:] - strong[:, :-window]) / window
        return np.all((self.low <= share) & (share <= self.high), axis=1)


@dataclass(frozen=True)
class Homopolymer(Constraint):
    """No long runs of one base, which are hard to synthesise and to sequence.

    Attributes:
        longest: Bases of the longest run allowed.

    Raises:
        SimpoError: Fewer than 1, which nothing satisfies.
    """

    longest: int

    def __post_init__(self) -> None:
        """Reject what nothing satisfies."""
        if self.longest < 1:
            raise SimpoError(f"the longest run must be at least 1, not {self.longest}")

    @property
    def name(self) -> str:
        """What it asks for, in words."""
        return f"runs of at most {self.longest} equal bases"

    def check(self, tokens: Any) -> np.ndarray:
        """Whether sequences [N, L] satisfy it, bool [N]."""
        tokens = complete(tokens)
        if tokens.shape[1] <= self.longest:
            return np.ones(len(tokens), bool)
        equal = tokens[:, 1:] == tokens[:, :-1]
        runs = np.all(sliding_window_view(equal, self.longest, axis=1), axis=2)
        return ~np.any(runs, axis=1)


@dataclass(frozen=True)
class ForbiddenSites(Constraint):
    """No site out of a list, on either strand.

    Attributes:
        sites: Sites in IUPAC letters: `GGTCTC` for BsaI, `CCWGG` for Dcm.

    Raises:
        SimpoError: A site without letters, or with others.
    """

    sites: tuple[str, ...]

    def __post_init__(self) -> None:
        """Reject what is not a site."""
        if isinstance(self.sites, str):
            raise SimpoError(f"sites must be a tuple of texts, not {self.sites!r}")
        for site in self.sites:
            wrong = [letter for letter in site.upper() if letter not in IUPAC]
            if wrong or not site:
                raise SimpoError(
                    f"site {site!r} must be IUPAC letters ({''.join(IUPAC)})"
                    + (f", not {wrong[0]!r}" if wrong else "")
                )

    @property
    def name(self) -> str:
        """What it asks for, in words."""
        return f"no {', '.join(self.sites) or 'sites'} on either strand"

    def check(self, tokens: Any) -> np.ndarray:
        """Whether sequences [N, L] satisfy it, bool [N]."""
        tokens = complete(tokens)
        found = np.zeros(len(tokens), bool)
        for site in self.sites:
            allowed = np.array([IUPAC[letter] for letter in site.upper()])
            for strand in (allowed, allowed[::-1, ::-1]):
                found |= occurs(strand, tokens)
        return ~found


def occurs(allowed: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Whether a site [W, 4] is in sequences [N, L] as they are written, bool [N]."""
    starts = max(0, tokens.shape[1] - len(allowed) + 1)
    here = np.ones((len(tokens), starts), bool)
    for j, bases in enumerate(allowed):
        here &= bases[tokens[:, j : j + starts]]
    return np.any(here, axis=1)


@dataclass(frozen=True)
class MinimumDistance:
    """Diversity of a set: every two sequences differ in enough bases (Hamming).

    Attributes:
        least: Share of the bases in which two must differ.

    Raises:
        SimpoError: A share outside [0, 1].
    """

    least: float

    def __post_init__(self) -> None:
        """Reject what is no share."""
        if not 0 <= self.least <= 1:
            raise SimpoError(f"the least distance is a share, not {self.least}")

    @property
    def name(self) -> str:
        """What it asks for, in words."""
        return f"every two differ in at least {100 * self.least:g} % of their bases"

    def choose(self, tokens: Any, scores: Any = None) -> np.ndarray:
        """Row numbers of a set that satisfies it, chosen greedily from the best down.

        A sequence is left out if and only if it is too near to one chosen before it.

        Args:
            tokens: Sequences [N, L].
            scores: Higher is better [N]; None for the order they come in.

        Returns:
            Rows [n] in the order of choice.

        Raises:
            SimpoError: Sequences with masks, or another number of scores.
        """
        tokens = complete(tokens)
        scores = np.zeros(len(tokens)) if scores is None else np.asarray(scores, float)
        if scores.shape != (len(tokens),):
            raise SimpoError(f"{len(tokens)} sequences, but scores {scores.shape}")
        left = np.argsort(-scores, kind="stable")
        chosen = []
        while len(left):
            chosen.append(left[0])
            differ = (tokens[left[1:]] != tokens[left[0]]).mean(axis=1)
            left = left[1:][differ >= self.least]
        return np.array(chosen, int)


@dataclass(frozen=True, eq=False)
class Template:
    """Fixed flanks around an insert: bases `start` to `stop` - 1 are designed.

    Attributes:
        backbone: A whole sequence [L], as tokens or text.
        start: First base of the insert, counted from 0.
        stop: First base after it.

    Raises:
        SimpoError: A backbone that is not one sequence, or an insert outside of it.
    """

    backbone: Any
    start: int
    stop: int

    def __post_init__(self) -> None:
        """Reject an insert that does not fit."""
        text = isinstance(self.backbone, str)
        row = encode(self.backbone) if text else np.asarray(self.backbone)
        object.__setattr__(self, "backbone", complete(row[None])[0])
        if not 0 <= self.start < self.stop <= len(self.backbone):
            raise SimpoError(
                f"an insert from {self.start} to {self.stop} does not fit a backbone "
                f"of {len(self.backbone)} bases"
            )

    def __str__(self) -> str:
        return f"{decode(self.backbone[: self.start])}[{self.width}]" + decode(
            self.backbone[self.stop :]
        )

    @property
    def width(self) -> int:
        """Bases of an insert."""
        return self.stop - self.start

    def place(self, inserts: Any) -> Any:
        """Inserts between the flanks: tokens [..., l] -> [..., L], NumPy or JAX.

        Masks in an insert stay masks.

        Raises:
            SimpoError: Inserts of another length.
        """
        return self._between(inserts, self.backbone, axis=-1)

    def place_soft(self, inserts: Any) -> Any:
        """Soft inserts between the flanks: [..., l, 4] -> [..., L, 4], NumPy or JAX.

        Raises:
            SimpoError: Inserts of another length.
        """
        return self._between(inserts, np.eye(4)[self.backbone], axis=-2)

    def cut(self, tokens: Any) -> Any:
        """The inserts of whole sequences [..., L] -> [..., l].

        Raises:
            SimpoError: Sequences of another length.
        """
        if tokens.shape[-1] != len(self.backbone):
            raise SimpoError(
                f"sequences of {tokens.shape[-1]} bases, but the backbone has "
                f"{len(self.backbone)}"
            )
        return tokens[..., self.start : self.stop]

    def _between(self, inserts: Any, whole: np.ndarray, axis: int) -> Any:
        if inserts.ndim < -axis or inserts.shape[axis] != self.width:
            raise SimpoError(
                f"inserts must have {self.width} bases, not shape {inserts.shape}"
            )
        xp = array_namespace(inserts)
        lead = inserts.shape[: inserts.ndim + axis]
        flanks = [
            xp.broadcast_to(xp.asarray(part, dtype=inserts.dtype), (*lead, *part.shape))
            for part in (whole[: self.start], whole[self.stop :])
        ]
        return xp.concat([flanks[0], inserts, flanks[1]], axis=axis)
