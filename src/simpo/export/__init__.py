"""Policies for robots: the complete policy in one file, with a contract and a check.

    export_policy(saved, folder, ...)   model file, contract.json, parity.json

The folder is written aside and renamed only after the file has been read back and
compared with JAX, so a folder of that name holds a policy that was checked.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simpo.checkpoint import SavedPolicy, write_json
from simpo.export.contract import make_contract
from simpo.export.formats import FORMATS
from simpo.export.parity import Parity, check_parity
from simpo.export.program import make_program
from simpo.types import SimpoError

__all__ = ["FORMATS", "Parity", "export_policy"]

CONTRACT, PARITY = "contract.json", "parity.json"


def export_policy(
    saved: SavedPolicy,
    folder: Path,
    *,
    format: str = "onnx",
    best_of: int | None = None,
    deterministic: bool = False,
    denoising_steps: int | None = None,
    force: bool = False,
) -> Parity:
    """Write a policy in a format of `FORMATS`, and check what was written.

    Args:
        saved: The policy.
        folder: Where to write; it must not exist.
        format: `onnx`, `stablehlo` or `safetensors`.
        best_of: Samples per observation, of which the best by min Q is taken.
        deterministic: Leave out the randomness that the policy can do without. If
            neither this nor `best_of` is given, the sampler is the one of the headline
            of the agent's evaluations.
        denoising_steps: T of the model; None as in training.
        force: Replace an export that is there.

    Raises:
        SimpoError: A setting that the agent does not have, a missing extra, a folder
            that is there or cannot be written; or, with exit code 1, a file that does
            not give the actions that JAX gives: nothing is kept then.
    """
    chosen = FORMATS[format]
    chosen.require()
    refuse_existing(folder, force)
    program = make_program(
        saved,
        best_of=best_of,
        deterministic=deterministic,
        denoising_steps=denoising_steps,
    )
    with aside(folder) as scratch:
        model = scratch / chosen.file
        chosen.write(program, model)
        contract = make_contract(program, model, format, chosen.packages)
        write_json(scratch / CONTRACT, contract | chosen.facts(program))
        parity = check_parity(program, chosen.read(program, model))
        write_json(scratch / PARITY, parity.to_json())
        require_parity(parity, folder)
        publish(scratch, folder)
    return parity


def refuse_existing(folder: Path, force: bool) -> None:
    """Raise SimpoError if a folder is there and may not be replaced."""
    if not folder.exists():
        return
    if not force:
        raise SimpoError(f"{folder} exists; --force replaces it, --out names another")
    if not (folder / CONTRACT).is_file():
        raise SimpoError(f"{folder} is no export, so --force does not replace it")


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """A folder to write to, gone at the end unless it was renamed."""
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        scratch.mkdir(parents=True)
        yield scratch
    except OSError as error:
        raise SimpoError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def require_parity(parity: Parity, folder: Path) -> None:
    """Raise SimpoError, with exit code 1, unless the file gives JAX's actions."""
    if parity.ok:
        return
    error = SimpoError(
        f"nothing was written to {folder}: the exported policy differs from JAX by "
        f"{parity.max_error:.1e} half-widths of the action box (at most "
        f"{parity.tolerance:.0e}), and chose another candidate in {parity.flips} of "
        f"{parity.rows} rows (at most {parity.flips_allowed})"
    )
    error.exit_code = 1
    raise error


def publish(scratch: Path, folder: Path) -> None:
    """Rename into place; an earlier export makes room."""
    old = scratch.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
