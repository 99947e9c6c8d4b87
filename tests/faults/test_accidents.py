"""The whole program with environments that misbehave in every way: exit 0 only where it is done."""

import json
import os
import signal
from pathlib import Path

import pytest

from children import go, in_one
from runs import fingerprint, seed_dir

TINY = ["--env.task", "accidents:Accident", "--run.frames", "12", "--train.prefill", "12"]
TINY += ["--train.pretrain", "0", "--behavior.name", "random", "--replay.length", "5"]
TINY += ["--log.eval", "0", "--log.final_episodes", "1", "--log.every", "4", "--model.cnn", "[4]"]
# What happens, when; the exit code where env.restarts is 0; and words of the line about it.
CASES = [
    ("exit_0 make", 3, "did not start: SystemExit: 0"),
    ("exit_words make", 3, "did not start: SystemExit: good bye"),
    ("interrupt make", 3, "did not start: KeyboardInterrupt"),
    ("raise make", 3, "did not start: RuntimeError: boom of two lines"),
    ("billion make", 2, "offers 1,000,000,000 choices of action"),
    ("words make", 2, "actions must be Box, Discrete, MultiDiscrete or MultiBinary"),
    ("unbounded make", 2, "actions need finite bounds"),
    ("no_actions make", 2, "action_space must be a gymnasium space, not None"),
    ("no_observations make", 2, "observation_space must be a gymnasium space, not None"),
    ("graph make", 2, "use obs=state"),
    ("float_render make", 2, "render() gives pictures of dtype float64"),
    ("shifted make", 0, ""),
    ("change_process make", 0, ""),
    ("exit_0 reset", 3, "SystemExit: 0"),
    ("raise reset", 3, "RuntimeError: boom of two lines"),
    ("list reset", 3, "reset must return (observation, info), not a list"),
    ("observation_alone reset", 3, "reset must return (observation, info), not a ndarray"),
    ("info_none reset", 3, "info must be a dict, not NoneType"),
    ("info_ours reset", 0, ""),
    ("change_process reset", 0, ""),
    ("exit_0 step", 3, "SystemExit: 0"),
    ("die step", 3, "SystemExit: 0"),
    ("interrupt step", 3, "KeyboardInterrupt"),
    ("generator_exit step", 3, "GeneratorExit"),
    ("raise step", 3, "RuntimeError: boom of two lines"),
    ("reward_none step", 3, "reward must be one finite number, not None"),
    ("reward_word step", 3, "reward must be one finite number, not '1.0'"),
    ("reward_array step", 3, "reward must be one finite number, not array([0., 0.])"),
    ("reward_infinite step", 3, "reward must be one finite number, not inf"),
    ("reward_one step", 0, ""),
    ("flag_numpy step", 0, ""),
    ("flag_integer step", 0, ""),
    ("flag_word step", 3, "terminated must be True or False, not 'False'"),
    ("flag_none step", 3, "truncated must be True or False, not None"),
    ("four step", 3, "not a tuple of 4"),
    ("info_list step", 3, "info must be a dict, not list"),
    ("info_ours step", 0, ""),
    ("picture_float step", 3, "observation has dtype float64, expected uint8"),
    ("picture_small step", 3, "observation has shape (5, 32, 3), expected (32, 32, 3)"),
    ("picture_none step", 3, "observation has shape (), expected (32, 32, 3)"),
    ("print step", 0, ""),
    ("warn step", 0, "the simulator is unhappy"),
    ("change_process step", 0, ""),
    ("exit_0 close", 0, "closing: SystemExit: 0"),
    ("raise close", 0, "closing: RuntimeError: boom of two lines"),
]
RAISE = (
    "exit",
    "die",
    "interrupt",
    "generator_exit",
    "raise",
)  # with a traceback of the user's code
IN_WORKERS = [
    ("exit_0 make", 3, "did not start: SystemExit: 0"),
    ("die_in_worker make", 3, "did not start: the process exited with code 0"),
    ("no_actions make", 2, "action_space must be a gymnasium space, not None"),
    ("interrupt reset", 3, "KeyboardInterrupt"),
    ("die_in_worker step", 3, "the process exited with code 0"),
    ("exit_0 step", 3, "SystemExit: 0"),
    ("four step", 3, "not a tuple of 4"),
    ("info_ours step", 0, ""),
    ("change_process step", 0, ""),
    ("raise close", 0, "closing: RuntimeError: boom of two lines"),
]


def train_each(call, root, cases, num):
    """Train with each environment in turn, in one process."""
    found = []
    for number, (what, *_) in enumerate(cases):
        os.environ["WM_ACCIDENT"] = what
        words = [*TINY, "--run.seed", str(number), "--env.num", num, "--env.restarts", "0"]
        code, said = call("train", "debug", "--run.root", root, *words)
        found.append((what, code, said, read_status(root, number)))
    return found


