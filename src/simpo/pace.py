"""How fast a run goes, how long it will take, and its numbers in a few characters.

speed v     steps per second of wall time over the later half of the rows since the
            first update: warm-up is faster, compilation slower, and evaluations count
time left   (T - t) / v, for T steps in all
"""

import math
from collections.abc import Sequence
from itertools import dropwhile, pairwise
from typing import NamedTuple

__all__ = ["Mark", "duration", "sparkline", "speed", "time_left"]

BLOCKS = "▁▂▃▄▅▆▇█"


class Mark(NamedTuple):
    """A row of timing.csv.

    Attributes:
        step: Environment steps so far.
        elapsed: Seconds so far.
        updates_per_second: Since the row before; 0 until the first update.
    """

    step: float
    elapsed: float
    updates_per_second: float


def speed(marks: Sequence[Mark]) -> float | None:
    """Steps per second v; None until two rows tell."""
    learning = list(dropwhile(lambda mark: not mark.updates_per_second > 0, marks))
    later = learning[min(len(learning) // 2, max(len(learning) - 2, 0)) :]
    if len(later) < 2:
        return None
    steps, seconds = (later[-1][i] - later[0][i] for i in (0, 1))
    return steps / seconds if steps > 0 and seconds > 0 else None


def time_left(marks: Sequence[Mark], total: float) -> float | None:
    """Seconds from the last row to the end of `total` steps; None if unknown."""
    rate = speed(marks)
    return None if rate is None else max(0.0, total - marks[-1].step) / rate


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve in at most `width` characters; a gap where nothing is finite.

    More values than characters are averaged in as many equal parts.
    """
    count = min(width, len(values))
    bounds = [len(values) * i // count for i in range(count + 1)] if count else []
    parts = [values[a:b] for a, b in pairwise(bounds)]
    finite = [[x for x in part if math.isfinite(x)] for part in parts]
    means = [sum(part) / len(part) if part else None for part in finite]
    known = [mean for mean in means if mean is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return "".join(" " if m is None else block(m, low, high) for m in means)


def block(value: float, low: float, high: float) -> str:
    """A value as one of eight heights between two ends."""
    share = (value - low) / (high - low) if high > low else 0.0
    return BLOCKS[min(int(share * len(BLOCKS)), len(BLOCKS) - 1)]
