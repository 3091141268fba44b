"""How much of sampling and fine-tuning of sequences is the network.

python benchmarks/dna.py [--sequences 64] [--steps 128] [--repeats 3]

Sampling at the paper's size against as many calls of the network alone, in one compiled
loop; targets: within 1.3. A round of fine-tuning at laptop size, ridge oracle included,
against its calls of the network and of its gradient alone; target: at least 80 %.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from simpo.cli.bar import LateBar
from simpo.dilated import PAPER
from simpo.dna.finetune import SignedTuning
from simpo.dna.grammar import liver
from simpo.dna.guidance import write
from simpo.dna.objective import Objective
from simpo.dna.ridge import train_ridge
from simpo.experiments.dna_world import SETUPS
from simpo.generative.masked import MaskedDiffusion, no_labels
from simpo.weighting import Linear


def alternate(functions, repeats, label):
    """Seconds of each function [F, repeats], in turn, after a first call of each."""
    with LateBar("calls", len(functions) * (repeats + 1)) as bar:
        seconds = []
        for number in range(repeats + 1):
            for place, function in enumerate(functions):
                bar.update(label, number * len(functions) + place)
                begun = time.perf_counter()
                jax.block_until_ready(function())
                seconds.append(time.perf_counter() - begun)
    return np.reshape(seconds, (repeats + 1, -1)).T[:, 1:]


def calls_alone(net, letters, count):
    """The network so many times on letters [N, L], each fed by the one before."""
    x = jax.nn.one_hot(letters, net.alphabet + 1)
    label, times = no_labels(len(x)), jnp.zeros(len(x))

    def step(total, _):
        return total + net(x + 1e-9 * total, times, label).mean(), None

    return jax.lax.scan(step, 0.0, length=count)[0]


def gradients_alone(net, letters, count):
    """The gradient of the network so many times."""
    x = jax.nn.one_hot(letters, net.alphabet + 1)
    label, times = no_labels(len(x)), jnp.zeros(len(x))

    def step(net, _):
        slope = jax.grad(lambda n: n(x, times, label).mean())(net)
        return jax.tree.map(lambda w, d: w - 1e-9 * d, net, slope), None

    return jax.lax.scan(step, net, length=count)[0]


def sampling(sequences, steps, repeats):
    """Ratio of sampling to its network calls, at the paper's size."""
    model = MaskedDiffusion(length=200, denoising_steps=steps)
    net = PAPER.init(jax.random.key(0))
    key, letters = jax.random.key(1), jnp.full((sequences, 200), 4)
    alone = jax.jit(calls_alone, static_argnums=2)
    whole, bare = alternate(
        (lambda: write(model, sequences, net, key), lambda: alone(net, letters, steps)),
        repeats,
        "sampling",
    )
    print(f"sampling: {sequences} sequences x {steps} steps, {np.median(whole):.1f} s")
    tell("sampling / network calls", whole / bare)


def tuning(repeats):
    """Share of a round of fine-tuning that its network calls take, at laptop size."""
    setup, rng = SETUPS["laptop"], np.random.default_rng(0)
    grammar = liver(setup.insert)
    tokens = grammar.sample(rng, 2_000)
    labels = np.asarray(grammar.activity(jax.nn.one_hot(tokens, 4)))
    val = np.arange(len(tokens)) % 5 == 0
    objective = Objective(train_ridge(grammar.motifs, tokens, labels, val))
    model = MaskedDiffusion(setup.insert, setup.denoising_steps, masks=setup.masks)
    method = SignedTuning(
        model=model,
        weighting=Linear(floor=-1.0),
        group=setup.group,
        inner_updates=setup.inner_updates,
    )
    net = setup.size.init(jax.random.key(0))
    state = method.init(net, jax.random.key(1))
    group = jnp.full((setup.group, setup.insert), 4)
    masked = jnp.full((setup.group * setup.masks, setup.insert), 4)
    forward = jax.jit(calls_alone, static_argnums=2)
    backward = jax.jit(gradients_alone, static_argnums=2)
    whole, sampled, learnt = alternate(
        (
            lambda: method.round(state, objective, net)[0],
            lambda: forward(net, group, model.denoising_steps),
            lambda: backward(net, masked, setup.inner_updates),
        ),
        repeats,
        "fine-tuning",
    )
    print(f"a round of fine-tuning: {np.median(whole):.3f} s")
    tell("share of network calls", (sampled + learnt) / whole)


def tell(name, ratios):
    """Median and range."""
    print(
        f"{name:28} {np.median(ratios):.2f}  [{ratios.min():.2f}, {ratios.max():.2f}]"
    )


def main() -> None:
    """Both ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    tuning(10 * options.repeats)
    sampling(options.sequences, options.steps, options.repeats)


if __name__ == "__main__":
    main()
