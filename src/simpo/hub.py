"""Policies on the Hugging Face Hub: a folder with a model card, sent and fetched.

README.md          the model card: task, scores over seeds, settings, versions, command
config.json        }
model.safetensors  } the policy folder, as `simpo.load` reads it
evaluations.csv    every evaluation episode of every seed
progress.png       learning curve of the policy's own run

Of a repository only files of these names are fetched. They are compared with the sizes
and hashes that the hub gives, then loaded; nothing is executed or unpickled.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from simpo.card import (
    EVALUATIONS,
    PICTURE,
    require_seeds_of_one_setting,
    write_card,
    write_evaluations,
)
from simpo.checkpoint import CONFIG, MODEL, SavedPolicy, load, plain
from simpo.plotting.rundata import read_run
from simpo.types import SimpoError

__all__ = ["HubError", "prepare", "pull", "push"]

CARD = "README.md"
LARGEST = {CONFIG: 2**24, MODEL: 2**30, CARD: 2**24, EVALUATIONS: 2**27, PICTURE: 2**27}
"""Names of files that are fetched, and how many bytes each may have."""
DISK = (errno.EACCES, errno.ENOSPC, errno.EROFS)
"""Errors of this machine's disk, not of the network."""


class HubError(SimpoError):
    """The hub cannot be reached, or does not do what it was asked to."""

    exit_code = 1


# The folder


def prepare(sources: Sequence[Path], repo: str, folder: Path) -> Path:
    """Write the folder that `push` sends.

    Args:
        sources: Run directories of one setting and several seeds, the one whose
            policy is sent first; or one policy folder.
        repo: Name of the repository, for the card.
        folder: Where to write; must not exist.

    Raises:
        SimpoError: Not runs, or runs that differ in more than their seeds.
    """
    require_library()
    saved = load(sources[0])
    runs = [read_run(source) for source in sources if is_run(source, len(sources))]
    require_seeds_of_one_setting(runs)
    policy = sources[0] / "policy" if (sources[0] / "policy").is_dir() else sources[0]
    with written_whole(folder) as aside:
        for name in (CONFIG, MODEL):
            shutil.copyfile(policy / name, aside / name)
        if runs:
            write_evaluations(aside / EVALUATIONS, runs)
        picture = sources[0] / "plots" / "overview.png"
        if picture.is_file():
            shutil.copyfile(picture, aside / PICTURE)
        card = write_card(saved, runs, repo, picture=picture.is_file())
        (aside / CARD).write_text(card, encoding="utf-8")
    return folder


