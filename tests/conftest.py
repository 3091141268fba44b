"""Compiling is most of the tests' time: less optimised, and kept for all processes."""

import os
import shutil
import tempfile

import pytest

SETTINGS = {
    "XLA_FLAGS": "--xla_backend_optimization_level=1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}
FOLDER = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config: pytest.Config) -> None:
    """Before JAX is imported, here and in the processes that pytest-xdist starts."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if FOLDER not in os.environ:
        config.compiled = os.environ[FOLDER] = tempfile.mkdtemp(prefix="compiled-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    shutil.rmtree(getattr(config, "compiled", ""), ignore_errors=True)
