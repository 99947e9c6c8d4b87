"""Opening files that may be links, pipes, sockets, devices or folders, and replacing them."""

import json
import os
import socket

import pytest

from worldmodel.system.files import (
    LinkedFileError,
    open_input,
    open_regular,
    read_small_file,
    replace_file,
)
from worldmodel.training.logger import JsonLines


@pytest.fixture
def outside(tmp_path):
    found = tmp_path / "outside"
    found.write_text("mine")
    return found


def put(kind, path, outside):
    """Something else than a file of its own at this path."""
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as there:
                there.bind(str(path))
        case "folder":
            path.mkdir()
        case "symbolic link":
            path.symlink_to(outside)
        case "hard link":
            path.hardlink_to(outside)
        case "link to a device":
            path.symlink_to("/dev/full")


KINDS = ("pipe", "socket", "folder", "symbolic link", "hard link", "link to a device")
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, APPEND])
def test_nothing_but_a_file_with_one_name_is_opened(tmp_path, outside, kind, flags):
    put(kind, tmp_path / "x", outside)
    with pytest.raises(LinkedFileError if kind == "hard link" else OSError) as caught:
        open_regular(tmp_path / "x", flags)
    assert "x" in str(caught.value) and outside.read_text() == "mine"


def test_a_pipe_with_another_end_is_refused_too(tmp_path):
    os.mkfifo(tmp_path / "x")
    end = os.open(tmp_path / "x", os.O_RDWR | os.O_NONBLOCK)
    for flags in (os.O_RDONLY, APPEND):
        with pytest.raises(IsADirectoryError, match="not a regular file"):
            open_regular(tmp_path / "x", flags)
    os.close(end)


def test_it_opens_in_the_modes_of_open(tmp_path):
    path = tmp_path / "x"
    with open(path, "ab", opener=open_regular) as file:
        file.write(b"12345")
    with open(path, "r+b", opener=open_regular) as file:
        file.truncate(3)
    assert read_small_file(path, 3) == b"123" and not path.stat().st_mode & 0o111
    with pytest.raises(AssertionError):
        open(path, "wb", opener=open_regular)
    assert path.read_bytes() == b"123"


def test_what_a_user_names_may_be_a_link_and_no_pipe(tmp_path, outside):
    for kind in ("symbolic link", "hard link"):
        put(kind, tmp_path / kind, outside)
        assert read_small_file(tmp_path / kind, 9, open_input) == b"mine"
    for kind in ("pipe", "socket", "folder", "link to a device"):
        put(kind, tmp_path / kind, outside)
        with pytest.raises(OSError, match="not a regular file"):
            read_small_file(tmp_path / kind, 9, open_input)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_a_replaced_file_is_a_new_one(tmp_path, outside, kind):
    for name in ("x.json", "x.tmp"):
        put(kind, tmp_path / name, outside)
    replace_file(tmp_path / "x.json", "new")
    assert (tmp_path / "x.json").read_text() == "new" and outside.read_text() == "mine"
    assert not (tmp_path / "x.json").is_symlink() and not os.path.lexists(tmp_path / "x.tmp")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.fault(
    29,
    "a pipe, socket, folder, link or second name in the place of metrics.jsonl during a training",
    "one warning, nothing is written through it; training goes on, and the log too once it can",
)
def test_a_log_that_cannot_be_opened_costs_its_lines(tmp_path, outside, kind, caplog):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    put(kind, lines.path, outside)
    lines.write({"frames": 1})
    lines.write({"frames": 2})
    assert outside.read_text() == "mine" and len(caplog.records) == 1
    assert "training goes on without it" in caplog.text
    lines.path.rmdir() if kind == "folder" else lines.path.unlink()
    lines.write({"frames": 3})
    assert json.loads(lines.path.read_text()) == {"frames": 3}
