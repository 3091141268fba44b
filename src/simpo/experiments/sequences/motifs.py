"""`simpo dna motifs`: JASPAR's motifs as a file, which all other commands take."""

from simpo.dna.jaspar import fetch_motifs
from simpo.dna.motifs import write_meme
from simpo.experiments.sequences.inputs import Progress, require_free
from simpo.experiments.sequences.options import MotifFile

__all__ = ["run"]


def run(options: MotifFile, tell: Progress) -> list[str]:
    """Fetch, write; what is to be printed."""
    require_free(options.out, options.force)
    tell("reading", 0)
    motifs = fetch_motifs(options.release, options.group)
    write_meme(options.out, motifs)
    kinds = "all species" if options.group == "all" else options.group
    return [f"file     {options.out}: {len(motifs):,} motifs of {kinds}"]
