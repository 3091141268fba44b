"""Networks of the user's own: Equinox modules for one sample, batched here.

Denoiser          make(key, action_dim, obs_dim)     net(x [A], t [], obs [O]) -> [A]
Other actors, V   make(key, inputs, outputs)         net(obs [O]) -> [D]
Critic            make(key, obs_dim, action_dim, outputs)
                                                     net(obs [O], action [A]) -> [D]

Each class here does what its counterpart in `networks` does. A denoiser of ours starts
with a sum of parts; one of the user's gets the pair (obs, t), as the sum of (obs, 0)
and (0, t).

Ours hold nothing but parameters, and gradients, optimisers and moving averages rely on
that. A user's module may hold anything (`eqx.nn.MLP` holds its activation), so it is
split: floating arrays are the parameters, the rest is static.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from simpo.blocks import map_blocks
from simpo.types import PyTree, SimpoError

__all__ = [
    "CustomCritics",
    "CustomDenoiser",
    "CustomNetwork",
    "Factory",
    "Parameters",
    "require_factory",
]

Factory = Callable[..., eqx.Module]
"""Makes a module from a random key and dimensions."""


@dataclass(frozen=True, eq=False)
class Static:
    """What is no parameter of a module, equal if all of its leaves are.

    jit compares it at every call; almost always it is the same object.
    """

    module: PyTree

    @cached_property
    def parts(self) -> tuple:
        """Leaves and structure."""
        leaves, structure = jax.tree.flatten(self.module)
        return tuple(leaves), structure

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Static) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)


class Parameters(eqx.Module):
    """A user's module whose every leaf is a parameter.

    Attributes:
        params: The module, None in the place of all that is no floating array.
        static: The rest.
    """

    params: PyTree
    static: Static = eqx.field(static=True)

    @staticmethod
    def init(make: Callable[[Array], Any], name: str, key: Array) -> "Parameters":
        """Split the module that `make` gives.

        Raises:
            SimpoError: It gives none, or one that cannot be learnt or compared.
        """
        with told(name):
            module = make(key)
        require_module(module, name)
        params, static = eqx.partition(module, is_parameter)
        # A strong type, and a buffer of its own.
        params = jax.tree.map(lambda x: jnp.array(x, jnp.asarray(x).dtype), params)
        return Parameters(params, Static(static))

    @property
    def module(self) -> Any:
        """The module, whole."""
        return eqx.combine(self.params, self.static.module)


def is_parameter(leaf: Any) -> bool:
    """Whether a leaf is a floating array."""
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


class CustomNetwork(eqx.Module):
    """A user's net(x [I]) -> [D], for any number of leading axes."""

    net: Parameters

    @staticmethod
    def init(
        make: Factory, name: str, key: Array, inputs: int, outputs: int
    ) -> "CustomNetwork":
        """A module of the user's from [..., inputs] to [..., outputs].

        Raises:
            SimpoError: The module does not do that; `name` says whose it is.
        """
        build = partial(Parameters.init, partial(call, make, inputs, outputs), name)
        require_map(build, name, {"obs": (inputs,)}, outputs)
        return CustomNetwork(build(key))

    def __call__(self, x: Array) -> Array:
        """Shapes [..., I] -> [..., O]."""
        return jnp.vectorize(self.net.module, signature="(i)->(d)")(x)


class CustomDenoiser(eqx.Module):
    """A user's net(x [A], t [], obs [O]) -> [A], for any number of leading axes.

    Axes of one row in the condition are not repeated: what a module computes from the
    observation alone is computed once per state, whatever the number of samples.
    """

    net: Parameters
    dim: int = eqx.field(static=True)
    cond_dim: int = eqx.field(static=True)

    @staticmethod
    def init(
        make: Factory, name: str, key: Array, dim: int, cond_dim: int
    ) -> "CustomDenoiser":
        """A denoiser of samples [..., dim] given conditions [..., cond_dim].

        Raises:
            SimpoError: The module is none; `name` says whose it is.
        """
        build = partial(Parameters.init, partial(call, make, dim, cond_dim), name)
        require_map(build, name, {"x": (dim,), "t": (), "obs": (cond_dim,)}, dim)
        return CustomDenoiser(build(key), dim, cond_dim)

    def condition(self, cond: Array) -> Array:
        """The pair (cond, 0): [..., O] -> [..., O + 1]."""
        return jnp.concatenate([cond, jnp.zeros_like(cond[..., :1])], axis=-1)

    def embed_time(self, t: Array) -> Array:
        """The pair (0, t): times [...] in [0, 1] -> [..., O + 1]."""
        zeros = jnp.zeros((*t.shape, self.cond_dim))
        return jnp.concatenate([zeros, t[..., None]], axis=-1)

    def denoise(self, x: Array, context: Array) -> Array:
        """Prediction [..., A] at x [..., A], `context` = condition + time part."""
        module = self.net.module

        def predict(x: Array, context: Array) -> Array:
            return module(x, context[-1], context[:-1])

        return jnp.vectorize(predict, signature="(a),(c)->(a)")(x, context)

    def __call__(self, x: Array, t: Array, cond: Array) -> Array:
        """Prediction [..., A] at samples x [..., A], times t [...], cond [..., O]."""
        return self.denoise(x, self.condition(cond) + self.embed_time(t))


