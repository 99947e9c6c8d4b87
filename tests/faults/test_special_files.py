"""Pipes, sockets, devices, links and folders in the place of every kind of file of a run, opened
by the real programs.
"""

import itertools
import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from children import SHORT, go, in_one
from runs import seed_dir
from test_changed_directories import newest

MORE = (*SHORT, "--run.frames", "90")
ALSO = ("eval/report.html", "eval/imagine.png", "status.tmp", "diverged/batch-1.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    go(root, *SHORT)
    go(root, seed_dir(root), "--episodes", "1", program="eval")
    return root


def list_places(run):
    """One file of each kind that a run holds, and some that are written later."""
    groups = {}
    for path in sorted(run.rglob("*")):
        if path.is_file():
            within = path.relative_to(run)
            kind = (within.parts[0], within.suffix, within.stem.strip("0123456789-"))
            groups[kind] = within
    return [*map(str, groups.values()), *ALSO]


def put(kind, path, outside):
    path.parent.mkdir(exist_ok=True)
    if os.path.lexists(path):
        path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            here = os.getcwd()
            os.chdir(path.parent)  # the address of a socket is short
            with socket.socket(socket.AF_UNIX) as there:
                there.bind(path.name)
            os.chdir(here)
        case "device":
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        case "second name":
            path.hardlink_to(outside)
        case "symbolic link":
            path.symlink_to(outside)
        case "folder":
            path.mkdir()


def open_all(call, run, names=("train", "eval", "saved", "report")):
    """The programs that open a run: exit code and words."""
    words = {
        "train": ("train", "debug", "--run.root", run.parents[2], *MORE),
        "eval": ("eval", run, "--episodes", "1"),
        "saved": ("eval", run, "--from", "saved"),
        "report": ("eval", run, "report"),
    }
    return {name: call(*words[name]) for name in names}


def _refused(call, made, root, kinds):
    run, outside, found = seed_dir(root), root.parent / "outside", {}
    shutil.copytree(made, root)
    for place, kind in zip(list_places(run), itertools.cycle(kinds), strict=False):
        kept = run / place
        aside = root.parent / "aside"
        had = kept.exists()
        if had:
            kept.rename(aside)
        outside.write_text("mine")
        put(kind, kept, outside)
        found[f"{place}, {kind}"] = open_all(call, run)
        assert outside.read_text() == "mine", place
        kept.unlink()
        if had:
            aside.rename(kept)
    return found


@pytest.mark.fault(
    29,
    "a pipe, a socket, a device or a second name of a file outside (hard link) in the place of "
    "each kind of file that a run holds or gets",
    "train.py, eval.py, eval.py --from saved and report: exit 4, one line that names it and says "
    "what to do; no hang, nothing changes outside",
)
@pytest.mark.parametrize("first", ["second name", "pipe"])
def test_what_is_no_file_of_the_run_is_refused(made, tmp_path, first, record_property):
    # Once every place as a second name, once as one of the others in turn.
    others = ["pipe", "socket", *(["device"] if os.geteuid() == 0 else [])]
    kinds = [first] if first == "second name" else others
    found = in_one(tmp_path, _refused, made, tmp_path / "root", kinds)
    for what, answers in found.items():
        place, kind = what.split(", ")
        for program, (code, said) in answers.items():
            assert code == 4 and len(said.strip().splitlines()) == 1, (what, program, said)
            assert place in said, (what, program, said)
            assert ("cp -r" if kind == "second name" else "delete it") in said, (what, said)
    record_property("times", sum(map(len, found.values())))


FOLDERS = {
    "config.yaml": ("train", "eval"),
    "status.json": ("train",),
    "metrics.jsonl": ("train", "report"),
    "versions.json": ("report",),
    "eval/returns.json": ("saved", "report"),
    "lock": ("train",),
}


def _folders(call, made, root):
    run, found, whole = seed_dir(root), {}, seed_dir(made)
    inside = {
        newest(whole) / "model.safetensors": ("eval",),
        min((whole / "replay").iterdir()): ("train",),
    }
    for place, names in [*FOLDERS.items(), *inside.items()]:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(made, root)
        within = place if isinstance(place, str) else str(place.relative_to(whole))
        put("folder", run / within, None)
        found[within] = open_all(call, run, names)
    shutil.rmtree(root)
    shutil.copytree(made, root)
    elsewhere = root.parent / "elsewhere"
    last = newest(run)
    last.rename(elsewhere)
    last.symlink_to(elsewhere)
    found["a linked checkpoint"] = open_all(call, run)
    assert len(list(elsewhere.iterdir())) == len(list(newest(whole).iterdir()))
    return found


@pytest.mark.fault(
    29,
    "a folder in the place of each kind of file of a run; a checkpoint that is a link to a folder "
    "elsewhere",
    "train.py, eval.py, eval.py --from saved and report: without it, or one line and exit 4 or "
    "74; no traceback",
)
def test_a_folder_in_the_place_of_a_file(made, tmp_path, record_property):
    found = in_one(tmp_path, _folders, made, tmp_path / "root")
    for what, answers in found.items():
        for program, (code, said) in answers.items():
            assert code in (0, 4, 74) and "Traceback" not in said, (what, program, code, said)
            named = what.startswith("a linked") or Path(what).name in said
            assert code == 0 or named, (what, program, said)
    assert {code for code, _ in found["a linked checkpoint"].values()} == {4}
    record_property("times", sum(map(len, found.values())))


def _backed_up(call, made, root):
    shutil.copytree(made, root)
    backup = root.with_name("backup")
    shutil.copytree(root, backup, copy_function=os.link)
    run = seed_dir(root)
    refused = call("train", "debug", "--run.root", root, *MORE)
    copy = Path(f"{run}.copy")
    shutil.copytree(run, copy)
    shutil.rmtree(run)
    copy.rename(run)
    return [refused, call("train", "debug", "--run.root", root, *MORE)]


@pytest.mark.fault(
    29,
    "a backup of a run made of hard links (cp -al)",
    "exit 4: the line says how to make files of its own; after that the run is resumed",
)
def test_a_run_with_a_backup_of_hard_links_says_what_to_do(made, tmp_path):
    (code, said), (resumed, words) = in_one(tmp_path, _backed_up, made, tmp_path / "root")
    assert code == 4 and "cp -al" in said and "cp -r" in said and "Nothing was changed" in said
    assert resumed == 0 and "resuming" in words
