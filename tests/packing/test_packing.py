"""Packed runs: what is in them, what is checked when they are opened, and what is refused."""

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch

import runs
import worldmodel
from hub import Hub
from worldmodel.command_line import pack as program
from worldmodel.errors import DataError, RunError, UsageError, WorldModelError
from worldmodel.packing import archive, file_list, golden_output, hub
from worldmodel.packing.pack import find_command, pack_run
from worldmodel.system import optional_packages

TIMES = float(os.environ.get("WM_FUZZ", "1"))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the actor-critic."""
    root = tmp_path_factory.mktemp("trained")
    runs.train(root, "--run.frames", "60", "--behavior.name", "actor_critic")
    return runs.seed_dir(root)


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    return pack_run(worldmodel.load(trained), tmp_path_factory.mktemp("packed") / "dir")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def copy(packed, tmp_path):
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def see(run):
    """What a run makes of one observation, whatever it sees."""
    seen = {name: np.full(shape, 1, np.uint8) for name, shape in run.observation_space.items()}
    return run.act(seen)[0]


def list_files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def reseal(folder):
    """List the files of a packed run anew, as whoever changed them could."""
    versions = file_list.read_file_list(folder).versions
    (folder / file_list.NAME).unlink()
    file_list.write_file_list(folder, versions)


def test_a_directory_and_a_zip_act_as_the_run_does_and_hold_no_replay(trained, packed, tmp_path):
    run = worldmodel.load(trained)
    target, expected = pack_run(run, tmp_path / "it.zip"), see(run)
    for place in (packed, target):
        opened = worldmodel.load(place)
        assert np.array_equal(see(opened), expected)
        assert opened.frames == 60 and opened.config.run.root == "runs"
    (opened.path / "eval").mkdir()
    for damage in (lambda file: file.write_bytes(b"x"), Path.unlink):
        for name in ("config.yaml", "pack.json"):
            damage(opened.path / name)
            opened = worldmodel.load(target)
            assert np.array_equal(see(opened), expected) and (opened.path / "eval").is_dir()
    assert [path.name for path in opened.path.parent.iterdir()] == [opened.path.name]
    found = {name.partition("/")[0] for name in list_files(packed)}
    assert found == {
        *("README.md", "config.yaml", "checkpoints", "golden.safetensors", "pack.json"),
        *("metrics.jsonl", "scores.jsonl", "status.json"),
    }
    assert not any("optimizer" in name or "player" in name for name in list_files(packed))


def test_the_card_has_scores_command_and_versions(trained, packed):
    card = (packed / "README.md").read_text()
    score = json.loads((trained / "scores.jsonl").read_text().splitlines()[-1])["eval/score"]
    assert f"| {score:.1f} |" in card and f"torch {torch.__version__}" in card
    assert "wm train debug --run.frames 60 --behavior.name actor_critic" in card
    assert str(trained.parents[2]) not in card and "--run.root" not in find_command(trained)


def test_the_same_run_makes_the_same_zip(trained, tmp_path):
    run = worldmodel.load(trained)
    one, two = (pack_run(run, tmp_path / f"{name}.zip").read_bytes() for name in "ab")
    assert one == two


def test_what_exists_is_not_replaced_and_a_failure_leaves_nothing(trained, tmp_path, monkeypatch):
    run = worldmodel.load(trained)
    (tmp_path / "there").mkdir()
    with pytest.raises(RunError, match="exists already"):
        pack_run(run, tmp_path / "there")
    monkeypatch.setattr(golden_output, "write_golden", lambda run, folder: 1 / 0)
    for name in ("new", "new.zip"):
        with pytest.raises(ZeroDivisionError):
            pack_run(run, tmp_path / name)
        with pytest.raises(ZeroDivisionError):
            pack_run(run, tmp_path / "some" / "folders" / name)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("name", ["config.yaml", "golden.safetensors", "README.md", "status.json"])
def test_a_changed_or_missing_file_is_named(copy, name):
    file = copy / name
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DataError, match=f"{name} is not as it was packed"):
        worldmodel.load(copy)
    file.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        worldmodel.load(copy)


def change_golden(folder, amount):
    file = folder / golden_output.NAME
    tensors = safetensors.torch.load(file.read_bytes())
    tensors["made/features"] = tensors["made/features"] + amount
    file.write_bytes(safetensors.torch.save(tensors))
    reseal(folder)


def test_other_numbers_are_said_and_far_ones_refused(copy, caplog):
    worldmodel.load(copy)
    change_golden(copy, 1e-5)
    worldmodel.load(copy)
    assert caplog.records == []
    change_golden(copy, 0.02)
    worldmodel.load(copy)
    [record] = caplog.records
    assert "its outputs differ by 2.0e-02 (tolerance 0.001)" in record.message
    change_golden(copy, 5.0)
    with pytest.raises(DataError, match="not the model that was packed"):
        worldmodel.load(copy)
    change_golden(copy, float("nan"))
    with pytest.raises(DataError, match="not the model that was packed"):
        worldmodel.load(copy)


def test_other_versions_are_said_in_one_line(copy, caplog):
    (copy / file_list.NAME).unlink()
    file_list.write_file_list(copy, {**golden_output.describe_here(), "torch": "9.9"})
    worldmodel.load(copy)
    [record] = caplog.records
    assert f"packed with torch 9.9, opened with torch {torch.__version__}" in record.message


@pytest.mark.parametrize("change", ["shape", "kind", "lost", "none"])
def test_a_golden_file_of_other_shapes_is_refused(copy, change):
    file = copy / golden_output.NAME
    tensors = safetensors.torch.load(file.read_bytes())
    key = next(k for k in tensors if k.startswith("seen/"))
    if change == "shape":
        tensors[key] = torch.zeros(4, 3)
    elif change == "kind":
        tensors[key] = tensors[key].double()
    elif change == "lost":
        del tensors["made/reward"]
    file.write_bytes(b"" if change == "none" else safetensors.torch.save(tensors))
    reseal(copy)
    with pytest.raises(DataError):
        worldmodel.load(copy)


LISTS = {
    "not JSON": "{",
    "no list": "[]",
    "of another format": json.dumps({"format": 2, "versions": {}, "files": {}}),
    "empty": json.dumps({"format": 1, "versions": {}, "files": {}}),
}
ENTRY = {"sha256": "0" * 64, "bytes": 1}
for name in ("../x", "/etc/passwd", "a/../../b", "a\n", ".hidden", "", "a//b", "a\\b"):
    LISTS[f"naming {name!r}"] = json.dumps({"format": 1, "versions": {}, "files": {name: ENTRY}})
for entry in ({**ENTRY, "bytes": -1}, {**ENTRY, "bytes": 2**60}, {**ENTRY, "sha256": "x"}, 7, {}):
    LISTS[f"with {entry}"] = json.dumps({"format": 1, "versions": {}, "files": {"a": entry}})


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_that_is_none_is_refused(copy, kind):
    (copy / file_list.NAME).write_text(LISTS[kind])
    with pytest.raises(DataError, match="is not a valid pack.json") as error:
        worldmodel.load(copy)
    assert "\n" not in str(error.value)


def test_training_refuses_a_packed_run_and_resumes_one_with_its_replay(trained, packed, tmp_path):
    for with_replay, expect in ((False, 4), (True, 0)):
        root = tmp_path / str(with_replay)
        place = runs.seed_dir(root)
        place.parent.mkdir(parents=True)
        pack_run(worldmodel.load(trained), place, with_replay)
        words = ("--run.frames", "80", "--behavior.name", "actor_critic")
        _, complained = runs.train(root, *words, expect=expect)
        assert ("is a packed run without the replay" in complained) == (not with_replay)
        assert file_list.is_packed(place) == (not with_replay)
        assert worldmodel.load(place).frames == (80 if with_replay else 60)


def test_a_packed_run_is_evaluated_and_says_where_it_lacks_its_replay(packed, tmp_path):
    target = tmp_path / "it.zip"
    archive.write_archive(packed, target)
    said, _ = runs.evaluate(target, "--episodes", "1")
    assert "return" in said and "unpacked" in said
    _, complained = runs.evaluate(packed, "imagine", "--from", "replay", expect=4)
    assert f"{packed} was packed without its replay; use fresh episodes\n" in complained


def test_the_program_packs_beside_a_name_made_of_the_run(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert program.main([str(trained)]) == 0
    assert "counter-debug-seed0.zip" in capsys.readouterr().out
    assert program.main([str(trained)]) == 2  # it is there
    assert program.main([str(tmp_path / "nothing")]) == 4
    assert program.main([str(trained), "--push", "http://x"]) == 2
    shutil.copytree(trained, tmp_path / "runs" / "seed0")
    assert program.main(["latest", "newest"]) == 0 and worldmodel.load("newest").frames == 60
    for word, wanted in (("--psh", "did you mean --push?"), ("--repl", "unknown option --repl")):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            program.main(["latest", word])
        said = capsys.readouterr().err
        assert end.value.code == 2 and wanted in said and said.count("\n") == 1
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"counter-debug-seed0.zip", "newest", "runs"}


def entry(name, data=b"x", kind=stat.S_IFREG, flags=0):
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o644) << 16
    info.flag_bits = flags
    return info, data


BAD = {
    "absolute path": [entry("/tmp/x")],
    "path above": [entry("../x")],
    "path above within": [entry("a/../../x")],
    "backslashes": [entry("..\\x")],
    "a link": [entry("pack.json", b"/etc/passwd", stat.S_IFLNK)],
    "a pipe": [entry("pack.json", b"", stat.S_IFIFO)],
    "no list": [entry("config.yaml")],
    "nothing": [],
    "a hidden file": [entry(".git/config")],
}


@pytest.mark.parametrize("kind", BAD)
def test_archives_that_are_no_packed_runs_are_refused(tmp_path, cache, kind):
    target = tmp_path / "it.zip"
    with zipfile.ZipFile(target, "w") as made:
        for info, data in BAD[kind]:
            made.writestr(info, data)
    refuse(target, cache)


def refuse(target, cache):
    with pytest.raises(DataError) as error:
        worldmodel.load(target)
    assert "\n" not in str(error.value)
    assert list_files(cache) == set() if cache.exists() else True
    assert not (target.parent / "x").exists() and not Path("/tmp/x").exists()


def test_a_bomb_is_refused_before_it_is_unpacked(packed, tmp_path, cache):
    target = tmp_path / "it.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("pack.json", b"0" * (1 << 26))
    with pytest.raises(DataError, match="claims to unpack from"):
        worldmodel.load(target)
    refuse(target, cache)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_twice_encrypted_or_not_as_listed_is_refused(packed, tmp_path, cache):
    for kind in ("twice", "encrypted", "wrong", "bzip2"):
        target = tmp_path / f"{kind}.zip"
        archive.write_archive(packed, target)
        if kind == "encrypted":
            data = bytearray(target.read_bytes())
            data[data.rindex(b"PK\x01\x02") + 8] |= 1
            target.write_bytes(data)
        elif kind in ("twice", "bzip2"):
            with zipfile.ZipFile(target, "a", zipfile.ZIP_BZIP2) as made:
                made.writestr("pack.json" if kind == "twice" else "other", b"{}")
        else:
            folder = shutil.copytree(packed, tmp_path / "changed")
            (folder / "config.yaml").write_text("a: 1\n")
            target.unlink()
            archive.write_archive(folder, target)
        refuse(target, cache)


def test_mutated_archives_are_read_or_refused_in_one_line(packed, tmp_path):
    source = tmp_path / "it.zip"
    archive.write_archive(packed, source)
    data, lots = source.read_bytes(), random.Random(0)
    directory = data.rindex(b"PK\x01\x02") - 600  # most of what can go wrong is there
    for number in range(int(60 * TIMES)):
        changed = bytearray(data)
        for _ in range(lots.randint(1, 4)):
            start = directory if lots.random() < 0.7 else 0
            changed[lots.randrange(start, len(changed))] = lots.randrange(256)
        if lots.random() < 0.2:
            del changed[lots.randrange(len(changed)) :]
        target = tmp_path / f"{number}.zip"
        target.write_bytes(changed)
        try:
            folder = archive.unpack(target)
        except WorldModelError as error:
            assert "\n" not in str(error)
        else:
            file_list.verify_files(folder)


def mutate(data, lots):
    changed = bytearray(data)
    for _ in range(lots.randint(1, 4)):
        changed[lots.randrange(len(changed))] = lots.randrange(256)
    return changed[: lots.randrange(len(changed))] if lots.random() < 0.2 else changed


def test_mutated_lists_and_golden_files_are_read_or_refused_in_one_line(packed, copy):
    run, lots = worldmodel.load(packed), random.Random(1)
    calls = {
        file_list.NAME: lambda: file_list.read_file_list(copy),
        golden_output.NAME: lambda: golden_output.read_golden(
            copy / golden_output.NAME, run.observation_space, run.action_space.size
        ),
    }
    for name, read in calls.items():
        data = (packed / name).read_bytes()
        # The header of the tensors is what can be malformed; numbers may be any.
        most = len(data) if name == file_list.NAME else 8 + int.from_bytes(data[:8], "little")
        for _ in range(int(100 * TIMES)):
            (copy / name).write_bytes(bytes(mutate(data[:most], lots)) + data[most:])
            try:
                read()
            except WorldModelError as error:
                assert "\n" not in str(error)


def test_addresses_of_the_hub():
    assert hub.parse_address("hf://me/it") == hub.HubAddress("me/it", None)
    assert hub.parse_address("hf:/me/it@v1.0/x") == hub.HubAddress("me/it", "v1.0/x")
    for text in ("hf://me", "hf://me/it/more", "hf://me/it@", "hf://../..//x", "hf://a b/c"):
        with pytest.raises(UsageError, match="not an address of the hub"):
            hub.parse_address(text)


def test_without_its_package_the_hub_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(optional_packages, "find_spec", lambda name: None)
    assert program.main(["hf://me/it"]) == 3
    assert f"{sys.executable} -m pip install huggingface_hub\n" in capsys.readouterr().err


HUB = """
import json, sys
from pathlib import Path
import worldmodel
from worldmodel.command_line import pack
from worldmodel.errors import WorldModelError
run, seen = sys.argv[1:]
said = {"pushed": pack.main([run, "--push", "hf://me/it"])}
opened = worldmodel.load("hf://me/it")
said["commit"] = opened.path.name
said["frames"] = opened.frames
for name in ("config.yaml", "pack.json"):
    (opened.path / name).write_text("damaged")
    worldmodel.load(f"hf://me/it@{opened.path.name}")
    (opened.path / name).unlink()
    worldmodel.load("hf://me/it")
