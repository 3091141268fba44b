"""`simpo bench agents [options]`: train all agents under one protocol and rank them."""

from simpo.backend import keep_compiled
from simpo.cli.arguments import option_registry
from simpo.cli.options import read_options
from simpo.experiments.comparison import Comparison
from simpo.experiments.report import reproduce
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
    keep_compiled()
    report = reproduce(study)
    print("\n".join(report.lines))
    print(f"results  {report.folder}")
    return 0
