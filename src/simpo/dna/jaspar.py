"""Motifs of JASPAR, whose releases the package pyjaspar carries with it.

Probabilities are counts over their sum, without pseudocounts, as in JASPAR's own files.
"""

import importlib
import warnings

import numpy as np

from simpo.dna.motifs import LETTERS, Motif
from simpo.types import SimpoError

__all__ = ["fetch_motifs"]


def fetch_motifs(
    release: str = "JASPAR2022", group: str = "vertebrates"
) -> tuple[Motif, ...]:
    """The newest version of every CORE motif of a release, in order of identifiers.

    Args:
        release: `JASPAR2022`, ...
        group: Of species: vertebrates, plants, ..., or `all`.

    Raises:
        SimpoError: No pyjaspar, no such release, or no motif of that group.
    """
    try:
        pyjaspar = importlib.import_module("pyjaspar")
    except ImportError as error:
        raise SimpoError("pyjaspar is missing: pip install 'simpo[jaspar]'") from error
    known = pyjaspar.jaspardb().get_releases()
    if release not in known:
        raise SimpoError(f"no release {release}; there are {', '.join(known)}")
    species = {} if group == "all" else {"tax_group": [group]}
    database = pyjaspar.jaspardb(release=release)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing was found is said below
        found = database.fetch_motifs(collection=["CORE"], **species)
    if not found:
        raise SimpoError(f"no motif of the group {group} in {release}")
    return tuple(
        Motif(f"{motif.matrix_id} {motif.name}", shares(motif.counts))
        for motif in sorted(found, key=lambda motif: motif.matrix_id)
    )


def shares(counts: dict[str, list[float]]) -> np.ndarray:
    """Counts by letter as probabilities [W, 4]."""
    table = np.array([counts[letter] for letter in LETTERS], float).T
    return table / table.sum(1, keepdims=True)