said["again"] = str(worldmodel.load(Path("hf://me/it@main")).path) == str(opened.path)
for text in ("hf://me/other", "hf://me/it@nowhere", "hf://me/plain", "hf://me/lying"):
    try:
        worldmodel.load(text)
    except WorldModelError as error:
        said[text] = [error.exit_code, str(error)]
Path(seen).write_text(json.dumps(said))
"""
GONE = """
import sys
import worldmodel
from worldmodel.errors import WorldModelError
worldmodel.load(sys.argv[1])
try:
    worldmodel.load("hf://me/it")
except WorldModelError as error:
    sys.exit(f"{error.exit_code} {error}")
"""


@pytest.mark.skipif(not find_spec("huggingface_hub"), reason="huggingface_hub is not installed")
def test_a_run_is_pushed_to_and_loaded_from_a_hub(trained, packed, tmp_path):
    server = Hub()
    files = {name: (packed / name).read_bytes() for name in list_files(packed)}
    server.commit("me/plain", {"README.md": b"no packed run"})
    server.commit("me/lying", {**files, "config.yaml": files["config.yaml"] + b" "})
    env = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_none",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(ROOT),
    }
    seen = tmp_path / "seen.json"
    call = SimpleNamespace(capture_output=True, text=True, env=env, cwd=tmp_path)
    done = subprocess.run([sys.executable, "-c", HUB, trained, seen], **vars(call))
    assert done.returncode == 0, done.stderr + str(server.unknown)
    said = json.loads(seen.read_text())
    commits = server.repos["me/it"]
    assert said["pushed"] == 0 and said["commit"] in commits and said["frames"] == 60
    assert said["again"] and set(commits[said["commit"]]) == set(files)
    assert said["hf://me/other"][0] == said["hf://me/it@nowhere"][0] == 4
    assert "not there, or not open to you (404)" in said["hf://me/other"][1]
    assert said["hf://me/plain"][0] == 4 and "no usable pack.json" in said["hf://me/plain"][1]
    assert said["hf://me/lying"][0] == 4
    assert "config.yaml is not as it was packed" in said["hf://me/lying"][1]
    server.shutdown()
    server.server_close()
    words = [sys.executable, "-c", GONE, f"hf://me/it@{said['commit']}"]
    done = subprocess.run(words, **vars(call))
    assert done.stderr.startswith("74 hf://me/it cannot be reached"), done.stderr
