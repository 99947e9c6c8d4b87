"""A training left to itself, its workers killed again and again: what it holds does not grow. WM_SOAK: its seconds.

A minute where CI runs it, ten seconds elsewhere.
"""

import json
import os

import pytest

from benchmarks.soak import soak

SECONDS = float(os.environ.get("WM_SOAK") or (60 if os.environ.get("CI") else 10))


@pytest.mark.fault(22, "a run with two workers, one of them killed every 0.7 seconds", "memory, descriptors, threads, "
                   "children and shared memory stay level; no zombies")  # fmt: skip
def test_what_a_long_run_holds_stays_level(tmp_path, record_property):
    found = soak(SECONDS / 60, 0.7, tmp_path)
    growth = found["growth"]
    assert found["exit"] == 75 and found["killed"] >= 3 and found["restarts"] >= found["killed"] - 1, found
    assert growth["rss_mb"]["last"] - growth["rss_mb"]["first"] < 24, json.dumps(found)
    for kind in ("descriptors", "threads", "shared_memory"):
        assert growth[kind]["most"] <= growth[kind]["first"] + 6, (kind, found)  # a worker more is starting up
    assert growth["zombies"]["last"] <= 1 and growth["children"]["most"] <= 4, found
    record_property("times", found["killed"])
