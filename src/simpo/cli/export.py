"""`simpo export POLICY`: a policy for a robot, with its contract and a check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from simpo.checkpoint import SavedPolicy, load
from simpo.cli.options import read_options
from simpo.export import FORMATS, Parity, export_policy
from simpo.types import SimpoError

__all__ = ["main"]


@dataclass(frozen=True)
class ExportArguments:
    """Options of `simpo export`."""

    policy: Annotated[Path, tyro.conf.Positional] = Path()
    """Run directory or policy folder."""
    format: Literal["onnx", "stablehlo", "safetensors"] = "onnx"
    """onnx runs anywhere, stablehlo in JAX, safetensors holds the parameters alone."""
    out: Path | None = None
    """Folder to write; by default POLICY/export/FORMAT."""
    best_of: int | None = None
    """Samples per action, of which the best by min Q is taken. By default, unless
    `--deterministic` is given, the sampler of the evaluations' headline."""
    deterministic: bool = False
    """Without the randomness that the policy can do without."""
    denoising_steps: int | None = None
    """Network evaluations per sample; as in training by default."""
    force: bool = False
    """Replace an export that is there."""


def report(saved: SavedPolicy, folder: Path, name: str, parity: Parity) -> list[str]:
    """What is printed: where it is, how exact and how fast."""
    flips = f", {parity.flips} flips between candidates" if parity.flips else ""
    return [
        f"exported {folder / FORMATS[name].file}",
        f"contract {folder / 'contract.json'}",
        f"parity   max error {parity.max_error_task_units:.1e} in task units "
        f"({parity.max_error:.1e} of the half-range), {parity.rows} observations "
        f"from {parity.observations}{flips}",
        f"latency  {parity.latency_ms:.2f} ms per action, in JAX "
        f"{parity.latency_jax_ms:.2f} ms (medians, one observation)",
    ]


def main(argv: list[str]) -> int:
    """Export, check and print."""
    if not argv:
        raise SimpoError("which policy? simpo export POLICY")
    arguments = read_options(
        ExportArguments(),
        argv,
        prog="simpo export",
        description="Write a policy for a robot, with its contract and a check.",
    )
    for name in ("best_of", "denoising_steps"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise SimpoError(f"--{name.replace('_', '-')} must be at least 1")
    saved = load(arguments.policy)
    folder = arguments.out or arguments.policy / "export" / arguments.format
    stderr = Console(stderr=True)
    with stderr.status("exporting and comparing with JAX"):
        parity = export_policy(
            saved,
            folder,
            format=arguments.format,
            best_of=arguments.best_of,
            deterministic=arguments.deterministic,
            denoising_steps=arguments.denoising_steps,
            force=arguments.force,
        )
    print("\n".join(report(saved, folder, arguments.format, parity)))
    return 0
