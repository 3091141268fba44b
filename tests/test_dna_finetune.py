"""Fine-tuning: the update re-derived, guards and anchors exact, rewards that rise."""

from itertools import product

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plain_loop import is_one_line
from planted import LENGTH, MODEL, Planted, pretrained
from simpo.dna.drakes import Drakes
from simpo.dna.finetune import SignedTuning, finetune, standardise
from simpo.dna.objective import Objective, shared_bases
from simpo.generative.masked import AllMasked, ExactMasks, MaskedDiffusion, no_labels
from simpo.matching import ClippedError, Unbounded, matching_loss
from simpo.temperature import EntropyTarget, Fixed, Solved
from simpo.types import SimpoError
from simpo.weighting import Exponential, Linear, SignedSoftmax, Square
from test_masked import (
    NONE,
    PLACES,
    TABLE,
    L,
    TableNetwork,
    V,
    logp,
    missed,
    subsets,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RNG = np.random.default_rng(0)
GROUP = jnp.asarray(RNG.integers(0, 4, (8, LENGTH)))
SCORES = jnp.asarray(RNG.normal(size=8), jnp.float32)


def tuning(**changes):
    values = {"model": MODEL, "group": 8, "inner_updates": 1, "bound": Unbounded()}
    return SignedTuning(**values | changes)


def nelbo(net, key, letters):
    """Estimates of the bound per base, with the masks of the update: [K, R]."""
    return MODEL.matching_error(net, key, letters[None], no_labels(1))[0]


def mask_key(state):
    """The key of the masks of the next update."""
    return jax.random.split(jax.random.fold_in(state.key, 2 * state.step + 1))[0]


def one_step(method, loss, net):
    """The network after one step of clipped Adam on a loss."""
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-4))
    change, _ = optimiser.update(jax.grad(loss)(net), optimiser.init(net), net)
    return optax.apply_updates(net, change)


def assert_same(net, other):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(close, net, other)


def test_exponential_weights_are_rl_d2():
    """sum_i softmax(A / lambda)_i NELBO(x_i), A the standardised scores."""
    net, lam = pretrained(), 0.7
    method = tuning(weighting=Exponential(), temperature=Fixed(lam))
    state = method.init(net, jax.random.key(1))
    new, metrics = method.improve(state, GROUP, SCORES, net)
    advantage = (SCORES - SCORES.mean()) / (SCORES.std() + 1e-6)

    def rl_d2(net):
        bound = nelbo(net, mask_key(state), GROUP).mean(-1)
        return jax.nn.softmax(advantage / lam) @ bound

    assert_same(new.net, one_step(method, rl_d2, net))
    assert metrics["actor_loss"] == pytest.approx(float(rl_d2(net)), rel=1e-4)


@pytest.mark.parametrize(
    "masking", [ExactMasks(), AllMasked()], ids=["elbo", "released"]
)
def test_signed_softmax_weights_are_wd1(masking):
    """sum_i (softmax(-A)_i - softmax(A)_i) log p(x_i), with either likelihood."""
    net, model = pretrained(), MaskedDiffusion(length=LENGTH, masking=masking, masks=2)
    method = tuning(model=model, weighting=SignedSoftmax(), temperature=Fixed(1.0))
    state = method.init(net, jax.random.key(1))
    new, _ = method.improve(state, GROUP, SCORES, net)
    advantage = standardise(SCORES)

    def wd1(net):
        error = model.matching_error(net, mask_key(state), GROUP[None], no_labels(1))[0]
        sign = jax.nn.softmax(advantage) - jax.nn.softmax(-advantage)
        return sign @ error.mean(-1)

    assert_same(new.net, one_step(method, wd1, net))


def test_negative_weights_push_down_and_the_guard_stops_them():
    """Repelled sequences get less likely; beyond the limit they have no gradient."""
    net = pretrained()
    shared = {"weighting": Linear(floor=-1.0), "temperature": Fixed(0.3)}
    low = ClippedError(0.5, negative_only=True)  # everything is less likely than that
    free, guarded = (tuning(**shared, bound=b) for b in (Unbounded(), low))
    states = [m.init(net, jax.random.key(1)) for m in (free, guarded)]
    weights = shared["weighting"](standardise(SCORES)[None], 0.3).values[0]
    assert (weights < 0).any() and (weights > 0).any()

    def positive_only(net):
        return (
            jnp.maximum(weights, 0)
            @ nelbo(net, mask_key(states[1]), GROUP).mean(-1)
            / 8
        )

    new, metrics = guarded.improve(states[1], GROUP, SCORES, net)
    assert_same(new.net, one_step(guarded, positive_only, net))
    assert metrics["clipped_fraction"] == pytest.approx(float((weights < 0).mean()))

    many = tuning(**shared, inner_updates=20, learning_rate=2e-3)
    pushed, _ = many.improve(many.init(net, jax.random.key(1)), GROUP, SCORES, net)
    before, after = (
        nelbo(n, jax.random.key(5), GROUP).mean(-1) for n in (net, pushed.net)
    )
    assert (after - before)[weights < 0].mean() > 0.01
    assert (after - before)[weights.argmax()] < -0.1


