"""`simpo resume RUN`: go on with a run from its last checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from simpo.backend import keep_compiled
from simpo.cli.options import read_options
from simpo.runs import resume
from simpo.types import SimpoError

__all__ = ["main"]


@dataclass(frozen=True)
class ResumeArguments:
    """Options of `simpo resume`."""

    run: Annotated[Path, tyro.conf.Positional] = Path()
    """Run directory."""
    trust_checkpoint: bool = False
    """Go on from a checkpoint that someone else wrote, or that another machine did. It
    holds a pickle: reading it can run code."""


def main(argv: list[str]) -> int:
    """Train on; print where the results are and what to type next."""
    if not argv:
        raise SimpoError("which run? simpo resume RUN")
    arguments = read_options(
        ResumeArguments(),
        argv,
        prog="simpo resume",
        description="Go on with a run from its last checkpoint.",
    )
    keep_compiled()
    print(resume(arguments.run, trust=arguments.trust_checkpoint).summary())
    return 0
