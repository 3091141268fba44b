"""Pictures of designed sequences: scores over rounds, distributions, motifs, logos."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D

from simpo.plotting.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    draw,
    grid,
    looks_of,
)

__all__ = [
    "count_bases",
    "draw_distributions",
    "draw_logos",
    "draw_medians",
    "draw_motifs",
    "draw_rounds",
    "draw_seeds",
]

COLORS = dict(zip("ACGT", (GREEN, BLUE, ORANGE, VERMILLION), strict=True))
"""Of bases, distinct to colour-blind readers."""
FONT = FontProperties(family="DejaVu Sans", weight="bold")
MOTIFS, WORD = 12, 24
"""Motifs that a picture shows at most, and letters of their names."""


def draw_rounds(
    curves: Mapping[str, np.ndarray], label: str, title: str, out: Path
) -> list[Path]:
    """Scores over rounds, a line per method.

    Args:
        curves: A score per round [R], by method.
        label: What the scores are.
        title: Of the picture.
        out: File name without suffix.

    Returns:
        The files written.
    """
    looks = looks_of(list(curves))

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        for name, values in curves.items():
            look = looks[name]
            rounds = np.arange(1, len(values) + 1)
            axes.plot(rounds, values, color=look.color, linestyle=look.line, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("Round")
        axes.set_ylabel(label)
        axes.set_title(title)
        axes.legend()

    return draw(out, (6.4, 3.8), fill)


def draw_seeds(
    curves: Mapping[str, Sequence[np.ndarray]], label: str, out: Path
) -> list[Path]:
    """Scores over rounds, a panel per method: every seed, and their mean.

    Seeds that differ in kind, such as those that leave a plateau and those that do not,
    would be lost in an interval.

    Args:
        curves: A score per round [R], by method and seed.
        label: What the scores are.
        out: File name without suffix.

    Returns:
        The files written.
    """
    columns = min(5, len(curves))
    rows = -(-len(curves) // columns)

    def fill(figure: Figure) -> None:
        panels = grid(figure, len(curves), columns)
        for axes, (name, seeds) in zip(panels, curves.items(), strict=True):
            axes.sharex(panels[0])
            axes.sharey(panels[0])
            mean = np.mean(seeds, axis=0)
            rounds = np.arange(1, len(mean) + 1)
            axes.plot(rounds, np.transpose(seeds), color=GREY, lw=0.8, alpha=0.8)
            axes.plot(rounds, mean, color=BLUE)
            axes.set_title(name, fontsize=10)
            axes.label_outer()
        for axes in panels[-columns:]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel("Round (grey: seeds, blue: their mean)", fontsize=11)
        figure.supylabel(label, fontsize=11)

    return draw(out, (0.8 + 2.2 * columns, 0.6 + 1.7 * rows), fill)


def draw_distributions(
    scores: Mapping[str, Mapping[str, np.ndarray]], out: Path
) -> list[Path]:
    """A panel per judge: the 10 to 90 % of every set, its median, its sequences.

    Args:
        scores: By judge and set, [N].
        out: File name without suffix.

    Returns:
        The files written.
    """

    def fill(figure: Figure) -> None:
        for axes, (judge, sets) in zip(
            grid(figure, len(scores), 3), scores.items(), strict=True
        ):
            draw_sets(axes, sets)
            axes.set_xlabel(judge)

    rows = max(len(sets) for sets in scores.values())
    return draw(out, (4.4 * min(3, len(scores)), 1.2 + 0.45 * rows), fill)


def draw_medians(
    medians: Mapping[str, Mapping[str, tuple[float, float, float]]], out: Path
) -> list[Path]:
    """A panel per judge: every method's median over seeds, and its interval.

    Args:
        medians: Mean, low and high, by judge and method; NaN without an interval.
        out: File name without suffix.

    Returns:
        The files written.
    """

    def fill(figure: Figure) -> None:
        panels = grid(figure, len(medians), 3)
        for axes, (judge, methods) in zip(panels, medians.items(), strict=True):
            for place, (mean, low, high) in enumerate(list(methods.values())[::-1]):
                axes.plot([low, high], [place, place], color=BLUE, linewidth=2.5)
                axes.plot(mean, place, "o", color=VERMILLION, markersize=5)
            axes.set_yticks(range(len(methods)), list(methods)[::-1], fontsize=9)
            axes.set_ylim(-0.6, len(methods) - 0.4)
            axes.set_xlabel(f"Median by {judge} (line: 95 % over seeds)")

    rows = max(len(methods) for methods in medians.values())
    return draw(out, (4.8 * min(3, len(medians)), 1.2 + 0.26 * rows), fill)


def draw_sets(axes: Axes, sets: Mapping[str, np.ndarray]) -> None:
    """Sets from top to bottom."""
    rng = np.random.default_rng(0)
    for place, values in enumerate(reversed(list(sets.values()))):
        some = rng.permutation(values)[:200]
        noise = rng.uniform(-0.22, 0.22, len(some))
        axes.scatter(some, place + noise, s=4, color=GREY, alpha=0.4, linewidths=0)
        low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
        axes.plot([low, high], [place, place], color=BLUE, linewidth=3)
        axes.plot(middle, place, "o", color=VERMILLION, markersize=6)
    axes.set_yticks(range(len(sets)), list(sets)[::-1])


def draw_motifs(
    motifs: Sequence[str], rates: Mapping[str, np.ndarray], out: Path
) -> list[Path]:
    """A row per set, a column per motif: the motifs whose rates differ most.

    Args:
        motifs: Their names [M].
        rates: Hits per 100 bases [M], by set.
        out: File name without suffix.

    Returns:
        The files written.
    """
    values = np.array(list(rates.values()))
    widest = np.argsort(-np.ptp(values, axis=0), kind="stable")[:MOTIFS]
    names = [short(motifs[int(i)]) for i in widest]

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        draw_rates(axes, values[:, widest])
        plain = {"parse_math": False}  # names are not formulas
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", **plain)
        axes.set_yticks(range(len(rates)), list(rates), **plain)
        axes.set_xlabel("Motif")
        axes.set_ylabel("Set")
        axes.set_title("Hits per 100 bases")

    beside = 2.4 + 0.085 * max(map(len, rates))  # names of sets, and the colour bar
    below = 1.2 + 0.055 * max(map(len, names))  # names of motifs, and the title
    return draw(out, (beside + 0.6 * len(names), below + 0.34 * len(rates)), fill)


def draw_rates(axes: Axes, values: np.ndarray) -> None:
    """Hits per 100 bases [S, M], as colours and numbers."""
    image = axes.imshow(values, cmap="cividis", aspect="auto", vmin=0)
    for (row, column), rate in np.ndenumerate(values):
        red, green, blue, _ = image.cmap(image.norm(rate))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.45
        axes.text(
            column, row, f"{rate:.2f}", ha="center", va="center",
            fontsize=8.5, color="white" if dark else BLACK,
        )  # fmt: skip
    axes.grid(visible=False)
    axes.figure.colorbar(image, ax=axes)


def short(name: str) -> str:
    """A name that fits below a column."""
    return name if len(name) <= WORD else f"{name[: WORD - 1]}…"


def draw_logos(counts: Mapping[str, np.ndarray], out: Path) -> list[Path]:
    """A sequence logo per set: letters as high as they tell bits.

    Args:
        counts: How often each base stands at each position [L, 4], by set.
        out: File name without suffix.

    Returns:
        The files written.
    """

    def fill(figure: Figure) -> None:
        panels = grid(figure, len(counts), 1)
        for axes, (name, table) in zip(panels, counts.items(), strict=True):
            draw_logo(axes, table)
            axes.set_title(name)
            axes.set_ylabel("bits")
        panels[-1].set_xlabel("Position")

    length = max(len(table) for table in counts.values())
    return draw(out, (max(6.0, 0.16 * length), 0.4 + 1.6 * len(counts)), fill)


def draw_logo(axes: Axes, counts: np.ndarray) -> None:
    """Letters of one logo, the commonest on top."""
    shares = counts / counts.sum(1, keepdims=True)
    bits = 2 + (shares * np.log2(np.where(shares > 0, shares, 1.0))).sum(1)
    for place, (share, height) in enumerate(zip(shares, bits, strict=True)):
        bottom = 0.0
        for k in np.argsort(share):
            size = float(share[k] * height)
            if size > 0.005:
                axes.add_patch(letter("ACGT"[k], place, bottom, size))
            bottom += size
    axes.set_xlim(-0.6, len(counts) - 0.4)
    axes.set_ylim(0, 2)
    axes.set_yticks([0, 1, 2])
    axes.grid(visible=False)


def letter(base: str, place: float, bottom: float, height: float) -> PathPatch:
    """One letter in a box one position wide."""
    path = TextPath((0, 0), base, size=1, prop=FONT)
    box = path.get_extents()
    fit = (
        Affine2D()
        .translate(-box.x0, -box.y0)
        .scale(0.92 / box.width, height / box.height)
        .translate(place - 0.46, bottom)
    )
    return PathPatch(path.transformed(fit), color=COLORS[base], linewidth=0)


def count_bases(letters: np.ndarray) -> np.ndarray:
    """How often each base stands at each position: [N, L] -> [L, 4]."""
    return (np.asarray(letters)[..., None] == np.arange(4)).sum(0)
