"""Run directories that somebody has tampered with, or that another version has written, opened by
the real programs.
"""

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from children import SHORT, go, in_one
from mutate import BOMB
from runs import seed_dir
from test_store import forge
from worldmodel.checkpoint.format import FORMAT, seal_manifest
from worldmodel.config import loading
from worldmodel.config.yaml_io import MAX_BYTES

OLD = Path(__file__).parents[1] / "support" / "run-of-format-1.tar.xz"
MORE = (*SHORT, "--run.frames", "90")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    go(root, *SHORT)
    return root


@pytest.fixture
def run(made, tmp_path):
    """A run directory of this test's own, in tmp_path/root."""
    shutil.copytree(made, tmp_path / "root")
    return seed_dir(tmp_path / "root")


def newest(run):
    return max(run.glob("checkpoints/[0-9]*"), key=lambda p: int(p.name))


class Payload:
    """What touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


@pytest.mark.fault(
    14,
    "a .pt file and an object array with a payload, instead of every tensor file of all "
    "checkpoints (with valid checksums) and beside them",
    "nothing is unpickled: every checkpoint is set aside, exit 4",
)
def test_nothing_in_a_run_directory_is_ever_unpickled(run, tmp_path, record_property):
    marker = tmp_path / "touched"
    torch.save({"w": Payload(str(marker))}, tmp_path / "evil.pt")
    np.save(tmp_path / "evil.npy", np.array([Payload(str(marker))], object), allow_pickle=True)
    evil = [(tmp_path / "evil.pt").read_bytes(), (tmp_path / "evil.npy").read_bytes()]
    times = 0
    for checkpoint in run.glob("checkpoints/[0-9]*"):
        number = int(checkpoint.name)
        for i, file in enumerate(sorted(checkpoint.glob("*.safetensors"))):
            file.write_bytes(evil[i % 2])
            times += 1
        (checkpoint / "weights.pt").write_bytes(evil[0])
        forge(checkpoint)
        content = json.loads((checkpoint / "manifest.json").read_text())["content"]
        content["files"].pop("weights.pt")
        (checkpoint / "manifest.json").write_bytes(seal_manifest({**content, "step": number}))
    for name in (
        "model.pt",
        "checkpoint.pkl",
        "status.json",
        "scores.jsonl",
        "replay/0000-00000000.rows",
        "replay/x.npz",
    ):
        (run / name).write_bytes(evil[times % 2])
        times += 1
    said = go(tmp_path / "root", *MORE, expect=4)
    assert "every checkpoint" in said
    go(tmp_path / "root", str(run), program="eval", expect=4)
    assert not marker.exists()
    record_property("times", times)


@pytest.mark.fault(
    14,
    "YAML tags that would run a command, in config.yaml",
    "refused in one line, nothing is executed",
)
def test_a_configuration_runs_nothing(run, tmp_path):
    marker = tmp_path / "touched"
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        text.replace("seed: 0", f"seed: !!python/object/apply:os.system ['touch {marker}']")
    )
    for program, args in (("train", MORE), ("eval", (str(run),))):
        said = go(tmp_path / "root", *args, program=program, expect=4)
        assert "config.yaml" in said.strip().splitlines()[-1]
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl",
        "versions.json",
        "status.tmp",
        "versions.tmp",
        "curve.png",
        "replay",
        "checkpoints/quarantine",
        "videos/agent.gif",
    ],
)
@pytest.mark.fault(
    15,
    "a symbolic link out of the run directory instead of an output file",
    "exit 4, nothing written through it",
)
def test_nothing_is_written_through_a_link(run, tmp_path, name):
    outside = tmp_path / "outside"
    if name in ("replay", "checkpoints/quarantine"):
        outside.mkdir()
    else:
        outside.write_text("mine")
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.symlink(outside, path)
    for program, args in (("train", MORE), ("eval", (str(run),))):
        said = go(tmp_path / "root", *args, program=program, expect=4)
        assert str(path) in said and "symbolic link" in said
    assert list(outside.iterdir()) == [] if outside.is_dir() else outside.read_text() == "mine"


@pytest.mark.fault(
    15,
    "a configuration of nested references that expand to 9^10 words, in a saved run",
    "one line, exit 4",
)
def test_a_bomb_of_references_is_one_line(run, tmp_path):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("seed: 0", f"seed: [{BOMB}]"))
    said = go(tmp_path / "root", str(run), program="eval", expect=4)
    assert "references such as *a are not read" in said and len(said.splitlines()) == 1
    assert len(said) < 400


MERGES = "<<: [" + "{<<: [" * 6 + "{a: 1}" + "]}" * 6 + "]"
HOSTILE = {
    "merge keys": (MERGES, "merge keys (<<) are not read"),
    "merged references": (
        "a: &a {x: 1}\n" + "".join(f"b{i}: &b {{<<: [*a, *a]}}\n" for i in range(9)),
        "references such as *a",
    ),
    "a reference to itself": ("run: &a [*a]", "references such as *a"),
    "brackets": ("run: " + "[" * 60_000, "nested more than"),
    "a duplicate of a bomb": (f"run: 1\nrun: [{BOMB}]", "references such as *a"),
    "more than a configuration": ("#" * (MAX_BYTES + 1), "are no configuration"),
}


def _opened(call, run):
    found = {}
    for what, (text, _) in HOSTILE.items():
        (run / "config.yaml").write_text(text)
        found[what] = [
            call("eval", run),
            call("train", "debug", "--run.root", run.parents[2], *MORE),
        ]
    return found


@pytest.mark.fault(
    30,
    "merge keys, references to references or to themselves, 60,000 brackets and 64 KB in a saved "
    "configuration of valid YAML",
    "eval.py and train.py: exit 4 and one line, within seconds",
)
def test_yaml_that_grows_is_refused_in_one_line(run, tmp_path, record_property):
    found = in_one(tmp_path, _opened, run)
    for what, answers in found.items():
        for code, said in answers:
            assert code == 4 and len(said.strip().splitlines()) == 1, (what, said)
            assert HOSTILE[what][1] in said and len(said) < 600, (what, said)
    record_property("times", sum(map(len, found.values())))


@pytest.mark.fault(
    25,
    "a checkpoint of a later format; an intact one without something that this version needs",
    "exit 4: names the required version or the missing part; nothing is moved",
)
def test_another_version_s_checkpoint_is_refused_and_left_alone(run, tmp_path, record_property):
    path = newest(run)
    manifest, state = (path / "manifest.json").read_bytes(), (path / "state.json").read_bytes()
    content = json.loads(manifest)["content"]
    (path / "manifest.json").write_bytes(seal_manifest({**content, "format": FORMAT + 1}))
    for program, args in (("train", MORE), ("eval", (str(run),))):
        said = go(tmp_path / "root", *args, program=program, expect=4)
        assert f"format {FORMAT + 1}" in said and "update it" in said
    less = {k: v for k, v in json.loads(state).items() if k != "prefill"}
    forge(path, data={"state.json": json.dumps(less).encode()})
    content = json.loads((path / "manifest.json").read_text())["content"]
    (path / "manifest.json").write_bytes(seal_manifest({**content, "step": int(path.name)}))
    said = go(tmp_path / "root", *MORE, expect=4)
    assert "lacks 'prefill'" in said and "--run.fresh true" in said
    assert path.exists() and not (run / "checkpoints" / "quarantine").exists()
    (path / "state.json").write_bytes(state)
    (path / "manifest.json").write_bytes(manifest)
    record_property("times", 2)


@pytest.mark.fault(
    25,
    "a run directory written by an earlier version (format 1, the only format so far)",
    "resumed; newer keys take their defaults",
)
def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    with tarfile.open(OLD) as archive:
        archive.extractall(
            tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    (found,) = tmp_path.glob("*/*/*/config.yaml")
    saved = loading.read_yaml(found)
    saved["run"]["root"], frames = str(tmp_path), saved["run"]["frames"]
    saved["run"]["frames"] = frames + 20
    said = go(
        tmp_path,
        *[
            f"--{s}.{k}={loading.format_value(v)}"
            for s, table in saved.items()
            for k, v in table.items()
        ],
    )
    assert (
        "resuming" in said
        and json.loads(found.with_name("status.json").read_text())["frames"] == frames + 20
    )


@pytest.mark.fault(
    16,
    "a width that differs from that of the saved weights",
    "exit 4: names the first tensor and both shapes",
)
def test_weights_that_do_not_fit_are_named(run, tmp_path):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("units: 16", "units: 18"))
    for program, args in (("train", (*MORE, "--model.units", "18")), ("eval", (str(run),))):
        said = go(tmp_path / "root", *args, program=program, expect=4)
        assert "tensor '" in said and "(16," in said and "(18," in said
