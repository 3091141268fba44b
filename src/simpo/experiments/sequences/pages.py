"""`simpo dna report`: one HTML file of what folders and files of sequences hold."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from simpo.checkpoint import plain, read_json
from simpo.dna.data import Sequences, decode, read_sequences
from simpo.dna.files import LABEL, is_number, read_table
from simpo.dna.metrics import gc, pairwise_hamming, quantiles, unique_share
from simpo.dna.usage import MOTIF_HITS, USAGE, MotifUsage
from simpo.experiments import page
from simpo.experiments.sequences.inputs import Progress
from simpo.experiments.sequences.options import PageMaking
from simpo.plotting.designs import (
    count_bases,
    draw_distributions,
    draw_logos,
    draw_motifs,
    draw_rounds,
)
from simpo.types import SimpoError

__all__ = ["run"]

SCORE = "score"
LEAST = 0.2
"""Bits of a position without which a set's logo is an empty frame."""
FIRST = ("natural", "before", "after")
"""Sets that come first, in this order."""
TABLE = "designs.json"
OTHERS = ("rounds.csv", "designs.csv", "bound.csv", MOTIF_HITS)
"""Files of folders that hold no sequences."""


@dataclass
class Found:
    """What folders and files hold.

    Attributes:
        sets: Sequences by name.
        rounds: Median scores by folder [R].
        tables: Header and lines by folder.
        motifs: Their hits by folder.
        judged: Sets that are in these.
        settings: Options by folder.
    """

    sets: dict[str, Sequences] = field(default_factory=dict)
    rounds: dict[str, np.ndarray] = field(default_factory=dict)
    tables: dict[str, tuple[list[str], list[list[str]]]] = field(default_factory=dict)
    motifs: dict[str, MotifUsage] = field(default_factory=dict)
    judged: set[str] = field(default_factory=set)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


