"""Options of the steps of sequence design; nothing here loads JAX, so help is quick.

A group is a dataclass of options that several commands share.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

__all__ = [
    "Bounded",
    "Conversion",
    "Drawing",
    "Evaluation",
    "MotifFile",
    "OracleTraining",
    "PageMaking",
    "Place",
    "Pretrained",
    "Tuned",
    "Wanted",
]

NEEDED: Any = tyro.MISSING
File = Annotated[Path, tyro.conf.Positional]
GROUP = {"group": True}
"""Of a field whose own fields are options."""
Files = Annotated[tuple[Path, ...], tyro.conf.Positional]


@dataclass(frozen=True)
class Place:
    """Where the model's sequences stand; without these, they are whole sequences."""

    backbone: str | None = None
    """Design an insert in this sequence: letters, or FILE:NAME."""
    start: int | None = None
    """First base of the insert, counted from 0."""
    stop: int | None = None
    """First base after it."""


@dataclass(frozen=True)
class Wanted:
    """What a whole sequence must satisfy."""

    gc: tuple[float, ...] = ()
    """LOW HIGH [WINDOW]: share of G and C, in every window of so many bases."""
    longest_run: int | None = None
    """Bases of the longest run of one base."""
    forbid: tuple[str, ...] = ()
    """Sites that must not occur on either strand, in IUPAC letters: GGTCTC ..."""


@dataclass(frozen=True)
class Bounded:
    """For oracles that are an .onnx file or a function of yours."""

    bounds: tuple[float, float] | None = None
    """LOW HIGH: limits that their values are kept within; needed for these."""
    channels_first: bool = False
    """The ONNX model takes [N, 4, L], not [N, L, 4]."""
    output: int = 0
    """Which column of the ONNX model's output is the value, counted from 0."""


@dataclass(frozen=True)
class Pretrained:
    """Learn a masked diffusion of the sequences of a file."""

    file: File = NEEDED
    """CSV, TSV or FASTA, maybe .gz or .xz; all sequences of one length."""
    out: Path = NEEDED
    """Folder for the model."""
    column: str = "seq"
    """Column of the letters."""
    cluster_column: str | None = None
    """Column of families that stay together; by default found from shared words."""
    start: int = 0
    """Learn the bases from here, counted from 0 ..."""
    stop: int | None = None
    """... to before here: an insert's window. By default all bases."""
    held_out: float = 0.1
    """Share of the clusters that is not learnt, but measured."""
    label: str | None = None
    """For the guide CFG: column of measured values, told to the network as ..."""
    good: float | None = None
    """... 1 above this value, and 0 below."""
    width: int = 48
    """Channels of the network; 128 as published."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Bases between taps, a block each; 1 1 4 16 64, each four times, as published."""
    denoising_steps: int | None = None
    """Steps from all masked to none; by default a third of the bases."""
    steps: int = 2_000
    """Updates."""
    batch_size: int = 128
    """Sequences per update."""
    learning_rate: float = 1e-3
    """Of Adam, after the warm-up."""
    warmup: int = 100
    """Updates in which the rate rises."""
    decay: float = 0.999
    """Of the running mean of the network, which is what is saved."""
    one_strand: bool = False
    """Read sequences as they are written, not from either strand."""
    seed: int = 0
    """Seed of the split, of the network and of the updates."""
    resume: bool = False
    """Go on with what is at --out, stopped or done; --steps may be more now."""
    force: bool = False
    """Replace what is at --out."""

    @property
    def total(self) -> int:
        """Length of the progress bar."""
        return self.steps


