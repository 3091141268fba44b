"""Oracles: bounds, distances, fits against exact answers, files, refusals."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from simpo.dna.calibration import calibrate
from simpo.dna.cnn import CNN, Fitting, make_target, rates, train_cnn
from simpo.dna.convnet import Shape, largest, motif_stem
from simpo.dna.external import FromCallable, FromGrammar, FromONNX
from simpo.dna.features import Featuriser, choose_motifs, forward_select
from simpo.dna.grammar import liver
from simpo.dna.motifs import Motif, log_odds
from simpo.dna.oracle import Bound, Ensemble, Logistic, Training
from simpo.dna.ridge import logistic, ridge, train_ridge
from simpo.dna.storage import load_oracle, save_oracle
from simpo.types import SimpoError

pytestmark = pytest.mark.usefixtures("compiled_quickly")

rng = np.random.default_rng(0)
GRAMMAR = liver(30)
MOTIFS = [
    Motif(f"m{i}", rng.dirichlet(np.full(4, 0.3), w)) for i, w in enumerate([6, 8])
]
MOTIFS = [*GRAMMAR.motifs, *MOTIFS]
N, VAL = 120, np.arange(120) % 5 == 0
TOKENS = GRAMMAR.sample(rng, N)
TRUTH = FromGrammar("truth", GRAMMAR)
LABELS = TRUTH(TOKENS)
SMALL = Shape(filters=8, stem=13, pool=4, width=8, blocks=1, kernel=3, dropout=0.1)
STEM = motif_stem(GRAMMAR.motifs, gain=0.5, margin=4.0)
FITTING = Fitting(members=2, epochs=12, patience=12, batch_size=32, lr=1e-2)


@pytest.fixture(scope="module")
def linear():
    return train_ridge(MOTIFS, TOKENS, LABELS, VAL, name="linear")


def fit(fitting=FITTING, stem=STEM, **settings):
    return train_cnn(
        TOKENS, LABELS, VAL, shape=SMALL, stem=stem, fitting=fitting, **settings
    )


@pytest.fixture(scope="module")
def told():
    """What the training of `network` told."""
    return []


@pytest.fixture(scope="module")
def network(told):
    return fit(name="network", progress=lambda text, done: told.append((text, done)))


@pytest.fixture(scope="module")
def oracles(linear, network):
    called = FromCallable(
        "called",
        lambda tokens: 50.0 * np.isin(tokens, [1, 2]).mean(1),
        Bound(25.0, 10.0),
        relaxed=lambda probs: 50.0 * probs[..., 1:3].sum(-1).mean(-1),
        training=Training(TOKENS),
    )
    active = (np.median(LABELS) < LABELS).astype(np.float32)
    classes = train_ridge(
        MOTIFS, TOKENS, active, VAL, name="ridge classifier", classify=True
    )
    pair = Ensemble("pair", (linear, network))
    one = CNN("one", network.networks[:1], *scale(network), network.training)
    return {o.name: o for o in (linear, one, called, TRUTH, pair, classes)}


NAMES = ["linear", "one", "called", "truth", "ridge classifier"]


# What every oracle promises


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_one_hot_sequence_and_gradients_differences(
    oracles, name
):
    oracle, hot = oracles[name], np.eye(4)[TOKENS[:8]]
    turn = rng.normal(size=(2, 30, 4))
    relaxed = 0.8 * hot[:2] + 0.2 * rng.dirichlet(np.ones(4), (2, 30))  # no ties
    ends = [relaxed + e * turn for e in (-1e-6, 1e-6)]
    with jax.enable_x64(True):

        @jax.jit
        def both(probs):
            values, back = jax.vjp(oracle.soft, probs)
            return values, back(jnp.ones_like(values))[0]

        soft, slope = map(np.asarray, both(np.concatenate([hot, relaxed, *ends])))
    values = oracle(TOKENS[:8])
    assert values.dtype == np.float32 and values.shape == (8,)
    assert values.std() > 1e-4
    np.testing.assert_allclose(values, soft[:8], rtol=1e-5, atol=1e-5)
    found, differences = (slope[8:10] * turn).sum((1, 2)), soft[12:14] - soft[10:12]
    np.testing.assert_allclose(found, differences / 2e-6, rtol=1e-3, atol=1e-7)
    assert np.abs(found).max() > 1e-5
    assert oracle(TOKENS[:0]).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_distance_is_the_share_of_other_letters(oracles, name):
    oracle = oracles[name]
    near = TOKENS[~VAL][:3].copy()
    near[1, :6] = (near[1, :6] + 1) % 4
    near[2] = 3 - near[2, ::-1]  # the other strand is the same sequence
    if name == "truth":
        assert np.isnan(oracle.distance(near)).all()
    else:
        np.testing.assert_allclose(oracle.distance(near), [0, 6 / 30, 0], atol=1e-6)


def test_distance_is_a_loop_over_all_rows(monkeypatch):
    monkeypatch.setattr("simpo.dna.oracle.BLOCK", 7)
    rows, seen = rng.integers(0, 4, (20, 12)), rng.integers(0, 4, (17, 12))
    both = np.concatenate([seen, 3 - seen[:, ::-1]])
    expected = (rows[:, None] != both[None]).mean(-1).min(1)
    found = Training(seen).distance(rows, "x")
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "one", "truth"])
def test_both_strands_have_one_value(oracles, name):
    other = 3 - TOKENS[:, ::-1]
    a, b = oracles[name](TOKENS), oracles[name](other)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_bounds_hold_however_large_the_sum(linear):
    bound = Bound(3.0, 3.0)
    z = jnp.array([-1e30, -5.0, 3.0, 3.01, 50.0, 1e30])
    found = bound(z)
    assert np.all((found >= 0) & (found <= 6))
    assert found[2] == 3 and found[3] == pytest.approx(3.01, abs=1e-4)
    centre = LABELS[~VAL].mean()
    assert linear.link.centre == pytest.approx(centre, rel=1e-5)
    width = np.abs(LABELS[~VAL] - centre).max()
    assert linear.link.width == pytest.approx(width, rel=1e-5)


def test_an_ensemble_is_the_mean(oracles, linear, network):
    pair = oracles["pair"]
    mean = (linear(TOKENS) + network(TOKENS)) / 2
    np.testing.assert_allclose(pair(TOKENS), mean, rtol=1e-6)
    called = oracles["called"]
    probs = jax.nn.one_hot(TOKENS[:4], 4)
    zeros = FromCallable("zero", len, Bound(0, 1), lambda p: 0 * p[:, 0, 0])
    twice = Ensemble("twice", (called, zeros)).soft(probs)
    np.testing.assert_allclose(twice, called.soft(probs) / 2)
    distances = [oracles[name].distance(TOKENS) for name in ("pair", "linear")]
    np.testing.assert_array_equal(distances[0], distances[1])
    with pytest.raises(SimpoError, match="without members"):
        Ensemble("none", ())


# Ridge


def test_ridge_is_its_closed_form_and_scikit_learns():
    h, y = rng.normal(size=(60, 9)) + 1, rng.normal(size=60)
    fits = list(ridge(h, y, (0.1, 10.0)))
    for fit, penalty in zip(fits, (0.1, 10.0), strict=True):
        wide, free = np.column_stack([h, np.ones(60)]), np.diag([penalty] * 9 + [0])
        exact = np.linalg.solve(wide.T @ wide + free, wide.T @ y)
        np.testing.assert_allclose([*fit.weight, fit.bias], exact, rtol=1e-10)
        other = Ridge(alpha=penalty).fit(h, y)
        np.testing.assert_allclose(fit.weight, other.coef_, rtol=1e-8)
        np.testing.assert_allclose(fit(h), other.predict(h), rtol=1e-8)


def test_logistic_is_scikit_learns():
    h = rng.normal(size=(80, 5)) + 1
    y = (h @ rng.normal(size=5) + rng.normal(size=80) > 0).astype(float)
    for fit, penalty in zip(logistic(h, y, (0.3, 30.0)), (30.0, 0.3), strict=True):
        other = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(h, y)
        np.testing.assert_allclose(fit.weight, other.coef_[0], rtol=1e-4, atol=1e-6)
        assert fit.bias == pytest.approx(other.intercept_[0], rel=1e-4, abs=1e-6)


def test_a_ridge_is_its_equations(linear):
    """From motif scores by loops to the bounded value, in float64."""
    rows = []
    for x in TOKENS:
        best, occupancy = [], []
        for motif in MOTIFS:
            matrix = log_odds(motif)
            scores = [
                sum(letters[w, y[i + w]] for w in range(motif.width))
                for letters in (matrix, matrix[::-1, ::-1])
                for y in (x,)
                for i in range(30 - motif.width + 1)
            ]
            best.append(max(scores))
            occupancy.append(np.log1p(np.exp(np.array(scores) - 8.0).sum()))
        gc = np.isin(x, [1, 2]).mean()
        rows.append([*best, *occupancy, gc, gc**2])
    phi = np.array(rows)
    mean, sd = phi[~VAL].mean(0), phi[~VAL].std(0)
    h = 2 * np.tanh((phi - mean) / (2 * sd))
    y = LABELS.astype(np.float64)
    centre = y[~VAL].mean()
    width = np.abs(y[~VAL] - centre).max()
    values = []
    for penalty in [10.0 ** (k / 2) for k in range(-2, 11)]:
        fit = Ridge(alpha=penalty).fit(h[~VAL], y[~VAL])
        values.append(centre + width * np.tanh((fit.predict(h) - centre) / width))
    expected = min(values, key=lambda v: ((v - y)[VAL] ** 2).mean())
    np.testing.assert_allclose(linear(TOKENS), expected, atol=2e-3)


def test_a_constant_feature_is_harmless():
    tokens = np.tile([1, 2], (N, 15)).astype(np.int8)
    tokens[:, :6] = np.where(rng.random((N, 6)) < 0.5, 1, 2)  # GC is always one
    labels = (tokens[:, 0] == 1) + rng.normal(size=N)
    assert np.isfinite(train_ridge(MOTIFS, tokens, labels, VAL)(tokens)).all()


def test_selection_takes_one_of_two_alike():
    a, b = rng.normal(size=(2, 200))
    features = np.column_stack([a + 0.01 * b, a, b, np.ones(200)])
    chosen = forward_select(features, 2 * a + b, 4)
    assert set(chosen[:2]) in ({0, 2}, {1, 2}) and len(chosen) == 2
    picked = choose_motifs(Featuriser(MOTIFS), TOKENS, LABELS, 2)
    assert {m.name for m in picked} <= {m.name for m in GRAMMAR.motifs}


# Networks


def test_a_network_knows_its_sizes(network):
    assert network.networks[0].shape == SMALL


def test_pooling_takes_the_largest():
    h = rng.normal(size=(2, 10, 3)).astype(np.float32)
    parts = [h[:, i : i + 4].max(1) for i in (0, 4, 8)]
    np.testing.assert_array_equal(largest(jnp.asarray(h), 4), np.stack(parts, 1))


def test_a_stem_of_motifs_scores_sites():
    tokens = np.zeros((1, 30), np.int8)
    motif = GRAMMAR.motifs[0]
    tokens[0, 10:19] = motif.probabilities.argmax(1)
    for strand in (0, 1):
        x = tokens if strand == 0 else 3 - tokens[:, ::-1]
        found = STEM(jax.nn.one_hot(x, 4))[0, :, strand]
        assert found.max() == pytest.approx(2.0, abs=1e-4)
        assert (found > 0).sum() == 1


def test_training_follows_the_seed_and_members_differ(network):
    again = fit()
    jax.tree.map(np.testing.assert_array_equal, network.networks, again.networks)
    one, two = network.networks
    assert not np.allclose(one.head.weight, two.head.weight)


def test_training_lowers_the_error_and_tells_of_it(oracles, network, told):
    assert [done for _, done in told] == list(range(1, 25))
    error = np.mean((network(TOKENS[VAL]) - LABELS[VAL]) ** 2)
    assert error < 0.6 * LABELS[VAL].var()
    # What is kept is the epoch of the least loss, which is the last that was told.
    error = np.mean((oracles["one"](TOKENS[VAL]) - LABELS[VAL]) ** 2)
    assert told[11][0].startswith("member 1, loss ")
    shown = float(told[11][0].split()[-1])
    assert error / LABELS[~VAL].var() == pytest.approx(shown, abs=2e-3)


def scale(network):
    return network.centre, network.spread, network.link


def test_training_stops_early():
    told = []
    fitting = Fitting(members=2, epochs=50, patience=2, batch_size=32, lr=0.0)
    fit(fitting, progress=lambda _, done: told.append(done))
    assert told == [1, 2, 50, 51, 52, 100]


def test_a_loss_that_is_not_finite_gets_one_line():
    with pytest.raises(SimpoError, match="oracle bad: the loss is nan after 1 epochs"):
        fit(replace(FITTING, lr=np.inf), name="bad")


def test_losses_are_their_definitions():
    f, y = rng.normal(size=6), np.array([0, 1, 1, 0, 1, 0.0])
    target = make_target(y.astype(np.float32), classify=True)
    assert target.centre == 0  # half are ones
    p = 1 / (1 + np.exp(-f))
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    np.testing.assert_allclose(target.losses(f, y), expected, rtol=1e-5)
    target = make_target(y.astype(np.float32) * 8 + 2, classify=False)
    values = 6 + 4 * np.tanh(4 * f / 4)  # mean 6, sd 4, at most 4 from it
    expected = ((values - 3) / 4) ** 2
    np.testing.assert_allclose(target.losses(f, 3.0), expected, rtol=1e-5)


def test_rates_fall_along_half_a_cosine():
    found = np.concatenate([rates(Fitting(epochs=4, lr=2.0), i, 5) for i in range(4)])
    expected = [1 + np.cos(np.pi * i / 20) for i in range(20)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# Calibration


def test_calibration_of_a_known_line():
    oracle = FromCallable("line", lambda x: x[:, 0] + x[:, 1] / 4, Bound(2, 1e6))
    tokens = rng.integers(0, 4, (200, 5))
    x = tokens[:, 0] + tokens[:, 1] / 4
    labels = 0.5 * x - 1
    found = calibrate(oracle, tokens, labels, bins=4)
    assert (found.pearson, found.spearman) == pytest.approx((1, 1))
    assert (found.slope, found.intercept) == pytest.approx((0.5, -1), abs=1e-5)
    assert found.rmse == pytest.approx(np.sqrt(((x - labels) ** 2).mean()), rel=1e-5)
    assert [b.rows for b in found.bins] == [50] * 4
    assert [b.measured for b in found.bins] == sorted(b.measured for b in found.bins)
    assert "Pearson 1.000" in str(found) and np.isnan(found.distance)


# Files


@pytest.mark.parametrize("name", ["truth", "pair", "ridge classifier"])
def test_an_oracle_survives_its_file(oracles, name, tmp_path):
    oracle = oracles[name]
    save_oracle(tmp_path / "a", oracle)
    back = load_oracle(tmp_path / "a")
    jax.clear_caches()  # the truth was compiled on import, optimised: other last bits
    assert type(back) is type(oracle) and back.name == oracle.name
    np.testing.assert_array_equal(back(TOKENS), oracle(TOKENS))
    np.testing.assert_array_equal(back.distance(TOKENS), oracle.distance(TOKENS))
    save_oracle(tmp_path / "b", back)
    save_oracle(tmp_path / "b", back)  # replaced
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*"))
    assert files == sorted(
        p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*")
    )
    for file in files:
        if (tmp_path / "a" / file).is_file():
            assert (tmp_path / "a" / file).read_bytes() == (
                tmp_path / "b" / file
            ).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def damage(folder: Path, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("oracle"),
        lambda c: c.update(format=2),
        lambda c: c.pop("link"),
        lambda c: c.update(link={"type": "Bound", "centre": 0, "width": 0}),
        lambda c: c.update(link=3),
        lambda c: c.update(training=None, centre="x", bias="x"),
        lambda c: c.update(motifs=["one"], members=7),
        lambda c: c.update(motifs=3, members="x"),
        lambda c: c.update(motifs=None, shape={"width": 3}),
        lambda c: c.update(motifs={}, shape={"blocks": 10**12}),
    ],
)
@pytest.mark.parametrize("name", ["linear", "one"])
def test_a_damaged_file_gets_one_line(oracles, name, change, tmp_path):
    save_oracle(tmp_path / "a", oracles[name])
    damage(tmp_path / "a", change)
    with pytest.raises(SimpoError, match=f"^{tmp_path / 'a'} ") as caught:
        load_oracle(tmp_path / "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_cut_or_missing_file_gets_one_line(linear, file, tmp_path):
    save_oracle(tmp_path / "a", linear)
    whole = (tmp_path / "a" / file).read_bytes()
    (tmp_path / "a" / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SimpoError, match="damaged"):
        load_oracle(tmp_path / "a")
    (tmp_path / "a" / file).unlink()
    with pytest.raises(SimpoError, match="no file"):
        load_oracle(tmp_path / "a")


def test_what_is_no_oracle_is_not_replaced(linear, oracles, tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(SimpoError, match="is no oracle, so it is not replaced"):
        save_oracle(tmp_path / "notes", linear)
    with pytest.raises(SimpoError, match="called is Python code"):
        save_oracle(tmp_path / "a", oracles["called"])
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


# Refusals


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (np.zeros((4, 1)), r"oracle mine returned shape \[4, 1\] for 4 sequences"),
        (np.zeros(3), r"returned shape \[3\] for 4 sequences, expected \[4\]"),
        (np.array([0, 1, np.nan, 0]), "oracle mine returned nan for row 2"),
        (np.array([0, -np.inf, 1, 0]), "oracle mine returned -inf for row 1"),
        (["a"] * 4, "oracle mine returned something other than numbers"),
        (None, "oracle mine returned"),
    ],
)
def test_a_bad_result_gets_one_line(result, said):
    oracle = FromCallable("mine", lambda _: result, Bound(0, 1))
    with pytest.raises(SimpoError, match=said):
        oracle(TOKENS[:4])


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (np.array([[0, 1], [2, 4]]), "row 1 has the token 4"),
        (np.array([[0, -1]]), "row 0 has the token -1"),
        (np.array([0, 1]), r"needs whole numbers \[N, L\], not int64 \[2\]"),
        (np.zeros((2, 3, 4), np.float32), "not float32"),
    ],
)
def test_what_is_no_sequence_gets_one_line(tokens, said):
    with pytest.raises(SimpoError, match=said):
        TRUTH(tokens)


def test_another_length_gets_one_line(linear, network):
    for oracle in (linear, network):
        with pytest.raises(SimpoError, match="30 letters, not 20"):
            oracle(TOKENS[:, :20])
        with pytest.raises(SimpoError, match="30 letters, not 20"):
            oracle.distance(TOKENS[:, :20])


@pytest.mark.parametrize(
    ("labels", "val", "said"),
    [
        (LABELS[:-1], VAL, r"120 sequences, labels \[119\]"),
        (np.where(VAL, np.nan, LABELS), VAL, "row 0 has the label nan"),
        (LABELS, np.zeros(N), "120 rows to train on and 0 to validate with"),
        (np.ones(N), VAL, "labels are 1.0: nothing to learn"),
    ],
)
def test_bad_training_data_get_one_line(labels, val, said):
    for train in (lambda *a: train_ridge(MOTIFS, *a), train_cnn):
        with pytest.raises(SimpoError, match=said):
            train(TOKENS, labels, val)


def test_a_classifier_needs_classes():
    with pytest.raises(SimpoError, match="are 0 and 1, not"):
        train_ridge(MOTIFS, TOKENS, LABELS, VAL, classify=True)
    with pytest.raises(SimpoError, match="there are none"):
        train_ridge([], TOKENS, LABELS, VAL)
    with pytest.raises(SimpoError, match="at least one motif"):
        motif_stem([], 1.0, 1.0)


def test_a_classifier_gives_probabilities(oracles):
    values = oracles["ridge classifier"](TOKENS)
    assert isinstance(oracles["ridge classifier"].link, Logistic)
    assert np.all((values > 0) & (values < 1))
    median = np.median(LABELS)
    assert values[median < LABELS].mean() > values[median >= LABELS].mean() + 0.2


def test_what_has_no_gradient_says_so():
    with pytest.raises(SimpoError, match="mine has no gradient"):
        FromCallable("mine", len, Bound(0, 1)).soft(jnp.zeros((1, 3, 4)))


# ONNX


def onnx_model(first="N L 4", letter=1):
    """Share of a letter, twice: [N, 2] = [share, 10 share]."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = np.zeros((4, 2), np.float32)
    weight[letter] = 1, 10
    axis = 1 if first == "N L 4" else 2
    nodes = [
        helper.make_node("ReduceMean", ["x", "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["y"]),
    ]
    given = [
        onnx.numpy_helper.from_array(np.array([axis]), "axis"),
        onnx.numpy_helper.from_array(weight, "weight"),
    ]
    x = helper.make_tensor_value_info("x", kind, ["N", *first.split()[1:]])
    for dim in x.type.tensor_type.shape.dim:
        if dim.dim_param == "4":
            dim.dim_value = 4
    y = helper.make_tensor_value_info("y", kind, ["N", 2])
    graph = helper.make_graph(nodes, "share", [x], [y], given)
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return model.SerializeToString()


@pytest.mark.parametrize("first", ["N L 4", "N 4 L"])
def test_an_onnx_file_is_an_oracle(first, tmp_path):
    (tmp_path / "m.onnx").write_bytes(onnx_model(first))
    oracle = FromONNX.read(
        tmp_path / "m.onnx",
        "file",
        Bound(0.0, 100.0),
        channels_first=first == "N 4 L",
        output=1,
    )
    share = (TOKENS == 1).mean(1)
    expected = 100 * np.tanh(10 * share / 100)
    np.testing.assert_allclose(oracle(TOKENS), expected, rtol=1e-5)
    save_oracle(tmp_path / "a", oracle)
    back = load_oracle(tmp_path / "a")
    np.testing.assert_array_equal(back(TOKENS), oracle(TOKENS))
    assert np.isnan(back.distance(TOKENS)).all()
    with pytest.raises(SimpoError, match="file has no gradient"):
        oracle.soft(jnp.zeros((1, 30, 4)))


def test_a_bad_onnx_file_gets_one_line(tmp_path):
    model = onnx_model()
    with pytest.raises(SimpoError, match=r"returned shape .* no column 2"):
        FromONNX("file", model, Bound(0, 1), output=2)(TOKENS)
    with pytest.raises(SimpoError, match="file refused") as caught:
        FromONNX("file", model, Bound(0, 1), channels_first=True)(TOKENS)
    assert "\n" not in str(caught.value)
    with pytest.raises(SimpoError, match="file is no ONNX model"):
        FromONNX("file", b"nothing", Bound(0, 1))
    with pytest.raises(SimpoError, match="no file"):
        FromONNX.read(tmp_path / "none", "file", Bound(0, 1))


def test_a_missing_runtime_gets_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SimpoError, match=r"pip install 'simpo\[onnx\]'"):
        FromONNX("file", b"", Bound(0, 1))
