"""Everything a training run is made of, and how it is saved and continued exactly."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np
import torch

from worldmodel import build, memory_estimate
from worldmodel.config.schema import Config
from worldmodel.distributed import ALONE, World
from worldmodel.errors import Diverged, UsageError
from worldmodel.evaluation.plotting import tensorboard
from worldmodel.replay.buffer import Replay, bytes_per_row, check_capacity, describe_capacity
from worldmodel.replay.start_states import NO_STATE
from worldmodel.rollout.collector import Rollout, episode_seeds, spaces_of
from worldmodel.rollout.episodes import Evaluation, run_episodes
from worldmodel.rollout.player import Player
from worldmodel.run_directory import RunDir
from worldmodel.spaces import Row, select_prefix
from worldmodel.system.runtime import has_spare_cores, make_generator, mix_seeds, pick_precision
from worldmodel.training.divergence import roll_back
from worldmodel.training.learner import Learner
from worldmodel.training.logger import Logger, Means
from worldmodel.training.stop_request import Stop

log = logging.getLogger(__name__)

STREAMS = {"collect": 1, "act": 2, "prefill": 3, "replay": 4, "evaluate": 5}


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


class Training:
    """Parts of a run, wired; `train.py` holds the loop."""

    def __init__(
        self,
        c: Config,
        envs,
        run: RunDir,
        device: torch.device,
        world: World = ALONE,
    ):
        self.c, self.run, self.envs, self.world = c, run, envs, world
        seed = c.run.seed
        torch.manual_seed(seed)
        self.obs_space, self.action_space = spaces_of(envs)
        memory_estimate.check_memory(c, self.obs_space, self.action_space, device, world)
        self.model = build.make_model(c, self.obs_space, self.action_space, world).to(device)
        self.actor_critic = build.make_policy(c, self.model, self.action_space, world)
        if self.actor_critic is not None:
            self.actor_critic.to(device)
        build.check_goal(c, self.model)
        self.agent = build.make_agent(c, self.model, self.action_space, device, self.actor_critic)
        self.starts = build.STARTS[c.replay.start](c.replay)
        self.sampler = build.make_sampler(c.replay)
        precision = pick_precision(c.run.precision, device)
        self.learner = Learner(
            self.model,
            c.optim,
            device,
            precision,
            self.actor_critic,
            self.starts,
            world,
            by_row=self.sampler.needs_losses,
        )
        # Environments are numbered over all ranks; so are the replay's streams.
        self.first = world.rank * envs.num_envs
        seeds = episode_seeds(seed, STREAMS["collect"])
        self.rollout = Rollout(
            envs, self.action_space, lambda env, episode: seeds(self.first + env, episode)
        )
        # From here on each rank draws on its own; rank 0 as a run alone does.
        own = (world.rank,) if world.rank else ()
        if own:
            torch.manual_seed(mix_seeds(seed, *own))
        self.player = Player(
            self.agent,
            envs.num_envs,
            "train",
            make_generator(seed, STREAMS["act"], *own, device=device.type),
        )
        self.random = make_generator(seed, STREAMS["prefill"], *own)
        self.replay = self._make_replay(np.random.SeedSequence([seed, STREAMS["replay"], *own]))
        self._check_capacity()
        self.means = Means()
        self.due, self.prefill = Due(), Prefill()
        self.frames = self.steps = self.faults = 0  # of all ranks
        self.waiting = False  # for a rank that has joined late and has too little to sample from
        self.logger: Logger | None = None
        self.clock = Clock(time.monotonic(), 0, 0)
        self.began, self.minutes_before = time.monotonic(), 0.0
        self.last_score: float | None = None
        self.last_eval: float | None = None
        self._logger_state: dict | None = None

    def _make_replay(self, seed: np.random.SeedSequence) -> Replay:
        """This rank's share of the ring; nothing is made that would not fit."""
        c, world, count = self.c, self.world, self.envs.num_envs
        spec = build.replay_spec(self.obs_space, self.action_space) | self.starts.spec(
            self.model.dynamics.initial(1)
        )
        capacity = int(c.replay.capacity_gb * 1e9)
        expected = min(
            capacity, memory_estimate.estimate_rows(c, count * world.size) * bytes_per_row(spec)
        )
        check_capacity(
            spec, expected * world.local_size // world.size, c.replay.store, self.run.replay
        )
        self.size_line = describe_capacity(spec, expected, c.replay.store)
        return Replay(
            spec,
            capacity_bytes=capacity // world.size,
            store=c.replay.store,
            codec=c.replay.codec,
            directory=self.run.replay,
            num_streams=count,
            seed=int(seed.generate_state(1)[0]),
            sampler=self.sampler,
            first_stream=self.first,
            last=world.rank == world.size - 1,
        )

    @property
    def sampled(self) -> int:
        """Steps of a sequence as it comes from the replay."""
        return self.c.replay.length + self.starts.lead

    def _check_capacity(self) -> None:
        """A ring too small for one sequence per environment would never be sampled."""
        needed = self.envs.num_envs * (self.sampled + self.replay.chunk_rows)
        if self.replay.capacity_rows < needed:
            share = f" for each of {self.world.size} ranks" if self.world.size > 1 else ""
            raise UsageError(
                f"replay.capacity_gb: {self.c.replay.capacity_gb} holds "
                f"{self.replay.capacity_rows} steps{share}, but "
                f"{self.envs.num_envs} environments with sequences of {self.sampled} need "
                f"{needed}; raise it"
            )

    def policy(self, rows: list[Row]) -> np.ndarray:
        """Random until the prefill is over, the agent from then on; rows get the states from
        before them.
        """
        over = self.prefill.over
        self.starts.add_state(
            rows,
            select_prefix(self.player.carry, "state/"),
            self.learner.updates if over else NO_STATE,
        )
        if over:
            return self.player(rows)
        return self.action_space.random(len(rows), self.random).numpy()

    def collect(self) -> None:
        """One step of every environment, remembered; notes what has fallen due."""
        before = self.frames
        rows = self.rollout.step(self.policy)
        if has_spare_cores(self.learner.device, self.world.local_size):
            self.rollout.begin()  # environments work while the model learns
        for stream, row in enumerate(rows, self.first):
            self.replay.add(stream, row)
        for score, length in self._take_stock():
            self._log_episode(score, length)
        if not self.prefill.over and self._prefill_is_over():
            self.prefill = Prefill(True, self.steps)
        self.waiting = self.waiting and self.world.any(not self._can_sample())
        self.due.log |= self._crossed(before, self.c.log.every)
        self.due.eval |= self._crossed(before, self.c.log.eval)
        self.due.save |= self._crossed(before, self.c.log.checkpoint)

    def _crossed(self, before: int, every: int) -> bool:
        """Has the run just passed a multiple of `every` frames?"""
        return bool(every) and self.frames // every > before // every

    def _take_stock(self) -> list[tuple[float, int]]:
        """Count steps over all ranks; scores and lengths of the episodes that have just ended on
        any.
        """
        r = self.rollout
        ended = [(e.score, len(e.actions)) for e in r.pop_finished()]
        self.frames, self.steps, self.faults, count = self.world.sum(
            [r.frames, r.steps, r.faults, len(ended)]
        )
        return [episode for part in self.world.gather(ended) for episode in part] if count else []

    def _can_sample(self) -> bool:
        return self.replay.can_sample(self.c.replay.batch, self.sampled)

    def _prefill_is_over(self) -> bool:
        """Enough frames, enough to sample on every rank."""
        return self.frames >= self.c.train.prefill and not self.world.any(not self._can_sample())

    def updates_owed(self) -> int:
        """Updates owed by now: the pretraining, then `train.updates_per_step` per agent step."""
        if not self.prefill.over or self.waiting or not self.c.train.updates_per_step:
            return 0
        train, steps = self.c.train, self.steps - self.prefill.steps
        return train.pretrain + int(steps * train.updates_per_step) - self.learner.updates

    def learn(self) -> None:
        """One update, or back to before it where it diverges."""
        batch = build.to_tensors(self.replay.sample(self.c.replay.batch, self.sampled))
        try:
            metrics = self.learner.update(batch)
        except Diverged as error:
            roll_back(self, batch, error)
            return
        if self.learner.row_losses is not None:
            self.replay.record_losses(self.learner.row_losses.float().cpu().numpy())
        if self.world.main:
            self.means.add(metrics)

    def resumed_as(self, state: dict) -> None:
        """Take over what a checkpoint says of all ranks; each has its share by now."""
        self.due, self.prefill = Due(**state["due"]), Prefill(**state["prefill"])
        self.means.restore(state["means"], self.learner.device)
        sizes = state["logger"]
        self._logger_state = sizes and {k: kind(sizes[k]) for k, kind in Logger.kept.items()}
        self._take_stock()
        self.waiting = self.prefill.over and self.world.any(not self._can_sample())

    def _log_episode(self, score: float, length: int) -> None:
        if self.logger:
            self.logger.line(self.frames, {"episode/score": score, "episode/length": length})
        self.last_score = score

    def log(self) -> None:
        """The means since the last line, counters, sizes and speeds."""
        self.due.log = False
        if not self.logger:
            return
        last, self.clock = self.clock, Clock(time.monotonic(), self.frames, self.learner.updates)
        seconds = max(1e-9, self.clock.time - last.time)
        speed = {
            "fps/frames": (self.frames - last.frames) / seconds,
            "fps/updates": (self.learner.updates - last.updates) / seconds,
            "time/minutes": self.minutes(),
        }
        counts = {
            "steps": self.steps,
            "updates": self.learner.updates,
            "rollbacks": self.learner.rollbacks,
        }
        sizes = {f"replay/{k}": v for k, v in self.replay.stats().items()}
        means = {f"train/{k}": v for k, v in self.means.pop().items()}
        self.logger.line(
            self.frames, {**counts, **means, **sizes, "env/faults": self.faults, **speed}
        )

    def minutes(self) -> float:
        """Wall-clock spent on this run so far, earlier commands included."""
        return self.minutes_before + (time.monotonic() - self.began) / 60

    def evaluate(self, envs, stop: Stop, episodes: int | None = None) -> Evaluation | None:
        """Greedy episodes on other seeds; abandoned, and due again, when a stop is asked for.

        Rank 0 plays; the others follow step by step, so that a stop is seen by all and nobody
        waits for long.
        """
        if not self.world.main:
            return self._follow_evaluation(stop)
        assert self.logger
        count = episodes or self.c.log.episodes
        numbers = (self.c.run.seed, STREAMS["evaluate"], self.frames)
        player = Player(
            self.agent,
            envs.num_envs,
            "eval",
            make_generator(*numbers, device=self.agent.device.type),
        )
        rollout = Rollout(envs, self.action_space, episode_seeds(*numbers))

        def after_step(done: int) -> bool:
            self.world.any(done == count)  # tells the others
            return bool(stop)

        result = run_episodes(rollout, player, count, after_step)
        if result is None:
            return None
        self.due.eval = False
        self.logger.line(
            self.frames, {**result.summary(), "time/minutes": self.minutes()}, scores=True
        )
        self.last_eval = result.summary()["eval/score"]
        tensorboard.log_evaluation(
            self.logger,
            self.frames,
            self.agent,
            result,
            make_generator(*numbers, 1, device=self.agent.device.type),
        )
        return result

    def _follow_evaluation(self, stop: Stop) -> Evaluation | None:
        over = False
        while not over:
            over = self.world.any(False)
            if stop:
                return None
        self.due.eval = False
        return Evaluation([], [], [])

    def describe(self) -> str:
        """Sizes, for the start-up line."""
        weights = sum(p.numel() for p in self.learner.optimizers.parameters) / 1e6
        ranks = f", {self.world.size} ranks" * (self.world.size > 1)
        return f"{weights:.1f}M weights, {self.learner.precision}{ranks}; {self.size_line}"

    def summary(self) -> str:
        """The live line's tail."""
        score = f"score {self.last_score:.0f}" if self.last_score is not None else "no episode yet"
        tested = f", eval {self.last_eval:.0f}" if self.last_eval is not None else ""
        return f"{self.frames} frames, {self.learner.updates} updates, {score}{tested}"

    def open_logger(self) -> None:
        """On rank 0: start logging, cutting away lines written after the checkpoint."""
        if not self.world.main:
            return
        resumed = self._logger_state
        self.clock = Clock(time.monotonic(), self.frames, self.learner.updates)
        self.logger = Logger(
            self.run.path, self.c.log.tensorboard, self.frames if resumed else None
        )
        resumed = resumed or {"metrics": 0, "scores": 0, "minutes": 0.0}
        self.logger.restore(resumed)
        self.minutes_before = resumed["minutes"]
