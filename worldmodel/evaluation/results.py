"""The JSON files that eval.py writes into RUN/eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.system.files import replace_file


def write_result(path: Path, values: dict[str, Any]) -> Path:
    """Write values as JSON, and the folder if it is new; numbers not finite become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(to_plain(values), indent=1, allow_nan=False) + "\n")
    return path


def to_plain(value: Any) -> Any:
    """Convert arrays to lists and non-finite numbers to None, which JSON has no words for."""
    if isinstance(value, dict):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [to_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
