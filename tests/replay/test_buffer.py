"""Replay: uniform, contiguous, capped, and the same after a restart, whatever happened to its
files.
"""

import errno
import json
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.errors import DataError
from worldmodel.replay import chunk
from worldmodel.replay.buffer import (
    Replay,
    ReplayError,
    ReplayMissing,
    check_capacity,
    count_row_bytes,
    describe_capacity,
)
from worldmodel.replay.capacity import available_disk
from worldmodel.replay.chunk import Layout
from worldmodel.replay.manifest import Manifest
from worldmodel.replay.samplers.uniform import Uniform
from worldmodel.system.available_memory import available_memory

FLAGS = ("is_first", "is_last", "is_terminal")
SPEC = {
    "image": ((2, 3, 3), "uint8"),
    "prev_action": ((4,), "float32"),
    "reward": ((), "float32"),
    **{key: ((), "bool") for key in FLAGS},
    "clock": ((), "int64"),
}
ROW = count_row_bytes(SPEC)
EPISODE = 7


def row(stream, index):
    """Make the row that stream and index determine."""
    return {
        "image": np.full((2, 3, 3), (index * 5 + stream) % 256, np.uint8),
        "prev_action": np.arange(4, dtype=np.float32) + index,
        "reward": index / 8,
        "is_first": index % EPISODE == 0,
        "is_last": index % EPISODE == EPISODE - 1,
        "is_terminal": index % (2 * EPISODE) == EPISODE - 1,
        "clock": np.int64(stream * 1_000_000 + index),
    }


STORES = ("ram", "disk", "ram zstd", "disk zstd")


def make(
    directory=None,
    store="ram",
    streams=2,
    rows=10_000,
    seed=3,
    chunk_rows=8,
    spec=SPEC,
    sampler=None,
):
    """Make a buffer; its store may name a codec as well."""
    size = count_row_bytes(spec)
    store, _, codec = store.partition(" ")
    return Replay(
        spec,
        capacity_bytes=rows * size,
        store=store,
        codec=codec or "none",
        directory=directory,
        num_streams=streams,
        seed=seed,
        sampler=sampler or Uniform(),
        chunk_rows=chunk_rows,
    )


def fill(replay, rows, start=0, streams=(0, 1)):
    for index in range(start, start + rows):
        for stream in streams:
            replay.add(stream, row(stream, index))
    return replay


def assert_true(batch, length):
    """Check that sequences are contiguous, of one stream each, and that every key is what was
    added.
    """
    clocks = batch["clock"]
    assert clocks.shape[1] == length
    assert (np.diff(clocks, axis=1) == 1).all()
    for b, t in np.ndindex(clocks.shape):
        for key, value in row(*divmod(int(clocks[b, t]), 1_000_000)).items():
            assert np.array_equal(batch[key][b, t], np.asarray(value, SPEC[key][1])), key


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]), key


def clocks(replay, length=1, draws=40):
    """Return every clock that sampling yields."""
    return set(
        np.concatenate([replay.sample(64, length)["clock"].ravel() for _ in range(draws)]).tolist()
    )


def chunk_names(directory):
    return sorted(path.name for path in Path(directory).glob("*.rows"))


def aside(directory):
    return sorted(path.name for path in (Path(directory) / "quarantine").glob("*"))


def reload(state, directory, **kwargs):
    """Restore into a new buffer, by way of JSON."""
    replay = make(directory, seed=99, **kwargs)
    replay.load_state_dict(json.loads(json.dumps(state)))
    return replay


@pytest.mark.parametrize("store", STORES)
def test_batches_hold_what_was_added(tmp_path, store):
    replay = fill(make(tmp_path, store), 45)
    batch = replay.sample(5, 19)
    assert list(batch) == list(SPEC)
    for key, (shape, dtype) in SPEC.items():
        assert batch[key].shape == (5, 19, *shape) and batch[key].dtype == dtype, key
        assert (
            batch[key].flags.c_contiguous
            and batch[key].flags.writeable
            and batch[key].base is None
        ), key
    assert_true(batch, 19)
    assert batch["is_first"][:, 1:].any()  # spans episode borders


