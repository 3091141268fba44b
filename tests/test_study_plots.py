"""The pictures of the bandit study and the landscape map, from made-up numbers."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from simpo.plotting import bandit, landscape_map
from simpo.plotting.bandit import Curves, Escape, Landscape, Row, Sweep, rate_interval

rng = np.random.default_rng(0)
NAMES = ("Exp", "Linear", "Square", "Lin. Neg.", "Sqr. Neg.")
ACTION = np.linspace(-2, 2, 101)
LANDSCAPE = Landscape(
    "Two optima",
    ACTION,
    np.exp(-(ACTION**2)),
    rng.normal(0, 0.5, 200),
    {name: rng.normal(0.5, 0.1, 200) for name in NAMES},
)


def curves(names=NAMES):
    return Curves("Held equal", {n: rng.uniform(size=(4, 20)) for n in names}, 100)


def texts(paths):
    """What an SVG's comments say it writes; it draws letters as paths."""
    svg = next(path for path in paths if path.suffix == ".svg").read_text()
    return set(re.findall(r"<!-- (.*?) -->", svg))


def test_escape(tmp_path):
    success = Sweep(
        "candidate noise", (0.1, 0.2), {n: np.eye(2, 4).astype(bool) for n in NAMES}
    )
    paths = bandit.escape(Escape(LANDSCAPE, curves(), 0.05, success), tmp_path / "a")
    assert {p.name for p in paths} == {"a.png", "a.svg"}
    assert {*NAMES, "rounds", "candidate noise", "settled", "reward"} <= texts(paths)
    without = bandit.escape(Escape(LANDSCAPE, curves(), 0.05, None), tmp_path / "b")
    assert "candidate noise" not in texts(without)


def test_curvature(tmp_path):
    sweep = Sweep(
        "KL target, nats", (0.1, 1.0), {n: rng.uniform(size=(2, 4)) for n in NAMES}
    )
    rows = [Row(LANDSCAPE, [curves(NAMES[:3])] * 3, [sweep] * 2)] * 2
    found = texts(bandit.curvature(rows, tmp_path / "a"))
    assert {"Held equal", "Two optima", "expected simple regret"} <= found
    assert "KL target, nats" in texts(bandit.curvature_sweep(rows, tmp_path / "b"))


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_curves_show_means_and_intervals(scale):
    axes = Figure().subplots()
    data = curves(("Exp",))
    bandit.draw_regret(axes, data, scale)
    low, high = axes.get_ylim()
    shown = axes.lines[0].get_ydata()
    assert axes.get_yscale() == scale
    assert low < shown.min() < shown.max() < high
    assert low == 0 if scale == "linear" else low > 0
    np.testing.assert_allclose(axes.lines[0].get_ydata(), data.regret["Exp"].mean(0))
    np.testing.assert_allclose(axes.lines[0].get_xdata()[[0, -1]], [2.5, 97.5])
    assert len(axes.collections) == 1


def test_success_bars_are_wilsons():
    axes = Figure().subplots()
    escaped = np.array([[True] * 3 + [False]])
    bandit.draw_success(axes, Sweep("noise", (0.1,), {"Exp": escaped}))
    segment = axes.collections[0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 1], rate_interval(3, 4))
    np.testing.assert_allclose(rate_interval(3, 4), [0.3006, 0.9544], atol=1e-3)


def test_landscape_map(tmp_path):
    shape = (3, 4)
    regret = {name: rng.uniform(size=shape) for name in ("Exp", "Linear", "Lin. Neg.")}
    decided = np.zeros(shape, bool)
    decided[0, 0] = True
    data = landscape_map.Map(
        widths=np.array([0.1, 0.2, 0.3]),
        distances=np.array([0.5, 1.0, 1.5, 2.0]),
        regret=regret,
        decided=decided,
        gap=rng.normal(size=shape),
        statistic=rng.uniform(size=shape),
        statistic_name="participation",
    )
    found = texts(landscape_map.landscape_map(data, tmp_path / "map"))
    assert {"distance between the optima", "First candidates: participation"} <= found
    stars = [text for text in found if text.endswith("*")]
    least = min(r[0, 0] for r in regret.values())
    assert stars == [f"{least:.2f}*"]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_a_look(name):
    looks = [bandit.LOOKS[n] for n in NAMES if n != name]
    assert bandit.LOOKS[name] not in looks
