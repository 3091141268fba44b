"""Masked diffusion of sequences: letters are masked one by one, and guessed again.

Path         every letter of x_t is masked with probability m_t = (1 - e) t, e = 1e-3
Prediction   p(x_0 | x_t) at masked positions, a copy of x_t elsewhere (SUBS)
Bound        -log p(x) <= E_m E_{x_m} [ (L / m) sum_{i masked} -log p(x_i | x_m) ],
             m ~ U{1..L} masks: the any-order bound, which the time integral equals
Sampling     from t to s a masked position is revealed with probability (t - s) / t

Sahoo et al. 2024 (MDLM); Ou et al. 2025 for the any-order form, which has no weights
that blow up as t goes to 0. Errors are in nats per base. A prediction without time
changes only when a letter is revealed, so a step without calls no network.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from simpo.generative.base import GenerativeModel, check_steps
from simpo.randomness import uniform
from simpo.types import SimpoError

__all__ = [
    "MASKINGS",
    "AllMasked",
    "ExactMasks",
    "InverseTime",
    "MaskedDiffusion",
    "Masking",
    "Masks",
    "SequenceNetwork",
    "no_labels",
]

EPSILON = 1e-3
"""e of the log-linear noise, and the least time that is trained on."""
LAST = 1e-5
"""Where sampling ends; what is masked then takes its likeliest letter."""
NEVER = -1e9
"""Log-probability of letters that a revealed position does not have."""


class SequenceNetwork(Protocol):
    """Logits of letters from a partly masked sequence (see `dilated`)."""

    @property
    def alphabet(self) -> int:
        """V, letters; the mask is letter V."""
        ...

    def __call__(self, x: Array, t: Array, label: Array) -> Array:
        """Sequences [B, L, V + 1], times [B], labels [B, C] -> logits [B, L, V]."""
        ...


def no_labels(n: int) -> Array:
    """The condition of n sequences of a network without labels [N, 0]."""
    return jnp.zeros((n, 0), jnp.int32)


class Masks(NamedTuple):
    """What is masked, and how much it counts.

    Attributes:
        masked: [n, L], bool.
        weight: Of the sum over masked positions, per base [n].
        time: [n].
    """

    masked: Array
    weight: Array
    time: Array


class Masked(NamedTuple):
    """Partly masked copies of sequences.

    Attributes:
        letters: What they were [R B N, L].
        onehot: What is seen of them, the mask last [R B N, L, V + 1].
        labels: [R B N, C].
        masks: What is masked.
    """

    letters: Array
    onehot: Array
    labels: Array
    masks: Masks


class Masking(abc.ABC):
    """How positions are masked in training."""

    @abc.abstractmethod
    def draw(self, key: Array, n: int, length: int) -> Masks:
        """N masks of L positions."""


@dataclass(frozen=True)
class ExactMasks(Masking):
    """m ~ U{1..L} positions, weight L / m: of little variance, and bounded."""

    def draw(self, key: Array, n: int, length: int) -> Masks:
        """Numbers of masks are stratified over the n."""
        place, order = jax.random.split(key)
        u = strata(place, n)
        m = 1 + jnp.floor(u * length).clip(0, length - 1)
        ranks = jnp.argsort(uniform(order, (n, length)), axis=-1)
        return Masks(ranks < m[:, None], 1.0 / m, m / length)


@dataclass(frozen=True)
class InverseTime(Masking):
    """t ~ U[e, 1], each position with probability m_t, weight 1 / t: as published."""

    def draw(self, key: Array, n: int, length: int) -> Masks:
        """Times are stratified over the n."""
        place, chance = jax.random.split(key)
        t = EPSILON + (1.0 - EPSILON) * strata(place, n)
        masked = uniform(chance, (n, length)) < ((1.0 - EPSILON) * t)[:, None]
        return Masks(masked, 1.0 / (t * length), t)


@dataclass(frozen=True)
class AllMasked(Masking):
    """Everything, weight 1: a product of marginals, which is no bound of log p.

    What d1 and WD1 take for a likelihood; in one call, and without context.
    """

    def draw(self, key: Array, n: int, length: int) -> Masks:
        """The same n times."""
        return Masks(
            jnp.ones((n, length), bool), jnp.full(n, 1.0 / length), jnp.ones(n)
        )


MASKINGS = (ExactMasks, InverseTime, AllMasked)


def strata(key: Array, n: int) -> Array:
    """N numbers in [0, 1), one in each n-th, shifted together: [n]."""
    return (uniform(key, ()) + jnp.arange(n) / n) % 1.0


@dataclass(frozen=True)
class MaskedDiffusion(GenerativeModel):
    """A masked diffusion of sequences of L letters."""

    length: int = 200
    """L, letters of a sequence."""
    denoising_steps: int = 128
    """T, steps from all masked to none."""
    masking: Masking = ExactMasks()
    """How positions are masked in training."""
    masks: int = 1
    """R, masks per sequence in training."""
    timed: bool = False
    """Whether the network is told the time, which it need not know."""

    def __post_init__(self) -> None:
        """Reject impossible settings.

        Raises:
            SimpoError: A number out of range.
        """
        check_steps(self.denoising_steps)
        for name in ("length", "masks"):
            if getattr(self, name) < 1:
                raise SimpoError(f"{name} must be at least 1")

    def sample(self, net: SequenceNetwork, key: Array, cond: Array, n: int) -> Array:
        """Draw n sequences per condition: labels [B, C] -> letters [B, N, L]."""
        labels = jnp.repeat(cond, n, axis=0)
        start = jnp.full((len(labels), self.length), net.alphabet)
        predict = self.predictor(net, labels)
        return self.reveal(predict, key, start).reshape(len(cond), n, self.length)

    def matching_error(
        self, net: SequenceNetwork, key: Array, x: Array, cond: Array
    ) -> Array:
        """The bound per base, estimated with R masks: [B, N, L] -> [B, N, R], nats."""
        part = self.mask(net.alphabet, key, x, cond)
        logp = self.guess(net, part.onehot, part.labels, part.masks.time)
        own = jax.nn.one_hot(part.letters, net.alphabet)  # a gather is slow backwards
        missed = -(own * logp).sum(-1)
        return self.per_base(part, missed, x.shape)

    def divergence(
        self,
        net: SequenceNetwork,
        reference: SequenceNetwork,
        key: Array,
        x: Array,
        cond: Array,
    ) -> Array:
        """KL of the chains of two networks per base, from samples of the first.

        sum over steps of (m_t - m_s) / m_t sum_{i masked} KL(p(.|x_t)_i || p_ref): what
        is masked when does not depend on the letters, so samples with fresh masks are
        states of the chain. Shapes [B, N, L] -> [B, N, R], nats.
        """
        part = self.mask(net.alphabet, key, x, cond)
        logp, other = (
            self.guess(n, part.onehot, part.labels, part.masks.time)
            for n in (net, reference)
        )
        kl = (jnp.exp(logp) * (logp - jax.lax.stop_gradient(other))).sum(-1)
        return self.per_base(part, kl, x.shape)

    def many_masked(self, key: Array, x: Array, share: float) -> Array:
        """Which estimates of `matching_error` see m > share L masks.

        The same key draws the same masks: [B, N, L] -> bool [B, N, R].
        """
        b, n, length = x.shape
        masked = self.masking.draw(key, self.masks * b * n, length).masked
        few = sum(m / length <= share for m in range(1, length + 1))
        return self.by_sequence(masked.sum(-1) > few, x.shape)

    def mask(self, alphabet: int, key: Array, x: Array, cond: Array) -> Masked:
        """R partly masked copies of sequences [B, N, L]."""
        b, n, length = x.shape
        masks = self.masking.draw(key, self.masks * b * n, length)
        letters = jnp.tile(x.reshape(b * n, length), (self.masks, 1))
        labels = jnp.tile(jnp.repeat(cond, n, axis=0), (self.masks, 1))
        seen = jnp.where(masks.masked, alphabet, letters)
        onehot = jax.nn.one_hot(seen, alphabet + 1)
        return Masked(letters, onehot, labels, masks)

    def per_base(self, part: Masked, values: Array, shape: tuple) -> Array:
        """Weighted sums over masked positions: [R B N, L] -> [B, N, R]."""
        total = part.masks.weight * jnp.where(part.masks.masked, values, 0.0).sum(-1)
        return self.by_sequence(total, shape)

    def by_sequence(self, values: Array, shape: tuple) -> Array:
        """Values of partly masked copies by sequence: [R B N] -> [B, N, R]."""
        return values.reshape(self.masks, *shape[:2]).transpose(1, 2, 0)

    def guess(self, net: SequenceNetwork, x: Array, label: Array, t: Array) -> Array:
        """Log-probabilities at every position as if it were masked.

        Args:
            net: The network.
            x: Sequences, maybe relaxed, the mask last [B, L, V + 1].
            label: [B, C].
            t: Times [B], or one of all [].

        Returns:
            [B, L, V].
        """
        times = jnp.broadcast_to(t, len(x))
        return jax.nn.log_softmax(net(x, times, label), axis=-1)

    def predictor(
        self, net: SequenceNetwork, label: Array
    ) -> Callable[[Array, Array], Array]:
        """(letters [B, L], time []) -> log p(x_0 | x_t) [B, L, V], SUBS."""

        def predict(letters: Array, t: Array) -> Array:
            x = jax.nn.one_hot(letters, net.alphabet + 1)
            logp = self.guess(net, x, label, t)
            own = letters[..., None] == jnp.arange(net.alphabet)
            known = (letters < net.alphabet)[..., None]
            return jnp.where(known, jnp.where(own, 0.0, NEVER), logp)

        return predict

    @property
    def times(self) -> Array:
        """Times from 1 to almost 0 [T + 1]."""
        return jnp.linspace(1.0, LAST, self.denoising_steps + 1)

    def reveal(
        self, predict: Callable[[Array, Array], Array], key: Array, letters: Array
    ) -> Array:
        """Sample what is masked.

        Args:
            predict: (letters [B, L], time []) -> log-probabilities [B, L, V].
            key: Random key.
            letters: Letters, V where masked [B, L]; the others stay.

        Returns:
            Letters without masks [B, L].
        """
        first = predict(letters, self.times[0])

        def step(carry: tuple, row: tuple) -> tuple:
            letters, logp, stale = carry
            t, s, key = row
            logp = jax.lax.cond(stale, lambda: predict(letters, t), lambda: logp)
            letters, shown = self.turn(key, letters, logp, (t - s) / t)
            return (letters, logp, shown.any() | self.timed), None

        keys = jax.random.split(key, self.denoising_steps)
        rows = (self.times[:-1], self.times[1:], keys)
        start = (letters, first, jnp.asarray(False))
        (letters, _, _), _ = jax.lax.scan(step, start, rows)
        return self.finish(predict, letters, first.shape[-1])

    def turn(
        self, key: Array, letters: Array, logp: Array, chance: Array
    ) -> tuple[Array, Array]:
        """Reveal every masked position with a chance []; and which were [B, L]."""
        u = uniform(key, letters.shape)
        below = jnp.cumsum(jnp.exp(logp), axis=-1)[..., :-1]
        chosen = (u[..., None] > chance * below).sum(-1)
        shown = (letters == logp.shape[-1]) & (u < chance)
        return jnp.where(shown, chosen, letters), shown

    def finish(
        self, predict: Callable[[Array, Array], Array], letters: Array, alphabet: int
    ) -> Array:
        """The likeliest letters for what is masked at the end, if anything is."""
        masked = letters == alphabet
        likeliest = jax.lax.cond(
            masked.any(),
            lambda: predict(letters, self.times[-1]).argmax(-1).astype(letters.dtype),
            lambda: letters,
        )
        return jnp.where(masked, likeliest, letters)
