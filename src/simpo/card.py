"""Model cards: what a policy is, how well it does over seeds, how it came about.

The scores are those of each run's last evaluation: a run's score is the mean over its
episodes, and the headline the interquartile mean over runs, with a bootstrap interval
over seeds (`simpo.statistics`). One run has no interval, and the card says so.
"""

import csv
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simpo.checkpoint import SavedPolicy, read_json
from simpo.config import to_text
from simpo.loggers import rounded
from simpo.plotting.rundata import RunData
from simpo.statistics import Estimate, bootstrap, iqm
from simpo.types import SimpoError

__all__ = [
    "EVALUATIONS",
    "PICTURE",
    "Score",
    "require_seeds_of_one_setting",
    "scores",
    "write_card",
    "write_evaluations",
]

EVALUATIONS, PICTURE = "evaluations.csv", "progress.png"
COMMAND, MACHINE = "command.txt", "env.json"


class Score(NamedTuple):
    """Returns of the last evaluation under one sampler.

    Attributes:
        sampler: How actions were drawn.
        iqm: Interquartile mean over seeds of each seed's mean return.
        returns: Every episode's return [S, episodes].
    """

    sampler: str
    iqm: Estimate
    returns: np.ndarray

    def __str__(self) -> str:
        low, high = rounded(self.iqm.low), rounded(self.iqm.high)
        interval = "one seed, no interval" if len(self.returns) < 2 else (
            f"95 % interval {low} to {high}"
        )  # fmt: skip
        return f"{rounded(self.iqm.value)} ({interval})"


