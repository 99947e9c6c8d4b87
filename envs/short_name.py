"""The modules of worldmodel.envs under the name `envs`, which a checkout's folder has."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SHORT, FULL = "envs", "worldmodel.envs"


class ShortName(MetaPathFinder, Loader):
    """Finds `envs.x` as `worldmodel.envs.x`, so that each class exists once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname.startswith(SHORT + ".") else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(FULL + spec.name.removeprefix(SHORT))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own specification again, which the import has replaced."""
        module.__spec__ = module.__spec__.loader_state  # type: ignore[union-attr]


def share_modules() -> None:
    """Make `envs` and all below it the modules of worldmodel.envs."""
    sys.meta_path.insert(0, ShortName())
    sys.modules[SHORT] = importlib.import_module(FULL)
