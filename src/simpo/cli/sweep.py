"""`simpo sweep [TASK] --search NAME=LOW:HIGH ...`: search values of fields."""

from simpo.cli.arguments import option_registry
from simpo.cli.options import read_options
from simpo.cli.studies import carry_out
from simpo.experiments.sweep import Sweep

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Search, or go on; print what was found and where everything is."""
    sweep = read_options(
        *(Sweep(), argv),
        prog="simpo sweep",
        registry=option_registry(),
    )
    return carry_out(sweep)
