"""Where compiled programs and the user's key are kept while the tests run."""

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
        os.environ[SECONDS] = "0.2"  # compiling is most of the tests' time
    config.state = os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="state-")
    os.environ.pop("SIMPO_HOME", None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    for name in ("compiled", "state"):
        shutil.rmtree(getattr(config, name, ""), ignore_errors=True)
