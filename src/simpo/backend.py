"""How commands set JAX up, before it does anything."""

import os
from pathlib import Path

import jax

__all__ = ["keep_compiled", "one_device_per_core", "share_memory"]


def keep_compiled() -> None:
    """Let JAX keep what it compiles on disk, here and in processes started from here.

    What the user has said in the environment is left as it is.
    """
    home = os.environ.get("SIMPO_HOME") or Path.home() / ".cache" / "simpo"
    folder = settle("JAX_COMPILATION_CACHE_DIR", str(Path(home) / "compiled"))
    seconds = settle("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(seconds))


def settle(name: str, default: str) -> str:
    """An environment variable, set to the default if it is not set."""
    os.environ[name] = os.environ.get(name) or default
    return os.environ[name]


def one_device_per_core() -> None:
    """Let independent work spread over the cores of a machine without accelerator.

    A program of many small operations gains nothing from threads inside each of them.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        cores = len(os.sched_getaffinity(0))
    jax.config.update("jax_num_cpu_devices", cores)


def share_memory() -> None:
    """Take a GPU's memory as it is needed: other processes of ours are on it, too."""
    settle("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
