"""Ridge regression on what motifs find: a linear oracle that can be read.

h      = q tanh((phi - mean) / (q sd))      features.py, squashed at q = 2 sd
z      = w h + b,   w, b = argmin sum (y - z)^2 + penalty |w|^2
y'     = link(z)

Squashing bounds what one motif can add: without it, an optimiser repeats the motif of
the largest weight. The penalty is the one of the least validation loss. With a logistic
link, w and b minimise the logistic loss instead, by Newton's method.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import linalg, special

from simpo.dna.batches import in_blocks
from simpo.dna.features import Featuriser
from simpo.dna.motifs import Motif
from simpo.dna.oracle import (
    Differentiable,
    Link,
    Logistic,
    Training,
    make_link,
    require_labels,
)
from simpo.types import SimpoError

__all__ = ["PENALTIES", "Fit", "PWMRidge", "logistic", "ridge", "train_ridge"]

PENALTIES = tuple(10.0 ** (k / 2) for k in range(-2, 11))
"""Penalties to choose from: 0.1 to 100,000 by factors of sqrt(10)."""


@dataclass(frozen=True, eq=False)
class PWMRidge(Differentiable):
    """Ridge or logistic regression on motif features.

    Attributes:
        name: What reports and errors call it.
        featuriser: The features.
        mean: Of the features, float32 [F].
        sd: Of the features, float32 [F].
        weight: Of the squashed features, float32 [F].
        bias: b.
        squash: Standard deviations q at which features level off.
        link: From the sum to the value.
        training: What it was trained on.
    """

    name: str
    featuriser: Featuriser
    mean: np.ndarray
    sd: np.ndarray
    weight: np.ndarray
    bias: float
    squash: float
    link: Link
    training: Training

    def soft(self, probs: Array) -> Array:
        """Values [N] of relaxed sequences [N, L, 4]."""
        self.training.require(probs.shape[-2], self.name)
        z = (self.featuriser(probs) - self.mean) / self.sd
        h = self.squash * jnp.tanh(z / self.squash)
        return self.link((h * self.weight).sum(-1) + self.bias)

    def distance(self, tokens: np.ndarray) -> np.ndarray:
        """Share of letters [N] that differ from the nearest training sequence."""
        return self.training.distance(tokens, self.name)


@dataclass(frozen=True, eq=False)
class Fit:
    """A linear model: h @ weight + bias."""

    weight: np.ndarray
    bias: float

    def __call__(self, h: np.ndarray) -> np.ndarray:
        """Sums [N] of features [N, F]."""
        return h @ self.weight + self.bias


def ridge(h: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> Iterator[Fit]:
    """Argmin sum (y - h w - b)^2 + penalty |w|^2, for every penalty; float64."""
    mean, middle = h.mean(0), y.mean()
    centred = h - mean
    gram, moment = centred.T @ centred, centred.T @ (y - middle)
    for penalty in penalties:
        weight = solve(gram, moment, penalty)
        yield Fit(weight, float(middle - mean @ weight))


def solve(gram: np.ndarray, moment: np.ndarray, penalty: float) -> np.ndarray:
    """(gram + penalty 1)^-1 moment."""
    regular = gram + penalty * np.eye(len(gram))
    return linalg.solve(regular, moment, assume_a="pos", overwrite_a=True)


def logistic(
    h: np.ndarray,
    y: np.ndarray,
    penalties: Sequence[float],
    *,
    tolerance: float = 1e-8,
    steps: int = 50,
) -> Iterator[Fit]:
    """Argmin sum log(1 + e^z) - y z + penalty |w|^2 / 2, for every penalty; float64.

    Newton's method from the last answer, until no weight moves by more than
    `tolerance`. From the largest penalty down, so that no start is far off.
    """
    weight, bias = np.zeros(h.shape[1]), float(special.logit(y.mean()))
    for penalty in sorted(penalties, reverse=True):
        for _ in range(steps):
            p = special.expit(h @ weight + bias)
            curvature = np.maximum(p * (1 - p), 1e-10)
            # One step is a weighted ridge of the working response.
            target = h @ weight + bias + (y - p) / curvature
            mean, middle = curvature @ h, curvature @ target
            mean, middle = mean / curvature.sum(), middle / curvature.sum()
            scaled = (h - mean) * np.sqrt(curvature)[:, None]
            moment = scaled.T @ (np.sqrt(curvature) * (target - middle))
            new = solve(scaled.T @ scaled, moment, penalty)
            moved, weight = np.abs(new - weight).max(), new
            bias = float(middle - mean @ weight)
            if moved < tolerance:
                break
        yield Fit(weight, bias)


def train_ridge(
    motifs: Sequence[Motif],
    tokens: np.ndarray,
    labels: np.ndarray,
    val: np.ndarray,
    *,
    name: str = "ridge",
    classify: bool = False,
    penalties: Sequence[float] = PENALTIES,
    squash: float = 2.0,
    affinity: float = 8.0,
    mixture: float = 0.01,
) -> PWMRidge:
    """Fit a ridge, or a logistic regression, on the rows that `val` does not mark.

    Args:
        motifs: M motifs.
        tokens: Sequences [N, L].
        labels: [N]; 0 or 1 of a classifier.
        val: True for the rows that choose the penalty [N].
        name: What the oracle is called.
        classify: Whether the value is a probability.
        penalties: What to choose from.
        squash: Standard deviations at which features level off.
        affinity: Score of a site that is half occupied, in nats.
        mixture: Share of background mixed into the motifs.

    Raises:
        SimpoError: No motifs, or data that do not fit together.
    """
    tokens, labels, val = require_labels(tokens, labels, val, name)
    if not motifs:
        raise SimpoError(f"oracle {name} needs motifs, and there are none")
    link = make_link(labels[~val], classify)
    featuriser = Featuriser(tuple(motifs), affinity, mixture)
    phi = in_blocks(featuriser.compiled, tokens).astype(np.float64)
    mean, sd = phi[~val].mean(0), phi[~val].std(0)
    sd = np.where(sd > 0, sd, 1.0)  # a feature without spread is always zero
    h = squash * np.tanh((phi - mean) / (squash * sd))
    y = labels.astype(np.float64)
    method = logistic if isinstance(link, Logistic) else ridge
    fits = method(h[~val], y[~val], penalties)
    best = min(fits, key=lambda fit: loss(link, fit(h[val]), y[val]))
    return PWMRidge(
        name=name,
        featuriser=featuriser,
        mean=mean.astype(np.float32),
        sd=sd.astype(np.float32),
        weight=best.weight.astype(np.float32),
        bias=best.bias,
        squash=squash,
        link=link,
        training=Training(tokens[~val]),
    )


def loss(link: Link, z: np.ndarray, y: np.ndarray) -> float:
    """Mean squared error of the bounded values, or mean logistic loss."""
    if isinstance(link, Logistic):
        return float(np.mean(np.logaddexp(0, z) - y * z))
    return float(np.mean((np.asarray(link(jnp.asarray(z))) - y) ** 2))
