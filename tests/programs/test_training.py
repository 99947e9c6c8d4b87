"""The whole program: it learns from every step once, stops and resumes exactly, and refuses what
can't be.
"""

import json
import os
import random
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import forked
from runs import fingerprint, seed_dir, start, train
from worldmodel.command_line import train as train_py
from worldmodel.errors import Diverged
from worldmodel.rollout.collector import Rollout, make_episode_seeds
from worldmodel.spaces import ActionSpace
from worldmodel.training.logger import JsonLines, Means
from worldmodel.training.trainer import Trainer


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run that nobody disturbed."""
    root = tmp_path_factory.mktemp("unbroken")
    train(root, figures=True)
    return seed_dir(root)


@pytest.mark.parametrize(
    "frames, steps, updates, over, owed, expected",
    [
        (0, 0, 0, False, 0, (0, 100)),  # nothing is known of how many frames a step takes
        (
            500,
            250,
            0,
            False,
            0,
            (0, 100 + 1125),
        ),  # the pretraining, and a quarter of 9,000 / 2 steps
        (1000, 500, 40, True, 60, (40, 100 + 1125)),
        (6000, 3000, 725, True, 0, (725, 1225)),
        (10000, 5000, 1225, True, 0, (1225, 1225)),
    ],
)
def test_the_time_that_is_left_is_that_of_updates(frames, steps, updates, over, owed, expected):
    train = SimpleNamespace(
        schedule="online",
        updates_per_step=0.25,
        policy_updates_per_step=0.0,
        pretrain=100,
        prefill=1000,
    )
    config = SimpleNamespace(train=train, run=SimpleNamespace(frames=10000))
    t = object.__new__(Trainer)
    vars(t).update(
        config=config,
        frames=frames,
        steps=steps,
        learner=SimpleNamespace(
            updates=updates, policy_updates=0, optimizers=SimpleNamespace(parameters=[0])
        ),
        prefill=SimpleNamespace(over=over, steps=500),
        count_pending_updates=lambda: owed,
        count_pending_policy_updates=lambda: 0,
    )
    assert t.estimate_progress() == expected
    config.train.updates_per_step = 0.0
    assert t.estimate_progress() == (frames, 10000)
    # 500 of the 5,000 steps are random; a round that has begun is not forgotten
    vars(train).update(schedule="rounds", round=4000, refit=300)
    due = 300 * (0 < steps < 5000)
    assert t.estimate_progress() == (updates, updates + owed + due + 100 * (not over))


def test_a_finished_run_leaves_all_it_promises(unbroken):
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "scores.jsonl",
        "curve.png",
        "videos/agent.gif",
        "videos/imagined.gif",
        "videos/imagined.png",
        "status.json",
    ):
        assert (unbroken / name).stat().st_size > 0, name
    assert json.loads((unbroken / "status.json").read_text())["state"] == "done"
    kept = sorted(int(p.name) for p in (unbroken / "checkpoints").iterdir())
    assert kept == [40 + 3, 80 + 7, 120 + 11]  # agent steps and updates
    lines = [json.loads(x) for x in (unbroken / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    for key in (
        "train/loss/image",
        "train/loss/dyn",
        "fps/frames",
        "replay/rows",
        "updates",
        "steps",
    ):
        assert key in last, key
    # 120 frames, 30 of them prefill, one update in ten steps after 2 of pretraining
    assert last["updates"] == 2 + 9 and last["steps"] == 120


@pytest.mark.fault(
    23, "the same seed in another process; another seed", "equal hashes; different hashes"
)
def test_a_second_run_of_the_same_seed_is_equal_and_another_seed_differs(unbroken, tmp_path):
    process = start(tmp_path)  # a Python of its own, where `unbroken` was forked
    assert process.communicate(timeout=600) and process.returncode == 0
    train(tmp_path, "--run.seed", "1")
    same, other = fingerprint(seed_dir(tmp_path)), fingerprint(seed_dir(tmp_path, seed=1))
    assert same == fingerprint(unbroken)
    assert (
        other["model.safetensors"] != same["model.safetensors"] and other["state"] != same["state"]
    )


def test_ended_in_mid_episode_and_resumed_equals_the_unbroken_run(unbroken, tmp_path):
    for frames in (31, 57, 90):
        train(tmp_path, "--run.frames", str(frames))
    train(tmp_path)
    assert fingerprint(seed_dir(tmp_path)) == fingerprint(unbroken)


# Its lines and its frames are long apart: a signal arrives well before the end.
LONG = ("--run.frames", "260", "--log.every", "1", "--log.eval", "0")


def test_a_signal_saves_exits_75_and_the_same_command_goes_on(tmp_path):
    train(tmp_path / "calm", *LONG)
    said = tmp_path / "said"
    argv = ["debug", "--run.root", tmp_path, *LONG]
    for lines, name in ((45, "SIGTERM"), (75, "SIGINT"), (105, "SIGUSR1")):
        process = forked.start("train", argv, said)
        wait_for_lines(seed_dir(tmp_path) / "metrics.jsonl", lines)
        os.kill(process.pid, getattr(signal, name))
        code = forked.ended(process, said.read_text)
        text = said.read_text()
        assert code == 75, text
        assert "the same command goes on" in text and "Traceback" not in text
        assert f"stopped by {name}" in text
    train(tmp_path, *LONG)
    assert fingerprint(seed_dir(tmp_path)) == fingerprint(seed_dir(tmp_path / "calm"))


class StopAfter:
    """A stop that is asked for after it has been looked at so many times."""

    looks, why = 0, " by a test"

    def __init__(self, world, minutes=None):
        self.left = StopAfter.looks

    def check_start(self):
        """Nobody asks for a stop so early."""

    def __bool__(self):
        self.left -= 1
        return self.left < 0


BUSY = (
    "--train.prefill",
    "16",
    "--train.pretrain",
    "6",
    "--train.updates_per_step",
    "0.5",
    "--run.frames",
    "45",
    "--log.eval",
    "15",
    "--env.time_limit",
    "14",
)


ACTOR = (
    "--behavior.name",
    "actor_critic",
    "--imag.starts",
    "8",
    "--imag.horizon",
    "3",
    "--imag.every",
    "2",
)
BOTH = (
    "--planner.score",
    "reward+value",
    "--planner.proposals",
    "5",
    "--critic.slow",
    "copy",
    "--critic.every",
    "3",
)


@pytest.mark.parametrize(
    "extra",
    [
        (
            *ACTOR,
            *("--replay.start", "stored", "--replay.store", "disk"),
            *("--optim.name", "laprop"),
        ),
        (
            *BOTH,
            *("--env.task", "catcher", "--planner.name", "mppi"),
            *("--replay.start", "burnin", "--replay.burnin", "3"),
        ),
    ],
)
def test_stopped_anywhere_and_often_it_ends_the_same(tmp_path, monkeypatch, extra):
    """Between owed updates, inside an evaluation, in mid-episode: nothing is lost or done
    twice. tests/faults/test_exact_resume.py stops every other kind, by signals.
    """
    monkeypatch.setattr(Figure, "savefig", forked.save_blank)
    task = "catcher" if "catcher" in extra else "counter"
    here = [*["debug", "--run.root"], str(tmp_path / "calm"), *BUSY, *extra]
    assert train_py.main(here) == 0
    monkeypatch.setattr("worldmodel.system.stop_request.Stop", StopAfter)
    rng = random.Random(0)
    here[2] = str(tmp_path / "stopped")
    stops = 0
    StopAfter.looks = 3
    while (code := train_py.main(here)) == 75:
        StopAfter.looks = rng.randint(1, 20) if stops < 9 else 10_000
        stops += 1
    assert code == 0 and stops >= 8
    assert fingerprint(seed_dir(tmp_path / "stopped", task)) == fingerprint(
        seed_dir(tmp_path / "calm", task)
    )


def test_evaluation_leaves_no_trace_in_training(tmp_path):
    """Not a row in the replay, not a draw from its generators: the same weights with and
    without.
    """
    train(tmp_path / "often", *ACTOR, "--log.eval", "10")
    train(tmp_path / "never", *ACTOR, "--log.eval", "0")
    often, never = (fingerprint(seed_dir(tmp_path / name)) for name in ("often", "never"))
    assert often["scores.jsonl lines"] > never["scores.jsonl lines"]
    same = (
        "model.safetensors",
        "policy.safetensors",
        "optimizer.safetensors",
        "generators.safetensors",
    )
    assert {k: often[k] for k in same} == {k: never[k] for k in same}
    replays = [
        json.loads(max(seed_dir(tmp_path / name).glob("checkpoints/*/state.json")).read_text())[
            "replay"
        ]
        for name in ("often", "never")
    ]
    assert replays[0] == replays[1] and replays[0]["chunks"]


SMALL = (
    "--replay.length",
    "8",
    "--replay.batch",
    "3",
    "--train.prefill",
    "30",
    "--env.repeat",
    "1",
    "--imag.horizon",
    "4",
    "--model.stoch",
    "6",
    "--run.frames",
    "60",
    "--train.pretrain",
    "2",
    "--log.eval",
    "0",
)


@pytest.mark.parametrize("form", ["dreamer1", "dreamer2", "dreamer3"])
def test_every_published_form_trains_an_actor_that_acts(tmp_path, form):
    out, _ = train(tmp_path, form, *SMALL)
    run = seed_dir(tmp_path, name=form)
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    last = [x for x in lines if "train/loss/actor" in x][-1]
    assert "final score" in out and last["train/skipped"] == 0
    assert ("train/loss/critic_replay" in last) == (form == "dreamer3") == ("train/warm" in last)


@pytest.mark.fault(
    7,
    "SIGKILL between saves: a replay newer than the checkpoint",
    "newer rows dropped; the final state equals that of an undisturbed run",
)
def test_killed_outright_it_goes_on_from_the_last_checkpoint(unbroken, tmp_path, record_property):
    process = forked.start("train", ["debug", "--run.root", tmp_path], tmp_path / "said")
    wait_for_lines(seed_dir(tmp_path) / "metrics.jsonl", 4)
    process.kill()
    process.join()
    train(tmp_path)
    assert fingerprint(seed_dir(tmp_path)) == fingerprint(unbroken)
    record_property("lost", 0)


def wait_for_lines(path, count):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"{path.name} never had {count} lines")


def copy_of(run, tmp_path):
    shutil.copytree(run, seed_dir(tmp_path))
    return seed_dir(tmp_path)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_serves(unbroken, tmp_path):
    run = copy_of(unbroken, tmp_path)
    file = run / "checkpoints" / "000000131" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    _, err = train(tmp_path)
    assert sum("000000131" in line for line in err.splitlines()) == 1
    assert fingerprint(run) == fingerprint(unbroken)
    assert any((run / "checkpoints" / "quarantine").iterdir())


def test_when_every_checkpoint_is_bad_nothing_is_started_over_unasked(unbroken, tmp_path):
    run = copy_of(unbroken, tmp_path)
    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.write_text("{}")
    _, err = train(tmp_path, expect=4)
    assert "--run.fresh true" in err and len(err.strip().splitlines()) <= 4
    train(tmp_path, "--run.fresh", "true")
    assert fingerprint(run) == fingerprint(unbroken)


def test_a_missing_replay_refuses(unbroken, tmp_path):
    run = copy_of(unbroken, tmp_path)
    shutil.rmtree(run / "replay")
    _, err = train(tmp_path, "--run.frames", "140", expect=4)
    assert "replay" in err


def test_weights_that_do_not_fit_the_configuration(unbroken, tmp_path):
    run = copy_of(unbroken, tmp_path)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("hidden: 24", "hidden: 28"))
    _, err = train(tmp_path, "--model.hidden", "28", "--run.frames", "140", expect=4)
    assert "24" in err and "28" in err and "model" in err


@pytest.mark.fault(
    19,
    "resumed with another optim.lr and log.every",
    "exit 2; shows the difference that matters",
)
def test_another_configuration_shows_the_difference_and_refuses(unbroken, tmp_path):
    copy_of(unbroken, tmp_path)
    _, err = train(tmp_path, "--optim.lr", "0.5", "--log.every", "7", expect=2)
    assert "optim.lr 0.002 -> 0.5" in err and "log.every" not in err


def test_settings_of_a_part_that_is_not_used_may_change(unbroken, tmp_path):
    copy_of(unbroken, tmp_path)
    train(tmp_path, "--transformer.context", "5", "--inverse.distances", "[2]")
    _, err = train(tmp_path, "--model.dynamics", "transformer", expect=2)
    assert "model.dynamics rssm -> transformer" in err


def test_a_start_that_failed_leaves_the_directory_free(tmp_path):
    short = ("--env.task", "pendulum", "--env.time_limit", "20", "--run.frames", "40")
    train(tmp_path, *short, "--replay.capacity_gb", "1e-5", expect=2)
    train(tmp_path, *short)


def test_an_unfinished_ending_is_made_up_for(unbroken, tmp_path):
    run = copy_of(unbroken, tmp_path)
    (run / "status.json").write_text('{"state": "running"}')
    (run / "curve.png").unlink()
    train(tmp_path)
    assert (run / "curve.png").exists() and fingerprint(run) == fingerprint(unbroken)


@pytest.mark.fault(18, "a second run started on the directory of a first", "exit 74, one line")
def test_two_runs_on_one_directory(tmp_path):
    argv = ["debug", "--run.root", tmp_path, "--run.frames", "100000"]
    first = forked.start("train", argv, tmp_path / "said")
    wait_for_lines(seed_dir(tmp_path) / "metrics.jsonl", 1)
    _, err = train(tmp_path, "--run.frames", "100000", expect=74)
    assert "another process is training" in err
    first.kill()
    first.join()


def test_a_replay_larger_than_memory_is_refused_with_the_key_to_lower(tmp_path):
    _, err = train(
        tmp_path, "--replay.capacity_gb", "1e6", "--run.frames", "1000000000000", expect=2
    )
    assert "replay.capacity_gb" in err


def test_the_counter_loses_no_step_and_keeps_order(unbroken):
    """Row by row, reward and picture count on together, and every action leads to the row it is
    stored with.
    """
    from worldmodel.envs.parallel.vector import make_vector

    from worldmodel import envs

    space = ActionSpace(1)
    with make_vector(CounterMaker(envs), 1) as vector:
        rollout = Rollout(vector, space, make_episode_seeds(1))
        sent, rows = [], []

        def policy(batch):
            sent.append(np.full((1, 1), len(sent) / 100 - 0.5, np.float32))
            return sent[-1]

        for _ in range(60):
            rows += rollout.step(policy)
    for before, row, action in zip(rows, rows[1:], sent, strict=False):
        if row["is_first"]:
            assert before["is_last"] and row["reward"] == 0 and not row["prev_action"].any()
        else:
            assert row["reward"] == before["reward"] + 1
            np.testing.assert_array_equal(row["prev_action"], action[0])
    assert sum(r["is_last"] for r in rows) == rollout.episodes[0].number >= 2


class CounterMaker:
    """Makes the counter environment here, without a process."""

    def __init__(self, envs):
        self.envs = envs

    def __call__(self):
        return self.envs.make("counter", size=(16, 16))


def test_a_policy_that_goes_mad_never_reaches_the_environment():
    from worldmodel.envs.parallel.vector import make_vector

    from worldmodel import envs

    with make_vector(CounterMaker(envs), 1) as vector:
        rollout = Rollout(vector, ActionSpace(1), make_episode_seeds(1))
        rollout.step(lambda rows: np.zeros((1, 1)))
        with pytest.raises(Diverged):
            rollout.step(lambda rows: np.full((1, 1), np.nan))
        assert rollout.steps == 1


class Drifting:
    """The counter with a start of its own at every reset: seed and actions don't bring it back."""

    def __init__(self, envs):
        self.envs = envs

    def __call__(self):
        import gymnasium

        class Drift(gymnasium.Wrapper):
            resets = 0

            def reset(self, **options):
                Drift.resets += 1
                obs, info = self.env.reset(**options)
                return obs + np.uint8(Drift.resets), info

        return Drift(self.envs.make("counter", size=(16, 16)))


