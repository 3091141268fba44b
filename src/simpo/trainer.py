"""The training loop, the only one.

collect    E environments act, every transition goes to the replay buffer, or, for
           agents on policy, to a rollout
update     G batches are sampled and G updates run in one dispatch; or one update on
           the rollout, once it is full
report     a row per `log_every` steps; evaluations every `eval_every`

The host owns the environments and the buffer and nothing else. Batches go to the device
once per dispatch and metrics come back once per report. All randomness is derived from
the run's seed, a stream per purpose, so an evaluation more or less changes nothing.
"""

import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from simpo import envs, snapshots
from simpo.agents import Policy, compile_decide, compile_init, compile_updates
from simpo.agents.normalisation import Moments, nothing_seen
from simpo.callbacks import Callback
from simpo.checkpoint import save_policy
from simpo.evaluation import EpisodeRow, evaluate
from simpo.loggers import Logger
from simpo.replay import ReplayBuffer
from simpo.rollout import RolloutBuffer
from simpo.run import Run
from simpo.snapshots import Snapshot
from simpo.types import Rollout, SimpoError, SimpoWarning, Transition

__all__ = ["RunFailed", "StopRequest", "Stopped", "Trainer"]


class RunFailed(SimpoError):
    """A run stopped on a fault; the evidence is in a file, what was logged stays."""

    exit_code = 1


class Stopped(SimpoError):
    """A run was asked to stop, and can be resumed."""

    exit_code = 0


COUNTERS = "step", "vector_step", "updates", "next_log", "next_eval", "reported_at"
"""Numbers of a trainer that a checkpoint holds as they are."""


@dataclass
class StopRequest:
    """Whether a run has been asked to save and stop."""

    made: bool = False


