"""How well oracles of DNA predict elements of the other half of a lentiMPRA assay.

python benchmarks/dna_oracles.py ELEMENTS.csv.xz MOTIFS.meme [--kinds ridge cnn]

ELEMENTS has the columns seq, part (A or B), val (0 or 1) and a label column. For each
part an oracle is trained on its rows, its own val rows choosing penalties and epochs;
it is judged on the val rows of the other part, which shares no cluster with it.
"""

import argparse
import csv
import lzma
import time
from pathlib import Path

import numpy as np


def read(path: Path, label: str):
    """Tokens [N, L], labels, parts and marks of the labelled rows."""
    with lzma.open(path, "rt") as file:
        rows = [row for row in csv.DictReader(file) if row[label]]
    letters = np.frombuffer("".join(row["seq"] for row in rows).encode(), np.uint8)
    tokens = np.searchsorted(np.frombuffer(b"ACGT", np.uint8), letters).astype(np.int8)
    return (
        tokens.reshape(len(rows), -1),
        np.array([float(row[label]) for row in rows], np.float32),
        np.array([row["part"] for row in rows]),
        np.array([row["val"] == "1" for row in rows]),
    )


def train(kind: str, name: str, motifs, tokens, labels, val, options):
    """An oracle, with a progress bar where it takes long."""
    from simpo.cli.bar import LateBar
    from simpo.dna.cnn import Fitting, train_cnn
    from simpo.dna.convnet import motif_stem
    from simpo.dna.features import Featuriser, choose_motifs
    from simpo.dna.ridge import train_ridge

    if kind == "ridge":
        return train_ridge(motifs, tokens, labels, val, name=name)
    fitting = Fitting(members=options.members, epochs=options.epochs)
    stem = None
    if kind == "cnn":
        chosen = choose_motifs(
            Featuriser(motifs), tokens[~val], labels[~val], options.stem
        )
        stem = motif_stem(chosen, gain=0.3, margin=6.0)
    with LateBar("epochs", fitting.members * fitting.epochs) as bar:
        return train_cnn(
            tokens,
            labels,
            val,
            name=name,
            stem=stem,
            fitting=fitting,
            progress=bar.update,
        )


def main() -> None:
    """Train on each part, judge on the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("elements", type=Path)
    parser.add_argument("motifs", type=Path)
    parser.add_argument("--label", default="hepg2")
    kinds = ("ridge", "cnn", "cnn-random-start")
    parser.add_argument("--kinds", nargs="*", default=kinds[:2], choices=kinds)
    parser.add_argument("--parts", nargs="*", default=["A", "B"])
    parser.add_argument(
        "--stem", type=int, default=96, help="motifs of the first layer"
    )
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()

    from simpo.dna.batches import in_blocks
    from simpo.dna.calibration import calibrate
    from simpo.dna.features import Featuriser
    from simpo.dna.motifs import read_meme

    motifs = read_meme(options.motifs)
    tokens, labels, part, val = read(options.elements, options.label)
    begun = time.perf_counter()
    in_blocks(Featuriser(motifs).compiled, tokens)
    seconds = time.perf_counter() - begun
    print(f"scan of {len(tokens)} sequences x {len(motifs)} motifs: {seconds:.1f} s")
    for kind in options.kinds:
        for own in options.parts:
            rows, others = part == own, (part != own) & val
            begun, cpu = time.perf_counter(), time.process_time()
            data = tokens[rows], labels[rows], val[rows]
            oracle = train(kind, f"{kind} {own}", motifs, *data, options)
            seconds = time.perf_counter() - begun
            cpu = time.process_time() - cpu
            print(f"\ntrained in {seconds:.0f} s, {cpu:.0f} s of CPU")
            print(calibrate(oracle, tokens[others], labels[others]), flush=True)


if __name__ == "__main__":
    main()
