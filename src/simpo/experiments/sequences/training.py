"""`simpo dna oracle`: what predicts a measured value, and how well it does.

Rows of a column, or whole clusters, are kept for validation, which chooses the penalty
or the epoch, and for the test, which nothing has seen.
"""

from dataclasses import asdict
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from simpo.checkpoint import write_json
from simpo.dna.calibration import calibrate
from simpo.dna.clusters import split
from simpo.dna.cnn import Fitting, train_cnn
from simpo.dna.convnet import Conv, Shape, motif_stem
from simpo.dna.data import Sequences, read_sequences, require_disjoint
from simpo.dna.features import Featuriser, choose_motifs
from simpo.dna.motifs import Motif, read_meme
from simpo.dna.oracle import Oracle
from simpo.dna.ridge import train_ridge
from simpo.dna.storage import save_oracle
from simpo.experiments.sequences.inputs import (
    Progress,
    clusters_of,
    column_of,
    require_free,
    writing,
    written,
)
from simpo.experiments.sequences.options import OracleTraining
from simpo.plotting.calibration import draw_calibration
from simpo.types import SimpoError

__all__ = ["run"]

PARTS = {
    "train": "train", "": "train", "0": "train", "false": "train",
    "val": "val", "valid": "val", "validation": "val", "1": "val", "true": "val",
    "test": "test",
}  # fmt: skip
"""What a cell of the split's column means, in any case of letters."""
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Of the clusters, where no column says."""
BINS = 10
"""Of the calibration, at most: fewer where there are not three rows for each."""


class Rows(NamedTuple):
    """Row numbers of the parts; without a test, it is measured on the validation."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def run(options: OracleTraining, tell: Progress) -> list[str]:
    """Train, calibrate, save; what is to be printed."""
    require_free(options.out, options.force)
    motifs = read_meme(options.motifs) if options.motifs else ()
    if options.kind == "ridge" and not motifs:
        raise SimpoError("a ridge needs motifs: --motifs FILE.meme, or --kind cnn")
    data = read(options)
    rows = parts_of(options, data)
    oracle = train(options, data, rows, motifs, tell)
    judged = rows.test if len(rows.test) else rows.val
    labels = np.asarray(data.labels)[judged]
    bins = max(1, min(BINS, len(judged) // 3))
    found = calibrate(oracle, data.tokens[judged], labels, bins)
    counts = {name: len(part) for name, part in rows._asdict().items()}
    text = [*heading(rows), str(found), *roc(options, oracle, data, judged)]
    with writing(options.out) as folder:
        save_oracle(folder, oracle)
        config = written(options) | {"rows": counts}
        write_json(folder / "training.json", config | {"calibration": asdict(found)})
        (folder / "calibration.txt").write_text("\n".join(text) + "\n")
        values = oracle(data.tokens[judged])
        draw_calibration(values, labels, found, folder / "calibration")
    advice = f"simpo dna finetune MODEL --oracle {options.out} --out tuned"
    return [*text, f"oracle   {options.out}", f"next     {advice}"]


def read(options: OracleTraining) -> Sequences:
    """The labelled sequences.

    Raises:
        SimpoError: Rows without labels, unless they are to be left out.
    """
    needed = not options.drop_unlabelled
    data = read_sequences(
        options.file,
        sequence=options.column,
        label=options.label,
        require_labels=needed,
    )
    data = data.take(~np.isnan(np.asarray(data.labels)))
    if not len(data):
        raise SimpoError(f"no row of {options.file} has a {options.label}")
    return data


def parts_of(options: OracleTraining, data: Sequences) -> Rows:
    """Rows of training, validation and test.

    Raises:
        SimpoError: A cell that says none of these, too few rows or clusters, or a
            sequence in two parts.
    """
    if options.split_column is None:
        families = clusters_of(data, options.cluster_column, options.file)
        try:
            return Rows(*split(families, tuple(SHARES.values()), options.seed))
        except SimpoError as error:
            raise SimpoError(f"{options.file}: {error}") from error
    cells = column_of(data, options.split_column, options.file)
    named = [PARTS.get(cell.strip().lower()) for cell in cells]
    for i, name in enumerate(named):
        if name is None:
            raise SimpoError(
                f"{options.file}, row {i + 1} ({data.names[i]}): "
                f"{options.split_column} is {str(cells[i])!r}, not train, val or test"
            )
    found = [np.array([name == part for name in named]) for part in SHARES]
    rows = Rows(*map(np.flatnonzero, found))
    if len(rows.train) and not len(rows.val):  # clusters of the rest choose
        families = clusters_of(data, options.cluster_column, options.file)[rows.train]
        share = SHARES["val"]
        train, val = split(families, (1 - share, share), options.seed)
        rows = Rows(rows.train[train], rows.train[val], rows.test)
    for name, part in (("validation", rows.val), ("test", rows.test)):
        if len(part):
            names = ("training rows", f"{name} rows")
            require_disjoint(data.take(rows.train), data.take(part), names)
    return rows


def train(
    options: OracleTraining,
    data: Sequences,
    rows: Rows,
    motifs: tuple[Motif, ...],
    tell: Progress,
) -> Oracle:
    """The oracle, of training and validation rows."""
    both = np.concatenate([rows.train, rows.val])
    val = np.arange(len(both)) >= len(rows.train)
    tokens, labels = data.tokens[both], np.asarray(data.labels)[both]
    name = options.out.name
    if options.kind == "ridge":
        tell("ridge", 0)
        return train_ridge(
            motifs, tokens, labels, val, name=name, classify=options.classify
        )
    positive = {
        name: getattr(options, name)
        for name in ("members", "epochs", "batch_size", "filters", "width")
    }
    for option, value in positive.items():
        if value < 1:
            raise SimpoError(f"--{option.replace('_', '-')} must be at least 1")
    fitting = Fitting(
        members=options.members,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.learning_rate,
        seed=options.seed,
    )
    return train_cnn(
        *(tokens, labels, val),
        name=name,
        classify=options.classify,
        shape=Shape(filters=options.filters, width=options.width),
        stem=first_layer(options, motifs, tokens[~val], labels[~val]),
        fitting=fitting,
        progress=tell,
    )


def first_layer(
    options: OracleTraining,
    motifs: tuple[Motif, ...],
    tokens: np.ndarray,
    labels: np.ndarray,
) -> Conv | None:
    """Filters from the motifs that explain the training rows best, if there are any."""
    if not motifs:
        return None
    count = max(1, options.filters // 2)
    chosen = choose_motifs(Featuriser(motifs), tokens, labels, count)
    return motif_stem(chosen, options.gain, options.margin)


def heading(rows: Rows) -> list[str]:
    """How many rows of what; and whether the measurement is of unseen ones."""
    text = (
        f"trained on {len(rows.train):,} rows, {len(rows.val):,} for validation, "
        f"{len(rows.test):,} for the test"
    )
    if len(rows.test):
        return [text]
    return [text, "no test rows: measured on the validation rows, which is optimistic"]


def roc(
    options: OracleTraining, oracle: Oracle, data: Sequences, rows: np.ndarray
) -> list[str]:
    """Area under the curve of a classifier."""
    if not options.classify:
        return []
    good = np.asarray(data.labels)[rows] == 1
    ranks, n = rankdata(oracle(data.tokens[rows])), good.sum()
    area = (ranks[good].sum() - n * (n + 1) / 2) / (n * (len(good) - n))
    return [f"area under the ROC curve {area:.3f}"]