def require_seeds_of_one_setting(runs: Sequence[RunData]) -> None:
    """Refuse runs whose scores cannot be taken together."""
    for run in runs[1:]:
        one, other = runs[0].setting, run.setting
        differ = sorted(k for k in one | other if one.get(k) != other.get(k))
        if differ:
            raise SimpoError(
                f"{run.directory} is no other seed of {runs[0].directory}: "
                f"{differ[0]} differs"
            )
    seeds = [run.config["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise SimpoError(f"several runs have one seed: {', '.join(map(str, seeds))}")


def write_evaluations(path: Path, runs: Sequence[RunData]) -> None:
    """Every row of every run's evaluations, the seed first."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        for number, run in enumerate(runs):
            text = (run.directory / EVALUATIONS).read_text(encoding="utf-8")
            header, *rows = csv.reader(text.splitlines())
            if not number:
                table.writerow(["seed", *header])
            table.writerows([run.config["seed"], *row] for row in rows)


def scores(runs: Sequence[RunData]) -> list[Score]:
    """Scores of the last evaluation of every run, a sampler each.

    Raises:
        SimpoError: A run has no evaluation, or another step or number of episodes.
    """
    found = []
    if len({last_step(run) for run in runs}) > 1:
        raise SimpoError("the runs' last evaluations differ in their steps")
    samplers = dict.fromkeys(runs[0].evaluations["sampler"]) if runs else ()
    for sampler in samplers:
        returns = [last_returns(run, sampler) for run in runs]
        if len({len(row) for row in returns}) != 1 or not len(returns[0]):
            raise SimpoError(f"the runs' last evaluations differ in {sampler} episodes")
        rows = np.array(returns)
        over = bootstrap(iqm, rows.mean(axis=1)[None], rng=np.random.default_rng(0))
        found.append(Score(str(sampler), over, rows))
    return found


def last_step(run: RunData) -> float:
    """Step of a run's last evaluation."""
    if not run.evaluations:
        raise SimpoError(f"{run.directory} has no evaluation")
    return run.evaluations["step"].max()


def last_returns(run: RunData, sampler: str) -> np.ndarray:
    """Returns of a run's last evaluation under one sampler."""
    table = run.evaluations
    last = table["step"] == last_step(run)
    return table["return"][last & (table["sampler"] == sampler)]


def write_card(
    saved: SavedPolicy, runs: Sequence[RunData], repo: str, *, picture: bool
) -> str:
    """The model card in Markdown, with YAML that the hub reads.

    Args:
        saved: The policy.
        runs: Runs of one setting, the policy's own first; none if they are not here.
        repo: `USER/NAME`.
        picture: Whether there is a picture to show.

    Raises:
        SimpoError: As `scores`.
    """
    found = scores(runs)
    agent = type(saved.agent).__name__
    parts = [
        f"---\n{front_matter(saved, found, repo)}\n---",
        f"# {agent} on {saved.env}",
        f"A policy of the agent {agent} for the task `{saved.env}`, trained for "
        f"{saved.step:,} environment steps with [simpo](https://arxiv.org/abs/2603.10250).",
        *describe_scores(found, runs),
        *([f"![Learning curve of the policy's own run]({PICTURE})"] if picture else []),
        "## Use it",
        fenced(
            f"# pip install 'simpo[hub]'; simpo pull {repo} policy\nimport simpo\n"
            'policy = simpo.load("policy")\n'
            "action, _ = policy.predict(observation, deterministic=True)",
            "python",
        ),
        "The folder holds JSON and plain tensors; nothing in it is executed.",
        *describe_origin(saved, runs),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(saved: SavedPolicy, found: Sequence[Score], repo: str) -> str:
    """What the hub itself reads of a card."""
    from huggingface_hub import EvalResult, ModelCardData

    agent = type(saved.agent).__name__
    results = [
        EvalResult(
            task_type="reinforcement-learning",
            task_name="reinforcement-learning",
            dataset_type=saved.env,
            dataset_name=saved.env,
            metric_type=kind,
            metric_name=f"{name}, {score.sampler} actions",
            metric_value=value,
        )
        for score in found
        for kind, name, value in (
            ("mean_reward", "mean and deviation of all episodes", mean_reward(score)),
            ("iqm_return", "interquartile mean over seeds", round(score.iqm.value, 4)),
        )
        if kind == "mean_reward" or len(score.returns) > 1
    ]
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "simpo", "jax"]
    return ModelCardData(
        library_name="simpo",
        pipeline_tag="reinforcement-learning",
        tags=[*tags, agent, saved.env],
        model_name=repo if results else None,
        eval_results=results or None,
    ).to_yaml()


def mean_reward(score: Score) -> str:
    """`m +/- s` over all episodes, as leaderboards read it."""
    return f"{score.returns.mean():.2f} +/- {score.returns.std():.2f}"


def describe_scores(found: Sequence[Score], runs: Sequence[RunData]) -> list[str]:
    """A table, a row per sampler, and how it was made."""
    if not found:
        return ["## Scores", "None: this policy folder came without its run."]
    rows = [
        (f"{s.sampler}", str(s), mean_reward(s).replace("+/-", "±"), *s.returns.shape)
        for s in found
    ]
    header = ("sampler", "IQM over seeds", "all episodes", "seeds", "episodes per seed")
    seeds = ", ".join(str(run.config["seed"]) for run in runs)
    interval = "The interval is a bootstrap over seeds. " if len(runs) > 1 else ""
    return [
        "## Scores",
        markdown_table(header, rows),
        f"Returns of the last evaluation, at step {last_step(runs[0]):,.0f}, of the "
        f"runs with seed {seeds}; nothing was chosen after the fact. The policy here "
        f"is that of seed {runs[0].config['seed']}. {interval}Every episode is in "
        f"`{EVALUATIONS}`.",
    ]


def describe_origin(saved: SavedPolicy, runs: Sequence[RunData]) -> list[str]:
    """Settings, versions and the command."""
    agent = saved.agent
    settings = [(f.name, f"`{to_text(getattr(agent, f.name))}`") for f in fields(agent)]
    parts = ["## Settings of the agent", markdown_table(("field", "value"), settings)]
    if not runs:
        return parts
    directory = runs[0].directory
    run = [
        (name, f"`{value}`")
        for name, value in sorted(runs[0].setting.items())
        if not name.startswith("agent.") and name != "type"
    ]
    parts += ["## Settings of the run", markdown_table(("field", "value"), run)]
    if (directory / MACHINE).is_file():
        machine = read_json(directory / MACHINE)
        versions = {"python": machine.get("python")} | dict(machine.get("packages", {}))
        rows = [(name, str(version)) for name, version in versions.items()]
        parts += ["## Versions", markdown_table(("package", "version"), rows)]
    if (directory / COMMAND).is_file():
        command = (directory / COMMAND).read_text(encoding="utf-8").strip()
        parts += ["## Reproduce", fenced(command)]
    return parts


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def fenced(text: str, language: str = "") -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"
