"""Compressed replay chunks are smaller, hold the same rows, and are refused when forged."""

import os
import struct
import zlib

import numpy as np
import pytest
import zstandard
from test_buffer import (
    SPEC,
    aside,
    assert_same,
    assert_true,
    chunk_names,
    clocks,
    fill,
    make,
    reload,
    row,
)

from worldmodel.replay import compressed_chunk
from worldmodel.replay.buffer import Replay, ReplayError
from worldmodel.replay.chunk import Layout
from worldmodel.replay.compressed_chunk import BLOCK, HEADER, CompressedChunk, bound_file_size
from worldmodel.replay.samplers.uniform import Uniform

GROUND = np.random.default_rng(0).integers(0, 60, (64, 64, 3)).astype(np.uint8)
PICTURES = {**SPEC, "image": ((64, 64, 3), "uint8")}


def make_picture(index):
    """A picture with a bright square that moves over a still, noisy ground."""
    picture = GROUND.copy()
    picture[10:20, index % 50 : index % 50 + 10] = 255
    return picture


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_pictures_take_less_and_come_back_bit_for_bit(tmp_path, store):
    """Rows of a thousand frames at a small part of their size, in RAM and on disk."""
    replay = make(tmp_path, f"{store} zstd", streams=1, chunk_rows=256, spec=PICTURES)
    for index in range(1024):
        replay.add(0, {**row(0, index), "image": make_picture(index)})
    replay.flush()
    assert len(replay) == 1024 and replay.stats()["bytes_per_row"] < 2500
    files = [tmp_path / name for name in chunk_names(tmp_path)]
    assert (
        not files
        and sum(p.stat().st_size for p in tmp_path.glob("*.zrows")) == replay.stats()["bytes"]
    )
    batch = replay.sample(8, 50)
    for b, t in np.ndindex(8, 50):
        assert np.array_equal(batch["image"][b, t], make_picture(int(batch["clock"][b, t])))


