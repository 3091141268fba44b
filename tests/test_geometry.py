"""`simpo reproduce geometry`: closed forms, regions, what the study leaves behind."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy import special

from oracles import Mixture, oracle_for
from oracles import draw as draw_samples
from simpo.cli import main
from simpo.experiments import geometry
from simpo.experiments.fields import Fitting, begin, evaluate, fit, trace
from simpo.experiments.geometry import (
    GeometryStudy,
    judge_case_one,
    judge_case_two,
    judge_mass,
)
from simpo.experiments.mixture import CASE_ONE, CASE_TWO, EXAMPLES, PLANE, SignedMixture
from simpo.experiments.report import reproduce
from simpo.generative import Flow
from simpo.generative.flow import Euler, Heun
from simpo.matching import Unbounded
from simpo.plotting import geometry as plots
from simpo.plotting.style import STYLE
from simpo.types import SimpoError

LINES = (CASE_ONE, CASE_TWO)
TIMES = np.array([0.05, 0.2, 0.5, 0.8, 0.95])
rng = np.random.default_rng(0)


def oracle(mixture):
    weights = mixture.shares * mixture.weights
    return Mixture(tuple(weights), tuple(mixture.means[:, 0]), tuple(mixture.stds))


def points(example, t):
    """Points of Case I at a time, away from its border: [P, A]."""
    dim = example.mixture.dim
    x = rng.uniform(-2.0, 2.0, (400, dim))
    return x[example.mixture.density(x, t) > 0.01]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_the_field_carries_the_signed_density(example):
    # Continuity: dp/dt + div(p v) = 0, by central differences in float64.
    mixture, h = example.mixture, 1e-5
    for t in TIMES:
        x = points(example, t)
        assert len(x) > 20
        rate = (mixture.density(x, t + h) - mixture.density(x, t - h)) / (2 * h)
        flux = 0.0
        for step in h * np.eye(mixture.dim):
            ahead, behind = (
                mixture.density(y, t)[:, None] * mixture.velocity(y, t)
                for y in (x + step, x - step)
            )
            flux = flux + ((ahead - behind) @ step) / (2 * h * h)
        assert np.abs(rate).max() > 0.05
        np.testing.assert_allclose(rate, -flux, rtol=0, atol=1e-7)


@pytest.mark.parametrize("example", LINES, ids=lambda e: e.name)
def test_closed_forms_agree_with_the_oracle(example):
    mixture, other = example.mixture, oracle(example.mixture)
    for t in TIMES:
        x = points(example, t)
        np.testing.assert_allclose(
            mixture.velocity(x, t)[:, 0], other.velocity(x[:, 0], t), rtol=1e-10
        )
        np.testing.assert_allclose(
            mixture.density(x, t), other.density(x[:, 0], 1 - t, t), rtol=1e-10
        )
    np.testing.assert_allclose(mixture.cdf(x[:, 0]), other.cdf(x[:, 0]), rtol=1e-12)


def test_weights_are_linear_in_the_values_with_mean_one():
    np.testing.assert_allclose(CASE_ONE.mixture.weights, [3.0, -1.0])
    for mixture in (e.mixture for e in EXAMPLES):
        assert mixture.shares @ mixture.weights == pytest.approx(1.0)
        assert (mixture.weights < 0).sum() == 1
        kept = mixture.positive
        assert kept.shares @ kept.weights == pytest.approx(1.0)
        np.testing.assert_array_equal(kept.weights == 0, mixture.weights < 0)
    shifted = SignedMixture.of_values((0.5, 0.5), ((0,), (1,)), (1, 1), (8, 7), 0.25)
    np.testing.assert_allclose(shifted.weights, [3.0, -1.0])


def test_candidates_have_their_components_weights_and_mean_one():
    x, w = map(np.asarray, PLANE.mixture.sample_behaviour(jax.random.key(0), 4000))
    assert x.shape == (1, 4000, 2) and w.shape == (1, 4000)
    assert w.mean() == pytest.approx(1.0, abs=1e-6)
    bad = w[0] < 0
    assert bad.mean() == 0.25
    np.testing.assert_allclose(x[0, bad].mean(0), PLANE.disc[0], atol=0.06)
    np.testing.assert_allclose(x[0, bad].std(0), PLANE.disc[1], atol=0.03)


def test_cases_at_known_points():
    grid = np.linspace(-6, 6, 601)[:, None]
    assert all((CASE_ONE.mixture.density(grid, t) > 0).all() for t in TIMES)
    for example in (CASE_TWO, PLANE):
        mixture, bad = example.mixture, np.argmin(example.mixture.weights)
        sign = np.sign(mixture.density(mixture.means, 0.0))
        assert (sign == np.where(np.arange(len(sign)) == bad, -1, 1)).all()
        assert (mixture.density(0.3 * mixture.means, 0.7) > 0).all()


def test_the_border_of_case_two_is_where_the_density_vanishes():
    axes = Figure().subplots()
    x = np.linspace(-3, 3, 201)
    time = np.linspace(0, 1, 101)
    signed = CASE_TWO.mixture.density(x[:, None], time[:, None])
    _, border = plots.hatch(axes, time, x, signed.T)
    t, action = np.concatenate([p.vertices for p in border.get_paths()]).T
    assert len(t) > 50
    left = CASE_TWO.mixture.density(action[:, None], t)
    np.testing.assert_allclose(left, 0, atol=1e-3)
    assert plots.hatch(axes, time, x, np.abs(signed.T)) == []


def test_fields_are_finite_far_from_the_data():
    for mixture in (e.mixture for e in EXAMPLES):
        for one in (mixture, mixture.positive):
            assert np.isfinite(one.velocity(np.full((1, mixture.dim), 60.0), 0.2)).all()


def quantiles(n):
    return special.ndtri((np.arange(n)[:, None] + 0.5) / n)


def test_case_one_generates_the_signed_mixture():
    mixture = CASE_ONE.mixture
    flow = Flow(Heun(), 100, clip=None)
    x = trace(flow, mixture.velocity, quantiles(2000))[-1]
    assert mixture.distance(x) < 0.002
    assert mixture.distance(x + 0.1) > 0.02
    dropped = trace(flow, mixture.positive.velocity, quantiles(2000))[-1]
    assert mixture.distance(dropped) > 0.15
    np.testing.assert_allclose(dropped, quantiles(2000), atol=0.01)  # N(0, 1) again


@pytest.mark.parametrize("example", EXAMPLES[1:], ids=lambda e: e.name)
def test_no_particle_enters_case_two(example):
    mixture, flow = example.mixture, Flow(Heun(), 100, clip=None)
    noise = rng.normal(size=(500, mixture.dim))
    path = trace(flow, mixture.velocity, noise)
    times = np.linspace(1, 0, 101)[:, None]
    assert (mixture.density(path, times) < 0).mean() < 1e-3
    dropped = trace(flow, mixture.positive.velocity, noise)
    assert (mixture.density(dropped[-1], 0.0) < 0).mean() > 0.07


@pytest.mark.parametrize("solver", [Euler(), Heun()])
def test_trace_is_the_flow_sampler(monkeypatch, solver):
    flow = Flow(solver, 8, clip=None)
    net = oracle_for(flow, oracle(CASE_ONE.mixture))
    noise = quantiles(64)
    monkeypatch.setattr(
        "simpo.generative.flow.normal", lambda _, shape: jnp.reshape(noise, shape)
    )
    path = trace(flow, CASE_ONE.mixture.velocity, noise)
    assert path.shape == (9, 64, 1)
    np.testing.assert_array_equal(path[0], noise)
    np.testing.assert_allclose(path[-1], draw_samples(flow, net, 64)[0], atol=1e-4)


def test_a_field_is_evaluated_at_any_shape():
    net = begin(Fitting(80, width=8), 2, jax.random.key(0))[0]
    x = rng.normal(size=(3, 4, 2))
    out = evaluate(net, x, 0.3)
    one = net(jnp.asarray(x[1, 2]), jnp.asarray(0.3), jnp.zeros(0))
    np.testing.assert_allclose(out[1, 2], one, rtol=1e-4)


def test_fits_repeat_and_end_where_the_loss_is_no_number():
    short = Fitting(4, points=2, batch=64, width=8)
    losses = [
        [f.loss for f in fit(short, CASE_TWO.mixture, Unbounded(), seed)]
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]
    lost = CASE_TWO.mixture._replace(weights=np.array([2.0, np.nan, 2.0]))
    assert not list(fit(short, lost, Unbounded(), 0))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "PARTICLES", 60)
        patch.setattr(geometry, "QUANTILES", 200)
        patch.setattr(geometry, "FRAMES", 7)
        patch.setitem(STYLE, "savefig.dpi", 60)
        study = GeometryStudy(
            quick=True,
            particles=2000,
            fit_steps=1600,
            denoising_steps=40,
            out=tmp_path_factory.mktemp("study"),
        )
        return reproduce(study)


def test_the_study_leaves_every_file_it_names(report):
    text = (report.folder / "report.txt").read_text()
    names = {"generated.csv", "fits.csv", "particles.gif"}
    assert all(name in text for name in names)
    for picture in ("line", "plane", "loss"):
        assert picture in text
        names |= {f"{picture}.png", f"{picture}.svg"}
    about = {"config.json", "env.json", "status.json", "report.txt"}
    assert {path.name for path in report.folder.iterdir()} == names | about
    status = json.loads((report.folder / "status.json").read_text())
    assert status["state"] == "done"
    for name in ("line.png", "plane.png", "loss.png"):
        with Image.open(report.folder / name) as image:
            assert min(image.size) > 300
    with Image.open(report.folder / "particles.gif") as movie:
        assert movie.n_frames == 4 and movie.info["loop"] == 0
        assert (report.folder / "particles.gif").stat().st_size < 1_000_000


def test_the_verdicts_hold(report):
    verdicts = [line for line in report.lines if str(line).startswith("[")]
    assert len(verdicts) == 4
    assert all(line.startswith("[holds]") for line in verdicts)


def test_the_tables_have_the_numbers(report):
    with (report.folder / "generated.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and {row["samples"] for row in rows} == {"500"}
    for row in rows:
        low, share, high = (
            float(row[f"near_negative{end}"]) for end in ("_low", "", "_high")
        )
        assert 0 <= low <= share <= high < 0.45
        assert (row["ks_to_signed"] != "") == (row["example"] == CASE_ONE.name)
    with (report.folder / "fits.csv").open() as file:
        fits = list(csv.DictReader(file))
    assert {row["bound"] for row in fits} == {"unbounded", "errors clipped"}
    speed = {row["bound"]: float(row["max_speed_case_2"]) for row in fits}
    assert speed["unbounded"] > 20 * speed["errors clipped"]
    assert speed["errors clipped"] < 5


def row(near, ks=0.01, width=0.01):
    return {
        "samples": 100,
        "near_negative": near,
        "near_negative_low": near - width,
        "near_negative_high": near + width,
        "ks_to_signed": ks,
        "ks_critical_1_percent": 0.05,
    }


def fields(*rows):
    return dict(zip(("positive-only", "signed", "fitted"), rows, strict=True))


def test_verdicts_can_fail_and_can_stay_open():
    def of_case_one(*distances):
        rows = {CASE_ONE.name: fields(*(row(0.1, ks) for ks in distances))}
        return [verdict.holds for verdict in judge_case_one(rows)]

    assert of_case_one(0.2, 0.01, 0.01) == [True, True]
    assert of_case_one(0.2, 0.06, 0.01) == [False, True]
    assert of_case_one(0.2, 0.01, 0.06) == [True, False]
    assert of_case_one(0.04, 0.01, 0.01) == [None, None]

    def of_mass(*shares):
        good = fields(row(0.3), row(0.1), row(0.1))
        return judge_mass({"one": good, "two": fields(*map(row, shares))}).holds

    assert of_mass(0.3, 0.1, 0.2) is True
    assert of_mass(0.3, 0.1, 0.29) is None
    assert of_mass(0.3, 0.1, 0.4) is False


def curve(distances, losses):
    return [
        {"step": i, "loss": loss, "distance_case_2": distance}
        for i, (distance, loss) in enumerate(zip(distances, losses, strict=True))
    ]


def test_case_two_needs_growth_of_both():
    clipped = curve((1, 2, 2), (3, 2, 2))

    def holds(free, clipped=clipped):
        return judge_case_two({"unbounded": free, "errors clipped": clipped}).holds

    assert holds(curve((1, 10, 100), (3, -10, -100)))
    assert not holds(curve((1, 10, 9), (3, -10, -100)))
    assert not holds(curve((1, 10, 100), (3, -10, -9)))
    assert not holds(curve((1, 10, 100), (3, -10, -100)), curve((2, 2, 1), (3, 2, 2)))


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [
        ("particles", 1, 2),
        ("fit_steps", 79, 80),
        ("denoising_steps", 1, 2),
        ("seed", -1, 0),
    ],
)
def test_refusals_leave_nothing_behind(tmp_path, option, value, least):
    study = replace(GeometryStudy(out=tmp_path / "out"), **{option: value})
    with pytest.raises(SimpoError, match=f"{option} must be at least {least}, got"):
        reproduce(study)
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("simpo.cli.reproduce.one_device_per_core", lambda: None)
    monkeypatch.setattr("simpo.cli.studies.keep_compiled", lambda: None)
    words = ["reproduce", "geometry", "--particles", "1", "--out", str(tmp_path)]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "particles must be at least 2, got 1" in err
    assert len(err.strip().splitlines()) == 1


def test_pictures_load_no_jax():
    code = (
        "import sys, simpo.plotting.geometry, simpo.plotting.matching; "
        "assert not {'jax', 'simpo.agents', 'simpo.generative'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
