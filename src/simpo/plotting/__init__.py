"""Pictures of run directories, as PNG and SVG; equal data give equal bytes.

`learning_curve`     evaluation return against environment steps
`weights_against_q`  signed weight against normalised advantage (q - mean q) / std q
`diagnostics`        what Stage I and Stage II did, over the run
`overview`           the first two side by side
`draw_estimates`     of several settings: IQM, median, mean, optimality gap
`draw_profiles`      of several settings: share of runs above every score
`draw_efficiency`    of several settings: IQM against environment steps

`plot_run` writes all of them for one run directory. No JAX is loaded.
"""

from pathlib import Path

from matplotlib.figure import Figure

from simpo.plotting.aggregates import draw_efficiency, draw_estimates, draw_profiles
from simpo.plotting.curves import Interval, draw_run, learning_curve, mean_interval
from simpo.plotting.folders import find_runs
from simpo.plotting.panels import diagnostics
from simpo.plotting.rundata import RunData, read_run
from simpo.plotting.scores import compare_runs
from simpo.plotting.style import draw
from simpo.plotting.weights import draw_weights, weights_against_q

__all__ = [
    "Interval",
    "RunData",
    "compare_runs",
    "diagnostics",
    "draw_efficiency",
    "draw_estimates",
    "draw_profiles",
    "find_runs",
    "learning_curve",
    "mean_interval",
    "overview",
    "plot_run",
    "read_run",
    "weights_against_q",
]


def overview(run: RunData, out: Path) -> list[Path]:
    """One wide picture: the learning curve, and the weights that made it if there are.

    Args:
        run: The run.
        out: File name without suffix.

    Returns:
        The files written.
    """

    def side_by_side(figure: Figure) -> None:
        if not run.candidates:
            return draw_run(figure.subplots(), run)
        left, right = figure.subplots(1, 2)
        draw_run(left, run)
        return draw_weights(right, run)

    return draw(out, (13.0, 4.6), side_by_side)


def plot_run(directory: str | Path, out: Path | None = None) -> list[Path]:
    """Write every picture that a run's files allow.

    Args:
        directory: The run directory.
        out: Where to write; `plots/` in the run directory by default.

    Returns:
        The files written.

    Raises:
        SimpoError: Not a run directory, a damaged one, or nothing to plot yet.
    """
    run = read_run(directory)
    out = out or run.directory / "plots"
    paths = learning_curve([run], out / "learning_curve")
    if any(name.startswith("train/") for name in run.progress):
        paths += diagnostics(run, out / "diagnostics")
    if run.candidates:
        paths += weights_against_q(run, out / "weights_against_q")
    return paths + overview(run, out / "overview")
