"""Gymnasium ids of this package: strings only, so that nothing heavy is loaded.

Gymnasium 1 looks for no plug-ins: it knows the ids once `simpo.envs` is imported, which
`gymnasium.make("simpo.envs:simpo/BanditTwoPeaks-v0")` does by itself.
"""

import gymnasium

__all__ = ["ENTRY_POINTS", "register"]

ENTRY_POINTS = {
    "simpo/BanditTwoPeaks-v0": "simpo.envs.bandit:two_peaks",
}
"""What builds each task, as "module:function"; loaded when it is first made."""


def register() -> None:
    """Make the ids known to `gymnasium.make`; those it knows already stay."""
    for env_id, entry_point in ENTRY_POINTS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=entry_point)
