"""Options that are written as in Python: members of unions, keyword arguments.

`--weighting 'Linear(floor=-0.2)'`, or `--weighting linear` for the defaults.
"""

import ast
from typing import Any, get_origin

from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from simpo.agents import Agent
from simpo.config import UNIONS, parse, to_text
from simpo.types import SimpoError

__all__ = ["option_registry"]


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


def keywords_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read keyword arguments: `--env-kwargs 'reset_noise_scale=0.2, width=64'`."""
    if get_origin(info.type) is not dict:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME=VALUE,...",
        instance_from_str=lambda args: read_keywords(args[0]),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [
            ", ".join(f"{name}={item!r}" for name, item in value.items())
        ],
    )


def read_keywords(text: str) -> dict[str, Any]:
    """Names and literals from `a=1, b="x"`.

    Raises:
        SimpoError: Not of that form.
    """
    try:
        call = ast.parse(f"_({text})", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError, RecursionError):
        raise SimpoError(
            f"cannot read {text!r} as keyword arguments; write 'name=value, other=1'"
        ) from None


def option_registry() -> ConstructorRegistry:
    """The rules, for `read_options`."""
    registry = ConstructorRegistry()
    registry.primitive_rule(union_rule)
    registry.primitive_rule(keywords_rule)
    return registry
