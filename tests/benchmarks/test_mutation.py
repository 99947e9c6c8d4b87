"""Mutants are what they say, and their outcomes are told apart: noticed, not noticed, or stuck."""

import ast
import os

import pytest

from benchmarks.mutation.__main__ import write_report
from benchmarks.mutation.draw import (
    GROUPS,
    JOINED,
    PACKAGES,
    SEED,
    draw_from_files,
    draw_group,
    find_package,
    list_files,
)
from benchmarks.mutation.operators import find_mutants
from benchmarks.mutation.results import (
    KILLED,
    SURVIVED,
    Outcome,
    read_outcomes,
    render_page,
    write_outcomes,
)
from benchmarks.mutation.server import Server
from benchmarks.mutation.workplace import ROOT

SOURCE = b'''"""A module."""

import torch


@torch.no_grad()
def weigh(loss, share: float = 0.5, steps=(1, -1)):
    """Docstrings stay."""
    if loss > share and not steps:
        raise ValueError(f"{loss + 1} is too much")
    log.info("%s", loss + 1)
    rest = loss[1:].mean(dim=-1) - share * max(loss, share)
    return rest.detach()
'''


def changes(source=SOURCE):
    return {(m.operator, m.change) for m in find_mutants("x.py", source)}


def test_every_kind_of_wrong_equation_is_found():
    assert changes() >= {
        ("gradient", "torch.no_grad() -> torch.enable_grad()"),
        ("constant", "0.5 -> 1.0"),
        ("constant", "-1 -> 0"),
        ("comparison", "> -> >="),
        ("and/or", "and -> or"),
        ("dropped condition", "loss > share and not steps -> (loss > share)"),
        ("negated condition", "loss > share and not steps -> not (loss > share and not steps)"),
        ("sign", "not steps -> steps"),
        ("slice", "1 -> nothing"),
        ("other function", "mean -> sum"),
        ("other function", "max -> min"),
        ("arithmetic", "- -> +"),
        ("arithmetic", "* -> /"),
        ("dropped term", "share * max(loss, share) -> share"),
    }


def test_docstrings_messages_annotations_and_logs_stay_as_they_are():
    found = find_mutants("x.py", SOURCE)
    assert not any(m.lineno in (1, 8, 11) for m in found)
    assert {m.operator for m in found if m.lineno == 10} == {"removed statement"}
    # Where no graph is kept, nothing is detached.
    assert not any(m.operator == "dropped call" for m in found)
    with_graph = SOURCE.replace(b"@torch.no_grad()\n", b"")
    assert ("dropped call", "rest.detach() -> rest") in changes(with_graph)


def test_a_mutant_is_found_again_after_lines_above_it_and_others_beside_it():
    before = {m.key: m for m in find_mutants("x.py", SOURCE)}
    after = {m.key: m for m in find_mutants("x.py", b"x = 3\n\n" + SOURCE)}
    assert before.keys() < after.keys() and len(before) == len(find_mutants("x.py", SOURCE))
    for key, mutant in before.items():
        assert after[key].lineno == mutant.lineno + 2
        ast.parse(mutant.apply(SOURCE))
        assert mutant.apply(SOURCE) != SOURCE


def test_the_draw_takes_one_mutant_a_line_and_the_same_each_time():
    files = {"worldmodel/model/x.py": SOURCE}
    drawn = draw_from_files(files, 3)
    assert len({m.lineno for m in drawn}) == 3 and drawn == draw_from_files(files, 3)
    assert drawn == draw_from_files(files, 5)[:3]
    assert find_package("worldmodel/policy/planners/cem.py") == "worldmodel/policy/planners"
    assert find_package("worldmodel/errors.py") is None and len(PACKAGES) == 8


def test_the_score_leaves_out_equivalents_and_what_cannot_run_here():
    drawn = draw_from_files({"worldmodel/model/x.py": SOURCE}, 4)
    statuses = ["killed", "timeout", "survived", "not run here"]
    outcomes = {
        m.key: Outcome(*m.key, m.operator, "0", status, None, None, "", 1.0, 1)
        for m, status in zip(drawn, statuses, strict=True)
    }
    page = render_page(drawn, outcomes, {})
    assert "| all | 4 | 2 | 1 | 1 | 0 | 1 | 66.7 % |" in page
    proven = render_page(drawn, outcomes, {drawn[2].key: "Nothing reads it."})
    assert "| all | 4 | 2 | 1 | 0 | 1 | 1 | 100.0 % |" in proven and "Nothing reads it." in proven


def test_files_that_join_a_group_change_only_its_later_draws():
    for group, (files, tests) in GROUPS.items():
        joined = JOINED.get(group, ())
        assert list_files(group, SEED) == files and list_files(group, 1) == files + joined
        assert len({*files, *joined}) == len(files + joined)
        assert all((ROOT / name).is_file() for name in (*files, *joined, *tests))
        assert {m.path for m in draw_group(ROOT, group, 3)} <= {*files}


def test_the_record_of_another_draw_keeps_mutants_that_are_gone(tmp_path, capsys):
    record, drawn = tmp_path / "group-0.jsonl", draw_from_files({"x.py": SOURCE}, 3)
    gone, *rest = drawn
    status = dict(zip((m.key for m in drawn), (SURVIVED, KILLED, KILLED), strict=True))
    outcomes = [
        Outcome(*m.key, m.operator, "0", status[m.key], None, None, "", 1.0, 1) for m in drawn
    ]
    write_outcomes(record, outcomes)
    write_report(rest[::-1], record)
    assert list(read_outcomes(record)) == [m.key for m in (*rest[::-1], gone)]
    assert "| all | 2 | 2 | 0 | 0 | 0 | 0 | 100.0 % |" in capsys.readouterr().out


TESTS = """
import os, subprocess, sys
from pathlib import Path

def test_good(): pass
def test_bad(): assert 1 == 2
def test_stuck():
    while True: pass
def test_crash(): os.abort()
def test_leaves_a_process():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path("left").write_text(str(child.pid))
"""


@pytest.mark.slow
def test_outcomes_are_told_apart_and_nothing_is_left_running(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tree / "test_all.py").write_text(TESTS)
    server = Server(tree, tmp_path / "scratch")
    try:
        limits = {f"test_all.py::test_{name}": 60.0 for name in ("good", "leaves_a_process")}
        assert server.run_tests(limits)["outcome"] == "passed"
        pid = int((tree / "left").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        for name, limit, outcome in (
            ("bad", 60.0, "failed"),
            ("stuck", 0.2, "timeout"),
            ("crash", 60.0, "crashed"),
        ):
            test = f"test_all.py::test_{name}"
            answer = server.run_tests({"test_all.py::test_good": 60.0, test: limit})
            assert answer["outcome"] == outcome, answer
            if outcome != "crashed":
                assert answer["test"] == test
        assert server.run_tests({"test_all.py::test_gone": 60.0})["outcome"] == "empty"
    finally:
        server.close()
