"""Signed matching at a glance: regions, trajectories and particles.

Blue attracts and vermillion repels; hatched is Case II, where the signed density is
negative and the loss has no minimum. The dotted band or circle is one standard
deviation around the negative component.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch

from simpo.plotting.style import (
    BLACK,
    BLUE,
    DASHED,
    GREY,
    STYLE,
    VERMILLION,
    draw,
)

__all__ = [
    "Line",
    "Plane",
    "Transport",
    "animate_plane",
    "draw_line",
    "draw_plane",
    "near",
]

HEAT = LinearSegmentedColormap.from_list("heat", ["#FFFFFF", "#9CC9E8", BLUE])
HATCH = "////"
TRAJECTORIES = 27
"""Drawn on the line."""
TAIL = 0.12
"""Time that a particle's tail in the plane reaches back."""
DOTTED = (0, (1, 1.5))
SECONDS, HOLD, DPI = 3.6, 1.2, 90
"""Of the animation: on the way, at its end, pixels per inch."""
Disc = tuple[np.ndarray, float]
"""Centre [A] and radius."""


@dataclass(frozen=True)
class Transport:
    """What one field makes of noise.

    Attributes:
        title: What the field is.
        paths: Particles on their way, at t = 1, ..., 0 in equal steps [T + 1, P, A].
        actions: Samples [N, A].
    """

    title: str
    paths: np.ndarray
    actions: np.ndarray

    def at(self, t: float) -> int:
        """Index of the time in `paths`."""
        return round((1 - t) * (len(self.paths) - 1))


@dataclass(frozen=True)
class Line:
    """A signed mixture on the line and its flows.

    Attributes:
        title: What the example shows.
        action: Actions [X].
        time: Times, ascending from 0 [T].
        terms: Signed components of the target [K, X].
        behaviour: Density of pi_old [X].
        signed: Signed density of x_t [T, X].
        disc: The negative component.
        flows: Fields to compare.
    """

    title: str
    action: np.ndarray
    time: np.ndarray
    terms: np.ndarray
    behaviour: np.ndarray
    signed: np.ndarray
    disc: Disc
    flows: tuple[Transport, ...]


@dataclass(frozen=True)
class Plane:
    """A signed mixture in the plane and its flows.

    Attributes:
        axis: Coordinates of a square grid [X].
        time: Times from 1 to 0 [F].
        signed: Signed density of x_t [F, X, X].
        candidates: Noised candidates of pi_old [F, N, 2].
        weights: Their weights [N].
        disc: The negative component.
        snapshots: Times of the still picture.
        flows: Fields to compare.
    """

    axis: np.ndarray
    time: np.ndarray
    signed: np.ndarray
    candidates: np.ndarray
    weights: np.ndarray
    disc: Disc
    snapshots: tuple[float, ...]
    flows: tuple[Transport, ...]

    def at(self, t: float) -> int:
        """Index of the nearest time."""
        return int(np.abs(self.time - t).argmin())


def near(x: np.ndarray, disc: Disc) -> np.ndarray:
    """Which actions [N, A] are in a disc [N]."""
    return np.linalg.norm(x - disc[0], axis=-1) <= disc[1]


def hatch(
    axes: Axes, x: np.ndarray, y: np.ndarray, signed: np.ndarray
) -> list[ContourSet]:
    """Mark where a signed density [Y, X] is negative."""
    if signed.min() >= 0:
        return []
    with matplotlib.rc_context({"hatch.linewidth": 0.7}):
        levels = [signed.min(), 0]
        area = axes.contourf(x, y, signed, levels, colors="none", hatches=[HATCH])
    area.set(edgecolor=VERMILLION, linewidth=0)
    edge = axes.contour(x, y, signed, [0], colors=VERMILLION, linewidths=1.4)
    return [area, edge]


def draw_line(examples: Sequence[Line], out: Path) -> list[Path]:
    """Actions over time: a row per example, its signed measure and then its flows.

    Args:
        examples: The rows.
        out: File name without suffix.

    Returns:
        The files written.
    """
    columns = len(examples[0].flows)

    def fill(figure: Figure) -> None:
        heights = [*len(examples) * [1.0], 0.09]
        parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
        *rows, last = parts
        for row, example in zip(rows, examples, strict=True):
            fill_line(row, example)
        last.legend(handles=legend_line(), loc="center", ncols=7)

    return draw(out, (2.6 + 3.9 * columns, 3.7 * len(examples) + 0.3), fill)


