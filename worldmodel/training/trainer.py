"""The trainer: the parts of a training, and its verbs collect, learn, log, evaluate and save.

train.py holds the loop that calls them.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from worldmodel import build, memory_estimate
from worldmodel.config.schema import Config, TrainConfig
from worldmodel.distributed import ALONE, World
from worldmodel.errors import Diverged, UsageError
from worldmodel.model.dynamics import Simulator
from worldmodel.model.ensembles import RESAMPLES
from worldmodel.replay.buffer import Replay, check_capacity, count_row_bytes, describe_capacity
from worldmodel.replay.resampling import count_resamples
from worldmodel.replay.start_states import NO_STATE
from worldmodel.rollout.collector import (
    Rollout,
    VectorEnv,
    convert_spaces,
    make_episode_seeds,
    take_starts_in_turn,
)
from worldmodel.rollout.evaluation_episodes import Evaluation
from worldmodel.rollout.player import Player
from worldmodel.run_directory import RunDir
from worldmodel.spaces import Batch, Row, select_prefix
from worldmodel.system.runtime import (
    STREAMS,
    has_spare_cores,
    make_generator,
    mix_seeds,
    pick_precision,
)
from worldmodel.system.stop_request import Stop
from worldmodel.training.divergence import Recovery
from worldmodel.training.evaluator import Evaluator
from worldmodel.training.learner import Learner
from worldmodel.training.logger import Logger, Means
from worldmodel.training.training_state import Components, Flags, Generators, TrainingState


@dataclass
class Due(Flags):
    """Pending actions of the loop. A stop leaves them to the next command, at the same place."""

    log: bool = False
    eval: bool = False
    save: bool = False


@dataclass
class Prefill(Flags):
    """Whether the random policy is done, and after how many agent steps it was."""

    over: bool = False
    steps: int = 0


@dataclass(frozen=True)
class SpeedMark:
    """Where the speed was measured last."""

    time: float
    frames: int
    updates: int


class Trainer:
    """Collects experience with the environments and learns from it."""

    def __init__(
        self,
        config: Config,
        envs: VectorEnv,
        run: RunDir,
        device: torch.device,
        world: World = ALONE,
        simulator: Simulator | None = None,
    ):
        """Make all parts; `simulator` is the true one, for a run that plans in it."""
        self.simulator = simulator
        self.config, self.envs, self.run, self.world = config, envs, run, world
        torch.manual_seed(config.run.seed)
        self.obs_space, self.action_space = convert_spaces(envs)
        memory_estimate.check_memory(config, self.obs_space, self.action_space, device, world)
        self._make_learner(device)
        self._make_collection(device)
        self.due, self.prefill = Due(), Prefill()
        self.means = Means(device)
        self.logger = Logger(run.path, build.make_log_starts(config, run.path))
        entropy = (config.run.seed, STREAMS["evaluate"])
        self.evaluator = Evaluator(self.agent, self.logger, world, entropy)
        self.state = self._make_state()
        self.recovery = Recovery(self.learner, self.state, run.path)
        self.frames = self.steps = self.faults = 0  # of all ranks
        self.awaits_rows = False  # of a rank that joined late and has too few to sample
        self.mark = SpeedMark(time.monotonic(), 0, 0)
        self.last_score: float | None = None
        self.last_eval: float | None = None

    def _make_learner(self, device: torch.device) -> None:
        """Make the networks, the agent that acts by them, and what trains them."""
        config, world = self.config, self.world
        self.model = build.make_model(
            config, self.obs_space, self.action_space, world, self.simulator
        ).to(device)
        self.learned_policy = build.make_policy(config, self.model, self.action_space, world)
        if self.learned_policy is not None:
            self.learned_policy.to(device)
        build.check_goal(config, self.model)
        self.agent = build.make_agent(
            config, self.model, self.action_space, device, self.learned_policy
        )
        self.starts = build.STARTS[config.replay.start](config.replay)
        self.sampler = build.make_sampler(config.replay)
        self.learner = Learner(
            self.model,
            config.optim,
            device,
            pick_precision(config.run.precision, device),
            self.learned_policy,
            self.starts,
            world,
            by_row=self.sampler.needs_losses,
            trains_apart=config.train.policy_updates_per_step > 0,
        )

    def _make_collection(self, device: torch.device) -> None:
        """Make what collects experience: rollout, player, random policy and replay."""
        seed, rank, count = self.config.run.seed, self.world.rank, self.envs.num_envs
        # Environments are numbered over all ranks; so are the replay's streams.
        self.first_env = rank * count
        seeds = make_episode_seeds(seed, STREAMS["collect"])
        if self.config.env.starts:
            seeds = take_starts_in_turn(seeds, self.config.env.starts)
        self.rollout = Rollout(
            self.envs, self.action_space, lambda i, episode: seeds(self.first_env + i, episode)
        )
        # From here on each rank draws its own numbers, and rank 0 those of a single process.
        own = (rank,) if rank else ()
        if own:
            torch.manual_seed(mix_seeds(seed, *own))
        generator = make_generator(seed, STREAMS["act"], *own, device=device.type)
        self.player = Player(self.agent, count, "train", generator)
        self.random = make_generator(seed, STREAMS["prefill"], *own)
        self.replay = self._make_replay(np.random.SeedSequence([seed, STREAMS["replay"], *own]))

    def _make_replay(self, seed: np.random.SeedSequence) -> Replay:
        """Make this rank's share of the replay; UsageError if it is too large or too small."""
        config, world, count = self.config, self.world, self.envs.num_envs
        spec = build.make_replay_spec(self.obs_space, self.action_space) | self.starts.spec(
            self.model.dynamics.initial(1)
        )
        if self.learned_policy is not None:
            spec |= self.learned_policy.list_columns()
        capacity = int(config.replay.capacity_gb * 1e9)
        rows = memory_estimate.estimate_rows(config, count * world.size)
        expected = min(capacity, rows * count_row_bytes(spec))
        local = expected * world.local_size // world.size
        check_capacity(spec, local, config.replay.store, self.run.replay)
        self.replay_size = describe_capacity(spec, expected, config.replay.store)
        replay = Replay(
            spec,
            capacity_bytes=capacity // world.size,
            store=config.replay.store,
            codec=config.replay.codec,
            directory=self.run.replay,
            num_streams=count,
            seed=int(seed.generate_state(1)[0]),
            sampler=self.sampler,
            first_stream=self.first_env,
            last=world.rank == world.size - 1,
        )
        needed = count * (self.sequence_length + replay.chunk_rows)
        if replay.capacity_rows < needed:
            share = f" for each of {world.size} ranks" if world.size > 1 else ""
            raise UsageError(
                f"replay.capacity_gb: {config.replay.capacity_gb} holds {replay.capacity_rows} "
                f"steps{share}, but {count} environments with sequences of "
                f"{self.sequence_length} need {needed}; raise it"
            )
        return replay

    def _make_state(self) -> TrainingState:
        """List what survives a stop."""
        policy = {} if self.learned_policy is None else {"policy": self.learned_policy}
        components = Components(
            networks={"model": self.model, **policy},
            optimizer=self.learner.optimizers,
            shared={
                "learner": self.learner,
                "due": self.due,
                "prefill": self.prefill,
                "means": self.means,
                "logger": self.logger,
            },
            player=self.player,
            rollout=self.rollout,
            replay=self.replay,
            sampler=self.sampler,
            generators=Generators(prefill=self.random),
        )
        return TrainingState(
            self.run.checkpoints,
            components,
            self.world,
            keep=self.config.log.keep,
            accept_lost_replay=self.config.replay.lost != "refuse",
        )

    @property
    def sequence_length(self) -> int:
        """Steps of a sequence as the replay returns it."""
        return self.config.replay.length + self.starts.lead

    def policy(self, rows: list[Row]) -> np.ndarray:
        """Act at random until the prefill is over, then as the agent; add start states to rows."""
        update = self.learner.updates if self.prefill.over else NO_STATE
        self.starts.add_state(rows, select_prefix(self.player.carry, "state/"), update)
        if self.prefill.over:
            actions = self.player(rows)
        else:
            actions = self.action_space.random(len(rows), self.random).numpy()
        if self.learned_policy is not None:
            carry = select_prefix(self.player.carry, "behavior/") if self.prefill.over else {}
            self.learned_policy.watch(self.model, rows, carry)
        return actions

    def collect(self) -> None:
        """Step every environment once, store the rows, and note what is due."""
        frames = self.frames
        rows = self.rollout.step(self.policy)
        if has_spare_cores(self.learner.device, self.world.local_size):
            self.rollout.begin()  # environments step while the model learns
        for stream, row in enumerate(rows, self.first_env):
            self.replay.add(stream, row)
        for score, length in self._count_steps():
            self.logger.write_metrics(
                self.frames, {"episode/score": score, "episode/length": length}
            )
            self.last_score = score
        if not self.prefill.over and self._is_prefill_over():
            self.prefill.over, self.prefill.steps = True, self.steps
        self.awaits_rows = self.awaits_rows and self.world.any(not self._can_sample())
        self.due.log |= self._has_passed(self.config.log.every, frames)
        self.due.eval |= self._has_passed(self.config.log.eval, frames)
        self.due.save |= self._has_passed(self.config.log.checkpoint, frames)

    def _has_passed(self, every: int, before: int) -> bool:
        """Say whether the frames have passed a multiple of `every` since `before`."""
        return bool(every) and self.frames // every > before // every

    def _count_steps(self) -> list[tuple[float, int]]:
        """Count steps over all ranks; return (score, length) of the episodes that just ended."""
        ended = [(e.score, len(e.actions)) for e in self.rollout.pop_finished()]
        own = [self.rollout.frames, self.rollout.steps, self.rollout.faults, len(ended)]
        self.frames, self.steps, self.faults, count = self.world.sum(own)
        return [episode for part in self.world.gather(ended) for episode in part] if count else []

    def _can_sample(self) -> bool:
        return self.replay.can_sample(self.config.replay.batch, self.sequence_length)

    def _is_prefill_over(self) -> bool:
        """Say whether there are enough frames, and every rank has enough rows to sample."""
        enough = self.frames >= self.config.train.prefill
        return enough and not self.world.any(not self._can_sample())

    def count_pending_updates(self) -> int:
        """Count the updates to make now: the pretraining, then those of the schedule."""
        if not self.prefill.over or self.awaits_rows or not self._makes_updates:
            return 0
        steps = self.steps - self.prefill.steps
        due = self.config.train.pretrain + count_scheduled_updates(self.config.train, steps)
        return due - self.learner.updates

    @property
    def _makes_updates(self) -> bool:
        return bool(self.learner.optimizers.parameters) and schedules_updates(self.config.train)

    def learn(self) -> None:
        """Make one update on a batch of sequences; roll back if updates diverge."""
        batch = self._sample_batch()
        try:
            metrics = self.learner.update(batch, self.frames)
        except Diverged as error:
            self.recovery.roll_back(error, batch, self.frames)
            return
        if self.learner.row_losses is not None:
            self.replay.record_losses(self.learner.row_losses.float().cpu().numpy())
        if self.world.main:
            self.means.add(metrics)

    def _sample_batch(self) -> Batch:
        """Sample sequences, with the counts of their rows for each member that resamples them."""
        c, length = self.config, self.sequence_length
        batch = build.to_tensors(self.replay.sample(c.replay.batch, length))
        if c.ensemble.bootstrap:
            place = self.replay.locate_sampled(length)
            entropy = (c.run.seed, STREAMS["resample"])
            counts = count_resamples(*place, length, c.ensemble.size, entropy)
            batch[RESAMPLES] = torch.from_numpy(counts)
        return batch

    def count_pending_policy_updates(self) -> int:
        """Count the updates of the policy alone to make now, which follow those of the model."""
        share = self.config.train.policy_updates_per_step
        if not self.prefill.over or self.awaits_rows or not share:
            return 0
        return int((self.steps - self.prefill.steps) * share) - self.learner.policy_updates

    def learn_policy(self) -> None:
        """Make one update of the policy alone, on a batch of its own."""
        train, replay = self.config.train, self.config.replay
        length = (train.policy_length or replay.length) + self.starts.lead
        batch = build.to_tensors(self.replay.sample(train.policy_batch or replay.batch, length))
        try:
            metrics = self.learner.update_policy(batch, self.frames)
        except Diverged as error:
            self.recovery.roll_back(error, batch, self.frames)
            return
        if self.world.main:
            self.means.add(metrics)

    def open_logger(self) -> None:
        """Start to write logs, which cuts away lines from after the checkpoint."""
        self.mark = SpeedMark(time.monotonic(), self.frames, self.learner.updates)
        self.logger.open(self.frames)

    def log(self) -> None:
        """Write a line: the means since the last one, counters, sizes and speeds."""
        self.due.log = False
        if not self.logger.is_open:
            return
        updates = self.learner.updates
        last, self.mark = self.mark, SpeedMark(time.monotonic(), self.frames, updates)
        seconds = max(1e-9, self.mark.time - last.time)
        line: dict[str, float] = {
            "steps": self.steps,
            "updates": updates,
            "rollbacks": self.learner.rollbacks,
        }
        if self.learner.trains_apart:
            line["policy_updates"] = self.learner.policy_updates
        line |= {f"train/{k}": v for k, v in self.means.pop().items()}
        line |= {f"replay/{k}": v for k, v in self.replay.stats().items()}
        line |= {
            "env/faults": self.faults,
            "fps/frames": (self.frames - last.frames) / seconds,
            "fps/updates": (updates - last.updates) / seconds,
        }
        line |= self.logger.measure_times()
        self.logger.write_metrics(self.frames, line)

    def evaluate(
        self, envs: VectorEnv, stop: Stop, episodes: int | None = None
    ) -> Evaluation | None:
        """Play greedy test episodes; None, and due again, if a stop is asked for."""
        count = episodes or self.config.log.episodes
        result = self.evaluator.evaluate(envs, stop, self.frames, count)
        if result is None:
            return None
        self.due.eval = False
        if self.world.main:
            self.last_eval = result.summarize()["eval/score"]
        return result

    def save(self) -> None:
        """Write a checkpoint, and note in the run's status that there is one."""
        self.due.save = False
        facts = {
            "frames": self.frames,
            "observation": self.obs_space.describe(),
            "action": asdict(self.action_space),
        }
        # By frames alone, two checkpoints would have one number if a stop comes between updates.
        done = self.learner.updates + self.learner.policy_updates
        self.state.save(self.steps + done, facts)
        if self.world.main:
            self.run.record_checkpoint(self.frames)

    def resume(self) -> bool:
        """Resume from the newest good checkpoint; False if there is none."""
        if not self.state.resume():
            return False
        self._count_steps()
        self.awaits_rows = self.prefill.over and self.world.any(not self._can_sample())
        return True

    def estimate_progress(self) -> tuple[float, float]:
        """Estimate the work that is done and the whole work, in updates, which take the time.

        Without updates it is in frames.
        """
        train, frames = self.config.train, self.config.run.frames
        per_step = train.policy_updates_per_step
        if not self._makes_updates and not per_step:
            return self.frames, frames
        done = self.learner.updates + self.learner.policy_updates
        if self.prefill.over:
            pending, begun = max(0, self.count_pending_updates()), self.frames
            pending += max(0, self.count_pending_policy_updates())
        else:
            pending, begun = train.pretrain, train.prefill
        steps = max(0, frames - max(self.frames, begun)) * self.steps / max(1, self.frames)
        so_far = self.steps - self.prefill.steps if self.prefill.over else 0
        due = count_scheduled_updates(train, so_far + steps) + steps * per_step
        return done, done + pending + due - count_scheduled_updates(train, so_far)

    def describe(self) -> str:
        """Describe the sizes, for the first line of output."""
        weights = sum(p.numel() for p in self.learner.optimizers.parameters)
        size = f"{weights / 1e6:.1f}M weights" if weights else "nothing to train"
        ranks = f", {self.world.size} ranks" * (self.world.size > 1)
        return f"{size}, {self.learner.precision}{ranks}; {self.replay_size}"

    def format_progress(self) -> str:
        """Format the tail of the progress line."""
        score = f"score {self.last_score:.0f}" if self.last_score is not None else "no episode yet"
        tested = f", eval {self.last_eval:.0f}" if self.last_eval is not None else ""
        return f"{self.frames} frames, {self.learner.updates} updates, {score}{tested}"


def schedules_updates(train: TrainConfig) -> bool:
    """Whether the model is updated at all after the prefill."""
    return train.schedule == "rounds" or train.updates_per_step > 0


def count_scheduled_updates(train: TrainConfig, steps: float) -> int:
    """Count the updates that so many agent steps after the prefill call for.

    They are some for each step, or a refit after each round of steps.
    """
    if train.schedule == "rounds":
        return int(steps // train.round) * train.refit
    return int(steps * train.updates_per_step)
