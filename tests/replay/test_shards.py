"""Resharding the replay: no chunk is lost, runs stay long, and each is sampled as before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_buffer import ROW, SPEC, aside, assert_true, fill, row

from worldmodel.replay.buffer import Replay, ReplayMissing
from worldmodel.replay.chunk import Layout
from worldmodel.replay.manifest import Manifest
from worldmodel.replay.samplers.uniform import Uniform
from worldmodel.replay.shards import reshard

SIZE = 8  # rows of a chunk


def shard(directory, rank=0, ranks=1, streams=1, rows=10_000, store="ram", sampler=None):
    """Make one rank's shard of a replay that may hold so many rows."""
    return Replay(
        SPEC,
        capacity_bytes=rows * ROW,
        store=store,
        directory=directory,
        num_streams=streams,
        seed=rank,
        sampler=sampler or Uniform(),
        chunk_rows=SIZE,
        first_stream=rank * streams,
        last=rank == ranks - 1,
    )


def save_state(replay):
    replay.flush(strict=True)
    return replay.state_dict()


def reload_as(directory, states, ranks, streams=1, **kwargs):
    """Load the shards of another number of ranks."""
    manifests = reshard(states, ranks, streams)
    shards = []
    for rank, manifest in enumerate(manifests):
        shards.append(shard(directory, rank, ranks, streams, **kwargs))
        manifest.setdefault("generator", shards[-1].state_dict()["generator"])
        others = {c["file"] for i, m in enumerate(manifests) if i != rank for c in m["chunks"]}
        shards[-1].load_state_dict(manifest, others)
    return shards


def clocks(replay, length=1):
    return set(
        np.concatenate([replay.sample(64, length)["clock"].ravel() for _ in range(30)]).tolist()
    )


