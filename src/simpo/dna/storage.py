"""An oracle's folder: `config.json` and `model.safetensors`, and nothing executable.

Ridge, networks, ONNX files, grammars, and ensembles of them, a folder in the folder for
each member. The folder is written aside and renamed, so it is never half there. A
callable cannot be written.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from simpo.checkpoint import (
    flatten,
    plain,
    read_json,
    unflatten,
    write_json,
)
from simpo.dna.cnn import CNN
from simpo.dna.convnet import ConvNet, Shape
from simpo.dna.external import FromGrammar, FromONNX
from simpo.dna.features import Featuriser
from simpo.dna.grammar import Element, Grammar, Pairing
from simpo.dna.motifs import Motif
from simpo.dna.oracle import Bound, Ensemble, Link, Logistic, Oracle, Training
from simpo.dna.ridge import PWMRidge
from simpo.types import SimpoError

__all__ = ["load_oracle", "save_oracle"]

CONFIG, MODEL = "config.json", "model.safetensors"
FORMAT = 1
Arrays = dict[str, np.ndarray]


def save_oracle(folder: str | Path, oracle: Oracle) -> Path:
    """Write an oracle; an earlier one of that name is replaced.

    Raises:
        SimpoError: An oracle that cannot be written, a folder of something else, or one
            that cannot be written to.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / CONFIG).is_file():
        raise SimpoError(f"{folder} is no oracle, so it is not replaced")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        write(aside, oracle)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    except OSError as error:
        raise SimpoError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def write(folder: Path, oracle: Oracle) -> None:
    """Write the files of an oracle into a new folder."""
    config, arrays = describe(oracle)
    kind = type(oracle).__name__
    folder.mkdir(parents=True)
    if isinstance(oracle, Ensemble):
        for number, member in enumerate(oracle.members):
            write(folder / str(number), member)
    (folder / MODEL).write_bytes(save(arrays))
    head = {"format": FORMAT, "oracle": kind, "name": oracle.name}
    write_json(folder / CONFIG, head | config)


def describe(oracle: Oracle) -> tuple[dict[str, Any], Arrays]:
    """Settings and arrays of an oracle, without its name."""
    match oracle:
        case PWMRidge():
            return describe_ridge(oracle)
        case CNN():
            return describe_cnn(oracle)
        case FromONNX():
            arrays = {"model": np.frombuffer(oracle.model, np.uint8)}
            if oracle.training:
                arrays["training"] = oracle.training.tokens
            fields = ("channels_first", "output")
            config = {name: getattr(oracle, name) for name in fields}
            return config | {"link": link_to_json(oracle.bound)}, arrays
        case FromGrammar(grammar=grammar):
            fields = [f.name for f in dataclasses.fields(grammar) if f.init]
            parts = {name: getattr(grammar, name) for name in fields}
            for name in ("elements", "pairings"):
                parts[name] = [dataclasses.asdict(part) for part in parts[name]]
            return parts, {}
        case Ensemble():
            return {"members": len(oracle.members)}, {}
    raise SimpoError(
        f"oracle {oracle.name} is Python code, which is not written to files; "
        "an ONNX file can be"
    )


def describe_ridge(oracle: PWMRidge) -> tuple[dict[str, Any], Arrays]:
    """Settings and arrays of a ridge."""
    source = oracle.featuriser
    config = {
        "affinity": source.affinity,
        "mixture": source.mixture,
        "squash": oracle.squash,
        "bias": oracle.bias,
        "link": link_to_json(oracle.link),
        "motifs": [motif.name for motif in source.motifs],
    }
    arrays = {name: getattr(oracle, name) for name in ("mean", "sd", "weight")}
    matrices = [motif.probabilities for motif in source.motifs]
    arrays["probabilities"] = np.concatenate(matrices)
    arrays["widths"] = np.array([len(matrix) for matrix in matrices])
    return config, arrays | {"training": oracle.training.tokens}


def describe_cnn(oracle: CNN) -> tuple[dict[str, Any], Arrays]:
    """Settings and arrays of networks."""
    first = oracle.networks[0]
    config = {
        "members": len(oracle.networks),
        "shape": dataclasses.asdict(first.shape),
        "centre": oracle.centre,
        "spread": oracle.spread,
        "link": link_to_json(oracle.link),
    }
    arrays = flatten(list(oracle.networks))
    return config, arrays | {"training": oracle.training.tokens}


def link_to_json(link: Link) -> dict[str, Any]:
    """A link by its class and fields."""
    return {"type": type(link).__name__} | dataclasses.asdict(link)


