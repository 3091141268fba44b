"""Independent trials over the devices of a machine, in blocks that fit a cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from simpo.types import PyTree

__all__ = ["BLOCK", "Plan"]

BLOCK = 8
"""Trials that go through a CPU side by side; many more leave the cache."""


@dataclass(frozen=True)
class Plan:
    """How T trials of C cases go over D devices.

    A unit is a block of b trials of one case, a group is a unit per device. What fills
    up the last unit of a case and the last group are copies, and dropped. A program is
    that of a group, so it does not depend on the number of cases.
    """

    cases: int
    trials: int
    block: int
    devices: int

    @staticmethod
    def of(cases: int, trials: int) -> "Plan":
        """Blocks of at most `BLOCK` trials on CPUs, an equal share elsewhere."""
        devices = jax.device_count()
        share = min(trials, -(-cases * trials // devices))
        block = min(share, BLOCK) if jax.default_backend() == "cpu" else share
        return Plan(cases, trials, block, devices)

    @property
    def program(self) -> "Plan":
        """All plans of one program, as one."""
        return Plan(1, 1, self.block, self.devices)

    @property
    def blocks(self) -> int:
        """Units per case."""
        return -(-self.trials // self.block)

    @property
    def units(self) -> np.ndarray:
        """Numbers of units, by group [G, D]."""
        count = self.cases * self.blocks
        groups = -(-count // self.devices)
        numbers = np.minimum(np.arange(groups * self.devices), count - 1)
        return numbers.reshape(groups, self.devices)

    @property
    def case(self) -> np.ndarray:
        """The case of each unit [G, D]."""
        return self.units // self.blocks

    @property
    def trial(self) -> np.ndarray:
        """The trials of each unit [G, D, b]."""
        first = self.units % self.blocks * self.block
        return np.minimum(first[..., None] + np.arange(self.block), self.trials - 1)

    def by_case(self, groups: Sequence[PyTree]) -> PyTree:
        """Trees of all groups, leaves [D, b, ...] -> one tree, leaves [C, T, ...]."""

        def arrange(*leaves: Any) -> Any:
            xp = jnp if isinstance(leaves[0], jax.Array) else np
            x = xp.concatenate(leaves)[: self.cases * self.blocks]
            x = x.reshape(self.cases, self.blocks * self.block, *x.shape[2:])
            return x[:, : self.trials]

        return jax.tree.map(arrange, *groups)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of one unit, for a group: leaves [D, ...] -> [D, ...]."""
        mesh = Mesh(np.array(jax.devices()), ("units",))
        spec = PartitionSpec("units")

        def of_device(*args: Any) -> Any:
            out = function(*jax.tree.map(lambda x: x[0], args))
            return jax.tree.map(lambda x: x[None], out)

        spread = jax.shard_map(
            of_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
        return jax.jit(spread)
