"""Checkpoints: killed, cut, flipped, forged or without space, the newest whole one still loads."""

import json
import logging
import multiprocessing
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from worldmodel.checkpoint.format import FORMAT, hash_bytes, seal_manifest
from worldmodel.checkpoint.store import (
    CheckpointError,
    load,
    load_into,
    load_latest,
    read_all_states,
    save,
)
from worldmodel.system import fault_injection, files

# The fault points of writing one checkpoint.
POINTS = fault_injection.SAVE_POINTS[
    fault_injection.SAVE_POINTS.index("start") : fault_injection.SAVE_POINTS.index("saved")
]
FILES = ("manifest.json", "state.json", "model.safetensors", "generators.safetensors")


def content(step):
    """Make groups and a state that tell one step from another."""
    generator = np.random.Generator(np.random.PCG64(step))
    groups = {
        "model": {
            "weight": torch.full((3, 5), float(step)),
            "half": torch.full((7,), step, dtype=torch.bfloat16),
        },
        "generators": {"torch": torch.arange(16, dtype=torch.uint8)},
    }
    return groups, {
        "step": step,
        "numpy": generator.bit_generator.state,
        "seen": [1, 2.5, None, "x"],
    }


def save_step(directory, step, **kwargs):
    groups, state = content(step)
    return save(directory, step, groups, state, **kwargs)


def assert_is(loaded, step):
    groups, state = content(step)
    assert loaded.step == step and loaded.state == state and loaded.groups.keys() == groups.keys()
    for group, tensors in groups.items():
        assert loaded.groups[group].keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert loaded.groups[group][key].dtype == tensor.dtype
            assert torch.equal(loaded.groups[group][key], tensor)


