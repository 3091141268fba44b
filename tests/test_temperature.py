import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from simpo.divergence import kl_to_uniform
from simpo.temperature import (
    TARGETS,
    TEMPERATURES,
    DivergenceTarget,
    DualAscent,
    EntropyTarget,
    Fixed,
    Shared,
    Solved,
)
from simpo.types import SimpoError
from simpo.weighting import (
    Advantage,
    Centred,
    Custom,
    Exponential,
    InverseGap,
    Linear,
    Power,
    SignedSoftmax,
    Square,
    Weights,
)

rng = np.random.default_rng(0)
Q = jnp.asarray(rng.normal(size=(64, 32)), jnp.float32)
NORMALISED = [
    Exponential(),
    Linear(),
    Linear(-0.2),
    Square(),
    Square(-1.0),
    Power(),
    InverseGap(),
    Custom(lambda y: y + y**3, floor=0.0),
]
normalised = pytest.mark.parametrize("weighting", NORMALISED, ids=str)
with_divergence = pytest.mark.parametrize("weighting", NORMALISED[:-1], ids=str)
weigh = jax.jit(lambda t, w, q: t.weigh(t.init(), w, q)[:2], static_argnums=(0, 1))


def mean_kl(weights):
    return float(kl_to_uniform(np.asarray(weights.values, float)).mean())


def test_unions():
    assert (EntropyTarget, DivergenceTarget) == TARGETS
    assert (Fixed, DualAscent, Solved, Shared) == TEMPERATURES


# --- targets ----------------------------------------------------------------------


def test_entropy_target_by_hand():
    values = np.array([[4.0, 0, 0, 0], [1.0, 1, 1, 1], [3.0, 1, 0, -2]])
    entropies = [0, math.log(4), special.entr([0.75, 0.25]).sum()]
    excess = EntropyTarget(0.3).excess(Weights(values, None), Linear())
    assert excess == pytest.approx(math.log(4) - np.mean(entropies) - 0.3)


def test_divergence_target_by_hand():
    values = np.array([[3.0, 0.5, 0.5, 0.0], [1.0, 1.0, 1.0, 1.0]])
    excess = DivergenceTarget(0.1).excess(Weights(values, None), Linear())
    assert excess == pytest.approx(np.mean((values - 1) ** 2) / 2 - 0.1)
    # For weights that are never negative the KL divergence is the entropy target.
    weights = Exponential()(Q, 0.7)
    excess = DivergenceTarget(1.0).excess(weights, Exponential())
    assert excess == pytest.approx(mean_kl(weights) - 1.0, abs=1e-5)


def test_targets_out_of_reach():
    q = Q[:, :4]
    for temperature in (Solved(EntropyTarget(1.5)), DualAscent(EntropyTarget(1.5))):
        for call in (temperature.weigh, jax.jit(temperature.weigh, static_argnums=1)):
            with pytest.raises(SimpoError, match=r"below ln 4 = 1\.39"):
                call(temperature.init(), Linear(), q)
    with pytest.raises(SimpoError, match="ln 1 = 0"):
        EntropyTarget(0.1).check(Linear(), 1)
    EntropyTarget(1.38).check(Linear(), 4)


@pytest.mark.parametrize(
    ("weighting", "limit"),
    [
        (Exponential(), math.log(8)),
        (Linear(), (7**2 + 7) / 2 / 8),
        (Linear(-0.5), ((8 + 7 * 0.5 - 1) ** 2 + 7 * 1.5**2) / 2 / 8),
    ],
)
def test_divergence_bounds_out_of_reach(weighting, limit):
    DivergenceTarget(0.999 * limit).check(weighting, 8)
    with pytest.raises(SimpoError, match="out of reach of 8 candidates"):
        DivergenceTarget(1.001 * limit).check(weighting, 8)
    with pytest.raises(SimpoError, match="out of reach"):
        jax.jit(lambda q: weigh(Solved(DivergenceTarget(9.0)), weighting, q))(Q[:, :8])


@pytest.mark.parametrize("weighting", [Advantage(), SignedSoftmax(), NORMALISED[-1]])
def test_weightings_without_divergence(weighting):
    for temperature in (Solved(DivergenceTarget()), DualAscent(DivergenceTarget())):
        with pytest.raises(SimpoError, match="comes from no divergence"):
            temperature.weigh(temperature.init(), weighting, Q)


