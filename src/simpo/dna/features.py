"""What motifs find in a sequence, as features; and which motifs explain labels.

phi(x) = [best_m, log(1 + exp(total_m - a))]_m, GC, GC^2        2 M + 2 features

exp(total - a) is the occupancy of motif m by a factor of which a site with the score a
(nats) is half occupied. At a = 0 the feature would be little but the background's sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simpo.dna.batches import in_blocks
from simpo.dna.motifs import Motif
from simpo.dna.scan import Bank, scan

__all__ = ["Featuriser", "choose_motifs", "forward_select"]


@dataclass(frozen=True, eq=False)
class Featuriser:
    """Features of sequences.

    Attributes:
        motifs: M motifs.
        affinity: Score at which a site is half occupied, in nats.
        mixture: Share of background mixed into the motifs.
    """

    motifs: Sequence[Motif]
    affinity: float = 8.0
    mixture: float = 0.01

    @cached_property
    def bank(self) -> Bank:
        """The motifs made ready."""
        return Bank.of(self.motifs, self.mixture)

    def __call__(self, probs: Array) -> Array:
        """Features [N, 2 M + 2] of sequences [N, L, 4]."""
        found = scan(self.bank, probs)
        gc = probs[..., 1:3].sum(-1).mean(-1, keepdims=True)
        occupancy = jax.nn.softplus(found.total - self.affinity)
        return jnp.concatenate([found.best, occupancy, gc, gc**2], -1)

    @cached_property
    def compiled(self) -> jax.stages.Wrapped:
        """Features of tokens [N, L]."""
        return jax.jit(lambda tokens: self(jax.nn.one_hot(tokens, 4)))


def choose_motifs(
    featuriser: Featuriser, tokens: np.ndarray, labels: np.ndarray, count: int
) -> tuple[Motif, ...]:
    """The motifs whose occupancies explain labels [N] of sequences [N, L] best.

    To be called with training rows alone.
    """
    m = len(featuriser.motifs)
    occupancy = in_blocks(featuriser.compiled, tokens)[:, m : 2 * m]
    chosen = forward_select(occupancy.astype(np.float64), labels, count)
    return tuple(featuriser.motifs[i] for i in chosen)


def forward_select(features: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Columns of [N, F] that explain labels [N], the best first: places [count].

    Each is the one that correlates most with what the earlier ones leave
    unexplained (orthogonal matching pursuit), so that of a family of near-identical
    motifs only one is taken.
    """
    rest = features - features.mean(0)
    size = np.linalg.norm(rest, axis=0)
    left = labels - labels.mean()
    chosen: list[int] = []
    for _ in range(min(count, features.shape[1])):
        norm = np.linalg.norm(rest, axis=0)
        usable = norm > 0.1 * size
        usable[chosen] = False
        if not usable.any():
            break
        gain = np.abs(left @ rest) / np.where(usable, norm, np.inf)
        best = int(gain.argmax())
        unit = rest[:, best] / norm[best]
        left = left - unit * (unit @ left)
        rest = rest - np.outer(unit, unit @ rest)
        chosen.append(best)
    return np.array(chosen)
