"""Where compiled programs and the user's key are kept while the tests run."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

FOLDER, SECONDS = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
)
ONE_THREAD = (
    "--xla_cpu_multi_thread_eigen=false --xla_cpu_parallel_codegen_split_count=1"
)
"""A process of the tests per core: threads of their own would only be in the way."""
MOST_MAPS = 20_000
"""Of a process's 65,530 mappings (Linux's default), those that tests may hold."""


def pytest_configure(config: pytest.Config) -> None:
    """Before JAX is imported, here and in the processes that pytest-xdist starts."""
    if FOLDER not in os.environ:
        config.compiled = os.environ[FOLDER] = tempfile.mkdtemp(prefix="compiled-")
        os.environ[SECONDS] = "0.2"  # compiling is most of the tests' time
    os.environ.setdefault("XLA_FLAGS", ONE_THREAD)
    config.state = os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="state-")
    os.environ.pop("SIMPO_HOME", None)


def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Let go of compiled programs before there are too many.

    Each keeps mappings of memory for its code, and XLA's compiler dies, without an
    error, in a process that may have no more of them.
    """
    maps = Path("/proc/self/maps")
    if nextitem and maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="module")
def compiled_quickly():
    """Programs are not optimised, where compiling takes longer than running."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty directory, with a key of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIMPO_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with the policy of a tiny agent that has learnt nothing."""
    import jax  # not before the folders above are known

    from simpo.agents import compile_init
    from simpo.checkpoint import save_policy
    from simpo.types import EnvSpec
    from tiny import tiny

    agent, spec = tiny(), EnvSpec(4, 1)
    policy = agent.policy(compile_init(agent, spec)(jax.random.key(0)))
    folder = tmp_path_factory.mktemp("made") / "run" / "policy"
    save_policy(folder, agent, spec, policy, env="InvertedPendulum-v5", step=0)
    return folder.parent


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    for name in ("compiled", "state"):
        shutil.rmtree(getattr(config, name, ""), ignore_errors=True)
