"""The methods of the paper's Table 3, as what makes sequences, and its claims.

A method is made for a world and a learning rate. Guides need none; fine-tuned networks
get as many scores as each other: rounds times group. RL-D2 weighs by a softmax of
advantages over the bound of the likelihood, which is SiMPO with Exponential.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from simpo.dna.drakes import Drakes
from simpo.dna.finetune import SignedTuning, finetune
from simpo.dna.guidance import CFG, CG, SMC, TDS, BestOf, Guide, Plain, write
from simpo.dna.objective import Calls, Objective
from simpo.experiments.dna_world import World
from simpo.generative.masked import AllMasked
from simpo.temperature import EntropyTarget, Fixed, Shared, Solved
from simpo.weighting import (
    Centred,
    Exponential,
    Linear,
    SignedSoftmax,
    Square,
    Weighting,
)

__all__ = [
    "ABLATION",
    "CLAIMS",
    "METHODS",
    "PUBLISHED",
    "REFERENCE",
    "Designed",
    "Method",
    "compared_with",
    "design",
]

KL = 1.0
"""Nats by which the weights of a group differ from equal ones, at most."""
PATH_KL = 0.01
"""Weight of DRAKES's divergence from the generator; the released one counts others."""
REFERENCE = "RL-D2 = SiMPO-Exp"


@dataclass(frozen=True, eq=False)
class Method:
    """A way to make sequences.

    Attributes:
        make: A guide, or settings of fine-tuning, for a world and a rate.
        tuned: Whether the rate is of any concern.
        labelled: Whether it guides the network that knows labels.
        constrained: Whether it is to write what can be synthesised.
    """

    make: Callable[[World, float], Any]
    tuned: bool = True
    labelled: bool = False
    constrained: bool = False


def solved(nats: float) -> Solved:
    """The temperature at which weights have so much KL from equal ones."""
    return Solved(target=EntropyTarget(nats))


def signed(weighting: Weighting, **changes: Any) -> Method:
    """SiMPO with a weighting; `changes` are fields of `SignedTuning`."""

    def make(world: World, rate: float) -> SignedTuning:
        tuning = SignedTuning(
            model=world.diffusion,
            weighting=weighting,
            temperature=solved(KL),
            group=world.setup.group,
            inner_updates=world.setup.inner_updates,
            learning_rate=rate,
        )
        return replace(tuning, **changes)

    return Method(make)


def wd1(all_masked: bool) -> Method:
    """WD1, with the bound of the likelihood or with everything masked, as released."""
    method = signed(SignedSoftmax(), temperature=Fixed(1.0))

    def make(world: World, rate: float) -> SignedTuning:
        if all_masked:
            diffusion = replace(world.diffusion, masking=AllMasked(), masks=1)
            return replace(method.make(world, rate), model=diffusion)
        return method.make(world, rate)

    return Method(make)


def drakes(path_kl: float) -> Method:
    """DRAKES, as many scores as the others."""

    def make(world: World, rate: float) -> Drakes:
        return Drakes(
            model=world.diffusion,
            batch_size=world.setup.group,
            soft_steps=world.setup.soft_steps,
            path_kl=path_kl,
            learning_rate=rate,
        )

    return Method(make)


def guided(guide: Guide, labelled: bool = False) -> Method:
    """A guide of the network as it is."""
    return Method(lambda *_: guide, tuned=False, labelled=labelled)


METHODS: Mapping[str, Method] = {
    "Pretrained": guided(Plain()),
    "Best of 30": guided(BestOf(30)),
    "CG": guided(CG()),
    "SMC": guided(SMC()),
    "TDS": guided(TDS()),
    "CFG": guided(CFG(), labelled=True),
    "DRAKES-KL": drakes(PATH_KL),
    "DRAKES": drakes(0.0),
    "WD1": wd1(all_masked=True),
    "WD1-ELBO": wd1(all_masked=False),
    REFERENCE: signed(Exponential()),
    "SiMPO-Linear": signed(Linear()),
    "SiMPO-Square": signed(Square()),
    "SiMPO-Lin. Neg.": signed(Linear(floor=-1.0)),
    "SiMPO-Sqr. Neg.": signed(Square(floor=-1.0)),
}

PUBLISHED: Mapping[str, float] = {
    "Pretrained": 0.17,
    "CG": 3.30,
    "SMC": 4.15,
    "TDS": 4.64,
    "CFG": 5.04,
    "DRAKES-KL": 5.61,
    "DRAKES": 6.44,
    "WD1": 3.78,
    REFERENCE: 6.52,
    "SiMPO-Linear": 6.54,
    "SiMPO-Square": 6.77,
    "SiMPO-Lin. Neg.": 7.51,
    "SiMPO-Sqr. Neg.": 7.62,
}
"""Table 3's medians of another oracle, on other data: for their order alone. Those of
SiMPO, WD1 and RL-D2 follow from its column of improvements."""

