"""Marks: which files this user wrote, on this machine or on one with the same home.

mark = HMAC-SHA256(key, data)

The key is 32 random bytes in a file that only the user can read, made at the first
mark: `key` in SIMPO_HOME, else in XDG_STATE_HOME/simpo, else in ~/.local/state/simpo.
"""

import contextlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

__all__ = ["is_ours", "key_path", "make"]

LENGTH = 32
"""Bytes of the key."""


def key_path() -> Path:
    """Where the key is.

    Raises:
        OSError: There is no home directory.
    """
    if home := os.environ.get("SIMPO_HOME"):
        return Path(home) / "key"
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):
        return Path(state) / "simpo" / "key"
    try:
        return Path.home() / ".local" / "state" / "simpo" / "key"
    except RuntimeError as error:
        raise FileNotFoundError(2, str(error)) from None


def read_key() -> bytes:
    """The key.

    Raises:
        OSError: There is none, or it is not whole.
    """
    key = key_path().read_bytes()
    if len(key) != LENGTH:
        raise OSError(5, "the key is damaged", str(key_path()))
    return key


def make_key() -> None:
    """Make the key, unless another process is first: it is never there in part."""
    path = key_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, aside = tempfile.mkstemp(dir=path.parent)  # read by the user alone, 0600
    try:
        with os.fdopen(number, "wb") as file:
            file.write(secrets.token_bytes(LENGTH))
            file.flush()
            os.fsync(number)
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    finally:
        os.unlink(aside)


def make(data: bytes) -> str:
    """The mark of data, in hexadecimal.

    Raises:
        OSError: The key can be neither read nor made.
    """
    if not key_path().exists():
        make_key()
    return hmac.digest(read_key(), data, "sha256").hex()


def is_ours(data: bytes, mark: object) -> bool:
    """Whether `make` gave this mark; without a key nothing is ours."""
    try:
        expected = hmac.digest(read_key(), data, "sha256")
        return hmac.compare_digest(expected, bytes.fromhex(str(mark)))
    except (OSError, ValueError):
        return False
