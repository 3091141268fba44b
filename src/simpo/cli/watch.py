"""`simpo watch [RUN...]`: runs while they go on, on a web page or in the terminal."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from simpo.cli.options import read_options
from simpo.types import SimpoError

__all__ = ["WatchOptions", "main"]


@dataclass(frozen=True)
class WatchOptions:
    """Show runs while they go on, on a web page of this machine, or in a terminal.

    Only reads run directories, so it can be started and ended at any time.
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...")] = ()
    """Run directories, or folders that hold some; ./runs by default."""
    terminal: bool = False
    """A table in the terminal; printed once where the output is a file or a pipe."""
    port: int = 8642
    """Port of the page; 0 takes a free one."""


def main(argv: list[str]) -> int:
    """Show until Ctrl-C.

    Raises:
        SimpoError: No such run, or a port that cannot be used.
    """
    options = read_options(WatchOptions(), argv, prog="simpo watch")
    paths = options.runs or (Path("runs"),)
    if not options.runs and not paths[0].exists():
        raise SimpoError("which run? simpo watch RUN; there is no folder runs")
    from simpo.watching.feed import Shelf

    shelf = Shelf(paths)
    if options.terminal:
        from simpo.watching.table import show

        show(shelf)
        return 0
    from simpo.watching.server import Server

    server = Server(shelf, options.port)
    count = len(shelf.search())
    print(f"watching {count} run{'s' * (count != 1)}: {server.url}", flush=True)
    print("Ctrl-C ends it", flush=True)
    server.serve()
    return 0
