"""Compiling is most of the tests' time: programs are kept for all processes."""

import os
import shutil
import tempfile

import pytest

FOLDER, SECONDS = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
)


def pytest_configure(config: pytest.Config) -> None:
    """Before JAX is imported, here and in the processes that pytest-xdist starts."""
    if FOLDER not in os.environ:
        config.compiled = os.environ[FOLDER] = tempfile.mkdtemp(prefix="compiled-")
        os.environ[SECONDS] = "0.2"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    shutil.rmtree(getattr(config, "compiled", ""), ignore_errors=True)
