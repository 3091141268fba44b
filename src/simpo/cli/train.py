"""`simpo train [ENV] [options]`: train, evaluate, save, draw."""

from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from simpo.agents import Agent, SiMPO
from simpo.backend import keep_compiled
from simpo.cli.arguments import option_registry
from simpo.cli.options import read_options
from simpo.presets import (
    DEFAULT_AGENT,
    DEFAULT_ENV,
    DEFAULT_PRESET,
    PRESETS,
    agent_names,
    find,
)
from simpo.run import Run
from simpo.runs import start_or_resume, start_run
from simpo.trackers import Track
from simpo.types import SimpoError

__all__ = ["main"]


@dataclass(frozen=True)
class TrainArguments(Run):
    """Options of `simpo train`: those of the run, of the agent, and these."""

    env: tyro.conf.Positional[str] = DEFAULT_ENV
    agent: Agent = SiMPO()  # noqa: RUF009
    preset: str = DEFAULT_PRESET
    """Where all other defaults come from: laptop, paper or port."""
    agent_name: Annotated[str, tyro.conf.arg(name="agent")] = DEFAULT_AGENT
    """Which agent; the options that follow the run's are this agent's."""
    out: Path = Path("runs")
    """Folder for run directories."""
    resume: Literal["no", "auto"] = "no"
    """auto goes on with the newest unfinished run of the same settings, if any."""
    track: Track = "no"
    """The service that follows the run; an extra of this name. A run that goes on is
    tracked as it was begun."""


def option(argv: list[str], name: str) -> str | None:
    """The value of an option, looked up before the others can be parsed."""
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        if word == name:
            if following is None:
                raise SimpoError(f"{name} needs a value")
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def read_arguments(argv: list[str], preset: str, agent: str, run: Run) -> Any:
    """Options over the values of a run; the agent's fields are those of its class."""
    columns = [("agent", type(run.agent), field(default=run.agent))]
    arguments = make_dataclass(
        "Arguments", columns, bases=(TrainArguments,), frozen=True
    )
    values = {f.name: getattr(run, f.name) for f in fields(Run)}
    return read_options(
        arguments(**values, preset=preset, agent_name=agent),
        argv,
        prog="simpo train",
        description=f"Train an agent. Presets: {', '.join(PRESETS)}. "
        f"Agents of {preset}: {', '.join(agent_names(preset))}.",
        registry=option_registry(),
    )


def read_run(argv: list[str]) -> tuple[Run, TrainArguments]:
    """The run, and all options; the preset's values for the task are defaults."""
    preset = option(argv, "--preset") or DEFAULT_PRESET
    agent = option(argv, "--agent") or DEFAULT_AGENT
    no_help = [word for word in argv if word not in ("-h", "--help")]
    env = read_arguments(no_help, preset, agent, find(preset, agent=agent)).env
    arguments = read_arguments(argv, preset, agent, find(preset, env, agent))
    run = Run(**{f.name: getattr(arguments, f.name) for f in fields(Run)})
    return run, arguments


def main(argv: list[str]) -> int:
    """Train; print where the results are and what to type next."""
    run, options = read_run(argv)
    keep_compiled()
    begin = start_or_resume if options.resume == "auto" else start_run
    command = ["simpo", "train", *argv]
    print(begin(run, options.out, command=command, track=options.track).summary())
    return 0