def legend_line() -> list[Any]:
    """What the marks on the line mean."""
    return [
        Patch(color=BLUE, alpha=0.3, label="components, w > 0"),
        Patch(color=VERMILLION, alpha=0.3, label="component, w < 0"),
        Line2D([], [], color=BLACK, label="signed measure"),
        Line2D([], [], color=GREY, ls=DASHED, lw=1.4, label="behaviour policy"),
        Patch(color=BLUE, alpha=0.6, label="generated"),
        *legend_regions("near w < 0: % of actions"),
    ]


def legend_regions(inside: str) -> list[Any]:
    """What the marks of regions mean."""
    return [
        Patch(facecolor="none", edgecolor=VERMILLION, hatch=HATCH, label="Case II"),
        Line2D([], [], color=BLACK, ls=DOTTED, lw=1.3, label=inside),
    ]


def fill_line(figure: SubFigure, example: Line) -> None:
    """One row; everything shares the vertical axis of actions."""
    figure.suptitle(example.title, x=0.005, ha="left", weight="bold", fontsize=12)
    count = len(example.flows)
    widths = [1.25, *count * [2.0, 0.62]]
    axes = figure.subplots(1, 1 + 2 * count, sharey=True, width_ratios=widths)
    draw_measure(axes[0], example)
    for flow, wide, narrow in zip(example.flows, axes[1::2], axes[2::2], strict=True):
        draw_flow(wide, example, flow)
        draw_actions(narrow, example, flow)


def draw_measure(axes: Axes, example: Line) -> None:
    """Signed components of the target, their sum, and the behaviour policy."""
    for term in example.terms:
        color = BLUE if term.sum() > 0 else VERMILLION
        axes.fill_betweenx(example.action, 0, term, color=color, alpha=0.3, linewidth=0)
    axes.plot(example.behaviour, example.action, color=GREY, linestyle=DASHED, lw=1.4)
    axes.plot(example.terms.sum(0), example.action, color=BLACK, lw=1.6)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set(title="Signed measure", xlabel="Density at t = 0", ylabel="Action")


def draw_flow(axes: Axes, example: Line, flow: Transport) -> None:
    """Density of the particles over time, trajectories and Case II."""
    action, paths = example.action, flow.paths[:, :, 0]
    edges = np.linspace(action[0], action[-1], 81)
    heat = [np.histogram(x, edges, density=True)[0] for x in paths[::-1]]
    axes.imshow(
        np.transpose(heat),
        extent=(0, 1, action[0], action[-1]),
        origin="lower",
        aspect="auto",
        interpolation="bilinear",
        cmap=HEAT,
        vmin=0,
        vmax=1.1 * example.terms.sum(0).max(),
    )
    count = paths.shape[1]
    chosen = ((np.arange(TRAJECTORIES) + 0.5) / TRAJECTORIES * count).astype(int)
    axes.plot(example.time[::-1], paths[:, chosen], color=BLACK, lw=0.7, alpha=0.75)
    hatch(axes, example.time, action, example.signed.T)
    axes.set(xlim=(1, 0), ylim=(action[0], action[-1]), title=flow.title)
    axes.set_xticks([1, 0.5, 0], ["1\nnoise", "0.5", "0\ndata"])
    axes.set_xlabel("Time t", labelpad=-8)
    axes.grid(False)


def draw_actions(axes: Axes, example: Line, flow: Transport) -> None:
    """What the field generates beside the signed measure."""
    (centre,), radius = example.disc
    for end in (centre - radius, centre + radius):
        axes.axhline(end, color=BLACK, linestyle=DOTTED, lw=1.3)
    edges = np.linspace(example.action[0], example.action[-1], 61)
    axes.hist(
        flow.actions[:, 0],
        edges,
        density=True,
        orientation="horizontal",
        color=BLUE,
        alpha=0.6,
    )
    axes.plot(example.terms.sum(0), example.action, color=BLACK, lw=1.4)
    share = near(flow.actions, example.disc).mean()
    axes.set_title(f"{100 * share:.1f} %", loc="center")
    axes.set_xlabel("Density")
    axes.set_xticks([0])


def draw_plane(plane: Plane, out: Path) -> list[Path]:
    """Candidates and particles at several times: a row each.

    Args:
        plane: The example.
        out: File name without suffix.

    Returns:
        The files written.
    """
    times = (*plane.snapshots, 0.0)

    def fill(figure: Figure) -> None:
        lines = 1 + len(plane.flows)
        grid = figure.subplots(lines, len(times), sharex=True, sharey=True)
        for column, t in zip(grid.T, times, strict=True):
            draw_candidates(column[0], plane, t)
            for axes, flow in zip(column[1:], plane.flows, strict=True):
                draw_particles(axes, plane, flow, t)
            column[0].set_title(f"t = {t:g}" if t else "t = 0: actions")
            column[-1].set_xlabel("Action 1")
        titles = ["Weighted candidates", *(flow.title for flow in plane.flows)]
        for row, title in zip(grid, titles, strict=True):
            row[0].set_ylabel(f"{title}\n\nAction 2")
        for axes, flow in zip(grid[1:, -1], plane.flows, strict=True):
            share = near(flow.actions, plane.disc).mean()
            note(axes, f"{100 * share:.1f} % in the circle")
        figure.legend(handles=legend_plane(), loc="outside lower center", ncols=5)

    return draw(out, (2.9 * len(times) + 0.6, 2.9 * (1 + len(plane.flows)) + 0.4), fill)


