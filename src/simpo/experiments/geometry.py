"""What negative weights do to a flow: the paper's Figure 1 and section 3.4.

The loss at a point x_t = x is, up to a constant, a parabola around the field of
equation 8:

    E[w | x_t = x] |v - v*(x, t)|^2
    Case I    E[w | x_t = x] > 0     minimum at v*: the fit finds it
    Case II   E[w | x_t = x] < 0     maximum at v*: the fit leaves it, without end

Signed Gaussian mixtures have v* in closed form (`mixture`). Their exact fields go
through the same solver as the networks fitted to weighted candidates (`fields`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np
from scipy import special

from simpo.experiments.fields import Fitted, Fitting, evaluate, fit, sample, trace
from simpo.experiments.geometry_pictures import (
    ACTIONS,
    SEEN,
    line_picture,
    loss_picture,
    plane_picture,
)
from simpo.experiments.mixture import (
    CASE_ONE,
    CASE_TWO,
    EXAMPLES,
    PLANE,
    Example,
)
from simpo.experiments.report import Report, Study, Verdict
from simpo.experiments.summary import table
from simpo.generative import Flow
from simpo.generative.flow import Heun
from simpo.matching import ClippedError, RepulsionBound, Unbounded
from simpo.networks import Denoiser
from simpo.plotting import geometry as plots
from simpo.plotting.bandit import rate_interval
from simpo.plotting.matching import draw_loss
from simpo.randomness import normal
from simpo.types import SimpoError

__all__ = ["GeometryStudy"]

PARTICLES = 500
"""Particles in the pictures of the plane."""
QUANTILES = 2000
"""Particles in those of the line: quantiles of the noise, for smooth densities."""
FRAMES = 41
"""Times of the animation."""
TITLES = {
    "positive-only": "Positive weights only",
    "signed": "Signed weights, exact",
    "fitted": "Signed weights, fitted",
}
"""What the pictures call the fields."""
HEADER = ("example", "field", "near w < 0 [95 %]", "in Case II", "KS to signed")
FILES = (
    "tables generated.csv, fits.csv; pictures line, plane, loss (.png, .svg) and "
    "particles.gif"
)
CLIPPED = ClippedError(negative_only=True)
"""The bound of the fits that are sampled where there is a Case II."""


def measure(example: Example, field: str, x: np.ndarray) -> dict[str, Any]:
    """What a field generated, x [N, A]: a row of `generated.csv`."""
    near = plots.near(x, example.disc)
    low, high = rate_interval(int(near.sum()), len(x))
    negative = example.mixture.density(x.astype(np.float64), 0.0) < 0
    distance = critical = ""
    if example is CASE_ONE:
        distance = example.mixture.distance(x)
        critical = float(special.kolmogi(0.01)) / np.sqrt(len(x))
    return {
        "example": example.name,
        "field": field,
        "samples": len(x),
        "near_negative": float(near.mean()),
        "near_negative_low": low,
        "near_negative_high": high,
        "in_case_2": float(negative.mean()),
        "ks_to_signed": distance,
        "ks_critical_1_percent": critical,
    }


def follow(snapshots: Sequence[Fitted]) -> list[dict[str, float]]:
    """Loss, speed and distance to v* over a fit of `CASE_TWO`: rows of `fits.csv`.

    The distance is the RMS of v - v* weighted by the squared signed density, up to a
    factor the norm of the loss's pointwise gradient; poles of v* so do not count.
    """
    x, t = (g.ravel() for g in np.meshgrid(ACTIONS, np.linspace(0.02, 0.98, 49)))
    x = x[:, None]
    kept = CASE_TWO.mixture.behaviour.density(x, t) > SEEN
    x, t = x[kept], t[kept]
    density = CASE_TWO.mixture.density(x, t)
    exact = CASE_TWO.mixture.velocity(x, t)[:, 0]

    def distance(v: np.ndarray, case: np.ndarray) -> float:
        gap = ((v - exact) * density)[case]
        return float(np.linalg.norm(gap) / np.linalg.norm(density[case]))

    rows = []
    for fitted in snapshots:
        v = evaluate(fitted.net, x, t)[:, 0]
        rows.append(
            {
                "step": fitted.step,
                "loss": fitted.loss,
                "max_speed_case_2": float(np.abs(v[density < 0]).max()),
                "distance_case_1": distance(v, density > 0),
                "distance_case_2": distance(v, density < 0),
            }
        )
    return rows


Table = dict[str, dict[str, dict[str, Any]]]
"""Rows of `generated.csv` by example and field."""
Curves = dict[str, list[dict[str, float]]]
"""Rows of `fits.csv` by bound."""


def describe(rows: Table) -> str:
    """The table of the report."""
    lines = [
        [
            example,
            TITLES[field],
            f"{r['near_negative']:.1%} [{r['near_negative_low']:.1%}, "
            f"{r['near_negative_high']:.1%}]",
            f"{r['in_case_2']:.1%}",
            f"{r['ks_to_signed']:.4f}" if r["ks_to_signed"] != "" else "-",
        ]
        for example, fields in rows.items()
        for field, r in fields.items()
    ]
    return table(HEADER, lines)


def judge_case_one(rows: Table) -> list[Verdict]:
    """Remark 3.6, by the exact field and by the fitted one.

    Nothing is decided where the samples are too few to tell the weightings apart.
    """
    row = rows[CASE_ONE.name]
    distance = {field: row[field]["ks_to_signed"] for field in row}
    n, critical = row["signed"]["samples"], row["signed"]["ks_critical_1_percent"]
    decided = distance["positive-only"] > critical
    told = (
        f"Kolmogorov-Smirnov distance of {n} samples {{:.4f}}, 1 % critical value "
        f"{critical:.4f}; with positive weights only {distance['positive-only']:.4f}"
    )
    claims = {
        "signed": "the signed velocity field generates the signed mixture exactly "
        "(Remark 3.6)",
        "fitted": f"reweighted matching learns it, as far as {n} samples can tell "
        "(equations 7 and 8)",
    }
    return [
        Verdict(
            f"Case I: {claim}",
            distance[field] < critical if decided else None,
            told.format(distance[field]),
        )
        for field, claim in claims.items()
    ]


def judge_mass(rows: Table) -> Verdict:
    """The summary of section 3.4: both cases push away from negative samples."""
    less, more, parts = [], [], []
    for example, row in rows.items():
        dropped, *others = row.values()
        less += [o["near_negative_high"] < dropped["near_negative_low"] for o in others]
        more += [o["near_negative_low"] > dropped["near_negative_high"] for o in others]
        shares = [r["near_negative"] for r in (dropped, *others)]
        parts.append(f"{example}: " + ", ".join(f"{share:.1%}" for share in shares))
    return Verdict(
        "Negative weights move generated mass away from negative samples more than "
        "dropping them",
        True if all(less) else False if any(more) else None,
        "mass within a standard deviation of the negative mean, with positive weights "
        "only, with signed weights, and with these fitted: " + "; ".join(parts),
    )


def judge_case_two(curves: Curves) -> Verdict:
    """Case II of section 3.4: no minimum, and away from equation 8."""
    free, clipped = curves.values()
    first, middle, last = free[0], free[len(free) // 2], free[-1]
    key = "distance_case_2"
    return Verdict(
        "Case II: the loss is unbounded and pushes the field away from the solution "
        "(eq. 8)",
        first[key] < middle[key] < last[key]
        and last["loss"] < middle["loss"] < min(first["loss"], 0.0)
        and clipped[0][key] < clipped[-1][key],
        f"after {first['step']}, {middle['step']}, {last['step']} steps: loss "
        f"{first['loss']:.3g}, {middle['loss']:.3g}, {last['loss']:.3g}; distance to "
        f"v* {first[key]:.3g}, {middle[key]:.3g}, {last[key]:.3g}; with errors clipped "
        f"{clipped[0][key]:.3g} at first, {clipped[-1][key]:.3g} at last",
    )


@dataclass(frozen=True)
class GeometryStudy(Study):
    """Figure 1 and section 3.4: where negative weights move the generated actions.

    Exact fields of signed Gaussian mixtures in one and two action dimensions, networks
    fitted to the same weighted candidates, and what the loss does where it has no
    minimum.
    """

    name: ClassVar[str] = "geometry"
    seed: int = 0
    """Seed of samples and fits."""
    particles: int = 4000
    """Samples of every field."""
    fit_steps: int = 4000
    """Adam steps of every fit; what exceeds a multiple of 80 is left out."""
    denoising_steps: int = 100
    """Heun steps from noise to data."""
    quick: bool = False
    """A quarter of the particles and steps, no fit in the plane; under 30 s."""

    def check(self) -> None:
        """Require enough particles and steps, and a seed that is not negative."""
        least = {
            "particles": 2,
            "fit_steps": Fitting.points,
            "denoising_steps": 2,
            "seed": 0,
        }
        for option, bound in least.items():
            if (given := getattr(self, option)) < bound:
                raise SimpoError(f"{option} must be at least {bound}, got {given}")

    @property
    def fitting(self) -> Fitting:
        """How networks are fitted."""
        steps = self.fit_steps // 4 if self.quick else self.fit_steps
        return Fitting(max(steps, Fitting.points))

    @property
    def flow(self) -> Flow:
        """The sampler of every field; nothing is clipped."""
        return Flow(Heun(), self.denoising_steps, clip=None)

    def run(self, report: Report) -> None:
        """Fit, generate, judge and draw."""
        fits = 3 if self.quick else 4
        report.expect(fits * self.fitting.points + len(EXAMPLES) + 4)
        # Annealed, its growth would look as if it had an end.
        steady = replace(self.fitting, final_rate=1.0)
        one = self.fit(report, CASE_ONE, self.fitting, Unbounded())
        free = self.fit(report, CASE_TWO, steady, Unbounded())
        clipped = self.fit(report, CASE_TWO, self.fitting, CLIPPED)
        nets = [one[-1].net, clipped[-1].net, None]
        if not self.quick:
            nets[2] = self.fit(report, PLANE, self.fitting, CLIPPED)[-1].net
        curves = {"unbounded": follow(free), "errors clipped": follow(clipped)}
        for bound, found in curves.items():
            report.add("fits", [{"bound": bound} | row for row in found])
        rows, flows = {}, {}
        for example, net in zip(EXAMPLES, nets, strict=True):
            report.advance(f"generate {example.name}")
            flows[example.name] = self.generate(example, net)
            rows[example.name] = {
                field: measure(example, field, flow.actions)
                for field, flow in flows[example.name].items()
            }
            report.add("generated", list(rows[example.name].values()))
        for verdict in (
            *judge_case_one(rows),
            judge_mass(rows),
            judge_case_two(curves),
        ):
            report.say(verdict)
        report.say()
        report.say(describe(rows))
        report.say(FILES)
        report.advance("draw loss.png")
        draw_loss(loss_picture(one, clipped, curves), report.folder / "loss")
        self.draw(report, {name: tuple(flow.values()) for name, flow in flows.items()})

    def fit(
        self, report: Report, example: Example, fitting: Fitting, bound: RepulsionBound
    ) -> list[Fitted]:
        """The snapshots of a fit; the progress bar moves."""
        report.advance(f"fit {example.name}", 0)
        snapshots = []
        for fitted in fit(fitting, example.mixture, bound, self.seed):
            snapshots.append(fitted)
            report.advance(f"fit {example.name}")
        return snapshots

    def generate(
        self, example: Example, net: Denoiser | None
    ) -> dict[str, plots.Transport]:
        """Actions of every field, and particles on their way to the data."""
        mixture, key = example.mixture, jax.random.key(self.seed)
        n = -(-self.particles // 4) if self.quick else self.particles
        noise = np.asarray(normal(key, (PARTICLES, mixture.dim)), np.float64)
        if mixture.dim == 1:
            noise = special.ndtri((np.arange(QUANTILES)[:, None] + 0.5) / QUANTILES)
        start = np.asarray(normal(key, (n, mixture.dim)), np.float64)
        fields: dict[str, Callable[..., np.ndarray]] = {
            "positive-only": mixture.positive.velocity,
            "signed": mixture.velocity,
        }
        actions = {name: trace(self.flow, f, start)[-1] for name, f in fields.items()}
        if net is not None:
            fields["fitted"] = partial(evaluate, net)
            actions["fitted"] = np.asarray(sample(self.flow, net, key, n))
        return {
            name: plots.Transport(
                TITLES[name], trace(self.flow, field, noise), actions[name]
            )
            for name, field in fields.items()
        }

    def draw(
        self, report: Report, flows: Mapping[str, tuple[plots.Transport, ...]]
    ) -> None:
        """All pictures of particles."""
        report.advance("draw line.png")
        time = np.linspace(0, 1, self.denoising_steps + 1)
        lines = [line_picture(e, time, flows[e.name]) for e in (CASE_ONE, CASE_TWO)]
        plots.draw_line(lines, report.folder / "line")
        report.advance("draw plane.png")
        frames = (FRAMES + 1) // 2 if self.quick else FRAMES
        plane = plane_picture(flows[PLANE.name], frames, self.seed)
        plots.draw_plane(plane, report.folder / "plane")
        report.advance("draw particles.gif")
        plots.animate_plane(plane, report.folder / "particles.gif")
