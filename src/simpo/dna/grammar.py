"""A planted grammar of regulatory elements: an activity whose truth is known.

o[i, m]   = sigmoid((s[i, m] - s_best[m] + margin) / softness)    occupancy of a window
site_m    = 1 - exp(-sum over windows, both strands, of o)        sites saturate
pair_p    = 1 - exp(-sum over allowed placements of o_first o_second)
activity  = ceiling tanh( (sum_m weight_m site_m + sum_p weight_p pair_p) / ceiling )

s are scores of motifs in nats (`simpo.dna.motifs`). Reading the other strand changes
nothing. With weights that are not negative, more of a site never lowers the activity.
`liver` has consensus sequences of known motifs, as cited there; its weights and rules
of spacing are made up.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.dna.motifs import Motif, consensus, log_odds
from simpo.dna.scan import Bank, strand_scores
from simpo.types import SimpoError

__all__ = ["Element", "Grammar", "Pairing", "liver"]


@dataclass(frozen=True)
class Element:
    """A binding site that counts.

    Attributes:
        name: What binds.
        consensus: Its site in IUPAC letters.
        weight: Activity of a saturated site.
    """

    name: str
    consensus: str
    weight: float


@dataclass(frozen=True)
class Pairing:
    """Two elements that count more if they stand as they should.

    The second stands downstream of the first, seen on the first one's strand.

    Attributes:
        first: Name of an element.
        second: Name of an element.
        nearest: Fewest letters between them.
        farthest: Most letters between them.
        same_strand: Whether the second is read on the first one's strand.
        weight: Activity of a saturated pair, on top of its sites'.
    """

    first: str
    second: str
    nearest: int
    farthest: int
    same_strand: bool
    weight: float


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """Elements, rules of their placement, and sequences to find them in.

    Attributes:
        elements: The sites.
        pairings: The rules.
        length: Letters L of a sampled sequence.
        gc: Share of G and C in the background.
        repeat: Chance that a background letter repeats the one before it.
        planted: Mean number of sites in a sampled sequence.
        decay: Chance that a letter of a planted site is a background letter instead.
        mixture: Share of background mixed into the motifs.
        margin: Nats below a perfect site at which a site is half occupied.
        softness: Nats over which occupancy falls.
        ceiling: Bound of the activity.

    Raises:
        SimpoError: An element that is not there, or numbers that make no grammar.
    """

    elements: tuple[Element, ...]
    pairings: tuple[Pairing, ...] = ()
    length: int = 60
    gc: float = 0.45
    repeat: float = 0.1
    planted: float = 1.0
    decay: float = 0.1
    mixture: float = 0.1
    margin: float = 3.0
    softness: float = 1.0
    ceiling: float = 4.0
    bank: Bank = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.elements:
            raise SimpoError("a grammar needs at least one element")
        known = [element.name for element in self.elements]
        for rule in self.pairings:
            for name in {rule.first, rule.second} - set(known):
                raise SimpoError(f"no element {name} to pair; there are {known}")
            if not 0 <= rule.nearest <= rule.farthest:
                raise SimpoError(
                    f"{rule.first} and {rule.second} cannot be {rule.nearest} to "
                    f"{rule.farthest} letters apart"
                )
        shares = (self.gc, self.repeat, self.decay)
        if not (all(0 <= x <= 1 for x in shares) and 0 < self.mixture < 1):
            raise SimpoError("gc, repeat, decay and mixture are shares, from 0 to 1")
        if min(self.softness, self.ceiling) <= 0 or self.planted < 0:
            raise SimpoError("softness and ceiling must be above 0, planted not below")
        matrices = [log_odds(motif, self.mixture) for motif in self.motifs]
        object.__setattr__(self, "bank", Bank.make(matrices, len(matrices)))
        self.bank.require(self.length)

    @property
    def motifs(self) -> tuple[Motif, ...]:
        """The elements' motifs."""
        return tuple(consensus(e.consensus, e.name) for e in self.elements)

    def activity(self, probs: Array) -> Array:
        """Activity [N], within the ceiling, of sequences [N, L, 4], hard or relaxed."""
        self.bank.require(probs.shape[-2])
        forward, reverse = self.occupancies(
            jnp.concatenate([probs, probs[:, ::-1, ::-1]])
        )
        sites = saturate(forward.sum(1).reshape(2, len(probs), -1).sum(0))
        total = sites @ np.array([e.weight for e in self.elements], np.float32)
        for rule in self.pairings:
            pairs = self.placements(rule, forward, reverse)
            total = total + rule.weight * saturate(pairs.reshape(2, -1).sum(0))
        return self.ceiling * jnp.tanh(total / self.ceiling)

    def occupancies(self, probs: Array) -> tuple[Array, Array]:
        """Occupancies [N, L, M] of windows by the elements, on either strand."""
        (filters,) = self.bank.filters
        least = filters.forward.max(1).sum(0) - self.margin
        forward, reverse = (
            jax.nn.sigmoid((scores - least) / self.softness)[..., self.bank.order]
            for scores in strand_scores(probs, filters)
        )
        return forward, reverse

    def placements(self, rule: Pairing, forward: Array, reverse: Array) -> Array:
        """Number [N] of allowed placements whose first element is on this strand."""
        names = [element.name for element in self.elements]
        first, second = names.index(rule.first), names.index(rule.second)
        places = np.arange(forward.shape[1])
        gap = places - places[:, None] - len(self.elements[first].consensus)
        allowed = (rule.nearest <= gap) & (gap <= rule.farthest)
        other = forward if rule.same_strand else reverse
        near = other[..., second] @ allowed.T.astype(forward.dtype)
        return (forward[..., first] * near).sum(1)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Sequences, int8 [n, L]: background with a few sites, most of them alone.

        The background is a Markov chain with the given share of G and C; the number
        of sites is Poisson, their kinds, places and strands are uniform.
        """
        shares = np.array([1 - self.gc, self.gc, self.gc, 1 - self.gc]) / 2
        tokens = rng.choice(4, size=(n, self.length), p=shares).astype(np.int8)
        again = rng.random((n, self.length)) < self.repeat
        for i in range(1, self.length):
            tokens[again[:, i], i] = tokens[again[:, i], i - 1]
        counts, motifs = rng.poisson(self.planted, n), self.motifs
        for row in np.repeat(np.arange(n), counts):
            motif = motifs[rng.integers(len(motifs))]
            site = draw(rng, motif.probabilities)
            site = site if rng.random() < 0.5 else 3 - site[::-1]
            start = rng.integers(self.length - motif.width + 1)
            kept = rng.random(motif.width) >= self.decay
            place = start + np.flatnonzero(kept)
            tokens[row, place] = site[kept]
        return tokens


def saturate(count: Array) -> Array:
    """1 - exp(-count), from 0 to 1."""
    return -jnp.expm1(-count)


def draw(rng: np.random.Generator, probabilities: np.ndarray) -> np.ndarray:
    """A site [W] from the probabilities [W, 4] of a motif."""
    steps = probabilities.cumsum(1)
    found = (rng.random((len(steps), 1)) * steps[:, -1:] >= steps).sum(1)
    return found.astype(np.int8)


def liver(length: int = 60) -> Grammar:
    """A grammar of four factors of liver cells.

    Sites are consensus forms of JASPAR 2022's HNF4A (MA0114.4), HNF1A (MA0046.2),
    FOXA2 (MA0047.3) and CEBPA (MA0102.4).

    Args:
        length: Letters of a sampled sequence.
    """
    return Grammar(
        elements=(
            Element("HNF4A", "CAAAGTCCA", 1.2),
            Element("HNF1A", "GTTAATNATTAAC", 1.5),
            Element("FOXA", "TRTTTAC", 0.6),
            Element("CEBP", "RTTGCGYAAY", 1.0),
        ),
        pairings=(
            Pairing("FOXA", "HNF4A", 2, 10, same_strand=True, weight=1.2),
            Pairing("HNF1A", "CEBP", 3, 12, same_strand=False, weight=1.0),
        ),
        length=length,
    )
