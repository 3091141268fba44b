"""`simpo train [ENV] [options]`: train, evaluate, save, draw."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from simpo.agents import SiMPO
from simpo.cli.arguments import read_arguments
from simpo.presets import PRESETS, find
from simpo.runs import start_run
from simpo.trainer import Run
from simpo.types import SimpoError

__all__ = ["main"]


@dataclass(frozen=True)
class TrainArguments(Run):
    """Options of `simpo train`: those of the run, of the agent, and these."""

    env: tyro.conf.Positional[str] = "InvertedDoublePendulum-v5"
    agent: SiMPO = SiMPO()  # noqa: RUF009
    preset: str = "laptop"
    """Where all other defaults come from: laptop, paper or port."""
    out: Path = Path("runs")
    """Folder for run directories."""


def option(argv: list[str], name: str) -> str | None:
    """The value of an option, looked up before the others can be parsed."""
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word == name:
            if following is None:
                raise SimpoError(f"{name} needs a value")
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def main(argv: list[str]) -> int:
    """Train; print where the results are and what to type next."""
    preset = option(argv, "--preset") or "laptop"
    env = argv[0] if argv and not argv[0].startswith("-") else None
    run = find(preset, env)
    values = {f.name: getattr(run, f.name) for f in fields(Run)}
    arguments = read_arguments(
        TrainArguments(**values, preset=preset),
        argv,
        prog="simpo train",
        description=f"Train an agent. Presets: {', '.join(PRESETS)}.",
    )
    run = Run(**{f.name: getattr(arguments, f.name) for f in fields(Run)})
    finished = start_run(run, arguments.out, command=["simpo", "train", *argv])
    print(finished.summary(), file=sys.stdout)
    return 0
