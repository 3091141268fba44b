"""`simpo dna pretrain`: a masked diffusion of the sequences of a file.

Whole clusters are held out, so that what is measured on them is not memory. Beside the
bound stands the entropy of the letters under the shares of A, C, G and T alone, which
a model that has learnt anything must beat.
"""

from typing import Any

import jax
import numpy as np

from simpo.checkpoint import write_json
from simpo.dilated import Size
from simpo.dna.clusters import split
from simpo.dna.data import Sequences, read_sequences
from simpo.dna.files import write_table
from simpo.dna.pretrain import Pretraining, each_chunk, nll
from simpo.dna.store import SequenceModel
from simpo.experiments.report import Interrupted
from simpo.experiments.sequences.inputs import (
    Progress,
    Unlabelled,
    clusters_of,
    window,
    writing,
    written,
)
from simpo.experiments.sequences.options import Pretrained
from simpo.experiments.sequences.resuming import Keeper, restored
from simpo.generative.masked import MaskedDiffusion
from simpo.types import SimpoError

__all__ = ["run"]

MEASURED = 512
"""Held-out sequences that the bound is measured on, at most."""


class Run:
    """One pretraining: what it learns from, what it has done."""

    def __init__(self, options: Pretrained) -> None:
        self.options = options
        self.keeper = Keeper(options, "steps", options.file)
        data = read_sequences(
            options.file, sequence=options.column, label=options.label
        )
        self.letters = window(data.tokens, options.start, options.stop, options.file)
        self.labels = classes(options, data)
        self.learnt, self.held = hold_out(options, data)
        self.settings, self.size = settings_of(options, self.letters.shape[1])
        if len(self.learnt) < options.batch_size:
            raise SimpoError(
                f"{options.file}: {len(self.learnt)} sequences to learn are fewer than "
                f"a batch of {options.batch_size}; a smaller --batch-size"
            )
        key = jax.random.key(options.seed)
        self.state = self.settings.init(jax.jit(self.size.init)(key), key)
        self.curve = np.zeros((0, 2))
        if arrays := self.keeper.find():
            self.state, told = restored(self.state, arrays, options.out)
            self.curve = told["curve"]
        self.keeper.require_more(self.done, "updates")

    @property
    def done(self) -> int:
        """Updates made."""
        return int(self.state.step)

    def learn(self, tell: Progress) -> None:
        """All updates; the state is kept now and then."""
        labels = None if self.labels is None else self.labels[self.learnt]
        given = self.settings, self.state, self.letters[self.learnt], labels
        for state, bound in each_chunk(*given):
            self.state = state
            self.curve = np.append(self.curve, [(self.done, bound)], axis=0)
            tell(f"{bound:.3f} nats per base", self.done)
            if self.keeper.due:
                self.keeper.save(state, {"curve": self.curve})

    def save(self) -> dict[str, float]:
        """Measure the model, write the folder; what was found."""
        options = self.options
        model = SequenceModel(self.size, self.settings.model, self.state.mean)
        learnt, held = self.letters[self.learnt], self.letters[self.held]
        found = measure(model, learnt, held, options.seed)
        counts = {"updates": self.done, "rows_learnt": len(learnt)}
        counts["rows_held_out"] = len(held)
        with writing(options.out) as folder:
            model.save(folder)
            self.keeper.save(self.state, {"curve": self.curve}, folder)
            write_json(folder / "training.json", written(options) | counts | found)
            columns = {"update": [f"{n:.0f}" for n, _ in self.curve]}
            columns["nats_per_base"] = [f"{bound:.6g}" for _, bound in self.curve]
            write_table(folder / "bound.csv", columns)
        return found


def run(options: Pretrained, tell: Progress) -> list[str]:
    """Pretrain, measure, save; what is to be printed.

    Raises:
        SimpoError: A mistake; nothing is written.
        Interrupted: The user stopped it; what was learnt is kept.
    """
    work = Run(options)
    try:
        work.learn(tell)
    except KeyboardInterrupt:
        what = f"interrupted after {work.done} of {options.steps} updates"
        if not work.done:
            raise Interrupted(f"{what}: nothing is kept") from None
        work.save()
        kept = f"{what}; kept: the model as it is, {options.out}"
        raise Interrupted(f"{kept}; --resume goes on") from None
    found = work.save()
    return lines(options, work.letters, work.learnt, work.held, found)


