"""`simpo dna sample`: sequences of a model, guided or not, that satisfy conditions.

What breaks a condition, or is too near to an earlier one, is dropped and replaced by
others, in the order they are drawn: no sequence is chosen for its score.
"""

from typing import Any

import jax
import numpy as np

from simpo.dna.constraints import MinimumDistance, satisfied
from simpo.dna.data import Sequences, decode, write_sequences
from simpo.dna.files import kind_of
from simpo.dna.guidance import CFG, CG, SMC, TDS, Guide, Plain
from simpo.dna.metrics import gc, pairwise_hamming, quantiles
from simpo.dna.objective import Objective
from simpo.dna.oracle import Oracle
from simpo.experiments.sequences.inputs import (
    Progress,
    find_model,
    require_free,
)
from simpo.experiments.sequences.options import Drawing
from simpo.experiments.sequences.scoring import conditions, find_oracle, place_of
from simpo.types import SimpoError

__all__ = ["run"]


class Nothing(Oracle):
    """Stands for an oracle where none is asked for: guides without one count calls."""

    name = "none"

    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """Zeros [N]."""
        return np.zeros(len(tokens), np.float32)

    def soft(self, probs: Any) -> Any:
        """Zeros [N]."""
        return probs[:, 0, 0] * 0

    def distance(self, tokens: np.ndarray) -> np.ndarray:
        """NaN [N]."""
        return np.full(len(tokens), np.nan, np.float32)


def run(options: Drawing, tell: Progress) -> list[str]:
    """Draw, filter, score, save; what is to be printed."""
    kind_of(options.out)
    require_free(options.out, options.force)
    if min(options.count, options.batch_size, options.most) < 1:
        raise SimpoError("--count, --batch-size and --most must be at least 1")
    model, net = find_model(options.model)
    guide = guide_of(options)
    needs = isinstance(guide, CG | SMC | TDS)
    if needs and options.oracle is None:
        raise SimpoError(f"the guide {options.guide} needs an --oracle")
    oracle = None
    if options.oracle is not None:
        oracle = find_oracle(options.oracle, options.bounded)
    template = place_of(options.place, model.diffusion.length)
    objective = Objective(oracle or Nothing(), template)
    found = Filter(options, objective)
    key, size = jax.random.key(options.seed), options.batch_size
    network = model.net if isinstance(guide, CFG) else net
    number = 0
    while len(found.kept) < options.count and found.drawn < found.limit:
        key_now = jax.random.fold_in(key, number)
        letters = guide.sample(model.diffusion, network, objective, key_now, size)
        found.add(np.asarray(letters, np.int8))
        tell(f"{found.drawn} drawn", min(len(found.kept), options.count))
        number += 1
    letters = found.kept[: options.count]
    if not len(letters):
        raise SimpoError(f"none of {found.drawn} sequences is left: {found.why}")
    scores = oracle(objective.whole(letters)) if oracle else None
    save(options, objective, letters, scores)
    return lines(options, objective, found, letters, scores)


def guide_of(options: Drawing) -> Guide:
    """The guide with its strengths."""
    if min(options.alpha, options.strength) <= 0:
        raise SimpoError("--alpha and --strength must be positive")
    given = {} if options.gamma is None else {"gamma": options.gamma}
    return {
        "none": Plain,
        "CG": lambda: CG(**given),
        "SMC": lambda: SMC(options.alpha),
        "TDS": lambda: TDS(options.alpha, **given),
        "CFG": lambda: CFG(options.strength),
    }[options.guide]()


class Filter:
    """What is kept of what is drawn, and why the rest is not."""

    def __init__(self, options: Drawing, objective: Objective) -> None:
        self.conditions = conditions(options.wanted, objective.template)
        self.distance = MinimumDistance(options.distance)
        self.objective, self.limit = objective, options.most * options.count
        self.kept = np.zeros((0, 0), np.int8)
        self.drawn = 0
        self.dropped = {condition.name: 0 for condition in self.conditions}

    def add(self, letters: np.ndarray) -> None:
        """Take what satisfies everything."""
        self.drawn += len(letters)
        whole = self.objective.whole(letters)
        for condition in self.conditions:
            self.dropped[condition.name] += int((~condition.check(whole)).sum())
        letters = letters[satisfied(self.conditions, whole)]
        before = len(self.kept) + len(letters)
        both = np.concatenate([self.kept, letters]) if len(self.kept) else letters
        if self.distance.least > 0 and len(both):
            both = both[self.distance.choose(both)]
            name = self.distance.name
            self.dropped[name] = self.dropped.get(name, 0) + before - len(both)
        self.kept = both

    @property
    def why(self) -> str:
        """Conditions, and how many broke each; one may break several."""
        return "; ".join(f"{n} broke '{name}'" for name, n in self.dropped.items())


def save(
    options: Drawing, objective: Objective, letters: np.ndarray, scores: Any
) -> None:
    """Write the file: what was designed, its score, and the whole sequence."""
    columns = {}
    if scores is not None:
        columns["score"] = np.array([f"{score:.6g}" for score in scores])
    if objective.template is not None:
        whole = objective.whole(letters)
        columns["whole"] = np.array([decode(row) for row in whole])
    names = tuple(f"{options.model.name}-{i + 1}" for i in range(len(letters)))
    write_sequences(options.out, Sequences(names, letters, None, columns))


def lines(
    options: Drawing,
    objective: Objective,
    found: Filter,
    letters: np.ndarray,
    scores: Any,
) -> list[str]:
    """What is printed."""
    told = [f"drawn    {found.drawn:,} sequences of {letters.shape[1]} bases"]
    if found.dropped:
        told.append(f"dropped  {found.why}")
    short = len(letters) < options.count
    hint = f" of the {options.count:,} wanted: --most draws more" if short else ""
    told.append(f"kept     {len(letters):,}{hint}")
    if scores is not None:
        low, middle, high = quantiles(scores)
        told.append(f"score    median {middle:.3f} [10-90 %: {low:.3f}, {high:.3f}]")
    spread = f", Hamming {pairwise_hamming(letters):.2f}" if len(letters) > 1 else ""
    told.append(f"GC       {gc(letters).mean():.0%}{spread}")
    calls = objective.calls
    asked = f"{calls.oracle:,} oracle calls, " if calls.oracle else ""
    told.append(f"calls    {asked}{calls.network:,} network calls to draw")
    return [*told, f"file     {options.out}"]
