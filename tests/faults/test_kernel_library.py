"""The compiled kernel library under the real eval.py: torn, exchanged, or where others may write
it.
"""

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from children import SHORT, go, in_one
from runs import seed_dir
from worldmodel.kernels import c_library

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="no C compiler here; torch does these steps"
)
# Bf16 uses the library on every machine.
BF16 = (*SHORT, "--run.precision", "bf16", "--run.frames", "12", "--env.time_limit", "6")
EVIL = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void leave_mark(void) {
    FILE *mark = fopen(getenv("EVIL_MARK"), "w");
    fclose(mark);
    exit(66);
}
"""
# A compiler that takes no time: it gives out what the real one has built, and notes that it did.
COMPILER = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo built >> {log}
cp {library} "$2"
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a run, the library, one that leaves a mark when it is loaded, and a compiler
    that gives out the first.
    """
    folder = tmp_path_factory.mktemp("built")
    go(folder, *BF16)
    c_library._build_library("cc", folder / "good.so")
    (folder / "evil.c").write_text(EVIL)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", folder / "evil.so", folder / "evil.c"], check=True
    )
    (folder / "cc").write_text(COMPILER.format(log=folder / "log", library=folder / "good.so"))
    (folder / "cc").chmod(0o755)
    return folder


def plant(cache, name, library, digest_of=None):
    """A library in a cache as this user keeps it: 0700, with the sha256 of `digest_of`."""
    cache.mkdir(mode=0o700, parents=True)
    shutil.copyfile(library, cache / name)
    (cache / name).chmod(0o600)
    digest = (cache / name).with_suffix(".sha256")
    digest.write_text(hashlib.sha256((digest_of or library).read_bytes()).hexdigest())
    digest.chmod(0o600)
    return cache / name


def expose_folder(library):
    library.parent.chmod(0o777)


def expose_parent(library):
    library.parent.parent.chmod(0o777)


def expose_file(library):
    library.chmod(0o620)


def expose_digest(library):
    library.with_suffix(".sha256").chmod(0o602)


def give_away(library):
    os.chown(library, 12345, 12345)


def give_away_folder(library):
    os.chown(library.parent, 12345, 12345)


def make_link(library):
    target = library.parent.parent / "evil.so"
    library.rename(target)
    library.symlink_to(target)


def drop_digest(library):
    library.with_suffix(".sha256").unlink()


