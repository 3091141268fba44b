"""Options of commands that load no JAX, by tyro, with one line per mistake."""

import contextlib
import difflib
import io
from dataclasses import fields
from typing import TypeVar

import tyro

from simpo.types import SimpoError

__all__ = ["read_options"]

T = TypeVar("T")


def read_options(kind: type[T], argv: list[str], *, prog: str) -> T:
    """An instance of a dataclass, whose fields are the options.

    Args:
        kind: The dataclass; its docstring is the help's first paragraph.
        argv: Arguments after the command's name.
        prog: What the help calls the command.

    Raises:
        SimpoError: Unknown option, or a value of the wrong form.
        SystemExit: After printing the help.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            value, unknown = tyro.cli(
                kind,
                prog=prog,
                args=argv,
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
        from simpo.cli.arguments import one_line

        raise SimpoError(one_line(errors.getvalue())) from None
    if unknown:
        flags = ["--" + f.name.replace("_", "-") for f in fields(kind)]  # pyright: ignore[reportArgumentType]
        near = difflib.get_close_matches(unknown[0], flags, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"see {prog} --help"
        raise SimpoError(f"unknown option '{unknown[0]}'; {hint}")
    return value
