"""`simpo dna COMMAND`: design of DNA sequences.

Commands and their options load no JAX, so that help is quick; what they do is in
experiments/sequences, a module per command.
"""

import difflib
import importlib
from typing import NamedTuple

from simpo.cli.options import read_options
from simpo.experiments.sequences import options
from simpo.types import SimpoError

__all__ = ["main"]


class Command(NamedTuple):
    """A command on data of one's own.

    Attributes:
        text: What it does, in a line.
        options: Their class.
        module: Of experiments/sequences; its `run` takes options and a progress bar.
        unit: What the bar counts.
    """

    text: str
    options: type
    module: str
    unit: str


OWN = {
    "pretrain": Command(
        "learn a masked diffusion of the sequences of a file",
        *(options.Pretrained, "pretraining", "updates"),
    ),
    "oracle": Command(
        "train what predicts a measured value, and see how well it does",
        *(options.OracleTraining, "training", "epochs"),
    ),
    "finetune": Command(
        "make a model write sequences that score high",
        *(options.Tuned, "tuning", "rounds"),
    ),
    "sample": Command(
        "draw sequences, guided or not, that satisfy conditions",
        *(options.Drawing, "sampling", "sequences"),
    ),
    "evaluate": Command(
        "judge files of sequences by oracles, likelihood, diversity, composition",
        *(options.Evaluation, "judging", "sets"),
    ),
    "report": Command(
        "one HTML page of folders and files of sequences",
        *(options.PageMaking, "pages", "pages"),
    ),
    "motifs": Command(
        "write the motifs of a JASPAR release as a MEME file",
        *(options.MotifFile, "motifs", "files"),
    ),
    "convert-drakes": Command(
        "take over the published DRAKES denoiser, a PyTorch checkpoint",
        *(options.Conversion, "conversion", "files"),
    ),
}
COMMANDS = {
    "demo": "design sequences of a planted grammar, whose truth is known",
    **{name: command.text for name, command in OWN.items()},
}


def demo(argv: list[str]) -> int:
    """Run the demonstration; print its table and where everything is."""
    from simpo.cli.studies import carry_out
    from simpo.experiments.dna_demo import DnaDemo

    return carry_out(read_options(DnaDemo(), argv, prog="simpo dna demo"))


def own(name: str, argv: list[str]) -> int:
    """Run a command on data of one's own; print what it found."""
    command, prog = OWN[name], f"simpo dna {name}"
    given = read_options(command.options(), argv, prog=prog)
    from simpo import backend
    from simpo.cli.bar import LateBar

    backend.keep_compiled()
    module = importlib.import_module(f"simpo.experiments.sequences.{command.module}")
    with LateBar(command.unit, given.total) as bar:
        lines = module.run(given, bar.update)
    print("\n".join(lines))
    return 0


def main(argv: list[str]) -> int:
    """Run the command that the first word names."""
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<15} {text}" for name, text in COMMANDS.items())
        print(
            f"usage: simpo dna COMMAND [options]\n\ncommands:\n{rows}\n\n"
            "simpo dna COMMAND --help explains a command."
        )
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, 1)
        hint = f"did you mean '{near[0]}'?" if near else "see simpo dna --help"
        raise SimpoError(f"unknown command 'dna {argv[0]}'; {hint}")
    if argv[0] == "demo":
        return demo(argv[1:])
    return own(argv[0], argv[1:])
