"""Several runs side by side in a terminal, a line each."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simpo.loggers import rounded, thousands
from simpo.pace import duration, sparkline
from simpo.watching.feed import Shelf
from simpo.watching.follow import Follower

if TYPE_CHECKING:
    from rich.console import Console, Group

__all__ = ["runs_table", "show"]

STYLES = {"running": "cyan", "done": "green", "failed": "bold red", "died": "bold red"}
STARTED = "starting", "running"
SIDES: dict[str, Any] = dict.fromkeys(("seed", "step", "/s", "left", "return"), "right")
CURVE = 20
"""Characters of a sparkline."""


def show(shelf: Shelf, console: "Console | None" = None, pause: float = 1.0) -> None:
    """Show a table until Ctrl-C; print it once where the output is no terminal."""
    from rich.console import Console
    from rich.live import Live

    console = console or Console()
    followers = look(shelf, [])
    if not console.is_terminal or console.is_dumb_terminal:
        console.width = max(console.width, 160)  # a file has no width
        console.print(runs_table(followers))
        return
    try:
        with Live(
            console=console, auto_refresh=False, vertical_overflow="crop"
        ) as live:
            while True:
                live.update(runs_table(followers), refresh=True)
                time.sleep(pause)
                followers = look(shelf, followers)
    except KeyboardInterrupt:
        pass


def look(shelf: Shelf, followers: Sequence[Follower]) -> list[Follower]:
    """All runs, those that are new included, as they are now."""
    new = [Follower(path) for path in shelf.search()[len(followers) :]]
    for follower in (everyone := [*followers, *new]):
        follower.look()
    return everyone


def runs_table(followers: Sequence[Follower]) -> "Group":
    """A line per run; those that go on first, as there may be more than fit.

    Why runs ended early is told below.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("agent", "task", "seed", "state", "step", "", "/s", "left", "return"):
        table.add_column(name, no_wrap=True, justify=SIDES.get(name, "left"))
    table.add_column("", no_wrap=True)
    ended = {f.directory: f.condition.state not in STARTED for f in followers}
    for follower in sorted(followers, key=lambda f: ended[f.directory]):
        table.add_row(*line(follower))
    reasons = [
        Text(f"{f.name}, {f.directory.name}: {f.condition.reason}", "red")
        for f in followers
        if f.condition.reason
    ]
    return Group(table if followers else "waiting for a run", *reasons)


def line(follower: Follower) -> list:
    """A run in cells; text is never taken for markup."""
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    config, state = follower.config, follower.condition.state
    total, left = follower.total or 1, follower.left
    scores = [s.mean for s in follower.scores.values() if s.sampler == follower.sampler]
    curve = scores if len(scores) > 2 else follower.training
    latest = scores[-1:] or follower.training[-1:]
    return [
        Text(follower.name, "bold"),
        Text(str(config.get("env", ""))),
        str(config.get("seed", "")),
        Text(state, STYLES.get(state, "dim")),
        f"{thousands(follower.step)}/{thousands(follower.total)}",
        ProgressBar(total, min(follower.step, total), width=10),
        rounded(follower.speed) if follower.speed and state == "running" else "",
        "" if left is None else duration(max(0.0, left - follower.silence)),
        Text(rounded(latest[0]) if latest else "", "bold"),
        Text(sparkline(curve, CURVE), "magenta"),
    ]