def is_run(source: Path, count: int) -> bool:
    """Whether this is a run directory; alone, a policy folder will do."""
    if count > 1 and not (source / "policy").is_dir():
        raise SimpoError(f"{source} is not the directory of a run that is done")
    return (source / "policy").is_dir()


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder beside this one, which gets its name when all is well."""
    if folder.exists():
        raise SimpoError(f"{folder} is there already: choose another, or remove it")
    aside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield aside
        aside.chmod(0o755)
        aside.rename(folder)
    except OSError as error:
        raise SimpoError(f"cannot write {folder}: {plain(error.strerror)}") from error
    finally:
        if aside:
            shutil.rmtree(aside, ignore_errors=True)


# The hub


def require_library() -> None:
    """Refuse with the line that installs what is missing."""
    if not find_spec("huggingface_hub"):
        raise SimpoError("the hub's library is missing: pip install 'simpo[hub]'")


@contextlib.contextmanager
def one_line(repo: str) -> Iterator[None]:
    """Turn whatever the library raises into one line.

    Raises:
        SimpoError: A mistake: no such repository, no access, no such name.
        HubError: The hub does not answer, or not well.
    """
    from huggingface_hub import constants, errors

    try:
        yield
    except (SimpoError, KeyboardInterrupt):
        raise
    except errors.HFValidationError:
        raise SimpoError(f"{repo!r} is no repository: write USER/NAME") from None
    except errors.RepositoryNotFoundError as error:
        raise SimpoError(
            f"no repository {repo}, or it is private: hf auth login"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise HubError("HF_HUB_OFFLINE is set: the hub is not asked") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        if status in (401, 403):
            raise SimpoError(f"no access to {repo}: hf auth login") from error
        said = plain(error.server_message or error)[:150]
        raise HubError(f"the hub answers {status} for {repo}: {said}") from error
    except Exception as error:  # of the network, in many classes
        if isinstance(error, OSError) and error.errno in DISK:
            raise
        said = plain(f"{type(error).__name__}: {error}")[:150]
        raise HubError(f"no answer from {constants.ENDPOINT}: {said}") from error


def push(
    sources: Sequence[str | Path], repo: str, *, private: bool = False
) -> tuple[str, list[str]]:
    """Send a policy with its model card to the hub.

    Args:
        sources: As in `prepare`.
        repo: `USER/NAME`; made if it is not there.
        private: Whether a repository that is made is private.

    Returns:
        Its address, and the names of the files.

    Raises:
        SimpoError: Not logged in, no access, or what `prepare` refuses.
        HubError: The hub does not answer, or not well.
    """
    require_library()
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    with one_line(repo), tempfile.TemporaryDirectory() as place:
        if not (token := get_token()):
            raise SimpoError("not logged in: hf auth login, or set HF_TOKEN")
        folder = prepare([Path(s) for s in sources], repo, Path(place) / "folder")
        api = HfApi(token=token, library_name="simpo")
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Add policy")
        return str(address), sorted(os.listdir(folder))


def pull(repo: str, folder: str | Path, *, revision: str | None = None) -> SavedPolicy:
    """Fetch a policy from the hub and load it.

    Args:
        repo: `USER/NAME`.
        folder: Where to write; must not exist.
        revision: Branch, tag or commit; the main branch by default.

    Returns:
        The policy, loaded from that folder.

    Raises:
        SimpoError: No such repository, no access, or no policy in it.
        HubError: The hub does not answer, or not well, or files arrive damaged.
    """
    require_library()
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    folder = Path(folder)
    with written_whole(folder) as aside, one_line(repo):
        api = HfApi(library_name="simpo")
        info = api.model_info(repo, revision=revision, files_metadata=True)
        fetched = Path(tempfile.mkdtemp(dir=aside))
        for file in wanted(info.siblings or [], repo):
            name = file.rfilename
            got = Path(
                api.hf_hub_download(repo, name, revision=info.sha, local_dir=fetched)
            )
            require_same(got, file)
            got.rename(aside / name)
        shutil.rmtree(fetched)
        load(aside)
    return load(folder)


def wanted(files: Sequence[Any], repo: str) -> list[Any]:
    """Files to fetch, by an allow-list; any name that leads elsewhere is refused."""
    for file in files:
        path = PurePosixPath(file.rfilename)
        if path.is_absolute() or ".." in path.parts or "\\" in file.rfilename:
            raise SimpoError(f"{repo} has a file named {plain(path)!r}: not fetched")
    kept = {f.rfilename: f for f in files if f.rfilename in LARGEST}
    missing = [name for name in (CONFIG, MODEL) if name not in kept]
    if missing:
        raise SimpoError(f"{repo} holds no policy of simpo: no file {missing[0]}")
    for name, file in kept.items():
        if not 0 <= (file.size or 0) <= LARGEST[name]:
            raise SimpoError(f"{repo} is not fetched: its {name} is too large")
    return list(kept.values())


def require_same(path: Path, file: Any) -> None:
    """Compare a file with the hub's hash: SHA-256, or git's SHA-1 of small files."""
    data = path.read_bytes()
    if file.lfs:
        given, found = file.lfs.sha256, hashlib.sha256(data).hexdigest()
    else:
        blob = b"blob %d\0" % len(data) + data
        given, found = file.blob_id, hashlib.sha1(blob).hexdigest()
    if found != given:
        raise HubError(f"{file.rfilename} arrived damaged: its hash differs; try again")
