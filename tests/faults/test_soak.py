"""A training left to itself, its workers killed again and again: what it holds does not grow.
WM_SOAK: its seconds.

Half a minute where CI runs it, ten seconds elsewhere.
"""

import json
import mmap
import os

import pytest

from benchmarks.soak import list_shared_memory, run_soak

SECONDS = float(os.environ.get("WM_SOAK") or (30 if os.environ.get("CI") else 10))
GROWN_MB = 3.0  # over the last two thirds, by the fitted slope


@pytest.mark.fault(
    22,
    "a run with two workers, one of them killed every 0.7 seconds",
    "memory, descriptors, threads, children and shared memory stay constant; no zombies",
)
def test_what_a_long_run_holds_stays_level(tmp_path, record_property):
    found = run_soak(SECONDS / 60, 0.7, tmp_path)
    growth = found["growth"]
    assert (
        found["exit"] == 75 and found["killed"] >= 3 and found["restarts"] >= found["killed"] - 1
    ), found
    if SECONDS >= 30:  # a shorter one is over before the replay is full
        hours = found["minutes"] * 2 / 3 / 60
        assert growth["rss_mb"]["per_hour"] * hours < GROWN_MB, json.dumps(found)
        assert growth["workers_rss_mb"]["per_hour"] * hours < 2 * GROWN_MB, json.dumps(found)
    else:
        assert growth["rss_mb"]["last"] - growth["rss_mb"]["first"] < 24, json.dumps(found)
    for kind in ("descriptors", "threads"):
        # A worker more is starting up
        assert growth[kind]["most"] <= growth[kind]["first"] + 6, (
            kind,
            found,
        )
    # One that was killed a moment before
    assert growth["zombies"]["most"] <= 1 and growth["children"]["most"] <= 4, found
    # A block per worker
    assert 1 <= growth["shared_memory"]["most"] <= 2 and growth["shared_mb"]["most"] < 0.1, found
    record_property("times", found["killed"])


@pytest.mark.parametrize("mapped", [True, False])
def test_a_block_that_is_kept_is_seen(mapped):
    before = list_shared_memory(os.getpid())
    block = os.memfd_create("frames")
    os.ftruncate(block, 3 << 20)
    view = mmap.mmap(block, 3 << 20) if mapped else None
    if mapped:
        os.close(block)  # a map alone keeps it
    more = list_shared_memory(os.getpid())
    assert len(more) == len(before) + 1 and sum(more.values()) - sum(before.values()) == 3 << 20
    if view is None:
        os.close(block)
    else:
        view.close()
    assert list_shared_memory(os.getpid()) == before
