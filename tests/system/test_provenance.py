"""versions.json gets an entry when something changed, and damaged files read as empty."""

import json
import logging

import pytest

from reported import write_run
from runs import ROOT, fingerprint, seed_dir, train
from test_report import check
from worldmodel.evaluation.report.page import render_page
from worldmodel.evaluation.report.reported_run import read_run
from worldmodel.system import doctor, provenance


@pytest.fixture
def here(monkeypatch):
    """Replace the versions of this program and machine by a dict that the test can change."""
    found = {"Python": "3.12", "torch": "2.13", "commit": "abc"}
    monkeypatch.setattr(provenance, "collect_versions", lambda: dict(found))
    return found


def test_a_training_says_with_what_it_was_made(tmp_path):
    train(tmp_path, "--run.frames", "40")
    (entry,) = provenance.read_entries(seed_dir(tmp_path))
    assert entry["frames"] == 0 and entry["words"] == [
        "debug",
        "--run.root",
        str(tmp_path),
        "--run.frames",
        "40",
    ]
    assert (
        entry["torch"] == doctor.find_version("torch")
        and entry["CPU"] == provenance.describe_cpu()
    )
    assert len(entry["commit"].removesuffix("-dirty")) == 40 or not (ROOT / ".git").exists()
    before = fingerprint(seed_dir(tmp_path))
    (seed_dir(tmp_path) / "versions.json").write_text("[")  # nothing that a run goes on from
    train(tmp_path, "--run.frames", "60")
    (entry,) = provenance.read_entries(seed_dir(tmp_path))
    assert entry["frames"] == 40 and fingerprint(seed_dir(tmp_path)) != before
    text, _ = render_page([read_run(seed_dir(tmp_path))])
    assert (
        "from frame 40 on" in text
        and f"./wm train debug --run.root {tmp_path} --run.frames 60" in text
    )


@pytest.mark.parametrize("count, words", [(1, "1 core, "), (16, "16 cores, ")])
def test_cores_are_counted(monkeypatch, count, words):
    monkeypatch.setattr(provenance, "count_cores", lambda: count)
    assert provenance.describe_cpu().startswith(words)


def test_an_entry_is_added_only_where_something_changed(tmp_path, here):
    for frames in (0, 10, 20):
        provenance.record_versions(tmp_path, ["debug"], frames)
    assert [x["frames"] for x in provenance.read_entries(tmp_path)] == [0]
    here["torch"] = "2.14"
    provenance.record_versions(tmp_path, ["debug"], 30)
    provenance.record_versions(tmp_path, ["debug", "--run.frames", "90"], 40)
    assert [(x["frames"], x["torch"]) for x in provenance.read_entries(tmp_path)] == [
        (0, "2.13"),
        (30, "2.14"),
        (40, "2.14"),
    ]
    for frames in range(50, 250):
        provenance.record_versions(tmp_path, ["w" * 5000, str(frames), *"x" * 900], frames)
    found = provenance.read_entries(tmp_path)
    assert len(found) == provenance.MAX_ENTRIES and (found[0]["frames"], found[-1]["frames"]) == (
        0,
        249,
    )
    assert (tmp_path / "versions.json").stat().st_size < provenance.MAX_BYTES


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"entries": 3}',
        '{"entries": [1]}',
        '{"entries": [{"frames": "0", "words": []}]}',
        "[" * 100_000,
        '{"entries": [{"frames": 0, "words": [1]}]}',
        '{"entries": [{"frames": 0, "words": [], "torch": {}}]}',
    ],
)
def test_what_is_no_such_file_counts_as_none(tmp_path, here, content):
    path = write_run(tmp_path / "seed0")
    (path / "versions.json").write_text(content)
    assert provenance.read_entries(path) == []
    assert "versions are not known" in render_page([read_run(path)])[0]
    provenance.record_versions(path, ["debug"], 7)
    assert [x["frames"] for x in provenance.read_entries(path)] == [7]


def test_a_link_is_not_read_and_a_disk_that_refuses_costs_the_entry_alone(
    tmp_path, here, caplog, monkeypatch
):
    provenance.record_versions(tmp_path, ["debug"], 0)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "versions.json").symlink_to(tmp_path / "versions.json")
    assert provenance.read_entries(tmp_path / "run") == []

    def refuse(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(provenance, "replace_file", refuse)
    with caplog.at_level(logging.WARNING):
        provenance.record_versions(tmp_path, ["other"], 0)
    assert "No space left on device" in caplog.text and len(provenance.read_entries(tmp_path)) == 1


def test_words_that_try_to_be_a_page_are_text(tmp_path, here):
    path = write_run(tmp_path / "seed0")
    here["torch"] = "<script>alert(1)</script>"
    provenance.record_versions(path, ["</pre><script>", "a b", "'"], 0)
    text, _ = render_page([read_run(path)])
    check(text)
    assert (
        "<script" not in text
        and json.loads((path / "versions.json").read_text())["entries"][0]["words"][1] == "a b"
    )


def test_runs_with_equal_versions_share_a_table(tmp_path, here):
    paths = [write_run(tmp_path / f"seed{i}", "--run.seed", str(i)) for i in range(3)]
    for i, path in enumerate(paths):
        here["torch"] = "2.14" if i == 2 else "2.13"
        provenance.record_versions(path, ["debug", "--run.seed", str(i)], 0)
    text, _ = render_page([read_run(path) for path in paths])
    assert (
        "versions and machine: seed 0, seed 1" in text and "versions and machine: seed 2" in text
    )
    assert text.count("./wm train debug --run.seed") == 3
