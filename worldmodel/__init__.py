"""World models from pixels: train, evaluate, imagine.

import worldmodel
run = worldmodel.train("quickstart", seed=1)  # or load("runs/dmc_cartpole_balance/planet/seed0")
action, carry = run.act(obs, carry)           # carry None starts an episode
frames = run.imagine(carry, actions)          # actions (H,A) -> pictures (H,H,W,3) uint8
env = worldmodel.DreamEnv(run)                # the model as a gymnasium.Env
envs = worldmodel.DreamVectorEnv(run, 64)     # 64 of them, imagined together
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worldmodel.dreams.dream_env import DreamEnv
    from worldmodel.dreams.dream_vector_env import DreamVectorEnv

__all__ = ["DreamEnv", "DreamVectorEnv", "load", "train"]
__version__ = "0.2.0"

# Installed, the folders envs/ and configs/ lie in this package. In a checkout they lie beside it.
if not (Path(__file__).parent / "configs").is_dir():
    __path__.append(str(Path(__file__).resolve().parents[1]))


def load(run_dir, device: str = "auto", make_simulator=None):
    """Open a saved run; torch is imported only here.

    A run that plans in the true simulator needs `make_simulator`, which is given the run's
    configuration and path: `lambda config, path: worldmodel.envs.make_simulator(config.env)`.
    """
    from worldmodel.saved_run import Run

    return Run.open(run_dir, device, make_simulator)


def train(*presets: str, env=None, overrides=None, **keys):
    """Train or resume a run in this process, as train.py does, and open it.

    Keys are those of the command line: dotted in the dict `overrides`, as tables of a section
    (`train={"prefill": 100}`), or by a short name (seed, task, frames, name). `env` is a class or
    function of yours that makes a gymnasium.Env, instead of a task's name. Mistakes raise what
    `worldmodel.errors` holds. Ctrl-C saves and raises KeyboardInterrupt; the same call resumes.
    """
    from worldmodel.command_line.python_train import train_run

    return train_run(presets, env, {**(overrides or {}), **keys})


def __getattr__(name: str):
    """What needs torch and gymnasium is imported when it is first asked for."""
    if name not in ("DreamEnv", "DreamVectorEnv"):
        raise AttributeError(f"module 'worldmodel' has no attribute {name!r}")
    _register_dreams()
    if name == "DreamEnv":
        from worldmodel.dreams.dream_env import DreamEnv

        return DreamEnv
    from worldmodel.dreams.dream_vector_env import DreamVectorEnv

    return DreamVectorEnv


def _register_dreams() -> None:
    """Let `gymnasium.make` and `make_vec` know worldmodel/Dream-v0."""
    from gymnasium.envs.registration import register, registry

    if "worldmodel/Dream-v0" not in registry:
        register(
            "worldmodel/Dream-v0",
            entry_point="worldmodel:DreamEnv",
            vector_entry_point="worldmodel:DreamVectorEnv",
        )


if "gymnasium" in sys.modules:  # importing it here would take longer than the rest
    _register_dreams()
