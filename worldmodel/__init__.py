"""World models from pixels: train, evaluate, imagine.

import worldmodel
run = worldmodel.load("runs/dmc_cartpole_balance/planet/seed0")
action, carry = run.act(obs, carry)          # carry None starts an episode
frames = run.imagine(carry, actions)         # actions (H,A) -> pictures (H,H,W,3) uint8
env = worldmodel.DreamEnv(run.path)          # the model as a gymnasium.Env
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worldmodel.dream_env import DreamEnv

__all__ = ["DreamEnv", "load"]
__version__ = "0.2.0"

# Installed, the folders envs/ and configs/ lie in this package. In a checkout they lie beside it.
if not (Path(__file__).parent / "configs").is_dir():
    __path__.append(str(Path(__file__).resolve().parents[1]))


def load(run_dir, device: str = "cpu"):
    """Open a saved run; torch is imported only here."""
    from worldmodel.saved_run import Run

    return Run.open(run_dir, device=device)


def __getattr__(name: str):
    """What needs torch and gymnasium is imported when it is first asked for."""
    if name == "DreamEnv":
        from worldmodel.dream_env import DreamEnv

        return DreamEnv
    raise AttributeError(f"module 'worldmodel' has no attribute {name!r}")
