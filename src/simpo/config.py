"""Frozen dataclasses as JSON and as text, and back.

The agent is its config, so this is all the configuration there is: a field whose type
is an interface (`Weighting`, `Schedule`, ...) holds one member of that interface's
union.

JSON    {"type": "Linear", "floor": -0.2}        in config.json
Text    Linear(floor=-0.2), or just linear       on the command line

Reading never evaluates code: only the classes of the unions below can be built, and
only from literals.
"""

import ast
import dataclasses
import difflib
import enum
import functools
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from simpo.agents import AGENTS, Agent
from simpo.agents.dipo import Noiseless
from simpo.agents.qsm import DYNAMICS, SCORE_LOSSES, Dynamics, ScoreLoss
from simpo.generative import MODELS, GenerativeModel
from simpo.generative.diffusion import PREDICTIONS, SAMPLERS, Prediction, Sampler
from simpo.generative.flow import SOLVERS, Solver
from simpo.generative.masked import MASKINGS, Masking
from simpo.generative.schedule import SCHEDULES, Schedule
from simpo.matching import BOUNDS, RepulsionBound
from simpo.temperature import TARGETS, TEMPERATURES, Target, Temperature
from simpo.types import SimpoError
from simpo.weighting import WEIGHTINGS, Weighting

__all__ = [
    "UNIONS",
    "from_json",
    "functions_missing",
    "parse",
    "require_same",
    "to_json",
    "to_text",
]

UNIONS: dict[type, tuple[type, ...]] = {
    Agent: AGENTS,
    Weighting: WEIGHTINGS,
    Temperature: TEMPERATURES,
    Target: TARGETS,
    RepulsionBound: BOUNDS,
    GenerativeModel: MODELS,
    Schedule: SCHEDULES,
    Prediction: PREDICTIONS,
    Sampler: (*SAMPLERS, Noiseless),
    Solver: SOLVERS,
    Masking: MASKINGS,
    ScoreLoss: SCORE_LOSSES,
    Dynamics: DYNAMICS,
}
"""Every interface with its members."""


def near(word: str, words: list[str]) -> str:
    """`; did you mean 'X'?` when there is a near match, else the list of choices."""
    match = difflib.get_close_matches(word, words, 1, cutoff=0.5)
    if match:
        return f"; did you mean '{match[0]}'?"
    return f"; choose from {', '.join(words)}"


def show(data: Any) -> str:
    """Data in an error message: short, and a bare name as it was written."""
    bare = isinstance(data, dict) and data.keys() == {"type"}
    return reprlib.repr(data["type"] if bare else data)


def to_json(value: Any) -> Any:
    """A dataclass, and all it holds, as JSON data.

    A function is written by name and cannot be read back: an agent with a Custom
    weighting can act after loading but not train, one with networks of the user's not
    act either. One that was not passed is not written.
    """
    if is_settings(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)
                  if not is_unused(f, value)}  # fmt: skip
        name = type(value).__name__
        return {"type": name} | {k: to_json(v) for k, v in fields.items()}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    if callable(value):
        return function_name(value)
    return value


def is_settings(value: Any) -> bool:
    """Whether this is a dataclass to be written field by field, no function."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return False
    return not callable(value) or isinstance(value, tuple(UNIONS))


def is_unused(field: dataclasses.Field, value: Any) -> bool:
    """Whether a field is a function that was not passed."""
    kinds = (typing.get_origin(kind) for kind in typing.get_args(field.type))
    return getattr(value, field.name) is None and any(k is Callable for k in kinds)


def function_name(function: Any) -> str:
    """`nets.make`, `nets.make(width=64)` of a partial or a dataclass with a call."""
    if isinstance(function, functools.partial):
        begin, given = function_name(function.func), function.keywords
        shown = [spoken(value) for value in function.args]
    else:
        name = getattr(function, "__name__", type(function).__qualname__)
        name = getattr(function, "__qualname__", name)
        begin, shown = f"{getattr(function, '__module__', '?')}.{name}", []
        given = {}
        if dataclasses.is_dataclass(function) and not isinstance(function, type):
            names = (field.name for field in dataclasses.fields(function))
            given = {name: getattr(function, name) for name in names}
    shown += [f"{name}={spoken(value)}" for name, value in given.items()]
    return f"{begin}({', '.join(shown)})" if shown else begin


def spoken(value: Any) -> str:
    """An argument in a function's name."""
    return function_name(value) if callable(value) else repr(value)


