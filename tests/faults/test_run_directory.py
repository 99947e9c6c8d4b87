"""A run directory without its checkpoints, not writable or not locked: messages, exit codes, and
what is kept.
"""

import errno
import fcntl
import hashlib
import json
import shutil

import pytest

from children import SHORT, go, limited, print_of, refused_at_the_end, signalled_at
from runs import seed_dir, train
from worldmodel.command_line import train as train_py
from worldmodel.config import loading
from worldmodel.errors import RunError
from worldmodel.run_directory import RunDir

TALKING = (*SHORT, "--log.every", "1", "--log.checkpoint", "20")


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Return the directory of an undisturbed run."""
    root = tmp_path_factory.mktemp("calm")
    go(root, *TALKING)
    return root


def held(run):
    return {
        str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in run.rglob("*") if f.is_file()
    }


def status(root):
    return json.loads((seed_dir(root) / "status.json").read_text())


@pytest.mark.fault(
    3,
    "the checkpoint directory deleted or emptied after a run that was killed, stopped or done",
    "exit 4, nothing changed; only --run.fresh true starts over, and keeps the old directory",
)
def test_without_its_checkpoints_a_run_is_not_started_over_unasked(
    calm, tmp_path, record_property
):
    run = seed_dir(tmp_path)
    go(tmp_path, *TALKING, before=signalled_at(36, "SIGKILL"), expect=-9)
    assert status(tmp_path) == {"state": "running", "frames": 20}
    for said in (None, {"state": "stopped", "frames": 0}, {"state": "done", "frames": 80}, "torn"):
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        if said:
            (run / "checkpoints").mkdir()
            (run / "status.json").write_text(json.dumps(said))
        before = held(run)
        assert (run / "metrics.jsonl").stat().st_size > 0
        line = go(tmp_path, *TALKING, expect=4)
        assert (
            len(line.splitlines()) == 1
            and "Nothing was changed" in line
            and "--run.fresh true" in line
        )
        assert str(run / "checkpoints") in line and held(run) == before
    go(tmp_path, *TALKING, "--run.fresh", "true")
    assert print_of(tmp_path) == print_of(calm)
    (kept,) = run.parent.glob("seed0-*")
    assert {
        name.replace(str(kept), str(run)): value for name, value in held(kept).items()
    } == before
    record_property("times", 4)


@pytest.mark.fault(
    3,
    "SIGKILL before the first checkpoint",
    "the same command starts over, with new logs, and says so",
)
def test_killed_before_its_first_checkpoint_it_starts_again(calm, tmp_path, record_property):
    go(tmp_path, *TALKING, before=signalled_at(18, "SIGKILL"), expect=-9)
    assert status(tmp_path) == {"state": "running", "frames": 0}
    assert (seed_dir(tmp_path) / "metrics.jsonl").stat().st_size > 0 and not (
        seed_dir(tmp_path) / "checkpoints"
    ).exists()
    said = go(tmp_path, *TALKING)
    assert "ended before its first checkpoint" in said and "metrics.jsonl" in said
    assert print_of(tmp_path) == print_of(calm)
    record_property("lost", 0)


@pytest.mark.fault(
    4,
    "RLIMIT_FSIZE (ulimit -f) below the size of config.yaml, at a new start and on resume; "
    "status.json refused at the end",
    "exit 74: names the file, what is kept and what to do; the final state equals that of an "
    "undisturbed run",
)
def test_a_disk_full_outside_a_save_says_what_is_kept(calm, tmp_path, record_property):
    run = seed_dir(tmp_path)
    for kept in ("nothing has been trained yet", "the checkpoints are unchanged"):
        said = go(tmp_path, *TALKING, before=limited(RLIMIT_FSIZE=2000), expect=74)
        assert complete(said, run / "config.yaml", kept) and not list(run.glob("*.tmp"))
        go(tmp_path, *TALKING, before=signalled_at(36, "SIGTERM"), expect=75)
    said = go(tmp_path, *TALKING, before=refused_at_the_end(run / "status.tmp"), expect=74)
    assert complete(said, run / "status.json", "all progress is in the last checkpoint")
    (run / "status.tmp").rmdir()
    assert status(tmp_path) == {"state": "running", "frames": 80}
    go(tmp_path, *TALKING)
    assert status(tmp_path)["state"] == "done" and print_of(tmp_path) == print_of(calm)
    record_property("times", 3)
    record_property("lost", 0)


def complete(said, path, kept):
    """Say whether the last line names what happened, what is kept and what to do."""
    last = said.strip().splitlines()[-1]
    return all(
        words in last
        for words in (f"{path} cannot be written", kept, "free disk space", "same command again")
    )


def open_run(root):
    c = loading.parse(["debug", "--run.root", str(root)])
    run = RunDir.for_config(c)
    run.open(c)
    return run


def test_a_lock_of_a_directory_that_was_moved_aside_is_none(tmp_path, monkeypatch):
    """Another process starts over (--run.fresh true) between this one's opening of the lock file
    and its locking.
    """
    flock, path = fcntl.flock, seed_dir(tmp_path)
    moved = []

    def late(handle, how):
        if not moved:
            moved.append(path.rename(path.with_name("seed0-aside")))
        flock(handle, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        first = open_run(tmp_path)
    assert moved
    with first, pytest.raises(RunError, match="another process is training") as caught:
        open_run(tmp_path)
    assert caught.value.exit_code == 74
    open_run(tmp_path).close()


def test_a_file_system_without_locks_is_not_taken_for_another_training(tmp_path, monkeypatch):
    def none(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(
        RunError, match="lock cannot be locked .No locks available.*--run.root"
    ) as caught:
        open_run(tmp_path)
    assert caught.value.exit_code == 74 and "another process" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free disk space there"), (errno.EROFS, "writable for you"), (errno.EIO, "")],
)
def test_whatever_the_system_refuses_is_said_with_what_is_kept(
    monkeypatch, capsys, number, advice
):
    def refuse(c, words, others):
        raise OSError(number, "no", "/there")

    monkeypatch.setattr(train_py, "train", refuse)
    assert train_py.main(["debug", "--run.fresh", "true"]) == 74
    first, kept, fresh = capsys.readouterr().err.strip().splitlines()
    assert first.startswith("no: /there") and advice in first
    assert kept == "what the last checkpoint holds is kept; the same command goes on from there"
    assert "--run.fresh true starts over" in fresh and "leave it out" in fresh
    assert train_py.main(["debug"]) == 74 and "--run.fresh" not in capsys.readouterr().err


def test_what_never_began_leaves_no_run(tmp_path):
    words = ("--env.task", "collections:OrderedDict")  # no environment
    train(tmp_path, *words, expect=2)
    assert list(tmp_path.iterdir()) == []
    train(tmp_path, "--run.frames", "40")
    train(tmp_path, "--run.frames", "50", "--env.size", "[16,16]", expect=2)
    assert (seed_dir(tmp_path) / "lock").exists() and (seed_dir(tmp_path) / "checkpoints").exists()
