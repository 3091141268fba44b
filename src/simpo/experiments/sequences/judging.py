"""`simpo dna evaluate`: a table of sets of sequences, by everything that judges them.

OUT/designs.csv      a row per set (experiments/designs.py), designs.json as printed
OUT/motif_hits.csv   hits per 100 bases, a row per motif, a column per set
OUT/NAME.csv         the sequences of a set, with a column `score:JUDGE` per oracle
"""

from pathlib import Path
from typing import Any

import numpy as np

from simpo.checkpoint import write_json
from simpo.dna.constraints import Template
from simpo.dna.data import Sequences, read_sequences, write_sequences
from simpo.dna.files import write_table
from simpo.dna.motifs import read_meme
from simpo.dna.objective import Calls
from simpo.dna.usage import MOTIF, MOTIF_HITS
from simpo.experiments.designs import Judges, header, lines
from simpo.experiments.sequences.inputs import (
    Progress,
    find_model,
    require_free,
    window,
    writing,
    written,
)
from simpo.experiments.sequences.options import Evaluation
from simpo.experiments.sequences.scoring import find_oracle, place_of
from simpo.experiments.summary import table
from simpo.types import SimpoError

__all__ = ["run", "set_names"]

NATURAL = "natural"
TAKEN = (NATURAL, "designs", MOTIF_HITS.partition(".")[0], MOTIF)
"""What no set of a file can be called."""


def run(options: Evaluation, tell: Progress) -> list[str]:
    """Judge, save; what is to be printed."""
    require_free(options.out, options.force)
    judges, sets = read(options)
    rows, rates = [], {}
    for number, (name, data) in enumerate(sets.items()):
        tell(name, number)
        row, rates[name] = judges.judge(name, data.tokens, Calls())
        unknown = [n for n in row if n.endswith("_calls")]
        if np.isnan(row["distance"]):
            unknown.append("distance")
        rows.append({n: value for n, value in row.items() if n not in unknown})
    shown = header(judges, rows), lines(judges, rows)
    text = table(*shown)
    with writing(options.out) as folder:
        folder.mkdir(parents=True)
        write_json(folder / "config.json", written(options))
        write_table(folder / "designs.csv", {n: texts(rows, n) for n in rows[0]})
        write_json(folder / "designs.json", {"header": shown[0], "lines": shown[1]})
        if judges.fitting:
            judges.usage(rates).write(folder / MOTIF_HITS)
        for name, data in sets.items():
            columns = {
                f"score:{judge}": np.array([f"{x:.6g}" for x in found])
                for judge, found in judges.scores(data.tokens).items()
            }
            kept = Sequences(data.names, data.tokens, None, columns)
            write_sequences(folder / f"{name}.csv", kept)
    table_file = options.out / "designs.csv"
    return [text, f"table    {table_file}", f"next     simpo dna report {options.out}"]


def texts(rows: list[dict[str, Any]], name: str) -> list[str]:
    """Cells of a column."""
    found = [row[name] for row in rows]
    return [f"{x:.6g}" if isinstance(x, float) else str(x) for x in found]


def read(options: Evaluation) -> tuple[Judges, dict[str, Sequences]]:
    """The judges, and the sets by name, the natural one first.

    Raises:
        SimpoError: Something cannot be read, or does not fit.
    """
    model, net = find_model(options.model)
    bases = model.diffusion.length
    template = place_of(options.place, bases) if options.place.backbone else None
    oracles = {
        name: find_oracle(where, options.bounded, name)
        for name, where in named(options)
    }
    natural = read_natural(options)
    sets = {NATURAL: fit(natural, options, template, bases, options.natural)}
    for name, path in set_names(options.files, TAKEN).items():
        data = read_sequences(path, sequence=options.column)
        sets[name] = fit(data, options, template, bases, path)
    open_chromatin = None
    if options.accessibility:
        open_chromatin = find_oracle(options.accessibility, options.bounded)
    judges = Judges(
        oracles=oracles,
        natural=sets[NATURAL].tokens,
        diffusion=model.diffusion,
        pretrained=net,
        template=template,
        motifs=read_meme(options.motifs) if options.motifs else (),
        accessibility=open_chromatin,
    )
    return judges, sets


def named(options: Evaluation) -> list[tuple[str, str]]:
    """Names of oracles and where they are.

    Raises:
        SimpoError: Not NAME=ORACLE, or a name twice.
    """
    pairs = []
    for text in options.oracles:
        name, equals, where = text.partition("=")
        if not (name and equals and where):
            raise SimpoError(f"--oracles takes NAME=ORACLE ..., not {text!r}")
        if name in dict(pairs):
            raise SimpoError(f"two oracles are called {name}")
        pairs.append((name, where))
    if not pairs:
        raise SimpoError("--oracles NAME=ORACLE ...: at least one")
    return pairs


def read_natural(options: Evaluation) -> Sequences:
    """The natural sequences, the highest of them if labels say so.

    Raises:
        SimpoError: A share that is none, or no labels to choose by.
    """
    data = read_sequences(options.natural, sequence=options.column, label=options.label)
    if not 0 < options.top <= 1:
        raise SimpoError(f"--top is a share, not {options.top:g}")
    if options.top == 1:
        return data
    if data.labels is None or np.isnan(data.labels).all():
        raise SimpoError(f"--top needs the --label of {options.natural}")
    known = data.take(~np.isnan(data.labels))
    count = max(2, round(options.top * len(known)))
    return known.take(np.argsort(-np.asarray(known.labels), kind="stable")[:count])


def fit(
    data: Sequences,
    options: Evaluation,
    template: Template | None,
    bases: int,
    path: Path,
) -> Sequences:
    """A set in the length that the model writes, cut from whole sequences if need be.

    Raises:
        SimpoError: Another length, or fewer than two sequences.
    """
    if len(data) < 2:
        raise SimpoError(f"{path} holds one sequence; a set needs two at least")
    start, stop = options.place.start, options.place.stop
    letters, found = data.tokens, data.tokens.shape[1]
    if found != bases and start is not None and stop is not None:
        letters = window(letters, start, stop, path)
    if letters.shape[1] != bases:
        hint = "" if start is not None else "; --start and --stop cut them"
        raise SimpoError(
            f"{path} has sequences of {found} bases, but the model of {options.model} "
            f"writes {bases}{hint}"
        )
    return Sequences(data.names, letters)


def set_names(files: tuple[Path, ...], taken: tuple[str, ...]) -> dict[str, Path]:
    """What a set is called: the file's name, with its folder's where that is no name.

    Raises:
        SimpoError: A file twice, or none.
    """
    if not files:
        raise SimpoError("which files? simpo dna evaluate FILE ...")
    stems = [path.name.partition(".")[0] for path in files]
    found: dict[str, Path] = {}
    for path, stem in zip(files, stems, strict=True):
        clear = stems.count(stem) == 1 and stem not in taken
        name = stem if clear else f"{path.absolute().parent.name}-{stem}"
        if name in found or name in taken:
            raise SimpoError(f"two sets are called {name}: rename {path}")
        found[name] = path
    return found