def from_json(data: Any, expected: Any) -> Any:
    """Build a value of the expected type from JSON data.

    Raises:
        SimpoError: Unknown class or field, or a value of the wrong type.
    """
    if expected in UNIONS:
        return build(member(data, expected), data)
    if typing.get_origin(expected) in (typing.Union, types.UnionType):
        kinds = typing.get_args(expected)
        if data is None and type(None) in kinds:
            return None
        return from_json(data, next(k for k in kinds if k is not type(None)))
    if dataclasses.is_dataclass(expected):
        cls = typing.cast(type, expected)
        if isinstance(data, dict) and data.get("type", cls.__name__) != cls.__name__:
            raise SimpoError(f"expected {cls.__name__}, got {show(data['type'])}")
        return build(cls, data)
    if typing.get_origin(expected) is tuple:
        return pack(data, typing.get_args(expected))
    return scalar(data, expected)


def member(data: Any, union: type) -> type:
    """The class that `data["type"]` names, whatever its case."""
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise SimpoError(f"expected {union.__name__}, got {show(data)}")
    by_name = {cls.__name__.lower(): cls for cls in UNIONS[union]}
    name = data["type"]
    if name.lower() not in by_name:
        names = [cls.__name__ for cls in UNIONS[union]]
        raise SimpoError(f"unknown {union.__name__} {show(name)}{near(name, names)}")
    return by_name[name.lower()]


