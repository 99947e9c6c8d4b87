"""A run whose configuration, status or logs are missing or damaged when it is resumed."""

import hashlib
import json
import shutil

import pytest

from children import BRIEF, go, in_one, print_of, signalled_at
from runs import seed_dir

# Many lines before the stop, some of which are whole after any damage.
OFTEN = (*BRIEF, "--log.every", "2")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The root of a run that was stopped in the middle."""
    root = tmp_path_factory.mktemp("stopped")
    go(root, *OFTEN, before=signalled_at(18, "SIGTERM"), expect=75)
    return root


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The root of an undisturbed run."""
    root = tmp_path_factory.mktemp("calm")
    go(root, *OFTEN)
    return root


def copy_run(root, target):
    shutil.copytree(seed_dir(root), seed_dir(target))
    return target


def resume_each(call, roots):
    """Resume several runs, one after the other, in one process: exit codes and words."""
    return [call("train", "debug", "--run.root", root, *OFTEN) for root in roots]


def resume_all(tmp_path, roots):
    return in_one(tmp_path, resume_each, [str(root) for root in roots])


def hash_files(run):
    files = [f for f in run.rglob("*") if f.is_file()]
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.fault(
    36,
    "a saved run whose config.yaml is missing, empty, cut after its first line, or no YAML",
    "exit 4, one line; nothing is changed",
)
def test_without_its_configuration_a_run_is_refused(stopped, tmp_path, record_property):
    roots = [copy_run(stopped, tmp_path / name) for name in ("none", "empty", "cut", "torn")]
    files = [seed_dir(root) / "config.yaml" for root in roots]
    text = files[0].read_text()
    files[0].unlink()
    files[1].write_text("")
    files[2].write_text(text.splitlines(keepends=True)[0])
    files[3].write_text(text[:200] + "\0\0")
    before = [hash_files(root) for root in roots]
    for code, said in resume_all(tmp_path, roots):
        assert code == 4 and "config.yaml" in said and "Traceback" not in said, said
        assert "--run.fresh true" in said.splitlines()[-1]
    assert [hash_files(root) for root in roots] == before
    record_property("times", len(roots))


@pytest.mark.fault(
    36,
    "a saved run whose status.json is missing, empty, half written or a list; a finished run "
    "without it",
    "one line; the run goes on, or is evaluated again, and exits with 0 once the status says "
    "done; the final state equals that of an undisturbed run",
)
def test_without_its_status_a_run_goes_on(stopped, calm, tmp_path, record_property):
    contents = {"none": None, "empty": "", "half": '{"state": "don', "list": "[]", "done": None}
    roots = [copy_run(calm if name == "done" else stopped, tmp_path / name) for name in contents]
    for root, content in zip(roots, contents.values(), strict=True):
        file = seed_dir(root) / "status.json"
        file.unlink()
        if content is not None:
            file.write_text(content)
    for (code, said), root in zip(resume_all(tmp_path, roots), roots, strict=True):
        assert code == 0 and said.count("is missing or cannot be read") == 1, said
        assert json.loads((seed_dir(root) / "status.json").read_text())["state"] == "done"
        assert print_of(root) == print_of(calm)
    record_property("lost", 0)
    record_property("times", len(roots))


# The damage, and which of the lines before the stop are whole after it.
DAMAGE = {
    "missing": (None, []),
    "empty": (lambda lines: b"", []),
    "shorter by two lines": (lambda lines: b"".join(lines[:-2]), [0, 1, 2, 3]),
    "cut within a line": (lambda lines: b"".join(lines)[:-9], [0, 1, 2, 3, 4]),
    "two lines joined": (
        lambda lines: lines[0] + lines[1][:-1] + b"".join(lines[2:]),
        [0, 1, 2, 3, 4, 5],
    ),
    "half a line before another": (
        lambda lines: lines[0] + lines[1][:20] + b"".join(lines[2:]),
        [0, 2, 3, 4, 5],
    ),
    "zeros for a line": (
        lambda lines: lines[0] + b"\0" * len(lines[1]) + b"".join(lines[2:]),
        [0, 2, 3, 4, 5],
    ),
    "another file's bytes": (lambda lines: b"\xff{[" * 1000, []),
}


@pytest.mark.fault(
    36,
    "a saved run whose metrics.jsonl is missing, empty, cut, joined or overwritten in parts",
    "one line; whole lines are kept and the damaged file set aside; training goes on, exit 0; "
    "the final state equals that of an undisturbed run",
)
def test_damaged_logs_are_mended(stopped, calm, tmp_path, record_property):
    roots = [copy_run(stopped, tmp_path / str(number)) for number in range(len(DAMAGE))]
    before = (seed_dir(stopped) / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    undisturbed = (seed_dir(calm) / "metrics.jsonl").read_text().splitlines()
    rest = [json.loads(line)["frames"] for line in undisturbed[len(before) :]]
    assert len(before) == 6 and len(rest) == 7
    for root, (damage, _) in zip(roots, DAMAGE.values(), strict=True):
        file = seed_dir(root) / "metrics.jsonl"
        (file.unlink() if damage is None else file.write_bytes(damage(before)))
    for (code, said), root, (damage, whole) in zip(
        resume_all(tmp_path, roots), roots, DAMAGE.values(), strict=True
    ):
        assert code == 0 and said.count("training goes on") == 1 and "Traceback" not in said, said
        lines = (seed_dir(root) / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        assert lines[: len(whole)] == [before[i] for i in whole]
        assert [json.loads(line)["frames"] for line in lines[len(whole) :]] == rest
        aside = seed_dir(root) / "quarantine" / "metrics.jsonl-damaged"
        assert aside.exists() == bool(damage and damage(before))
        found, wanted = print_of(root), print_of(calm)
        for name in ("metrics.jsonl", "metrics.jsonl lines"):
            del found[name], wanted[name]
        assert found == wanted
    record_property("lost", 0)
    record_property("times", len(roots))