def manifests_of(counts):
    """Make manifests of ranks that each wrote one stream of so many rows."""
    layout, found = Layout(SPEC), []
    for stream, count in enumerate(counts):
        chunks = [
            {
                "file": f"{stream:04d}-{n:08d}.rows",
                "stream": stream,
                "first": n * SIZE,
                "rows": min(SIZE, count - n * SIZE),
                "crc32": 0,
            }
            for n in range(-(-count // SIZE))
        ]
        generator = np.random.Generator(np.random.PCG64(stream)).bit_generator.state
        found.append(
            {
                "format": 1,
                "spec": layout.describe(),
                "chunk_rows": SIZE,
                "next": {str(stream): count},
                "chunks": chunks,
                "generator": generator,
            }
        )
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=5),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_dealt_as_often_as_you_like_every_chunk_has_one_rank(counts, sizes):
    before = manifests_of(counts)
    chunks = {c["file"]: c for m in before for c in m["chunks"]}
    total, resharded = sum(counts), before
    for ranks in sizes:
        writing = min(len(resharded), ranks)
        resharded = reshard(resharded, ranks, 1)
        names = [c["file"] for m in resharded for c in m["chunks"]]
        assert sorted(names) == sorted(chunks) and all(
            c == chunks[c["file"]] for m in resharded for c in m["chunks"]
        )
        held = [sum(c["rows"] for c in m["chunks"]) for m in resharded]
        # A chunk too many at most, or two where its own open one could not be passed on.
        assert max(held) <= -(-total // ranks) + 2 * SIZE
        for rank, manifest in enumerate(resharded):
            manifest.setdefault("generator", manifests_of([0])[0]["generator"])
            Manifest(manifest, Layout(SPEC), SIZE)  # well formed
            end = manifest["next"].get(str(rank), 0)
            if rank < writing and end % SIZE:  # the chunk it goes on to write in
                assert any(
                    c["stream"] == rank and c["first"] + c["rows"] == end
                    for c in manifest["chunks"]
                )


def test_a_rank_keeps_the_newest_run_of_what_it_writes():
    first, second = reshard(manifests_of([83]), 2, 1)
    assert [c["first"] // SIZE for c in first["chunks"]] == [5, 6, 7, 8, 9, 10]
    assert [c["first"] // SIZE for c in second["chunks"]] == [0, 1, 2, 3, 4]
    (all_of_it,) = reshard(manifests_of([83, 40]), 1, 1)
    assert len(all_of_it["chunks"]) == 11 + 5
    assert reshard(manifests_of([80, 80, 80]), 2, 1)[0]["next"] == {"0": 80, "1": 80, "2": 80}


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_a_resharded_replay_is_sampled_as_it_was_and_all_write_on(tmp_path, store):
    one = fill(shard(tmp_path, store=store), 83, streams=(0,))
    first, second = reload_as(tmp_path, [save_state(one)], 2, store=store)
    assert clocks(first) | clocks(second) == set(range(83)) and not clocks(first) & clocks(second)
    assert_true(second.sample(32, 19), 19)  # a run of several chunks
    fill(first, 10, start=83, streams=(0,))
    fill(second, 10, streams=(1,))
    states = [save_state(first), save_state(second)]
    (again,) = reload_as(tmp_path, states, 1, store=store)
    assert len(again) == 83 + 20 and clocks(again) == {*range(93), *range(1_000_000, 1_000_010)}
    assert aside(tmp_path) == []
    assert_true(again.sample(64, 60), 60)
    with pytest.raises(ValueError, match="streams 0 to 0, not 1"):
        again.add(1, row(1, 10))


def test_a_stream_that_is_written_again_starts_a_chunk(tmp_path):
    both = [fill(shard(tmp_path, rank, 2), 11, streams=(rank,)) for rank in range(2)]
    (one,) = reload_as(tmp_path, [save_state(r) for r in both], 1)
    fill(one, 30, start=11, streams=(0,))
    first, second = reload_as(tmp_path, [save_state(one)], 2)
    fill(second, 7, start=100, streams=(1,))
    found = clocks(first) | clocks(second)
    assert found == {*range(41), *range(1_000_000, 1_000_011), *range(1_000_100, 1_000_107)}
    assert_true(second.sample(64, 6), 6)  # never across the break


def test_a_rank_goes_on_with_the_episodes_of_all_its_environments():
    (whole,) = manifests_of([11])
    two = {**whole, "next": {"0": 11, "1": 13, "2": 9}}
    (resharded,) = reshard([two], 1, 2)
    assert resharded["next"] == {"0": 11, "1": 13, "2": 16}  # no rank writes stream 2


def test_ranks_leave_each_other_s_files_alone(tmp_path):
    for rank in range(2):
        save_state(fill(shard(tmp_path, rank, 2), 20, streams=(rank,)))
    save_state(fill(shard(tmp_path, 2, 3), 20, streams=(2,)))  # of a run with more ranks
    assert len(list(tmp_path.glob("*.rows"))) == 9
    # A fresh run moves away what was its stream
    save_state(fill(shard(tmp_path, 0, 2), 1, streams=(0,)))
    assert aside(tmp_path) == [f"0000-{n:08d}.rows-other-run" for n in range(3)]
    assert len(list(tmp_path.glob("0001-*"))) == len(list(tmp_path.glob("0002-*"))) == 3
    # The last rank sees to those of nobody too
    save_state(fill(shard(tmp_path, 1, 2), 1, streams=(1,)))
    assert len(aside(tmp_path)) == 9 and not list(tmp_path.glob("0002-*.rows"))


def test_rows_after_the_checkpoint_go_and_evicted_files_of_older_ones_stay(tmp_path):
    ranks = [shard(tmp_path, rank, 2, rows=40) for rank in range(2)]
    for rank, replay in enumerate(ranks):
        fill(replay, 30, streams=(rank,))
    old = [save_state(replay) for replay in ranks]
    for rank, replay in enumerate(ranks):
        fill(replay, 30, start=30, streams=(rank,))
    new = [save_state(replay) for replay in ranks]
    for rank, replay in enumerate(ranks):
        fill(replay, 40, start=60, streams=(rank,))
        replay.flush(strict=True)  # killed before these were in a checkpoint
    again = reload_as(tmp_path, new, 3, rows=40)
    assert {"0000-00000008.rows-after-checkpoint", "0001-00000008.rows-after-checkpoint"} <= set(
        aside(tmp_path)
    )
    for replay in again:
        replay.collect_garbage([*old, *new])
    assert {c["file"] for state in old for c in state["chunks"]} <= {
        path.name for path in tmp_path.glob("*.rows")
    }
    for replay in again:
        replay.collect_garbage(new)
    held = {c["file"] for state in new for c in state["chunks"]}
    assert held == {path.name for path in tmp_path.glob("*.rows")}


def test_a_share_whose_files_are_gone_is_missed_and_an_empty_one_is_not(tmp_path):
    (first, second) = reload_as(tmp_path, [save_state(fill(shard(tmp_path), 5, streams=(0,)))], 2)
    assert len(first) == 5 and len(second) == 0
    states = [save_state(first), save_state(second)]
    for path in tmp_path.glob("*.rows"):
        path.unlink()
    with pytest.raises(ReplayMissing):
        reload_as(tmp_path, states, 2)
