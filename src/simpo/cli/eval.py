"""`simpo eval RUN`: play episodes with a trained policy."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from simpo.agents import Mode
from simpo.checkpoint import SavedPolicy, load
from simpo.cli.options import read_options
from simpo.envs import make
from simpo.evaluation import EpisodeRow, evaluate
from simpo.loggers import rounded
from simpo.plotting import mean_interval
from simpo.types import SimpoError

__all__ = ["main"]


@dataclass(frozen=True)
class EvalArguments:
    """Options of `simpo eval`."""

    run: Annotated[Path, tyro.conf.Positional] = Path()
    """Run directory or policy folder."""
    env: str | None = None
    """Task; the policy's own by default."""
    episodes: int = 20
    """Episodes per sampler."""
    best_of: tuple[int, ...] | None = None
    """Samples per action, one row of the table each; the best by min Q is taken.
    By default the samplers of the evaluations in training."""
    seed: int = 1_000_000
    """Seed of environments and actions, away from those of training."""
    csv: Path | None = None
    """Where to write a row per episode."""


def show(rows: list[EpisodeRow], env: str) -> None:
    """Print a row per sampler."""
    table = Table(title=f"{env}: returns per episode")
    for column in ("sampler", "episodes", "mean ± 95 %", "median", "min", "max"):
        table.add_column(column, justify="left" if column == "sampler" else "right")
    for sampler in dict.fromkeys(r.sampler for r in rows):
        returns = np.array([r.return_ for r in rows if r.sampler == sampler])
        mean, _, high = mean_interval(returns)
        quantiles = np.quantile(returns, [0.5, 0.0, 1.0])
        table.add_row(
            sampler,
            str(len(returns)),
            f"{rounded(float(mean))} ± {rounded(float(high - mean))}",
            *(rounded(q) for q in quantiles),
        )
    Console().print(table)


def require_fit(saved: SavedPolicy, env: str) -> None:
    """Refuse a task of other dimensions than the policy's."""
    task = make(env, 1, seed=0)
    task.close()
    if task.spec != saved.spec:
        raise SimpoError(
            f"the policy, of {saved.env}, does not fit {env}: observations and actions "
            f"are {tuple(saved.spec)} and {tuple(task.spec)}"
        )


def require_no_module(run: Path, env: str) -> None:
    """Refuse to import what a policy folder, which may come from anyone, names."""
    module = env.rpartition(":")[0]
    if module and not (run / "policy").is_dir() and module != "simpo.envs":
        raise SimpoError(
            f"the policy names a task of the module {module!r}, which would be "
            f"imported; if you trust it: simpo eval {run} --env {env}"
        )


def write(path: Path, rows: list[EpisodeRow], env: str) -> None:
    """Write a row per episode."""
    try:
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["env", "sampler", "episode", "return", "length"])
            table.writerows([env, *row] for row in rows)
    except OSError as error:
        raise SimpoError(f"cannot write {path}: {error.strerror}") from error


def main(argv: list[str]) -> int:
    """Evaluate and print."""
    if not argv:
        raise SimpoError("which run? simpo eval RUN")
    arguments = read_options(
        EvalArguments(),
        argv,
        prog="simpo eval",
        description="Play episodes with a trained policy.",
    )
    best_of = arguments.best_of
    if arguments.episodes < 1 or (best_of is not None and min(best_of, default=0) < 1):
        raise SimpoError("--episodes and --best-of must be at least 1")
    if not 0 <= arguments.seed < 2**32:
        raise SimpoError("--seed must be between 0 and 2**32 - 1")
    saved = load(arguments.run)
    if not arguments.env:
        require_no_module(arguments.run, saved.env)
    env = arguments.env or saved.env
    require_fit(saved, env)
    rows: list[EpisodeRow] = []
    stderr = Console(stderr=True)
    modes = [Mode(best_of=n) for n in best_of] if best_of else saved.agent.evaluating
    for mode in track(
        modes,
        description="evaluating",
        console=stderr,
        disable=not stderr.is_terminal,
    ):
        rows += evaluate(
            saved.agent,
            saved.policy,
            env,
            mode,
            episodes=arguments.episodes,
            seed=arguments.seed,
        )
    show(rows, env)
    if arguments.csv:
        write(arguments.csv, rows, env)
    return 0
