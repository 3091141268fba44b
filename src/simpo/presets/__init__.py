"""Presets: named settings of a run, each with where its values come from.

paper    Table F.1 and Section 5.2 of the paper; v4 tasks, 200k updates in 1M steps
port     the authors' later port (GeMPO); v5 tasks, one update per step
laptop   small networks, few denoising steps: minutes on two cores
smoke    the laptop preset in small: seconds, nothing is learnt

A preset is a protocol and a row of values per agent. `find(name, env, agent)` gives the
run; options then change single fields.
"""

from simpo.presets.base import Preset, Row, no_such
from simpo.presets.laptop import LAPTOP
from simpo.presets.paper import PAPER
from simpo.presets.port import PORT
from simpo.presets.smoke import SMOKE
from simpo.run import Run

__all__ = [
    "DEFAULT_AGENT",
    "DEFAULT_ENV",
    "DEFAULT_PRESET",
    "PRESETS",
    "Preset",
    "Row",
    "agent_names",
    "find",
]

DEFAULT_PRESET, DEFAULT_AGENT = "laptop", "SiMPO"
"""What `simpo train` without arguments uses."""
PRESETS: dict[str, Preset] = {
    "laptop": LAPTOP,
    "paper": PAPER,
    "port": PORT,
    "smoke": SMOKE,
}
"""Every preset by name."""
DEFAULT_ENV = LAPTOP.run.env
"""The task of `simpo train` without arguments."""


def find(name: str, env: str | None = None, agent: str = DEFAULT_AGENT) -> Run:
    """The run of a preset, for its own task or another, of one of its agents.

    Raises:
        SimpoError: No such preset, or no values in it for this agent or this task.
    """
    if name not in PRESETS:
        raise no_such("preset", name, list(PRESETS))
    preset = PRESETS[name]
    return preset.at(name, preset.run.env if env is None else env, agent)


def agent_names(preset: str = DEFAULT_PRESET) -> list[str]:
    """The agents that a preset has values for."""
    return list(PRESETS[preset].rows)
