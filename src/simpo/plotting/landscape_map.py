"""The picture of the landscape map: winners, what signed weights gain, a statistic."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from simpo.plotting.style import BLACK, PALETTE, draw, grid, signed

__all__ = ["Map", "landscape_map"]


@dataclass(frozen=True)
class Map:
    """Cells by width [S] and distance [D].

    Attributes:
        widths: Of the optima, sharp to broad [S].
        distances: Between them [D].
        regret: Mean final regret by method [S, D].
        decided: Whether the winner is clear [S, D].
        gap: Regret of the best non-negative method minus the best signed one [S, D].
        statistic: Of the first candidates' values [S, D].
        statistic_name: Its name.
    """

    widths: np.ndarray
    distances: np.ndarray
    regret: Mapping[str, np.ndarray]
    decided: np.ndarray
    gap: np.ndarray
    statistic: np.ndarray
    statistic_name: str


def landscape_map(data: Map, out: Path) -> list[Path]:
    """Draw the map; `out` is a file name without suffix."""

    def fill(figure: Figure) -> None:
        first, second, third = grid(figure, 3, 3)
        draw_winners(first, data)
        limit = float(np.abs(data.gap).max()) or 1.0
        draw_cells(second, data, data.gap, "PuOr", (-limit, limit))
        second.set_title("Regret that signed weights save")
        draw_cells(third, data, data.statistic, "cividis", None)
        third.set_title(f"First candidates: {data.statistic_name}")

    return draw(out, (18.0, 5.6), fill)


def draw_winners(axes: Axes, data: Map) -> None:
    """The method of least regret, its regret, and a frame where it wins clearly."""
    names = list(data.regret)
    regret = np.array(list(data.regret.values()))
    winner, least = regret.argmin(0), regret.min(0)
    colors = ListedColormap(PALETTE[: len(names)])
    norm = BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))
    axes.imshow(
        winner, cmap=colors, norm=norm, origin="lower", aspect="auto", alpha=0.75
    )
    for i, j in np.ndindex(winner.shape):
        clear = data.decided[i, j]
        weight = "bold" if clear else "normal"
        text = f"{least[i, j]:.2f}" + ("*" if clear else "")
        color = "white" if PALETTE[winner[i, j]] == BLACK else BLACK
        axes.text(
            j, i, text, ha="center", va="center",
            fontsize=8.5, fontweight=weight, color=color,
        )  # fmt: skip
    label_axes(axes, data)
    axes.set_title("Winner and its final regret (* clear at 95 %)")
    shown = [k for k in range(len(names)) if (winner == k).any()]
    patches = [Patch(color=PALETTE[k], alpha=0.75, label=names[k]) for k in shown]
    axes.legend(
        handles=patches, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4
    )


def draw_cells(
    axes: Axes,
    data: Map,
    values: np.ndarray,
    colors: str,
    limits: tuple[float, float] | None,
) -> None:
    """A number per cell, with a colour bar."""
    low, high = limits or (None, None)
    image = axes.imshow(
        values, cmap=colors, origin="lower", aspect="auto", vmin=low, vmax=high
    )
    for i, j in np.ndindex(values.shape):
        red, green, blue, _ = image.cmap(image.norm(values[i, j]))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        axes.text(
            j, i, signed(round(float(values[i, j]), 2) + 0.0), ha="center", va="center",
            fontsize=8.5, color="white" if dark else BLACK,
        )  # fmt: skip
    axes.figure.colorbar(image, ax=axes)
    label_axes(axes, data)


def label_axes(axes: Axes, data: Map) -> None:
    """Widths upwards, distances to the right."""
    axes.grid(visible=False)
    axes.set_xticks(range(len(data.distances)), [f"{d:.2g}" for d in data.distances])
    axes.set_yticks(range(len(data.widths)), [f"{s:.2g}" for s in data.widths])
    axes.set_xlabel("distance between the optima")
    axes.set_ylabel("width of the optima (sharp to broad)")
