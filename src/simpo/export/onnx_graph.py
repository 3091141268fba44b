"""A traced policy as an ONNX model.

What depends on no input is computed while translating and becomes a constant: the
times' part of the network, the sampler's coefficients. Loops are unrolled. The batch is
a free dimension. A primitive without a rule is refused by name, and every model is
compared with JAX before it is handed out.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from jax import export
from jax.extend.core import ClosedJaxpr, Literal
from onnx import TensorProto, helper

from simpo.export.onnx_rules import RULES, Graph, Value, ints, unknown
from simpo.export.program import Program

__all__ = ["OPSET", "to_onnx"]

OPSET, IR_VERSION = 18, 8
"""Old enough for runtimes since early 2023."""
BATCH = "batch"


def is_symbolic(eqn: Any) -> bool:
    """Whether a result has the batch in its shape."""
    dims = (d for v in eqn.outvars for d in getattr(v.aval, "shape", ()))
    return any(export.is_symbolic_dim(d) for d in dims)


def run(graph: Graph, jaxpr: Any, consts: list, args: list[Value]) -> list[Value]:
    """Results of a jaxpr: computed if no input is needed, else names in the graph."""
    env: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
    env |= zip(jaxpr.invars, args, strict=True)

    def read(atom: Any) -> Value:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for eqn in needed(jaxpr):
        outputs = run_equation(graph, eqn, [read(v) for v in eqn.invars])
        env |= zip(eqn.outvars, outputs, strict=True)
    return [read(v) for v in jaxpr.outvars]


def needed(jaxpr: Any) -> list[Any]:
    """The equations that the results depend on; keys, for one, are split in vain."""
    wanted, kept = {v for v in jaxpr.outvars if not isinstance(v, Literal)}, []
    for eqn in reversed(jaxpr.eqns):
        if wanted & set(eqn.outvars):
            wanted |= {v for v in eqn.invars if not isinstance(v, Literal)}
            kept.append(eqn)
    return kept[::-1]


def run_equation(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Results of one equation."""
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        return unroll(graph, eqn, inputs)
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if inner is not None:
        closed = isinstance(inner, ClosedJaxpr)
        body, consts = (inner.jaxpr, inner.consts) if closed else (inner, [])
        return run(graph, body, consts, inputs)
    if not any(isinstance(x, str) for x in inputs) and not is_symbolic(eqn):
        known = eqn.primitive.bind(*inputs, **params)
        return known if eqn.primitive.multiple_results else [known]
    if name not in RULES:
        raise unknown(f"'{name}'")
    found = RULES[name](graph, eqn, inputs)
    return found if isinstance(found, list) else [found]


def unroll(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """A loop of known length, step after step.

    Inputs are constants, carry and rows; results are carry and stacks. Rows and stacks
    have an axis more outside of the body than inside.
    """
    body, params = eqn.params["jaxpr"], eqn.params
    rows = count_longer(eqn.invars, body.jaxpr.invars)
    carried = len(eqn.outvars) - count_longer(eqn.outvars, body.jaxpr.outvars)
    before, stacked = inputs[: len(inputs) - rows], inputs[len(inputs) - rows :]
    fixed = before[: len(before) - carried]
    carry, results = before[len(fixed) :], []
    steps = range(params["length"])
    for i in reversed(steps) if params["reverse"] else steps:
        row = [pick(graph, x, i) for x in stacked]
        out = run(graph, body.jaxpr, body.consts, [*fixed, *carry, *row])
        carry = out[:carried]
        results.append(out[carried:])
    if params["reverse"]:
        results.reverse()
    return [*carry, *(stack(graph, column) for column in zip(*results, strict=True))]


def count_longer(outside: list[Any], inside: list[Any]) -> int:
    """How many values have an axis more outside of a loop's body than inside."""
    pairs = zip(outside, inside, strict=True)
    return sum(a.aval.ndim == b.aval.ndim + 1 for a, b in pairs)


def pick(graph: Graph, x: Value, i: int) -> Value:
    """Row i of the leading axis."""
    if isinstance(x, str):
        return graph.add("Gather", x, np.int64(i), axis=0)
    return x[i]


def stack(graph: Graph, values: tuple[Value, ...]) -> Value:
    """Rows along a new leading axis."""
    if not any(isinstance(x, str) for x in values):
        return jnp.stack(values)
    rows = [graph.add("Unsqueeze", x, ints(0)) for x in values]
    return graph.add("Concat", *rows, axis=0)


def to_onnx(program: Program) -> onnx.ModelProto:
    """The model: observation [batch, O] and noise [batch, K], if any, to action.

    Raises:
        SimpoError: A primitive without a rule.
    """
    (batch,) = export.symbolic_shape(BATCH)
    closed = program.trace(batch)
    names = ["observation", "noise"][: len(program.specs(batch))]
    graph = Graph(names[0])
    (result,) = run(graph, closed.jaxpr, closed.consts, names)
    last = result if isinstance(result, str) else graph.constant(result)
    graph.nodes.append(helper.make_node("Identity", [last], ["action"]))
    graph.prune("action")
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, spec.shape[1]])
        for name, spec in zip(names, program.specs(batch), strict=True)
    ]
    dims = [BATCH, program.saved.spec.action_dim]
    output = helper.make_tensor_value_info("action", TensorProto.FLOAT, dims)
    body = helper.make_graph(
        graph.nodes, "policy", inputs, [output], list(graph.constants.values())
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        body, opset_imports=opset, ir_version=IR_VERSION, producer_name="simpo"
    )
    onnx.checker.check_model(model, full_check=True)
    return model
