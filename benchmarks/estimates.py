"""What finite samples cost: the tables of three agents' pages, on laws known exactly.

    python benchmarks/estimates.py proposals      # docs/agents/sdac.md
    python benchmarks/estimates.py edge           # docs/agents/idem.md
    python benchmarks/estimates.py entropy        # docs/agents/dacer.md

Each takes about a minute on one core. The critic is the log density of a Gaussian, so
at lambda = 1 the policy to be learnt is that Gaussian inside the box. `proposals`
compares SDAC's target with the exact posterior mean, `edge` the samples of trained
policies with the exact mean, and `entropy` DACER's estimate with the entropy of a
Gaussian; it needs scikit-learn (the extra `test`).
"""

import argparse
from collections.abc import Iterable, Iterator
from functools import partial
from math import floor, log10
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import norm, truncnorm

from simpo.agents import DACER, IDEM, SDAC
from simpo.agents.reverse import ReverseSampling
from simpo.agents.scores import Noised, add_noise, truncated_normal
from simpo.generative import Diffusion, DPMSolver2M
from simpo.mixtures import Mixture, entropy_bound, fit_mixtures
from simpo.randomness import uniform
from simpo.temperature import Fixed
from simpo.types import EnvSpec
from simpo.weighting import weight_metrics

STATES, PROPOSALS = 4_000, (16, 64, 500)
SEEDS, UPDATES, BATCH, SAMPLES = 8, 800, 128, 4_000
SETS, STD, DIMENSIONS = 64, 0.1, (1, 2, 3, 6, 8, 17)


class Gaussian(NamedTuple):
    """A critic whose Q is the log density of N(mean, std^2), but for a constant."""

    mean: Array | float
    std: float

    def candidates(self, obs: Array, actions: Array) -> Array:
        """Values [1, B, N] of actions [B, N, A]."""
        return -0.5 * (((actions - self.mean) / self.std) ** 2).sum(-1)[None]


def print_table(
    corner: str, columns: Iterable[object], rows: dict[str, Iterable[str]]
) -> None:
    """A table in Markdown, each cell as soon as it is known."""
    head = [corner, *map(str, columns)]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for label, cells in rows.items():
        print(f"| {label} |", end="", flush=True)
        for cell in cells:
            print(f" {cell} |", end="", flush=True)
        print()


def brief(x: float) -> str:
    """Two digits, or all that stand before the point."""
    return f"{x:.{max(0, 1 - floor(log10(x)))}f}".removeprefix("0")


@partial(jax.jit, static_argnums=0)
def proposed(agent: SDAC, mean: Array, std: float, key: Array) -> tuple:
    """Noised samples of N(mean, std^2) inside the box [B, A]; SDAC's target of them."""
    keys, obs = jax.random.split(key, 4), jnp.zeros((STATES, 1))
    u = uniform(keys[0], mean.shape, low=2.0**-23)
    action = mean + std * truncated_normal(u, (-1 - mean) / std, (1 - mean) / std)
    noised = add_noise(agent.model, keys[1], action)
    state = agent.init(keys[2], EnvSpec(1, mean.shape[1]))
    state = state._replace(critics=Gaussian(mean[:, None], std))
    return noised, agent.target(state, noised, obs, keys[3])


def posterior_mean(noised: Noised, mean: np.ndarray, std: float) -> np.ndarray:
    """E[a | x_t] of N(mean, std^2) inside the box [B, A]."""
    x, _, alpha, sigma = (np.asarray(part, float) for part in noised)
    precision = std**-2 + (alpha / sigma) ** 2
    centre, width = (mean / std**2 + alpha * x / sigma**2) / precision, precision**-0.5
    low, high = (-1 - centre) / width, (1 - centre) / width
    shift = (norm.pdf(low) - norm.pdf(high)) / (norm.cdf(high) - norm.cdf(low))
    return centre + width * shift


def proposal_error(dims: int, std: float, n: int) -> str:
    """Root mean square error of the clean action, effective sample size."""
    agent = SDAC(proposals=n, temperature=Fixed(1.0))
    mean = np.random.default_rng(0).uniform(-1, 1, (STATES, dims)).astype(np.float32)
    noised, target = proposed(agent, mean, std, jax.random.key(0))
    x, _, alpha, sigma = (np.asarray(part, float) for part in noised)
    clean = (x - sigma * np.asarray(target.noise)) / alpha
    error = np.sqrt(np.mean((clean - posterior_mean(noised, mean, std)) ** 2))
    ess = float(weight_metrics(target.weights)["weight_ess"])
    return f"{brief(error)} ({brief(ess)})"


