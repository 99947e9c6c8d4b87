"""Environments side by side, in processes of their own, supervised: a fault costs one episode, not
the run.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait

import gymnasium
import numpy as np
from gymnasium import spaces

from .process import Fault, Worker
from .worker import GRACE_S, Obs, Reset, Step, Stepper, describe

__all__ = [
    "EnvFailure",
    "Reset",
    "SerialEnv",
    "Step",
    "SupervisedEnvs",
    "VectorEnv",
    "make_vector",
]

MakeFn = Callable[[], gymnasium.Env]
Command = np.ndarray | int | Reset

log = logging.getLogger(__name__)


class EnvFailure(RuntimeError):
    """The environments failed more often than the restart budget allows."""


class SupervisedEnvs:
    """What both kinds share: the book on every episode, and what becomes of faults."""

    num_envs: int
    observation_space: spaces.Space
    action_space: spaces.Space

    def __init__(self, num_envs: int, restart_budget: int):
        self.num_envs = num_envs
        self.restart_budget = restart_budget
        self.faults = 0
        self.closed = False
        # The last good one, for a truncated episode
        self._obs: list[Obs] = [{} for _ in range(num_envs)]
        self._count = [0] * num_envs
        self._open = [False] * num_envs

    def step(self, commands: Sequence[Command]) -> list[Step]:
        """Give each environment its command, an action or Reset(seed), and return a Step of each.

        Where an environment fails its Step repeats the last observation with is_last set and
        info['fault'] saying why; its next command must be Reset. A Reset that fails is tried
        again.
        """
        if len(commands) != self.num_envs:
            raise ValueError(f"{len(commands)} commands for {self.num_envs} environments")
        steps = self.step_some(dict(enumerate(commands)))
        return [steps[i] for i in range(self.num_envs)]

    def begin(self, commands: Sequence[Command]) -> None:
        """Say what `step` will be called with next: environments in processes of their own get to
        work at once.
        """

    def step_some(self, commands: Mapping[int, Command]) -> dict[int, Step]:
        """`step` for some of the environments, by number; the others stay where they are."""
        if self.closed:
            raise ValueError("these environments are closed")
        for i, command in commands.items():
            if not self._open[i] and not isinstance(command, Reset):
                raise ValueError(
                    f"environment {i} has no open episode: its next command must be Reset(seed)"
                )
        todo, steps = dict(commands), {}
        notes: dict[int, str] = {}
        while todo:
            for i, outcome in self._run(todo).items():
                if isinstance(outcome, Fault):
                    notes[i] = self._book(i, todo[i], outcome)
                    if isinstance(todo[i], Reset):
                        continue
                    outcome = Step(self._obs[i], 0.0, False, True, False, {"frames": 0})
                if i in notes:
                    outcome.info["fault"] = notes[i]
                steps[i] = self._follow(i, outcome)
                del todo[i]
        return steps

    def _follow(self, i: int, step: Step) -> Step:
        self._open[i] = not step.is_last
        self._count[i] = 0 if step.is_first else self._count[i] + 1
        self._obs[i] = {key: value.copy() for key, value in step.obs.items()}
        return step

    def _book(self, i: int, command: Command, fault: Fault) -> str:
        """Count a fault, restart its environment and return the line about it, or give up."""
        what = (
            f"seed {command.seed}" if isinstance(command, Reset) else f"action {_short(command)}"
        )
        step = 0 if isinstance(command, Reset) else self._count[i] + 1
        line = f"env worker {i}, episode step {step}, {what}: {fault.error}"
        self.faults += 1
        log.warning("%s (fault %d, budget %d)", line, self.faults, self.restart_budget)
        if self.faults > self.restart_budget:
            self.close()
            raise EnvFailure(
                f"environments failed {self.faults} times, the budget is {self.restart_budget} "
                f"(env.restarts); "
                f"the last: {line}" + (f"\n{fault.trace}" if fault.trace else "")
            )
        self._restart(i)
        return line

    def _run(self, commands: dict[int, Command]) -> dict[int, Step | Fault]:
        """Carry out commands, all at once, and return the outcome of each."""
        raise NotImplementedError

    def _restart(self, i: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Close the environments; more than once does no harm."""
        raise NotImplementedError

    def __enter__(self) -> SupervisedEnvs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SerialEnv(SupervisedEnvs):
    """Environments in this process, one after the other; one that hangs cannot be helped here."""

    def __init__(self, make_fn: MakeFn, num_envs: int = 1, *, restart_budget: int = 10):
        super().__init__(num_envs, restart_budget)
        self._make_fn = make_fn
        try:
            steppers = [Stepper(make_fn) for _ in range(num_envs)]
        except ValueError:
            raise  # a mistake of the user's, said in its own words
        except Exception as problem:
            raise _not_started(0, Fault(describe(problem), traceback.format_exc())) from problem
        self._steppers: list[Stepper | None] = list(steppers)
        self.observation_space, self.action_space = steppers[0].spaces

    def _run(self, commands: dict[int, Command]) -> dict[int, Step | Fault]:
        return {i: self._one(i, command) for i, command in commands.items()}

    def _one(self, i: int, command: Command) -> Step | Fault:
        try:
            stepper = self._steppers[i] or Stepper(self._make_fn)
            self._steppers[i] = stepper
            step = stepper.apply(command)
            # The caller's, as from a worker
            step.obs = {key: value.copy() for key, value in step.obs.items()}
            return step
        except Exception as problem:
            return Fault(describe(problem), traceback.format_exc())

    def _restart(self, i: int) -> None:
        # Built again by the Reset that must follow
        stepper, self._steppers[i] = (
            self._steppers[i],
            None,
        )
        if stepper:
            with contextlib.suppress(Exception):
                stepper.close()

    def close(self) -> None:
        for i in range(self.num_envs):
            self._restart(i)
        self.closed = True


