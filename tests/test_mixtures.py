"""Mixtures: closed forms, plain expectation maximisation, and scikit-learn's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from simpo.mixtures import (
    Mixture,
    entropy_bound,
    fit_mixtures,
    log_joint,
    maximise,
    spread_out,
)

SETS, SAMPLES = 2, 300
fit_three = jax.jit(lambda x: fit_mixtures(x, 3))


def gaussian_entropy(covariance):
    dim = len(covariance)
    return 0.5 * (dim * np.log(2 * np.pi * np.e) + np.linalg.slogdet(covariance)[1])


def blobs(rng, weights, means, std, samples=SAMPLES):
    """Samples [S, D] of round Gaussians."""
    which = rng.choice(len(weights), samples, p=weights)
    x = np.asarray(means)[which] + std * rng.normal(size=(samples, len(means[0])))
    return x.astype(np.float32)


def test_one_component_is_the_gaussian_of_the_samples():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 500, 3)) @ rng.normal(size=(2, 3, 3)) + 1.0
    fit_one = jax.jit(lambda x: fit_mixtures(x, 1, regularisation=1e-3))
    found = fit_one(jnp.asarray(x, jnp.float32))
    for b in range(2):
        covariance = np.cov(x[b].T, bias=True) + 1e-3 * np.eye(3)
        np.testing.assert_allclose(found.weights[b], [1.0], atol=1e-6)
        np.testing.assert_allclose(found.means[b, 0], x[b].mean(0), atol=1e-5)
        np.testing.assert_allclose(found.covariances[b, 0], covariance, atol=2e-5)
        bound = entropy_bound(found)[b]
        np.testing.assert_allclose(bound, gaussian_entropy(covariance), atol=1e-4)


def test_log_joint_is_the_density_of_each_component_with_its_weight():
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(3, 4, 4)) + 2 * np.eye(4)
    weights, means = np.array([0.2, 0.5, 0.3]), rng.normal(size=(3, 4))
    covariances, x = roots @ roots.swapaxes(1, 2), rng.normal(size=(7, 4))
    mixture = Mixture(*(jnp.asarray(part, jnp.float32) for part in
                        (weights, means, covariances)))  # fmt: skip
    expected = [
        np.log(w) + stats.multivariate_normal(m, c).logpdf(x)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    found = log_joint(mixture, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, np.stack(expected, -1), rtol=1e-4)


def test_the_m_step_is_that_of_the_textbook():
    rng = np.random.default_rng(2)
    x, shares = rng.normal(size=(20, 2)), rng.dirichlet(np.ones(3), 20)
    found = maximise(
        jnp.asarray(x, jnp.float32), jnp.asarray(shares, jnp.float32), 0.01
    )
    for c in range(3):
        size = shares[:, c].sum()
        mean = sum(shares[s, c] * x[s] for s in range(20)) / size
        gaps = x - mean
        scatter = sum(shares[s, c] * np.outer(gaps[s], gaps[s]) for s in range(20))
        np.testing.assert_allclose(found.weights[c], size / 20, rtol=1e-5)
        np.testing.assert_allclose(found.means[c], mean, atol=1e-5)
        expected = scatter / size + 0.01 * np.eye(2)
        np.testing.assert_allclose(found.covariances[c], expected, atol=1e-5)


def test_the_bound_holds_and_is_exact_where_components_are_apart():
    grid = np.linspace(-30, 30, 60_001)
    for gap, exact in ((1.0, False), (16.0, True)):
        weights, means, stds = [0.3, 0.7], [-gap / 2, gap / 2], [0.5, 1.0]
        density = sum(
            w * stats.norm(m, s).pdf(grid)
            for w, m, s in zip(weights, means, stds, strict=True)
        )
        true = -np.trapezoid(density * np.log(np.maximum(density, 1e-300)), grid)
        mixture = Mixture(
            jnp.array(weights),
            jnp.array(means)[:, None],
            jnp.array(stds)[:, None, None] ** 2,
        )
        bound = float(entropy_bound(mixture))
        assert bound > true + 0.1 or exact
        assert bound == pytest.approx(true, abs=1e-4) or not exact


def test_a_component_without_weight_adds_nothing():
    one = Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
    two = Mixture(jnp.array([1.0, 0.0]), jnp.zeros((2, 2)), jnp.stack([jnp.eye(2)] * 2))
    np.testing.assert_allclose(entropy_bound(two), entropy_bound(one), rtol=1e-6)


def test_separate_components_are_recovered():
    rng = np.random.default_rng(3)
    weights, means = [0.5, 0.3, 0.2], [[0.8, 0.0], [-0.8, 0.5], [0.0, -0.9]]
    x = np.stack([blobs(rng, weights, means, 0.05) for _ in range(SETS)])
    for b in range(SETS):
        found = jax.tree.map(lambda part, b=b: np.asarray(part[b]), fit_three(x))
        order = np.argsort(-found.weights)
        np.testing.assert_allclose(found.weights[order], weights, atol=0.08)
        np.testing.assert_allclose(found.means[order], means, atol=0.03)
        round_ = np.broadcast_to(0.05**2 * np.eye(2), (3, 2, 2))
        np.testing.assert_allclose(found.covariances[order], round_, atol=1e-3)


def test_the_likelihood_never_falls():
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.uniform(-1, 1, (1, 200, 2)), jnp.float32)

    @jax.jit
    def likelihoods(x):
        found = [fit_mixtures(x, 3, iterations=k) for k in (0, 2, 30)]
        one = [jax.tree.map(lambda part: part[0], mixture) for mixture in found]
        return [jax.nn.logsumexp(log_joint(m, x[0]), -1).mean() for m in one]

    values = np.array(likelihoods(x))
    assert (np.diff(values) > -1e-5).all() and values[-1] > values[0] + 0.01


def test_each_set_of_samples_has_a_mixture_of_its_own():
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.normal(size=(SETS, SAMPLES, 2)), jnp.float32)
    together, turned = fit_three(x), fit_three(x[::-1])
    for a, b in zip(together, turned, strict=True):
        np.testing.assert_allclose(a, b[::-1], rtol=2e-3, atol=1e-4)
    assert not np.allclose(together.means[0], together.means[1])


def test_products_are_exact_whatever_the_precision_of_networks():
    with jax.default_matmul_precision("bfloat16"):
        program = str(jax.make_jaxpr(fit_three)(jnp.zeros((1, 5, 2))))
    found = set(re.findall(r"precision=([^ \n]+)", program))
    assert found == {"(Precision.HIGHEST,"}


def test_starts_are_far_from_the_mean_and_from_each_other():
    x = jnp.array([[0.0], [0.1], [5.0], [-3.0], [1.0], [0.9]])
    assert spread_out(x, 3).tolist() == [2, 3, 4]


def test_samples_that_fill_no_space_have_a_finite_entropy():
    line = np.linspace(-1, 1, SAMPLES)[:, None] * np.ones(17)
    rng = np.random.default_rng(6)
    noise = 0.1 * rng.normal(size=(SAMPLES, 17))
    wall = np.where(np.arange(17) < 9, 1.0, noise)
    corners = np.clip(np.sign(noise) * 2, -1, 1)
    point = np.full((SAMPLES, 17), 0.7)
    for sets in ((point, line), (wall, corners)):
        mixtures = fit_three(jnp.asarray(np.stack(sets), jnp.float32))
        bounds = entropy_bound(mixtures)
        assert all(np.isfinite(part).all() for part in mixtures)
        assert np.isfinite(bounds).all()
        if sets[0] is point:
            expected = gaussian_entropy(1e-6 * np.eye(17))
            assert bounds[0] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("dim", "std"), [(2, 0.03), (2, 0.4), (17, 0.1)])
def test_it_finds_what_scikit_learn_finds(dim, std):
    """The same mixture where there is one to find, else one that is as likely."""
    mixture = pytest.importorskip("sklearn.mixture")
    rng = np.random.default_rng(dim)
    corners = 0.7 * np.where(np.arange(3)[:, None] == np.arange(dim) % 3, 1.0, -1.0)
    x = np.stack([blobs(rng, [0.5, 0.3, 0.2], corners, std) for _ in range(SETS)])
    found = fit_three(jnp.asarray(x))
    for b, samples in enumerate(x.astype(np.float64)):
        reference = mixture.GaussianMixture(3, random_state=0, tol=1e-5).fit(samples)
        entropies = [gaussian_entropy(c) for c in reference.covariances_]
        w = reference.weights_
        expected = (w * entropies).sum() - (w * np.log(w)).sum()
        near = 2e-3 if std < 0.4 else 0.2
        assert float(entropy_bound(found)[b]) == pytest.approx(expected, abs=near)
        single = jax.tree.map(lambda part, b=b: part[b], found)
        score = jax.nn.logsumexp(log_joint(single, jnp.asarray(x[b])), -1).mean()
        assert float(score) > reference.score(samples) - 0.02
