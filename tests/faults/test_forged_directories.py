"""Run directories that somebody has forged with every checksum right, opened by the whole
programs.
"""

import functools
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard

from children import SHORT, in_one, limited
from runs import seed_dir
from test_changed_directories import Payload
from worldmodel.checkpoint.format import FORMAT, hash_bytes, seal_manifest
from worldmodel.replay.compressed_chunk import HEADER

MORE = (*SHORT, "--run.frames", "92")  # so that its last episode is long enough to be looked at
SAVED = ("--from", "saved")
REPLAYED = (
    "model",
    "--from",
    "replay",
    "--episodes",
    "1",
    "--context",
    "2",
    "--length",
    "2",
    "--starts",
    "1",
    "--plans",
    "4",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that has been trained and measured."""
    root = tmp_path_factory.mktemp("made")
    found = in_one(root, _made, root)
    assert [code for code, _ in found] == [0, 0, 0], found
    return root


def _made(call, root):
    run = seed_dir(root)
    trained = call("train", "debug", "--run.root", root, *SHORT)
    return [trained, call("eval", run, "--episodes", 1), call("eval", run, *REPLAYED)]


def all_of(call, root, names):
    """Exit code and words of each of these ways to open a run."""
    run = seed_dir(root)
    ways = {
        "train": ("train", "debug", "--run.root", root, *MORE),
        "train on": ("train", "debug", "--run.root", root, *SHORT, "--run.frames", "160"),
        "eval": ("eval", run, "--episodes", 1),
        "saved": ("eval", run, *SAVED),
        "replayed": ("eval", run, *REPLAYED),
        "report": ("eval", run, "report"),
    }
    return {name: call(*ways[name]) for name in names}


def again(made, root):
    """The run as it was made."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(made, root)
    return seed_dir(root)


def reseal(path):
    """A manifest that agrees with what lies in a checkpoint."""
    files = {p.name: p for p in path.iterdir() if p.name != "manifest.json"}
    listed = {
        name: {"sha256": hash_bytes(p.read_bytes()), "bytes": p.stat().st_size}
        for name, p in files.items()
    }
    (path / "manifest.json").write_bytes(
        seal_manifest({"format": FORMAT, "step": int(path.name), "files": listed})
    )


def checkpoints(run):
    return sorted(run.glob("checkpoints/[0-9]*"), key=lambda p: int(p.name))


# ---- what state.json may say


def put(*keys, value):
    """state[a][b]... = value."""
    return functools.partial(_put, keys, value)


def _put(keys, value, state):
    *above, last = keys
    for key in above:
        state = state[key]
    state[last] = value


LIES = {
    "prefill.steps": put("prefill", "steps", value="x"),
    "prefill.steps below zero": put("prefill", "steps", value=-(10**9)),
    "prefill.over": put("prefill", "over", value=[]),
    "means[].count": put("means", 0, "count", value=10**400),
    "means[].sums": put("means", 0, "sums", value={"\ud800": "0x1p0"}),
    "learner.updates": put("learner", "updates", value=10**400),
    "learner.skipped": put("learner", "skipped", value=2**63),
    "logger.minutes": put("logger", "minutes", value="nan"),
    "logger.processor_minutes": put("logger", "processor_minutes", value="nan"),
    "logger.metrics": put("logger", "metrics", value=None),
    "due.log": put("due", "log", value="no"),
    "rollout.steps": put("rollout", "steps", value=10**12),
    "frames": put("frames", value=10**400),
    "action.size": put("action", "size", value=10**12),
    "observation.image": put("observation", "image", value=[10**9, 10**9, 3]),
    "replay.spec": put("replay", "spec", "image", value=[[10**9], "<f8"]),
}


# What else than training reads of it, and who refuses it then.
READ = {
    "frames": ("eval", "replayed"),
    "action.size": ("eval", "replayed"),
    "observation.image": ("eval", "replayed"),
    "replay.spec": ("replayed",),
    "learner.updates": (),
}


def _lied(call, made, root):
    found = {}
    for what, lie in LIES.items():
        newest = checkpoints(again(made, root))[-1]
        state = json.loads((newest / "state.json").read_text())
        state["means"] = state["means"] or [{"sums": {"loss/image": "0x1p0"}, "count": 1}]
        lie(state)
        (newest / "state.json").write_text(json.dumps(state))
        reseal(newest)
        before = files_of(seed_dir(root))
        found[what] = all_of(
            call, root, ("train", "eval", "replayed", "report") if what in READ else ("train",)
        )
        found[what]["kept"] = before.items() <= files_of(seed_dir(root)).items()
    return found


def files_of(run):
    """What no refusal may change."""
    return {
        str(p): hash_bytes(p.read_bytes())
        for p in run.glob("*/**/*")
        if p.is_file() and "eval" not in p.parts
    }


@pytest.mark.fault(
    15,
    "each value of state.json replaced by an invalid one, with a matching manifest: words, "
    "negative, 10^400, NaN",
    "exit 4 and one line that names the value; no checkpoint or chunk is changed",
)
def test_lies_in_a_sealed_state_are_refused_by_name(made, tmp_path, record_property):
    found = in_one(tmp_path, _lied, made, tmp_path / "root")
    for what, seen in found.items():
        kept = seen.pop("kept")
        code, said = seen["train"]
        assert code == 4 and len(said.strip().splitlines()) == 1 and kept, (what, said)
        assert what.split()[0].removesuffix(".spec").removesuffix("[].sums") in said, (what, said)
        for program, (code, said) in seen.items():
            assert "Traceback" not in said and len(said) < 3000, (what, program, said)
            assert code == (4 if program in ("train", *READ.get(what, ())) else 0), (
                what,
                program,
                said,
            )
    record_property("times", sum(map(len, found.values())))


# ---- payloads in the place of what is no checkpoint


PICTURES = (".gif", ".webp", ".mp4", ".png")


def _poisoned(call, made, root, evil):
    # Train last: it sets a damaged chunk aside
    found, names = (
        {},
        ("saved", "replayed", "report", "train"),
    )
    again(made, root)
    found["nothing"] = all_of(call, root, names)
    run = seed_dir(made)
    others = [
        p.relative_to(run)
        for p in sorted(run.rglob("*"))
        if p.is_file() and p.parent != run / "replay" and p.parents[1].name != "checkpoints"
    ]
    # Of pictures and of chunks one each, and what nobody has asked for.
    kinds = {
        p if p.suffix in (".json", ".jsonl", ".yaml") else p.suffix in PICTURES or p.suffix: p
        for p in others
    }
    extra = [
        Path(x)
        for x in (
            "model.pt",
            "status.tmp",
            "eval/compare.json",
            "eval/imagine.json",
            "replay/x.npz",
        )
    ]
    chunks = json.loads((checkpoints(run)[-1] / "state.json").read_text())["replay"]["chunks"]
    extra += [Path("replay", chunks[i]["file"]) for i in (0, -1)]
    for i, place in enumerate([*kinds.values(), *extra]):
        run = again(made, root)
        (run / place).parent.mkdir(exist_ok=True)
        (run / place).write_bytes(Path(evil[i % 2]).read_bytes())
        found[str(place)] = all_of(
            call, root, ("saved", "report") if place.parts[0] in ("eval", "videos") else names
        )
    return found


@pytest.mark.fault(
    14,
    "a payload (.pt or object array) instead of every other file in turn, checkpoints intact",
    "read by train, returns --from saved, model --from replay and report: nothing is "
    "unpickled; each continues without it or exits with 4",
)
def test_with_sound_checkpoints_no_other_file_is_unpickled_either(made, tmp_path, record_property):
    marker = tmp_path / "touched"
    torch.save({"w": Payload(str(marker))}, tmp_path / "evil.pt")
    np.save(tmp_path / "evil.npy", np.array([Payload(str(marker))], object), allow_pickle=True)
    found = in_one(
        tmp_path,
        _poisoned,
        made,
        tmp_path / "root",
        [str(tmp_path / x) for x in ("evil.pt", "evil.npy")],
    )
    assert {code for code, _ in found.pop("nothing").values()} == {0}
    refused = {"config.yaml": set(found["config.yaml"]), "eval/returns.json": {"saved"}}
    for place, seen in found.items():
        wanted = {"replayed"} if place.endswith("rows") else refused.get(place, set())
        for program, (code, said) in seen.items():
            assert code == (4 if program in wanted else 0), (place, program, code, said)
            assert "Traceback" not in said, (place, program, said)
            # What is opened, and why not
            assert code == 0 or len(said.strip().splitlines()) <= 2, (
                place,
                program,
                said,
            )
    assert {
        "metrics.jsonl",
        "scores.jsonl",
        "status.json",
        "eval/returns.json",
        "eval/model.json",
    } <= found.keys()
    assert any(place.endswith("rows") for place in found) and not marker.exists()
    record_property("times", sum(map(len, found.values())))


# ---- sizes, paths and bombs


def _with_path(run):
    for path in checkpoints(run):
        content = json.loads((path / "manifest.json").read_text())["content"]
        secret = (run / "config.yaml").read_bytes()
        content["files"]["../../config.yaml"] = {
            "sha256": hash_bytes(secret),
            "bytes": len(secret),
        }
        (path / "manifest.json").write_bytes(seal_manifest(content))


def _with_header(run):
    for path in checkpoints(run):
        file = path / "model.safetensors"
        file.write_bytes((1 << 40).to_bytes(8, "little") + file.read_bytes()[8:])
        reseal(path)


def _with_bomb(run):
    """Every packed chunk says that it unpacks to a hundred megabytes, and its checksums
    are right.
    """
    bomb = zstandard.ZstdCompressor().compress(bytes(10**8))
    crcs = {}
    for path in run.glob("replay/*.zrows"):
        rows, episodes, count = HEADER.unpack_from(path.read_bytes())
        body = (
            HEADER.pack(rows, episodes, count)
            + struct.pack(f"<{count}I", *[len(bomb)] * count)
            + bomb * count
        )
        path.write_bytes(body)
        crcs[path.name] = zlib.crc32(body)
    assert crcs
    for path in checkpoints(run):
        state = json.loads((path / "state.json").read_text())
        for entry in state["replay"]["chunks"]:
            entry["crc32"] = crcs.get(entry["file"], entry["crc32"])
        (path / "state.json").write_text(json.dumps(state))
        reseal(path)


FORGED = {
    "a path": (_with_path, "every checkpoint"),
    "a huge header": (_with_header, "every checkpoint"),
    "a bomb": (_with_bomb, "damaged"),
}


def _crafted(call, made, root):
    found = {}
    for what, (forge, _) in FORGED.items():
        for program in ("train on", "replayed"):
            forge(again(made, root))
            found[f"{what}, {program}"] = all_of(call, root, [program])[program]
    return found


@pytest.mark.fault(
    15,
    "in all checkpoints a path that leaves them, or a safetensors header of 2^40 bytes; zstd "
    "bombs for replay chunks; all checksums valid",
    "train.py and eval.py: exit 4",
)
def test_paths_headers_and_bombs_end_the_whole_programs_with_a_line(
    made, tmp_path, record_property
):
    found = in_one(tmp_path, _crafted, made, tmp_path / "root", before=limited(RLIMIT_AS=8 << 30))
    for what, (code, said) in found.items():
        assert code == 4 and "Traceback" not in said, (what, said)
        assert FORGED[what.split(",")[0]][1] in said.strip().splitlines()[-1], (what, said)
    record_property("times", len(found))


def _giant(call, made, root, name):
    found = {}
    for program in ("train", "eval", "report", "replayed"):
        newest = checkpoints(again(made, root))[-1]
        os.truncate(newest / name, 20 << 30)
        content = json.loads((newest / "manifest.json").read_text())["content"]
        content["files"][name]["bytes"] = 20 << 30
        (newest / "manifest.json").write_bytes(seal_manifest(content))
        found[program] = [*all_of(call, root, [program])[program], newest.is_dir()]
    return found


@pytest.mark.parametrize("name", ["model.safetensors", "player.safetensors"])
@pytest.mark.fault(
    15,
    "a sparse file of 20 GiB among a checkpoint's tensors, with a matching manifest and "
    "ulimit -v of 6 GB",
    "exit 4 before any allocation: says how much memory it needs and how much is free",
)
def test_a_sparse_giant_that_the_manifest_agrees_with_is_refused(made, tmp_path, name):
    found = in_one(
        tmp_path, _giant, made, tmp_path / "root", name, before=limited(RLIMIT_AS=6_000_000_000)
    )
    report = found.pop("report")
    assert report[0] == 0 and "Traceback" not in report[1]
    for program, (code, said, there) in found.items():
        assert code == 4 and there and len(said.strip().splitlines()) == 1, (program, said)
        assert "has files of 21.4" in said and "are free" in said, (program, said)
