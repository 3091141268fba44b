"""DRAKES: the gradient of the score, through sampling (Wang et al. 2025).

Chain     the first steps hard; the last ones relaxed, x_s = (1 - m) x_t + m y,
          y ~ Gumbel-softmax(log q, tau), m the mask channel of x_t
End       the likeliest letters, with the gradient of the relaxed ones
Loss      - mean r(x) + alpha sum over steps of (m_t - m_s) / m_t
            sum_i m_i KL(p_theta(. | x_t)_i || p_pre(. | x_t)_i)

The mask is a soft channel of its own: no argmax of ties decides what is masked. The
released code's KL counts what is not masked, so that its alpha does not carry over.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from simpo.dna.finetune import TuneState
from simpo.dna.guidance import soft_prediction
from simpo.dna.objective import Objective
from simpo.generative.masked import MaskedDiffusion, no_labels
from simpo.randomness import uniform
from simpo.types import Metrics, SimpoError

__all__ = ["Drakes"]

TINY = 1e-9
"""Added to shares before their logarithm is taken."""


@dataclass(frozen=True, kw_only=True)
class Drakes:
    """Updates by the gradient of the score."""

    model: MaskedDiffusion
    """The generative model."""
    batch_size: int = 32
    """Sequences per update."""
    soft_steps: int = 8
    """Steps at the end that gradients go through."""
    gumbel: float = 1.0
    """tau, temperature of the relaxed letters."""
    path_kl: float = 0.0
    """alpha, weight of the divergence from the pretrained network, in nats."""
    learning_rate: float = 1e-4
    """Of Adam."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    def check(self) -> None:
        """Require numbers that are possible.

        Raises:
            SimpoError: Something is not so.
        """
        if self.batch_size < 1:
            raise SimpoError("batch_size must be at least 1")
        if not 1 <= self.soft_steps <= self.model.denoising_steps:
            raise SimpoError("soft_steps must be between 1 and denoising_steps")
        for name in ("gumbel", "learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise SimpoError(f"{name} must be positive")
        if self.path_kl < 0:
            raise SimpoError("path_kl must not be negative")

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """Adam on clipped gradients."""
        clip = optax.clip_by_global_norm(self.max_grad_norm)
        return optax.chain(clip, optax.adam(self.learning_rate))

    def init(self, net: Any, key: Array) -> TuneState:
        """From a pretrained network."""
        opt = self.optimiser.init(net)
        return TuneState(net, opt, (), key, jnp.zeros((), jnp.int32))

    def round(
        self, state: TuneState, objective: Objective, reference: Any
    ) -> tuple[TuneState, dict[str, float]]:
        """One update."""
        state, metrics = self.update(objective, state, reference)
        steps = self.model.denoising_steps
        per_step = 2 if self.path_kl else 1
        extra = (per_step - 1) * self.soft_steps
        objective.calls.network += self.batch_size * (steps + self.soft_steps + extra)
        objective.calls.oracle += self.batch_size
        return state, {name: float(value) for name, value in metrics.items()}

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def update(
        self, objective: Objective, state: TuneState, reference: Any
    ) -> tuple[TuneState, Metrics]:
        """The gradient of the loss, and a step of Adam."""
        key = jax.random.fold_in(state.key, state.step)
        compute = jax.value_and_grad(self.loss, has_aux=True)
        (loss, metrics), grads = compute(state.net, reference, objective, key)
        change, opt = self.optimiser.update(grads, state.opt, state.net)
        net = optax.apply_updates(state.net, change)
        told = {"drakes_loss": loss, "actor_grad_norm": optax.tree.norm(grads)}
        return TuneState(net, opt, (), state.key, state.step + 1), metrics | told

    def loss(
        self, net: Any, reference: Any, objective: Objective, key: Array
    ) -> tuple[Array, Metrics]:
        """- mean score + alpha KL of the relaxed steps."""
        hard_key, soft_key = jax.random.split(key)
        x = jax.lax.stop_gradient(self.hard_part(net, hard_key))
        probs, kl = self.soft_part(net, reference, soft_key, x)
        best = jax.nn.one_hot(probs.argmax(-1), probs.shape[-1])
        letters = probs + jax.lax.stop_gradient(best - probs)
        scores = objective.soft(letters)
        told = {"score_median": jnp.median(scores), "score_mean": scores.mean()}
        if self.path_kl:
            told |= {"path_kl": kl.mean()}
        return self.path_kl * kl.mean() - scores.mean(), told

    def hard_part(self, net: Any, key: Array) -> Array:
        """The first steps, as in sampling: [B, L, V + 1], one-hot."""
        model, v = self.model, net.alphabet
        predict = model.predictor(net, no_labels(self.batch_size))
        times = model.times[: model.denoising_steps - self.soft_steps + 1]

        def step(letters: Array, row: tuple) -> tuple[Array, None]:
            t, s, key = row
            logp = predict(letters, t)
            return model.turn(key, letters, logp, (t - s) / t)[0], None

        letters = jnp.full((self.batch_size, model.length), v)
        keys = jax.random.split(key, len(times) - 1)
        letters, _ = jax.lax.scan(step, letters, (times[:-1], times[1:], keys))
        return jax.nn.one_hot(letters, v + 1)

    def soft_part(
        self, net: Any, reference: Any, key: Array, x: Array
    ) -> tuple[Array, Array]:
        """The last steps: relaxed sequences [B, L, V], and their KL [B]."""
        times, label = self.model.times[-self.soft_steps - 1 :], no_labels(len(x))

        def step(x: Array, row: tuple) -> tuple[Array, Array]:
            t, s, key = row
            chance, masked = (t - s) / t, x[..., -1:]
            logp = self.model.guess(net, x, label, t)
            kl = jnp.zeros(len(x))
            if self.path_kl:
                other = self.model.guess(reference, x, label, t)
                kl = chance * (masked * jnp.exp(logp) * (logp - other)).sum((-2, -1))
            stay = jnp.full_like(masked, jnp.log1p(-chance))
            logq = jnp.concatenate([jnp.log(chance) + logp, stay], axis=-1)
            y = jax.nn.softmax((logq + gumbel(key, logq.shape)) / self.gumbel, axis=-1)
            return (1 - masked) * x + masked * y, kl

        keys = jax.random.split(key, self.soft_steps)
        rows = (times[:-1], times[1:], keys)
        x, kl = jax.lax.scan(jax.checkpoint(step), x, rows)
        return soft_prediction(self.model, net, x, times[-1]), kl.sum(0)


def gumbel(key: Array, shape: tuple[int, ...]) -> Array:
    """Gumbel noise."""
    u = uniform(key, shape, low=TINY)
    return -jnp.log(-jnp.log(u) + TINY)
