"""Guidance: exact on two letters and four positions, where all can be enumerated."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from plain_loop import is_one_line
from planted import MODEL, Planted, pretrained
from simpo.dilated import Size
from simpo.dna.guidance import CFG, CG, SMC, TDS, chain, soft_prediction, tilt
from simpo.dna.objective import Objective
from simpo.dna.oracle import Oracle
from simpo.generative.masked import MaskedDiffusion, no_labels
from simpo.types import SimpoError
from test_masked import L, TableNetwork, V, logp, sampled_distribution

pytestmark = pytest.mark.usefixtures("compiled_quickly")

STEPS = 5
SMALL = MaskedDiffusion(length=L, denoising_steps=STEPS)
VALUE = np.random.default_rng(3).normal(size=(L, V))


class Additive(Oracle):
    """The sum of a value per position and letter."""

    name = "additive"

    def soft(self, probs):
        return (probs * VALUE).sum((-2, -1))

    def predict(self, tokens):
        return np.asarray(self.soft(jax.nn.one_hot(tokens, V)))

    def distance(self, tokens):
        return np.zeros(len(tokens))


def pvalue(letters, exact):
    """Of a chi-square test over all 16 sequences."""
    counts = np.bincount(letters @ (V ** np.arange(L)[::-1]), minlength=V**L)
    states = list(product(range(V), repeat=L))
    expected = np.array([exact.get(state, 0.0) for state in states])
    return stats.chisquare(counts, len(letters) * expected / expected.sum()).pvalue


def tilted(alpha):
    """p(x) exp(r(x) / alpha), normalised."""
    exact = sampled_distribution(STEPS)
    score = {x: VALUE[np.arange(L), list(x)].sum() for x in exact}
    mass = {x: p * np.exp(score[x] / alpha) for x, p in exact.items()}
    total = sum(mass.values())
    return {x: m / total for x, m in mass.items()}


@pytest.mark.parametrize("guide", [SMC(alpha=1.5), TDS(alpha=1.5, gamma=0.4)])
def test_particles_follow_the_tilted_distribution(guide):
    """p(x) exp(r / alpha), whatever moves them: TDS's weights are exact.

    Particles share ancestors, so shares are compared within one percent, not by a test.
    """
    letters = guide.sample(
        SMALL, TableNetwork(), Objective(Additive()), jax.random.key(0), 60_000
    )
    codes = np.bincount(letters @ (V ** np.arange(L)[::-1]), minlength=V**L)
    exact, plain = tilted(1.5), sampled_distribution(STEPS)
    states = list(product(range(V), repeat=L))
    found = codes / len(letters)
    np.testing.assert_allclose(found, [exact[s] for s in states], atol=0.01)
    assert np.abs(found - [plain[s] for s in states]).max() > 0.05  # it is another


def test_without_strength_guidance_samples_the_model():
    key, objective = jax.random.key(1), Objective(Additive())
    letters = CG(gamma=0.0).sample(SMALL, TableNetwork(), objective, key, 20_000)
    assert pvalue(letters, sampled_distribution(STEPS)) > 1e-3
    calls = objective.calls
    assert (calls.network, calls.oracle) == (2 * STEPS * 20_000, STEPS * 20_000)


def test_guidance_raises_scores():
    net, oracle, key = pretrained(), Planted(), jax.random.key(2)
    plain = oracle(np.asarray(MODEL.sample(net, key, no_labels(1), 128)[0])).mean()
    guided, twisted = (
        oracle(guide.sample(MODEL, net, Objective(oracle), key, 128)).mean()
        for guide in (CG(gamma=100.0), TDS(gamma=20.0))
    )
    assert guided > plain + 0.02 and twisted > plain + 0.1


def test_the_chain_is_a_distribution():
    letters = jnp.array([[V, 0, V, 1]])
    p = jnp.asarray(logp(letters[0]))[None]
    q = np.exp(chain(p, letters, jnp.asarray(0.3)))[0]
    np.testing.assert_allclose(q.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(q[0], [*(0.3 * np.exp(p[0, 0])), 0.7], rtol=1e-5)
    np.testing.assert_array_equal(q[1], [1, 0, 0])


def test_the_tilt_is_the_gradient_of_the_score():
    """By central differences along every channel of one sequence."""
    net, objective, v = pretrained(), Objective(Planted()), 4
    letters = np.array(
        MODEL.sample(net, jax.random.key(0), np.zeros((1, 0), int), 1)[0]
    )
    letters[0, ::2] = v
    t = jnp.asarray(0.5)

    def score(x):
        with jax.enable_x64(False):
            return float(objective.soft(soft_prediction(MODEL, net, x, t))[0])

    x = jax.nn.one_hot(letters, v + 1)
    found = np.asarray(tilt(MODEL, net, objective, jnp.asarray(letters), t))[0]
    for i, k in [(0, 1), (2, 3), (3, 0), (9, 2)]:
        step = np.zeros(x.shape)
        step[0, i, k], step[0, i, v] = 1e-2, -1e-2
        slope = (score(x + step) - score(x - step)) / 2e-2
        assert found[i, k] == pytest.approx(slope, abs=2e-3 + 0.05 * abs(slope))


def test_free_guidance_mixes_two_predictions():
    """With no strength it is the labelled chain; with a lot, the likeliest letters."""
    net = Size(width=8, dilations=(1,), labels=2).init(jax.random.key(0))
    objective, key = Objective(Planted()), jax.random.key(3)
    plain = CFG(strength=0.0).sample(MODEL, net, objective, key, 16)
    expected = MODEL.sample(net, key, jnp.ones((1, 1), jnp.int32), 16)[0]
    np.testing.assert_array_equal(plain, expected)
    assert objective.calls.oracle == 0
    assert objective.calls.network == 2 * 16 * MODEL.denoising_steps
    strong = CFG(strength=10.0).sample(MODEL, net, objective, key, 16)
    assert (strong != plain).any()


def test_free_guidance_needs_labels():
    with pytest.raises(SimpoError, match="trained with labels") as error:
        CFG().sample(MODEL, pretrained(), Objective(Planted()), jax.random.key(0), 4)
    assert is_one_line(error)
