"""`simpo dna finetune`: a model whose sequences score high, and the way there.

OUT/model        the network after the last round
OUT/rounds.csv   a row per round, OUT/rounds.png their medians
OUT/before.csv, after.csv    sequences with their scores
OUT/config.json env.json status.json    options, versions and devices, the state
OUT/state.safetensors    what --resume goes on from
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from simpo.checkpoint import MODEL, write_json
from simpo.config import parse
from simpo.directories import describe_machine
from simpo.dna.constraints import satisfied
from simpo.dna.data import Sequences, write_sequences
from simpo.dna.drakes import Drakes
from simpo.dna.files import write_table
from simpo.dna.finetune import SignedTuning, each_round
from simpo.dna.guidance import write
from simpo.dna.metrics import gc, pairwise_hamming, quantiles
from simpo.dna.objective import Objective
from simpo.dna.store import SequenceModel
from simpo.experiments.report import Interrupted
from simpo.experiments.sequences.inputs import (
    Progress,
    find_model,
    weights_of,
    writing,
    written,
)
from simpo.experiments.sequences.options import Tuned
from simpo.experiments.sequences.resuming import Keeper, restored
from simpo.experiments.sequences.scoring import conditions, find_oracle, place_of
from simpo.experiments.summary import table
from simpo.generative.masked import AllMasked, MaskedDiffusion
from simpo.plotting.designs import draw_rounds
from simpo.temperature import EntropyTarget, Fixed, Solved
from simpo.types import SimpoError
from simpo.weighting import Exponential, Linear, SignedSoftmax, Square, Weighting

__all__ = ["run"]

WEIGHTINGS: Mapping[str, Weighting] = {
    "exp": Exponential(),
    "rld2": Exponential(),
    "linear": Linear(),
    "square": Square(),
    "linneg": Linear(floor=-1.0),
    "sqrneg": Square(floor=-1.0),
    "wd1": SignedSoftmax(),
    "wd1released": SignedSoftmax(),
}
"""Of methods by name, without marks and in small letters: `Lin. Neg.` is `linneg`."""
RATES = {"drakes": 1e-4}
RATE = 5e-4
FIRST = ("round", "oracle_calls", "network_calls", "score_median", "score_mean")
"""Columns of rounds.csv that come before the others."""
BLOCK = 256
"""Sequences drawn at a time."""


class Run:
    """One fine-tuning: what it starts from, what it has done."""

    def __init__(self, options: Tuned) -> None:
        self.options = options
        oracle = Path(options.oracle)
        reads = weights_of(options.model), oracle, oracle / MODEL
        self.keeper = Keeper(options, "rounds", *reads)
        self.model, net = find_model(options.model)
        if net is not self.model.net:
            raise SimpoError(
                f"{options.model} was pretrained with labels, for the guide CFG; "
                "fine-tuning needs a model without"
            )
        if min(options.rounds, options.samples) < 1:
            raise SimpoError("--rounds and --samples must be at least 1")
        self.method = method_of(options, self.model.diffusion)
        self.method.check()
        oracle = find_oracle(options.oracle, options.bounded)
        template = place_of(options.place, self.model.diffusion.length)
        wanted = conditions(options.wanted, template)
        self.objective = Objective(oracle, template, wanted, options.diversity)
        self.rows: list[dict[str, float]] = []
        self.sets: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.state = self.method.init(net, jax.random.key(options.seed))
        if arrays := self.keeper.find():
            self.go_on(arrays)
        self.keeper.require_more(len(self.rows), "rounds")

    def go_on(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Be where an earlier command was stopped."""
        self.state, told = restored(self.state, arrays, self.options.out)
        self.sets["before"] = told.pop("letters"), told.pop("scores")
        names = {name: name.removeprefix("rows.") for name in told}
        columns = [told[name].tolist() for name in names]
        self.rows = [
            dict(zip(names.values(), row, strict=True))
            for row in zip(*columns, strict=True)
        ]
        calls = self.objective.calls
        calls.oracle = int(self.rows[-1]["oracle_calls"])
        calls.network = int(self.rows[-1]["network_calls"])

    def keep(self, folder: Path | None = None) -> None:
        """Save what `go_on` needs."""
        letters, scores = self.sets["before"]
        rows = {n: np.array([row[n] for row in self.rows]) for n in self.rows[0]}
        told = {"letters": letters, "scores": scores, "rows": rows}
        self.keeper.save(self.state, told, folder)

    def draw(self, name: str) -> None:
        """Draw and score a set; these calls do not count as the method's."""
        key = jax.random.key(self.options.seed + 1)
        letters = draw(self.model.diffusion, self.state.net, key, self.options.samples)
        scores = self.objective.oracle(self.objective.whole(letters))
        satisfied(self.objective.constraints, self.objective.whole(letters[:1]))
        self.sets[name] = letters, scores

    def tune(self, tell: Progress) -> None:
        """All rounds that are not made yet; the state is kept now and then."""
        rounds = range(len(self.rows), self.options.rounds)
        given = self.method, self.state, self.model.net, self.objective, rounds
        for state, metrics in each_round(*given):
            calls = self.objective.calls
            counted = {"oracle_calls": calls.oracle, "network_calls": calls.network}
            self.state = state
            self.rows.append({"round": len(self.rows) + 1, **metrics, **counted})
            tell(f"median {metrics['score_median']:.3f}", len(self.rows))
            if self.keeper.due:
                self.keep()

    def save(self, state: str) -> None:
        """Write the folder."""
        options = self.options
        with writing(options.out) as folder:
            tuned = SequenceModel(self.model.size, self.model.diffusion, self.state.net)
            tuned.save(folder / "model")
            self.keep(folder)
            write_json(folder / "config.json", written(options))
            write_json(folder / "env.json", describe_machine())
            done = {"state": state, "rounds": len(self.rows)}
            write_json(folder / "status.json", done)
            names = [*FIRST, *sorted({*self.rows[0]} - {*FIRST})]
            columns = {n: [f"{row[n]:.10g}" for row in self.rows] for n in names}
            write_table(folder / "rounds.csv", columns)
            medians = np.array([row["score_median"] for row in self.rows])
            curves = {shown(options.method): medians}
            draw_rounds(
                *(curves, "Median score of the group", "Fine-tuning"), folder / "rounds"
            )
            for name, (letters, scores) in self.sets.items():
                write_set(folder / f"{name}.csv", name, letters, scores)

    def lines(self) -> list[str]:
        """What is printed."""
        calls, out = self.objective.calls, self.options.out
        text = [summary(self.objective, n, *given) for n, given in self.sets.items()]
        header = ["set", "score [10-90 %]", "GC", "Hamming"]
        if self.objective.constraints:
            header.append("satisfy")
        return [
            table(header, text),
            f"{shown(self.options.method)}: {len(self.rows)} rounds, {calls.oracle:,} "
            f"oracle calls, {calls.network:,} network calls",
            f"model    {out / 'model'}",
            f"rounds   {out / 'rounds.csv'}",
            f"next     simpo dna sample {out} --out samples.csv",
            f"         simpo dna report {out}",
        ]


