"""The environments side by side: what is equal to what, and what survives what."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from gymnasium import spaces
from worldmodel.envs.parallel.process import Worker
from worldmodel.envs.parallel.vector import EnvFailure, SerialEnv, Step, VectorEnv, make_vector

from benchmarks.soak import list_children, measure_process, read_status
from faulty import DO, Broken, Faulty, Noting
from worldmodel import envs

ROOT = Path(__file__).resolve().parents[2]
OK = np.zeros(1, np.float32)


class Start(NamedTuple):
    """Stands for a reset where an action could be."""

    seed: int


def begin(env, commands: list) -> None:
    for i, command in enumerate(commands):
        if isinstance(command, Start):
            env.begin_reset(i, command.seed)
        else:
            env.begin_step(i, command)


def step_all(env, commands: list) -> list[Step]:
    """Give every environment its command at once; the Steps in their order."""
    begin(env, commands)
    steps = env.finish()
    assert list(steps) == list(range(len(commands)))
    return list(steps.values())


def wait_gone(pids: list[int], seconds: float) -> list[int]:
    """Return the processes that are still there after `seconds`."""
    end = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def alive(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def same(a: Step, b: Step) -> None:
    assert a.obs.keys() == b.obs.keys()
    for key in a.obs:
        assert a.obs[key].dtype == b.obs[key].dtype
        np.testing.assert_array_equal(a.obs[key], b.obs[key])
    assert (a.reward, a.is_first, a.is_last, a.is_terminal) == (
        b.reward,
        b.is_first,
        b.is_last,
        b.is_terminal,
    )
    assert (a.info, a.frames, a.fault) == (b.info, b.frames, b.fault)


def play(env, seeds: list[int], num_steps: int) -> list[list[Step]]:
    """Step with actions fixed by environment and time, starting an episode wherever one ended."""
    generators = [np.random.default_rng(seed) for seed in seeds]
    rows = [step_all(env, [Start(seed) for seed in seeds])]
    for t in range(num_steps):
        commands = []
        for i, generator in enumerate(generators):
            discrete = isinstance(env.action_space, spaces.Discrete)
            action = (
                int(generator.integers(3))
                if discrete
                else generator.uniform(-1, 1, 2).astype(np.float32)
            )
            commands.append(Start(1000 + 10 * t + i) if rows[-1][i].is_last else action)
        rows.append(step_all(env, commands))
    return rows


@pytest.mark.parametrize(
    "name, obs", [("pointmass", "both"), ("catcher", "pixels"), ("catcher", "state")]
)
def test_serial_and_vector_give_the_same_steps(name, obs):
    make = partial(envs.make, name, size=(17, 23), obs=obs, repeat=2, time_limit=41)
    with VectorEnv(make, 3) as vector, SerialEnv(make, 3) as serial:
        assert vector.observation_space == serial.observation_space
        assert vector.action_space == serial.action_space
        together, apart = play(vector, [5, 6, 7], 60), play(serial, [5, 6, 7], 60)
    with make_vector(make, 1) as single:
        assert isinstance(single, SerialEnv)
        alone = play(single, [6], 20)
    for a, b in zip(together, apart, strict=True):
        for i in range(3):
            same(a[i], b[i])
    for a, c in zip(together, alone, strict=False):
        same(a[1], c[0])
        if c[0].is_last:
            break
    assert sum(row[0].is_first for row in together) > 1
    assert any(step.is_last for row in together for step in row)


def test_no_step_is_lost_or_reordered():
    with make_vector(partial(envs.make, "counter", size=(9, 11), obs="both"), 4) as env:
        steps = step_all(env, [Start(i) for i in range(4)])
        tags = [int(step.obs["image"][0, 0, 2]) for step in steps]
        assert len(set(tags)) == 4
        for t in range(1, 21):
            sent = [np.float32([(i + 1) / 10 - t / 100]) for i in range(4)]
            steps = step_all(env, sent)
            for i, step in enumerate(steps):
                assert (step.obs["image"] == (t, 0, tags[i])).all()
                np.testing.assert_array_equal(
                    step.obs["vector"], np.float32([t, tags[i], sent[i][0]])
                )
                assert (step.reward, step.is_last, step.is_terminal) == (t, t == 20, False)
                assert step.info == {} and step.frames == 1


def test_environments_work_while_the_caller_does_something_else(tmp_path):
    with VectorEnv(partial(Noting, str(tmp_path)), 2) as env:
        step_all(env, [Start(1), Start(2)])
        begin(env, [OK, OK])
        end = time.monotonic() + 60
        while not (tmp_path / "1").exists():
            assert time.monotonic() < end, "nothing was done before anyone asked for it"
            time.sleep(0.01)
        with pytest.raises(ValueError, match="has begun already"):
            env.step(0, OK)
        assert [step.reward for step in env.finish().values()] == [1, 1]


@pytest.mark.parametrize("kind", [SerialEnv, VectorEnv])
def test_steps_begun_early_are_the_same(kind):
    make = partial(envs.make, "catcher", size=(17, 23), obs="both", time_limit=9)
    with kind(make, 2) as early, kind(make, 2) as late:
        steps = [Step({}, 0.0, False, True, False, {})] * 2
        for t in range(30):
            commands = [
                Start(10 * t + i) if step.is_last else t % 3 for i, step in enumerate(steps)
            ]
            begin(early, commands)
            late_steps = [
                late.reset(i, c.seed) if isinstance(c, Start) else late.step(i, c)
                for i, c in enumerate(commands)
            ]
            steps = list(early.finish().values())
            for a, b in zip(steps, late_steps, strict=True):
                same(a, b)


@pytest.mark.parametrize("fault, words", [("exit", "exited with code 7"), ("raise", "boom")])
def test_a_step_begun_early_may_fail_like_any_other(fault, words):
    with VectorEnv(Faulty, 2) as env:
        step_all(env, [Start(1), Start(2)])
        begin(env, [OK, DO[fault]])
        steps = list(env.finish().values())
        assert steps[0].reward == 1 and steps[1].is_last and words in steps[1].fault
        assert [s.reward for s in step_all(env, [OK, Start(4)])] == [2, 0]


def test_steps_belong_to_the_caller():
    for kind in (SerialEnv, VectorEnv):
        with kind(partial(envs.make, "counter", size=(9, 11)), 2) as env:
            first = step_all(env, [Start(0), Start(1)])[0].obs["image"]
            before = first.copy()
            second = step_all(env, [OK, OK])[0].obs["image"]
            second[:] = 99
            np.testing.assert_array_equal(first, before)
            assert step_all(env, [OK, OK])[0].obs["image"][0, 0, 0] == 2


@pytest.mark.parametrize("kind", [SerialEnv, VectorEnv])
@pytest.mark.parametrize(
    "fault, words",
    [
        ("raise", "boom"),
        ("nan", "not finite"),
        ("shape", "shape"),
        ("dtype", "dtype"),
        ("reward", "reward"),
    ],
)
def test_an_env_that_raises_or_hands_over_bad_data_costs_one_episode(kind, fault, words):
    with kind(Faulty, 2) as env:
        step_all(env, [Start(11), Start(12)])
        good = step_all(env, [OK, OK])
        failed, other = step_all(env, [DO[fault], OK])
        assert (failed.reward, failed.is_first, failed.is_last, failed.is_terminal) == (
            0.0,
            False,
            True,
            False,
        )
        np.testing.assert_array_equal(failed.obs["vector"], good[0].obs["vector"])
        line = failed.fault
        assert "\n" not in line and "worker 0" in line and "step 2" in line and words in line
        assert f"action [{DO[fault][0]:.1f}" in line
        assert other.reward == 2 and not other.is_last and not other.fault
        with pytest.raises(ValueError, match="reset it first"):
            env.step(0, OK)
        again, other = step_all(env, [Start(13), OK])
        assert again.is_first and again.obs["vector"][1] == 13 and other.reward == 3
        assert step_all(env, [OK, OK])[0].reward == 1
        assert env.faults == 1


@pytest.mark.parametrize(
    "fault, words", [("exit", "exited with code 7"), ("die", "SIGKILL"), ("hang", "no answer")]
)
@pytest.mark.fault(
    10,
    "a worker that exits, is killed or hangs, the library alone",
    "replaced; the others continue",
)
def test_a_worker_that_dies_or_hangs_in_a_step_is_replaced(fault, words):
    with VectorEnv(Faulty, 3, timeout_s=1.5) as env:
        step_all(env, [Start(i) for i in range(3)])
        pid = env._workers[1].process.pid
        steps = step_all(env, [OK, DO[fault], OK])
        assert [step.is_last for step in steps] == [False, True, False]
        assert words in steps[1].fault and "worker 1" in steps[1].fault
        assert not wait_gone([pid], 0)
        steps = step_all(env, [OK, Start(21), OK])
        assert [step.reward for step in steps] == [2, 0, 2]
        assert steps[1].is_first and steps[1].obs["vector"][1] == 21


@pytest.mark.parametrize(
    "number, words", [(signal.SIGKILL, "SIGKILL"), (signal.SIGSTOP, "no answer in 1.5 s")]
)
def test_a_worker_killed_or_stopped_between_steps_is_replaced(number, words):
    with VectorEnv(Faulty, 2, timeout_s=1.5) as env:
        step_all(env, [Start(1), Start(2)])
        os.kill(env._workers[0].process.pid, number)
        steps = step_all(env, [OK, OK])
        assert words in steps[0].fault
        assert steps[0].is_last and steps[1].reward == 1
        assert step_all(env, [Start(3), OK])[0].is_first


def test_a_nan_action_never_reaches_the_environment():
    for kind in (SerialEnv, VectorEnv):
        with kind(Faulty, 2) as env:
            step_all(env, [Start(1), Start(2)])
            bad, good = step_all(env, [np.full(1, np.nan, np.float32), OK])
            assert "EnvDataError" in bad.fault and "action is not finite" in bad.fault
            assert good.reward == 1


@pytest.mark.parametrize("kind", [SerialEnv, VectorEnv])
def test_the_restart_budget_ends_in_a_failure_with_the_traceback(kind):
    env = kind(Faulty, 2, restart_budget=2)
    for _ in range(2):
        step_all(env, [Start(1), Start(2)])
        step_all(env, [OK, DO["raise"]])
    step_all(env, [Start(1), Start(2)])
    with pytest.raises(EnvFailure, match="failed 3 times, the budget is 2") as failure:
        step_all(env, [OK, DO["raise"]])
    assert "worker 1" in str(failure.value) and 'raise RuntimeError("boom")' in str(failure.value)
    with pytest.raises(ValueError, match="closed"):
        step_all(env, [Start(1), Start(2)])
    env.close()


@pytest.mark.parametrize("kind", [SerialEnv, VectorEnv])
def test_a_reset_that_fails_is_tried_again(kind, tmp_path):
    with kind(partial(Faulty, once=str(tmp_path / "mark")), 2) as env:
        steps = step_all(env, [Start(31), Start(32)])
        assert [step.is_first for step in steps] == [True, True]
        assert [step.obs["vector"][1] for step in steps] == [31, 32]
        assert 1 <= env.faults <= 2
        assert any("did not start" in step.fault for step in steps)


def test_workers_ignore_the_signals_meant_for_the_parent():
    with VectorEnv(Faulty, 2) as env:
        step_all(env, [Start(1), Start(2)])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            os.kill(env._workers[0].process.pid, number)
        assert os.getpgid(env._workers[0].process.pid) != os.getpgid(0)
        assert [step.reward for step in step_all(env, [OK, OK])] == [1, 1]
        assert env.faults == 0


@pytest.mark.fault(
    34,
    "SIGINT, SIGTERM, SIGUSR1 and SIGHUP to a worker at the moment it is started, before it can "
    "have imported anything",
    "it starts and works",
)
def test_a_worker_that_has_just_been_started_ignores_them_too(record_property):
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    worker = Worker(pickle.dumps(Faulty))
    try:
        for number in signals:
            os.kill(worker.process.pid, number)
        assert worker.await_ready() is None
    finally:
        worker.stop()
    record_property("times", len(signals))


def test_workers_import_neither_torch_nor_the_main_module():
    with VectorEnv(Faulty, 2) as env:
        assert step_all(env, [Start(1), Start(2)])[0].info == {
            "main": False,
            "torch": False,
        }


def test_workers_import_nothing_from_the_folder_they_are_started_in(tmp_path, monkeypatch):
    for name in ("signal", "pickle", "json", "gymnasium"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of this folder')\n")
    monkeypatch.chdir(tmp_path)
    with VectorEnv(Faulty, 1) as env:
        assert env.reset(0, seed=1).is_first


@pytest.mark.parametrize("hung", [False, True])
def test_workers_leave_when_the_parent_is_killed(hung):
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from faulty import DO, Faulty\nfrom envs.parallel.vector import VectorEnv\n"
        "env = VectorEnv(Faulty, 2)\n"
        "env.reset(0, 1), env.reset(1, 2)\n"
        "print(*[w.process.pid for w in env._workers], flush=True)\n"
        f"if not {hung}: sys.stdin.read()\n"
        "env.begin_step(0, DO['hang']), env.begin_step(1, DO['hang'])\n"
        "env.finish()\n"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(ROOT / "tests" / "support")]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    time.sleep(0.2 if hung else 0.0)
    parent.kill()
    parent.communicate()
    assert wait_gone(pids, 10) == []


@pytest.mark.fault(
    22, "thirty workers that die or fail", "descriptors, shared memory and children as before"
)
def test_thirty_restarts_leave_nothing_behind():
    def held() -> tuple[int, set[str], int]:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        return len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm")), len(children)

    start = held()
    with VectorEnv(Faulty, 3, restart_budget=30) as env:
        step_all(env, [Start(i) for i in range(3)])
        before = held()
        for fault in ["raise", "die"] * 5:
            steps = step_all(env, [DO[fault]] * 3)
            assert all(step.is_last for step in steps)
            step_all(env, [Start(i) for i in range(3)])
        assert env.faults == 30
        assert held() == before
    assert held() == start


# A worker that costs nothing to start: it says that it is ready, and dies of its first command.
# It imports nothing that Python has not; a message of a Connection begins with its length.
BRIEF = """
import os, sys
pipe, block = int(sys.argv[1]), int(sys.argv[2])
def receive(count):
    while count:
        count -= len(os.read(pipe, count)) or count
