"""Every kind of observation, action and part goes through the whole program."""

import json

import pytest

from runs import seed_dir, train

SHORT = ("--run.frames", "60", "--log.eval", "30", "--env.time_limit", "15")


@pytest.mark.parametrize(
    "args",
    [
        ("--env.task", "catcher"),  # discrete actions, terminations
        ("--env.task", "catcher", "--planner.name", "mppi"),
        ("--env.task", "pointmass", "--env.obs", "both", "--planner.name", "shooting"),
        ("--env.task", "pendulum", "--env.obs", "state"),
        ("--env.task", "pendulum", "--model.transition", "ssm", "--loss.overshooting", "3"),
        ("--env.task", "pendulum", "--model.transition", "rnn", "--model.latent", "deterministic"),
        (
            "--env.task",
            "pendulum",
            "--model.latent",
            "categorical",
            "--model.reward_head",
            "twohot",
        ),
        ("--env.task", "pendulum", "--replay.store", "disk", "--env.num", "2"),
        ("--env.task", "dmc:cartpole_balance", "--env.render", "ray", "--env.repeat", "2"),
    ],
    ids=lambda args: "-".join(a.removeprefix("--") for a in args),
)
def test_trains_to_the_end(tmp_path, args):
    train(tmp_path, *SHORT, *args)
    run = seed_dir(tmp_path, args[1].replace(":", "_"))
    assert json.loads((run / "status.json").read_text()) == {
        "state": "done",
        "frames": pytest.approx(60, abs=1),
    }
    scores = [json.loads(x) for x in (run / "scores.jsonl").read_text().splitlines()]
    assert len(scores) >= 1 and all(x["eval/score"] is not None for x in scores)


@pytest.mark.parametrize(
    ("args", "code", "wanted"),
    [
        (("--env.task", "gym:NoSuchGame-v1"), 2, "NoSuchGame"),
        (("--env.task", "no_such_module:Thing"), 2, "no_such_module"),
        (("--env.task", "penduum"), 2, "pendulum"),
        (("--run.device", "cuda"), 2, "--run.device cpu"),
        (("--env.task", "dmc:cartpole_balance", "--env.camera", "7"), 2, "camera"),
    ],
)
def test_a_wrong_environment_or_device_is_one_line(tmp_path, args, code, wanted):
    _, err = train(tmp_path, *args, expect=code)
    lines = [line for line in err.splitlines() if not line.startswith("drawing with")]
    assert len(lines) == 1 and wanted in lines[0], err