def proposals() -> None:
    laws = (1, 0.3), (6, 0.3), (6, 0.1), (17, 0.3), (17, 0.1)
    rows = {f"{a}, {s}": map(partial(proposal_error, a, s), PROPOSALS) for a, s in laws}
    print_table("A, s", (f"N = {n}" for n in PROPOSALS), rows)


def variants() -> dict[str, ReverseSampling]:
    """Agents with small networks, by column."""
    fine = Diffusion(sampler=DPMSolver2M(), denoising_steps=40)
    early = Diffusion(sampler=DPMSolver2M(), denoising_steps=40, t_max=0.9)
    common = {"temperature": Fixed(1.0), "proposals": 64, "width": 32, "depth": 2}
    common |= {"actor_lr": 5e-3, "actor_lr_end": 2e-4, "actor_lr_updates": UPDATES}
    idem = partial(IDEM, normalised=False, **common)
    return {
        "SDAC": SDAC(model=fine, **common),
        "bounded": idem(model=fine),
        "free": idem(model=fine, bounded=False),
        "free, t_max = 0.9": idem(model=early, bounded=False),
    }


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, None, 0))
def learnt(agent: ReverseSampling, critic: Gaussian, key: Array) -> tuple[Array, Array]:
    """Mean sample of a trained policy, and `actor_loss` of its last 100 updates."""
    init_key, sample_key, run_key = jax.random.split(key, 3)
    state, obs = agent.init(init_key, EnvSpec(1, 1)), jnp.zeros((BATCH, 1))
    state = state._replace(critics=critic, target_critics=critic)

    def update(state, key):
        action_key, noise_key, propose_key = jax.random.split(key, 3)
        action = uniform(action_key, (BATCH, 1), low=-1.0)
        noised = add_noise(agent.model, noise_key, action)
        target = agent.target(state, noised, obs, propose_key)
        state, metrics = agent.fit_actor(state, noised, obs, target)
        return state, metrics["actor_loss"]

    state, losses = jax.lax.scan(update, state, jax.random.split(run_key, UPDATES))
    samples = agent.model.sample(state.actor, sample_key, obs[:1], SAMPLES)
    return samples.mean(), losses[-100:].mean()


def learnt_means(mean: float, std: float) -> Iterator[str]:
    """The exact mean, then those of the variants, of several seeds."""
    exact = truncnorm((-1 - mean) / std, (1 - mean) / std, mean, std)
    yield f"{exact.mean():.2f}"
    for agent in variants().values():
        keys = jax.random.split(jax.random.key(0), SEEDS)
        drawn, loss = learnt(agent, Gaussian(mean, std), keys)
        yield f"{drawn.mean():.2f} ({brief(loss.mean())})"


def edge() -> None:
    inside, cut = learnt_means(0.1, 0.2), learnt_means(0.8, 0.2)
    rows = {"N(0.1, 0.2²), inside": inside, "N(0.8, 0.2²), cut at 1": cut}
    print_table("π", ("exact", *variants()), rows)


@partial(jax.jit, static_argnums=1)
def here(x: Array, components: int) -> Array:
    """DACER's estimates [B] from samples [B, S, A]."""
    iterations = DACER().entropy_iterations
    return entropy_bound(fit_mixtures(x, components, iterations=iterations))


def scikit_learn(x: np.ndarray, components: int) -> Array:
    """The same by the authors' means."""
    from sklearn.mixture import GaussianMixture

    fits = [GaussianMixture(components, random_state=42).fit(samples) for samples in x]
    parts = ((fit.weights_, fit.means_, fit.covariances_) for fit in fits)
    return entropy_bound(Mixture(*map(jnp.array, zip(*parts, strict=True))))


def biases(estimate, components: int) -> Iterator[str]:
    """Mean errors on samples of one Gaussian that keeps clear of the edge."""
    for dims in DIMENSIONS:
        shape = SETS, DACER().entropy_samples, dims
        x = STD * np.random.default_rng(0).normal(size=shape)
        bias = estimate(x, components).mean() - dims * norm(scale=STD).entropy()
        yield f"{bias:+.2f}".replace("-", "\N{MINUS SIGN}")


def entropy() -> None:
    count = DACER().entropy_components
    rows = {"here": biases(here, count), "scikit-learn": biases(scikit_learn, count)}
    rows["here, one Gaussian"] = biases(here, 1)
    print_table("bias, nats", (f"A = {DIMENSIONS[0]}", *DIMENSIONS[1:]), rows)


def main() -> None:
    tables = {table.__name__: table for table in (proposals, edge, entropy)}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", choices=tables)
    tables[parser.parse_args().table]()


if __name__ == "__main__":
    main()
