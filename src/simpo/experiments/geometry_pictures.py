"""What the pictures of the geometry study show, as plain arrays."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from simpo.experiments.fields import Fitted, evaluate
from simpo.experiments.mixture import CASE_ONE, CASE_TWO, PLANE, Example
from simpo.plotting import geometry as plots
from simpo.plotting import matching
from simpo.randomness import normal

__all__ = [
    "ACTIONS",
    "SEEN",
    "line_picture",
    "loss_picture",
    "plane_picture",
]

ACTIONS = np.linspace(-3.5, 3.5, 281)
"""Where densities and fields on the line are computed."""
SEEN = 0.02
"""Density of pi_old's path from which on a fitted field is judged: it saw data."""
SNAPSHOTS = (0.45, 0.3, 0.15)
"""Times of the pictures, all of them times of the animation."""
AXIS = np.linspace(-2.6, 2.6, 79)
"""Both coordinates of the plane."""
EARLY = (0, 3)
"""Snapshots of a fit that are drawn beside the last."""


def line_picture(
    example: Example, time: np.ndarray, flows: tuple[plots.Transport, ...]
) -> plots.Line:
    """A row of `line.png`."""
    mixture, x = example.mixture, ACTIONS[:, None]
    return plots.Line(
        title=example.title,
        action=ACTIONS,
        time=time,
        terms=mixture.terms(x, 0.0).T,
        behaviour=mixture.behaviour.density(x, 0.0),
        signed=mixture.density(x, time[:, None]),
        disc=example.disc,
        flows=flows,
    )


def plane_picture(
    flows: tuple[plots.Transport, ...], frames: int, seed: int
) -> plots.Plane:
    """What `plane.png` and `particles.gif` show."""
    mixture, time = PLANE.mixture, np.linspace(1, 0, frames)
    count = flows[0].paths.shape[1]
    grid = np.stack(np.meshgrid(AXIS, AXIS), -1)
    draw_key, noise_key = jax.random.split(jax.random.key(seed))
    x, weights = (np.asarray(a[0]) for a in mixture.sample_behaviour(draw_key, count))
    t = time[:, None, None]
    return plots.Plane(
        axis=AXIS,
        time=time,
        snapshots=SNAPSHOTS,
        signed=np.stack([mixture.density(grid, t) for t in time]),
        candidates=(1 - t) * x + t * np.asarray(normal(noise_key, x.shape)),
        weights=weights,
        disc=PLANE.disc,
        flows=flows,
    )


def cut(example: Example, t: float, snapshots: Sequence[Fitted]) -> matching.Cut:
    """Fields of an example on the line at one time."""
    mixture, x = example.mixture, ACTIONS[:, None]
    return matching.Cut(
        time=t,
        action=ACTIONS,
        signed=mixture.density(x, t),
        seen=mixture.behaviour.density(x, t) > SEEN,
        exact=mixture.velocity(x, t)[:, 0],
        fitted={s.step: evaluate(s.net, x, t)[:, 0] for s in snapshots},
    )


def loss_picture(
    one: Sequence[Fitted],
    clipped: Sequence[Fitted],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
) -> matching.Loss:
    """What `loss.png` shows."""
    mixture, t = CASE_TWO.mixture, SNAPSHOTS[-1]
    x = (1 - t) * mixture.means[:2]
    curvature = mixture.density(x, t) / mixture.behaviour.density(x, t)
    return matching.Loss(
        curvature=(float(curvature[0]), float(curvature[1])),
        case_one=tuple(cut(CASE_ONE, t, one[-1:]) for t in SNAPSHOTS),
        case_two=cut(CASE_TWO, t, [*(clipped[i] for i in EARLY), clipped[-1]]),
        fits={
            bound: {k: np.array([row[k] for row in rows]) for k in rows[0]}
            for bound, rows in curves.items()
        },
    )
