"""Run directories from anyone: whatever has been done to their files, they are read or refused in one line.

WM_FUZZ multiplies how many inputs are tried.
"""

import json
import os
import random
import resource
import zlib

import numpy as np
import pytest
import torch

import mutate
from runs import command, seed_dir
from worldmodel import checkpoint, config
from worldmodel.checkpoint import CheckpointError
from worldmodel.checkpoint_format import digest, parse_tensors, read_manifest, seal
from worldmodel.chunks import Layout, ReplayError
from worldmodel.packed import PackedChunk
from worldmodel.replay import Replay
from worldmodel.rundir import RunDir, RunError

TIMES = float(os.environ.get("WM_FUZZ", "1"))
MEMORY = 400  # MB that nothing of this may take


@pytest.fixture(autouse=True)
def bounded(tmp_path):
    """Nothing is written outside of the run, and no memory is taken for what a file merely claims."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert {p.name for p in tmp_path.iterdir()} <= {"outside", "run"}
    assert [(p.name, p.read_text()) for p in (tmp_path / "outside").iterdir()] == [("kept", "kept")]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY * 1024


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
    return checkpoint.save(folder, 7, groups, {"frames": 3, "nested": [{"a": 1.5}]})


@pytest.mark.fault(15, "manifests of checkpoints mutated as bytes, and as JSON under a valid seal", "read or refused")
def test_manifests(tmp_path, record_property):
    path = saved(tmp_path / "run") / "manifest.json"
    good = path.read_bytes()
    content, refused = json.loads(good)["content"], 0
    for rng in inputs("manifest", 1200, record_property):
        try:
            bad = mutate.in_bytes(rng, good) if rng.random() < 0.4 else seal(mutate.in_json(rng, content))
        except ValueError:
            continue  # what JSON cannot hold
        path.write_bytes(bad)
        try:
            checkpoint.load(path.parent)
        except CheckpointError as error:
            assert "\n" not in str(error) and error.exit_code == 4
            refused += 1
    assert refused > 0.7 * 1200 * TIMES


@pytest.mark.fault(15, "safetensors files mutated, headers as JSON among them, checksums right", "read or refused")
def test_tensors(tmp_path, record_property):
    path = saved(tmp_path / "run") / "model.safetensors"
    good = path.read_bytes()
    size = int.from_bytes(good[:8], "little")
    header, body = json.loads(good[8 : 8 + size]), good[8 + size :]
    for rng in inputs("tensors", 6000, record_property):
        if rng.random() < 0.4:
            bad = mutate.in_bytes(rng, good)
        else:
            text = json.dumps(mutate.in_json(rng, header)).encode()
            bad = len(text).to_bytes(8, "little") + text + (mutate.in_bytes(rng, body) if rng.random() < 0.3 else body)
        try:
            tensors = parse_tensors(path, bad)
        except CheckpointError as error:
            assert error.exit_code == 4
        else:
            assert sum(t.numel() * t.element_size() for t in tensors.values()) <= len(bad)


SPEC = {"image": ((6, 5, 3), "uint8"), "reward": ((), "float32"), "is_first": ((), "bool")}


def replay(folder):
    return Replay(
        SPEC, capacity_bytes=40_000, store="ram", codec="zstd", directory=folder, num_streams=2, seed=0, chunk_rows=20
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
    return made.state()


@pytest.mark.fault(15, "replay manifests mutated", "read or refused")
def test_replay_manifests(tmp_path, record_property):
    folder = tmp_path / "run"
    state = collected(folder)
    files = {p: p.read_bytes() for p in folder.iterdir()}
    for rng in inputs("replay", 1500, record_property):
        found = replay(folder)
        try:
            found.load(json.loads(json.dumps(mutate.in_json(rng, state))))
            if found.can_sample(2, 3):
                found.sample(2, 3)
        except ReplayError as error:
            assert "\n" not in str(error)
        for path, data in files.items():
            if not path.exists() or path.stat().st_size != len(data):
                path.write_bytes(data)


@pytest.mark.fault(
    15,
    "packed replay chunks mutated, their checksums made right",
    "read or refused; nothing unpacks to more than its rows",
)
def test_packed_chunks(tmp_path, record_property):
    folder = tmp_path / "run"
    collected(folder)
    layout = Layout(SPEC)
    (path, *_) = sorted(folder.glob("*.zrows"))
    good = path.read_bytes()
    for rng in inputs("chunk", 1500, record_property):
        bad = mutate.in_bytes(rng, good)
        path.write_bytes(bad)
        chunk = PackedChunk(0, 0, rows=20, crc=zlib.crc32(bad))
        if not chunk.restore(folder, layout, 20):
            try:
                assert chunk.read(folder, layout.dtype, 3, 17).nbytes == 14 * layout.row_bytes
            except ReplayError as error:
                assert "\n" not in str(error)


@pytest.mark.fault(
    17, "saved configurations mutated as YAML: tags, bombs of references, endless numbers", "read or refused"
)
def test_configurations(tmp_path, record_property):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    good = config.to_yaml(config.parse(["debug"]))
    for rng in inputs("yaml", 60, record_property):
        run.config_file.write_text(mutate.in_yaml(rng, good))
        try:
            run.config()
        except RunError as error:
            assert error.exit_code == 4 and len(str(error)) < 20_000


@pytest.mark.fault(15, "state.json of a whole run mutated, every checksum right", "resumed, or refused with exit 4")
def test_whole_states(tmp_path, record_property, monkeypatch):
    import train as train_py

    root = tmp_path / "run"
    argv = command(root, "--run.frames", "40", "--log.final_episodes", "1")[2:]
    assert train_py.main(argv) == 0
    folder = max((seed_dir(root) / "checkpoints").iterdir(), key=lambda p: int(p.name))
    files = {p: p.read_bytes() for p in [*folder.iterdir(), *(seed_dir(root) / "replay").iterdir()]}
    state = json.loads(files[folder / "state.json"])
    with resumable(argv) as t:
        from worldmodel import snapshot

        for rng in inputs("state", 150, record_property):
            for path, data in files.items():
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
            body = json.dumps(mutate.in_json(rng, state)).encode()
            (folder / "state.json").write_bytes(body)
            _, entries = read_manifest(folder)
            listed = {name: {"sha256": sha, "bytes": size} for name, (sha, size) in entries.items()}
            listed["state.json"] = {"sha256": digest(body), "bytes": len(body)}
            (folder / "manifest.json").write_bytes(seal({"format": 1, "step": int(folder.name), "files": listed}))
            try:
                snapshot.resume(t)
            except (CheckpointError, ReplayError) as error:
                assert error.exit_code == 4 and "\n" not in str(error)


class resumable:
    """A training as train.py makes it, before it has resumed."""

    def __init__(self, argv):
        self.argv = argv

    def __enter__(self):
        from functools import partial

        import envs
        from envs.vector import Reset, make_vector
        from worldmodel.training import Training

        c = config.parse(self.argv)
        make = partial(envs.make, c.env.task, size=tuple(c.env.size))
        self.vector = make_vector(make, 1, restart_budget=10**9)
        return Training(c, self.vector, Reset, RunDir.of(c), torch.device("cpu"))

    def __exit__(self, *_):
        self.vector.close()
