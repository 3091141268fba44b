"""`simpo dna COMMAND`: design of DNA sequences."""

import difflib

from simpo.backend import keep_compiled
from simpo.cli.options import read_options
from simpo.experiments.dna_demo import DnaDemo
from simpo.experiments.report import reproduce
from simpo.types import SimpoError

__all__ = ["main"]

COMMANDS = {"demo": "design sequences of a planted grammar, whose truth is known"}


def demo(argv: list[str]) -> int:
    """Run the demonstration; print its table and where everything is."""
    study = read_options(DnaDemo(), argv, prog="simpo dna demo")
    keep_compiled()
    report = reproduce(study)
    print("\n".join(report.lines))
    print(f"results  {report.folder}")
    print(f"page     {report.folder / 'report.html'}")
    return 0


def main(argv: list[str]) -> int:
    """Run the command that the first word names."""
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<9} {text}" for name, text in COMMANDS.items())
        print(f"usage: simpo dna COMMAND [options]\n\ncommands:\n{rows}")
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, 1)
        hint = f"did you mean '{near[0]}'?" if near else "see simpo dna --help"
        raise SimpoError(f"unknown command 'dna {argv[0]}'; {hint}")
    return {"demo": demo}[argv[0]](argv[1:])
