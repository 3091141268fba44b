"""How commands set JAX up, before it does anything."""

import os
from pathlib import Path

import jax

__all__ = ["keep_compiled", "one_device_per_core"]


def keep_compiled() -> None:
    """Let JAX keep what it compiles on disk, unless the user has said where."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("SIMPO_HOME", Path.home() / ".cache" / "simpo")
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def one_device_per_core() -> None:
    """Let independent work spread over the cores of a machine without accelerator.

    A program of many small operations gains nothing from threads inside each of them.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        cores = len(os.sched_getaffinity(0))
    jax.config.update("jax_num_cpu_devices", cores)
