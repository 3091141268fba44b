"""SDAC, Soft Diffusion Actor-Critic (arXiv 2502.00361).

Goal       pi(a|s) = exp(Q(s, a) / lambda) / Z(s): maximum entropy, no policy gradient
Critics    y = r + gamma (1 - terminated) min_k Qbar_k(s', a'),  a' ~ pi_theta(s')
Noised     x_t = alpha a + sigma eps, a from replay
Proposals  a_i = (x_t - sigma eps_i) / alpha inside the box, i = 1..N
Weights    w_i = N softmax_i(min_k Q_k(s, a_i) / lambda)
Actor      theta minimises  || eps_theta(x_t, t, s) - mean_i w_i eps_i ||^2

Reverse sampling score matching. Under the truncated proposals q(a | x_t), proportional
to N(x_t; alpha a, sigma^2) inside the box, the weights make samples of p(a | x_t) under
pi, so mean_i w_i eps_i tends to E[eps | x_t], which is -sigma times the score of pi's
path: exactly what a diffusion model of pi predicts, wherever x_t comes from.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from simpo.agents.reverse import ReverseSampling, ReverseState, ReverseTarget
from simpo.agents.scores import Noised, propose
from simpo.weighting import Exponential

__all__ = ["SDAC"]


@dataclass(frozen=True, kw_only=True)
class SDAC(ReverseSampling):
    """Soft diffusion actor-critic; but for `proposals` the defaults are the port's."""

    def target(
        self, state: ReverseState, noised: Noised, obs: Array, key: Array
    ) -> ReverseTarget:
        """The weighted mean of the proposals' noise, by the online critics."""
        proposals = propose(noised, key, self.proposals)
        q = self.weight_critic(state.critics.candidates(obs, proposals.action))
        weights, lam, temperature_state = self.temperature.weigh(
            state.temperature, Exponential(), q
        )
        noise = jnp.mean(weights.values[..., None] * proposals.noise, axis=1)
        return ReverseTarget(noise, q, weights, lam, temperature_state, {})
