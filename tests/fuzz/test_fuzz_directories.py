"""Run directories from anyone: whatever has been done to their files, they are read or refused in
one line.

WM_FUZZ multiplies how many inputs are tried.
"""

import json
import mmap
import os
import random
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import mutate
from worldmodel.checkpoint import store, validate
from worldmodel.checkpoint.format import parse_tensors, report_incompatible, seal_manifest
from worldmodel.checkpoint.saved_spaces import read_spaces
from worldmodel.checkpoint.store import CheckpointError
from worldmodel.config import loading
from worldmodel.errors import RunError
from worldmodel.replay.buffer import Replay
from worldmodel.replay.chunk import Layout, ReplayError
from worldmodel.replay.compressed_chunk import CompressedChunk
from worldmodel.replay.samplers.uniform import Uniform
from worldmodel.run_directory import RunDir
from worldmodel.training.logger import Means

TIMES = float(os.environ.get("WM_FUZZ", "1"))
MEMORY = 150  # MB that nothing of this may take


def forget():
    """From here on `peak` knows nothing of what was held before."""
    Path("/proc/self/clear_refs").write_text("5")


def peak():
    """Most of memory, in KB, that this process has held since it was last asked to forget."""
    return int(
        next(
            x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")
        ).split()[1]
    )


@pytest.fixture(autouse=True)
def bounded(tmp_path):
    """Nothing is written outside of the run, and no memory is taken for what a file
    merely claims.
    """
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    forget()
    before = peak()
    yield
    assert {p.name for p in tmp_path.iterdir()} <= {"outside", "run"}
    assert [(p.name, p.read_text()) for p in (tmp_path / "outside").iterdir()] == [
        ("kept", "kept")
    ]
    assert peak() - before < MEMORY * 1024


def test_the_bound_on_memory_sees_what_is_taken_and_given_back():
    forget()
    before = peak()
    with mmap.mmap(-1, 100 << 20) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
    assert 95 << 10 < peak() - before < 110 << 10
    forget()
    assert peak() < before + (5 << 10)


def inputs(kind, count, record_property):
    """Seeded generators, one for each input."""
    count = int(count * TIMES)
    record_property("times", count)
    return (random.Random(f"{kind} {i}") for i in range(count))


def saved(folder):
    groups = {
        "model": {"w": torch.randn(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16)},
        "generators": {"g": torch.arange(9)},
    }
    return store.save(folder, 7, groups, {"frames": 3, "nested": [{"a": 1.5}]})


@pytest.mark.fault(
    15,
    "manifests of checkpoints mutated as bytes, and as JSON with a valid checksum",
    "read or refused",
)
def test_manifests(tmp_path, record_property):
    path = saved(tmp_path / "run") / "manifest.json"
    good = path.read_bytes()
    content, refused = json.loads(good)["content"], 0
    for rng in inputs("manifest", 1800, record_property):
        try:
            bad = (
                mutate.in_bytes(rng, good)
                if rng.random() < 0.4
                else seal_manifest(mutate.in_json(rng, content))
            )
        except ValueError:
            continue  # what JSON cannot hold
        path.write_bytes(bad)
        try:
            store.load(path.parent)
        except CheckpointError as error:
            assert "\n" not in str(error) and error.exit_code == 4
            refused += 1
    assert refused > 0.7 * 1800 * TIMES


@pytest.mark.fault(
    15,
    "safetensors files mutated, headers as JSON included, with valid checksums",
    "read or refused",
)
def test_tensors(tmp_path, record_property):
    path = saved(tmp_path / "run") / "model.safetensors"
    good = path.read_bytes()
    size = int.from_bytes(good[:8], "little")
    header, body = json.loads(good[8 : 8 + size]), good[8 + size :]
    for rng in inputs("tensors", 2600, record_property):
        if rng.random() < 0.4:
            bad = mutate.in_bytes(rng, good)
        else:
            text = json.dumps(mutate.in_json(rng, header)).encode()
            bad = (
                len(text).to_bytes(8, "little")
                + text
                + (mutate.in_bytes(rng, body) if rng.random() < 0.3 else body)
            )
        try:
            tensors = parse_tensors(path, bad)
        except CheckpointError as error:
            assert error.exit_code == 4
        else:
            assert sum(t.numel() * t.element_size() for t in tensors.values()) <= len(bad)


SPEC = {"image": ((6, 5, 3), "uint8"), "reward": ((), "float32"), "is_first": ((), "bool")}


def replay(folder):
    return Replay(
        SPEC,
        capacity_bytes=40_000,
        store="ram",
        codec="zstd",
        directory=folder,
        num_streams=2,
        seed=0,
        sampler=Uniform(),
        chunk_rows=20,
    )


