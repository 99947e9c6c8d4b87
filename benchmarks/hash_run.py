"""Hash a run directory row by row, without the code that wrote it, and translate old names.

A row is a tensor, a replay column, a metric's series or a plain value. renamed.json holds, for
each part, "old": "new" names (whole names or their first segments), names that are left out of
comparisons, and the part that each group of a checkpoint's tensors belongs to.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import zstandard
from ruamel.yaml import YAML

TABLE = json.loads(Path(__file__).with_name("renamed.json").read_text())
UPDATES = 60

Rows = dict[str, str]  # name -> hash
Parts = dict[str, Rows]
Column = tuple[list[int], str, bytes]  # shape, dtype, bytes


class RunError(RuntimeError):
    """A training did not end as it should, or left what cannot be read here."""


def translate_name(name: str, renamed: Mapping[str, str]) -> str:
    """Return the new name; the longest old one that fits the name's front counts."""
    for old in sorted(renamed, key=len, reverse=True):
        if begins_with(name, old):
            return renamed[old] + name[len(old) :]
    return name


def begins_with(name: str, front: str) -> bool:
    """Whether `front` is the name or its first segments; a segment ends at a dot or a slash."""
    return name == front or name.startswith((front + ".", front + "/"))


def translate_parts(parts: Parts, table: Mapping[str, Any] = TABLE) -> Parts:
    """Give every row its new name and drop the rows that the table leaves out."""
    found: Parts = {}
    for part, rows in parts.items():
        renamed, dropped = table["renamed"].get(part, {}), table["left_out"].get(part, [])
        new = {translate_name(name, renamed): value for name, value in rows.items()}
        kept = [name for name in new if not any(begins_with(name, front) for front in dropped)]
        found[part] = {name: new[name] for name in sorted(kept)}
    return found


def hash_rows(part: str, rows: Rows) -> str:
    """Hash a part; the optimiser's rows count without names, which are only places in a list."""
    return hash_value(sorted(rows.values() if part == "optimiser" else rows.items()), 64)


def hash_value(value: Any, digits: int = 16) -> str:
    """Hash plain values by their JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def hash_array(shape: list[int], dtype: str, data: bytes) -> str:
    """Hash an array by shape, dtype and bytes."""
    return hashlib.sha256(json.dumps([shape, dtype]).encode() + data).hexdigest()[:16]


def hash_run(run: Path) -> Parts:
    """Hash what the newest checkpoint, the replay, the metrics and the configuration hold."""
    checkpoints = (run / "checkpoints").glob("[0-9]*")
    checkpoint = max(checkpoints, key=lambda path: int(path.name))
    state = json.loads((checkpoint / "state.json").read_text())
    check_updates(state)
    parts: Parts = {"weights": {}, "optimiser": {}, "agent": {}, "generators": {}}
    for path in sorted(checkpoint.glob("*.safetensors")):
        for name, tensor in safetensors.deserialize(path.read_bytes()):
            group = "generators" if name == "generator" else path.stem
            part = TABLE["groups"].get(group, "weights")
            parts[part][f"{path.stem}/{name}"] = hash_tensor(name, tensor)
    parts["generators"]["replay/generator"] = hash_value(state["replay"].pop("generator"))
    columns = read_replay(run / "replay", state["replay"])
    parts["replay"] = {name: hash_array(*column) for name, column in columns.items()}
    pending = hash_pending(state.pop("means"))
    parts["metrics"] = hash_series(run / "metrics.jsonl", run / "scores.jsonl") | pending
    state["observation"] = list_shapes(state["observation"])
    parts["state"] = hash_leaves(state)
    parts["config"] = hash_leaves(read_yaml(run / "config.yaml"))
    return parts


def check_updates(state: Mapping[str, Any]) -> None:
    """Raise RunError unless the run made all of its updates and skipped none."""
    updates, skipped = state["learner"]["updates"], state["learner"]["skipped"]
    if updates != UPDATES or skipped:
        raise RunError(f"{updates} updates and {skipped} skipped where {UPDATES} and 0 are due")


def hash_tensor(name: str, tensor: Mapping[str, Any]) -> str:
    """Hash a tensor; an optimiser's counter counts by its value, whatever its dtype."""
    data, dtype, shape = bytes(tensor["data"]), tensor["dtype"], list(tensor["shape"])
    counters = {"F32": "<f", "F64": "<d", "I32": "<i", "I64": "<q"}
    if name.endswith("/step") and not shape and dtype in counters:
        return hash_value(float(struct.unpack(counters[dtype], data)[0]))
    return hash_array(shape, dtype, data)


