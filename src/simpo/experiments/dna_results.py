"""Judged sets of sequences: what they are worth over seeds, as tables and pictures.

A score is the median of a set. Seeds are the unit: means over them have intervals of
Student's t, and differences are paired by seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from simpo.checkpoint import read_json
from simpo.dna.usage import USAGE, MotifUsage
from simpo.experiments import page
from simpo.experiments.designs import COLUMNS, Judges
from simpo.experiments.report import Report, Verdict
from simpo.experiments.summary import table
from simpo.plotting import designs as plots

__all__ = ["Interval", "Line", "above", "tell"]

WORDS = {True: "shown", False: "opposite", None: "not shown"}
"""What is said of an order."""
PACE = "over_rounds", "over_rounds_low", "over_rounds_high"
"""Columns of how fast a method learns."""


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval of Student's t; NaN of a single seed."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> "Interval":
        """Of values [S]."""
        mean, n = float(np.mean(values)), len(values)
        if n < 2:
            return Interval(mean, float("nan"), float("nan"))
        half = float(stats.t.ppf(0.975, n - 1) * stats.sem(values))
        return Interval(mean, mean - half, mean + half)

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, eq=False)
class Line:
    """What is known of a method.

    Attributes:
        rate: Its learning rate, where it has one.
        published: The paper's number, where there is one.
        sets: Judged sets by seed.
        curves: Median scores of the rounds [R], by seed; empty without rounds.
        rates: Motif hits per 100 bases, mean over seeds [M]; None without motifs.
    """

    rate: float | None
    published: float | None
    sets: Mapping[int, Mapping[str, Any]]
    curves: Sequence[np.ndarray]
    rates: np.ndarray | None = None

    def median(self, judge: str) -> Interval:
        """Of the medians over seeds."""
        return Interval.of([row[judge] for row in self.sets.values()])

    @property
    def pace(self) -> Interval | None:
        """Mean over rounds of the group's median reward; None without rounds."""
        if not self.curves:
            return None
        return Interval.of([float(np.mean(curve)) for curve in self.curves])

    def numbers(self, name: str, judges: Judges) -> dict[str, Any]:
        """Means over seeds, with the ends of the judges' intervals."""
        rows = list(self.sets.values())
        found: dict[str, Any] = {"method": name, "rate": self.rate, "seeds": len(rows)}
        for judge in judges.oracles:
            found[judge], found[f"{judge}_low"], found[f"{judge}_high"] = self.median(
                judge
            )
        means = {
            k: float(np.mean([r[k] for r in rows])) for k in COLUMNS if k in rows[0]
        }
        for key, number in zip(PACE, self.pace or (None,) * 3, strict=True):
            found[key] = number
        return found | means | {"paper": self.published}

    def text(self, name: str, judges: Judges) -> dict[str, str]:
        """Intervals of the judges' medians, means of the rest."""
        rows = list(self.sets.values())
        found = {
            "method": name,
            "rate": "" if self.rate is None else f"{self.rate:g}",
            "seeds": str(len(rows)),
            **{judge: str(self.median(judge)) for judge in judges.oracles},
        }
        found["over rounds"] = str(self.pace or "")
        for key, (title, form) in COLUMNS.items():
            if key in rows[0]:
                found[title] = form(float(np.mean([row[key] for row in rows])))
        number = self.published
        return found | {"paper": "" if number is None else f"{number:.2f}"}


def above(better: str, worse: str, lines: Mapping[str, Line]) -> Verdict:
    """Whether one method is above another by the evaluation oracle, paired by seed."""
    claim = f"{better} is above {worse}"
    pair = [lines[name].sets if name in lines else {} for name in (better, worse)]
    seeds = sorted(set(pair[0]) & set(pair[1]))
    if len(seeds) < 2:
        return Verdict(claim, None, "two seeds of both missing", WORDS)
    one, other = ([sets[seed]["evaluation"] for seed in seeds] for sets in pair)
    gap = Interval.of(np.subtract(one, other).tolist())
    holds = True if gap.low > 0 else False if gap.high < 0 else None
    return Verdict(claim, holds, f"{gap}, {len(seeds)} seeds", WORDS)


def tell(
    report: Report,
    judges: Judges,
    lines: Mapping[str, Line],
    verdicts: Sequence[Verdict],
) -> None:
    """Tables, verdicts, pictures, and the page that holds everything."""
    world = "\n".join(report.lines).splitlines()  # how well its oracles do
    report.add("cells", [row for line in lines.values() for row in line.sets.values()])
    rows = [line.text(name, judges) for name, line in lines.items()]
    report.add("methods", [line.numbers(name, judges) for name, line in lines.items()])
    if not rows:
        report.say("nothing is there yet")
        return
    usage = usage_of(judges, lines)
    report.add("motif_hits", usage.rows if usage else [])
    shown = list(rows[0]), [list(row.values()) for row in rows]
    report.say(table(*shown))
    asked = "; ".join(condition.name for condition in judges.conditions)
    notes = (*NOTES, f"satisfy: share that could be synthesised: {asked}.")
    for text in (*notes, *verdicts):
        report.say(text)
    parts = [page.verdict_list(verdicts)] if verdicts else []
    parts.append(page.rows("Methods", *shown))
    parts += [f"<p>{note}</p>" for note in (*notes, *([USAGE] if usage else []))]
    parts += [
        page.picture(path, path.stem)
        for path in pictures(judges, lines, usage, report.folder)
        if path.suffix == ".png"
    ]
    parts.append(page.details("Oracles and generator", world))
    machine = read_json(report.folder / "env.json")
    parts.append(page.details("Versions and devices", machine))
    title = f"simpo reproduce {report.folder.parent.name}: {report.folder.name} scale"
    html = page.page(title, parts)
    (report.folder / "report.html").write_text(html, encoding="utf-8")


def usage_of(judges: Judges, lines: Mapping[str, Line]) -> MotifUsage | None:
    """Motif hits of the natural sequences and of every method, where there are any."""
    rates = {name: line.rates for name, line in lines.items() if line.rates is not None}
    if not rates:
        return None
    return judges.usage({"natural": judges.rates(judges.natural_hits), **rates})


def pictures(
    judges: Judges, lines: Mapping[str, Line], usage: MotifUsage | None, folder: Path
) -> list[Path]:
    """Medians by judge, scores over rounds, and motifs."""
    medians = {
        judge: {name: line.median(judge) for name, line in lines.items()}
        for judge in judges.oracles
    }
    curves = {name: line.curves for name, line in lines.items() if line.curves}
    paths = plots.draw_medians(medians, folder / "medians")
    if curves:
        label = "Median reward of a group"
        paths += plots.draw_seeds(curves, label, folder / "rounds")
    if usage:
        paths += plots.draw_motifs(usage.motifs, usage.rates, folder / "motifs")
    return paths


NOTES = (
    "Medians of sets, mean over seeds with a 95 % interval of Student's t. The reward "
    "is what methods were scored by; the evaluation oracle is of another kind and was "
    "trained on other elements. Verdicts are of the evaluation oracle, paired by seed; "
    "there are many of them, and no correction is made for that.",
    "over rounds: the median reward of a group, mean over the rounds of fine-tuning, "
    "which tells how fast a method learns. nats/base: bound of the negative "
    "log-likelihood under the generator before fine-tuning (1.386 is noise). 3-mers, "
    "motifs: correlation of 3-mer counts and of motif hits with the most active "
    "hundredth of the elements. distance: share of bases that differ from the nearest "
    "element that the reward was trained on.",
    "The paper's numbers are another oracle's, of other data and a far larger network: "
    "only their order can be compared.",
)
