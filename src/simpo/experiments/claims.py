"""How claims that compare methods are judged from their scores over seeds.

Two methods on a task are told apart by Welch's 95 % interval of the difference of their
mean scores. A claim about several tasks is about each of them, or about most; where the
intervals allow both answers it is not decided.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from simpo.experiments.grids import Results
from simpo.experiments.report import Verdict

__all__ = ["Gap", "compare", "each", "incomparable", "most", "rival", "unchanged"]


class Gap(NamedTuple):
    """A difference of mean scores and the ends of its interval; above 0 is better.

    Attributes:
        against: The other method.
        value: The difference.
        low: Lower end.
        high: Upper end.
        size: Absolute mean score of the other, for shares.
    """

    against: str
    value: float
    low: float
    high: float
    size: float

    def __str__(self) -> str:
        ends = f"[{self.low:+,.1f}, {self.high:+,.1f}]"
        return f"{self.value:+,.1f} {ends} against {self.against}"


def difference(one: np.ndarray, other: np.ndarray, against: str) -> Gap | None:
    """Mean of one minus mean of the other; None with fewer than two seeds of either."""
    if min(len(one), len(other)) < 2:
        return None
    value, size = float(one.mean() - other.mean()), float(abs(other.mean()))
    if one.std() == other.std() == 0:
        return Gap(against, value, value, value, size)
    found = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    return Gap(against, value, float(found.low), float(found.high), size)


def rival(results: Results, task: str, methods: Iterable[str]) -> str | None:
    """The best of some methods on a task, by mean score; None if none was run."""
    means = {
        method: results[task, method].scores.mean()
        for method in methods
        if (task, method) in results
    }
    return max(means, key=lambda method: means[method], default=None)


def compare(
    results: Results, tasks: Sequence[str], method: str, others: Sequence[str]
) -> dict[str, Gap]:
    """A method against the best of others, on each task that has both."""
    found = {}
    for task in tasks:
        best = rival(results, task, others)
        if best is None or (task, method) not in results:
            continue
        pair = (results[task, name].scores for name in (method, best))
        if gap := difference(*pair, against=best):
            found[task] = gap
    return found


def each(claim: str, tasks: Sequence[str], gaps: Mapping[str, Gap]) -> Verdict:
    """Better on every task: not so if worse, or at most as good, on one."""
    if len(gaps) == len(tasks) and all(gap.low > 0 for gap in gaps.values()):
        holds = True
    else:
        holds = False if any(gap.high <= 0 for gap in gaps.values()) else None
    return Verdict(claim, holds, evidence(tasks, gaps))


def most(claim: str, tasks: Sequence[str], gaps: Mapping[str, Gap]) -> Verdict:
    """Better on more than half of the tasks."""
    better = sum(gap.low > 0 for gap in gaps.values())
    not_better = sum(gap.high <= 0 for gap in gaps.values())
    holds = None
    if 2 * better > len(tasks):
        holds = True
    elif 2 * not_better >= len(tasks):
        holds = False
    return Verdict(claim, holds, evidence(tasks, gaps))


def unchanged(
    claim: str, tasks: Sequence[str], gaps: Mapping[str, Gap], share: float
) -> Verdict:
    """On every task within a share of the other's score, either way."""
    small = [-share * g.size < g.low <= g.high < share * g.size for g in gaps.values()]
    large = [g.low > share * g.size or g.high < -share * g.size for g in gaps.values()]
    holds = None
    if any(large):
        holds = False
    elif len(gaps) == len(tasks) and all(small):
        holds = True
    return Verdict(claim, holds, evidence(tasks, gaps))


def evidence(tasks: Sequence[str], gaps: Mapping[str, Gap]) -> str:
    """The differences, and which tasks have none yet."""
    texts = [f"{task} {gap}" for task, gap in gaps.items()]
    missing = [task for task in tasks if task not in gaps]
    if missing:
        texts.append(f"two seeds of both missing on {', '.join(missing)}")
    return "; ".join(texts)


def incomparable(claims: Iterable[str], scale: str) -> list[Verdict]:
    """Claims that runs of a scale say nothing of."""
    return [Verdict(c, None, f"not comparable at this scale ({scale})") for c in claims]