def settings_of(options: Pretrained, bases: int) -> tuple[Pretraining, Size]:
    """How it is trained, and the network.

    Raises:
        SimpoError: Impossible numbers.
    """
    steps = options.denoising_steps
    model = MaskedDiffusion(
        length=bases,
        denoising_steps=max(8, bases // 3) if steps is None else steps,
    )
    settings = Pretraining(
        model=model,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup=options.warmup,
        decay=options.decay,
        both_strands=not options.one_strand,
    )
    settings.check(options.batch_size)  # of sequences we speak elsewhere
    labels = 2 if options.label else 0
    return settings, Size(options.width, options.dilations, labels)


def classes(options: Pretrained, data: Sequences) -> np.ndarray | None:
    """1 above the value that is good, 0 below [N]; None without labels.

    Raises:
        SimpoError: One of the two options alone, a row without a label, or one class.
    """
    if (options.label is None) != (options.good is None):
        raise SimpoError("--label and --good belong together: good is above this value")
    if options.label is None or data.labels is None:
        return None
    missing = np.flatnonzero(np.isnan(data.labels))
    if len(missing):
        where = f"{options.file}, row {missing[0] + 1} ({data.names[missing[0]]})"
        raise SimpoError(f"{where}: no {options.label}, which is needed here")
    good = (data.labels > options.good).astype(np.int32)
    if not 0 < good.sum() < len(good):
        raise SimpoError(
            f"{good.sum()} of {len(good)} sequences of {options.file} have a "
            f"{options.label} above {options.good:g}: another --good"
        )
    return good


def hold_out(options: Pretrained, data: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn and rows to measure, of different clusters.

    Raises:
        SimpoError: An impossible share, or too few clusters.
    """
    if not 0 < options.held_out < 1:
        raise SimpoError(f"--held-out is a share, not {options.held_out:g}")
    families = clusters_of(data, options.cluster_column, options.file)
    try:
        learnt, held = split(
            families, (1 - options.held_out, options.held_out), options.seed
        )
    except SimpoError as error:
        raise SimpoError(f"{options.file}: {error}") from error
    return learnt, held


def measure(
    model: SequenceModel, learnt: np.ndarray, held: np.ndarray, seed: int
) -> dict[str, float]:
    """The bound on held-out sequences, its standard error, and that of composition."""
    rows = np.random.default_rng(seed).permutation(held)[:MEASURED]
    net: Any = model.net if model.net.labels is None else Unlabelled(model.net)
    bound = nll(model.diffusion, net, rows, jax.random.key(seed))
    shares = np.bincount(learnt.ravel(), minlength=4) + 1.0
    letters = -np.log(shares / shares.sum())[rows]
    return {
        "bound": float(bound.mean()),
        "bound_error": float(bound.std() / np.sqrt(len(bound))),
        "composition": float(letters.mean()),
        "measured": len(rows),
    }


def lines(
    options: Pretrained,
    letters: np.ndarray,
    learnt: np.ndarray,
    held: np.ndarray,
    found: dict[str, float],
) -> list[str]:
    """What is printed."""
    return [
        f"learnt   {len(learnt):,} sequences of {letters.shape[1]} bases; "
        f"{len(held):,} of other clusters held out",
        f"bound    {found['bound']:.4f} nats per base on {found['measured']} held-out "
        f"sequences (standard error {found['bound_error']:.4f})",
        f"         {found['composition']:.4f} by the composition of bases alone, "
        "1.3863 is noise",
        f"model    {options.out}",
        f"next     simpo dna sample {options.out} --out samples.csv",
        f"         simpo dna finetune {options.out} --oracle ORACLE --out tuned",
    ]