def test_batches_are_copies():
    replay = fill(make(), 20)
    replay.sample(3, 20)["image"][:] = 0
    assert_true(replay.sample(3, 20), 20)


def test_images_of_64_cost_at_most_12300_bytes():
    spec = {**SPEC, "image": ((64, 64, 3), "uint8"), "prev_action": ((1,), "float32")}
    spec.pop("clock")
    assert count_row_bytes(spec) == 64 * 64 * 3 + 4 + 4 + 1


@pytest.mark.parametrize("length", [1, 6, 17])
def test_starts_are_uniform_over_streams_and_chunk_borders(length):
    replay = fill(make(), 30)
    fill(replay, 23, start=30, streams=(1,))  # streams of 30 and 53 rows
    starts = [index for index in range(30 - length + 1)] + [
        10**6 + index for index in range(53 - length + 1)
    ]
    draws = 200 * len(starts)
    found = np.concatenate(
        [replay.sample(500, length)["clock"][:, 0] for _ in range(draws // 500)]
    )
    values, counts = np.unique(found, return_counts=True)
    assert values.tolist() == starts
    expected = counts.sum() / len(starts)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    free = len(starts) - 1
    assert chi2 < free + 4 * np.sqrt(2 * free)


def test_ram_and_disk_draw_the_same_batches(tmp_path):
    ram, disk = make(), make(tmp_path, "disk")
    for start in range(0, 90, 15):
        fill(ram, 15, start)
        fill(disk, 15, start)
        assert_same(ram.sample(9, 11), disk.sample(9, 11))
    held = [chunk for chunk in disk._chunks.values() if chunk.data is not None]
    # Only the open chunk of each stream is in memory
    assert len(held) == 2 and len(disk._chunks) == 24


def test_seeds_differ():
    first, again, other = (fill(make(seed=seed), 60) for seed in (1, 1, 2))
    batch = first.sample(8, 5)
    assert_same(batch, again.sample(8, 5))
    assert not np.array_equal(batch["clock"], other.sample(8, 5)["clock"])


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_eviction_keeps_the_cap_and_the_newest(tmp_path, store):
    replay = make(tmp_path, store, rows=100)
    for index in range(0, 400, 5):
        fill(replay, 5, index)
        assert replay.stats()["bytes"] <= 100 * ROW
    assert 100 - 16 <= len(replay) <= 100
    found = clocks(replay)
    assert len(found) == len(replay)
    for stream in (0, 1):
        mine = sorted(clock % 1_000_000 for clock in found if clock // 1_000_000 == stream)
        assert mine == list(range(mine[0], 400))
    assert replay.stats()["episodes"] == sum(clock % 1_000_000 % EPISODE == 0 for clock in found)
    assert_true(replay.sample(6, 33), 33)


def test_a_buffer_smaller_than_a_chunk():
    replay = make(rows=5, streams=1, chunk_rows=1024)
    fill(replay, 50, streams=(0,))
    assert clocks(replay) == {45, 46, 47, 48, 49}


def test_an_idle_stream_is_evicted_and_starts_again():
    replay = make(rows=64)
    fill(replay, 3)
    fill(replay, 80, start=3, streams=(1,))
    assert min(clocks(replay)) >= 1_000_000
    fill(replay, 9, start=3, streams=(0,))
    assert {clock for clock in clocks(replay) if clock < 1_000_000} == set(range(3, 12))
    assert 3 in {int(clock) for _ in range(40) for clock in replay.sample(32, 9)["clock"][:, 0]}


def test_what_cannot_be_sampled_is_said():
    replay = make()
    assert not replay.can_sample(1, 1)
    fill(replay, 12)
    assert (
        replay.can_sample(99, 12) and not replay.can_sample(1, 13) and not replay.can_sample(1, 0)
    )
    with pytest.raises(ValueError, match="24 rows but no sequence of 13"):
        replay.sample(2, 13)
    assert len(replay) == 24 and replay.stats()["bytes_per_row"] == ROW


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": 0.0}, "unknown key 'rewards'.*did you mean 'reward'"),
        (
            {"image": np.zeros((3, 2, 3), np.uint8)},
            r"'image' is uint8 of shape \(3, 2, 3\).*\(2, 3, 3\)",
        ),
        ({"image": np.zeros((2, 3, 3), np.float32)}, "'image' is float32.*uint8"),
        ({"is_first": 1}, "'is_first' is int64.*bool"),
        ({"reward": [0.0]}, "'reward' is float64 of shape"),
        ({"reward": "much"}, "'reward' is <U4"),
        ({"reward": None}, "'reward' is object"),
        ({"clock": 1.5}, "'clock' is float64.*int64"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change, message):
    replay = make()
    with pytest.raises(ValueError, match=message):
        replay.add(0, {**row(0, 0), **change})
    assert len(replay) == 0


def test_other_mistakes_are_refused(tmp_path):
    missing = row(0, 0)
    missing.pop("reward")
    with pytest.raises(ValueError, match="'reward' is missing"):
        make().add(0, missing)
    with pytest.raises(ValueError, match="streams 0 to 1, not 2"):
        make().add(2, row(0, 0))
    with pytest.raises(ValueError, match="'ram' or 'disk'"):
        make(store="tape")
    with pytest.raises(ValueError, match="needs a directory"):
        make(store="disk")
    with pytest.raises(ValueError, match="only bool, int and float"):
        count_row_bytes({"x": ((), object)})


def test_flush_only_appends(tmp_path):
    replay = fill(make(tmp_path), 5)
    assert replay.flush()
    path = tmp_path / chunk_names(tmp_path)[0]
    before, inode = path.read_bytes(), path.stat().st_ino
    assert len(before) == 5 * ROW
    fill(replay, 9, start=5)
    assert replay.flush()
    assert path.read_bytes()[: 5 * ROW] == before and path.stat().st_ino == inode
    assert len(chunk_names(tmp_path)) == 4
    stamps = {name: (tmp_path / name).stat().st_mtime_ns for name in chunk_names(tmp_path)}
    assert replay.flush()
    assert stamps == {name: (tmp_path / name).stat().st_mtime_ns for name in chunk_names(tmp_path)}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("rows", [10_000, 100])
def test_a_restart_is_not_noticed(tmp_path, store, rows):
    replay = fill(make(tmp_path, store, rows=rows), 77)
    replay.sample(4, 9)
    replay.flush(strict=True)
    state = json.loads(json.dumps(replay.state_dict()))
    fill(replay, 21, start=77)  # rows after the checkpoint, some of them flushed
    replay.flush()
    fill(replay, 2, start=98)
    expected = replay.sample(7, 13), replay.stats()
    again = reload(state, tmp_path, store=store, rows=rows)
    assert again.state_dict() == state
    # The same history without a stop
    unbroken = make(None, store.replace("disk", "ram"), rows=rows)
    fill(unbroken, 77).sample(4, 9)
    assert_same(again.sample(4, 9), unbroken.sample(4, 9))
    again = reload(state, tmp_path, store=store, rows=rows)
    fill(again, 23, start=77)
    assert_same(again.sample(7, 13), expected[0])
    assert again.stats() == expected[1]
    assert_true(again.sample(7, 13), 13)


def test_rolling_back_in_place(tmp_path):
    replay = fill(make(tmp_path), 30)
    replay.flush()
    state = replay.state_dict()
    fill(replay, 30, start=30)
    replay.flush()
    replay.load_state_dict(state)
    assert clocks(replay) == {s * 10**6 + i for s in (0, 1) for i in range(30)}
    fill(replay, 10, start=30)
    assert_true(replay.sample(5, 40), 40)
    assert (
        all(name.endswith("after-checkpoint") for name in aside(tmp_path))
        and len(aside(tmp_path)) == 8
    )


def test_files_after_the_checkpoint_are_dropped(tmp_path, caplog):
    replay = fill(make(tmp_path), 12)
    replay.flush()
    state = replay.state_dict()
    fill(replay, 9, start=12)
    replay.flush()
    again = reload(state, tmp_path)
    assert aside(tmp_path) == [
        "0000-00000002.rows-after-checkpoint",
        "0001-00000002.rows-after-checkpoint",
    ]
    assert (tmp_path / "0000-00000001.rows").stat().st_size == 4 * ROW
    assert max(clocks(again)) == 10**6 + 11


def test_a_torn_tail_is_cut(tmp_path):
    replay = fill(make(tmp_path), 12)
    replay.flush()
    with open(tmp_path / "0001-00000001.rows", "ab") as file:
        file.write(b"\xff" * (ROW // 2))
    again = reload(replay.state_dict(), tmp_path)
    assert (tmp_path / "0001-00000001.rows").stat().st_size == 4 * ROW
    fill(again, 8, start=12)
    again.flush()
    assert_true(reload(again.state_dict(), tmp_path).sample(6, 20), 20)


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def to_symlink(path):
    os.rename(path, path.with_suffix(".real"))
    os.symlink(path.with_suffix(".real"), path)


DAMAGES = {
    "bad-crc": flip_byte,
    "short": lambda path: os.truncate(path, 3 * ROW),
    "missing": lambda path: path.unlink(),
    "not-a-file": to_symlink,
}


@pytest.mark.parametrize("store", ["ram", "disk"])
@pytest.mark.parametrize("why", DAMAGES)
@pytest.mark.fault(
    6,
    "a replay chunk in the middle damaged in every way",
    "set aside; no sampled sequence crosses the gap",
)
def test_damage_in_the_middle_leaves_a_hole(tmp_path, caplog, why, store):
    replay = fill(make(tmp_path, store), 40)
    replay.flush()
    DAMAGES[why](tmp_path / "0000-00000002.rows")  # rows 16 to 23 of stream 0
    with caplog.at_level(logging.WARNING):
        again = reload(replay.state_dict(), tmp_path, store=store)
    assert len(caplog.records) == 1 and why in caplog.text
    assert aside(tmp_path) == ([] if why == "missing" else [f"0000-00000002.rows-{why}"])
    hole = set(range(16, 24))
    assert clocks(again) == {s * 10**6 + i for s in (0, 1) for i in range(40)} - hole
    for length in (9, 16):
        for _ in range(30):
            assert_true(again.sample(16, length), length)
    starts = {int(clock) for _ in range(60) for clock in again.sample(32, 16)["clock"][:, 0]}
    assert starts == {0, 24} | {10**6 + i for i in range(25)}
    fill(again, 3, start=40)
    again.flush()
    assert_true(again.sample(4, 19), 19)
    assert_same(reload(again.state_dict(), tmp_path, store=store).sample(5, 7), again.sample(5, 7))


@pytest.mark.parametrize("why", DAMAGES)
def test_damage_of_the_open_chunk(tmp_path, why):
    replay = fill(make(tmp_path), 21)
    replay.flush()
    DAMAGES[why](tmp_path / "0001-00000002.rows")
    again = reload(replay.state_dict(), tmp_path)
    fill(again, 9, start=21)
    again.flush()
    third = reload(again.state_dict(), tmp_path)
    assert_true(third.sample(8, 9), 9)
    assert clocks(third) == {*range(30), *range(10**6, 10**6 + 16), *range(10**6 + 21, 10**6 + 30)}


@pytest.mark.parametrize("lost", [3, 6, 10])  # up to within, the end of, and beyond the open chunk
def test_rows_that_were_never_flushed_leave_a_hole(tmp_path, lost):
    replay = fill(make(tmp_path), 10)
    replay.flush()
    fill(replay, lost, start=10)
    again = reload(replay.state_dict(), tmp_path)
    fill(again, 11, start=10 + lost)
    assert clocks(again) == {
        s * 10**6 + i for s in (0, 1) for i in [*range(10), *range(10 + lost, 21 + lost)]
    }
    starts = again.sample(200, 10)["clock"][:, 0] % 10**6
    assert set(starts.tolist()) == {0, 10 + lost, 11 + lost}


def test_missing_is_refused(tmp_path):
    replay = fill(make(tmp_path / "a"), 20)
    replay.flush()
    state = replay.state_dict()
    with pytest.raises(ReplayMissing, match="missing from .*--run.fresh true"):
        reload(state, tmp_path / "b")
    with pytest.raises(ReplayMissing):
        reload(state, None)
    for path in (tmp_path / "a").glob("*.rows"):
        flip_byte(path)
    with pytest.raises(ReplayMissing, match="every replay chunk"):
        reload(state, tmp_path / "a")
    assert issubclass(ReplayMissing, ReplayError) and issubclass(ReplayError, DataError)
    reload(make(tmp_path / "c").state_dict(), tmp_path / "c")  # nothing was there to lose


def test_rows_that_one_stream_wrote_are_missed_beside_a_stream_without_any(tmp_path):
    state = make(tmp_path).state_dict()
    with pytest.raises(ReplayMissing):
        reload({**state, "next": {"0": 5, "1": 0}}, tmp_path)


def test_streams_may_have_as_many_rows_as_a_float_can_count(tmp_path):
    state = {**make(tmp_path).state_dict(), "next": {"0": 2**53, "1": 0}}
    assert Manifest(state, Layout(SPEC), 8).next == {0: 2**53, 1: 0}
    with pytest.raises(ReplayError, match="is not an integer from 0"):
        Manifest({**state, "next": {"0": 2**53 + 1, "1": 0}}, Layout(SPEC), 8)


def test_garbage_is_kept_while_a_checkpoint_needs_it(tmp_path):
    replay = make(tmp_path, rows=100)
    states = []
    for start in range(0, 240, 40):
        fill(replay, 40, start)
        replay.flush()
        states.append(replay.state_dict())
    replay.collect_garbage(states[-3:])
    for state in states[-3:]:
        assert {entry["file"] for entry in state["chunks"]} <= set(chunk_names(tmp_path))
    assert "0000-00000000.rows" not in chunk_names(tmp_path)
    # A resumed run keeps the older checkpoints' files, and can still go back to one of them.
    reload(states[-1], tmp_path, rows=100)
    older = reload(states[-3], tmp_path, rows=100)
    assert_true(older.sample(5, 30), 30)
    assert max(clocks(older)) == 10**6 + 159
    newest = reload(states[-3], tmp_path, rows=100)
    newest.collect_garbage([])
    assert set(chunk_names(tmp_path)) == {entry["file"] for entry in states[-3]["chunks"]}


def test_rows_evicted_before_a_flush_are_never_written(tmp_path):
    replay = fill(make(tmp_path, rows=100), 300)
    replay.flush()
    assert chunk_names(tmp_path) == sorted(
        entry["file"] for entry in replay.state_dict()["chunks"]
    )


def test_another_runs_files_are_moved_aside(tmp_path):
    fill(make(tmp_path), 10).flush()
    old = {name: (tmp_path / name).read_bytes() for name in chunk_names(tmp_path)}
    fresh = fill(make(tmp_path), 3, start=100)
    fresh.flush()
    assert {
        name: (tmp_path / "quarantine" / f"{name}-other-run").read_bytes() for name in old
    } == old
    assert clocks(reload(fresh.state_dict(), tmp_path)) == {
        100,
        101,
        102,
        10**6 + 100,
        10**6 + 101,
        10**6 + 102,
    }


def test_files_of_streams_that_nobody_writes_any_more_are_moved_aside_too(tmp_path):
    fill(make(tmp_path, streams=3), 10, streams=(0, 1, 2)).flush()
    old = chunk_names(tmp_path)
    fill(make(tmp_path), 3).flush()
    assert aside(tmp_path) == [f"{name}-other-run" for name in old]


def edit(state, **changes):
    """Change the second chunk's entry of a manifest, or its top level."""
    state = json.loads(json.dumps(state))
    target = state if changes.keys() <= state.keys() else state["chunks"][1]
    target.update(changes)
    return state


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../0001-00000000.rows"},
        {"file": "/etc/passwd"},
        {"file": "0001-00000009.rows"},
        {"file": 3},
        {"rows": 10**12},
        {"rows": 9},
        {"rows": 0},
        {"rows": -1},
        {"first": 3},
        {"first": 10**9},
        {"stream": -1},
        {"stream": 10**9},
        {"crc32": "0"},
        {"chunk_rows": 10**15},
        {"chunk_rows": 0},
        {"next": {"0": 1, "1": 1}},
        {"next": {}},
        {"next": []},
        {"chunks": [None]},
        {"generator": {"bit_generator": "MT19937"}},
        {"generator": {}},
        {"format": 2},
        {
            "spec": {
                **{key: [list(s), np.dtype(d).str] for key, (s, d) in SPEC.items()},
                "image": [[9, 9, 3], "|u1"],
            }
        },
    ],
)
def test_forged_manifests_are_refused(tmp_path, change):
    replay = fill(make(tmp_path), 20)
    replay.flush()
    before = chunk_names(tmp_path)
    with pytest.raises(ReplayError):
        reload(edit(replay.state_dict(), **change), tmp_path)
    assert chunk_names(tmp_path) == before and aside(tmp_path) == []


def test_a_manifest_that_lists_a_chunk_twice_is_refused(tmp_path):
    replay = fill(make(tmp_path), 20)
    replay.flush()
    state = replay.state_dict()
    with pytest.raises(ReplayError, match="twice or out of order"):
        reload(edit(state, chunks=[*state["chunks"], state["chunks"][0]]), tmp_path)


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_a_lower_cap_on_resume_keeps_the_newest(tmp_path, store):
    replay = fill(make(tmp_path, store), 100)
    replay.flush()
    again = reload(replay.state_dict(), tmp_path, store=store, rows=64)
    assert 64 - 16 <= len(again) <= 64
    assert {99, 10**6 + 99} <= clocks(again) and min(clocks(again)) > 50


def test_more_or_fewer_streams_on_resume(tmp_path):
    replay = fill(make(tmp_path), 10)
    replay.flush()
    wide = reload(replay.state_dict(), tmp_path, streams=5)
    fill(wide, 9, streams=(4,))
    assert_true(wide.sample(5, 9), 9)
    narrow = reload(replay.state_dict(), tmp_path, streams=1)
    assert len(narrow) == 20 and 10**6 + 9 in clocks(narrow)


def without_space(directory, store):
    """Fill a disk, as a file-size limit, while rows arrive; go on when there is space again."""
    replay = fill(make(directory, store), 6)
    assert replay.flush()
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("worldmodel.replay.buffer").addHandler(handler)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7 * ROW + 5, resource.RLIM_INFINITY))
    fill(replay, 30, start=6)
    assert not replay.flush() and not replay.flush()
    assert len(records) == 1, records
    assert all((directory / name).stat().st_size % ROW == 0 for name in chunk_names(directory))
    try:
        replay.flush(strict=True)
        raise AssertionError("strict flush said nothing")
    except OSError:
        pass
    assert_true(replay.sample(5, 36), 36)
    assert_true(reload(replay.state_dict(), directory, store=store).sample(3, 6), 6)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert replay.flush() and replay.flush(strict=True)
    again = reload(replay.state_dict(), directory, store=store)
    assert len(again) == 72
    assert_true(again.sample(5, 36), 36)


@pytest.mark.parametrize("store", ["ram", "disk"])
@pytest.mark.fault(
    5,
    "RLIMIT_FSIZE on replay files, the library alone",
    "rows stay in memory and are written later",
)
def test_disk_full_keeps_rows_in_memory(tmp_path, store):
    process = multiprocessing.get_context("fork").Process(
        target=without_space, args=(tmp_path, store)
    )
    process.start()
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize("left", [0, ROW, ROW + 3, 6 * ROW + 1])
def test_a_file_that_lost_or_gained_bytes_under_a_run_is_mended(tmp_path, left):
    replay = fill(make(tmp_path), 12)
    replay.flush()
    os.truncate(tmp_path / "0000-00000001.rows", left)
    fill(replay, 2, start=12)
    replay.flush(strict=True)
    again = reload(replay.state_dict(), tmp_path)
    assert len(again) == 28 and aside(tmp_path) == []
    assert_true(again.sample(5, 14), 14)


def test_each_time_that_writing_begins_to_fail_there_is_one_warning(tmp_path, monkeypatch, caplog):
    replay, write = fill(make(tmp_path), 4), chunk.write_all
    full = OSError(errno.ENOSPC, "no space")

    def fail(*args):
        raise full

    for times in (1, 2):
        monkeypatch.setattr(chunk, "write_all", fail)
        assert not replay.flush() and not replay.flush()
        assert len(caplog.records) == times
        with pytest.raises(OSError, match="no space"):
            replay.flush(strict=True)
        monkeypatch.setattr(chunk, "write_all", write)
        assert replay.flush(strict=True) and len(caplog.records) == times
        assert_true(reload(replay.state_dict(), tmp_path).sample(3, 4), 4)
        fill(replay, 4, start=4 * times)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), st.integers(1, 20)),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
        st.tuples(st.just("sample"), st.integers(1, 4), st.integers(1, 12)),
    ),
    max_size=20,
)