@dataclass(frozen=True)
class OracleTraining:
    """Train an oracle on measured sequences, and see how well it predicts others."""

    file: File = NEEDED
    """CSV, TSV or FASTA, maybe .gz or .xz; all sequences of one length."""
    label: str = NEEDED
    """Column of the measured values."""
    out: Path = NEEDED
    """Folder for the oracle; its name is the oracle's."""
    kind: Literal["ridge", "cnn"] = "ridge"
    """Ridge on what motifs find, or convolutional networks."""
    motifs: Path | None = None
    """Motifs in MEME format; the ridge needs them, a CNN's first layer starts there."""
    column: str = "seq"
    """Column of the letters."""
    split_column: str | None = None
    """Column that says train, val or test; or 1 for validation and 0 for the rest."""
    cluster_column: str | None = None
    """Column of families that stay together; by default found from shared words."""
    drop_unlabelled: bool = False
    """Leave rows without a label out, where there are some."""
    classify: bool = False
    """Labels are 0 and 1; the value is a probability."""
    members: int = 3
    """Networks of a CNN, whose mean it is."""
    epochs: int = 20
    """Passes of a CNN over the data, at most."""
    batch_size: int = 64
    """Sequences in a step of a CNN."""
    learning_rate: float = 1e-3
    """Of a CNN."""
    filters: int = 256
    """Filters of a CNN's first layer; two per motif where it starts from motifs."""
    gain: float = 0.5
    """Of filters that start from motifs, per nat."""
    margin: float = 4.0
    """Nats below a motif's best site that such a filter still sees."""
    width: int = 64
    """Channels of a CNN."""
    seed: int = 0
    """Seed of the split and of a CNN."""
    force: bool = False
    """Replace what is at --out."""

    @property
    def total(self) -> int:
        """Length of the progress bar."""
        return self.members * self.epochs if self.kind == "cnn" else 1


@dataclass(frozen=True)
class Tuned:
    """Fine-tune a model so that its sequences score high with an oracle."""

    model: File = NEEDED
    """Folder of simpo dna pretrain, finetune or convert-drakes."""
    oracle: str = NEEDED
    """Folder of simpo dna oracle, an .onnx file, or module:function."""
    out: Path = NEEDED
    """Folder for the model, the rounds and sequences before and after."""
    method: str = "SqrNeg"
    """Exp (RL-D2), Linear, Square, LinNeg, SqrNeg (floor -1), WD1, WD1-released,
    DRAKES; or any weighting as of simpo train: 'Power(exponent=3, floor=-0.5)'."""
    rounds: int = 60
    """How often sequences are proposed, scored and learnt from."""
    group: int = 64
    """Sequences per round."""
    inner_updates: int = 4
    """Updates per round; DRAKES makes one."""
    masks: int = 2
    """Masks per sequence and update; of DRAKES none."""
    negative_masks: float = 0.0
    """Match sequences of negative weight only where more than this share of the bases
    is masked, 0.25 say: what few masks leave may fit no other sequence. 0 is off."""
    learning_rate: float | None = None
    """Of Adam; by default 5e-4, and 1e-4 for DRAKES."""
    path_kl: float = 0.0
    """Weight of the divergence from the model as it was."""
    target: float = 1.0
    """Nats that the weights of a group may use; a smaller number, smaller steps."""
    diversity: float = 0.0
    """Weight of the share of bases that a group has in common."""
    soft_steps: int = 8
    """Steps that the gradients of DRAKES go through."""
    samples: int = 320
    """Sequences before and after, for the medians."""
    place: Place = field(default=Place(), metadata=GROUP)
    wanted: Wanted = field(default=Wanted(), metadata=GROUP)
    bounded: Bounded = field(default=Bounded(), metadata=GROUP)
    seed: int = 0
    """Seed of everything."""
    resume: bool = False
    """Go on with what is at --out, stopped or done; --rounds may be more now."""
    force: bool = False
    """Replace what is at --out."""

    @property
    def total(self) -> int:
        """Length of the progress bar."""
        return self.rounds