def in_child(function, *args):
    """Run a function in a forked process and return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    process.join(30)
    assert process.exitcode is not None
    return process.exitcode


def names(directory):
    return sorted(path.name for path in Path(directory).iterdir())


def test_round_trip_of_every_kind_of_tensor(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "f32": torch.randn(2, 3),
        "bf16": torch.randn(4).to(torch.bfloat16),
        "u8": torch.Generator().get_state(),
        "i64": torch.tensor([-(2**62), 2**62]),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.5),
        "none": torch.empty(0, 4),
        "transposed": base.T,
        "whole": base,
        "shared": base[1:],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.randn(6)),
    }
    state = {
        "numpy": np.random.default_rng(3).bit_generator.state,
        "text": "é",
        "nested": {"a": [True, None, 1e-30]},
    }
    path = save(tmp_path, 7, {"all": tensors, "empty": {}}, state)
    loaded = load_latest(tmp_path)
    assert path == loaded.path == tmp_path / "000000007" and loaded.step == 7
    assert loaded.state == state and loaded.groups["empty"] == {}
    for key, tensor in tensors.items():
        found = loaded.groups["all"][key]
        assert found.dtype == tensor.dtype and torch.equal(found, tensor.detach()), key
    generator = np.random.Generator(np.random.PCG64(0))
    generator.bit_generator.state = loaded.state["numpy"]
    assert generator.integers(1 << 40) == np.random.default_rng(3).integers(1 << 40)


def test_nothing_saved_is_none_and_missing_directory_too(tmp_path):
    assert load_latest(tmp_path) is None and load_latest(tmp_path / "absent") is None
    assert read_all_states(tmp_path / "absent") == []


def test_prunes_to_the_last_and_reports_what_is_retained(tmp_path):
    for step in (5, 40, 300, 2000):
        save_step(tmp_path, step, keep=2)
    assert names(tmp_path) == ["000000300", "000002000"]
    assert [state["step"] for state in read_all_states(tmp_path)] == [300, 2000]


def test_a_number_is_never_overwritten(tmp_path):
    path = save_step(tmp_path, 4)
    before = {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in path.iterdir()}
    assert save(tmp_path, 4, {"other": {}}, {}) == path
    assert {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in path.iterdir()} == before
    (path / "state.json").write_text("{}")
    assert save_step(tmp_path, 4) == path
    assert_is(load(path), 4)
    assert names(tmp_path / "quarantine") == ["000000004-damaged"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.fault(
    1,
    "os._exit at each sub-step of a checkpoint, the library alone",
    "the newest complete checkpoint loads",
)
def test_killed_at_every_sub_step(tmp_path, monkeypatch, point):
    for step in (1, 2, 3):
        save_step(tmp_path, step)
    monkeypatch.setenv("WM_FAULT", f"save:{point}")
    assert in_child(save_step, tmp_path, 4) == 137
    monkeypatch.delenv("WM_FAULT")
    if point == "prune-moved":
        assert "000000001" not in names(tmp_path)  # what is half deleted must not carry a number
    arrived = POINTS.index(point) >= POINTS.index("renamed")
    assert_is(load_latest(tmp_path), 4 if arrived else 3)
    assert not (tmp_path / "quarantine").exists()
    save_step(tmp_path, 5)  # by another process: what the dead one left is cleared away
    assert_is(load_latest(tmp_path), 5)
    assert all(name.isdigit() for name in names(tmp_path)) and len(names(tmp_path)) == 3


def save_on(path, seen):
    """Save up to step 4 from the newest checkpoint on, whose step is noted."""
    start = load_latest(path).step
    seen.write_text(str(start))
    for step in range(start + 1, 5):
        save(path, step, {"m": {"w": torch.full((3,), step)}}, {"n": step})


def test_killed_program_resumes(tmp_path, monkeypatch):
    seen = tmp_path / "seen"
    save(tmp_path / "run", 2, {"m": {"w": torch.full((3,), 2)}}, {"n": 2})
    for fault, code in (("save:manifest-torn", 137), (None, 0)):
        monkeypatch.setenv("WM_FAULT", fault) if fault else monkeypatch.delenv("WM_FAULT")
        assert in_child(save_on, tmp_path / "run", seen) == code
        assert seen.read_text() == "2"
    assert load_latest(tmp_path / "run").state == {"n": 4}


def test_staging_of_a_live_process_is_left_alone(tmp_path):
    other = subprocess.Popen(["sleep", "30"])
    try:
        (tmp_path / f".tmp-9-{other.pid}").mkdir(parents=True)
        save_step(tmp_path, 1)
        assert (tmp_path / f".tmp-9-{other.pid}").is_dir()
    finally:
        other.kill()
        other.wait()
    save_step(tmp_path, 2)
    assert names(tmp_path) == ["000000001", "000000002"]


def flip(path, where):
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1 << 3
    path.write_bytes(data)


def cut(path, fraction):
    os.truncate(path, int(path.stat().st_size * fraction))


DAMAGES = {
    "cut to 0 %": lambda path: cut(path, 0),
    "cut to 50 %": lambda path: cut(path, 0.5),
    "cut to 99 %": lambda path: cut(path, 0.99),
    "first bit": lambda path: flip(path, 0),
    "middle bit": lambda path: flip(path, 0.5),
    "last bit": lambda path: flip(path, 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.fault(
    2,
    "each file truncated, with a flipped bit, extended or deleted, the library alone",
    "set aside with one warning; the previous one loads",
)
def test_damage_falls_back_one(tmp_path, caplog, name, damage):
    save_step(tmp_path, 1)
    DAMAGES[damage](save_step(tmp_path, 2) / name)
    with caplog.at_level(logging.WARNING):
        assert_is(load_latest(tmp_path), 1)
    assert len(caplog.records) == 1 and "\n" not in caplog.text.strip()
    (aside,) = names(tmp_path / "quarantine")
    assert aside.startswith("000000002-") and names(tmp_path) == ["000000001", "quarantine"]


def test_every_bit_of_a_manifest_counts(tmp_path):
    path = save_step(tmp_path, 2) / "manifest.json"
    good = path.read_bytes()
    for i in range(0, len(good) * 8, 7):
        bad = bytearray(good)
        bad[i // 8] ^= 1 << (i % 8)
        path.write_bytes(bad)
        with pytest.raises(CheckpointError):
            load(path.parent)
    path.write_bytes(good)
    assert_is(load(path.parent), 2)


def test_all_damaged_stops_and_goes_on_stopping(tmp_path):
    for step in (1, 2):
        cut(save_step(tmp_path, step) / "model.safetensors", 0.5)
    for _ in range(2):  # the second start finds only the quarantine
        with pytest.raises(
            CheckpointError,
            match=r"every checkpoint in .* is damaged; start over with --run.fresh true",
        ):
            load_latest(tmp_path)
    assert CheckpointError.exit_code == 4
    save_step(tmp_path, 3)
    assert_is(load_latest(tmp_path), 3)


def forge(path, *, files=None, fmt=FORMAT, data=None):
    """Rewrite a checkpoint with a valid seal around other contents."""
    for name, body in (data or {}).items():
        (path / name).write_bytes(body)
    entries = {
        p.name: {"sha256": hash_bytes(p.read_bytes()), "bytes": p.stat().st_size}
        for p in path.iterdir()
    }
    entries.pop("manifest.json")
    (path / "manifest.json").write_bytes(
        seal_manifest({"format": fmt, "step": 2, "files": {**entries, **(files or {})}})
    )


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "x.pkl", ".."]
)
@pytest.mark.fault(15, "paths in a checkpoint's manifest, with valid checksums", "refused")
def test_manifest_names_that_are_paths_are_refused(tmp_path, name):
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(b"x" * 9)
    path = save_step(tmp_path, 2)
    forge(path, files={name: {"sha256": hash_bytes(b"x" * 9), "bytes": 9}})
    with pytest.raises(CheckpointError, match="not a file name"):
        load(path)
    assert secret.read_bytes() == b"x" * 9


@pytest.mark.parametrize("size", [10**6, 10**15, -1, 2.0, "9", True, None])
def test_impossible_sizes_are_refused(tmp_path, size):
    path = save_step(tmp_path, 2)
    forge(path, files={"model.safetensors": {"sha256": "0" * 64, "bytes": size}})
    with pytest.raises(CheckpointError):
        load(path)


def test_a_sparse_giant_is_not_read(tmp_path):
    path = save_step(tmp_path, 2)
    os.truncate(path / "manifest.json", 1 << 40)
    os.truncate(path / "state.json", 1 << 40)
    with pytest.raises(CheckpointError, match="bytes where"):
        load(path)


@pytest.mark.parametrize("what", ["state.json", "model.safetensors", "manifest.json", "."])
def test_symlinks_are_refused(tmp_path, what):
    path = save_step(tmp_path / "run", 2)
    original = path / what
    moved = tmp_path / "elsewhere"
    os.rename(path if what == "." else original, moved)
    os.symlink(moved, path if what == "." else original)
    with pytest.raises(CheckpointError, match="symlink"):
        load(path)
    with pytest.raises(CheckpointError, match="every checkpoint"):
        load_latest(tmp_path / "run")
    assert moved.exists()


def test_a_pipe_does_not_hang(tmp_path):
    path = save_step(tmp_path, 2)
    (path / "state.json").unlink()
    os.mkfifo(path / "state.json")
    with pytest.raises(CheckpointError, match="not a file"):
        load(path)


@pytest.mark.parametrize("header", [2**62, 10**8 + 1, 200])
@pytest.mark.fault(
    15, "a safetensors header larger than its file", "refused before it is allocated"
)
def test_a_huge_safetensors_header_is_refused(tmp_path, header):
    path = save_step(tmp_path, 2)
    forge(path, data={"model.safetensors": header.to_bytes(8, "little") + b"{}" + b" " * 60})
    with pytest.raises(CheckpointError, match="claims a header"):
        load(path)


@pytest.mark.parametrize("body", [b"", b"\x02\0\0\0\0\0\0\0[]", b"\x80\x04K\x01." * 9])
def test_what_is_not_safetensors_is_refused(tmp_path, body):
    path = save_step(tmp_path, 2)
    forge(path, data={"model.safetensors": body})
    with pytest.raises(CheckpointError):
        load(path)


@pytest.mark.parametrize("body", [b"", b"[1]", b"[" * 100_000, b"\xff{}", b'{"a":' * 60_000])
def test_what_is_not_a_state_is_refused(tmp_path, body):
    path = save_step(tmp_path, 2)
    forge(path, data={"state.json": body})
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load(path)


def test_a_newer_format_is_refused_and_left_in_place(tmp_path):
    save_step(tmp_path, 1)
    path = save_step(tmp_path, 2)
    forge(path, fmt=FORMAT + 1)
    for refuse in (lambda: load_latest(tmp_path), lambda: save_step(tmp_path, 2)):
        with pytest.raises(
            CheckpointError, match=f"format {FORMAT + 1}: this program reads up to {FORMAT}"
        ):
            refuse()
    assert names(tmp_path) == ["000000001", "000000002"]


def test_a_renumbered_checkpoint_is_refused(tmp_path):
    os.rename(save_step(tmp_path, 2), tmp_path / "000000009")
    with pytest.raises(CheckpointError, match="another checkpoint"):
        load(tmp_path / "000000009")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"score": {"best": float("nan")}}, r"state.score.best is nan"),
        ({"a": [1.0, float("-inf")]}, r"state.a\[1\] is -inf"),
        ({"a": {3: 1}}, "state.a has the key 3"),
        ({"a": torch.zeros(1)}, "state.a is a Tensor"),
        ({"a": np.int64(1)}, "state.a is a int64"),
    ],
)
def test_states_that_json_would_change_are_refused(tmp_path, state, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path, 1, {}, state)
    assert names(tmp_path) == []


def fill_disk(directory):
    """Save under a file-size limit that the weights exceed, and exit as the trainer would."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        save(directory, 2, {"model": {"weight": torch.zeros(64, 64)}}, {"step": 2}, retries=2)
    except OSError as error:
        (directory / "why").write_text(str(error))
        os._exit(74)


