"""Published final returns on the v4 tasks, and where each was read.

The text of the paper has no table: its figures are those that two public aggregators of
leaderboards give, to three digits. What they parsed wrongly is left out.
"""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["BEST", "PUBLISHED", "Published"]


class Published(NamedTuple):
    """A published return and its source."""

    value: float
    source: str


TASKS = ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "Swimmer")
SIMPO = "paper, by its aggregator page: the best of its variants on each task"
TABLE = "probably the paper's table, by the aggregator page of the baseline"
BEST: Mapping[str, Published] = {
    f"{task}-v4": Published(value, SIMPO)
    for task, value in zip(
        TASKS, (13_900.0, 3_000.0, 4_910.0, 5_980.0, 5_470.0, 69.0), strict=True
    )
}
"""The best SiMPO, by task."""
PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("Hopper-v4", "DIPO"): Published(1_190.0, TABLE),
    ("Walker2d-v4", "DIPO"): Published(3_810.0, TABLE),
    ("Ant-v4", "DIPO"): Published(977.0, TABLE),
    ("Humanoid-v4", "DIPO"): Published(5_180.0, TABLE),
    ("Swimmer-v4", "DIPO"): Published(46.0, TABLE),
    ("Hopper-v4", "QSM"): Published(1_590.0, TABLE),
    ("Ant-v4", "QSM"): Published(711.0, TABLE),
    ("Humanoid-v4", "QSM"): Published(2_310.0, TABLE),
    ("Swimmer-v4", "QSM"): Published(108.0, TABLE),
}
"""Baselines, by task and method."""