def no_pictures():
    """The closing evaluation's pictures take longer than all else, and show nothing here."""
    from worldmodel.programs import closing_evaluation

    closing_evaluation.save_picture = lambda name, write: None


def read_status(root, seed=0):
    path = seed_dir(root, "accidents_Accident", seed=seed) / "status.json"
    return json.loads(path.read_text()) if path.exists() else {"state": "none", "frames": 0}


def check_each(found, cases):
    for (what, code, said, status), (_, wanted, words) in zip(found, cases, strict=True):
        about = f"{what}: exit {code}, {status}\n{said}"
        assert code == wanted and words in said, about
        assert (code == 0) == (status["state"] == "done"), about
        assert code or status["frames"] == 12, about
        assert what.startswith(RAISE) or "Traceback" not in said, about


@pytest.mark.fault(
    37,
    "environments that call sys.exit, raise, return nonsense, or change the process they live in "
    "(signal handlers, working directory, streams, torch), when made, in reset, in step and in "
    "close",
    "exit 3, or 2 for a space that cannot be used, and a line that names the mistake; the harmless "
    "ones are trained to the end; exit 0 only with status done",
)
def test_misbehaving_environments_end_with_a_line(tmp_path, record_property):
    check_each(in_one(tmp_path, train_each, tmp_path, CASES, "1", before=no_pictures), CASES)
    record_property("times", len(CASES))


@pytest.mark.fault(
    37, "the same in workers, and workers that end themselves by os._exit(0)", "the same"
)
def test_misbehaving_workers_end_with_a_line(tmp_path, record_property):
    check_each(
        in_one(tmp_path, train_each, tmp_path, IN_WORKERS, "2", before=no_pictures), IN_WORKERS
    )
    record_property("times", len(IN_WORKERS))


@pytest.mark.fault(
    37,
    "sys.exit(0) in every reset of an environment, through the whole process; threads and "
    "children left running, in the training's process and in workers",
    "exit 3; exit 0 within seconds, and the workers' children are gone",
)
def test_the_process_ends_with_its_own_exit_code(tmp_path, record_property):
    env = {"WM_ACCIDENT": "exit_0 reset", "WM_SLEEP": "3601"}
    go(tmp_path, *TINY, "--env.restarts", "3", env=env, expect=3, traceback=True)
    assert read_status(tmp_path)["state"] == "running"
    for seed, num in enumerate("12", 1):
        env = {"WM_ACCIDENT": "leave_running make", "WM_SLEEP": f"360{seed}.5"}
        words = ["--env.num", num, "--run.seed", seed]
        said = go(tmp_path, *TINY, *words, env=env, before=leave_soon)
        assert read_status(tmp_path, seed)["state"] == "done"
        assert "the environment has started still run" in said
    left = find_sleepers("3601.5", "3602.5")
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) == 3  # those of the training's own processes: two to test in, one to collect
    record_property("times", 3)


def leave_soon():
    from worldmodel.system import process_end

    process_end.GRACE_S = 0.3


def find_sleepers(*seconds):
    """The processes `sleep SECONDS`."""
    wanted = [f"sleep\0{text}\0".encode() for text in seconds]
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() in wanted:
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return found


@pytest.mark.fault(
    37,
    "sys.exit(0) at the third step of every episode",
    "each costs its episode; the run finishes",
)
def test_an_exit_costs_an_episode(tmp_path):
    said = go(tmp_path, *TINY, env={"WM_ACCIDENT": "exit_0 step"})
    assert said.count("SystemExit: 0 (fault") == 12 // 2 + 1  # and one of the closing episode
    assert read_status(tmp_path) == {"state": "done", "frames": 12}


@pytest.mark.fault(
    37,
    "an environment that changes in every step what its process shares: working directory (the "
    "run's root is relative), signals, streams, warnings, torch's seed, threads, dtype, gradients",
    "the run is bit for bit that of a well-behaved environment",
)
def test_what_an_environment_changes_is_its_own(tmp_path):
    prints = in_one(tmp_path, train_both, tmp_path, before=no_pictures)
    assert prints[0] == prints[1] and prints[0]["frames"] == 14


def train_both(call, root):
    os.chdir(root)
    prints = []
    for what in ("keep", "change_process"):
        os.environ["WM_ACCIDENT"] = f"{what} always"
        words = [*TINY, "--run.frames", "14", "--train.pretrain", "2", "--behavior.name", "mpc"]
        code, said = call("train", "debug", "--run.root", what, *words)
        assert code == 0, said
        prints.append(fingerprint(seed_dir(what, "accidents_Accident")))
    return prints
