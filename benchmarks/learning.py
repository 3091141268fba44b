"""Does `simpo train` learn? Seeds 0-4 of the default run, one after another.

    python benchmarks/learning.py                 # about ten minutes on two cores

Prints, for every seed, the return before and after (mean of 20 evaluation episodes, one
sample per action), the same for best of ten, and the wall time of the whole process.
"""

import argparse
import csv
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean

TARGET = 8_000
"""Return that counts as learned; a policy that never falls gets about 9,360."""


def scores(run: Path) -> dict[str, tuple[float, float]]:
    """Mean return of the first and of the last evaluation, by sampler."""
    returns: dict[tuple[str, int], list[float]] = defaultdict(list)
    with (run / "evaluations.csv").open() as file:
        for row in csv.DictReader(file):
            returns[row["sampler"], int(row["step"])].append(float(row["return"]))
    result = {}
    for sampler in dict.fromkeys(s for s, _ in returns):
        steps = [step for s, step in returns if s == sampler]
        first, last = (fmean(returns[sampler, f(steps)]) for f in (min, max))
        result[sampler] = first, last
    return result


def train(seed: int, out: Path, options: list[str]) -> tuple[Path, float]:
    """One run in a process of its own: its directory and its seconds."""
    command = [sys.executable, "-m", "simpo", "train", "--seed", str(seed)]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "--out", str(out), *options],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    line = next(row for row in done.stdout.splitlines() if row.startswith("run "))
    return Path(line.split(maxsplit=1)[1]), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("options", nargs="*", help="after --, passed on to simpo train")
    arguments = parser.parse_args()
    print(f"{'seed':>4} {'before':>8} {'after':>8} {'best of 10':>10} {'seconds':>8}")
    learned = 0
    for seed in arguments.seeds:
        run, seconds = train(seed, arguments.out, arguments.options)
        (before, after), *others = scores(run).values()
        best = others[0][1] if others else float("nan")
        learned += after >= TARGET
        row = f"{seed:>4} {before:8.0f} {after:8.0f} {best:10.0f} {seconds:8.0f}"
        print(row, flush=True)
    print(f"{learned} of {len(arguments.seeds)} seeds reached {TARGET:,}")


if __name__ == "__main__":
    main()
