"""`simpo plot RUN...`: pictures of one run, or several runs compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from simpo.cli.options import read_options
from simpo.types import SimpoError

if TYPE_CHECKING:
    from simpo.plotting import RunData

__all__ = ["PlotOptions", "main"]


@dataclass(frozen=True)
class PlotOptions:
    """Draw one run (learning curve, weights, diagnostics), or compare several."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...")] = ()
    """Run directories, or folders of them, of which the finished runs are taken; runs
    that differ only in their seed are averaged."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where to write; by default RUN/plots for one run, ./plots for several."""
    sampler: Annotated[str | None, arg(metavar="NAME")] = None
    """Compare all runs under this sampler; by default each under its headline one."""
    draws: int = 10_000
    """Bootstrap resamples for every interval of the table."""


def main(argv: list[str]) -> int:
    """Draw, and print the tables of several runs and the paths written.

    Raises:
        SimpoError: No run was named, or one of them cannot be read.
    """
    options = read_options(PlotOptions(), argv, prog="simpo plot")
    if not options.runs:
        raise SimpoError("which run? simpo plot RUN")
    if options.draws < 1:
        raise SimpoError(f"draws must be at least 1, not {options.draws}")
    from simpo.plotting import find_runs, plot_run

    runs, notes = find_runs(options.runs)
    if len(runs) == 1:
        paths = plot_run(runs[0].directory, options.out)
    else:
        paths = compare(runs, notes, options)
    for path in paths:
        print(path)
    return 0


def compare(
    runs: "list[RunData]", notes: list[str], options: PlotOptions
) -> list[Path]:
    """Everything about several runs; the paths written."""
    from simpo.experiments.scoreboard import board_rows, board_text, write_rows
    from simpo.plotting import compare_runs, learning_curve
    from simpo.plotting.aggregates import draw_all

    out = options.out or Path("plots")
    scored = compare_runs(runs, options.sampler)
    scored.notes.extend(notes)
    rows = board_rows(scored, options.draws)
    print(board_text(scored, rows), end="\n\n")
    paths = learning_curve(runs, out / "learning_curve", options.sampler)
    if scored.pooled:
        paths += draw_all(scored.pooled, out, options.draws)
    write_rows(rows, out / "scores.csv")
    return [*paths, out / "scores.csv"]