def load_oracle(folder: str | Path) -> Oracle:
    """Read an oracle that `save_oracle` wrote.

    Raises:
        SimpoError: No oracle, a damaged one, or one of a newer version.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise SimpoError(f"{folder} is no oracle: no file {folder / CONFIG}")
    config = read_json(folder / CONFIG)
    kind, number = config.get("oracle"), config.get("format")
    if kind not in READERS or not isinstance(config.get("name"), str):
        raise SimpoError(f"{folder} is no oracle: {CONFIG} names none that is known")
    if number != FORMAT:
        raise SimpoError(f"{folder} has format {plain(number)}, expected {FORMAT}")
    try:
        arrays = load_file(folder / MODEL)
        return READERS[kind](config, arrays, folder)
    except SimpoError as error:
        raise SimpoError(f"{folder} is damaged: {error}") from error
    except FileNotFoundError as error:
        raise SimpoError(f"{folder} is damaged: no file {error.filename}") from error
    except KeyError as error:
        raise SimpoError(f"{folder} is damaged: no {plain(error)}") from error
    except (SafetensorError, OSError, ValueError, TypeError, IndexError) as error:
        raise SimpoError(f"{folder} is damaged: {plain(error)}") from error


def array(arrays: Arrays, name: str, dtype: type, shape: tuple) -> np.ndarray:
    """An array of the type and shape that it must have; None fits any size."""
    found = arrays[name]
    fits = len(found.shape) == len(shape) and all(
        size in (None, have) for size, have in zip(shape, found.shape, strict=True)
    )
    if found.dtype != dtype or not fits:
        raise SimpoError(f"tensor '{name}' is {found.dtype} {list(found.shape)}")
    return found


def number(config: dict[str, Any], name: str) -> float:
    """A finite number of the settings."""
    if type(config[name]) not in (int, float) or not np.isfinite(config[name]):
        raise SimpoError(f"{name} is {plain(config[name])}, not a number")
    return float(config[name])


def read_link(config: dict[str, Any]) -> Link:
    """The link of the settings."""
    data = config["link"]
    if data["type"] == "Logistic":
        return Logistic()
    if data["type"] == "Bound" and number(data, "width") > 0:
        return Bound(number(data, "centre"), number(data, "width"))
    raise SimpoError(f"no link {plain(data)}")


def read_training(arrays: Arrays) -> Training:
    """The sequences that a model was trained on."""
    tokens = array(arrays, "training", np.int8, (None, None))
    if not tokens.size or tokens.min() < 0 or tokens.max() > 3:
        raise SimpoError("tensor 'training' holds no sequences")
    return Training(tokens)


def read_ridge(config: dict[str, Any], arrays: Arrays, _: Path) -> PWMRidge:
    """A ridge."""
    names, rows = (
        config["motifs"],
        array(arrays, "probabilities", np.float64, (None, 4)),
    )
    widths = array(arrays, "widths", np.int64, (len(names),))
    if not len(widths) or widths.min() < 1 or widths.sum() != len(rows):
        raise SimpoError("tensor 'widths' does not fit the motifs")
    parts = np.split(rows, np.cumsum(widths)[:-1])
    motifs = tuple(Motif(str(n), p) for n, p in zip(names, parts, strict=True))
    features = (2 * len(motifs) + 2,)
    mean, sd, weight = (
        array(arrays, name, np.float32, features) for name in ("mean", "sd", "weight")
    )
    source = Featuriser(motifs, number(config, "affinity"), number(config, "mixture"))
    return PWMRidge(
        name=config["name"],
        featuriser=source,
        mean=mean,
        sd=sd,
        weight=weight,
        bias=number(config, "bias"),
        squash=number(config, "squash"),
        link=read_link(config),
        training=read_training(arrays),
    )


def read_cnn(config: dict[str, Any], arrays: Arrays, folder: Path) -> CNN:
    """Networks."""
    training, link = read_training(arrays), read_link(config)
    shape, members = Shape(**config["shape"]), config["members"]
    if not 0 < members * (8 + 2 * shape.blocks) == len(arrays) - 1:
        raise SimpoError(f"{len(arrays)} tensors do not fit {members} networks")
    one = partial(ConvNet.init, shape=shape)
    template = [jax.eval_shape(one, jax.random.key(0))] * members
    rest = {name: found for name, found in arrays.items() if name != "training"}
    networks = unflatten(template, rest, folder / MODEL)
    centre, spread = number(config, "centre"), number(config, "spread")
    return CNN(config["name"], networks, centre, spread, link, training)


def read_onnx(config: dict[str, Any], arrays: Arrays, _: Path) -> FromONNX:
    """A model file."""
    link = read_link(config)
    if not isinstance(link, Bound):
        raise SimpoError("an ONNX model needs a bound")
    return FromONNX(
        name=config["name"],
        model=array(arrays, "model", np.uint8, (None,)).tobytes(),
        bound=link,
        channels_first=bool(config["channels_first"]),
        output=int(config["output"]),
        training=read_training(arrays) if "training" in arrays else None,
    )


def read_grammar(config: dict[str, Any], _: Arrays, __: Path) -> FromGrammar:
    """A planted grammar."""
    rest = {k: v for k, v in config.items() if k not in ("format", "oracle", "name")}
    rest["elements"] = tuple(Element(**e) for e in rest["elements"])
    rest["pairings"] = tuple(Pairing(**p) for p in rest["pairings"])
    return FromGrammar(config["name"], Grammar(**rest))


def read_ensemble(config: dict[str, Any], _: Arrays, folder: Path) -> Ensemble:
    """Oracles, each in a folder of its own."""
    members = [load_oracle(folder / str(i)) for i in range(config["members"])]
    return Ensemble(config["name"], members)


READERS: dict[str, Callable[[dict[str, Any], Arrays, Path], Oracle]] = {
    "PWMRidge": read_ridge,
    "CNN": read_cnn,
    "FromONNX": read_onnx,
    "FromGrammar": read_grammar,
    "Ensemble": read_ensemble,
}
