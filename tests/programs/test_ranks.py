"""The whole program on two ranks: each collects its own, all stop, save, resume and end together,
whatever happens.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import ranks
from runs import ROOT, fingerprint, seed_dir
from worldmodel.checkpoint import store
from worldmodel.command_line import train as train_py

ACTOR = (
    "--behavior.name",
    "actor_critic",
    "--imag.starts",
    "8",
    "--imag.horizon",
    "3",
    "--replay.start",
    "stored",
    "--replay.sampler",
    "prioritized",
)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Two ranks that nobody disturbed, and what they said."""
    root = tmp_path_factory.mktemp("calm")
    said = ranks.train(root, *ACTOR)
    return seed_dir(root), said


def newest(run):
    """The newest checkpoint's plain values."""
    return store.load_latest(run / "checkpoints").state


def rows(state):
    """Rows in the replay of all ranks."""
    manifests = [state["replay"], *(other["replay"] for other in state.get("others", []))]
    return sum(c["rows"] for m in manifests for c in m["chunks"])


def wait_until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def lines(run):
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_two_ranks_collect_their_own_and_learn_as_often_as_one(calm):
    run, said = calm
    state = newest(run)
    own, other = state["rollout"], state["others"][0]["rollout"]
    assert (
        state["frames"] == 120 == own["frames"] + other["frames"]
        and own["steps"] == other["steps"] == 60
    )
    # 90 agent steps after the prefill, one update in ten of them, after 2 of pretraining
    assert state["learner"]["updates"] == 2 + 9
    assert own["episodes"][0]["seed"] != other["episodes"][0]["seed"]
    assert own["next_actions"] != other["next_actions"]
    files = {path.name for path in (run / "replay").iterdir()}
    assert files == {"0000-00000000.rows", "0001-00000000.rows"} and rows(state) == 120 + 6
    episodes = [
        x
        for x in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if "episode/score" in x
    ]
    assert len(episodes) == 6  # of twenty steps each, on both
    assert json.loads((run / "status.json").read_text()) == {"state": "done", "frames": 120}
    assert "final score" in said[0] and "2 ranks" in said[0] and said[1] == ""


def test_stopped_and_resumed_by_as_many_it_ends_the_same(calm, tmp_path):
    ranks.train(tmp_path, *ACTOR, "--run.frames", "57")
    ranks.train(tmp_path, *ACTOR)
    assert fingerprint(seed_dir(tmp_path)) == fingerprint(calm[0])


@pytest.mark.parametrize("during", ["training", "evaluation"])
def test_a_signal_to_one_rank_stops_all_at_the_same_place(calm, tmp_path, during):
    run = seed_dir(tmp_path)
    started = ranks.start(
        tmp_path, *ACTOR, *(("--log.episodes", "100000") if during == "evaluation" else ())
    )
    # The fifth line is that of frame 60, where the evaluation begins.
    wait_until(lambda: lines(run) >= (5 if during == "evaluation" else 1), "a line of metrics")
    time.sleep(0.3 if during == "evaluation" else 0)
    os.kill(started[1].pid, signal.SIGTERM)
    codes, said = ranks.finish(tmp_path, started)
    if (
        codes != [0, 0] or during == "evaluation"
    ):  # the whole run may be over before the signal comes
        assert codes == [75, 75] and "all is saved" in said[0] and said[1] == "", said
    ranks.train(tmp_path, *ACTOR)
    assert fingerprint(run) == fingerprint(calm[0])


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.fault(
    24,
    "one of two ranks killed",
    "the other ends with a message; the same command then ends as an undisturbed run",
)
def test_where_one_is_killed_the_other_ends_with_a_line_and_the_same_command_goes_on(
    calm, tmp_path, victim
):
    run = seed_dir(tmp_path)
    # It would never end by itself
    started = ranks.start(tmp_path, *ACTOR, "--log.episodes", "100000")
    wait_until(lambda: lines(run) >= 5, "the evaluation at frame 60")
    started[victim].kill()
    codes, said = ranks.finish(tmp_path, started)
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 74
    last = said[1 - victim].strip().splitlines()[-1]
    assert (
        last.startswith(f"rank {1 - victim}: another rank is gone (")
        and "the last checkpoint" in last
    )
    ranks.train(tmp_path, *ACTOR)
    assert fingerprint(run) == fingerprint(calm[0])


