"""`simpo push RUN... REPO`: send a policy with its model card to the hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from simpo.cli.options import read_options
from simpo.hub import prepare, push
from simpo.types import SimpoError

__all__ = ["main"]


@dataclass(frozen=True)
class PushArguments:
    """Options of `simpo push`."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Run directories of several seeds, the one whose policy is sent first, or one
    policy folder; then the repository, USER/NAME."""
    dry_run: Path | None = None
    """Send nothing; write here exactly what would be sent."""
    private: bool = False
    """Make the repository private if it is new."""


def main(argv: list[str]) -> int:
    """Send, or write what would be sent; print the files and where they are."""
    arguments = read_options(
        PushArguments(),
        argv,
        prog="simpo push",
        description="Send a policy with its model card to the Hugging Face Hub.",
    )
    if len(arguments.names) < 2:
        raise SimpoError("what, and where to? simpo push RUN... USER/NAME")
    *sources, repo = arguments.names
    if Path(repo).is_dir():
        raise SimpoError(f"{repo} is a folder; last comes the repository, USER/NAME")
    if arguments.dry_run:
        folder = prepare([Path(s) for s in sources], repo, arguments.dry_run)
        names, place = sorted(p.name for p in folder.iterdir()), f"{folder} (not sent)"
    else:
        place, names = push(sources, repo, private=arguments.private)
    print("\n".join([*names, f"in {place}"]))
    return 0