# Negative weights at many masks only, on two letters and four positions

SIGNED = jnp.array([[2.5, -1.0, -0.5, 3.0]])
FOUR = jnp.array([[(0, 0, 1, 1), (1, 0, 1, 1), (0, 1, 0, 0), (0, 0, 0, 1)]])


class Learnt(eqx.Module):
    """Logits of every partly masked sequence, to be learnt."""

    table: jax.Array = eqx.field(converter=jnp.asarray)
    alphabet: int = eqx.field(static=True, default=V)

    def __call__(self, x, t, label):
        return self.table[x.argmax(-1) @ PLACES]


def guarded_loss(net, key, share, masks, weights=SIGNED):
    """The matching loss, as fine-tuning has it."""
    model = MaskedDiffusion(length=L, masks=masks)
    repels = SignedTuning(model=model, negative_masks=share).repels
    given = model, net, key, FOUR, weights, NONE, Unbounded()
    return matching_loss(*given, repels=repels)


@pytest.mark.parametrize("share, fewest", [(0.0, 1), (0.25, 2), (0.5, 3), (0.75, 4)])
def test_few_masks_of_negatives_are_left_out_and_not_made_up_for(share, fewest):
    """Over all numbers of masks and all masks: a part of the sum, still over L."""
    exact = 0.0
    for x, w in zip(np.asarray(FOUR[0]), np.asarray(SIGNED[0]), strict=True):
        for m in range(1 if w > 0 else fewest, L + 1):
            exact += w * np.mean([missed(x, s) / m for s in subsets(m)]) / L / 4
    run = jax.jit(lambda key: guarded_loss(TableNetwork(), key, share, masks=64)[0])
    found = np.array(jax.lax.map(run, jax.random.split(jax.random.key(0), 300)))
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - exact) < 4 * error and error < 0.01