def run(options: Tuned, tell: Progress) -> list[str]:
    """Fine-tune, save; what is to be printed.

    Raises:
        SimpoError: A mistake, of which nothing is left; or a failure, before which the
            rounds are kept.
        Interrupted: The user stopped it; the rounds are kept.
    """
    tuning = Run(options)
    if not tuning.rows:
        tuning.draw("before")
    try:
        tuning.tune(tell)
    except (KeyboardInterrupt, SimpoError) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        done = len(tuning.rows)
        if not done and not stopped:
            raise
        what = f"interrupted after {done} of {options.rounds} rounds" if stopped else ""
        what = what or str(error)
        if not done:
            raise Interrupted(f"{what}: nothing is kept") from None
        tuning.save("interrupted" if stopped else "failed")
        kept = f"{what}; kept: the model after round {done}, {options.out / 'model'}"
        kind = Interrupted if stopped else SimpoError
        kept += f", and {options.out / 'rounds.csv'}"
        raise kind(f"{kept}; --resume goes on" if stopped else kept) from None
    tuning.draw("after")
    tuning.save("done")
    return tuning.lines()


def shown(method: str) -> str:
    """A method as a picture calls it."""
    names = {"exp": "Exp (RL-D2)", "linneg": "Lin. Neg.", "sqrneg": "Sqr. Neg."}
    return names.get(bare(method), method)


