"""Options from dataclasses by tyro, with one line per mistake. No JAX is loaded."""

import contextlib
import dataclasses
import difflib
import io
import re
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry

from simpo.types import SimpoError

__all__ = ["read_options"]

T = TypeVar("T")
TAIL = ("For full helptext", "Argument helptext", "Perhaps you meant", "---")
"""Where the explanation under an error message begins."""


def flags(value: Any) -> list[str]:
    """All option names of a dataclass instance, those of nested ones included."""
    names = []
    for field in dataclasses.fields(value):
        names.append("--" + field.name.replace("_", "-"))
        inner = getattr(value, field.name)
        if field.name == "agent":
            names += flags(inner)
    return names


def one_line(text: str) -> str:
    """The gist of a framed error message."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip("│╭╮╰╯─ \t") for line in plain.splitlines()]
    kept = []
    for line in lines:
        if line.startswith(TAIL):
            break
        if line and not re.fullmatch(r"\w+ (error|options|arguments)", line):
            kept.append(line)
    return " ".join(kept)


def read_options(
    default: T,
    argv: list[str],
    *,
    prog: str,
    description: str | None = None,
    registry: ConstructorRegistry | None = None,
) -> T:
    """A copy of a dataclass instance, with what the options say changed.

    Args:
        default: The instance; its fields are the options.
        argv: Arguments after the command's name.
        prog: What the help calls the command.
        description: First paragraph of the help; by default the docstring's.
        registry: Rules for types of our own.

    Raises:
        SimpoError: Unknown option, or a value of the wrong form.
        SystemExit: After printing the help.
    """
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
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
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
