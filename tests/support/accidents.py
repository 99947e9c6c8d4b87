"""Environments that misbehave, each in one way; a module of its own, which workers import quickly.

WM_ACCIDENT is "what when": what it does, at `make`, `reset`, `step` (its third), `close` or
`always`.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings

import gymnasium
import numpy as np
from gymnasium import spaces

PICTURE = spaces.Box(0, 255, (32, 32, 3), np.uint8)
BOX = spaces.Box(-1.0, 1.0, (1,), np.float32)


class Accident(gymnasium.Env):
    """A picture that counts its steps, episodes of 12, and one accident."""

    observation_space = PICTURE
    action_space = BOX

    def __init__(self):
        what, _, self.when = os.environ["WM_ACCIDENT"].partition(" ")
        self.accident = ACCIDENTS[what]
        self.count = 0
        self.picture = np.zeros((32, 32, 3), np.uint8)
        SPACES.get(what, lambda env: None)(self)
        self.happen("make")

    def happen(self, when, found=None):
        due = when == self.when and (when != "step" or self.count == 3)
        return self.accident(found) if due or self.when == "always" else found

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.happen("reset", (np.zeros((32, 32, 3), np.uint8), {}))

    def step(self, action):
        self.count += 1
        self.picture[:] = self.count  # the same buffer again, as some simulators do
        return self.happen("step", (self.picture, 1.0, False, self.count >= 12, {}))

    def render(self):
        return self.picture

    def close(self):
        self.happen("close")


def exit_with(code):
    def leave(found):
        sys.exit(code)

    return leave


def raise_error(error):
    def fail(found):
        raise error

    return fail


def replace(index, value):
    """Return another value in this place of what step or reset returns."""
    return lambda found: (*found[:index], value, *found[index + 1 :])


def die(found):
    os._exit(0)


def die_in_worker(found):
    if "torch" not in sys.modules:  # not in the training's own process
        os._exit(0)
    return found


def change_process(found):
    """Change all of the process that others depend on."""
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    random.seed(0)
    np.random.seed(0)
    np.seterr(all="raise")
    warnings.simplefilter("error")
    sys.stdout = sys.stderr = open(os.devnull, "w")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
    return found


def print_megabytes(found):
    print("x" * (2 << 20))
    return found


def warn(found):
    warnings.warn("the simulator is unhappy", stacklevel=1)
    return found


def leave_running(found):
    """Leave a thread and children that outlive the program, unless someone ends them."""
    threading.Thread(target=time.sleep, args=(3600,)).start()
    if not multiprocessing.current_process().daemon:  # such a one may have no children
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,)).start()
    subprocess.Popen(["sleep", os.environ["WM_SLEEP"]], start_new_session=False)
    return found


def keep(found):
    return found


def give(**attributes):
    """Give the environment other attributes."""

    def change(env):
        for name, value in attributes.items():
            setattr(env, name, value)

    return change


ACCIDENTS = {
    "exit_0": exit_with(0),
    "exit_words": exit_with("good bye"),
    "interrupt": raise_error(KeyboardInterrupt()),
    "generator_exit": raise_error(GeneratorExit()),
    "raise": raise_error(RuntimeError("boom\nof two lines")),
    "die": die,
    "die_in_worker": die_in_worker,
    "change_process": change_process,
    "keep": keep,
    "print": print_megabytes,
    "warn": warn,
    "leave_running": leave_running,
    "reward_none": replace(1, None),
    "reward_word": replace(1, "1.0"),
    "reward_array": replace(1, np.zeros(2)),
    "reward_one": replace(1, np.ones(1, np.float16)),
    "reward_infinite": replace(1, np.inf),
    "flag_numpy": replace(2, np.bool_(True)),
    "flag_integer": replace(2, 1),
    "flag_word": replace(2, "False"),
    "flag_none": replace(3, None),
    "four": lambda found: found[:3] + found[4:],
    "list": list,
    "observation_alone": lambda found: found[0],
    "info_none": lambda found: (*found[:-1], None),
    "info_list": lambda found: (*found[:-1], []),
    "info_ours": lambda found: (
        *found[:-1],
        {"frames": 10**9, "fault": "none", "seed": 3, "episode": {}, 7: 7, "success": "no"},
    ),
    "picture_float": lambda found: (found[0] / 255, *found[1:]),
    "picture_small": lambda found: (found[0][:5], *found[1:]),
    "picture_none": replace(0, None),
}
SPACES = {
    "billion": give(action_space=spaces.Discrete(10**9)),
    "shifted": give(action_space=spaces.Discrete(3, start=-1)),
    "words": give(action_space=spaces.Text(5)),
    "unbounded": give(action_space=spaces.Box(-np.inf, np.inf, (1,), np.float32)),
    "no_actions": give(action_space=None),
    "no_observations": give(observation_space=None),
    "graph": give(observation_space=spaces.Graph(BOX, BOX), render=lambda: None),
    "float_render": give(observation_space=BOX, render=lambda: np.zeros((8, 8, 3))),
}
ACCIDENTS |= dict.fromkeys(SPACES, keep)
