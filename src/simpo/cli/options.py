"""Options from dataclasses by tyro, with one line per mistake. No JAX is loaded."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Callable
from typing import Any, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry

from simpo.types import SimpoError

__all__ = ["read_options"]

T = TypeVar("T")


def flags(value: Any) -> dict[str, bool | None]:
    """Names of all fields, nested ones included, and which are options: True.

    Nested are the agent, and fields whose metadata say `group`. None is for functions,
    which no option can be.
    """
    names = {}
    for field in dataclasses.fields(value):
        if field.name == "agent" or field.metadata.get("group"):
            names |= flags(getattr(value, field.name))
        else:
            marks = get_args(field.type)
            named = (getattr(mark, "name", None) for mark in marks)
            name = next((n for n in named if isinstance(n, str)), field.name)
            function = any(get_origin(mark) is Callable for mark in marks)
            option = None if function else tyro.conf.Positional not in marks
            names["--" + name.replace("_", "-")] = option
    return names


def refuse_unknown(words: list[str], names: dict[str, bool | None], prog: str) -> None:
    """Raise SimpoError at the first word that is no option."""
    for word in words:
        given = word.partition("=")[0]
        name = given.replace("_", "-")
        if names.get(name) or name == "--help" or name.startswith("--tyro-"):
            continue
        near = difflib.get_close_matches(name, names, 1, cutoff=0.7)
        hint = f"did you mean '{near[0]}'?" if near else f"see {prog} --help"
        if name in names and names[name] is None:
            hint = "a function can only be passed from Python"
        elif name in names:
            hint = f"write its value alone: {prog} {name.strip('-').upper()}"
        raise SimpoError(f"unknown option '{given}'; {hint}")


def one_line(text: str) -> str:
    """The gist of a framed error message: from its title to the next rule or gap."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    kept = []
    for line in plain.splitlines()[1:]:
        if line.strip("│╰╯─- \t"):
            kept.append(line.strip("│ \t"))
        elif kept:
            break
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
    names = flags(default)
    refuse_unknown([word for word in argv if word.startswith("--")], names, prog)
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
                config=(
                    tyro.conf.OmitArgPrefixes,
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.EnumChoicesFromValues,
                    tyro.conf.SuppressFixed,  # functions
                ),
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise SimpoError(one_line(errors.getvalue())) from None
    refuse_unknown(unknown, names, prog)
    return value
