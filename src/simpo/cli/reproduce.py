"""`simpo reproduce FIGURE [options]`: one command per figure of the paper."""

import difflib
import importlib
from typing import Any

from simpo.backend import one_device_per_core, share_memory
from simpo.cli.arguments import option_registry
from simpo.cli.options import read_options
from simpo.cli.studies import carry_out
from simpo.types import SimpoError

__all__ = ["main"]

STUDIES = {
    "bandit": ("simpo.experiments.bandit", "BanditStudy"),
    "landscape-map": ("simpo.experiments.landscape_map", "MapStudy"),
    "table2": ("simpo.experiments.locomotion", "Table2"),
    "landscapes": ("simpo.experiments.rewards", "Landscapes"),
    "ablation-kl": ("simpo.experiments.ablation", "KL"),
    "ablation-interval": ("simpo.experiments.ablation", "INTERVAL"),
    "ablation-candidates": ("simpo.experiments.ablation", "CANDIDATES"),
    "ablation-floor": ("simpo.experiments.ablation", "FLOOR"),
    "ablation-bound": ("simpo.experiments.ablation", "BOUND"),
    "ablation-steps": ("simpo.experiments.ablation", "STEPS"),
    "dna": ("simpo.experiments.dna_table", "DnaTable"),
    "dna-ablation": ("simpo.experiments.dna_table", "DnaAblation"),
    "geometry": ("simpo.experiments.geometry", "GeometryStudy"),
}
CHOICES = ", ".join(STUDIES)


def find(name: str) -> Any:
    """The study with its default options."""
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose from {CHOICES}"
        raise SimpoError(f"unknown figure '{name}'; {hint}")
    module, study = STUDIES[name]
    return getattr(importlib.import_module(module), study)()


def main(argv: list[str]) -> int:
    """Run a study; print its report and where everything is."""
    if argv in (["-h"], ["--help"]):
        print(f"usage: simpo reproduce {{{','.join(STUDIES)}}} [options]")
        return 0
    if not argv or argv[0].startswith("-"):
        raise SimpoError(f"reproduce what? choose from {CHOICES}")
    study = find(argv[0])
    prog, registry = f"simpo reproduce {argv[0]}", option_registry()
    study = read_options(study, argv[1:], prog=prog, registry=registry)
    one_device_per_core()
    share_memory()
    return carry_out(study)
