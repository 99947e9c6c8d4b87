"""Packages that register environments with Gymnasium when imported; none is imported here."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass

from .errors import MissingPackageError


@dataclass(frozen=True)
class Package:
    """A package of environments: what it registers, and how it is installed."""

    module: str
    pip: str  # what `pip install` is given
    prefixes: tuple[str, ...]  # of its ids
    extra: str = ""  # of this project
    adapter: str = ""  # the module of envs/adapters that makes its environments
    mujoco: bool = False  # whether MuJoCo draws its pictures
    conflict: str = ""  # why it needs an environment of its own

    def describe_place(self) -> str:
        """Return where to install it, if not beside everything else."""
        return f"in an environment of its own ({self.conflict})" if self.conflict else ""


_OLD_MUJOCO = "it needs an older mujoco than dm-control"
PACKAGES = (
    Package("ale_py", "ale-py", ("ALE/",), "atari", "atari"),
    Package("minigrid", "minigrid", ("MiniGrid-", "BabyAI-"), "minigrid"),
    Package(
        "crafter", "crafter", ("CrafterReward-v", "CrafterNoReward-v"), "crafter", "crafter_world"
    ),
    Package("gym_pusht", "gym-pusht", ("gym_pusht/",), conflict="its pygame overwrites pygame-ce"),
    Package(
        "gymnasium_robotics",
        "gymnasium-robotics 'mujoco<3.16'",
        ("Fetch", "HandReach", "HandManipulate", "AntMaze_", "PointMaze_", "Adroit", "Franka"),
        mujoco=True,
        conflict=_OLD_MUJOCO,
    ),
    Package(
        "metaworld",
        "metaworld",
        ("Meta-World/",),
        adapter="meta_world",
        mujoco=True,
        conflict=_OLD_MUJOCO,
    ),
)


def find_package(name: str) -> Package | None:
    """Find the package whose ids begin as `name` does."""
    return next((p for p in PACKAGES if name.startswith(p.prefixes)), None)


def is_importable(module: str) -> bool:
    """Say whether a top-level module is there, without importing it."""
    return module in sys.modules or importlib.util.find_spec(module) is not None


def check_installed(package: Package, name: str) -> None:
    """Raise MissingPackageError if the package of the environment `name` is not installed."""
    if not is_importable(package.module):
        extra = f" (the extra {package.extra!r} of this project)" if package.extra else ""
        place = f", {package.describe_place()}" if package.conflict else ""
        python = "python" if package.conflict else sys.executable  # this is not its environment
        raise MissingPackageError(
            f"gym:{name} needs the package {package.module}{place}: {python} -m pip install "
            f"{package.pip}{extra}"
        )
