"""Formats of exported policies: how each is written, and read back to be compared.

onnx          the whole policy as a graph; runs in ONNX Runtime, in any language
stablehlo     the whole policy compiled by JAX on CPU, CUDA or TPU; expires
safetensors   the parameters by name, and the sampler's coefficients; lasts
"""

import abc
import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file, save

from simpo.checkpoint import flatten, unflatten
from simpo.export.parity import Act
from simpo.export.program import Program
from simpo.generative import Diffusion
from simpo.types import SimpoError

__all__ = ["FORMATS", "Format", "Onnx", "Safetensors", "StableHlo"]

BATCH = "batch"
PLATFORMS = ("cpu", "cuda", "tpu")


class Format(abc.ABC):
    """A kind of model file."""

    file: ClassVar[str]
    """Name of the model file."""
    packages: ClassVar[tuple[str, ...]]
    """Packages whose versions are written down."""

    @abc.abstractmethod
    def require(self) -> None:
        """Raise SimpoError if a package is missing."""

    @abc.abstractmethod
    def write(self, program: Program, path: Path) -> None:
        """Write the model file."""

    @abc.abstractmethod
    def read(self, program: Program, path: Path) -> Act:
        """The policy as the file has it."""

    @abc.abstractmethod
    def facts(self, program: Program) -> dict[str, Any]:
        """What the contract says of this format alone."""


@dataclass(frozen=True)
class Onnx(Format):
    """The policy as an ONNX graph."""

    file = "policy.onnx"
    packages = ("jax", "numpy", "onnx", "onnxruntime")

    def require(self) -> None:
        """Find the extra.

        Raises:
            SimpoError: It is not installed.
        """
        try:
            importlib.import_module("onnx")
            importlib.import_module("onnxruntime")
        except ImportError:
            raise SimpoError(
                "the ONNX format is not installed: pip install 'simpo[onnx]'"
            ) from None

    def write(self, program: Program, path: Path) -> None:
        """Translate and write."""
        from simpo.export.onnx_graph import to_onnx

        path.write_bytes(to_onnx(program).SerializeToString(deterministic=True))

    def read(self, program: Program, path: Path) -> Act:
        """A session of ONNX Runtime on the CPU."""
        import onnxruntime

        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(path, providers=providers)
        names = [x.name for x in session.get_inputs()]

        def act(*inputs: np.ndarray) -> np.ndarray:
            feed = dict(zip(names, inputs, strict=True))
            return np.asarray(session.run(["action"], feed)[0])

        return act

    def facts(self, program: Program) -> dict[str, Any]:
        """The operators' version."""
        from simpo.export.onnx_graph import OPSET

        return {"opset": OPSET}


@dataclass(frozen=True)
class StableHlo(Format):
    """The policy as `jax.export` serialises it."""

    file = "policy.stablehlo"
    packages = ("jax", "jaxlib", "numpy")

    def require(self) -> None:
        """Nothing beyond JAX."""

    def write(self, program: Program, path: Path) -> None:
        """Export for any batch, on all platforms."""
        (batch,) = export.symbolic_shape(BATCH)
        program.trace(batch)
        make = export.export(jax.jit(program), platforms=PLATFORMS)
        path.write_bytes(make(*program.specs(batch)).serialize())

    def read(self, program: Program, path: Path) -> Act:
        """Deserialised and compiled."""
        call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
        return lambda *inputs: np.asarray(call(*inputs))

    def facts(self, program: Program) -> dict[str, Any]:
        """Where it runs."""
        return {"platforms": list(PLATFORMS)}


@dataclass(frozen=True)
class Safetensors(Format):
    """The parameters by name."""

    file = "model.safetensors"
    packages = ("numpy", "safetensors")

    def require(self) -> None:
        """Nothing beyond what is always there."""

    def write(self, program: Program, path: Path) -> None:
        """Write the parameters."""
        path.write_bytes(save(flatten(program.saved.policy)))

    def read(self, program: Program, path: Path) -> Act:
        """The same program with the parameters of the file."""
        policy = unflatten(program.saved.policy, load_file(path), path)
        call = jax.jit(replace(program, saved=replace(program.saved, policy=policy)))
        return lambda *inputs: np.asarray(call(*inputs))

    def facts(self, program: Program) -> dict[str, Any]:
        """Shapes of the tensors, and a diffusion sampler's coefficients [T] each."""
        model = getattr(program.saved.agent, "model", None)
        table = model.steps()._asdict() if isinstance(model, Diffusion) else {}
        return {
            "tensors": {
                name: list(x.shape) for name, x in flatten(program.saved.policy).items()
            },
            "sampler_steps": {name: x.tolist() for name, x in table.items()} or None,
        }


FORMATS: dict[str, Format] = {
    "onnx": Onnx(),
    "stablehlo": StableHlo(),
    "safetensors": Safetensors(),
}
"""Every format by name."""
