"""The directory of a run that is named as a directory, a zip file or hf://user/repo."""

from __future__ import annotations

from pathlib import Path

from worldmodel.packing import archive, hub


def locate_run(name: str | Path) -> Path:
    """Find, unpack or download the run directory that a name stands for."""
    if hub.is_address(str(name)):
        return hub.download(hub.parse_address(str(name)))
    path = Path(name)
    return archive.unpack(path) if path.suffix == ".zip" and path.is_file() else path
