"""Environments side by side, in processes of their own, supervised: a fault costs one episode, not
the run.
"""

from __future__ import annotations

import logging
import pickle
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait

import gymnasium
import numpy as np
from gymnasium import spaces

from ..errors import EnvFailure, EnvSettingsError
from .process import Fault, Worker
from .process_state import ProcessState
from .worker import GRACE_S, Command, Obs, Step, Stepper, describe, describe_failure

__all__ = [
    "EnvFailure",
    "SerialEnv",
    "Step",
    "SupervisedEnvs",
    "VectorEnv",
    "make_vector",
]

MakeFn = Callable[[], gymnasium.Env]
Action = np.ndarray | int

log = logging.getLogger(__name__)


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
        self._begun: dict[int, Command] = {}

    def reset(self, i: int, seed: int) -> Step:
        """Start a new episode of environment i from a seed; the other environments stay where
        they are.
        """
        self.begin_reset(i, seed)
        return self._finish([i])[i]

    def step(self, i: int, action: Action) -> Step:
        """Step environment i by an action; the other environments stay where they are."""
        self.begin_step(i, action)
        return self._finish([i])[i]

    def begin_reset(self, i: int, seed: int) -> None:
        """Like `reset`, but return at once: `finish` has the Step."""
        self._begin(i, Command("reset", seed))

    def begin_step(self, i: int, action: Action) -> None:
        """Like `step`, but return at once: an environment in a process of its own gets to work,
        and `finish` has the Step.
        """
        self._begin(i, Command("step", action))

    def finish(self) -> dict[int, Step]:
        """Wait for all that has begun and return the Steps by environment.

        Where an environment fails, its Step repeats the last observation with is_last set and
        `fault` saying why; it must be reset next. A reset that fails is tried again.
        """
        return self._finish(sorted(self._begun))

    def _begin(self, i: int, command: Command) -> None:
        if self.closed:
            raise ValueError("these environments are closed")
        if i in self._begun:
            raise ValueError(f"environment {i} has begun already: call finish first")
        if command.kind == "step" and not self._open[i]:
            raise ValueError(f"environment {i} has no open episode: reset it first")
        self._begun[i] = command
        self._send(i, command)

    def _finish(self, numbers: Sequence[int]) -> dict[int, Step]:
        todo = {i: self._begun.pop(i) for i in numbers}
        steps: dict[int, Step] = {}
        notes: dict[int, str] = {}
        while todo:
            for i, outcome in self._run(todo).items():
                if isinstance(outcome, Fault):
                    notes[i] = self._book(i, todo[i], outcome)
                    if todo[i].kind == "reset":
                        continue
                    outcome = Step(self._obs[i], 0.0, False, True, False)
                outcome.fault = notes.get(i, "")
                steps[i] = self._follow(i, outcome)
                del todo[i]
        return {i: steps[i] for i in numbers}

    def _follow(self, i: int, step: Step) -> Step:
        self._open[i] = not step.is_last
        self._count[i] = 0 if step.is_first else self._count[i] + 1
        self._obs[i] = {key: value.copy() for key, value in step.obs.items()}
        return step

    def _book(self, i: int, command: Command, fault: Fault) -> str:
        """Count a fault, restart its environment and return the line about it, or give up."""
        if command.kind == "reset":
            what, step = f"seed {command.value}", 0
        else:
            what, step = f"action {_short(command.value)}", self._count[i] + 1
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

    def _send(self, i: int, command: Command) -> None:
        """Let an environment get to work before anyone waits for it, where it can."""

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
        self._states = [ProcessState() for _ in range(num_envs)]
        steppers = []
        for i, state in enumerate(self._states):
            try:
                with state.lend():
                    steppers.append(Stepper(make_fn))
            except BaseException as problem:
                raise _not_started(i, _to_fault(problem)) from problem
        self._steppers: list[Stepper | None] = list(steppers)
        self.observation_space, self.action_space = steppers[0].spaces

    def _run(self, commands: dict[int, Command]) -> dict[int, Step | Fault]:
        return {i: self._one(i, command) for i, command in commands.items()}

    def _one(self, i: int, command: Command) -> Step | Fault:
        try:
            with self._states[i].lend():
                stepper = self._steppers[i] or Stepper(self._make_fn)
                self._steppers[i] = stepper
                step = stepper.apply(command)
            # The caller's, as from a worker
            step.obs = {key: value.copy() for key, value in step.obs.items()}
            return step
        except BaseException as problem:
            return _to_fault(problem)

    def _restart(self, i: int) -> None:
        # Built again by the reset that must follow
        stepper, self._steppers[i] = (
            self._steppers[i],
            None,
        )
        if stepper:
            try:
                with self._states[i].lend():
                    stepper.close()
            except BaseException as problem:
                log.warning("env worker %d, closing: %s", i, _to_fault(problem).error)

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
        self._sent: dict[int, Fault | None] = {}
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
            for i, command in commands.items():
                if i not in self._sent:  # a reset that is tried again
                    self._send(i, command)
            return self._receive(commands)
        except BaseException:
            self.close()  # interrupted between command and answer: the two would never match again
            raise

    def _send(self, i: int, command: Command) -> None:
        try:
            self._sent[i] = self._workers[i].await_ready() or self._workers[i].send(command)
        except BaseException:
            self.close()  # as in _run
            raise

    def _receive(self, commands: dict[int, Command]) -> dict[int, Step | Fault]:
        """Wait for the answers to commands that were sent."""
        sent = {i: self._sent.pop(i) for i in commands}
        outcomes: dict[int, Step | Fault] = {i: fault for i, fault in sent.items() if fault}
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
        raise EnvSettingsError(f"the number of environments must be at least 1, not {num_envs}")
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
        raise EnvSettingsError(f"{advice}: {describe(problem)}") from problem
    if b"__main__" in recipe:
        raise EnvSettingsError(f"{advice}, not the script itself")
    return recipe


def _to_fault(problem: BaseException) -> Fault:
    """Return what code of the environment raised as a fault; sys.exit there ends no run.

    Only Ctrl-C passes: Python's own handler raises KeyboardInterrupt wherever it strikes.
    """
    is_raised_by_signal = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if isinstance(problem, KeyboardInterrupt) and is_raised_by_signal:
        raise problem
    return Fault(*describe_failure(problem))


def _not_started(i: int, fault: Fault) -> Exception:
    if fault.mistake:
        return fault.mistake(fault.error)
    return EnvFailure(
        f"env worker {i} did not start: {fault.error}"
        + (f"\n{fault.trace}" if fault.trace else "")
    )


def _short(action: Action) -> str:
    return np.array2string(np.asarray(action), precision=3, threshold=16)