@pytest.mark.parametrize("maker", [CounterMaker, Drifting])
def test_an_environment_that_comes_out_elsewhere_starts_a_new_episode(maker, caplog):
    from worldmodel.envs.parallel.vector import make_vector

    from worldmodel import envs

    rng = np.random.default_rng(0)
    with make_vector(maker(envs), 1) as vector:
        rollout = Rollout(vector, ActionSpace(1), make_episode_seeds(1))
        for _ in range(1 if maker is Drifting else 9):
            rollout.step(lambda rows: rng.uniform(-1, 1, (1, 1)))
        state = json.loads(json.dumps(rollout.state_dict()))
        again = Rollout(vector, ActionSpace(1), make_episode_seeds(1))
        again.load_state_dict(state)
        assert again.fresh == [maker is Drifting] and again.episodes[0].number == (
            maker is Drifting
        )
        assert (again.steps, again.frames) == (rollout.steps, rollout.frames)
    assert ("came out elsewhere" in caplog.text) == (maker is Drifting)


def test_means_survive_a_save_exactly():
    a, b = Means(), Means()
    values = torch.rand(9, generator=torch.Generator().manual_seed(0))
    rows = [{"x": v, "y": -v} if i % 3 else {"x": v} for i, v in enumerate(values)]
    for row in rows:
        a.add(row)
    for row in rows[:4]:
        b.add(row)
    b.load_state_dict(json.loads(json.dumps(b.state_dict())))
    for row in rows[4:]:
        b.add(row)
    found = a.pop()
    assert found == b.pop() and a.pop() == {}
    wanted = {
        "x": values.mean().item(),
        "y": -torch.stack([r["y"].neg() for r in rows if "y" in r]).mean().item(),
    }
    assert found == pytest.approx(wanted, rel=1e-6)


def test_json_lines_are_cut_back_and_never_hold_nan(tmp_path):
    lines = JsonLines(tmp_path / "x.jsonl")
    lines.write({"frames": 1, "a": float("nan"), "b": 1.5})
    size = lines.size()
    lines.write({"frames": 1, "a": 2})
    lines.cut(size, 1)
    kept = [json.loads(x) for x in lines.path.read_text().splitlines()]
    assert kept == [{"frames": 1, "a": None, "b": 1.5}]
