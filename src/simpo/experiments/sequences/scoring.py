"""Oracles, places and conditions, as the command line names them."""

import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from simpo.checkpoint import plain
from simpo.dna.constraints import (
    Constraint,
    ForbiddenSites,
    GCWindow,
    Homopolymer,
    Template,
)
from simpo.dna.data import read_sequences
from simpo.dna.external import FromCallable, FromONNX
from simpo.dna.oracle import Bound, Oracle
from simpo.dna.storage import load_oracle
from simpo.experiments.sequences.options import Bounded, Place, Wanted
from simpo.types import SimpoError

__all__ = ["conditions", "find_oracle", "place_of"]


def find_oracle(text: str, options: Bounded, name: str | None = None) -> Oracle:
    """The oracle that a word on the command line means.

    Args:
        text: A folder, an .onnx file, or `module:function`. A function takes tokens
            int8 [N, L], A, C, G, T = 0..3, and returns N numbers; an `Oracle` is taken
            as it is.
        options: What files and functions need.
        name: What reports call it; by default what the folder says, or the text.

    Raises:
        SimpoError: There is none, or its limits are missing.
    """
    if Path(text).is_dir():
        found: Any = load_oracle(text)
        return replace(found, name=name) if name else found
    if text.lower().endswith(".onnx"):
        bound, shape = make_bound(text, options), options
        if shape.output < 0:
            raise SimpoError(f"--output must be at least 0, not {shape.output}")
        return FromONNX.read(
            *(text, name or Path(text).stem, bound),
            channels_first=shape.channels_first,
            output=shape.output,
        )
    if ":" in text and not Path(text).exists():
        return of_function(text, options, name)
    raise SimpoError(
        f"no oracle {text}: it is a folder of simpo dna oracle, an .onnx file, or "
        "module:function"
    )


def make_bound(text: str, options: Bounded) -> Bound:
    """Limits low to high as a bound.

    Raises:
        SimpoError: There are none, or they are out of order.
    """
    if options.bounds is None:
        raise SimpoError(f"what values can {text} have? --bounds LOW HIGH")
    low, high = options.bounds
    if not -np.inf < low < high < np.inf:
        raise SimpoError(f"--bounds must be LOW HIGH, not {low:g} {high:g}")
    return Bound((low + high) / 2, (high - low) / 2)


def of_function(text: str, options: Bounded, name: str | None) -> Oracle:
    """The oracle of `module:function`, looked for in the working folder too."""
    module, _, attribute = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise SimpoError(f"oracle {text}: no module {error.name}") from error
    except AttributeError:
        raise SimpoError(f"oracle {text}: {module} has no {attribute!r}") from None
    except Exception as error:  # whatever the user's module does
        raise SimpoError(f"oracle {text}: {told(error)}") from error
    if isinstance(function, Oracle):
        return function
    if not callable(function):
        raise SimpoError(f"oracle {text} is no function, but {type(function).__name__}")

    def guarded(tokens: np.ndarray) -> Any:
        try:
            return function(tokens)
        except Exception as error:  # whatever the user's function does
            raise SimpoError(f"oracle {text}: {told(error)}") from error

    return FromCallable(name or text, guarded, make_bound(text, options))


def told(error: Exception) -> str:
    """An error of the user's code in one line."""
    return f"{type(error).__name__}: {plain(error)}"


def place_of(place: Place, bases: int) -> Template | None:
    """Where inserts of so many bases go; None for whole sequences.

    Raises:
        SimpoError: No such backbone, or a window of another length.
    """
    if place.backbone is None:
        if place.start is not None or place.stop is not None:
            raise SimpoError("--start and --stop say where in a --backbone")
        return None
    if place.start is None or place.stop is None:
        raise SimpoError("--backbone needs --start and --stop of the insert")
    template = Template(find_backbone(place.backbone), place.start, place.stop)
    if template.width != bases:
        raise SimpoError(
            f"--start {place.start} --stop {place.stop} is an insert of "
            f"{template.width} bases, but the model writes {bases}"
        )
    return template


def find_backbone(text: str) -> Any:
    """A whole sequence: letters, or FILE:NAME.

    Raises:
        SimpoError: No such file, or no such name in it.
    """
    path, colon, name = text.rpartition(":")
    if not colon:
        return text
    data = read_sequences(path)
    if name not in data.names:
        raise SimpoError(f"{path} has no sequence {name!r}; its first: {data.names[0]}")
    return data.tokens[data.names.index(name)]


def conditions(wanted: Wanted, template: Template | None) -> tuple[Constraint, ...]:
    """What sequences must satisfy, in their place.

    Raises:
        SimpoError: What nothing satisfies, or what the backbone breaks by itself.
    """
    found: list[Constraint] = []
    if wanted.gc:
        if len(wanted.gc) not in (2, 3):
            raise SimpoError(f"--gc is LOW HIGH [WINDOW], not {len(wanted.gc)} numbers")
        low, high, *size = wanted.gc
        if size and size[0] != int(size[0]):
            raise SimpoError(f"the WINDOW of --gc is whole bases, not {size[0]:g}")
        found.append(GCWindow(low, high, int(size[0]) if size else None))
    if wanted.longest_run is not None:
        found.append(Homopolymer(wanted.longest_run))
    if wanted.forbid:
        found.append(ForbiddenSites(wanted.forbid))
    for flank in flanks(template):
        for condition in found:
            fits = not isinstance(condition, GCWindow) or (
                condition.window is not None and condition.window <= flank.shape[1]
            )
            if fits and not condition.check(flank).all():
                raise SimpoError(
                    f"the backbone itself breaks '{condition.name}', outside the insert"
                )
    return tuple(found)


def flanks(template: Template | None) -> list[np.ndarray]:
    """What stands before and after an insert, [1, L] each, if it is anything."""
    if template is None:
        return []
    whole, start, stop = template.backbone[None], template.start, template.stop
    return [part for part in (whole[:, :start], whole[:, stop:]) if part.size]