def test_advantage_needs_a_fixed_temperature():
    with pytest.raises(SimpoError, match="use Fixed"):
        weigh(Solved(), Advantage(), Q)
    weights, temperature = weigh(Fixed(0.5), Advantage(), Q)
    np.testing.assert_allclose(weights.values, Advantage()(Q, 0.5).values, rtol=1e-6)
    assert temperature == 0.5


def test_a_shared_temperature_is_the_other_weightings():
    rule = Solved(EntropyTarget(1.0))
    others, expected = weigh(rule, Exponential(), Q)
    assert mean_kl(others) == pytest.approx(1.0, abs=1e-4)
    shared = Shared(Exponential(), rule)
    weights, temperature = weigh(shared, Centred(Exponential()), Q)
    assert temperature == expected
    np.testing.assert_allclose(weights.values, others.values - 1, atol=1e-5)
    with pytest.raises(SimpoError, match="out of reach of 2 candidates"):
        shared.check(Centred(), 2)
    dual = Shared(Linear(), DualAscent(initial=0.7))
    _, temperature, state = dual.weigh(dual.init(), Square(), Q)
    _, expected, own = dual.rule.weigh(dual.init(), Linear(), Q)
    assert temperature == expected
    assert state.log_temperature == own.log_temperature


# --- Fixed and DualAscent ---------------------------------------------------------


def test_dual_ascent_follows_the_gradient_of_the_dual():
    """L(lambda) = lambda delta + lambda log mean exp(q / lambda), eq. 30."""
    delta = 1.2

    def dual(temperature):
        log_mean = jax.nn.logsumexp(Q / temperature, axis=-1) - math.log(32)
        return jnp.mean(temperature * (delta + log_mean))

    for temperature in (0.2, 0.6, 3.0):
        weights = Exponential()(Q, temperature)
        excess = EntropyTarget(delta).excess(weights, Exponential())
        slope = float(jax.grad(dual)(temperature))
        assert -excess == pytest.approx(slope, abs=2e-5)


@with_divergence
def test_divergence_target_is_the_gradient_of_the_dual(weighting):
    """L(lambda) = lambda delta + max_w mean(w q) - lambda D_f(w), by the envelope.

    The weighting at temperature t maximises this for lambda = t / rise, where the
    slope f'(w) of its divergence rises by `rise` per unit of q / t.
    """
    q, t = np.asarray(Q[0], float), 1.0
    w = weighting(q, t).values
    floor = getattr(weighting, "floor", 0.0)
    free = w > floor + 1e-9
    rise = t * np.polyfit(q[free], weighting.divergence.slope(w[free]), 1)[0]

    def value(t):
        w = weighting(q, t).values
        return np.mean(w * q) - t / rise * np.mean(weighting.divergence.f(w))

    h = 1e-5
    numeric = (value(t + h) - value(t - h)) / (2 * h) * rise
    used = DivergenceTarget(1e-9).excess(weighting(q, t), weighting)
    assert -used == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def test_first_step_of_adam_has_the_sign_of_the_excess():
    for target, rises in ((0.01, True), (3.4, False)):
        temperature = DualAscent(EntropyTarget(target), initial=2.0, learning_rate=0.1)
        state = temperature.init()
        weights, used, new = temperature.weigh(state, Square(), Q)
        assert used == pytest.approx(2.0)
        np.testing.assert_allclose(weights.values, Square()(Q, 2.0).values, atol=1e-5)
        step = 0.1 if rises else -0.1
        assert new.log_temperature == pytest.approx(math.log(2) + step, abs=1e-4)
        assert jax.tree.structure(new) == jax.tree.structure(state)


@pytest.mark.parametrize("target", [EntropyTarget(1.0), DivergenceTarget(0.8)])
@pytest.mark.parametrize("weighting", [Exponential(), Linear(-0.2)], ids=str)
def test_dual_ascent_converges_to_the_solved_temperature(weighting, target):
    ascent = DualAscent(target, initial=5.0, learning_rate=0.03)

    def step(state, _):
        weights, temperature, state = ascent.weigh(state, weighting, Q)
        return state, (temperature, target.excess(weights, weighting))

    _, (temperatures, excess) = jax.lax.scan(step, ascent.init(), length=1500)
    assert abs(excess[0]) > 0.2
    assert abs(excess[-1]) < 1e-3
    assert temperatures[-1] == pytest.approx(
        float(weigh(Solved(target), weighting, Q)[1]), rel=0.01
    )


# --- Solved -----------------------------------------------------------------------