def keep_half(library):
    os.truncate(library, library.stat().st_size // 2)


def keep_nothing(library):
    os.truncate(library, 0)


def turn_a_bit(library):
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 1
    library.write_bytes(data)


# What is done to a library that was planted, and whether it is built again inside the cache.
FOREIGN = {
    "folder 0777": (expose_folder, False),
    "parent 0777": (expose_parent, False),
    "file 0620": (expose_file, True),
    "digest 0602": (expose_digest, True),
    "a symbolic link": (make_link, True),
    "no digest": (drop_digest, True),
}
if os.geteuid() == 0:
    FOREIGN |= {
        "another's file": (give_away, True),
        "another's folder": (give_away_folder, False),
    }
TORN = {"half": keep_half, "nothing": keep_nothing, "a bit": turn_a_bit}


def open_with(call, root, what, built):
    """One eval.py with a cache of its own: code, words, builds, whether the library was in use
    and what is left in the temporary folder.
    """
    os.environ.update(
        XDG_CACHE_HOME=str(root / what),
        CC=str(built / "cc"),
        EVIL_MARK=str(root / "mark"),
    )
    return _open(call, root, built)


def _open(call, root, built):
    (built / "log").write_text("")
    (root / "temporary").mkdir(exist_ok=True)
    tempfile.tempdir = str(root / "temporary")
    c_library.load_library.cache_clear()
    code, said = call("eval", seed_dir(built), "--episodes", "1")
    return {
        "code": code,
        "said": said,
        "builds": len((built / "log").read_text().splitlines()),
        "used": c_library.load_library.cache_info().currsize == 1
        and c_library.load_library() is not None,
        "left": os.listdir(root / "temporary"),
    }


def name_library(built):
    """The name that the library has in a cache."""
    cache = built / "named"
    os.environ.update(XDG_CACHE_HOME=str(cache), CC=str(built / "cc"))
    c_library._open_library(str(built / "cc"))
    (found,) = (cache / "worldmodel").glob("*.so")
    return found.name


def _foreign(call, root, built):
    name, found = name_library(built), {}
    for what, (expose, _) in FOREIGN.items():
        library = plant(root / what / "worldmodel", name, built / "evil.so")
        expose(library)
        found[what] = open_with(call, root, what, built)
        found[what]["mark"] = (root / "mark").exists()
        found[what]["kept"] = library.read_bytes() == (built / "good.so").read_bytes()
    return found


@needs_compiler
@pytest.mark.fault(
    28,
    "a library with code of its own and its right sha256 in a cache that others may write: "
    "folder, parent, file or digest; of another user; a symbolic link; without a digest",
    "eval.py never loads it: the library is built again, in a private temporary folder if the "
    "cache is not closed; exit 0",
)
def test_a_library_that_others_may_have_written_is_not_loaded(built, tmp_path, record_property):
    (tmp_path / "root").mkdir()
    found = in_one(tmp_path, _foreign, tmp_path / "root", built)
    for what, seen in found.items():
        kept = FOREIGN[what][1]
        assert seen["code"] == 0 and not seen["mark"], (what, seen)
        assert seen["builds"] == 1 and seen["used"] and seen["kept"] == kept, (what, seen)
        assert seen["left"] == [], (what, seen)
        assert ("others may write" in seen["said"]) == (not kept), (what, seen)
    record_property("times", len(found))


def _own_evil(call, root, built):
    plant(root / "own" / "worldmodel", name_library(built), built / "evil.so")
    return open_with(call, root, "own", built)


@needs_compiler
def test_the_planted_library_would_leave_its_mark(built, tmp_path):
    (tmp_path / "root").mkdir()
    with pytest.raises((AssertionError, FileNotFoundError)):
        in_one(tmp_path, _own_evil, tmp_path / "root", built)
    assert (tmp_path / "root" / "mark").exists()


def _torn(call, root, built):
    name, found = name_library(built), {}
    for what, tear in TORN.items():
        library = plant(root / what / "worldmodel", name, built / "good.so")
        tear(library)
        found[what] = open_with(call, root, what, built)
        found[what]["kept"] = c_library._is_intact(library)
        found[what] |= {"again": open_with(call, root, what, built)["builds"]}
    return found


@needs_compiler
@pytest.mark.fault(
    28,
    "the kept library torn in half, empty, or with one bit turned",
    "eval.py builds it again and keeps it; the next start loads it; exit 0",
)
def test_a_torn_library_is_built_again(built, tmp_path, record_property):
    (tmp_path / "root").mkdir()
    found = in_one(tmp_path, _torn, tmp_path / "root", built)
    for what, seen in found.items():
        assert seen["code"] == 0 and seen["builds"] == 1 and seen["used"], (what, seen)
        assert seen["kept"] and seen["again"] == 0 and seen["left"] == [], (what, seen)
    record_property("times", len(found))


HOMES = ("/dev/null/home", "/proc/nothing", "relative")


def _homeless(call, root, built):
    os.environ.pop("XDG_CACHE_HOME", None)
    os.environ["CC"] = str(built / "cc")
    found = {}
    for home in HOMES:
        os.environ["HOME"] = home
        found[home] = _open(call, root, built)
    return found


@needs_compiler
@pytest.mark.fault(
    28,
    "a HOME that does not exist, that cannot be written, or that is no absolute path",
    "eval.py builds the library in a private temporary folder and removes that; exit 0",
)
def test_without_a_home_the_library_is_built_and_removed(built, tmp_path, record_property):
    (tmp_path / "root").mkdir()
    found = in_one(tmp_path, _homeless, tmp_path / "root", built)
    for home, seen in found.items():
        assert seen["code"] == 0 and seen["builds"] == 1 and seen["used"], (home, seen)
        assert seen["left"] == [] and not Path(home).exists(), (home, seen)
    record_property("times", len(found))


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    assert c_library._find_cache() is None


def test_a_cache_is_made_for_its_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a" / "b"))
    found = c_library._find_cache()
    assert found is not None and stat.S_IMODE(found.stat().st_mode) == 0o700