def build(cls: type, data: dict[str, Any]) -> Any:
    """An instance of `cls` from its fields; missing ones take their defaults."""
    if not isinstance(data, dict):
        raise SimpoError(f"expected fields of {cls.__name__}, got {show(data)}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    given = {str(k).replace("-", "_"): v for k, v in data.items() if k != "type"}
    for name in given:
        if name not in names:
            hint = near(name, names)
            raise SimpoError(f"{cls.__name__} has no field {show(name)}{hint}")
    values = {}
    for name, value in given.items():
        try:
            values[name] = from_json(value, hints[name])
        except (SimpoError, TypeError, ValueError, OverflowError) as error:
            raise SimpoError(f"{cls.__name__}.{name}: {error}") from error
    if any(isinstance(value, MissingFunction) for value in values.values()):
        return assemble(cls, values)
    try:
        return cls(**values)
    except TypeError as error:
        missing = [f.name for f in dataclasses.fields(cls) if f.name not in values]
        raise SimpoError(f"{cls.__name__} needs {', '.join(missing)}") from error


def assemble(cls: type, values: dict[str, Any]) -> Any:
    """An instance whose function is not here: its own checks, which call it, wait."""
    instance = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(instance, field.name, values.get(field.name, field.default))
    return instance


def pack(data: Any, kinds: tuple[Any, ...]) -> tuple:
    """A tuple of a fixed length, or of any: `tuple[int, ...]`."""
    if isinstance(data, list) and kinds[1:] == (...,):
        kinds = kinds[:1] * len(data)
    if not isinstance(data, list) or len(data) != len(kinds):
        raise SimpoError(f"expected {len(kinds)} values, got {show(data)}")
    return tuple(from_json(d, kind) for d, kind in zip(data, kinds, strict=True))


def scalar(data: Any, expected: Any) -> Any:
    """A number, string, boolean, enum member, literal or function name."""
    if isinstance(expected, type) and issubclass(expected, enum.Enum):
        return expected(data)
    if typing.get_origin(expected) is typing.Literal:
        choices = typing.get_args(expected)
        if data not in choices:
            listed = ", ".join(map(str, choices))
            raise SimpoError(f"{show(data)} is not one of {listed}")
        return data
    if typing.get_origin(expected) is Callable or expected is Callable:
        if not isinstance(data, str):
            raise SimpoError("a function can only be passed from Python")
        return MissingFunction(data)
    if typing.get_origin(expected) is dict and not isinstance(data, dict):
        raise SimpoError(f"expected names with values, got {show(data)}")
    if expected is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if expected in (int, float, str, bool) and type(data) is not expected:
        raise SimpoError(f"expected {expected.__name__}, got {show(data)}")
    return data


class MissingFunction:
    """Stands for a function that a file names but does not hold."""

    def __init__(self, name: str) -> None:
        self.__module__, _, self.__qualname__ = name.rpartition(".")

    def __call__(self, *_: Any) -> Any:
        """Refuse."""
        name = f"{self.__module__}.{self.__qualname__}"
        raise SimpoError(f"the function {name} was not saved; pass it from Python")


def functions_missing(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Fields of an instance that hold a function which was not saved, and its name."""
    for field in dataclasses.fields(value):
        part, name = getattr(value, field.name), f"{path}{field.name}"
        if isinstance(part, MissingFunction):
            yield name, to_json(part)
        elif dataclasses.is_dataclass(part):
            yield from functions_missing(part, f"{name}.")


def require_same(saved: Any, given: Any, where: object) -> None:
    """Refuse an instance that differs from the one a file describes.

    Functions are compared by their own name and arguments, not by their module's: a
    script's `__main__.make` may be imported elsewhere as `nets.make`.

    Raises:
        SimpoError: The first field that differs.
    """
    pairs = (dict(flatten(to_json(value))) for value in (saved, given))
    old, new = pairs
    for name in old | new:
        was, now = (bare(pair.get(name)) for pair in (old, new))
        if was != now:
            raise SimpoError(
                f"{where} was saved with {name} = {was}, the agent passed has {now}"
            )


def flatten(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested JSON objects by dotted name."""
    if not isinstance(data, dict):
        yield path, data
        return
    for name, value in data.items():
        yield from flatten(value, f"{path}.{name}" if path else name)


def bare(data: Any) -> Any:
    """Data with the modules of functions left out."""
    if not isinstance(data, str):
        return data
    return re.sub(r"(?<![\w.])[A-Za-z_<][\w.<>]*\.(?=[A-Za-z_<])", "", data)


def to_text(value: Any) -> str:
    """`Linear(floor=-0.2)`: the class and the fields that are not at their defaults."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value.value if isinstance(value, enum.Enum) else value)
    shown = []
    for field in dataclasses.fields(value):
        current = getattr(value, field.name)
        if field.init and current != field.default:
            shown.append(f"{field.name}={to_text(current)}")
    return f"{type(value).__name__}({', '.join(shown)})"


def parse(text: str, union: type) -> Any:
    """Read `Linear(floor=-0.2)`, or a bare name, as a member of a union.

    Raises:
        SimpoError: Not of that form, or an unknown name or field.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        data = literal(tree)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        example = UNIONS[union][0].__name__
        begin = text if len(text) <= 80 else f"{text[:80]}..."
        raise SimpoError(
            f"cannot read {begin!r} as a {union.__name__}; "
            f"write a name such as {example}, or Name(field=value)"
        ) from error
    return from_json({"type": data} if isinstance(data, str) else data, union)


def literal(node: ast.expr) -> Any:
    """A syntax tree of names, calls with keywords and literals, as JSON data."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        fields = {k.arg: argument(k.value) for k in node.keywords if k.arg}
        if len(fields) == len(node.keywords):
            return {"type": node.func.id} | fields
    return ast.literal_eval(node)


def argument(node: ast.expr) -> Any:
    """A keyword's value: a bare name stands for a member with its defaults."""
    data = literal(node)
    return {"type": data} if isinstance(node, ast.Name) else data