def run(options: PageMaking, tell: Progress) -> list[str]:
    """Collect, draw, write; what is to be printed."""
    if options.first < 0:
        raise SimpoError(f"--first must not be negative, but is {options.first}")
    found = collect(options)
    tell("drawing", 0)
    with tempfile.TemporaryDirectory() as folder:
        html = page.page(options.title, parts(options, found, Path(folder)))
    aside = options.out.with_name(f".{options.out.name}.tmp")
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(html, encoding="utf-8")
        aside.replace(options.out)
    except OSError as error:
        raise SimpoError(f"cannot write {options.out}: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)
    return [f"page     {options.out}: {len(found.sets)} sets"]


def collect(options: PageMaking) -> Found:
    """Everything that the paths hold.

    Raises:
        SimpoError: A path that is not there, or holds no sequences; a name twice.
    """
    if not options.paths:
        raise SimpoError("which folders or files? simpo dna report FOLDER|FILE ...")
    found = Found()
    for path in options.paths:
        if not path.exists():
            raise SimpoError(f"no file or folder {path}")
        if not path.is_dir():
            add(found, path.name.partition(".")[0], path, options.column)
            continue
        files = [p for p in path.glob("*.csv") if p.name not in OTHERS]
        if not files:
            raise SimpoError(
                f"{path} holds no sequences: give folders of simpo dna finetune or "
                "evaluate, or files"
            )
        label = "" if len(options.paths) == 1 else f"{path.name}/"
        for file in sorted(files, key=place):
            add(found, label + file.stem, file, options.column)
            if (path / TABLE).is_file():
                found.judged.add(label + file.stem)
        add_numbers(found, path)
    return found


def place(file: Path) -> tuple[int, str]:
    """Where a file comes among others."""
    stem = file.stem
    return (FIRST.index(stem) if stem in FIRST else len(FIRST), stem)


def add(found: Found, name: str, file: Path, column: str) -> None:
    """Add a set."""
    if name in found.sets:
        raise SimpoError(f"two sets are called {name}: rename {file}")
    found.sets[name] = read_sequences(file, sequence=column)


def add_numbers(found: Found, folder: Path) -> None:
    """Add rounds, table and options of a folder, where it has such."""
    name = folder.name or str(folder)
    if (folder / "rounds.csv").is_file():
        cells = read_table(folder / "rounds.csv").column("score_median")
        bad = [cell for cell in cells if not is_number(cell)]
        if bad:
            raise SimpoError(f"{folder / 'rounds.csv'} is damaged: {plain(bad[0])}")
        found.rounds[name] = np.array(list(map(float, cells)))
    if (folder / TABLE).is_file():
        match read_json(folder / TABLE):
            case {"header": [*header], "lines": [*lines]}:
                found.tables[name] = header, lines
            case _:
                raise SimpoError(f"{folder / 'designs.json'} is damaged")
    if (folder / MOTIF_HITS).is_file():
        found.motifs[name] = MotifUsage.read(folder / MOTIF_HITS)
    if (folder / "config.json").is_file():
        found.settings[name] = read_json(folder / "config.json")


def parts(options: PageMaking, found: Found, folder: Path) -> list[str]:
    """Sections of the page, whose pictures are drawn in a folder."""
    made = []
    for name, (header, lines) in found.tables.items():
        caption = "Judges" if len(found.tables) == 1 else f"Judges: {name}"
        made.append(page.rows(caption, header, lines))
    scores = {name: scores_of(data) for name, data in found.sets.items()}
    rest = {n: data for n, data in found.sets.items() if n not in found.judged}
    if rest:
        made.append(page.rows("Sets", *overview(rest, scores)))
    if found.rounds:
        label = "Median score of the group"
        made += heading("Rounds")
        made += shown(draw_rounds(found.rounds, label, "", folder / "rounds"))
    judges = dict.fromkeys(judge for each in scores.values() for judge in each)
    by_judge = {
        judge: {n: each[judge] for n, each in scores.items() if judge in each}
        for judge in judges
    }
    if by_judge:
        made += heading("Scores")
        made += shown(draw_distributions(by_judge, folder / "scores"))
        made.append(f"<p>{SCORES}</p>")
    made += motifs(found.motifs, folder)
    made += heading("Logos") + logos(found.sets, folder)
    if options.first:
        made += heading("Sequences")
        made += [first(n, data, options.first) for n, data in found.sets.items()]
    if found.settings:
        made += heading("Options")
    return made + [page.details(n, values) for n, values in found.settings.items()]


SCORES = (
    "Bars reach from 10 to 90 % of a set, circles are medians, dots are sequences, at "
    "most 200 of each set."
)


def motifs(usages: Mapping[str, MotifUsage], folder: Path) -> list[str]:
    """Which motifs sets use, a picture per folder that tells it."""
    made, out = [], folder / "motifs"  # read into the page, then drawn over
    for name, usage in usages.items():
        text = "Motifs" if len(usages) == 1 else f"Motifs: {escape(name)}"
        made += heading(text) + shown(draw_motifs(usage.motifs, usage.rates, out))
    return [*made, f"<p>{USAGE}</p>"] if made else []


def logos(sets: Mapping[str, Sequences], folder: Path) -> list[str]:
    """Logos of sets that have one, and which have none."""
    counts = {name: count_bases(data.tokens) for name, data in sets.items()}
    flat = [name for name, table in counts.items() if most_bits(table) < LEAST]
    some = {name: table for name, table in counts.items() if name not in flat}
    made = shown(draw_logos(some, folder / "logos")) if some else []
    if flat:
        text = f"No position tells {LEAST:g} bits in {', '.join(flat)}."
        made.append(f"<p>{escape(text)}</p>")
    return made


def most_bits(counts: np.ndarray) -> float:
    """Of the position that tells most: counts [L, 4]."""
    shares = counts / counts.sum(1, keepdims=True)
    logs = np.log2(np.where(shares > 0, shares, 1.0))
    return float((2 + (shares * logs).sum(1)).max())


def heading(text: str) -> list[str]:
    """A section's heading."""
    return [f"<h2>{text}</h2>"]


def shown(paths: list[Path]) -> list[str]:
    """Pictures in the page."""
    return [page.picture(path, path.stem) for path in paths if path.suffix == ".png"]


def scores_of(data: Sequences) -> dict[str, np.ndarray]:
    """Columns `score`, `score:JUDGE` and the label, where all cells are numbers."""
    found = {}
    for name, cells in data.columns.items():
        head, _, judge = name.partition(":")
        if head == SCORE and all(map(is_number, cells)):
            found[judge or name] = cells.astype(float)
    if data.labels is not None and not np.isnan(data.labels).any():
        found[LABEL] = data.labels
    return {name: x for name, x in found.items() if np.isfinite(x).all()}


def overview(
    sets: Mapping[str, Sequences], scores: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[list[str], list[list[str]]]:
    """A row per set: header and lines."""
    judges = list(dict.fromkeys(judge for name in sets for judge in scores[name]))
    lines = []
    for name, data in sets.items():
        cells = [name, f"{len(data):,}", str(data.tokens.shape[1])]
        for judge in judges:
            cells.append(middle(scores[name].get(judge)))
        many = len(data) > 1
        cells.append(f"{gc(data.tokens).mean():.0%}")
        cells.append(f"{pairwise_hamming(data.tokens):.2f}" if many else "")
        cells.append(f"{unique_share(data.tokens):.0%}")
        lines.append(cells)
    asked = [f"{judge} [10-90 %]" for judge in judges]
    return ["set", "sequences", "bases", *asked, "GC", "Hamming", "unique"], lines


def middle(values: np.ndarray | None) -> str:
    """Median and quantiles."""
    if values is None:
        return ""
    low, median, high = quantiles(values)
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


def first(name: str, data: Sequences, count: int) -> str:
    """The first sequences of a set, to be opened."""
    some = data.take(np.arange(len(data)) < count)
    scores = scores_of(some)
    wide = max(map(len, some.names))
    lines = ["  ".join([" " * wide, *(f"{judge[:9]:>9}" for judge in scores)])]
    for i, row in enumerate(some.tokens):
        cells = [f"{values[i]:9.3f}" for values in scores.values()]
        lines.append("  ".join([f"{some.names[i]:<{wide}}", *cells, decode(row)]))
    text = f"{name}: the first {len(some):,} of {len(data):,}"
    return f'<div class="scroll">{page.details(text, lines)}</div>'