receive(int.from_bytes(os.read(pipe, 4), "big"))
os.ftruncate(block, 1 << 20)
ready = bytes.fromhex(os.environ["WM_READY"])
os.write(pipe, len(ready).to_bytes(4, "big") + ready)
os.read(pipe, 4)
os.kill(os.getpid(), 9)
"""


@pytest.mark.fault(
    22,
    "two hundred workers, two in parallel, killed by SIGKILL at their first command; they run "
    "a fake environment, to start quickly",
    "after each one descriptors, children, shared "
    "memory and threads as before, no zombie; at the end nothing is left",
)
def test_two_hundred_restarts_leave_nothing_behind(monkeypatch, record_property):
    ready = pickle.dumps(("ready", Faulty.observation_space, Faulty.action_space))
    monkeypatch.setattr("worldmodel.envs.parallel.process._CODE", BRIEF)
    monkeypatch.setenv("WM_READY", ready.hex())

    def held() -> dict[str, float]:
        seen = measure_process(os.getpid(), set())
        zombies = sum(
            read_status(child).get("State", "").startswith("Z")
            for child in list_children(os.getpid())
        )
        return {k: seen[k] for k in ("descriptors", "threads", "children", "shared_memory")} | {
            "zombies": zombies
        }

    seen, usual = [], VectorEnv._restart

    def watched(self, i):
        usual(self, i)
        assert self._workers[i].await_ready() is None  # its block is as large as it will be
        seen.append(held())

    monkeypatch.setattr(VectorEnv, "_restart", watched)
    start = held()
    env = VectorEnv(Faulty, 2, restart_budget=200)
    with pytest.raises(EnvFailure, match="failed 201 times"):
        step_all(env, [Start(1), Start(2)])
    # Both have died, and the first is started anew; then the second.
    assert len(seen) == 200
    for number, after in enumerate(seen):
        workers = 1 + number % 2
        assert after == {**seen[1], "children": start["children"] + workers}, (
            number,
            after,
            seen[1],
        )
    assert seen[1]["zombies"] == 0 and seen[1]["shared_memory"] == start["shared_memory"] + 2
    assert held() == start
    record_property("times", len(seen))


def test_a_users_mistake_is_no_fault():
    with pytest.raises(ValueError, match="NoSuchThing"):
        make_vector(partial(envs.make, "gym:NoSuchThing-v0"), 2)
    with pytest.raises(ValueError, match="partial"):
        make_vector(lambda: Faulty(), 2)
    with pytest.raises(ValueError, match="at least 1"):
        make_vector(Faulty, 0)
    with SerialEnv(Faulty) as env, pytest.raises(ValueError, match="open episode"):
        env.step(0, OK)


def test_environments_that_cannot_be_built_say_so():
    with pytest.raises(EnvFailure, match="no licence"):
        make_vector(Broken, 2)
    with pytest.raises(EnvFailure, match="no licence"):
        make_vector(Broken, 1)
