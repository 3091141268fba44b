"""iDEM, iterated denoising energy matching (arXiv 2402.06121), as a policy.

Goal       pi(a|s) = exp(Q(s, a) / lambda) / Z(s), the energy being -Q
Critics    y = r + gamma (1 - terminated) min_k Qbar_k(s', a'),  a' ~ pi_theta(s')
Noised     x_t = alpha a + sigma eps, a from replay
Proposals  a_i = (x_t - sigma eps_i) / alpha inside the box, i = 1..N
Weights    w_i = N softmax_i(min_k Qbar_k(s, a_i) / (lambda u)),  u = mean |dQ/da|
Actor      theta minimises  || eps_theta(x_t, t, s) - eps* ||^2,
           eps* = -(sigma / alpha) mean_i w_i dQ(s, a_i)/da / (lambda u)

The score of the smoothed density is its expected gradient, divided by alpha: integrate
d log pi / da by parts against p(a | x_t). SDAC weighs the same proposals' noise instead
and needs no gradient; the two agree where pi vanishes at the edge of the box. Where it
does not, the integral has a term at the edge, which eps* lacks. Near t = 1 the factor
sigma / alpha, up to 119, multiplies the error of a finite mean. `bounded` mends that,
and part of the edge: eps* that leads out of the box becomes the one that leads to it.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from simpo.agents.reverse import ReverseSampling, ReverseState, ReverseTarget
from simpo.agents.scores import (
    Noised,
    action_gradients,
    mean_size,
    noise_bounds,
    propose,
)
from simpo.weighting import Exponential

__all__ = ["IDEM"]


@dataclass(frozen=True, kw_only=True)
class IDEM(ReverseSampling):
    """Denoising energy matching; but for `proposals` and `bounded` the port's."""

    normalised: bool = True
    """Measure values in units of u, the batch's mean |dQ/da|; or else u = 1."""
    bounded: bool = True
    """Keep eps* among the noises that lead from x_t into the box; not so in the port,
    which fits errors a hundred times the gradient near t = 1."""

    def target(
        self, state: ReverseState, noised: Noised, obs: Array, key: Array
    ) -> ReverseTarget:
        """The weighted mean gradient as noise, by the target critics."""
        proposals = propose(noised, key, self.proposals)
        q, gradient = action_gradients(
            state.target_critics, self.weight_critic, obs, proposals.action
        )
        unit = mean_size(gradient) if self.normalised else jnp.ones(())
        weights, lam, temperature_state = self.temperature.weigh(
            state.temperature, Exponential(), q / unit
        )
        slope = jnp.mean(weights.values[..., None] * gradient, axis=1) / (unit * lam)
        free = -noised.sigma / noised.alpha * slope
        bound = jnp.clip(free, *noise_bounds(noised)) if self.bounded else free
        metrics = {
            "gradient_scale": unit,
            "bounded_fraction": (bound != free).mean(dtype=float),
        }
        return ReverseTarget(bound, q, weights, lam, temperature_state, metrics)
