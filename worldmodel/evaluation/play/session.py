"""A play session: an imagined rollout driven step by step, beside the simulator.

It is a function of the seed and of the user's actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.errors import UsageError, exit_code_of
from worldmodel.evaluation.play import pixel_aim
from worldmodel.evaluation.play.parallel_rollouts import ParallelRollouts, Prediction
from worldmodel.evaluation.play.pixel_aim import PixelAim
from worldmodel.evaluation.play.start_points import ReplayStarts, SessionStart
from worldmodel.evaluation.plotting import media
from worldmodel.evaluation.quality.policies import BEHAVIOR_LABELS
from worldmodel.evaluation.quality.simulator import Simulator
from worldmodel.evaluation.returns.evaluation_rollout import SEED_STREAM
from worldmodel.rollout.collector import make_episode_seeds
from worldmodel.rollout.montage import join_row
from worldmodel.spaces import Columns, State, find_pictures
from worldmodel.system.runtime import mix_seeds

HAND = "hand"
MAX_STEPS = 2000  # of a session, all of whose states are kept
CLIP_FPS = 15


@dataclass
class RealStep:
    """The simulator's result; empty if it takes no part. `over` says how its episode ended.

    `points` are the feature points in its picture, as those of a `Prediction`.
    """

    picture: np.ndarray | None = None
    reward: float | None = None
    over: str = ""
    takes_part: bool = False
    seen: Columns = field(default_factory=dict)  # what was observed, by name
    points: np.ndarray | None = None


@dataclass
class Moment:
    """A step: its action (A,) and driver, the model's prediction and the simulator's result.

    `memory` says where clicked pixels are expected; it is empty before any was clicked.
    """

    state: State
    prediction: Prediction
    real: RealStep
    driver: str = ""
    action: np.ndarray | None = None
    carry: State = field(default_factory=dict)
    memory: State = field(default_factory=dict)


class Session:
    """A history of steps; `at` is the one that is shown and that `step` continues from.

    A step from an earlier moment drops the later ones. The random draws of a step depend only on
    the start and on the step's number: going back and repeating the actions gives the same
    rollout, and other actions meet the same draws.
    """

    def __init__(
        self,
        rollouts: ParallelRollouts,
        simulator: Simulator | None,
        replay: ReplayStarts,
        seed: int,
        context: int,
        aim: PixelAim | None = None,
    ):
        self.aim = aim
        self.rollouts, self.simulator, self.replay = rollouts, simulator, replay
        self.seed, self.context = seed, context
        self.seeds = make_episode_seeds(seed, SEED_STREAM)
        self.number = 0  # of the next new episode
        self.start: SessionStart | None = None
        self.history: list[Moment] = []
        self.at = 0
        self.simulator_at = 0  # the simulator's step
        self.note = ""  # why the simulator takes no part

    def start_episode(self) -> Moment:
        """Start at the first step of an episode that was not used in training."""
        if self.simulator is None:
            raise UsageError("there is no simulator for a new episode: start from the replay")
        number = self.number
        seed = self.seeds(0, number)
        first = self._replay_actions(seed, ())
        if first is None:
            raise UsageError(f"no new episode: {self.note}")
        self.number += 1
        nothing = np.zeros((0, self.rollouts.agent.space.size), np.float32)
        rows = {k: v[None] for k, v in first.obs.items()} | {
            "prev_action": np.zeros((1, nothing.shape[1]), np.float32)
        }
        self.note = ""
        return self._begin(
            SessionStart(f"new episode {number}, seed {seed}", (0, number), rows, seed, nothing),
            first,
        )

    def start_from_replay(self, episode: int, step: int) -> Moment:
        """Start at a step of the replay; the simulator is restored there if possible."""
        start = self.replay.make_start(episode, step)
        self.note = ""
        there = None
        if self.simulator is not None and start.seed is not None:
            there = self._replay_actions(start.seed, start.actions)
            if there is None or any(
                not np.array_equal(v, start.rows[k][-1])
                for k, v in there.obs.items()
                if k in start.rows
            ):
                there = None
                self.note = (
                    self.note
                    or "the simulator did not reproduce this step: the model continues alone"
                )
        elif self.simulator is not None:
            self.note = "the seed of this episode is not known: the model continues alone"
        return self._begin(start, there)

    def step(self, driver: str = HAND, action: Any = None) -> Moment:
        """One step from `at`, with an action by hand or by a driver; later steps are dropped."""
        if self.at + 1 >= MAX_STEPS:
            raise UsageError(
                f"this session has {MAX_STEPS} steps, the maximum: go back or start again"
            )
        here, step_seed = self.history[self.at], self._step_seed(self.at + 1)
        carry: State = {}
        if driver == HAND:
            vector = self.encode_action(action)
        elif self.aim is not None and driver in (pixel_aim.REAL, pixel_aim.IMAGINED):
            if not here.memory:
                raise UsageError("click a pixel and then its goal in the picture first")
            kept = self.aim.make_carry(here.memory, here.carry if here.driver == driver else None)
            label = pixel_aim.LABELS[driver]
            vector, carry = self.rollouts.act(
                self.aim.behavior, label, here.state, kept, mix_seeds(step_seed, 1)
            )
        elif driver in self.rollouts.drivers:
            before = here.carry if here.driver == driver else None
            vector, carry = self.rollouts.choose_action(
                driver, here.state, before, mix_seeds(step_seed, 1)
            )
        else:
            raise UsageError(
                f"driver: {driver!r} is not one of {', '.join([HAND, *self.list_drivers()])}"
            )
        state = self.rollouts.imagine_step(here.state, vector, step_seed)
        predicted, memory = self.rollouts.predict(state), self._track(here, vector, step_seed)
        real = self._step_simulator(vector)
        if driver == pixel_aim.REAL and real.seen:
            state = self.rollouts.observe_next(here.state, real.seen, vector, step_seed)
        del self.history[self.at + 1 :]
        self.history.append(Moment(state, predicted, real, driver, vector, carry, memory))
        self.at += 1
        return self.history[-1]

    def aim_at(self, pixels: pixel_aim.Pixels, goals: pixel_aim.Pixels) -> Moment:
        """Designate pixels of the picture that is shown, and their goals; drops later steps."""
        if self.aim is None:
            raise UsageError("this model does not move pixels: there is nothing to aim at")
        self.aim.set(pixels, goals)
        here = self.history[self.at]
        del self.history[self.at + 1 :]
        for moment in self.history:
            moment.memory = {}
        if self.aim.is_set:
            here.state, here.memory = self.aim.begin(here.state)
        return here

    def _track(self, here: Moment, vector: np.ndarray, seed: int) -> State:
        """Where clicked pixels are expected after an action from `here`."""
        if self.aim is None or not here.memory:
            return {}
        return self.aim.advance(here.state, here.memory, vector, mix_seeds(seed, 2))

    def list_drivers(self) -> dict[str, str]:
        """The drivers beside the user's hand, with their labels."""
        found = {name: BEHAVIOR_LABELS[name] for name in self.rollouts.drivers}
        if self.aim is None:
            return found
        aims = pixel_aim.LABELS if self.simulator else [pixel_aim.IMAGINED]
        return {**found, **{name: pixel_aim.LABELS[name] for name in aims}}

    def rewind(self, at: int) -> Moment:
        """Show another step of the history; the next step continues from there."""
        if not 0 <= at < len(self.history):
            raise UsageError(
                f"at: there is no step {at}; this session has steps 0 to {len(self.history) - 1}"
            )
        self.at = at
        return self.history[at]

    def save_clip(self, directory: Path, first: int, last: int) -> Path:
        """Save steps first to last as a new GIF: imagined left, real right."""
        if not 0 <= first < last < len(self.history):
            raise UsageError(
                f"a clip goes from one step to a later one, within 0 to {len(self.history) - 1}"
            )
        sides = [[m.prediction.picture for m in self.history[first : last + 1]]]
        if all(m.real.picture is not None for m in self.history[first : last + 1]):
            sides.append([m.real.picture for m in self.history[first : last + 1]])
        if sides[0][0] is None:
            raise UsageError("no clip: this model cannot draw")
        frames = np.concatenate(
            [np.stack([p for p in side if p is not None]) for side in sides], 2
        )
        directory.mkdir(parents=True, exist_ok=True)
        number = 0
        while (path := directory / f"play-{number:03}.gif").exists():
            number += 1
        return media.save_gif(path, frames, CLIP_FPS)

    def encode_action(self, action: Any) -> np.ndarray:
        """Convert an action by hand, numbers in [-1, 1] or choices, to the model's vector (A,)."""
        space = self.rollouts.agent.space
        wanted = len(space.groups) or space.size
        numbers = action if isinstance(action, list | tuple | np.ndarray) else [action]
        if len(numbers) != wanted or any(
            isinstance(x, bool | str) or not np.isscalar(x) for x in numbers
        ):
            raise UsageError(
                f"action: give {wanted} number{'s' * (wanted > 1)}, not {str(action)[:60]!r}"
            )
        values = np.array([float(x) for x in numbers])
        if not np.isfinite(values).all():
            raise UsageError("action: give finite numbers")
        if not space.discrete:
            return values.clip(-1, 1).astype(np.float32)
        if any(x != int(x) or not 0 <= x < n for x, n in zip(values, space.groups, strict=True)):
            raise UsageError(
                f"action: choices go from 0 to {', '.join(str(n - 1) for n in space.groups)}"
            )
        return space.one_hot([torch.tensor(int(x)) for x in values]).numpy()

    def _begin(self, start: SessionStart, there: Any | None) -> Moment:
        self.start = start
        rows = {k: v[-self.context :] for k, v in start.rows.items()}
        state = self.rollouts.observe(rows, self._step_seed(0))
        real = self._read_step(there) if there is not None else RealStep()
        if self.aim is not None:
            self.aim.set([], [])
        self.history = [Moment(state, self.rollouts.predict(state), real)]
        self.at = self.simulator_at = 0
        return self.history[0]

    def _step_seed(self, step: int) -> int:
        assert self.start is not None
        return mix_seeds(self.seed, 13, *self.start.key, step)

    def _step_simulator(self, vector: np.ndarray) -> RealStep:
        """The simulator's result of an action at `at`; it is restored there if it is elsewhere."""
        here = self.history[self.at].real
        if not here.takes_part or self.simulator is None:
            return RealStep()
        if here.over:
            return replace(here, reward=None)
        if self.simulator_at != self.at and not self._restore_simulator(here):
            return RealStep()
        found = self._call_simulator(lambda simulator: simulator.act(vector))
        self.simulator_at = self.at + 1
        return self._read_step(found) if found is not None else RealStep()

    def _restore_simulator(self, here: RealStep) -> bool:
        """Restore the simulator to `at` by seed and actions; False if it does not reproduce."""
        assert self.start is not None and self.start.seed is not None
        done = [m.action for m in self.history[1 : self.at + 1] if m.action is not None]
        found = self._replay_actions(self.start.seed, [*self.start.actions, *done])
        shown = None if found is None else join_row(found.obs)
        moved = here.picture is not None and (
            shown is None or not np.array_equal(shown, here.picture)
        )
        if found is None or moved:
            self.note = (
                self.note or "the simulator did not return to this step: the model continues alone"
            )
            return False
        return True

    def _replay_actions(self, seed: int, actions: Sequence[np.ndarray] | np.ndarray) -> Any | None:
        return self._call_simulator(lambda simulator: simulator.restore(seed, actions))

    def _call_simulator(self, ask: Any) -> Any | None:
        """Call the simulator; if it fails for good, continue without it and leave a note."""
        assert self.simulator is not None
        try:
            return ask(self.simulator)
        except Exception as error:
            if exit_code_of(error) is None:
                raise
            # its budget of restarts is spent
            self.simulator, self.note = (
                None,
                f"the simulator failed ({' '.join(str(error).split())[:200]})",
            )
            return None

    def _read_step(self, step: Any) -> RealStep:
        over = (
            "it failed" if step.fault else "for good" if step.is_terminal else "at its time limit"
        )
        reward = None if step.is_first else float(step.reward)
        ending = over if step.is_last else ""
        pictures = find_pictures(step.obs)
        points = self.rollouts.find_points(pictures) if pictures else None
        return RealStep(join_row(step.obs), reward, ending, True, dict(step.obs), points)