def test_disk_full_keeps_the_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RETRY_SECONDS", 0.01)
    save_step(tmp_path, 1)
    assert in_child(fill_disk, tmp_path) == 74
    assert names(tmp_path) == ["000000001", "why"]
    assert "checkpoint 2 cannot be written" in (tmp_path / "why").read_text()
    assert_is(load_latest(tmp_path), 1)


def free_disk_after_two_warnings(directory):
    """Lift the file-size limit when the second attempt has failed."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    warnings = []

    class Handler(logging.Handler):
        def emit(self, record):
            warnings.append(record)
            if len(warnings) == 2:
                resource.setrlimit(
                    resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                )

    files.log.addHandler(Handler())
    save(directory, 2, {"model": {"weight": torch.zeros(64, 64)}}, {"step": 2}, retries=3)
    os._exit(len(warnings))


def test_disk_full_for_a_while_is_retried(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RETRY_SECONDS", 0.01)
    assert in_child(free_disk_after_two_warnings, tmp_path) == 2
    assert names(tmp_path) == ["000000002"]
    assert load_latest(tmp_path).groups["model"]["weight"].shape == (64, 64)


def test_load_into_module_and_dict():
    source, target = nn.Linear(3, 5), nn.Linear(3, 5)
    load_into(target, source.state_dict(), "model")
    assert torch.equal(target.weight, source.weight) and torch.equal(target.bias, source.bias)
    held = {"a": torch.zeros(4, 2)}
    load_into(held, {"a": torch.ones(4, 2)}, "ema")
    assert held["a"].sum() == 8


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"weight": torch.ones(5, 4), "bias": torch.ones(5)},
            r"model: tensor 'weight' has shape \(5, 4\).*\(5, 3\)",
        ),
        ({"weight": torch.ones(5, 3)}, r"no tensor 'bias' of shape \(5,\)"),
        (
            {"weight": torch.ones(5, 3), "bias": torch.ones(5), "x": torch.ones(2)},
            r"'x' of shape \(2,\) fits nothing",
        ),
        ({"weight": torch.ones(5, 3), "bias": torch.ones(5, dtype=torch.int64)}, "torch.int64"),
    ],
)
def test_load_into_names_the_first_misfit_and_copies_nothing(tensors, message):
    target = nn.Linear(3, 5)
    before = target.weight.detach().clone()
    with pytest.raises(CheckpointError, match=message):
        load_into(target, tensors, "model")
    assert torch.equal(target.weight, before)


def test_a_pickle_is_never_opened(tmp_path):
    """A payload that would create a file stays a heap of bytes, whatever the file is called."""
    marker = tmp_path / "touched"

    class Payload:
        def __reduce__(self):
            return Path.touch, (marker,)

    path = save_step(tmp_path / "run", 2)
    torch.save({"weight": Payload()}, tmp_path / "payload.pt")
    forge(path, data={"model.safetensors": (tmp_path / "payload.pt").read_bytes()})
    with pytest.raises(CheckpointError):
        load(path)
    assert not marker.exists()


def test_manifest_is_plain_json(tmp_path):
    document = json.loads((save_step(tmp_path, 2) / "manifest.json").read_text())
    assert document["content"]["format"] == FORMAT and set(document["content"]["files"]) == set(
        FILES
    ) - {"manifest.json"}