def test_a_file_that_cannot_be_written_whole_is_emptied(tmp_path, monkeypatch):
    layout = Layout(SPEC)
    chunk = CompressedChunk.compress(0, 0, 0, np.zeros(9, layout.dtype))
    write_all, reached = compressed_chunk.write_all, []
    path = tmp_path / chunk.name

    def reach(point):
        reached.append((point, path.stat().st_size))

    monkeypatch.setattr(compressed_chunk.fault_injection, "reach", reach)
    chunk.save(tmp_path)
    size = path.stat().st_size
    assert reached == [("replay-torn", size // 2), ("replay-unsynced", size)]

    def fill_disk(fd, data):
        if os.lseek(fd, 0, os.SEEK_CUR):
            raise OSError("no space")
        write_all(fd, data)

    monkeypatch.setattr(compressed_chunk, "write_all", fill_disk)
    with pytest.raises(OSError, match="no space"):
        chunk.save(tmp_path)
    assert path.stat().st_size == 0


@pytest.mark.parametrize("rows", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK])
def test_any_slice_of_a_chunk(tmp_path, rows):
    layout = Layout(SPEC)
    data = np.random.default_rng(1).integers(256, size=(rows, layout.row_bytes)).astype(np.uint8)
    record = data.view(layout.dtype)[:, 0]
    chunk = CompressedChunk.compress(0, 0, 0, record)
    assert chunk.count_bytes(layout.row_bytes) <= bound_file_size(
        rows, layout.row_bytes
    )  # noise does not pack
    chunk.save(tmp_path)
    loose = CompressedChunk(0, 0, rows, crc=chunk.crc)
    assert loose.restore(tmp_path, layout, rows) == ""
    loose.release()
    for first in range(0, rows, 7):
        for end in range(first + 1, rows + 1, 11):
            for one in (chunk, loose):
                assert (
                    one.read(tmp_path, layout.dtype, first, end).tobytes()
                    == record[first:end].tobytes()
                )


def test_a_packed_chunk_replaces_its_open_file_once_no_checkpoint_needs_it(tmp_path):
    replay = fill(make(tmp_path, "ram zstd"), 5)
    replay.flush()
    old = replay.state_dict()
    assert chunk_names(tmp_path) == ["0000-00000000.rows", "0001-00000000.rows"]
    fill(replay, 6, start=5)
    replay.flush()
    new = replay.state_dict()
    names = {entry["file"] for entry in new["chunks"]}
    assert names == {f"{s:04d}-0000000{n}" for s in (0, 1) for n in ("0.zrows", "1.rows")}
    replay.collect_garbage([old, new])
    # The older checkpoint still opens
    assert reload(old, tmp_path, store="ram zstd").stats()["rows"] == 10


def test_the_newest_checkpoint_leaves_the_older_ones_files_alone(tmp_path):
    replay = fill(make(tmp_path, "ram zstd"), 5)
    replay.flush()
    old = replay.state_dict()
    fill(replay, 6, start=5)
    replay.flush()
    new = replay.state_dict()
    again = reload(new, tmp_path, store="ram zstd")
    assert aside(tmp_path) == []
    again.collect_garbage([old, new])
    assert "0000-00000000.rows" in chunk_names(tmp_path)
    again.collect_garbage([new])
    assert (
        "0000-00000000.rows" not in chunk_names(tmp_path)
        and (tmp_path / "0000-00000000.zrows").exists()
    )


def test_a_run_may_change_its_codec(tmp_path):
    replay = fill(make(tmp_path, "ram"), 20)
    replay.flush()
    packed = fill(reload(replay.state_dict(), tmp_path, store="ram zstd"), 20, start=20)
    packed.flush()
    plain = reload(packed.state_dict(), tmp_path, store="disk")
    assert clocks(plain) == {s * 10**6 + i for s in (0, 1) for i in range(40)}
    assert_true(plain.sample(6, 40), 40)


def test_the_cap_counts_packed_bytes(tmp_path):
    """What packs well stays longer, and the cap holds all the same."""

    def still(codec):
        size = dict(capacity_bytes=100 * 12_400, chunk_rows=16, num_streams=1, sampler=Uniform())
        replay = Replay(PICTURES, **size, store="ram", codec=codec, directory=None, seed=0)
        for index in range(400):
            replay.add(0, {**row(0, index), "image": make_picture(0)})
            assert replay.stats()["bytes"] <= size["capacity_bytes"]
        return len(replay)

    assert still("none") <= 100 and still("zstd") == 400


def damage_file(path, why):
    body = bytearray(path.read_bytes())
    if why == "bad-crc":
        body[len(body) // 2] ^= 1
    if why == "short":
        body = body[:-3]
    if why == "too-long":
        body += b"\0" * 100_000
    path.write_bytes(body)


@pytest.mark.parametrize("why", ["bad-crc", "short", "too-long"])
def test_damage_leaves_a_hole(tmp_path, why):
    replay = fill(make(tmp_path, "disk zstd"), 40)
    replay.flush()
    damage_file(tmp_path / "0000-00000002.zrows", why)
    again = reload(replay.state_dict(), tmp_path, store="disk zstd")
    moved = "bad-crc" if why == "short" else why
    assert aside(tmp_path) == [f"0000-00000002.zrows-{moved}"]
    assert clocks(again) == {s * 10**6 + i for s in (0, 1) for i in range(40)} - set(range(16, 24))


def forge_header(path, **changes):
    """Rewrite a packed file's header, and give the checksum that fits it."""
    body = bytearray(path.read_bytes())
    head = dict(zip(("rows", "episodes", "blocks"), HEADER.unpack_from(body), strict=True))
    HEADER.pack_into(
        body, 0, *{**head, **{k: v for k, v in changes.items() if k != "size"}}.values()
    )
    if "size" in changes:
        struct.pack_into("<I", body, HEADER.size, changes["size"])
    path.write_bytes(body)
    return zlib.crc32(body)


@pytest.mark.parametrize(
    "change", [{"rows": 7}, {"rows": 2**31}, {"blocks": 2**31}, {"episodes": 9}, {"size": 2**31}]
)
def test_a_forged_header_is_refused_though_its_checksum_fits(tmp_path, change):
    replay = fill(make(tmp_path, "ram zstd"), 20)
    replay.flush()
    state = replay.state_dict()
    entry = next(e for e in state["chunks"] if e["file"] == "0000-00000001.zrows")
    entry["crc32"] = forge_header(tmp_path / entry["file"], **change)
    reload(state, tmp_path, store="ram zstd")
    assert aside(tmp_path) == ["0000-00000001.zrows-malformed"]


@pytest.mark.fault(15, "a zstd bomb in a replay chunk", "refused before it is unpacked")
def test_a_block_that_unpacks_to_more_than_its_rows_is_refused(tmp_path):
    layout = Layout(SPEC)
    chunk = CompressedChunk.compress(0, 0, 0, np.zeros(8, layout.dtype))
    bomb = zstandard.ZstdCompressor().compress(bytes(10**8))
    body = HEADER.pack(8, 0, 1) + struct.pack("<I", len(bomb)) + bomb
    assert chunk._parse(body) == ""
    with pytest.raises(ReplayError, match="0000-00000000.zrows was damaged while in use"):
        chunk.read(None, layout.dtype, 0, 8)


def test_a_file_that_vanishes_or_shrinks_under_a_run_is_said(tmp_path):
    replay = fill(make(tmp_path, "disk zstd", streams=1), 16, streams=(0,))
    replay.flush()
    for name in os.listdir(tmp_path):
        os.truncate(tmp_path / name, 30)
    with pytest.raises(ReplayError, match="damaged while in use"):
        replay.sample(1, 4)


def test_both_stores_draw_the_same(tmp_path):
    ram, disk = make(None, "ram zstd", rows=300), make(tmp_path, "disk zstd", rows=300)
    for start in range(0, 400, 25):
        assert_same(fill(ram, 25, start).sample(4, 9), fill(disk, 25, start).sample(4, 9))
    assert ram.stats() == disk.stats()