class CustomCritics(eqx.Module):
    """K of a user's net(obs [O], action [A]) -> [D], each from a key of its own."""

    net: Parameters

    @staticmethod
    def init(
        make: Factory,
        name: str,
        key: Array,
        obs_dim: int,
        action_dim: int,
        *,
        critics: int = 2,
        outputs: int = 1,
    ) -> "CustomCritics":
        """An ensemble of `critics` modules, parameters stacked [K, ...].

        Raises:
            SimpoError: The module is no critic; `name` says whose it is.
        """
        made = partial(call, make, obs_dim, action_dim, outputs)
        build = partial(Parameters.init, made, name)
        inputs = {"obs": (obs_dim,), "action": (action_dim,)}
        require_map(build, name, inputs, outputs)
        return CustomCritics(jax.vmap(build)(jax.random.split(key, critics)))

    def __call__(self, obs: Array, action: Array) -> Array:
        """Values [K, B] of obs [B, O] and action [B, A]."""
        return self.heads(obs, action)[..., 0]

    def heads(self, obs: Array, action: Array) -> Array:
        """All outputs [K, B, D] of obs [B, O] and action [B, A]."""
        return jax.vmap(lambda net: jax.vmap(net.module)(obs, action))(self.net)

    def candidates(self, obs: Array, actions: Array) -> Array:
        """Values [K, B, N] of N actions per state: obs [B, O], actions [B, N, A]."""

        def values(_: Array, obs: Array, actions: Array) -> Array:
            def rows(net: Parameters) -> Array:
                of_state = jax.vmap(net.module, in_axes=(None, 0))
                return jax.vmap(of_state)(obs, actions)[..., 0]

            return jax.vmap(rows, out_axes=1)(self.net)

        unused, n = jax.random.key(0), actions.shape[1]
        return map_blocks(values, unused, obs, actions, rows_per_state=n).swapaxes(0, 1)


def call(make: Factory, *rest: Any) -> Any:
    """`make(key, *dimensions)`, of the dimensions and the key."""
    *dimensions, key = rest
    return make(key, *dimensions)


def require_factory(make: Any, name: str) -> None:
    """Raise SimpoError unless this is None or can make networks."""
    if make is None:
        return
    what = "must be a function that makes an Equinox module from a key and dimensions"
    if isinstance(make, eqx.Module) or not callable(make):
        raise SimpoError(f"{name} {what}, not {spoken(make)}")
    try:
        hash(make)
    except TypeError:
        raise SimpoError(
            f"{name} cannot be hashed, and settings of agents must be: make it a plain "
            "function, or its class a frozen dataclass"
        ) from None


def require_module(module: Any, name: str) -> None:
    """Raise SimpoError unless this is a module to learn, with a rest to compare."""
    if not isinstance(module, eqx.Module):
        raise SimpoError(f"{name} must return an Equinox module, not {spoken(module)}")
    leaves = jax.tree.leaves_with_path(module)
    if not any(is_parameter(leaf) for _, leaf in leaves):
        raise SimpoError(f"{name}: {spoken(module)} has no floating array to learn")
    named = {jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in leaves}
    for path, value in (named | dict(static_fields(module))).items():
        what = f"{name}: '{path}' of {spoken(module)}"
        if is_parameter(value) and path in named:
            continue
        if eqx.is_array(value) and path in named:
            raise SimpoError(
                f"{what} is an array of {value.dtype}, which cannot be learnt: make it "
                "a tuple"
            )
        require_hash(value, what)


def static_fields(module: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Static fields of a module and of those inside, by dotted name."""
    for field in dataclasses.fields(module):
        value, name = getattr(module, field.name, None), f"{path}{field.name}"
        if field.metadata.get("static", False):
            yield name, value
            continue
        for inner in jax.tree.leaves(value, is_leaf=is_module):
            if is_module(inner):
                yield from static_fields(inner, f"{name}.")


def is_module(value: Any) -> bool:
    """Whether this is an Equinox module."""
    return isinstance(value, eqx.Module)


def require_hash(value: Any, what: str) -> None:
    """Raise SimpoError unless a value can be hashed."""
    try:
        hash(value)
    except TypeError as error:
        raise SimpoError(f"{what} cannot be hashed ({first_line(error)})") from None


def require_map(
    build: Callable[[Array], Parameters],
    name: str,
    inputs: dict[str, tuple[int, ...]],
    outputs: int,
) -> None:
    """Raise SimpoError unless a module maps one sample to [outputs] of float32.

    Module and outputs are traced one after the other, so an array that the module has
    kept outside its fields is found here, and not in the first update.
    """
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs.values()]
    net = jax.eval_shape(build, jax.eval_shape(jax.random.key, 0))
    listed = ", ".join(f"{n} {list(shape)}" for n, shape in inputs.items())
    with told(f"{name}: the module at {listed}"):
        trace = jax.make_jaxpr(lambda net, *x: net.module(*x), return_shape=True)
        jaxpr, found = trace(net, *given)
    if any(isinstance(const, Tracer) for const in jaxpr.consts):
        raise SimpoError(
            f"{name}: the module reads an array that is no field of it, made with it"
        )
    shape = getattr(found, "shape", None)
    if shape != (outputs,) or found.dtype != jnp.float32:
        was = type(found).__name__ if shape is None else f"{found.dtype} {list(shape)}"
        raise SimpoError(
            f"{name}: the module must map {listed} to float32 [{outputs}], not {was}"
        )


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what a user's code raises into one line; the rest is its cause."""
    try:
        yield
    except SimpoError:
        raise
    except Exception as error:
        raise SimpoError(
            f"{what} raised {type(error).__name__}: {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of a message."""
    return str(error).strip().partition("\n")[0][:300]


def spoken(value: Any) -> str:
    """`a Net`: what a value is, in a message."""
    return f"a {type(value).__name__}"
