"""Engines: what makes many runs, on this machine, on a Ray cluster, under Slurm."""

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

from simpo.engines import local
from simpo.engines.jobs import Ended, Engine, Job
from simpo.types import SimpoError

__all__ = ["Ended", "Engine", "EngineName", "Job", "choose"]

EngineName: TypeAlias = Literal["local", "ray", "slurm"]


def choose(name: EngineName, at_once: int | None, options: Mapping[str, Any]) -> Engine:
    """An engine.

    Args:
        name: Which one.
        at_once: Runs side by side at most; as many as there is room for by default.
        options: Its own options.

    Raises:
        SimpoError: Options for the local engine, which has none.
    """
    if name == "local":
        if options:
            raise SimpoError("--engine-options are for --engine ray and slurm")
        return partial(local.train_all, at_once=at_once or len(local.cores()))
    module = importlib.import_module(f"simpo.engines.{name}")
    return partial(module.train_all, at_once=at_once, options=options)
