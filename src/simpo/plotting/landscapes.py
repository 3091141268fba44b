"""Figure 4: what the reward landscapes pay for a speed, flat to steep."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simpo.envs.landscapes import BODIES, CURVES, Curve, Exponential
from simpo.plotting.style import DASHED, GREY, Below, Look, draw, grid, looks_of

__all__ = ["draw_curves"]

SIZE = (9.0, 3.9)
"""Inches."""
BEYOND = 1.2
"""Speeds are drawn up to so many times the target."""
NAMES = {
    "sqrt": r"sqrt: $\sqrt{u}$",
    "linear": "linear: $u$",
    "square": "square: $u^2$",
    "exp": r"exp: $(e^{ku}-1)\,/\,(e^k-1)$, $k=%g$",
}


def draw_curves(path: Path, k: float = Exponential.k) -> list[Path]:
    """Draw reward per step against speed, a panel per body, a line per curve.

    Args:
        path: File name without suffix.
        k: Steepness of the exponential curve.

    Returns:
        The PNG and the SVG file.

    Raises:
        SimpoError: k is not a positive number.
    """
    curves = {name: cls() for name, cls in CURVES.items()} | {"exp": Exponential(k)}
    labels = {name: NAMES[name].replace("%g", f"{k:g}") for name in curves}
    looks = looks_of(list(curves))

    def fill(figure: Figure) -> None:
        panels = grid(figure, len(BODIES), len(BODIES))
        for axes, body in zip(panels, BODIES, strict=True):
            draw_body(axes, body, curves, looks)
        handles = dict(zip(labels.values(), panels[0].lines, strict=False))
        Below(len(labels), 0.0).draw(figure, handles)

    return draw(path, SIZE, fill)


def draw_body(
    axes: Axes, name: str, curves: dict[str, Curve], looks: dict[str, Look]
) -> None:
    """One body's rewards; the walker's while it stands upright."""
    body = BODIES[name]
    v = np.linspace(0.0, BEYOND * body.target, 601)
    for key, curve in curves.items():
        reward = body.reward(curve(np.minimum(v / body.target, 1.0)))
        axes.plot(v, reward, color=looks[key].color, linestyle=looks[key].line)
    axes.axvline(body.target, color=GREY, linewidth=1.2, linestyle=DASHED)
    axes.text(
        body.target, 0.03, r"$v^*$ ", color=GREY, ha="right",
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    axes.set(xlim=(0.0, v[-1]), ylim=(0.0, 1.05), xlabel="speed $v$ (m/s)")
    axes.set_ylabel("reward per step" + ", upright" * body.stands)
    axes.set_title(f"{name.capitalize()} run, target {body.target:g} m/s")
