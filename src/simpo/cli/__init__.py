"""The command line: `simpo <command> ...`.

Commands are modules, loaded when called, so that `simpo --help` answers at once. A
`SimpoError` becomes one line on standard error: exit code 2 for a user's mistake, 1 for
a run that failed.
"""

import difflib
import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

from simpo import __version__
from simpo.types import SimpoError, SimpoWarning

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "train": "train an agent; without arguments, in minutes, on a laptop",
    "eval": "play episodes with a trained policy: returns, latency, videos",
    "resume": "go on with a run that was stopped or killed, exactly",
    "reproduce": "make a figure or table of the paper: table2, bandit, geometry, ...",
    "bench": "train all agents under one protocol and rank them",
    "sweep": "search values of an agent's fields, and confirm them on fresh seeds",
    "dna": "design DNA sequences: simpo dna demo needs no files",
    "watch": "show runs while they go on, on a web page or in the terminal",
    "export": "write a policy for robots: ONNX, StableHLO or safetensors, checked",
    "plot": "draw learning curves, weights and diagnostics of run directories",
    "push": "send a policy with a model card to the Hugging Face Hub",
    "pull": "fetch a policy from the Hugging Face Hub",
    "list": "list envs, agents, weightings or presets",
    "doctor": "check the installation: versions, devices, rendering",
}


def usage() -> str:
    """What `simpo --help` prints."""
    rows = "\n".join(f"  {name:<9} {text}" for name, text in COMMANDS.items())
    return (
        "simpo: reinforcement learning of diffusion and flow policies by signed "
        "reweighting\n\nusage: simpo COMMAND [options]\n\n"
        f"commands:\n{rows}\n\n"
        "simpo COMMAND --help explains a command; simpo --version prints "
        f"{__version__}."
    )


def dispatch(argv: list[str]) -> int:
    """Run the command that the first word names."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"simpo {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, 1)
        hint = f"did you mean '{near[0]}'?" if near else "see simpo --help"
        raise SimpoError(f"unknown command '{argv[0]}'; {hint}")
    from simpo.rendering import ignore_unknown

    ignore_unknown()
    module = importlib.import_module(f"simpo.cli.{argv[0]}")
    return module.main(argv[1:])


def in_one_line(usual: Callable[..., str]) -> Callable[..., str]:
    """A format of warnings in which ours have no source line."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> str:
        if issubclass(category, SimpoWarning):
            return f"simpo: warning: {message}\n"
        return usual(message, category, *place)

    return show


def main(argv: list[str] | None = None) -> int:
    """Entry point: returns the exit code."""
    usual = warnings.formatwarning
    warnings.formatwarning = in_one_line(usual)
    try:
        return dispatch(sys.argv[1:] if argv is None else argv)
    except SimpoError as error:
        if not error.exit_code:  # it ended early, as it was asked to
            print(error)
            return 0
        print(f"simpo: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("simpo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    finally:
        warnings.formatwarning = usual