@normalised
def test_solved_meets_the_entropy_target_at_any_scale(weighting):
    for scale, offset in ((1.0, 0.0), (1e-3, 0.0), (1e3, 1e4)):
        q = scale * Q + offset
        weights, temperature = weigh(Solved(EntropyTarget(1.0)), weighting, q)
        assert mean_kl(weights) == pytest.approx(1.0, abs=1e-3)
        expected = weighting(np.asarray(q, float), float(temperature))
        np.testing.assert_allclose(weights.values, expected.values, atol=1e-4)


@with_divergence
def test_solved_meets_the_divergence_target(weighting):
    weights, _ = weigh(Solved(DivergenceTarget(0.7)), weighting, Q)
    f = weighting.divergence.f(np.asarray(weights.values, float))
    assert f.mean() == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize(
    ("n", "nats", "weighting", "ratio", "largest"),
    [
        (32, 1.5, Exponential(), 0.46, 13),
        (32, 1.5, Linear(), 5.8, 8.5),
        (32, 1.5, Square(), 3.5, 10),
        (32, 1.5, Linear(-0.2), 5.1, 9.7),
        (32, 1.5, Linear(-1.0), 3.5, 14),
        (32, 1.5, Linear(-2.0), 2.5, 20),
        (64, 2.0, Exponential(), 0.39, 26),
        (64, 2.0, Linear(), 6.2, 15),
        (64, 2.0, Square(), 3.4, 18),
    ],
    ids=str,
)
def test_equilibrium_on_gaussian_values(n, nats, weighting, ratio, largest):
    """Temperature in units of the standard deviation of q, and the largest weight."""
    q = jnp.asarray(rng.normal(size=(512, n)), jnp.float32)
    weights, temperature = weigh(Solved(EntropyTarget(nats)), weighting, q)
    assert temperature == pytest.approx(ratio, rel=0.06)
    assert weights.values.max(axis=-1).mean() == pytest.approx(largest, rel=0.06)


def test_solved_at_the_ends_of_its_search():
    weights, temperature = weigh(Solved(), Linear(), jnp.full((3, 8), 5.0))
    np.testing.assert_allclose(weights.values, 1)
    assert temperature == pytest.approx(1e-4, rel=1e-3)
    ties = jnp.asarray([[1.0, 1, 1, 1, 0, 0, 0, 0]])  # at most ln 2 nats
    weights, temperature = weigh(Solved(EntropyTarget(1.0)), Square(), ties)
    np.testing.assert_allclose(weights.values, 2 * ties, atol=1e-6)
    assert temperature == pytest.approx(1e-4, rel=1e-3)
    barely = Solved(EntropyTarget(0.1), smallest=2.0, largest=3.0)
    spread = float(np.ptp(Q, axis=-1).mean())
    assert weigh(barely, Exponential(), Q)[1] == pytest.approx(2 * spread, rel=1e-4)
    barely = Solved(EntropyTarget(0.1), smallest=1e-4, largest=1e-2)
    assert weigh(barely, Exponential(), Q)[1] == pytest.approx(spread / 100, rel=1e-4)


# --- all --------------------------------------------------------------------------

EVERY = [Fixed(0.7), DualAscent(), Solved()]


@pytest.mark.parametrize("temperature", EVERY, ids=str)
def test_no_gradient_reaches_the_values(temperature):
    def scalar(q):
        weights, lam, _ = temperature.weigh(temperature.init(), Square(-1.0), q)
        return jnp.sum(weights.values * Q) + lam

    assert scalar(Q) != scalar(2 * Q + Q**3)
    assert not jax.grad(scalar)(Q).any()


@pytest.mark.parametrize("temperature", EVERY, ids=str)
def test_values_that_are_not_finite(temperature):
    q = Q.at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="not finite"):
        temperature.weigh(temperature.init(), Linear(), q)
    assert np.isnan(weigh(temperature, Linear(), q)[0].values[0]).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fixed(0.0),
        lambda: Fixed(math.nan),
        lambda: DualAscent(initial=-1.0),
        lambda: DualAscent(learning_rate=0.0),
        lambda: EntropyTarget(0.0),
        lambda: EntropyTarget(math.inf),
        lambda: DivergenceTarget(-0.1),
        lambda: Solved(smallest=0.0),
        lambda: Solved(smallest=2.0, largest=1.0),
    ],
)
def test_fields_out_of_range(make):
    with pytest.raises(SimpoError, match="must be"):
        make()
