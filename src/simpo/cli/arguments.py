"""Options that hold a member of a union, written as in Python.

`--weighting 'Linear(floor=-0.2)'`, or `--weighting linear` for the defaults.
"""

from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from simpo.agents import Agent
from simpo.config import UNIONS, parse, to_text

__all__ = ["union_registry"]


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


def union_registry() -> ConstructorRegistry:
    """The rule, for `read_options`."""
    registry = ConstructorRegistry()
    registry.primitive_rule(union_rule)
    return registry
