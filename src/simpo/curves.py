"""Names of curves: what TensorBoard and tracking services show of a run."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

__all__ = ["EpisodeFields", "curves", "evaluation_curves", "evaluation_means"]

EpisodeFields: TypeAlias = Mapping[str, Any]
"""An evaluation episode: `sampler`, `episode`, `return_`, `length`, and what else.

None is a value that is not there.
"""

ALIASES = {"rollout/ep_rew_mean": "charts/episodic_return", "time/fps": "charts/SPS"}
"""Metrics that are repeated under the names that OpenRL Benchmark reads."""
MEANS = {"return_": "mean_reward", "length": "mean_ep_length", "speed": "mean_speed"}
"""What is shown of evaluation episodes."""


def curves(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics by their own names, and those that have an alias by that too."""
    aliases = {alias: metrics[n] for n, alias in ALIASES.items() if n in metrics}
    return {name: float(value) for name, value in {**metrics, **aliases}.items()}


def evaluation_curves(rows: Sequence[EpisodeFields]) -> dict[str, float]:
    """Means by name: the first sampler's in `eval/`, others' in `eval_<sampler>/`."""
    named = {}
    for i, (sampler, means) in enumerate(evaluation_means(rows).items()):
        group = "eval" if i == 0 else f"eval_{sampler}"
        named |= {f"{group}/{name}": mean for name, mean in means.items()}
    return named


def evaluation_means(rows: Sequence[EpisodeFields]) -> dict[str, dict[str, float]]:
    """Means by sampler, in the order of first appearance, and by name in MEANS."""
    samplers = dict.fromkeys(str(row["sampler"]) for row in rows)
    means = {}
    for sampler in samplers:
        own = [row for row in rows if row["sampler"] == sampler]
        means[sampler] = {
            name: fmean(float(row[field]) for row in own)
            for field, name in MEANS.items()
            if all(row.get(field) is not None for row in own)
        }
    return means
