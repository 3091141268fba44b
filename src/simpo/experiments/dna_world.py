"""What methods of sequence design are compared in: oracles, inserts, a generator.

Reward       ridge on motif features, of part A of the elements: what methods see
Evaluation   convolutional networks, of part B: another kind, and no cluster in common
Inserts      some bases in the middle of a natural element of median activity
Generator    masked diffusion of inserts, pretrained on natural sequences, unlabelled

Rows marked `val` choose penalties and epochs of their own part, test the oracle of the
other, and are not seen by the generator.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from simpo.dilated import PAPER, Size
from simpo.dna.calibration import calibrate
from simpo.dna.cnn import Fitting, train_cnn
from simpo.dna.constraints import Constraint, GCWindow, Homopolymer, Template
from simpo.dna.convnet import motif_stem
from simpo.dna.data import Sequences, read_sequences
from simpo.dna.features import Featuriser, choose_motifs
from simpo.dna.metrics import kmer_entropy
from simpo.dna.motifs import Motif, read_meme
from simpo.dna.oracle import Oracle
from simpo.dna.pretrain import Pretraining, nll, pretrain
from simpo.dna.ridge import train_ridge
from simpo.dna.storage import load_oracle, save_oracle
from simpo.dna.store import SequenceModel, load_model
from simpo.generative.masked import MaskedDiffusion
from simpo.types import SimpoError

__all__ = [
    "SETUPS",
    "Advance",
    "Elements",
    "Setup",
    "World",
    "describe",
    "make_world",
    "read_elements",
]

Advance: TypeAlias = Callable[[str, int], None]
"""Told what is being done, and how many steps of it since the last call."""

OTHER, GOOD, UNKNOWN = 0, 1, 2
"""Labels of the network that classifier-free guidance uses."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes of everything."""

    insert: int | None
    """Bases in the middle that are designed; None for the whole element."""
    size: Size
    """Of the generator."""
    denoising_steps: int
    """T."""
    pretraining_steps: int
    """Updates of the generator before any reward."""
    batch_size: int
    """Sequences of each."""
    rounds: int
    """Groups that a method proposes."""
    group: int
    """K, sequences of a group."""
    masks: int
    """R, masks per sequence and update."""
    inner_updates: int
    """M, updates per round."""
    soft_steps: int
    """Steps that DRAKES differentiates."""
    samples: int
    """Designed sequences that a method is judged by."""
    rates: tuple[float, ...]
    """Learning rates to choose from, on the reward oracle."""
    rate: float
    """Learning rate of an ablation, for all variants."""
    epochs: int
    """Passes of the evaluation oracle over its part."""
    stem: int
    """Motifs that its first layer begins with."""
    seeds: int
    """Seeds: 0, 1, ..."""
    members: int = 1
    """Networks of the evaluation oracle."""
    gain: float = 0.3
    """Of its filters that begin as motifs, per nat."""
    margin: float = 6.0
    """Nats below a motif's best site that such a filter still sees."""
    active: float = 0.05
    """Share of part A's labelled elements that classifier-free guidance calls good."""
    top: float = 0.01
    """Share of the elements, the most active, that sets are compared with."""
    gc: tuple[float, float] = (0.3, 0.7)
    """Shares of G and C in every window of what can be synthesised ..."""
    window: int = 60
    """... of so many bases, or in the whole of a shorter element."""
    longest_run: int = 6
    """Equal bases in a row that can be synthesised."""


SETUPS = {
    "smoke": Setup(
        insert=24,
        size=Size(width=16, dilations=(1,)),
        denoising_steps=6,
        pretraining_steps=20,
        batch_size=32,
        rounds=2,
        group=16,
        masks=1,
        inner_updates=1,
        soft_steps=2,
        samples=32,
        rates=(5e-4,),
        rate=5e-4,
        epochs=1,
        stem=4,
        seeds=1,
    ),
    "laptop": Setup(
        insert=60,
        size=Size(width=48, dilations=(1, 2, 4)),
        denoising_steps=20,
        pretraining_steps=2_000,
        batch_size=128,
        rounds=150,
        group=64,
        masks=2,
        inner_updates=4,
        soft_steps=8,
        samples=320,
        rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        rate=3e-3,
        epochs=10,
        stem=96,
        seeds=5,
    ),
    "paper": Setup(
        insert=None,
        size=PAPER,
        denoising_steps=128,
        pretraining_steps=25_000,
        batch_size=512,
        rounds=2_000,
        group=256,
        masks=8,
        inner_updates=2,
        soft_steps=50,
        samples=640,
        rates=(3e-5, 1e-4, 3e-4),
        rate=1e-4,
        epochs=20,
        stem=96,
        seeds=3,
    ),
}
"""By scale: a test of the machinery, two cores, one GPU."""