@pytest.mark.fault(
    24,
    "one of two ranks killed under torchrun",
    "all restart from the last checkpoint; the final state equals that of an undisturbed run",
)
def test_torchrun_starts_all_anew_from_the_last_checkpoint(calm, tmp_path):
    """`--run.fresh true` counts for the first start alone, or the restart would throw the run
    away.
    """
    run = seed_dir(tmp_path)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "1",
    ]
    command = [
        *torchrun,
        "train.py",
        "debug",
        "--run.root",
        str(tmp_path),
        *ACTOR,
        "--run.fresh",
        "true",
    ]
    agent = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: lines(run) >= 5, "frame 60")
    victim = next(pid for pid in workers(agent.pid) if environ(pid).get("RANK") == "1")
    os.kill(victim, signal.SIGKILL)
    out, _ = agent.communicate(timeout=120)
    assert agent.returncode == 0, out
    assert out.count("training counter") == 1 and out.count("resuming counter") == 1
    assert fingerprint(run) == fingerprint(calm[0])


def workers(parent):
    """Processes whose parent this is."""
    children = f"/proc/{parent}/task/{parent}/children"
    with open(children) as file:
        return [int(pid) for pid in file.read().split()]


def environ(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        return dict(
            entry.decode().split("=", 1) for entry in file.read().split(b"\0") if b"=" in entry
        )


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_another_number_of_ranks_goes_on_without_losing_a_row(tmp_path, before, after):
    run = seed_dir(tmp_path)
    ranks.train(tmp_path, *ACTOR, "--run.frames", "66", size=before)
    was = newest(run)
    said = ranks.train(tmp_path, *ACTOR, size=after)
    now = newest(run)
    assert "resuming" in said[0] and not any("warning" in text for text in said)
    # Steps and updates are what the whole run owes, whoever was there.
    assert 120 <= now["frames"] < 120 + after and now["rollout"]["episodes"]
    assert (
        now["learner"]["updates"]
        == 2
        + (
            now["rollout"]["steps"]
            + sum(other["rollout"]["steps"] for other in now.get("others", []))
            - now["prefill"]["steps"]
        )
        // 10
    )
    held = {c["file"]: c["rows"] for m in manifests(now) for c in m["chunks"]}
    for manifest in manifests(was):
        for chunk in manifest["chunks"]:
            assert held[chunk["file"]] >= chunk["rows"]
    assert len(manifests(now)) == after and not (run / "replay" / "quarantine").exists()


def manifests(state):
    return [state["replay"], *(other["replay"] for other in state.get("others", []))]


def test_there_and_back_again_no_episode_is_played_twice(tmp_path):
    run = seed_dir(tmp_path)
    seeds = []
    for frames, size in ((44, 2), (70, 1), (100, 2)):
        ranks.train(tmp_path, *ACTOR, "--run.frames", str(frames), size=size)
        state = newest(run)
        seeds.append(
            [
                share["rollout"]["episodes"][0]["seed"]
                for share in [state, *state.get("others", [])]
            ]
        )
    assert len(manifests(state)) == 2 and seeds[2][1] != seeds[0][1]
    # What it had collected before the break stays in its stream, and nothing is stitched to it.
    stream = [c for m in manifests(state) for c in m["chunks"] if c["stream"] == 1]
    assert [c["first"] for c in stream] == [0, 512] and stream[0]["rows"] == 22 + 2


BAD = {
    "no address": ({"MASTER_ADDR": None}, "MASTER_ADDR"),
    "no port": ({"MASTER_PORT": ""}, "MASTER_PORT"),
    "no rank": ({"RANK": None}, "RANK"),
    "a rank beyond": ({"RANK": "2"}, "RANK 2 of WORLD_SIZE 2"),
    "no number": ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
}


@pytest.mark.parametrize("case", BAD)
def test_half_a_launch_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, case):
    changes, words = BAD[case]
    for name, value in {**ranks.environment(0, 2, 29500), **changes}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(
            name, value
        )
    assert train_py.main(["debug", "--run.root", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and len(said.splitlines()) == 1 and not any(tmp_path.iterdir())


def test_ranks_that_were_started_differently_say_so_once_and_end_with_2(tmp_path):
    said = ranks.train(tmp_path, expect=2, own={1: ("--optim.lr", "0.5")})
    assert re.fullmatch(
        r"rank 0: rank 1 was started with another configuration than rank 0: optim.lr 0.002 -> "
        r"0.5\n",
        said[0],
    )
    assert said[1] == ""


def test_what_rank_0_is_refused_ends_all_with_its_code(calm, tmp_path):
    ranks.train(tmp_path, "--run.frames", "40")
    said = ranks.train(tmp_path, "--optim.lr", "0.5", expect=2)
    assert "another configuration: optim.lr 0.002 -> 0.5" in said[0] and said[1] == ""