def read_replay(directory: Path, manifest: Mapping[str, Any]) -> dict[str, Column]:
    """Return each key's column over all rows, oldest first."""
    if manifest["format"] != 1:
        raise RunError(f"replay format {manifest['format']}: read_replay has no case for it yet")
    spec = {k: (tuple(shape), np.dtype(kind)) for k, (shape, kind) in manifest["spec"].items()}
    flags = sorted(k for k, (shape, dtype) in spec.items() if shape == () and dtype.kind == "b")
    arrays = sorted(spec.keys() - set(flags))
    fields = [(f"c{i}", spec[key][1], spec[key][0]) for i, key in enumerate(arrays)]
    record = np.dtype([*fields, ("flags", np.uint8, ((len(flags) + 7) // 8,))])
    chunks = sorted(manifest["chunks"], key=lambda chunk: (chunk["stream"], chunk["first"]))
    # Rows of a chunk's file that are newer than the checkpoint do not count.
    held = [np.frombuffer(read_chunk(directory / c["file"]), record)[: c["rows"]] for c in chunks]
    rows = np.concatenate(held)
    bits = np.unpackbits(rows["flags"], axis=-1, bitorder="little")
    columns = {key: rows[f"c{i}"] for i, key in enumerate(arrays)}
    columns |= {key: bits[:, i] for i, key in enumerate(flags)}
    return {k: (list(c.shape), spec[k][1].str, c.tobytes()) for k, c in columns.items()}


def read_chunk(path: Path) -> bytes:
    """Return a chunk's rows; a .zrows file has a header, block sizes and compressed blocks."""
    data = path.read_bytes()
    if path.suffix != ".zrows":
        return data
    blocks = struct.unpack_from("<III", data)[2]
    sizes = struct.unpack_from(f"<{blocks}I", data, 12)
    ends = np.cumsum([12 + 4 * blocks, *sizes])
    unpack = zstandard.ZstdDecompressor().decompress
    return b"".join(unpack(data[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True))


def hash_series(*paths: Path) -> Rows:
    """Hash each metric's values with the frames they were logged at."""
    series: dict[str, list] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            values = json.loads(line)
            for name, value in values.items():
                series.setdefault(name, []).append([values["frames"], value])
    return {name: hash_value(values) for name, values in series.items()}


def hash_pending(means: list[dict[str, Any]]) -> Rows:
    """Hash the sums that a checkpoint holds for the next line of metrics."""
    return {
        f"train/{name}/pending": hash_value([total, group["count"]])
        for group in means
        for name, total in group["sums"].items()
    }


def list_shapes(observation: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return {name: shape} of specs that are shapes, sizes of vectors, or tables with a shape."""
    shapes = {}
    for name, value in observation.items():
        shape = value.get("shape") if isinstance(value, dict) else value
        if shape is not None:
            shapes[name] = [shape] if isinstance(shape, int) else list(shape)
    return shapes


def hash_leaves(value: Mapping[str, Any]) -> Rows:
    return {name: hash_value(leaf) for name, leaf in flatten(value).items()}


def flatten(value: Any, front: str = "") -> dict[str, Any]:
    """Name every leaf of nested tables by its dotted path; lists are leaves."""
    if not isinstance(value, dict) or not value:
        return {front: value}
    leaves: dict[str, Any] = {}
    for key, deeper in value.items():
        leaves |= flatten(deeper, f"{front}.{key}" if front else str(key))
    return leaves


def read_yaml(path: Path) -> dict[str, Any]:
    return YAML(typ="safe").load(path.read_text())
