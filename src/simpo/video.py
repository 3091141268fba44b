"""Videos of evaluation episodes, drawn in a process of their own.

A film is an episode played again: the same seed of the environment and the same
actions give the same states, so evaluating needs no OpenGL and what is shown is what
was scored. A film whose return is not that of the table, to the last bit, is not kept.

`record` starts `python -m simpo.video FOLDER`, which writes the videos and prints a
line of JSON as it goes; whatever happens to it, libraries that crash included, happens
to it alone. `python -m simpo.video --first ENV KWARGS` draws one frame, to see if that
works.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from simpo.envs import ControlEnv, Episode, make_one
from simpo.rendering import Choice, choose, environment, gist
from simpo.types import SimpoError

__all__ = ["Film", "choose_way", "encoder_missing", "record"]

FILMS, ACTIONS = "films.json", "actions.npz"
DEFAULT_FPS = 30
REPORT_EVERY = 10
"""Frames between two reports."""


class Film(NamedTuple):
    """An episode to be shown.

    Attributes:
        env: Gymnasium id.
        env_kwargs: Keyword arguments of the task.
        seed: Seed of its environment.
        actions: What was done, in [-1, 1] [T, A].
        return_: What it was scored.
        path: Where to write; the suffix decides the format.
        title: What the file says it is.
    """

    env: str
    env_kwargs: dict[str, Any]
    seed: int
    actions: np.ndarray
    return_: float
    path: Path
    title: str


def encoder_missing() -> bool:
    """Whether the extra `video` is not installed."""
    return importlib.util.find_spec("imageio_ffmpeg") is None


def choose_way(env: str, env_kwargs: dict[str, Any]) -> Choice:
    """The first way in which a frame of this task can be drawn."""
    return choose(("-m", "simpo.video", "--first", env, json.dumps(env_kwargs)))


def record(
    films: Sequence[Film], way: str, advance: Callable[[int], None]
) -> Iterator[tuple[Film, str]]:
    """Write videos, one after the other.

    Args:
        films: What to show.
        way: MUJOCO_GL of the process that draws.
        advance: Told how many frames were drawn since the last call.

    Yields:
        Each film as it is there, with nothing, or else why it is not.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_films(folder, films)
        with (folder / "errors").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "simpo.video", name],
                env=environment(way),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            waiting = list(films)
            try:
                for report in reports(process):
                    if "frames" in report:
                        advance(report["frames"])
                    else:
                        yield waiting.pop(0), report["error"]
                code = process.wait()
            finally:
                process.kill()
                process.wait()
        reason = gist((folder / "errors").read_text(errors="replace"), code)
        yield from ((film, reason) for film in waiting)


def reports(process: subprocess.Popen) -> Iterator[dict[str, Any]]:
    """What the process says; what a task prints itself is left out."""
    assert process.stdout is not None  # it is a pipe
    with process.stdout:
        for line in process.stdout:
            try:
                report = json.loads(line)
            except ValueError:
                continue
            if isinstance(report, dict) and report.keys() <= {"frames", "error"}:
                yield report


def write_films(folder: Path, films: Sequence[Film]) -> None:
    """Put films where the other process finds them."""
    rows = [
        film._replace(actions=None, path=str(film.path.absolute()))._asdict()  # pyright: ignore[reportArgumentType]
        for film in films
    ]
    (folder / FILMS).write_text(json.dumps(rows))
    arrays: dict[str, Any] = {str(i): film.actions for i, film in enumerate(films)}
    np.savez(folder / ACTIONS, **arrays)


def read_films(folder: Path) -> list[Film]:
    """What `write_films` wrote."""
    rows = json.loads((folder / FILMS).read_text())
    with np.load(folder / ACTIONS) as arrays:
        changes = [
            {"actions": arrays[str(i)], "path": Path(row["path"])}
            for i, row in enumerate(rows)
        ]
    return [Film(**row | change) for row, change in zip(rows, changes, strict=True)]


def build(env: str, env_kwargs: dict[str, Any]) -> SyncVectorEnv:
    """One environment that draws; the end of an episode stays on the screen."""
    make = partial(make_one, env, env_kwargs | {"render_mode": "rgb_array"})
    return SyncVectorEnv([make], autoreset_mode=AutoresetMode.NEXT_STEP)


def draw_frame(vector: SyncVectorEnv) -> np.ndarray:
    """What there is to see, [H, W, 3].

    Raises:
        SimpoError: The task draws no pictures.
    """
    frame = vector.envs[0].render()
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise SimpoError("it draws no pictures")
    return frame


def frames_per_second(vector: SyncVectorEnv) -> float:
    """The task's own rate, so that time in the film is time in the simulator."""
    env = vector.envs[0]
    declared = env.metadata.get("render_fps")
    if declared:
        return float(declared)
    dt = getattr(env.unwrapped, "dt", None)
    return 1.0 / dt if isinstance(dt, float) and dt > 0 else DEFAULT_FPS


def open_video(path: Path, film: Film, vector: SyncVectorEnv) -> Generator[Any, Any]:
    """A writer of frames of the size that the task draws; `send` takes them."""
    from imageio_ffmpeg import write_frames

    height, width, _ = draw_frame(vector).shape
    settings: dict[str, Any] = {
        "fps": frames_per_second(vector),
        "macro_block_size": 2,  # all that the format needs; the default would scale
        "output_params": ["-metadata", f"title={film.title}"],
    }
    writer = write_frames(str(path), (width, height), **settings)
    writer.send(None)
    return writer


def play(film: Film, path: Path, advance: Callable[[int], None]) -> float:
    """Show an episode, from the first observation to the last; its return."""
    ended: list[Episode] = []
    with closing(build(film.env, film.env_kwargs)) as vector:
        env = ControlEnv(vector, seed=[film.seed], name=film.env)
        env.reset()
        with closing(open_video(path, film, vector)) as video:
            video.send(np.ascontiguousarray(draw_frame(vector)))
            for count, action in enumerate(film.actions, 1):
                ended = env.step(action[None]).episodes
                video.send(np.ascontiguousarray(draw_frame(vector)))
                if count % REPORT_EVERY == 0:
                    advance(REPORT_EVERY)
    return ended[0].return_ if ended else np.nan


def write_video(film: Film, advance: Callable[[int], None]) -> None:
    """Play and write aside, then rename.

    Raises:
        SimpoError: The film does not show the episode that was scored.
    """
    aside = film.path.with_name(f".{film.path.name}")
    try:
        return_ = play(film, aside, advance)
        if return_ != film.return_:
            raise SimpoError(
                f"played again with the same seed and actions, its return is {return_}"
                f", not {film.return_}"
            )
        aside.replace(film.path)
    finally:
        aside.unlink(missing_ok=True)


def tell(**report: Any) -> None:
    """Say something to the process that waits."""
    print(json.dumps(report), flush=True)


def main(argv: list[str]) -> int:
    """Draw one frame of a task, or make the films that a folder asks for."""
    if argv[0] == "--first":
        vector = build(argv[1], json.loads(argv[2]))
        vector.reset(seed=0)
        draw_frame(vector)
        return 0
    for film in read_films(Path(argv[0])):
        try:
            write_video(film, lambda frames: tell(frames=frames))
            tell(error="")
        except Exception as error:  # whatever a task or a library raises
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            tell(error=text[:160])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