class VectorEnv(SupervisedEnvs):
    """Environments in a process each; one that dies, hangs for `timeout_s` or raises is started
    anew.
    """

    def __init__(
        self, make_fn: MakeFn, num_envs: int, *, timeout_s: float = 60.0, restart_budget: int = 10
    ):
        super().__init__(num_envs, restart_budget)
        self.timeout_s = timeout_s
        self._recipe = _pickled(make_fn)
        self._workers: list[Worker] = []
        self._begun: dict[int, tuple[Command, Fault | None]] = {}
        try:
            for _ in range(num_envs):
                self._workers.append(Worker(self._recipe))
            for i, worker in enumerate(self._workers):
                if fault := worker.await_ready():
                    raise _not_started(i, fault)
        except BaseException:
            self.close()
            raise
        assert self._workers[0].spaces
        self.observation_space, self.action_space = self._workers[0].spaces

    def _run(self, commands: dict[int, Command]) -> dict[int, Step | Fault]:
        try:
            return self._exchange(commands)
        except BaseException:
            self.close()  # interrupted between command and answer: the two would never match again
            raise

    def begin(self, commands: Sequence[Command]) -> None:
        try:
            self._hand_out(dict(enumerate(commands)))
        except BaseException:
            self.close()  # as in _run
            raise

    def _hand_out(self, commands: dict[int, Command]) -> dict[int, Step | Fault]:
        """Send commands, all but those that are on their way; return where that failed."""
        for i, (command, _) in self._begun.items():
            if i in commands and commands[i] is not command:
                raise ValueError(f"environment {i} has begun with another command")
        new = [i for i in commands if i not in self._begun]
        faults = {i: self._workers[i].await_ready() for i in new}
        for i in new:
            self._begun[i] = (commands[i], faults[i] or self._workers[i].send(commands[i]))
        return {i: fault for i in commands if (fault := self._begun[i][1])}

    def _exchange(self, commands: dict[int, Command]) -> dict[int, Step | Fault]:
        outcomes = self._hand_out(commands)
        for i in commands:
            del self._begun[i]
        pending = {self._workers[i].pipe: i for i in commands if i not in outcomes}
        deadline = time.monotonic() + self.timeout_s
        while pending:
            answered = wait(list(pending), max(deadline - time.monotonic(), 0.0))
            if not answered:
                outcomes.update(
                    {i: Fault(f"no answer in {self.timeout_s:g} s") for i in pending.values()}
                )
                break
            for pipe in answered:
                i = pending.pop(pipe)  # type: ignore[call-overload]
                outcomes[i] = self._workers[i].step()
        # Faults are booked in one order, whoever was first
        return {i: outcomes[i] for i in sorted(outcomes)}

    def _restart(self, i: int) -> None:
        self._workers[i].stop()
        self._workers[i] = Worker(self._recipe)  # it starts up while the others go on

    def close(self) -> None:
        for worker in self._workers:
            worker.hang_up()
        deadline = time.monotonic() + GRACE_S
        for worker in self._workers:
            worker.stop(deadline)
        self.closed = True


def make_vector(
    make_fn: MakeFn, num_envs: int, *, timeout_s: float = 60.0, restart_budget: int = 10
) -> SerialEnv | VectorEnv:
    """Return `num_envs` environments: one in this process, more in a process each."""
    if num_envs < 1:
        raise ValueError(f"the number of environments must be at least 1, not {num_envs}")
    if num_envs == 1:
        return SerialEnv(make_fn, restart_budget=restart_budget)
    return VectorEnv(make_fn, num_envs, timeout_s=timeout_s, restart_budget=restart_budget)


def _pickled(make_fn: MakeFn) -> bytes:
    """Return make_fn for the workers, or say why they could not have it."""
    advice = (
        "environments in several processes need a make_fn that a module defines, such as "
        "partial(envs.make, name)"
    )
    try:
        recipe = pickle.dumps(make_fn)
    except (pickle.PicklingError, AttributeError, TypeError) as problem:
        raise ValueError(f"{advice}: {describe(problem)}") from problem
    if b"__main__" in recipe:
        raise ValueError(f"{advice}, not the script itself")
    return recipe


def _not_started(i: int, fault: Fault) -> Exception:
    if fault.mistake:
        return ValueError(fault.error.removeprefix("ValueError: "))
    return EnvFailure(
        f"env worker {i} did not start: {fault.error}"
        + (f"\n{fault.trace}" if fault.trace else "")
    )


def _short(action: Command) -> str:
    return np.array2string(np.asarray(action), precision=3, threshold=16)
