"""`simpo dna convert-drakes`: the published denoiser as a model of ours."""

import jax

from simpo.dna.convert import convert_drakes
from simpo.experiments.sequences.inputs import Progress, require_free, writing
from simpo.experiments.sequences.options import Conversion

__all__ = ["run"]


def run(options: Conversion, tell: Progress) -> list[str]:
    """Convert, save; what is to be printed."""
    require_free(options.out, options.force)
    tell("reading", 0)
    model = convert_drakes(
        options.checkpoint, mean=not options.no_mean, trust=options.trust
    )
    with writing(options.out) as folder:
        model.save(folder)
    count = sum(leaf.size for leaf in jax.tree.leaves(model.net))
    labels = f", {model.size.labels} labels" if model.size.labels else ""
    return [
        f"model    {options.out}: {count:,} parameters, {model.diffusion.length} "
        f"bases, {model.diffusion.denoising_steps} steps{labels}",
        f"next     simpo dna sample {options.out} --out samples.csv",
    ]