CLAIMS: tuple[tuple[str, str], ...] = (
    (REFERENCE, "Pretrained"),
    (REFERENCE, "CG"),
    (REFERENCE, "SMC"),
    (REFERENCE, "TDS"),
    (REFERENCE, "CFG"),
    (REFERENCE, "WD1"),
    (REFERENCE, "DRAKES-KL"),
    (REFERENCE, "DRAKES"),
    ("TDS", "CG"),
    ("CFG", "SMC"),
    ("SiMPO-Linear", REFERENCE),
    ("SiMPO-Square", REFERENCE),
    ("SiMPO-Square", "SiMPO-Linear"),
    ("SiMPO-Lin. Neg.", REFERENCE),
    ("SiMPO-Sqr. Neg.", REFERENCE),
    ("SiMPO-Lin. Neg.", "SiMPO-Linear"),
    ("SiMPO-Sqr. Neg.", "SiMPO-Square"),
    ("SiMPO-Sqr. Neg.", "SiMPO-Lin. Neg."),
)
"""Orders of Table 3: the first is above the second."""

VARIED = ("Exp", Exponential()), ("Lin. Neg.", Linear(floor=-1.0))
"""What is tried with other KL targets and inner updates."""

ABLATION: Mapping[str, Method] = {
    **{
        name: METHODS[name]
        for name in (
            *(REFERENCE, "SiMPO-Linear", "SiMPO-Lin. Neg."),
            *("SiMPO-Square", "SiMPO-Sqr. Neg."),
        )
    },
    "Exp, centred": signed(
        Centred(Exponential()), temperature=Shared(Exponential(), solved(KL))
    ),
    **{
        f"{name}, floor -{d:g}": signed(weighting(floor=-d))
        for name, weighting in (("Lin. Neg.", Linear), ("Sqr. Neg.", Square))
        for d in (0.1, 0.3, 3)
    },
    **{
        f"{name}, KL {nats:g}": signed(weighting, temperature=solved(nats))
        for name, weighting in VARIED
        for nats in (0.5, 1.5, 2.0)
    },
    **{
        f"{name}, {m} inner": signed(weighting, inner_updates=m)
        for name, weighting in VARIED
        for m in (1, 2, 8)
    },
    **{
        f"{name}, many masks": signed(weighting(floor=-1.0), negative_masks=0.25)
        for name, weighting in (("Lin. Neg.", Linear), ("Sqr. Neg.", Square))
    },
    **{
        f"{name}, constrained": replace(signed(weighting), constrained=True)
        for name, weighting in (
            *VARIED,
            *(("Linear", Linear()), ("Square", Square())),
            ("Sqr. Neg.", Square(floor=-1.0)),
        )
    },
}
"""What makes the difference: the sign, the baseline, greed, staleness, negative weights
where little is masked, or what no laboratory would order. Changes are from the methods
of Table 3, with floors of -1, 1 nat and as many inner updates as the scale has."""


WITHOUT = {"Lin. Neg.": "Linear", "Sqr. Neg.": "Square"}
"""Weightings with a floor, and what they are without."""


def compared_with(variant: str) -> tuple[str, ...]:
    """The methods of the ablation that a variant may be above.

    Exponential weights, and the weights without a floor, with the same change; a floor
    is compared with the baseline alone, too.
    """
    name, _, change = variant.removeprefix("SiMPO-").partition(", ")
    plain = WITHOUT.get(name)
    if change == "many masks":
        return (f"SiMPO-{name}",)
    if not change or change.startswith("floor"):
        others = (REFERENCE, *((f"SiMPO-{plain}", "Exp, centred") if plain else ()))
    elif name == "Exp":
        others = () if change == "constrained" else (REFERENCE,)
    else:
        others = f"Exp, {change}", f"{plain}, {change}"
    return tuple(other for other in others if other in ABLATION and other != variant)


class Designed(NamedTuple):
    """What a method made.

    Attributes:
        letters: Sequences [N, l].
        calls: Of oracle and network, fine-tuning included.
        curve: Median score of every round [R]; empty without rounds.
    """

    letters: np.ndarray
    calls: Calls
    curve: np.ndarray


def design(
    method: Method, world: World, rate: float, seed: int, tell: Callable[[int], None]
) -> Designed:
    """Fine-tune if need be, and draw sequences, a group at a time.

    Args:
        method: How.
        world: Where.
        rate: Learning rate, where there is one.
        seed: Of everything random.
        tell: Told of rounds done since the last call.

    Raises:
        SimpoError: Scores or weights that are not finite.
    """
    asked = world.conditions if method.constrained else ()
    objective, curve = Objective(world.reward, world.template, asked), []
    made, setup = method.make(world, rate), world.setup
    train_key, draw_key = jax.random.split(jax.random.key(seed))
    if isinstance(made, Guide):
        net = world.labelled if method.labelled else world.net
        keys = jax.random.split(draw_key, -(-setup.samples // setup.group))
        groups = [
            made.sample(world.diffusion, net, objective, key, setup.group)
            for key in keys
        ]
        letters = np.concatenate(groups)[: setup.samples]
        tell(setup.rounds)
    else:

        def observe(_: int, metrics: dict[str, float]) -> None:
            curve.append(metrics["score_median"])
            tell(1)

        net = finetune(made, world.net, objective, setup.rounds, train_key, observe)
        letters = np.asarray(write(world.diffusion, setup.samples, net, draw_key))
    return Designed(letters.astype(np.int8), objective.calls, np.array(curve))
