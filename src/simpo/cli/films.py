"""Videos of what `simpo eval` has scored; what goes wrong with them is a warning.

<video dir>/<task>_<sampler>_<T>-steps_seed-<seed>_episode-<i>_return-<return>.mp4
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simpo import video
from simpo.cli.bar import LateBar
from simpo.cli.scores import Result
from simpo.envs import spawn_seeds
from simpo.types import SimpoError, SimpoWarning
from simpo.video import Film

__all__ = ["choose_way", "make_folder", "make_videos"]


def warn(message: str) -> None:
    """One line on standard error."""
    warnings.warn(message, SimpoWarning, stacklevel=3)


def make_folder(folder: Path) -> None:
    """Make the folder for videos.

    Raises:
        SimpoError: It cannot be made or written.
    """
    mark = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
        mark.unlink()
    except OSError as error:
        raise SimpoError(
            f"cannot write videos to {folder}: {error.strerror}"
        ) from error


def choose_way(env: str, env_kwargs: dict[str, Any]) -> str | None:
    """How to draw, or None after a warning that says what is missing."""
    if video.encoder_missing():
        warn("no videos: the encoder is not installed: pip install 'simpo[video]'")
        return None
    choice = video.choose_way(env, env_kwargs)
    if choice.way is None:
        warn(f"no videos: {env} cannot be drawn here ({choice.reason}); simpo doctor "
             "says what is missing")  # fmt: skip
    return choice.way


def films(
    results: Sequence[Result],
    env: str,
    env_kwargs: dict[str, Any],
    seed: int,
    folder: Path,
) -> list[Film]:
    """The first episodes of every setting, as they were scored."""
    found = []
    for setting, rows, _, actions in results:
        seeds = spawn_seeds(seed, len(rows))
        for row, done in zip(rows, actions, strict=False):
            return_ = f"{row.return_:.2f}"
            steps = "" if setting.steps is None else f"_{setting.steps}-steps"
            name = (
                f"{env.replace('/', '_').replace(':', '_')}_{row.sampler}{steps}"
                f"_seed-{seed}_episode-{row.episode}_return-{return_}.mp4"
            )
            title = (
                f"{env}, {setting.label}, seed {seed}, episode {row.episode}, "
                f"return {return_}"
            )
            path, own = folder / name, seeds[row.episode]
            film = Film(env, env_kwargs, own, done, row.return_, path, title)
            found.append(film)
    return found


def make_videos(
    results: Sequence[Result],
    env: str,
    env_kwargs: dict[str, Any],
    seed: int,
    folder: Path,
    way: str,
) -> list[Path]:
    """Write the videos; returns those that are there, warns of those that are not."""
    wanted = films(results, env, env_kwargs, seed, folder)
    made, failed, frames = [], Counter[str](), 0
    with LateBar("frames", sum(len(film.actions) for film in wanted)) as bar:

        def advance(count: int) -> None:
            nonlocal frames
            frames += count
            bar.update("drawing", frames)

        for film, error in video.record(wanted, way, advance):
            if error:
                failed[error] += 1
            else:
                made.append(film.path)
    for error, count in failed.items():
        warn(f"{count} of {len(wanted)} videos could not be made: {error}")
    return made