def bare(method: str) -> str:
    """`Lin. Neg.` and `LinNeg` as `linneg`."""
    return re.sub(r"[\s.\-_]", "", method.lower())


def method_of(options: Tuned, diffusion: MaskedDiffusion) -> Any:
    """The method that a name or a weighting means.

    Raises:
        SimpoError: There is none.
    """
    name = bare(options.method)
    rate = options.learning_rate or RATES.get(name, RATE)
    if name == "drakes":
        return Drakes(
            model=diffusion,
            batch_size=options.group,
            soft_steps=options.soft_steps,
            path_kl=options.path_kl,
            learning_rate=rate,
        )
    model = replace(diffusion, masks=options.masks)
    if name == "wd1released":
        model = replace(model, masking=AllMasked())
    return SignedTuning(
        model=model,
        weighting=weighting_of(options.method),
        temperature=Fixed(1.0)
        if name.startswith("wd1")
        else Solved(target=EntropyTarget(options.target)),
        group=options.group,
        inner_updates=options.inner_updates,
        negative_masks=options.negative_masks,
        learning_rate=rate,
        path_kl=options.path_kl,
    )


def weighting_of(method: str) -> Weighting:
    """A weighting by the method's name, or as `simpo train --weighting` has it.

    Raises:
        SimpoError: There is none.
    """
    if bare(method) in WEIGHTINGS:
        return WEIGHTINGS[bare(method)]
    try:
        return parse(method, Weighting)
    except SimpoError as error:
        raise SimpoError(
            f"--method {method!r}: Exp, Linear, Square, LinNeg, SqrNeg, WD1, "
            f"WD1-released, DRAKES, or a weighting, but {error}"
        ) from error


def draw(
    diffusion: MaskedDiffusion, net: Any, key: jax.Array, count: int
) -> np.ndarray:
    """Sequences of a network, int8 [N, L]."""
    sizes = [min(BLOCK, count - i) for i in range(0, count, BLOCK)]
    keys = jax.random.split(key, len(sizes))
    parts = [
        np.asarray(write(diffusion, n, net, k), np.int8)
        for k, n in zip(keys, sizes, strict=True)
    ]
    return np.concatenate(parts)


def write_set(path: Path, name: str, letters: np.ndarray, scores: np.ndarray) -> None:
    """Sequences with their scores."""
    names = tuple(f"{name}-{i + 1}" for i in range(len(letters)))
    column = np.array([f"{score:.6g}" for score in scores])
    write_sequences(path, Sequences(names, letters, None, {"score": column}))


def summary(
    objective: Objective, name: str, letters: np.ndarray, scores: np.ndarray
) -> list[str]:
    """A row of the table that is printed."""
    low, middle, high = quantiles(scores)
    row = [
        name,
        f"{middle:.3f} [{low:.3f}, {high:.3f}]",
        f"{gc(letters).mean():.0%}",
        f"{pairwise_hamming(letters):.2f}" if len(letters) > 1 else "",
    ]
    if objective.constraints:
        kept = satisfied(objective.constraints, objective.whole(letters))
        row.append(f"{kept.mean():.0%}")
    return row