@dataclass(frozen=True, eq=False)
class Elements:
    """Labelled sequences in two parts without relatives in common.

    Attributes:
        rows: The sequences; labels are NaN where there are none.
        second: Whether a row is of the second part [N].
        val: Whether it is one to validate and test with [N].
    """

    rows: Sequences
    second: np.ndarray
    val: np.ndarray

    def labelled(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens [n, L], labels [n], marks [n] of the chosen [N] that have labels."""
        assert self.rows.labels is not None
        chosen = chosen & np.isfinite(self.rows.labels)
        return self.rows.tokens[chosen], self.rows.labels[chosen], self.val[chosen]


def read_elements(path: Path, label: str) -> Elements:
    """Read a table with the columns `seq`, `part` (A or B), `val` (0 or 1), a label.

    Raises:
        SimpoError: It cannot be read, or a column is missing or holds something else.
    """
    rows = read_sequences(path, label=label)
    for name, allowed in (("part", {"A", "B"}), ("val", {"0", "1"})):
        if name not in rows.columns:
            raise SimpoError(
                f"{path} has no column {name}; it needs seq, {label}, part (A or B, "
                "without relatives in common) and val (0 or 1)"
            )
        found = set(rows.columns[name]) - allowed
        if found:
            raise SimpoError(
                f"{path}: {name} is {' or '.join(sorted(allowed))}, not '{min(found)}'"
            )
    second, val = rows.columns["part"] == "B", rows.columns["val"] == "1"
    return Elements(rows, second, val)


@dataclass(frozen=True, eq=False)
class World:
    """Everything that methods are compared in.

    Attributes:
        setup: Sizes.
        reward: What methods are scored by.
        evaluation: What they are judged by.
        template: Where inserts go; None for whole elements.
        natural: Inserts of the most active hundredth of the elements [n, l].
        motifs: What is looked for.
        diffusion: The generator, as it is fine-tuned.
        net: Its network.
        labelled: A network that is told whether an element is active.
    """

    setup: Setup
    reward: Oracle
    evaluation: Oracle
    template: Template | None
    natural: np.ndarray
    motifs: tuple[Motif, ...]
    diffusion: MaskedDiffusion
    net: Any
    labelled: Any

    @property
    def length(self) -> int:
        """L, bases of whole sequences."""
        template = self.template
        return len(template.backbone) if template else self.diffusion.length

    @property
    def conditions(self) -> tuple[Constraint, ...]:
        """What whole sequences must satisfy to be synthesised."""
        setup = self.setup
        window = GCWindow(*setup.gc, window=min(setup.window, self.length))
        return window, Homopolymer(setup.longest_run)


def make_world(
    setup: Setup,
    elements: Elements,
    pool: np.ndarray,
    motifs: Path,
    folder: Path,
    advance: Advance,
) -> World:
    """Train oracles and generators, or read those that are in the folder.

    Args:
        setup: Sizes.
        elements: Labelled sequences.
        pool: Further natural sequences for the generator [n, L].
        motifs: A MEME file.
        folder: Where models are kept.
        advance: Told of progress.

    Raises:
        SimpoError: Motifs that cannot be read, or sequences of different lengths.
    """
    found, rows = read_meme(motifs), elements.rows
    assert rows.labels is not None
    length = rows.tokens.shape[1]
    if pool.shape[1] != length:
        raise SimpoError(
            f"sequences of the pool have {pool.shape[1]} bases, elements {length}"
        )
    width = setup.insert or length
    start = (length - width) // 2
    window = slice(start, start + width)
    known = np.flatnonzero(np.isfinite(rows.labels))
    order = known[np.argsort(rows.labels[known], kind="stable")]
    backbone = rows.tokens[order[len(order) // 2]]
    best = order[-max(2, round(setup.top * len(order))) :]
    reward, evaluation = make_oracles(setup, elements, found, folder, advance)
    diffusion = MaskedDiffusion(
        length=width, denoising_steps=setup.denoising_steps, masks=setup.masks
    )
    letters = np.concatenate([rows.tokens[~elements.val], pool])[:, window]
    told = ~elements.second & np.isfinite(rows.labels)  # the other part judges
    level = np.quantile(rows.labels[told], 1 - setup.active)
    active = np.where(rows.labels > level, GOOD, OTHER)
    labels = np.full(len(letters), UNKNOWN)
    labels[: (~elements.val).sum()] = np.where(told, active, UNKNOWN)[~elements.val]
    nets = [
        make_generator(setup, diffusion, letters, given, folder / name, advance)
        for name, given in (("generator", None), ("labelled", labels))
    ]
    return World(
        setup=setup,
        reward=reward,
        evaluation=evaluation,
        template=Template(backbone, window.start, window.stop),
        natural=rows.tokens[best][:, window],
        motifs=found,
        diffusion=diffusion,
        net=nets[0],
        labelled=nets[1],
    )


def make_oracles(
    setup: Setup,
    elements: Elements,
    motifs: tuple[Motif, ...],
    folder: Path,
    advance: Advance,
) -> tuple[Oracle, Oracle]:
    """The reward and the evaluation oracle."""

    def ridge(name: str, *data: np.ndarray) -> Oracle:
        return train_ridge(motifs, *data, name=name)

    def networks(
        name: str, tokens: np.ndarray, y: np.ndarray, val: np.ndarray
    ) -> Oracle:
        given = tokens[~val], y[~val], min(setup.stem, len(motifs))
        stem = motif_stem(
            choose_motifs(Featuriser(motifs), *given), setup.gain, setup.margin
        )
        fitting = Fitting(members=setup.members, epochs=setup.epochs)
        return train_cnn(tokens, y, val, name=name, stem=stem, fitting=fitting)

    oracles = []
    for name, second, train in (
        ("reward", False, ridge),
        ("evaluation", True, networks),
    ):
        advance(f"{name} oracle", 0)
        own = elements.second == second
        if (folder / name).exists():
            oracle = load_oracle(folder / name)
        else:
            oracle = train(name, *elements.labelled(own))
            save_oracle(folder / name, oracle)
        oracles.append(oracle)
    return oracles[0], oracles[1]


def make_generator(
    setup: Setup,
    diffusion: MaskedDiffusion,
    letters: np.ndarray,
    labels: np.ndarray | None,
    folder: Path,
    advance: Advance,
) -> Any:
    """A pretrained network, with or without labels."""
    if folder.exists():
        return load_model(folder).net
    size, done = setup.size, 0
    if labels is not None:
        size = replace(size, labels=2)

    def observe(steps: int, bound: float) -> None:
        nonlocal done
        advance(f"{folder.name} {bound:.3f} nats", steps - done)
        done = steps

    settings = Pretraining(
        model=diffusion, steps=setup.pretraining_steps, batch_size=setup.batch_size
    )
    key = jax.random.key(0)
    net = pretrain(settings, size.init(key), letters, key, labels, observe)
    SequenceModel(size, diffusion, net).save(folder)
    return net


def describe(world: World, elements: Elements) -> Iterator[str]:
    """How well oracles and generator do: each oracle on `val` rows of the other part.

    Args:
        world: They.
        elements: The labelled sequences that they were made of.
    """
    for oracle, other in ((world.reward, True), (world.evaluation, False)):
        tokens, labels, _ = elements.labelled((elements.second == other) & elements.val)
        yield str(calibrate(oracle, tokens, labels, bins=5))
    held_out = elements.rows.tokens[elements.val]
    if world.template:
        held_out = held_out[:, world.template.start : world.template.stop]
    some = held_out[:1_000]
    bound = nll(world.diffusion, world.net, some, jax.random.key(0)).mean()
    yield (
        f"generator: {bound:.3f} nats per base on {len(some)} unseen sequences; by "
        f"base composition alone {kmer_entropy(held_out, 1):.3f}"
    )