class Trainer:
    """A run under way: the host's side of the loop and the agent's state.

    Args:
        run: What to train.
        directory: The run directory; it exists.
        logger: Where metrics and episodes go.
        positions: How far the logs have come, for checkpoints.
        phase: Told what is going on, for the progress bar.
        stop: Looked at after every step.
        callbacks: Told of steps, evaluations and checkpoints.

    Raises:
        SimpoError: The run or the task is impossible.
    """

    def __init__(
        self,
        run: Run,
        directory: Path,
        logger: Logger,
        phase: Callable[[str], None] = lambda text: None,
        positions: Callable[[], dict[str, Any]] = dict,
        stop: StopRequest | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        run.check()
        self.run, self.directory, self.logger = run, directory, logger
        self.phase, self.positions = phase, positions
        self.stop, self.callbacks = stop or StopRequest(), callbacks
        self.ended = False
        env_seed, warmup, replay, agent, self.eval_seed = (
            int(s) for s in np.random.SeedSequence(run.seed).generate_state(5)
        )
        self.env = run.make_env(run.num_envs, env_seed)
        most = run.steps + run.num_envs - 1  # the last vector step may overshoot
        self.buffer = ReplayBuffer(min(run.buffer_size, most), self.env.spec)
        self.rollout = RolloutBuffer(run.agent.rollout_steps or 0)
        self.warmup_rng = np.random.default_rng(warmup)
        self.replay_rng = np.random.default_rng(replay)
        init_key, self.act_key = jax.random.split(jax.random.key(agent))
        self.state = compile_init(run.agent, self.env.spec)(init_key)
        self.decide = compile_decide(run.agent)
        self.apply_updates = compile_updates(run.agent)
        self.moments = None
        if run.agent.moments_clip is not None:
            self.moments = nothing_seen(self.env.spec.obs_dim)
        self.obs = self.env.reset()
        self.step = self.vector_step = self.updates = 0
        self.episodes: deque = deque(maxlen=100)
        self.unread: list[tuple[int, Any, Transition | Rollout]] = []
        self.metrics: list[dict[str, np.ndarray]] = []
        self.next_log, self.next_eval = run.log_every, 0
        self.next_checkpoint = run.checkpoint_every
        self.last_checkpoint: Path | None = None
        self.saved = 0  # transitions added to the buffer by then
        self.started = self.reported = time.perf_counter()
        self.reported_at = (0, 0)

    def train(self) -> list[EpisodeRow]:
        """Run to the end; returns the rows of the last evaluation.

        Raises:
            RunFailed: An environment or a loss gave numbers that are not finite.
        """
        run = self.run
        with jax.default_matmul_precision(run.precision):
            while self.step < run.steps and not self.ended:
                if self.step >= self.next_eval:
                    self.evaluate()
                    self.next_eval += run.eval_every
                self.collect()
                while self.updates_due() >= run.updates_per_dispatch:
                    self.update()
                if self.step >= self.next_log or self.step >= run.steps:
                    self.report()
                    self.next_log += run.log_every
                if self.stop.made or self.step >= self.next_checkpoint:
                    self.checkpoint()
                answers = [callback.on_step(self) for callback in self.callbacks]
                self.ended = False in answers
            rows = self.evaluate()
        self.env.close()
        return rows

    def checkpoint(self) -> None:
        """Write everything down; then stop, if asked to.

        Raises:
            Stopped: The request was made.
        """
        self.phase("saving")
        self.read_metrics(keep=0)
        snapshot = self.snapshot()
        last = self.last_checkpoint
        self.last_checkpoint = snapshots.write(self.directory, snapshot, last)
        self.saved = self.buffer.added
        self.next_checkpoint = self.step + self.run.checkpoint_every
        self.phase("training")
        for callback in self.callbacks:
            callback.on_checkpoint(self, self.last_checkpoint)
        if self.stop.made:
            raise Stopped(
                f"stopped at step {self.step:,}; go on with: "
                f"simpo resume {self.directory}"
            )

    def snapshot(self) -> Snapshot:
        """The run as it is now; all metrics have been read."""
        numbers = {name: getattr(self, name) for name in COUNTERS} | {
            "added": self.buffer.added,
            "episodes": list(self.episodes),
            "elapsed": time.perf_counter() - self.started,
            "warmup_rng": self.warmup_rng.bit_generator.state,
            "replay_rng": self.replay_rng.bit_generator.state,
            "logs": self.positions(),
        }
        arrays = snapshots.named("agent", self.state) | {"obs": self.obs}
        for name in self.metrics[0] if self.metrics else ():
            arrays[f"metrics.{name}"] = np.concatenate([m[name] for m in self.metrics])
        if self.rollout.rows:
            arrays |= snapshots.named("rollout", self.rollout.stacked())
        if self.moments:
            arrays |= snapshots.named("moments", self.moments)
        try:
            environments = self.env.snapshot()
        except SimpoError as error:
            environments = None
            numbers["inexact"] = str(error)
        changed, count = self.buffer.blocks(self.saved), self.buffer.block_count
        return Snapshot(self.step, numbers, arrays, environments, changed, count)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint of a run with the same settings.

        Raises:
            SimpoError: It does not fit the run.
        """
        snapshot = snapshots.read(folder)
        numbers, arrays = dict(snapshot.numbers), dict(snapshot.arrays)
        for name in COUNTERS:
            value = numbers[name]
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        self.episodes.extend(envs.Episode(*row) for row in numbers["episodes"])
        self.started = time.perf_counter() - numbers["elapsed"]
        self.warmup_rng.bit_generator.state = numbers["warmup_rng"]
        self.replay_rng.bit_generator.state = numbers["replay_rng"]
        self.buffer.restore(snapshot.replay, numbers["added"])
        self.saved, self.last_checkpoint = self.buffer.added, folder
        self.next_checkpoint = self.step + self.run.checkpoint_every
        if pending := snapshots.part(arrays, "metrics"):
            self.metrics = [pending]
        if rollout := snapshots.part(arrays, "rollout"):
            self.rollout.restore(Rollout(**rollout))
        if moments := snapshots.part(arrays, "moments"):
            self.moments = Moments(**cast("Any", moments))
        agent = snapshots.part(arrays, "agent")
        self.state = snapshots.filled(self.state, agent, folder)
        if snapshot.environments is None:
            text = f"not resumed exactly, episodes begin anew: {numbers['inexact']}"
            warnings.warn(text, SimpoWarning, stacklevel=2)
        else:
            self.env.restore(snapshot.environments)
            self.obs = arrays["obs"]

    @property
    def policy(self) -> Policy:
        """All that acting needs, as it is now."""
        policy = self.run.agent.policy(self.state)
        if self.moments is None:
            return policy
        return policy._replace(moments=jax.tree.map(np.float32, self.moments))

    def updates_due(self) -> int:
        """Updates that the data so far pays for and that have not been made."""
        if self.run.agent.rollout_steps:
            return int(self.rollout.full)
        paid = (self.step - self.run.warmup_steps) * self.run.updates_per_step
        return int(paid + 1e-9) - self.updates

    def collect(self) -> None:
        """One step in every environment."""
        if self.step < self.run.warmup_steps:
            decision = self.env.random_actions(self.warmup_rng)
        else:
            decision = np.asarray(
                self.decide(self.policy, self.obs, self.act_key, self.vector_step)
            )
        with self.watched():
            stepped = self.env.step(decision[:, -self.env.spec.action_dim :])
        if self.run.agent.rollout_steps:
            last = np.isin(np.arange(len(decision)), [e.env for e in stepped.episodes])
            self.rollout.add(stepped.transition, decision, last)
        else:
            self.buffer.add(stepped.transition)
        if self.moments and stepped.valid.any():
            self.moments = self.moments.update(np.float64(stepped.transition.obs))
        self.obs = stepped.obs
        self.episodes.extend(stepped.episodes)
        self.vector_step += 1
        self.step += int(stepped.valid.sum())

    def update(self) -> None:
        """G updates in one dispatch; the result is read at the next one or later."""
        run = self.run
        batches = self.next_batches()
        if self.updates == 0:
            self.phase("compiling")
        moments = self.policy.moments
        self.state, metrics = self.apply_updates(self.state, batches, moments)
        if self.updates == 0:
            self.phase("training")
        self.updates += run.updates_per_dispatch
        self.unread.append((self.updates, metrics, batches))
        self.read_metrics(keep=1)

    def next_batches(self) -> Transition | Rollout:
        """Data of G updates: from replay, or the rollout."""
        if self.run.agent.rollout_steps:
            return self.rollout.take()
        run = self.run
        return self.buffer.sample(
            self.replay_rng, run.updates_per_dispatch, run.agent.batch_size
        )

    def read_metrics(self, keep: int) -> None:
        """Fetch metrics of all but the last `keep` dispatches, which may still run."""
        while len(self.unread) > keep:
            updates, metrics, batches = self.unread.pop(0)
            host = {k: np.asarray(v) for k, v in metrics.items()}
            for name, values in host.items():
                if name.endswith("_loss") and not np.isfinite(values).all():
                    path = self.save_evidence("bad_batch", batches)
                    raise RunFailed(
                        f"{name} is not finite at update {updates}; the batch is "
                        f"saved in {path}"
                    )
            self.metrics.append(host)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Fail the run, with its evidence saved, where stepping environments fails."""
        try:
            yield
        except envs.NonFiniteTransition as error:
            path = self.save_evidence("bad_transition", error.transition)
            raise RunFailed(f"{error}; saved in {path}") from error
        except SimpoError as error:
            self.read_metrics(keep=0)  # a diverged policy acts before its loss is read
            raise RunFailed(str(error)) from error
        except OSError:
            raise
        except Exception as error:
            path = self.directory / "error.txt"
            path.write_text(traceback.format_exc())
            reason = str(error).partition("\n")[0]
            raise RunFailed(
                f"{self.run.env} raised {type(error).__name__}: {reason}; where is in "
                f"{path}"
            ) from error

    def save_evidence(self, name: str, transition: Transition | Rollout) -> Path:
        """Write the transitions that broke the run."""
        path = self.directory / f"{name}.npz"
        np.savez(path, **transition._asdict())
        return path

    def report(self) -> None:
        """Log means since the last report."""
        self.read_metrics(keep=0)
        now = time.perf_counter()
        elapsed = max(now - self.reported, 1e-9)
        steps, updates = self.reported_at
        row: dict[str, float] = {"updates": self.updates}
        if self.episodes:
            returns = [e.return_ for e in self.episodes]
            lengths = [e.length for e in self.episodes]
            row["rollout/ep_rew_mean"] = float(np.mean(returns))
            row["rollout/ep_len_mean"] = float(np.mean(lengths))
        for name in self.metrics[0] if self.metrics else ():
            values = np.concatenate([m[name] for m in self.metrics])
            row[f"train/{name}"] = float(values.mean(dtype=np.float64))
        row["time/elapsed"] = now - self.started
        row["time/fps"] = (self.step - steps) / elapsed
        row["time/updates_per_second"] = (self.updates - updates) / elapsed
        self.logger.log(self.step, row)
        self.metrics = []
        self.reported, self.reported_at = now, (self.step, self.updates)

    def evaluate(self) -> list[EpisodeRow]:
        """Play evaluation episodes in every mode and save the policy."""
        agent, policy = self.run.agent, self.policy
        rows: list[EpisodeRow] = []
        for mode in agent.evaluating:
            self.phase("evaluating")
            with self.watched():
                rows += evaluate(
                    agent,
                    policy,
                    self.run.env,
                    mode,
                    episodes=self.run.eval_episodes,
                    seed=self.eval_seed,
                    env_kwargs=self.run.env_kwargs,
                )
        self.phase("training")
        self.logger.log_episodes(self.step, [r._asdict() for r in rows])
        save_policy(
            self.directory / "policy",
            agent,
            self.env.spec,
            policy,
            env=self.run.env,
            env_kwargs=self.run.env_kwargs,
            step=self.step,
            box=self.env.action_box,
            parts=self.env.parts,
        )
        for callback in self.callbacks:
            callback.on_evaluation(self, rows)
        return rows
