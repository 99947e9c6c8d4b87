"""The whole program struck at every sub-step of its saves: killed, signalled, with a full disk;
nothing is lost.
"""

import itertools
import json
import shutil

import pytest

from children import SHORT, go, limited, print_of, signalled_at
from runs import seed_dir
from worldmodel.checkpoint import store
from worldmodel.system import fault_injection


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """What a run leaves that nobody disturbed."""
    root = tmp_path_factory.mktemp("calm")
    go(root, *SHORT)
    return root


def newest(root):
    return int(max((p.name for p in (seed_dir(root) / "checkpoints").glob("[0-9]*")), key=int))


def whole(root):
    """Nothing half-written carries a number, nothing had to be set aside, and the newest
    checkpoint loads.
    """
    run = seed_dir(root)
    assert store.load_latest(run / "checkpoints").step == newest(root)
    assert not (run / "checkpoints" / "quarantine").exists()


@pytest.mark.fault(
    1,
    "os._exit (as abrupt as SIGKILL) at each sub-step of a save, one after the other in a "
    "single run",
    "the newest complete checkpoint loads; the final state equals that of an undisturbed run",
)
def test_killed_at_every_sub_step_of_a_save(calm, tmp_path, record_property):
    go(tmp_path, *SHORT, before=signalled_at(25, "SIGTERM"), expect=75)
    for point in fault_injection.SAVE_POINTS:
        before = newest(tmp_path)
        go(tmp_path, *SHORT, env={"WM_FAULT": f"save:{point}"}, expect=137)
        arrived = fault_injection.SAVE_POINTS.index(point) >= fault_injection.SAVE_POINTS.index(
            "renamed"
        )
        assert (newest(tmp_path) > before) == arrived, point
        whole(tmp_path)
    go(tmp_path, *SHORT)
    assert print_of(tmp_path) == print_of(calm)
    record_property("times", len(fault_injection.SAVE_POINTS))
    record_property("lost", 0)


@pytest.mark.fault(
    9,
    "SIGTERM, SIGINT, SIGUSR1, one of them twice, or SIGTERM and SIGUSR1 together, in turn at "
    "every "
    "sub-step of a save",
    "saved, exit 75 (the same signal twice: ended at once); no partial file; the final state "
    "equals that of an undisturbed run",
)
def test_signalled_at_sub_steps_of_a_save(calm, tmp_path, record_property):
    often = (*SHORT, "--log.checkpoint", "3")
    go(tmp_path, *often, before=signalled_at(12, "SIGTERM"), expect=75)
    ways = itertools.cycle(
        [
            ("SIGTERM", 75),
            ("SIGINT+SIGINT", -2),
            ("SIGUSR1", 75),
            ("SIGTERM+SIGTERM", -15),
            ("SIGINT", 75),
            ("SIGTERM+SIGUSR1", 75),
        ]
    )
    for point, (signals, code) in zip(fault_injection.SAVE_POINTS, ways, strict=False):
        said = go(tmp_path, *often, env={"WM_FAULT": f"save:{point}={signals}"}, expect=code)
        if code == 75:
            assert (
                f"stopped by {signals.split('+')[0]} at" in said
                and "the same command goes on from here" in said
            )
        else:
            assert (
                "ended at once by a second signal" in said
                and "the same command goes on from there" in said
            )
        whole(tmp_path)
    go(tmp_path, *often)
    assert print_of(tmp_path) == print_of(calm)
    record_property("times", len(fault_injection.SAVE_POINTS))
    record_property("lost", 0)


@pytest.mark.fault(
    4,
    "RLIMIT_FSIZE below the size of the optimiser's file, then of a replay chunk",
    "retried, then exit 74 with advice; with free space the final state equals that of an "
    "undisturbed run",
)
def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(calm, tmp_path, record_property):
    go(tmp_path, *SHORT, before=signalled_at(25, "SIGTERM"), expect=75)
    before = newest(tmp_path)
    for size, what in ((200_000, f"checkpoint {before + 5}"), (8000, "the replay")):
        said = go(tmp_path, *SHORT, before=limited(RLIMIT_FSIZE=size), expect=74)
        last = said.strip().splitlines()[-1]
        assert (
            what[:10] in last
            and "cannot be written" in last
            and "intact" in last
            and "same command" in last
        )
        assert said.count("; retry ") == 3
        assert newest(tmp_path) == before and not list(
            seed_dir(tmp_path).glob("checkpoints/.tmp*")
        )
        whole(tmp_path)
    go(tmp_path, *SHORT)
    assert print_of(tmp_path) == print_of(calm)
    record_property("times", 2)
    record_property("lost", 0)


SMALL = (
    "--model.deter",
    "8",
    "--model.stoch",
    "3",
    "--model.hidden",
    "6",
    "--model.cnn",
    "[2, 2]",
    "--model.units",
    "6",
)


