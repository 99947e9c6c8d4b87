"""The whole program with environments that fail, numbers that are not finite, too little
memory.
"""

import json

import pytest
from safetensors.torch import load_file

from children import go, limited, weights_lost
from runs import seed_dir

MOODY = (
    "--env.task",
    "faulty:Moody",
    "--env.num",
    "2",
    "--env.timeout",
    "5",
    "--log.every",
    "2",
    "--log.final_episodes",
    "1",
)
EARLY = ("--train.prefill", "20", "--run.frames", "60", "--log.eval", "0")


def lines(root, task="counter"):
    return [
        json.loads(x) for x in (seed_dir(root, task) / "metrics.jsonl").read_text().splitlines()
    ]


def moods(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return {"WM_MOODS": str(folder)}


@pytest.mark.fault(
    10,
    "workers that raise, kill themselves (SIGKILL) and stop themselves (SIGSTOP), two in parallel",
    "each costs its own episode; the run finishes and counts them",
)
@pytest.mark.fault(
    11, "workers that give a NaN reward, a wrong shape and a wrong dtype", "as for row 10"
)
def test_environments_that_fail_in_every_way_cost_an_episode_each(tmp_path, record_property):
    names = ["3-raise", "4-die", "5-stop", "6-nan", "7-shape", "8-dtype"]
    said = go(tmp_path, *MOODY, *EARLY, env=moods(tmp_path / "moods", *names))
    assert not any((tmp_path / "moods").iterdir())
    last = [x for x in lines(tmp_path, "faulty_Moody") if "env/faults" in x][-1]
    assert last["env/faults"] == len(names) == said.count("env worker")
    for words in (
        "boom",
        "SIGKILL",
        "no answer in 5 s",
        "one finite number",
        "has shape",
        "has dtype",
    ):
        line = next(x for x in said.splitlines() if words in x and "env worker" in x)
        assert "episode step" in line and "action [" in line
    record_property("times", 3)


@pytest.mark.fault(
    10, "more faults than env.restarts", "exit 3: names worker, step, action and what was kept"
)
def test_too_many_faults_end_the_run_with_what_is_kept(tmp_path):
    env = moods(tmp_path / "moods", "3-raise", "4-raise")
    said = go(tmp_path, *MOODY, *EARLY, "--env.restarts", "1", env=env, expect=3, traceback=True)
    assert "the budget is 1" in said and 'raise RuntimeError("boom")' in said
    assert said.rstrip().endswith(
        "what the last checkpoint holds is kept; the same command goes on from there"
    )
    go(tmp_path, *MOODY, *EARLY, "--env.restarts", "1", env=env)


FEW = ("--log.checkpoint", "10", "--train.pretrain", "60", "--behavior.name", "random")


@pytest.mark.fault(
    12,
    "all weights become NaN in memory",
    "25 updates skipped, then the weights of the last good checkpoint; the run finishes",
)
def test_lost_weights_come_back_from_the_last_good_checkpoint(tmp_path):
    said = go(tmp_path, *EARLY, *FEW, before=weights_lost(20))
    assert said.count("rollback 1 of at most 3") == 1 and "checkpoint 10 again" in said
    last = [x for x in lines(tmp_path) if "updates" in x][-1]
    assert last["rollbacks"] == 1 and last["train/skipped"] == 25
    assert all(
        v.isfinite().all() for v in load_file(newest(tmp_path) / "model.safetensors").values()
    )


def newest(root):
    return max((seed_dir(root) / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))


@pytest.mark.fault(
    12,
    "rewards of 3e38, whose squared error is infinite in every batch",
    "3 rollbacks, then exit 5; the batch is kept in diverged/",
)
def test_a_run_that_cannot_be_helped_ends_with_the_batch_kept(tmp_path):
    env = moods(tmp_path / "moods", *[f"{step}-huge" for step in range(1, 13)])
    said = go(
        tmp_path,
        "--env.task",
        "faulty:Moody",
        *EARLY,
        *FEW,
        "--train.pretrain",
        "200",
        env=env,
        expect=5,
    )
    last = said.strip().splitlines()[-1]
    assert (
        "3 times" in last
        and "optim.lr" in last
        and "--run.name" in last
        and said.count("rollback") == 3
    )
    run = seed_dir(tmp_path, "faulty_Moody")
    (batch,) = (run / "diverged").iterdir()
    held = load_file(batch)
    assert str(batch) in last and held["image"].shape[:2] == (3, 8) and held["reward"].max() > 1e38


@pytest.mark.parametrize(
    ("every", "words"),
    [("7", "never saw it"), ("10", "nothing was saved over the last checkpoint")],
)
@pytest.mark.fault(
    13,
    "an actor whose weights become NaN",
    "its actions reach no environment and its weights no checkpoint; exit 5",
)
def test_an_actor_gone_mad_moves_nothing_and_is_not_saved(tmp_path, every, words):
    args = (
        "--env.task",
        "faulty:Moody",
        *EARLY,
        "--log.checkpoint",
        every,
        "--behavior.name",
        "actor_critic",
        "--imag.starts",
        "4",
        "--imag.horizon",
        "2",
    )
    env = moods(tmp_path / "moods")
    said = go(tmp_path, *args, env=env, before=weights_lost(3, "actor"), expect=5)
    assert "a bad action came through" not in said and "env worker" not in said
    assert words in said and "the same command goes on from there" in said
    go(tmp_path, *args, env=env)


@pytest.mark.parametrize(
    ("key", "value", "lower"),
    [
        ("planner.candidates", "1000000000", "planner.candidates"),
        ("model.deter", "1000000", "model.deter"),
        ("replay.batch", "100000000", "replay.batch"),
        ("replay.capacity_gb", "1e6", "replay.capacity_gb"),
    ],
)
@pytest.mark.fault(
    21,
    "a plan, a model, a batch or a replay larger than memory",
    "exit 2 before the start, names the key to lower",
)
def test_what_memory_cannot_hold_is_refused_with_the_key_to_lower(tmp_path, key, value, lower):
    more = ("--run.frames", "1000000000000") if "replay.c" in key else ()
    said = go(tmp_path, f"--{key}", value, *more, expect=2)
    assert len(said.strip().splitlines()) == 1
    assert "this run needs at least" in said and lower in said.partition("lower ")[2]
    assert not (seed_dir(tmp_path) / "config.yaml").exists()


@pytest.mark.fault(
    21, "a limit of 256 MB on a process's memory (RLIMIT_AS, ulimit -v)", "exit 2 before the start"
)
def test_a_tight_limit_on_memory_counts(tmp_path):
    size = (
        int(next(x for x in open("/proc/self/status") if x.startswith("VmSize")).split()[1]) * 1024
    )
    said = go(
        tmp_path,
        "--planner.candidates",
        "100000000",
        before=limited(RLIMIT_AS=size + (1 << 28)),
        expect=2,
    )
    assert "lower planner.candidates" in said


@pytest.mark.parametrize("value", ["osmesa", "disable"])
@pytest.mark.fault(
    20,
    "MUJOCO_GL set to a backend that is not installed",
    "a message names the renderer used instead; with --env.render gl, exit 2 or 3",
)
def test_without_gl_a_line_says_what_draws_instead(tmp_path, value):
    task = (
        "--env.task",
        "dmc:cartpole_balance",
        "--run.frames",
        "20",
        "--train.prefill",
        "20",
        "--train.pretrain",
        "0",
        "--log.final_episodes",
        "1",
        "--env.time_limit",
        "10",
        "--log.eval",
        "0",
    )
    env = {"MUJOCO_GL": value}
    said = go(tmp_path, *task, env=env)
    assert sum("drawing with ray" in x for x in said.splitlines()) == 1
    if value == "disable":
        goes_on_as_it_was_drawn(
            seed_dir(tmp_path, "dmc_cartpole_balance") / "config.yaml", tmp_path, task, env
        )
        return
    said = go(tmp_path / "gl", *task, "--env.render", "gl", env=env, expect=2)
    assert "use render=ray" in said and len(said.strip().splitlines()) <= 3


def goes_on_as_it_was_drawn(config, root, task, env):
    """A run says by name what drew it; moved from where there was GL it stops, and goes on once
    told to.
    """
    assert "  render: ray\n" in config.read_text()
    config.write_text(config.read_text().replace("  render: ray\n", "  render: fast\n"))
    more = (*task, "--run.frames", "30")
    assert "drawn with fast so far" in go(root, *more, env=env, expect=2)
    go(root, *more, "--env.render", "ray", env=env)
    assert "  render: ray\n" in config.read_text()