def collected(folder):
    made = replay(folder)
    rng = np.random.default_rng(0)
    for i in range(50):
        for stream in range(2):
            made.add(
                stream,
                {
                    "image": rng.integers(9, size=(6, 5, 3), dtype=np.uint8),
                    "reward": np.float32(i),
                    "is_first": i % 7 == 0,
                },
            )
    made.flush(strict=True)
    return made.state_dict()


@pytest.mark.fault(15, "replay manifests mutated", "read or refused")
def test_replay_manifests(tmp_path, record_property):
    folder = tmp_path / "run"
    state = collected(folder)
    files = {p: p.read_bytes() for p in folder.iterdir()}
    for rng in inputs("replay", 1900, record_property):
        found = replay(folder)
        try:
            found.load_state_dict(json.loads(json.dumps(mutate.in_json(rng, state))))
            if found.can_sample(2, 3):
                found.sample(2, 3)
        except ReplayError as error:
            assert "\n" not in str(error)
        for path, data in files.items():
            if not path.exists() or path.stat().st_size != len(data):
                path.write_bytes(data)


@pytest.mark.fault(
    15,
    "compressed replay chunks mutated, with valid checksums",
    "read or refused; nothing unpacks to more than its rows",
)
def test_packed_chunks(tmp_path, record_property):
    folder = tmp_path / "run"
    collected(folder)
    layout = Layout(SPEC)
    (path, *_) = sorted(folder.glob("*.zrows"))
    good = path.read_bytes()
    for rng in inputs("chunk", 1900, record_property):
        bad = mutate.in_bytes(rng, good)
        path.write_bytes(bad)
        chunk = CompressedChunk(0, 0, rows=20, crc=zlib.crc32(bad))
        if not chunk.restore(folder, layout, 20):
            try:
                assert chunk.read(folder, layout.dtype, 3, 17).nbytes == 14 * layout.row_bytes
            except ReplayError as error:
                assert "\n" not in str(error)


@pytest.mark.fault(
    17,
    "saved configurations mutated as YAML: tags, reference bombs, huge numbers",
    "read or refused",
)
def test_configurations(tmp_path, record_property):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    good = loading.to_yaml(loading.parse(["debug"]))
    sections = re.findall(r"^\w.*\n(?: .*\n)*", good, re.MULTILINE)
    assert "".join(sections) == good and len(sections) > 20
    (task,) = (text for text in sections if text.startswith("env:"))
    accepted = 0
    for rng in inputs("yaml", 350, record_property):
        some = task + "".join(rng.sample(sections, 3))  # what is left out takes its default
        run.config_file.write_text(mutate.in_yaml(rng, some))
        try:
            run.load_config()
            accepted += 1
        except RunError as error:
            assert error.exit_code == 4 and len(str(error)) < 20_000
    assert 0.02 * 350 * TIMES < accepted < 0.5 * 350 * TIMES


@pytest.mark.fault(
    15,
    "state.json mutated after reading",
    "every value that training and eval use is accepted or refused",
)
def test_states(tmp_path, record_property):
    state = json.loads(STATE)
    refused = 0
    for rng in inputs("plain state", 1500, record_property):
        bad = json.loads(json.dumps(mutate.in_json(rng, state)))
        means = Means()
        try:
            with report_incompatible(tmp_path):
                validate.check_state(bad, 50)
                read_spaces(bad)
                means.load_state_dict(bad["means"])
        except CheckpointError as error:
            assert "\n" not in str(error) and len(str(error)) < 900
            refused += 1
        else:
            assert all(isinstance(value, float) for value in means.pop().values())
            assert (
                bad["rollout"]["steps"] + bad["learner"]["updates"] == 50
                and 0 <= bad["prefill"]["steps"] <= 40
            )
            assert (
                0 <= bad["logger"]["minutes"] < 2**53 if bad["logger"] else bad["logger"] is None
            )
    assert refused > 0.7 * 1500 * TIMES


# As a run of the preset debug leaves it, but for the rollout and the replay, which check their
# own.
STATE = """{"frames": 40, "observation": {"image": [32, 32, 3], "vector": null},
"action": {"size": 2, "groups": [2], "scalar": true},
"learner": {"updates": 10, "skipped": 0, "skipped_in_a_row": 0, "rollbacks": 0},
"due": {"log": false, "eval": false, "save": false}, "prefill": {"over": true, "steps": 30},
"means": [{"sums": {"loss/image": "0x1.8p3", "kl": "-0x1p-4"}, "count": 3},
 {"sums": {"loss/actor": "nan"}, "count": 1}],
"logger": {"metrics": 900, "scores": 100, "minutes": 0.25}, "rollout": {"steps": 40},
"others": []}"""