@pytest.mark.parametrize("share, fewest", [(0.25, 2), (0.5, 3)])
def test_states_of_few_masks_learn_from_positive_weights_alone(share, fewest):
    """Those of many masks have the gradient that they have without the guard."""
    masks = np.array([(np.arange(3**L) // p % 3 == V) for p in PLACES]).sum(0)

    @jax.jit
    def slopes(net):
        key = jax.random.key(3)
        loss = lambda net, *given: guarded_loss(net, key, *given)[0]  # noqa: E731
        slope = jax.grad(loss)
        return [
            slope(net, *given).table
            for given in (
                (share, 200),
                (0.0, 200),
                (0.0, 200, jnp.maximum(SIGNED, 0)),
            )
        ]

    guarded, free, positive = map(np.asarray, slopes(Learnt(TABLE)))
    many = masks >= fewest
    close = {"rtol": 1e-5, "atol": 1e-7}
    np.testing.assert_allclose(guarded[many], free[many], **close)
    np.testing.assert_allclose(guarded[~many], positive[~many], **close)
    # 1011 with the first letter masked may be 0011; with the second, it is alone.
    both, alone = np.array([V, 0, 1, 1]) @ PLACES, np.array([1, V, 1, 1]) @ PLACES
    assert guarded[both].any() and not guarded[alone].any() and free[alone].any()
    assert np.abs(guarded[many] - positive[many]).max() > 0.01


@pytest.mark.parametrize("share, fewest", [(0.05, 1), (0.25, 5)])
def test_the_update_leaves_few_masks_of_negatives_out(share, fewest):
    net, changes = pretrained(), {"weighting": SignedSoftmax(), "bound": Unbounded()}
    method = tuning(**changes, temperature=Fixed(1.0), negative_masks=share)
    state = method.init(net, jax.random.key(1))
    new, metrics = method.improve(state, GROUP, SCORES, net)
    advantage = standardise(SCORES)
    sign = jax.nn.softmax(advantage) - jax.nn.softmax(-advantage)
    masked = ExactMasks().draw(mask_key(state), 2 * 8, LENGTH).masked
    count = masked.sum(-1).reshape(2, 8).T
    out = (count < fewest) & (sign < 0)[:, None]

    def loss(net):
        error = nelbo(net, mask_key(state), GROUP)
        return sign @ jnp.where(out, 0.0, error).mean(-1)

    assert_same(new.net, one_step(method, loss, net))
    assert metrics["left_out_fraction"] == pytest.approx(float(out.mean()))
    assert out.any() == (fewest > 1)


def test_without_the_guard_nothing_is_left_out():
    net, method = pretrained(), tuning(weighting=Linear(floor=-1.0))
    state = method.init(net, jax.random.key(1))
    _, metrics = method.improve(state, GROUP, SCORES, net)
    assert method.repels is None and "left_out_fraction" not in metrics


def test_equal_scores_weigh_the_same():
    method = tuning(weighting=Square(), temperature=Solved(EntropyTarget(1.0)))
    net = pretrained()
    state = method.init(net, jax.random.key(0))
    _, metrics = method.improve(state, GROUP, jnp.ones(8), net)
    assert metrics["weight_max"] == pytest.approx(1.0, abs=1e-4)


def test_the_divergence_of_chains_is_exact():
    """Two letters, four positions: over all sequences of theta and all masks."""
    other = np.random.default_rng(9).normal(scale=1.5, size=TABLE.shape)

    class Other(TableNetwork):
        def __call__(self, x, t, label):
            return jnp.asarray(other)[x.argmax(-1) @ (V + 1) ** np.arange(L)]

    def log_other(state):
        logits = other[np.asarray(state) @ (V + 1) ** np.arange(L)]
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    for x in [(0, 1, 1, 0), (1, 1, 0, 0)]:
        exact = 0.0
        for m in range(1, L + 1):
            for masked in subsets(m):
                state = [V if i in masked else x[i] for i in range(L)]
                p, q = logp(state), log_other(state)
                kl = (np.exp(p) * (p - q)).sum(-1)[list(masked)].sum()
                exact += kl / m / len(subsets(m)) / L
        model = MaskedDiffusion(length=L, masks=4000)
        args = (jax.random.key(0), jnp.asarray(x)[None, None], no_labels(1))
        found = np.asarray(model.divergence(TableNetwork(), Other(), *args))[0, 0]
        error = found.std() / np.sqrt(len(found))
        assert abs(found.mean() - exact) < 4 * error and error < 0.05
        same = model.divergence(TableNetwork(), TableNetwork(), *args)
        np.testing.assert_allclose(same, 0, atol=1e-6)


def test_the_anchor_holds_the_network_back():
    """Its gradient is none at the pretrained network, and pulls back elsewhere."""
    net = pretrained()
    gone = []
    for beta in (0.0, 3.0):
        method = tuning(path_kl=beta, inner_updates=20, weighting=Exponential())
        state, _ = method.improve(
            method.init(net, jax.random.key(2)), GROUP, SCORES, net
        )
        gone.append(float(method.anchor(state.net, net, jax.random.key(3), GROUP)))
    assert gone[1] < 0.7 * gone[0]
    zero = jax.grad(tuning().anchor)(net, net, jax.random.key(3), GROUP)
    assert optax.tree.norm(zero) < 1e-5


@pytest.mark.parametrize(
    "method",
    [
        SignedTuning(
            model=MODEL, group=32, weighting=Exponential(), learning_rate=2e-3
        ),
        SignedTuning(model=MODEL, group=32, learning_rate=2e-3),
        Drakes(model=MODEL, soft_steps=4, learning_rate=2e-3),
        Drakes(model=MODEL, soft_steps=4, learning_rate=2e-3, path_kl=1e-3),
    ],
    ids=["Exp", "Lin. Neg.", "DRAKES", "DRAKES-KL"],
)
def test_rewards_rise(method):
    """Forty rounds on a planted motif; the same key gives the same sequences."""
    net, oracle = pretrained(), Planted()
    objective, told = Objective(oracle), []
    tuned = finetune(
        method, net, objective, 40, jax.random.key(0), lambda n, m: told.append(m)
    )
    key = jax.random.key(7)
    before, after = (
        oracle(np.asarray(MODEL.sample(n, key, no_labels(1), 256)[0])).mean()
        for n in (net, tuned)
    )
    assert after > before + 0.1
    assert objective.calls.oracle == 40 * getattr(method, "group", 32)
    assert objective.calls.network > 0
    assert len(told) == 40 and all(np.isfinite(list(told[-1].values())))


def test_drakes_scores_hard_sequences():
    """What is scored is one-hot; without a KL of a network and itself."""
    method = Drakes(model=MODEL, soft_steps=3, path_kl=1.0)
    net, seen = pretrained(), []

    class Seen(Planted):
        def soft(self, probs):
            jax.debug.callback(lambda p: seen.append(np.asarray(p)), probs)
            return super().soft(probs)

    _, metrics = method.round(
        method.init(net, jax.random.key(0)), Objective(Seen()), net
    )
    jax.effects_barrier()
    assert set(np.unique(np.round(seen[0], 5))) == {0.0, 1.0}
    assert metrics["path_kl"] == pytest.approx(0.0, abs=1e-5)


# Objectives


def test_sequences_that_break_a_constraint_score_lowest():
    from simpo.dna.constraints import Homopolymer

    letters = np.asarray(GROUP).copy()
    letters[3, :7] = 2
    plain, bound = (
        Objective(Planted()),
        Objective(Planted(), constraints=(Homopolymer(5),)),
    )
    kept = bound.constraints[0].check(letters)
    assert not kept[3] and kept.any()
    scores, all_scores = bound(letters), plain(letters)
    np.testing.assert_array_equal(scores[kept], all_scores[kept])
    assert (scores[~kept] < all_scores[kept].min()).all()
    with pytest.raises(SimpoError, match="no gradient") as error:
        bound.soft(jnp.eye(4)[letters])
    assert is_one_line(error)


def test_an_insert_is_scored_in_its_place():
    from simpo.dna.constraints import Template

    backbone = RNG.integers(0, 4, LENGTH + 10).astype(np.int8)
    template = Template(backbone, 4, 4 + LENGTH)
    whole = template.place(np.asarray(GROUP, np.int8))
    oracle = Planted()
    objective = Objective(oracle, template)
    np.testing.assert_allclose(objective(np.asarray(GROUP)), oracle(whole), rtol=1e-6)
    np.testing.assert_allclose(
        objective.soft(jnp.eye(4)[GROUP]), oracle(whole), rtol=1e-5
    )
    assert objective.calls.oracle == len(GROUP)


def test_shared_bases_by_counting_pairs():
    letters = RNG.integers(0, 4, (5, 9))
    expected = [
        np.mean([(letters[i] == letters[j]).mean() for j in range(5) if j != i])
        for i in range(5)
    ]
    np.testing.assert_allclose(shared_bases(letters), expected)
    spread = Objective(Planted(), diversity=2.0)(letters.repeat(3, 1))
    plain = Objective(Planted())(letters.repeat(3, 1))
    expected = plain - 2.0 * shared_bases(letters.repeat(3, 1))
    np.testing.assert_allclose(spread, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        tuning(group=0),
        tuning(learning_rate=0.0),
        tuning(path_kl=-1.0),
        tuning(negative_masks=1.0),
        tuning(negative_masks=-0.1),
        tuning(negative_masks=float("nan")),
        tuning(temperature=Solved(EntropyTarget(3.0))),
        Drakes(model=MODEL, soft_steps=99),
        Drakes(model=MODEL, gumbel=0.0),
    ],
)
def test_impossible_settings_get_one_line(method):
    with pytest.raises(SimpoError) as error:
        finetune(method, pretrained(), Objective(Planted()), 1, jax.random.key(0))
    assert is_one_line(error)


def test_scores_that_are_not_finite_stop_it():
    class Broken(Planted):
        def predict(self, tokens):
            return np.full(len(tokens), np.nan, np.float32)

    method = tuning()
    with pytest.raises(SimpoError, match="planted") as error:
        finetune(method, pretrained(), Objective(Broken()), 1, jax.random.key(0))
    assert is_one_line(error)


def test_every_sequence_has_a_weight():
    """All pairs of groups and scores: the mean weight is one for any weighting."""
    for weighting, q in product([Exponential(), Square(-1.0), Linear(-3.0)], range(3)):
        scores = jnp.asarray(np.random.default_rng(q).normal(size=8))
        weights = Solved(EntropyTarget(0.5)).weigh(
            (), weighting, standardise(scores)[None]
        )
        assert float(weights[0].values.mean()) == pytest.approx(1.0, abs=1e-4)
