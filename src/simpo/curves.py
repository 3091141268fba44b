"""Names of curves: what TensorBoard and tracking services show of a run."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

__all__ = ["EpisodeFields", "curves", "evaluation_curves", "evaluation_means"]

EpisodeFields: TypeAlias = Mapping[str, Any]
"""An evaluation episode: `sampler`, `episode`, `return_`, `length`, and what else."""

ALIASES = {"rollout/ep_rew_mean": "charts/episodic_return", "time/fps": "charts/SPS"}
"""Metrics that are repeated under the names that OpenRL Benchmark reads."""


def curves(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics by their own names, and those that have an alias by that too."""
    aliases = {alias: metrics[n] for n, alias in ALIASES.items() if n in metrics}
    return {name: float(value) for name, value in {**metrics, **aliases}.items()}


def evaluation_curves(rows: Sequence[EpisodeFields]) -> dict[str, float]:
    """Means by name: the first sampler's in `eval/`, others' in `eval_<sampler>/`."""
    named = {}
    for i, (sampler, means) in enumerate(evaluation_means(rows).items()):
        group = "eval" if i == 0 else f"eval_{sampler}"
        named[f"{group}/mean_reward"], named[f"{group}/mean_ep_length"] = means
    return named


def evaluation_means(rows: Sequence[EpisodeFields]) -> dict[str, tuple[float, float]]:
    """Mean return and length by sampler, in the order of first appearance."""
    samplers = dict.fromkeys(str(row["sampler"]) for row in rows)
    means = {}
    for sampler in samplers:
        own = [row for row in rows if row["sampler"] == sampler]
        returns = fmean(float(row["return_"]) for row in own)
        means[sampler] = returns, fmean(float(row["length"]) for row in own)
    return means
