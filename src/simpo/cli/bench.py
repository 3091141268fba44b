"""`simpo bench agents [options]`: train all agents under one protocol and rank them."""

from simpo.cli.arguments import option_registry
from simpo.cli.options import read_options
from simpo.cli.studies import carry_out
from simpo.experiments.comparison import Comparison
from simpo.types import SimpoError

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run what is missing; print the table and where everything is."""
    if argv in (["-h"], ["--help"]):
        print("usage: simpo bench agents [options]; see simpo bench agents --help")
        return 0
    if not argv or argv[0] != "agents":
        raise SimpoError("bench what? simpo bench agents")
    study = read_options(
        *(Comparison(), argv[1:]),
        prog="simpo bench agents",
        registry=option_registry(),
    )
    return carry_out(study)
