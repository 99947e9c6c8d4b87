"""A new run uses one thread per idle core, and a resumed run keeps its number of threads."""

import os
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from children import go
from runs import seed_dir
from worldmodel.config import loading as configs
from worldmodel.programs import evaluation
from worldmodel.system import cpu_cores, runtime


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Fake a machine that gives this process two of three cores, with a scripted clock and load."""
    monkeypatch.setattr(cpu_cores.os, "sched_getaffinity", lambda _: {0, 2})
    monkeypatch.setattr(cpu_cores, "STAT", tmp_path / "stat")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def set_load(seconds, used, own):
        ticks = os.sysconf("SC_CLK_TCK")
        first, third = (int(x * ticks) for x in used)
        lines = [
            f"cpu 1 {10**9} 1 1 1 1 1 1",
            f"cpu0 {first} 0 0 77 5 0 0 9",
            f"cpu1 {10**8} 0 0 0 0 0 0 0",
        ]
        cpu_cores.STAT.write_text("\n".join([*lines, f"cpu2 0 {third} 0 8 0 0 0 4", "intr 5 0"]))
        spent = SimpleNamespace(user=own, system=0.0, children_user=0.5, children_system=0.0)
        monkeypatch.setattr(cpu_cores.os, "times", lambda: spent)
        monkeypatch.setattr(cpu_cores.time, "monotonic", lambda: seconds)

    set_load(100.0, (50.0, 60.0), 7.0)
    return set_load


@pytest.mark.parametrize(
    "used, own, busy",
    [
        ((52.0, 60.0), 9.0, 0),  # the work of this process alone
        ((52.0, 60.4), 9.0, 0),  # a fifth of a core is not in the way
        ((52.0, 60.6), 9.0, 1),
        ((52.0, 62.0), 9.0, 1),
        ((52.0, 62.0), 7.0, 2),
        ((50.0, 60.0), 9.0, 0),
    ],
)
def test_what_other_programs_use_is_counted_in_cores(machine, used, own, busy):
    load = cpu_cores.LoadMeter()
    machine(102.0, used, own)
    assert load.count_busy() == busy


def test_a_system_that_does_not_say_has_nobody_else(machine):
    load = cpu_cores.LoadMeter()
    machine(102.0, (52.0, 62.0), 7.0)
    cpu_cores.STAT.unlink()
    assert load.count_busy() == 0


@pytest.mark.parametrize("busy, taken", [(0, 2), (1, 1), (2, 1)])
def test_a_new_run_takes_the_free_cores_and_says_so(machine, caplog, busy, taken):
    with caplog.at_level("INFO"):
        assert runtime.choose_threads(0, None, SimpleNamespace(count_busy=lambda: busy)) == taken
    assert ("--run.threads" in caplog.text) == (busy > 0)


def test_what_was_asked_for_given_or_taken_before_stays(machine, monkeypatch):
    load = SimpleNamespace(count_busy=lambda: 1)
    assert runtime.choose_threads(5, 1, load) == 5
    assert [runtime.choose_threads(0, before, load) for before in (1, 2, 16, 0)] == [1, 2, 2, 0]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert runtime.choose_threads(0, 1, load) == 0


def use_cores(cores):
    """Let a program count these cores, as none has said how many threads to use."""
    os.environ.pop("OMP_NUM_THREADS")
    os.sched_setaffinity(0, cores)


def test_a_run_writes_down_its_threads_and_goes_on_with_them(tmp_path):
    there = sorted(os.sched_getaffinity(0))
    for frames, used in ((32, there[:1]), (36, there)):
        words = ("--run.threads", "0", "--run.frames", str(frames), "--log.eval", "0")
        go(tmp_path, *words, before=partial(use_cores, used))
        assert configs.load(seed_dir(tmp_path) / "config.yaml").run.threads == 1


def test_an_evaluation_uses_the_idle_cores(monkeypatch):
    seen = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runtime, "count_cores", lambda: 5)
    monkeypatch.setitem(
        evaluation.COMMANDS, "report", lambda *_: seen.append(torch.get_num_threads())
    )
    evaluation.evaluate(
        SimpleNamespace(command="report"), None, SimpleNamespace(count_busy=lambda: 2)
    )
    assert seen == [3]
