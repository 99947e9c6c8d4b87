"""Everything a training run is made of, and how it is saved and continued exactly."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import FrameType

import numpy as np
import torch

from worldmodel import build, checkpoint
from worldmodel.agent import part
from worldmodel.evaluation.returns import Evaluation, run_episodes
from worldmodel.learner import Learner
from worldmodel.logger import Logger, Means
from worldmodel.player import Player
from worldmodel.replay import Replay, bytes_per_row, check_capacity, describe_capacity
from worldmodel.rollout import Episode, Rollout, Row, episode_seeds, spaces_of
from worldmodel.rundir import RunDir
from worldmodel.runtime import pick_precision, seeded
from worldmodel.schema import Config
from worldmodel.warm import NEVER

log = logging.getLogger(__name__)

STREAMS = {"collect": 1, "act": 2, "prefill": 3, "replay": 4, "evaluate": 5}


class Stop:
    """SIGTERM, SIGINT and SIGUSR1 ask for a stop after the step; a second signal ends the process at once."""

    def __init__(self):
        self.asked = False
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(name, self._ask)

    def __bool__(self) -> bool:
        return self.asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = True


@dataclass(frozen=True)
class Clock:
    """Where the speed was last measured."""

    time: float
    frames: int
    updates: int


@dataclass
class Due:
    """What the loop still owes; a stop leaves it to the next command, at the very same place."""

    log: bool = False
    eval: bool = False
    save: bool = False


@dataclass
class Prefill:
    """Whether the random policy is done, and at which agent step it was."""

    over: bool = False
    steps: int = 0


def expected_rows(c: Config) -> int:
    """Rows the whole run will write: its agent steps, and one more for every reset."""
    steps = -(-c.run.frames // c.env.repeat)
    return steps + steps // 10 + c.env.num


class Training:
    """Parts of a run, wired; `train.py` holds the loop."""

    def __init__(self, c: Config, envs, reset: Callable[[int], object], run: RunDir, device: torch.device):
        self.c, self.run, self.envs = c, run, envs
        seed = c.run.seed
        torch.manual_seed(seed)
        self.obs_space, self.action_space = spaces_of(envs)
        self.model = build.make_model(c, self.obs_space, self.action_space).to(device)
        self.actor_critic = build.make_policy(c, self.model, self.action_space)
        if self.actor_critic is not None:
            self.actor_critic.to(device)
        self.agent = build.make_agent(c, self.model, self.action_space, device, self.actor_critic)
        self.starts = build.STARTS[c.replay.start](c.replay)
        precision = pick_precision(c.run.precision, device)
        self.learner = Learner(self.model, c.optim, device, precision, self.actor_critic, self.starts)
        self.rollout = Rollout(envs, reset, self.action_space, episode_seeds(seed, STREAMS["collect"]))
        acting = seeded(seed, STREAMS["act"], device=device.type)
        self.player = Player(self.agent, envs.num_envs, "train", acting)
        self.random = seeded(seed, STREAMS["prefill"])
        spec = build.replay_spec(self.obs_space, self.action_space) | self.starts.spec(self.model.rssm.initial(1))
        capacity = int(c.replay.capacity_gb * 1e9)
        expected = min(capacity, expected_rows(c) * bytes_per_row(spec))
        check_capacity(spec, expected, c.replay.store, run.replay)
        self.size_line = describe_capacity(spec, expected, c.replay.store)
        self.replay = Replay(
            spec,
            capacity_bytes=capacity,
            store=c.replay.store,
            codec=c.replay.codec,
            directory=run.replay,
            num_streams=envs.num_envs,
            seed=int(np.random.SeedSequence([seed, STREAMS["replay"]]).generate_state(1)[0]),
        )
        self._check_capacity()
        self.means = Means()
        self.due, self.prefill = Due(), Prefill()
        self.logger: Logger | None = None
        self.clock = Clock(time.monotonic(), 0, 0)
        self.began, self.minutes_before = time.monotonic(), 0.0
        self.last_score: float | None = None
        self.last_eval: float | None = None
        self._logger_state: dict | None = None

    @property
    def sampled(self) -> int:
        """Steps of a sequence as it comes from the replay."""
        return self.c.replay.length + self.starts.lead

    def _check_capacity(self) -> None:
        """A ring too small for one sequence per environment would never be sampled."""
        needed = self.envs.num_envs * (self.sampled + self.replay.chunk_rows)
        if self.replay.capacity_rows < needed:
            raise ValueError(
                f"replay.capacity_gb: {self.c.replay.capacity_gb} holds {self.replay.capacity_rows} steps, but "
                f"{self.envs.num_envs} environments with sequences of {self.sampled} need {needed}; raise it"
            )

    def policy(self, rows: list[Row]) -> np.ndarray:
        """Random until the prefill is over, the agent from then on; rows get the states from before them."""
        over = self.prefill.over
        self.starts.keep(rows, part(self.player.carry, "state/"), self.learner.updates if over else NEVER)
        if over:
            return self.player(rows)
        return self.action_space.random(len(rows), self.random).numpy()

    def collect(self) -> None:
        """One step of every environment, remembered; notes what has fallen due."""
        before = self.rollout.frames
        rows = self.rollout.step(self.policy)
        self.rollout.begin()  # environments work while the model learns
        for stream, row in enumerate(rows):
            self.replay.add(stream, row)
        for episode in self.rollout.pop_finished():
            self._log_episode(episode)
        if not self.prefill.over and self._prefill_is_over():
            self.prefill = Prefill(True, self.rollout.steps)
        self.due.log |= self._crossed(before, self.c.log.every)
        self.due.eval |= self._crossed(before, self.c.log.eval)
        self.due.save |= self._crossed(before, self.c.log.checkpoint)

    def _crossed(self, before: int, every: int) -> bool:
        """Has the run just passed a multiple of `every` frames?"""
        return bool(every) and self.rollout.frames // every > before // every

    def _prefill_is_over(self) -> bool:
        """Enough frames, enough to sample."""
        enough = self.rollout.frames >= self.c.train.prefill
        return enough and self.replay.can_sample(self.c.replay.batch, self.sampled)

    def updates_owed(self) -> int:
        """Updates owed by now: the pretraining, then `train.ratio` per agent step."""
        if not self.prefill.over or not self.c.train.ratio:
            return 0
        steps = self.rollout.steps - self.prefill.steps
        return self.c.train.pretrain + int(steps * self.c.train.ratio) - self.learner.updates

    def learn_what_is_owed(self, stop: Stop) -> None:
        """Update until nothing is owed or a stop is asked for."""
        while self.updates_owed() > 0 and not stop:
            batch = self.replay.sample(self.c.replay.batch, self.sampled)
            self.means.add(self.learner.update(build.to_tensors(batch)))

    def save(self) -> None:
        """A checkpoint of everything; raises OSError when the disk refuses for good."""
        self.due.save = False
        self.replay.flush(strict=True)
        generators = {"torch": torch.get_rng_state(), "prefill": self.random.get_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        groups = {
            "model": dict(self.model.state_dict()),
            "optimizer": self.learner.tensors(),
            "player": self.player.tensors(),
            "generators": generators,
        }
        if self.actor_critic is not None:
            groups["policy"] = dict(self.actor_critic.state_dict())
        state = {
            "frames": self.rollout.frames,
            "observation": asdict(self.obs_space),
            "action": asdict(self.action_space),
            "learner": self.learner.counters(),
            "rollout": self.rollout.state(),
            "due": asdict(self.due),
            "prefill": asdict(self.prefill),
            "means": self.means.state(),
            "logger": {**self.logger.state(), "minutes": self.minutes()} if self.logger else None,
            "replay": self.replay.state(),
        }
        # Frames alone would name two checkpoints alike when a stop falls between two updates.
        number = self.rollout.steps + self.learner.updates
        checkpoint.save(self.run.checkpoints, number, groups, state, keep=self.c.log.keep)
        self.replay.collect_garbage(s["replay"] for s in checkpoint.retained_states(self.run.checkpoints))

    def resume(self) -> bool:
        """Continue from the newest good checkpoint; False where there is none."""
        saved = checkpoint.latest(self.run.checkpoints)
        if saved is None:
            return False
        state = saved.state
        checkpoint.load_into(self.model, saved.groups["model"], "model")
        if self.actor_critic is not None:
            checkpoint.load_into(self.actor_critic, saved.groups["policy"], "policy")
        self.learner.restore(saved.groups["optimizer"], state["learner"])
        self.player.restore(saved.groups["player"])
        self.rollout.restore(state["rollout"])
        self.replay.load(state["replay"])
        self.due, self.prefill = Due(**state["due"]), Prefill(**state["prefill"])
        self.means.restore(state["means"])
        generators = saved.groups["generators"]
        self.random.set_state(generators["prefill"])
        torch.set_rng_state(generators["torch"])
        if "cuda" in generators and torch.cuda.is_available():
            torch.cuda.set_rng_state(generators["cuda"])
        self._logger_state = state["logger"]
        return True

    def _log_episode(self, episode: Episode) -> None:
        assert self.logger
        self.logger.line(self.rollout.frames, {"episode/score": episode.score, "episode/length": len(episode.actions)})
        self.last_score = episode.score

    def log(self) -> None:
        """The means since the last line, counters, sizes and speeds."""
        assert self.logger
        self.due.log = False
        seconds = max(1e-9, time.monotonic() - self.clock.time)
        speed = {
            "fps/frames": (self.rollout.frames - self.clock.frames) / seconds,
            "fps/updates": (self.learner.updates - self.clock.updates) / seconds,
            "time/minutes": self.minutes(),
        }
        self.clock = Clock(time.monotonic(), self.rollout.frames, self.learner.updates)
        counts = {"steps": self.rollout.steps, "updates": self.learner.updates}
        sizes = {f"replay/{k}": v for k, v in self.replay.stats().items()}
        means = {f"train/{k}": v for k, v in self.means.pop().items()}
        self.logger.line(self.rollout.frames, {**counts, **means, **sizes, "env/faults": self.rollout.faults, **speed})

    def minutes(self) -> float:
        """Wall-clock spent on this run so far, earlier commands included."""
        return self.minutes_before + (time.monotonic() - self.began) / 60

    def evaluate(
        self, envs, reset: Callable[[int], object], stop: Stop, episodes: int | None = None
    ) -> Evaluation | None:
        """Greedy episodes on other seeds; abandoned, and due again, when a stop is asked for."""
        assert self.logger
        numbers = (self.c.run.seed, STREAMS["evaluate"], self.rollout.frames)
        player = Player(self.agent, envs.num_envs, "eval", seeded(*numbers, device=self.agent.device.type))
        rollout = Rollout(envs, reset, self.action_space, episode_seeds(*numbers))
        result = run_episodes(rollout, player, episodes or self.c.log.episodes, lambda done: bool(stop))
        if result is None:
            return None
        self.due.eval = False
        self.logger.line(self.rollout.frames, {**result.summary(), "time/minutes": self.minutes()}, scores=True)
        self.last_eval = result.summary()["eval/score"]
        return result

    def describe(self) -> str:
        """Sizes, for the start-up line."""
        weights = sum(p.numel() for p in self.learner.parameters) / 1e6
        return f"{weights:.1f}M weights, {self.learner.precision}; {self.size_line}"

    def summary(self) -> str:
        """The live line's tail."""
        score = f"score {self.last_score:.0f}" if self.last_score is not None else "first episode"
        tested = f", eval {self.last_eval:.0f}" if self.last_eval is not None else ""
        return f"{self.rollout.frames} frames, {self.learner.updates} updates, {score}{tested}"

    def open_logger(self) -> None:
        """Start logging, cutting away lines written after the checkpoint."""
        resumed = self._logger_state
        self.clock = Clock(time.monotonic(), self.rollout.frames, self.learner.updates)
        self.logger = Logger(self.run.path, self.c.log.tensorboard, self.rollout.frames if resumed else None)
        resumed = resumed or {"metrics": 0, "scores": 0, "minutes": 0.0}
        self.logger.restore(resumed)
        self.minutes_before = resumed["minutes"]
