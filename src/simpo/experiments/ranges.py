"""What a sweep varies: names of a run's or an agent's fields, and their values.

candidate_noise=0.01:0.5:log    from 0.01 to 0.5, even on a logarithmic scale
weighting.floor=-0.5:0          from -0.5 to 0; a field of a field
best_of=1,4,8                   one of these
"""

import ast
from dataclasses import is_dataclass, replace
from typing import Any, NamedTuple

from simpo.run import Run
from simpo.types import SimpoError

__all__ = ["Range", "change", "read", "value"]


class Range(NamedTuple):
    """Values of one field.

    Attributes:
        name: The field, of the agent or else of the run; with dots for one inside.
        low: The least value; None for choices.
        high: The greatest.
        log: Whether values are even on a logarithmic scale.
        choices: The values, where they are named one by one.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Any) -> Any:
        """Optuna's value for a trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        whole = isinstance(self.low, int)
        suggest = trial.suggest_int if whole else trial.suggest_float
        return suggest(self.name, self.low, self.high, log=self.log)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that are possible if all are."""
        return self.choices or (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        if self.low is None or self.high is None:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high


def read(text: str, run: Run) -> Range:
    """A range from `NAME=LOW:HIGH`, `NAME=LOW:HIGH:log` or `NAME=A,B,C`.

    Values of a field that is a fraction are fractions, however they are written.

    Raises:
        SimpoError: Not of that form, or the run has no such field.
    """
    name, _, values = text.partition("=")
    kind = type(value(run, name))
    try:
        if ":" not in values:
            return Range(name, choices=literals(values, kind))
        low, high, *scale = values.split(":")
        ends = literals(f"{low}, {high}", kind)
        if scale in ([], ["log"]) and ends[0] < ends[1] and (ends[0] > 0 or not scale):
            return Range(name, *ends, log=bool(scale))
    except (SyntaxError, TypeError, ValueError):
        pass
    raise SimpoError(
        f"cannot read '{text}' as a range; write NAME=LOW:HIGH, NAME=LOW:HIGH:log "
        "(0 < LOW < HIGH) or NAME=A,B,C"
    )


def literals(text: str, kind: type) -> tuple[Any, ...]:
    """Values of a kind, separated by commas."""
    found = ast.literal_eval(f"({text},)")
    return tuple(float(v) for v in found) if kind is float else found


def value(run: Run, name: str) -> Any:
    """What a run has under a name.

    Raises:
        SimpoError: No such field.
    """
    first, *rest = name.split(".")
    found = run.agent if hasattr(run.agent, first) else run
    for part in (first, *rest):
        if not is_dataclass(found) or not hasattr(found, part):
            raise SimpoError(f"there is no {name} in {type(run.agent).__name__}")
        found = getattr(found, part)
    return found


def change(run: Run, values: dict[str, Any]) -> Run:
    """The run with other values under these names.

    Raises:
        SimpoError: No such field.
    """
    for name, new in values.items():
        value(run, name)
        if hasattr(run.agent, name.partition(".")[0]):
            run = replace(run, agent=put(run.agent, name, new))
        else:
            run = put(run, name, new)
    return run


def put(whole: Any, name: str, new: Any) -> Any:
    """A dataclass with one field, or a field of one, replaced."""
    first, _, rest = name.partition(".")
    inner = put(getattr(whole, first), rest, new) if rest else new
    return replace(whole, **{first: inner})
