"""Options from dataclasses by tyro, with one line per mistake.

A field that holds a member of a union is one option, written as in Python:
`--weighting 'Linear(floor=-0.2)'`, or `--weighting linear` for the defaults.
"""

import contextlib
import dataclasses
import difflib
import io
import re
from typing import Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from simpo.agents import Agent
from simpo.config import UNIONS, parse, to_text
from simpo.types import SimpoError

__all__ = ["read_arguments"]

T = TypeVar("T")


def union_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read members of every union but the agents', whose fields are options."""
    union = next(
        (u for u, members in UNIONS.items() if info.type is u or info.type in members),
        None,
    )
    if union is None or union is Agent:
        return None
    names = [cls.__name__ for cls in UNIONS[union]]
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join(names),
        instance_from_str=lambda args: parse(args[0], union),
        is_instance=lambda value: isinstance(value, union),
        str_from_instance=lambda value: [to_text(value)],
    )


def flags(value: Any) -> list[str]:
    """All option names of a dataclass instance, those of nested ones included."""
    names = []
    for field in dataclasses.fields(value):
        names.append("--" + field.name.replace("_", "-"))
        inner = getattr(value, field.name)
        if isinstance(inner, Agent) and dataclasses.is_dataclass(inner):
            names += flags(inner)
    return names


def one_line(text: str) -> str:
    """The gist of a framed error message."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip("│╭╮╰╯─ \t") for line in plain.splitlines()]
    kept = []
    for line in lines:
        if line.startswith(("For full helptext", "Perhaps you meant", "---")):
            break
        if line and not re.fullmatch(r"\w+ (error|options|arguments)", line):
            kept.append(line)
    return " ".join(kept)


def read_arguments(default: T, argv: list[str], *, prog: str, description: str) -> T:
    """A copy of a dataclass instance, with what the options say changed.

    Args:
        default: The instance; its fields are the options.
        argv: Arguments after the command's name.
        prog: What the help calls the command.
        description: First paragraph of the help.

    Raises:
        SimpoError: Unknown option, or a value of the wrong form.
        SystemExit: After printing the help.
    """
    registry = ConstructorRegistry()
    registry.primitive_rule(union_rule)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            value, unknown = tyro.cli(
                type(default),
                prog=prog,
                description=description,
                args=argv,
                default=default,
                registry=registry,
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff),
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise SimpoError(one_line(errors.getvalue())) from None
    if unknown:
        near = difflib.get_close_matches(unknown[0], flags(default), 1)
        hint = f"did you mean '{near[0]}'?" if near else f"see {prog} --help"
        raise SimpoError(f"unknown option '{unknown[0]}'; {hint}")
    return value
