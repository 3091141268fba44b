"""`simpo pull REPO [DIR]`: fetch a policy from the hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from simpo.cli.options import read_options
from simpo.hub import pull
from simpo.types import SimpoError

__all__ = ["main"]


@dataclass(frozen=True)
class PullArguments:
    """Options of `simpo pull`."""

    repo: tyro.conf.Positional[str] = ""
    """Repository, USER/NAME."""
    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """Where to write; the repository's NAME by default."""
    revision: str | None = None
    """Branch, tag or commit; the main branch by default."""


def main(argv: list[str]) -> int:
    """Fetch, load; print what it is and what to type next."""
    if not argv:
        raise SimpoError("what? simpo pull USER/NAME [DIR]")
    arguments = read_options(
        PullArguments(),
        argv,
        prog="simpo pull",
        description="Fetch a policy from the Hugging Face Hub.",
    )
    folder = arguments.folder or Path(arguments.repo.rpartition("/")[2] or ".")
    saved = pull(arguments.repo, folder, revision=arguments.revision)
    agent = type(saved.agent).__name__
    print(f"policy   {folder}\nof       {agent} on {saved.env}, step {saved.step:,}")
    print(f"next     simpo eval {folder}")
    return 0
