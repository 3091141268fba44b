"""What needs an extra is skipped where it is not there."""

import pytest


def require_extra(env_id):
    """Skip the test if the task needs an extra that is not installed."""
    if env_id.startswith(("simpo/CheetahRun", "simpo/WalkerRun")):
        pytest.importorskip("dm_control")
