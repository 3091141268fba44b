"""What becomes of JAX's primitives in an ONNX graph: a node or a few for each.

A new primitive is a function here, with its name. Inputs are constants or names of
values; an equation's shapes may have the batch in them, a symbol.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from simpo.types import SimpoError

__all__ = ["RULES", "Graph", "Value", "ints", "unknown"]

WHOLE = np.iinfo(np.int64).max
"""End of a slice that goes to the end."""

Value = Any
"""A constant, a NumPy or JAX array; or the name of a value of the graph."""


class Graph:
    """Nodes and constants so far.

    Attributes:
        nodes: Nodes in order.
        constants: Constants by name.
        batch: Name of the number of rows [1], int64.
    """

    def __init__(self, first_input: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.batch = self.add("Shape", first_input, start=0, end=1)

    def add(self, op: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node; the name of its result, or a list of names of several."""
        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        fed = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.nodes.append(helper.make_node(op, fed, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any) -> str:
        """The name of a constant; equal ones are stored once."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        head = f"{array.dtype}{array.shape}".encode()
        name = "c" + hashlib.sha256(head + array.tobytes()).hexdigest()[:16]
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def shape(self, dims: tuple, *, known_batch: bool = False) -> Value:
        """A shape as a vector of integers; the batch is -1, or read from the input."""
        if not known_batch or all(isinstance(d, int) for d in dims):
            return ints(*(d if isinstance(d, int) else -1 for d in dims))
        parts = [ints(d) if isinstance(d, int) else self.batch for d in dims]
        return self.add("Concat", *parts, axis=0)

    def prune(self, output: str) -> None:
        """Drop what the output does not need."""
        needed, kept = {output}, []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {k: v for k, v in self.constants.items() if k in needed}


def ints(*numbers: int) -> np.ndarray:
    """A vector of int64."""
    return np.array(numbers, np.int64)


Rule = Callable[[Graph, Any, list[Value]], Any]
"""(graph, equation, inputs) -> the name of the result, or a list of names."""
RULES: dict[str, Rule] = {}
"""What becomes of a primitive that depends on an input, by its name."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def operator(op: str) -> Rule:
    """A primitive that ONNX has, elementwise."""
    return lambda graph, _, inputs: graph.add(op, *inputs)


RULES |= {
    name: operator(op)
    for name, op in {
        **{"add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"},
        **{"max": "Max", "min": "Min", "pow": "Pow", "neg": "Neg", "abs": "Abs"},
        **{"exp": "Exp", "log": "Log", "tanh": "Tanh", "sqrt": "Sqrt", "sin": "Sin"},
        **{"cos": "Cos", "erf": "Erf", "logistic": "Sigmoid", "sign": "Sign"},
        **{"lt": "Less", "le": "LessOrEqual", "gt": "Greater", "eq": "Equal"},
        **{"ge": "GreaterOrEqual", "and": "And", "or": "Or", "not": "Not"},
        **{"copy": "Identity", "stop_gradient": "Identity", "floor": "Floor"},
    }.items()
}


@rule("square")
def square(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """A product, which is exact where a power need not be."""
    return graph.add("Mul", inputs[0], inputs[0])


@rule("integer_pow")
def integer_pow(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """Repeated products for the small powers that activations have."""
    x, y = inputs[0], eqn.params["y"]
    power = x
    for _ in range(abs(y) - 1):
        power = graph.add("Mul", power, x)
    return power if y > 0 else graph.add("Div", np.float32(1), power)


@rule("rsqrt")
def rsqrt(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """One over the root."""
    return graph.add("Div", np.float32(1), graph.add("Sqrt", inputs[0]))


@rule("clamp")
def clamp(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """Bounds that may be arrays."""
    low, x, high = inputs
    return graph.add("Min", graph.add("Max", x, low), high)


@rule("select_n")
def select_n(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """The second case where the predicate holds."""
    which, *cases = inputs
    if eqn.invars[0].aval.dtype != np.bool_ or len(cases) != 2:
        raise unknown("select_n of numbers")
    return graph.add("Where", which, cases[1], cases[0])


@rule("convert_element_type")
def convert_element_type(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """A cast."""
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    return graph.add("Cast", inputs[0], to=dtype)


@rule("transpose")
def transpose(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """A permutation of axes."""
    return graph.add("Transpose", inputs[0], perm=list(eqn.params["permutation"]))


@rule("reshape", "squeeze", "expand_dims")
def reshape(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """A new shape; the batch is what is left over."""
    return graph.add("Reshape", inputs[0], graph.shape(eqn.outvars[0].aval.shape))


@rule("broadcast_in_dim")
def broadcast_in_dim(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """New axes, then copies along the axes that grow."""
    x, old = inputs[0], eqn.invars[0].aval.shape
    new, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    spread = [1] * len(new)
    for place, size in zip(places, old, strict=True):
        spread[place] = size
    if tuple(spread) != tuple(old):
        x = graph.add("Reshape", x, graph.shape(tuple(spread)))
    if tuple(spread) == tuple(new):
        return x
    return graph.add("Expand", x, graph.shape(new, known_batch=True))


@rule("concatenate")
def concatenate(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """Along one axis."""
    return graph.add("Concat", *inputs, axis=eqn.params["dimension"])


@rule("slice")
def slice_(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """Static bounds; the batch is never cut."""
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    ends = (x if isinstance(x, int) else WHOLE for x in limits)
    axes = ints(*range(len(starts)))
    return graph.add(
        "Slice", inputs[0], ints(*starts), ints(*ends), axes, ints(*strides)
    )


@rule("split")
def split(graph: Graph, eqn: Any, inputs: list[Value]) -> list[str]:
    """Parts along one axis."""
    sizes, axis = eqn.params["sizes"], eqn.params["axis"]
    parts = graph.add("Split", inputs[0], ints(*sizes), outputs=len(sizes), axis=axis)
    return parts if isinstance(parts, list) else [parts]


@rule("reduce_min", "reduce_max", "reduce_sum")
def reduce(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """Over some axes."""
    op = eqn.primitive.name.title().replace("_", "")
    return graph.add(op, inputs[0], ints(*eqn.params["axes"]), keepdims=0)


@rule("argmax")
def argmax(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """The first of the largest, as in JAX."""
    (axis,) = eqn.params["axes"]
    index = graph.add("ArgMax", inputs[0], axis=int(axis), keepdims=0)
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["index_dtype"]))
    return graph.add("Cast", index, to=dtype)


@rule("gather")
def gather(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """One axis indexed, others batched or taken whole: what `take_along_axis` makes."""
    d, (x, index) = eqn.params["dimension_numbers"], inputs
    shape = eqn.invars[0].aval.shape
    sizes = eqn.params["slice_sizes"]
    batched, taken = list(d.operand_batching_dims), list(d.collapsed_slice_dims)
    last = eqn.invars[1].aval.ndim - 1
    whole = [i for i in range(len(shape)) if i not in batched + taken]
    plain = (
        len(taken) == 1
        and list(d.start_index_map) == taken
        and list(d.start_indices_batching_dims) == list(range(len(batched)))
        and all(sizes[i] == shape[i] for i in whole)
        and eqn.invars[1].aval.shape[last] == 1
    )
    if not plain:
        raise unknown("gather of this form")
    front = graph.add("Transpose", x, perm=batched + taken + whole)
    index = graph.add("Cast", index, to=TensorProto.INT64)
    found = graph.add("GatherND", front, index, batch_dims=len(batched))
    # GatherND puts the whole axes last; JAX puts them at `offset_dims`.
    perm, rows, rest = [], iter(range(last)), iter(range(last, last + len(whole)))
    for axis in range(eqn.outvars[0].aval.ndim):
        perm.append(next(rest if axis in d.offset_dims else rows))
    return graph.add("Transpose", found, perm=perm)


@rule("dot_general")
def dot_general(graph: Graph, eqn: Any, inputs: list[Value]) -> str:
    """A matrix product; axes are brought into its order first."""
    (contract_l, contract_r), (batch_l, batch_r) = eqn.params["dimension_numbers"]
    left, right = (v.aval.shape for v in eqn.invars)
    plain = not batch_l and len(right) == 2 and tuple(contract_r) == (0,)
    if plain and tuple(contract_l) == (len(left) - 1,):
        return graph.add("MatMul", *inputs)
    free_l = [i for i in range(len(left)) if i not in (*contract_l, *batch_l)]
    free_r = [i for i in range(len(right)) if i not in (*contract_r, *batch_r)]
    groups_l = [[i] for i in batch_l] + [free_l, list(contract_l)]
    groups_r = [[i] for i in batch_r] + [list(contract_r), free_r]
    a = group_axes(graph, inputs[0], left, groups_l)
    b = group_axes(graph, inputs[1], right, groups_r)
    product = graph.add("MatMul", a, b)
    return graph.add("Reshape", product, graph.shape(eqn.outvars[0].aval.shape))


def group_axes(graph: Graph, x: Value, shape: tuple, groups: list[list[int]]) -> str:
    """One axis for each group of axes, in order."""
    perm = [i for group in groups for i in group]
    if perm != list(range(len(shape))):
        x = graph.add("Transpose", x, perm=perm)
    sizes = tuple(math.prod(shape[i] for i in group) for group in groups)
    return graph.add("Reshape", x, graph.shape(sizes))


def unknown(what: str) -> SimpoError:
    """What to say of a primitive without a rule."""
    return SimpoError(
        f"the policy cannot be written as ONNX: no rule for {what}; "
        "--format stablehlo takes every policy"
    )