@settings(max_examples=40, deadline=None)
@given(STEPS, st.sampled_from([16, 40, 1000]))
def test_any_history_gives_the_same_batches(steps, rows):
    """A buffer in RAM, one on disk, and one on disk that restarts now and then never differ."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        buffers = [
            make(None, "ram", 3, rows),
            make(Path(first), "disk", 3, rows),
            make(Path(second), "ram", 3, rows),
        ]
        count = [0, 0, 0]
        for what, a, b in steps:
            if what == "add":
                for buffer in buffers:
                    fill(buffer, b, count[a], streams=(a,))
                count[a] += b
            elif what == "flush":
                assert all(buffer.flush() for buffer in buffers)
            elif what == "restart":
                buffers[2].flush(strict=True)
                buffers[2] = reload(buffers[2].state_dict(), Path(second), streams=3, rows=rows)
            elif buffers[0].can_sample(a, b):
                batches = [buffer.sample(a, b) for buffer in buffers]
                assert_true(batches[0], b)
                assert_same(batches[0], batches[1])
                assert_same(batches[0], batches[2])
            assert len({(len(buffer), buffer.stats()["episodes"]) for buffer in buffers}) == 1
            assert len(buffers[0]) <= rows


def test_descriptors_stay_flat(tmp_path):
    replay = make(tmp_path, "disk", streams=1, rows=400)
    fill(replay, 300, streams=(0,)).sample(8, 20)
    before = len(os.listdir("/proc/self/fd"))
    for start in range(300, 1200, 100):
        fill(replay, 100, start, streams=(0,)).sample(8, 20)
    assert len(os.listdir("/proc/self/fd")) == before


def test_sampling_does_the_same_work_however_many_rows(monkeypatch):
    """Count the calls that a batch makes at 500 and at 20,000 rows."""

    def calls(rows):
        replay = fill(make(rows=10**6, chunk_rows=64), rows, streams=(0,))
        count = 0

        def profile(*_):
            nonlocal count
            count += 1

        sys.setprofile(profile)
        try:
            replay.sample(8, 65)  # every sequence crosses one border, or two
        finally:
            sys.setprofile(None)
        return count

    assert calls(20_000) <= 1.3 * calls(500)


def test_capacity_is_predicted_and_refused(tmp_path, monkeypatch):
    assert describe_capacity(SPEC, 1000 * ROW + 5, "disk") == (
        f"replay: up to 1,000 rows of {ROW} bytes, {1000 * ROW / 1e9:.2f} GB on disk"
    )
    check_capacity(SPEC, 1000 * ROW, "ram", None)
    check_capacity(SPEC, 1000 * ROW, "disk", tmp_path / "not" / "yet")
    with pytest.raises(ValueError, match="of memory is available; lower replay.capacity_gb to"):
        check_capacity(SPEC, 10**15, "ram", None)
    with pytest.raises(ValueError, match="of disk is available; lower replay.capacity_gb to"):
        check_capacity(SPEC, 10**16, "disk", tmp_path)
    with pytest.raises(ValueError, match="holds no row"):
        check_capacity(SPEC, 3, "ram", None)
    monkeypatch.setattr("worldmodel.replay.capacity.available_memory", lambda: 10**9)
    with pytest.raises(ValueError, match="lower replay.capacity_gb to 0.8"):
        check_capacity(SPEC, 10**9 + 1, "ram", None)
    check_capacity(SPEC, 10**9, "ram", None)


def test_links_to_large_files_are_not_space_that_the_replay_holds(tmp_path):
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    free = available_disk(tmp_path)
    (tmp_path / "0000-00000000.rows").symlink_to(tmp_path / "large")
    assert available_disk(tmp_path) < free + (1 << 19)


def test_memory_is_the_least_of_machine_and_cgroup(tmp_path):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (cgroup / "a" / "b").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert available_memory(proc, cgroup) == 5_120_000
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    (cgroup / "a" / "b" / "memory.max").write_text("max\n")
    assert available_memory(proc, cgroup) == 5_120_000
    (cgroup / "a" / "memory.max").write_text("3000000\n")
    assert available_memory(proc, cgroup) == 3_000_000
    # What is in use counts, but for the pages of files that nobody has looked at lately.
    (cgroup / "a" / "memory.current").write_text("2500000\n")
    assert available_memory(proc, cgroup) == 500_000
    (cgroup / "a" / "memory.stat").write_text(
        "anon 400000\ninactive_file 1900000\nactive_file 200000\n"
    )
    assert available_memory(proc, cgroup) == 2_400_000
    # More than the limit, as when one was lowered
    (cgroup / "a" / "memory.current").write_text("9000000\n")
    assert available_memory(proc, cgroup) == 0
    (cgroup / "a" / "b" / "memory.max").write_text("1000\n")
    (cgroup / "a" / "memory.max").write_text("3000000000\n")
    assert available_memory(proc, cgroup) == 1000
    (cgroup / "memory" / "x").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("12:cpu,cpuacct:/x\n5:memory:/x\n")
    (cgroup / "memory" / "x" / "memory.limit_in_bytes").write_text("2000000\n")
    assert available_memory(proc, cgroup) == 2_000_000
    (cgroup / "memory" / "x" / "memory.usage_in_bytes").write_text("1500000\n")
    (cgroup / "memory" / "x" / "memory.stat").write_text(
        "inactive_file 0\ntotal_inactive_file 300000\n"
    )
    assert available_memory(proc, cgroup) == 800_000
