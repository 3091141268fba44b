"""The published DRAKES denoiser, from PyTorch's checkpoint into ours, key by key.

theirs (backbone.)            ours
linear                        first
time_embedder.0.W, .1         time.frequencies, time.layer
time_layers.i.dense           blocks[i].time
norms.i, convs.i              blocks[i].norm, blocks[i].conv
cls_embedder, cls_layers.i    labels, blocks[i].label       of the network with labels
final_conv.0, final_conv.2    hidden, head

PyTorch's convolutions are [O, I, W] and its linear maps [O, I]; ours are transposed.
A running mean (`ema`) holds the trained parameters in their order, without names.
"""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simpo.dilated import PAPER, Block, Conv, DilatedDenoiser, Norm, TimeEmbedding
from simpo.dna.store import SequenceModel
from simpo.generative.masked import InverseTime, MaskedDiffusion
from simpo.networks import Dense
from simpo.types import SimpoError

__all__ = ["convert_drakes", "from_state"]

PREFIX, FROZEN = "backbone.", "time_embedder.0.W"
State = Mapping[str, np.ndarray]


def convert_drakes(
    path: Path, *, mean: bool = True, trust: bool = False
) -> SequenceModel:
    """The model of a DRAKES checkpoint.

    Args:
        path: The file.
        mean: Take the running mean of the parameters, as sampling there does.
        trust: Read a file that holds more than tensors, which can run code.

    Raises:
        SimpoError: No PyTorch, no such file, another network's.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise SimpoError("PyTorch is missing: pip install 'simpo[torch]'") from error
    if not path.is_file():
        raise SimpoError(f"no file {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # whatever unpickling raises
        hint = "" if trust else " or more than tensors; if you trust it: --trust"
        raise SimpoError(f"cannot read {path}: it is damaged{hint}") from error
    match found:
        case {"state_dict": {**tensors}}:
            pass
        case _:
            raise SimpoError(f"{path} is no checkpoint of DRAKES: no state_dict in it")
    state = {
        name.removeprefix(PREFIX): np.asarray(value.float())
        for name, value in tensors.items()
        if name.startswith(PREFIX)
    }
    shadow = (found.get("ema") or {}).get("shadow_params")
    if mean and shadow:
        state = with_mean(state, [np.asarray(value.float()) for value in shadow], path)
    return from_state(state, path)


def with_mean(state: State, shadow: list[np.ndarray], path: Path) -> State:
    """The state with the running means in the places of the trained parameters."""
    trained = [name for name in state if name != FROZEN]
    fits = len(trained) <= len(shadow) and all(
        state[name].shape == value.shape
        for name, value in zip(trained, shadow, strict=False)
    )
    if not fits:
        raise SimpoError(f"{path}: the running mean is of other parameters; --no-mean")
    return {**state, **dict(zip(trained, shadow, strict=False))}


def from_state(state: State, path: Path) -> SequenceModel:
    """The model of a denoiser's parameters.

    Raises:
        SimpoError: A parameter is missing, left over, or of another shape.
    """
    left = dict(state)

    def take(name: str) -> Any:
        try:
            return left.pop(name)
        except KeyError:
            raise SimpoError(f"{path} is no denoiser of DRAKES: no {name}") from None

    def dense(name: str) -> Dense:
        weight = take(f"{name}.weight")  # of a linear map, or of a convolution of one
        return Dense(weight.reshape(weight.shape[:2]).T, take(f"{name}.bias"))

    def conv(name: str, dilation: int = 1) -> Conv:
        kernel = take(f"{name}.weight").transpose(2, 1, 0)
        return Conv(kernel, take(f"{name}.bias"), dilation)

    labelled = any(name.startswith("cls_") for name in state)
    size = replace(PAPER, width=len(state.get("linear.bias", ())) or PAPER.width)
    rows = take("cls_embedder.weight") if labelled else None
    size = replace(size, labels=0 if rows is None else len(rows) - 1)
    template = jax.eval_shape(size.init, jax.random.key(0))
    blocks = tuple(
        Block(
            conv(f"convs.{i}", block.conv.dilation),
            Norm(take(f"norms.{i}.weight"), take(f"norms.{i}.bias")),
            dense(f"time_layers.{i}.dense"),
            dense(f"cls_layers.{i}.dense") if labelled else None,
        )
        for i, block in enumerate(template.blocks)
    )
    net = DilatedDenoiser(
        conv("linear"),
        blocks,
        dense("final_conv.0"),
        dense("final_conv.2"),
        TimeEmbedding(take(FROZEN), dense("time_embedder.1")),
        rows,
        size.constant_time,
    )
    if left:
        raise SimpoError(f"{path} is no denoiser of DRAKES: it also has {min(left)}")
    diffusion = MaskedDiffusion(masking=InverseTime())
    return SequenceModel(size, diffusion, fit(net, template, path))


def fit(net: DilatedDenoiser, template: DilatedDenoiser, path: Path) -> DilatedDenoiser:
    """The network as JAX arrays, of the shapes that its size has.

    Raises:
        SimpoError: Another shape.
    """

    def put(leaf: np.ndarray, like: Any) -> jax.Array:
        if leaf.shape != like.shape:
            raise SimpoError(f"{path}: a parameter is {leaf.shape}, not {like.shape}")
        return jnp.asarray(leaf, like.dtype)

    return jax.tree.map(put, net, template)