@dataclass(frozen=True)
class Drawing:
    """Draw sequences from a model, maybe guided by an oracle."""

    model: File = NEEDED
    """Folder of simpo dna pretrain, finetune or convert-drakes."""
    out: Path = NEEDED
    """File to write: .csv, .tsv or .fasta, and maybe .gz or .xz after that."""
    count: int = 100
    """Sequences wanted."""
    oracle: str | None = None
    """Scores them: folder of simpo dna oracle, an .onnx file, or module:function."""
    guide: Literal["none", "CG", "SMC", "TDS", "CFG"] = "none"
    """Way to draw towards high scores: by the oracle's gradient (CG), by resampling
    (SMC), both (TDS), or by the labels that a model was pretrained with (CFG)."""
    gamma: float | None = None
    """Strength of CG and TDS; by default 20 and 5."""
    alpha: float = 0.1
    """Temperature of the scores, of SMC and TDS."""
    strength: float = 10.0
    """w of CFG."""
    batch_size: int = 64
    """Sequences drawn at a time; the particles of SMC and TDS."""
    distance: float = 0.0
    """Share of bases in which every two must differ."""
    most: int = 20
    """Draw at most so many times the sequences wanted."""
    place: Place = field(default=Place(), metadata=GROUP)
    wanted: Wanted = field(default=Wanted(), metadata=GROUP)
    bounded: Bounded = field(default=Bounded(), metadata=GROUP)
    seed: int = 0
    """Seed of what is drawn."""
    force: bool = False
    """Replace what is at --out."""

    @property
    def total(self) -> int:
        """Length of the progress bar."""
        return self.count


@dataclass(frozen=True)
class Evaluation:
    """Judge sets of sequences: a row each."""

    files: Files = NEEDED
    """Files of sequences, a set each."""
    oracles: tuple[str, ...] = NEEDED
    """NAME=ORACLE ...; the first is what the sequences were made for."""
    model: Path = NEEDED
    """The pretrained model, for the likelihood."""
    natural: Path = NEEDED
    """Natural sequences of high activity, to be compared with."""
    out: Path = NEEDED
    """Folder for the table and the sequences with their scores."""
    label: str | None = None
    """Column of measured values in the natural file, to take ..."""
    top: float = 1.0
    """... this share of it, the highest."""
    motifs: Path | None = None
    """Motifs in MEME format, to count in the sets and in the natural sequences."""
    accessibility: str | None = None
    """An oracle of open chromatin, a classifier."""
    column: str = "seq"
    """Column of the letters."""
    place: Place = field(default=Place(), metadata=GROUP)
    bounded: Bounded = field(default=Bounded(), metadata=GROUP)
    force: bool = False
    """Replace what is at --out."""

    @property
    def total(self) -> int:
        """Length of the progress bar."""
        return len(self.files) + 1


@dataclass(frozen=True)
class PageMaking:
    """Make one HTML file of everything that folders and files of sequences hold."""

    paths: Files = NEEDED
    """Folders of simpo dna finetune or evaluate, and files of sequences."""
    out: Path = Path("report.html")
    """The page."""
    first: int = 20
    """Sequences of each set that are shown."""
    column: str = "seq"
    """Column of the letters."""
    title: str = "Designed sequences"
    """Of the page."""

    @property
    def total(self) -> int:
        """Length of the progress bar."""
        return 1


@dataclass(frozen=True)
class MotifFile:
    """Write the motifs of a JASPAR release as a MEME file; needs simpo[jaspar]."""

    out: Path = NEEDED
    """File to write, .meme."""
    release: str = "JASPAR2022"
    """Release of JASPAR."""
    group: str = "vertebrates"
    """Group of species: vertebrates, plants, insects, ..., or all."""
    force: bool = False
    """Replace what is at --out."""

    @property
    def total(self) -> int:
        """Length of the progress bar."""
        return 1


@dataclass(frozen=True)
class Conversion:
    """Convert the published DRAKES denoiser, a PyTorch checkpoint, into a model."""

    checkpoint: File = NEEDED
    """The .ckpt file."""
    out: Path = NEEDED
    """Folder for the model."""
    trust: bool = False
    """Read a file that holds more than tensors, which can run code."""
    no_mean: bool = False
    """Take the parameters themselves, not their running mean."""
    force: bool = False
    """Replace what is at --out."""

    @property
    def total(self) -> int:
        """Length of the progress bar."""
        return 1