def legend_plane() -> list[Any]:
    """What the marks in the plane mean."""
    dots = {"ls": "", "marker": "o", "markersize": 4}
    return [
        Line2D([], [], color=BLUE, label="w > 0; particles", **dots),
        Line2D([], [], color=VERMILLION, label="w < 0", **dots),
        Line2D([], [], color=GREY, lw=1, label=f"path since t + {TAIL:g}"),
        *legend_regions("one standard deviation around w < 0"),
    ]


def note(axes: Axes, text: str) -> Any:
    """A line of text at the bottom."""
    style = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    return axes.text(
        0.5, 0.03, text, ha="center", transform=axes.transAxes, fontsize=10, bbox=style
    )


def draw_candidates(axes: Axes, plane: Plane, t: float) -> None:
    """Noised candidates by the sign of their weights."""
    colors = np.where(plane.weights < 0, VERMILLION, BLUE)
    order = np.random.default_rng(0).permutation(len(colors))
    x = plane.candidates[plane.at(t)][order]
    axes.scatter(*x.T, s=5, c=colors[order], alpha=0.6, linewidths=0, rasterized=True)
    frame(axes, plane)
    for mark in hatch(axes, plane.axis, plane.axis, plane.signed[plane.at(t)])[:1]:
        mark.remove()


def tails(flow: Transport, t: float) -> np.ndarray:
    """Where particles were of late, as polylines [P, L, 2]."""
    start, end = flow.at(min(1.0, t + TAIL)), flow.at(t)
    return flow.paths[start : end + 1].swapaxes(0, 1)


def draw_particles(axes: Axes, plane: Plane, flow: Transport, t: float) -> None:
    """Particles with tails, and Case II."""
    lines = LineCollection(list(tails(flow, t)), colors=GREY, linewidths=0.7, alpha=0.6)
    axes.add_collection(lines).set_rasterized(True)
    x = flow.paths[flow.at(t)]
    axes.scatter(*x.T, s=7, color=BLUE, alpha=0.8, linewidths=0, rasterized=True)
    frame(axes, plane)
    hatch(axes, plane.axis, plane.axis, plane.signed[plane.at(t)])


def frame(axes: Axes, plane: Plane) -> None:
    """Limits, and the negative component."""
    limits = (plane.axis[0], plane.axis[-1])
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.grid(False)
    centre, radius = plane.disc
    ring = Circle((centre[0], centre[1]), radius, fill=False, ls=DOTTED, lw=1.3)
    axes.add_patch(ring).set_zorder(3)


def animate_plane(plane: Plane, out: Path) -> None:
    """Particles from noise to data under every field, as a looping GIF."""
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    count = len(plane.flows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.9 * count, 3.25))
        FigureCanvasAgg(figure)
        figure.subplots_adjust(0.01, 0.02, 0.99, 0.92, wspace=0.03)
        panels = figure.subplots(1, count)
        dots = [axes.scatter([], [], s=6, color=BLUE, lw=0) for axes in panels]
        for axes, flow in zip(panels, plane.flows, strict=True):
            frame(axes, plane)
            axes.set(xticks=[], yticks=[], title=flow.title)
        marks: list[Any] = []

        def show(i: int) -> list[Any]:
            while marks:
                marks.pop().remove()
            i = min(i, len(plane.time) - 1)
            for axes, flow, dot in zip(panels, plane.flows, dots, strict=True):
                x = flow.paths[flow.at(plane.time[i])]
                dot.set_offsets(x)
                marks.extend(hatch(axes, plane.axis, plane.axis, plane.signed[i]))
                share = near(x, plane.disc).mean()
                marks.append(note(axes, f"{100 * share:.0f} % in the circle"))
            marks.append(
                figure.text(0.99, 0.946, f"t = {plane.time[i]:.2f}", ha="right")
            )
            return []

        fps = len(plane.time) / SECONDS
        frames = len(plane.time) + round(HOLD * fps)
        movie = FuncAnimation(figure, show, frames=frames, cache_frame_data=False)
        movie.save(out, PillowWriter(fps=round(fps)), dpi=DPI)