@pytest.mark.fault(
    5,
    "RLIMIT_FSIZE below the size of metrics.jsonl and TensorBoard's file",
    "one warning each; training finishes with the same weights",
)
def test_a_full_disk_for_the_logs_does_not_end_a_run(tmp_path, record_property):
    args = (*SHORT, *SMALL, "--log.every", "1", "--train.updates_per_step", "1")
    go(tmp_path / "calm", *args)
    made = seed_dir(tmp_path / "calm")
    held = [*made.glob("checkpoints/*/*"), *made.glob("replay/*.*")]
    most = max(path.stat().st_size for path in held) + 100
    said = go(
        tmp_path / "full", *args, "--log.to", "tensorboard", before=limited(RLIMIT_FSIZE=most)
    )
    assert (
        1 <= said.count("cannot write metrics.jsonl") <= 3
        and said.count("TensorBoard cannot write") <= 1
    )
    assert "a picture cannot be written" in said and "final score" in said
    full, ample = (seed_dir(tmp_path / name) / "metrics.jsonl" for name in ("full", "calm"))
    assert full.stat().st_size <= most < ample.stat().st_size
    [a, b] = [print_of(tmp_path / name) for name in ("calm", "full")]
    same = [name for name in a if name.endswith(".safetensors")]
    assert {k: a[k] for k in same} == {k: b[k] for k in same} and len(same) >= 4
    record_property("lost", 0)


@pytest.mark.fault(
    3,
    "the manifests of all checkpoints damaged, then train.py and eval.py started several times",
    "exit 4 each time; only --run.fresh true starts over, and keeps the old directory",
)
def test_nothing_but_fresh_starts_over(calm, tmp_path):
    shutil.copytree(calm, tmp_path, dirs_exist_ok=True)
    for manifest in seed_dir(tmp_path).glob("checkpoints/*/manifest.json"):
        manifest.write_text(manifest.read_text().replace("bytes", "bites"))
    for program, args in (
        ("train", SHORT),
        ("eval", (str(seed_dir(tmp_path)),)),
        ("train", SHORT),
    ):
        said = go(tmp_path, *args, program=program, expect=4)
        assert "--run.fresh true" in said.strip().splitlines()[-1]
    go(tmp_path, *SHORT, "--run.fresh", "true")
    assert print_of(tmp_path) == print_of(calm)
    assert len(list(seed_dir(tmp_path).parent.glob("seed0-*/checkpoints/quarantine/*"))) >= 2


@pytest.mark.fault(
    7,
    "the replay's folder deleted",
    "refused with exit 4; --replay.lost accept continues without it",
)
def test_a_lost_replay_is_gone_on_without_where_that_is_accepted(calm, tmp_path):
    shutil.copytree(calm, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(seed_dir(tmp_path) / "replay")
    more = (*SHORT, "--run.frames", "110")
    said = go(tmp_path, *more, expect=4)
    assert "--replay.lost accept" in said and "--run.fresh true" in said
    said = go(tmp_path, *more, "--replay.lost", "accept")
    assert "it goes on without" in said
    state = json.loads((seed_dir(tmp_path) / "status.json").read_text())
    assert state == {"state": "done", "frames": 110}
    rows = [json.loads(x) for x in (seed_dir(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    held = [x["replay/rows"] for x in rows if "replay/rows" in x and x["frames"] > 80]
    assert held[0] < 16 and held[-1] > held[0]  # it fills again from nothing


@pytest.mark.fault(
    6,
    "a flipped bit in the middle of a compressed replay chunk",
    "set aside; the run continues with a gap",
)
def test_a_damaged_chunk_costs_itself_alone(calm, tmp_path):
    shutil.copytree(calm, tmp_path, dirs_exist_ok=True)
    chunk = sorted((seed_dir(tmp_path) / "replay").glob("*.zrows"))[-1]
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    said = go(tmp_path, *SHORT, "--run.frames", "90")
    assert said.count("is left out (bad-crc)") == 1 and chunk.name in said
    assert [p.name for p in (seed_dir(tmp_path) / "replay" / "quarantine").iterdir()] == [
        f"{chunk.name}-bad-crc"
    ]


@pytest.mark.fault(
    2,
    "each file of the newest checkpoint truncated to 0, 50 and 99 %, or with a flipped bit",
    "set aside with one warning; the previous one is used; the final state equals that of an "
    "undisturbed run",
)
def test_damage_to_any_file_costs_one_checkpoint(calm, tmp_path, record_property):
    shutil.copytree(calm, tmp_path, dirs_exist_ok=True)
    run, times = seed_dir(tmp_path), 0
    for name in sorted(
        p.name for p in (run / "checkpoints" / f"{newest(tmp_path):09d}").iterdir()
    ):
        path = run / "checkpoints" / f"{newest(tmp_path):09d}" / name
        data = path.read_bytes()
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 8]) + data[middle + 1 :]
        path.write_bytes([b"", data[:middle], data[: len(data) * 99 // 100], flipped][times % 4])
        said = go(
            tmp_path, *SHORT, "--run.frames", "1000", before=signalled_at(12, "SIGTERM"), expect=75
        )
        assert said.count("the checkpoint was moved to") == 1 and "resuming" in said
        times += 1
    for root in (tmp_path, tmp_path / "calm"):
        go(root, *SHORT, "--run.frames", "140")
    assert print_of(tmp_path) == print_of(tmp_path / "calm")
    record_property("times", times)
    record_property("lost", 0)
