"""`simpo list {envs,agents,weightings,presets}`."""

import difflib
import inspect
from collections.abc import Callable

from simpo.types import SimpoError

__all__ = ["main"]

Rows = list[tuple[str, str]]


def first_line(cls: type) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def environments() -> Rows:
    """Recommended tasks; any other Gymnasium id with Box spaces works too."""
    from simpo.envs import ENVIRONMENTS

    return [
        (name, f"obs {e.obs_dim:>3}, actions {e.action_dim:>2}, {e.note}")
        for name, e in ENVIRONMENTS.items()
    ]


def agents() -> Rows:
    """What `--agent` takes, with the presets that have values for it."""
    from simpo.presets import DEFAULT_PRESET, PRESETS, agent_names

    rows = []
    for name in agent_names():
        having = [key for key, preset in PRESETS.items() if name in preset.rows]
        row = PRESETS[DEFAULT_PRESET].rows[name]
        cls = type(row.agent)
        note = first_line(cls) if name == cls.__name__ else row.source
        rows.append((name, f"{note.rstrip('.')} [{', '.join(having)}]"))
    return rows


def weightings() -> Rows:
    """The union of weightings, written as `--weighting` takes them."""
    from simpo.weighting import WEIGHTINGS

    rows = []
    for cls in WEIGHTINGS:
        parameters = ", ".join(str(p) for p in fields_of(cls))
        rows.append((f"{cls.__name__}({parameters})", first_line(cls)))
    return rows


def fields_of(cls: type) -> list[str]:
    """`floor=0.0`, ... of a dataclass."""
    parameters = inspect.signature(cls).parameters.values()
    empty = inspect.Parameter.empty
    return [
        p.name if p.default is empty else f"{p.name}={p.default}" for p in parameters
    ]


def presets() -> Rows:
    """Named settings and where they come from."""
    from simpo.presets import PRESETS

    return [(name, preset.source) for name, preset in PRESETS.items()]


LISTS: dict[str, Callable[[], Rows]] = {
    "envs": environments,
    "agents": agents,
    "weightings": weightings,
    "presets": presets,
}


def main(argv: list[str]) -> int:
    """Print one of the lists."""
    choices = ", ".join(LISTS)
    if argv in (["-h"], ["--help"]):
        print(f"usage: simpo list {{{','.join(LISTS)}}}")
        return 0
    if len(argv) != 1 or argv[0] not in LISTS:
        near = difflib.get_close_matches(argv[0], LISTS, 1) if argv else []
        hint = f"did you mean '{near[0]}'?" if near else f"choose from {choices}"
        given = f"cannot list '{' '.join(argv)}'" if argv else "list what?"
        raise SimpoError(f"{given.rstrip('?')}; {hint}")
    rows = LISTS[argv[0]]()
    width = max(len(name) for name, _ in rows)
    for name, note in rows:
        print(f"{name:<{width}}  {note}")
    return 0
