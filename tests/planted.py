"""A small world of sequences: a planted motif, and a network that has seen a few."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from simpo.dilated import Size
from simpo.dna.oracle import Oracle
from simpo.dna.pretrain import Pretraining, pretrain
from simpo.generative.masked import MaskedDiffusion

LENGTH, MOTIF = 16, np.array([3, 2, 1, 0, 2])
MODEL = MaskedDiffusion(length=LENGTH, denoising_steps=8, masks=2)


class Planted(Oracle):
    """tanh of soft counts of one motif."""

    name = "planted"

    def soft(self, probs):
        starts = range(probs.shape[1] - len(MOTIF) + 1)
        same = [
            (probs[:, i : i + len(MOTIF)] * np.eye(4)[MOTIF]).sum((-2, -1))
            for i in starts
        ]
        return jnp.tanh(jnp.exp(2 * (jnp.stack(same, -1) - len(MOTIF))).sum(-1))

    def predict(self, tokens):
        return np.asarray(self.soft(jax.nn.one_hot(tokens, 4)))

    def distance(self, tokens):
        return np.zeros(len(tokens), np.float32)


def sequences(n=600, seed=0):
    """Random sequences, every fifth with the motif."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(0, 4, (n, LENGTH))
    for i in range(0, n, 5):
        start = rng.integers(0, LENGTH - len(MOTIF) + 1)
        letters[i, start : start + len(MOTIF)] = MOTIF
    return letters.astype(np.int8)


@functools.cache
def pretrained():
    """A network after a few hundred updates."""
    net = Size(width=16, dilations=(1, 2)).init(jax.random.key(0))
    settings = Pretraining(
        model=MODEL, steps=300, batch_size=32, decay=0.98, both_strands=False
    )
    return pretrain(settings, net, sequences(), jax.random.key(1))
