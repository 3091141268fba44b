"""Sequence models as folders: `config.json`, `model.safetensors`, nothing executable.

What a model is: the size of its network, its diffusion, its parameters.
"""

from dataclasses import dataclass
from pathlib import Path

import jax

from simpo.checkpoint import (
    CONFIG,
    MODEL,
    plain,
    read_arrays,
    read_json,
    save_folder,
    unflatten,
)
from simpo.config import from_json, to_json
from simpo.dilated import DilatedDenoiser, Size
from simpo.generative.masked import MaskedDiffusion
from simpo.types import SimpoError

__all__ = ["SequenceModel", "load_model"]

FORMAT = 1


@dataclass(frozen=True, eq=False)
class SequenceModel:
    """A generative model of sequences.

    Attributes:
        size: Of the network.
        diffusion: How it is trained and sampled.
        net: The network.
    """

    size: Size
    diffusion: MaskedDiffusion
    net: DilatedDenoiser

    def save(self, folder: Path) -> Path:
        """Write the folder, in one rename; an earlier one is replaced."""
        config = {
            "format": FORMAT,
            "kind": "sequences",
            "size": to_json(self.size),
            "diffusion": to_json(self.diffusion),
        }
        return save_folder(folder, config, self.net)


def load_model(folder: str | Path) -> SequenceModel:
    """Read a folder.

    Raises:
        SimpoError: It is no model of sequences, or damaged.
    """
    config, arrays = Path(folder) / CONFIG, Path(folder) / MODEL
    match found := read_json(config):
        case {"format": int(number)} if number > FORMAT:
            raise SimpoError(f"{config} has format {number}: it needs a newer simpo")
        case {"kind": "sequences", "size": dict(size), "diffusion": dict(diffusion)}:
            pass
        case _:
            raise SimpoError(f"{folder} is no model of sequences: {list(found)[:8]}")
    try:
        sized = from_json(size, Size)
        model = from_json(diffusion, MaskedDiffusion)
        if len(sized.dilations) > 1000:
            raise SimpoError("too many layers")
        template = jax.eval_shape(sized.init, jax.random.key(0))
    except (SimpoError, TypeError, ValueError, OverflowError) as error:
        raise SimpoError(f"{config} is damaged: {plain(error)}") from error
    return SequenceModel(sized, model, unflatten(template, read_arrays(arrays), arrays))
