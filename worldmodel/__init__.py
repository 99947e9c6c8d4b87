"""World models from pixels: train, evaluate, imagine.

import worldmodel
run = worldmodel.load("runs/dmc_cartpole_balance/planet/seed0")
action, carry = run.act(obs, carry)          # carry None starts an episode
frames = run.imagine(carry, actions)         # actions (H,A) -> pictures (H,H,W,3) uint8
"""

__version__ = "0.1.0"


def load(run_dir, device: str = "cpu"):
    """Open a saved run; torch is imported only here."""
    from worldmodel.api import Run

    return Run.open(run_dir, device=device)
