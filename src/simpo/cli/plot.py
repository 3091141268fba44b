"""`simpo plot RUN...`: pictures of one run, or several runs compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from simpo.cli.options import read_options
from simpo.types import SimpoError

__all__ = ["PlotOptions", "main"]


@dataclass(frozen=True)
class PlotOptions:
    """Draw one run (learning curve, weights, diagnostics), or compare several."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...")] = ()
    """Run directories; runs that differ only in their seed are averaged."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where to write; by default RUN/plots for one run, ./plots for several."""


def main(argv: list[str]) -> int:
    """Draw, and print the paths written.

    Raises:
        SimpoError: No run was named, or one of them cannot be read.
    """
    options = read_options(PlotOptions(), argv, prog="simpo plot")
    if not options.runs:
        raise SimpoError("which run? simpo plot RUN")
    from simpo.plotting import learning_curve, plot_run, read_run

    if len(options.runs) == 1:
        paths = plot_run(options.runs[0], options.out)
    else:
        out = options.out or Path("plots")
        runs = [read_run(directory) for directory in options.runs]
        paths = learning_curve(runs, out / "learning_curve")
    for path in paths:
        print(path)
    return 0
