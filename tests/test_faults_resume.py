"""Resuming exactly, as a property: stopped or killed at places drawn by lot, as often as you like, every kind of agent.

WM_RESUMES multiplies how many lots are drawn.
"""

import os
import random

import pytest

from children import SHORT, go, print_of, signalled_at
from runs import fingerprint, seed_dir
from worldmodel import build, config
from worldmodel.rundir import slug

TIMES = int(os.environ.get("WM_RESUMES", "1"))
BUSY = (*SHORT, "--run.frames", "45", "--log.checkpoint", "8", "--log.eval", "15", "--log.episodes", "1",
        "--train.prefill", "24", "--train.pretrain", "3", "--train.ratio", "0.4", "--replay.capacity_gb",
        "2e-4")  # fmt: skip
ACTOR = ("--behavior.name", "actor_critic", "--imag.starts", "4", "--imag.horizon", "3")
CLOSED = ("--planner.score", "reward+value", "--planner.proposals", "5", "--imag.starts", "4", "--imag.horizon", "3")
KINDS = {
    "planner": (),
    "planner, two environments": ("--env.num", "2", "--model.latent", "categorical", "--loss.objective",
                                  "{contrastive: 1.0, barlow: 1.0, forward_contrastive: 1.0}"),
    "actor, two environments": (*ACTOR, "--env.num", "2", "--replay.start", "stored", "--loss.objective",
                                "{inverse: 1.0}"),
    "planner closed by a critic, discrete actions": (*CLOSED, "--env.task", "catcher", "--replay.start", "burnin",
                                                     "--replay.burnin", "3", "--planner.name", "mppi"),
    "actor, slow encoder, replay on disk": (*ACTOR, "--loss.objective", "{bootstrap: 1.0, prototypes: 1.0}",
                                            "--replay.store", "disk", "--optim.name", "laprop"),
    "random actions, shifted pictures before moving backgrounds": (
        "--behavior.name", "random", "--env.task", "distract:pendulum", "--augment.shift", "2", "--loss.objective",
        "{bottleneck: 1.0, reward_only: 1.0, reconstruction: 1.0}", "--model.transition", "ssm"),
}  # fmt: skip


def test_every_behaviour_and_objective_is_among_them():
    configs = [config.parse(["debug", *BUSY, *more]) for more in KINDS.values()]
    assert {c.behavior.name for c in configs} == set(build.BEHAVIORS)
    assert {name for c in configs for name in c.loss.objective} == set(build.OBJECTIVES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.fault(8, "SIGTERM, SIGUSR1 or SIGKILL at random places of the loop, three times a run: between updates, "
                   "inside evaluations, in mid-episode",
                   "weights, optimiser, generators, replay, metrics hash-equal")  # fmt: skip
def test_stopped_and_killed_anywhere_it_ends_the_same(tmp_path, kind, record_property):
    args, stops = (*BUSY, *KINDS[kind]), 0
    task = slug(config.parse(["debug", *args]).env.task)
    go(tmp_path / "calm", *args)
    wanted = fingerprint(seed_dir(tmp_path / "calm", task))
    for lot in range(TIMES):
        rng, root = random.Random(f"{kind} {lot}"), tmp_path / f"struck{lot}"
        for _ in range(3):
            name, code = rng.choice([("SIGTERM", 75), ("SIGUSR1", 75), ("SIGKILL", -9), ("SIGKILL", -9)])
            go(root, *args, before=signalled_at(rng.randint(1, 30), name), expect=code)
            stops += 1
        go(root, *args)
        assert fingerprint(seed_dir(root, task)) == wanted
    record_property("times", stops)
    record_property("lost", 0)


@pytest.mark.fault(23, "the same seed twice, three environments side by side, on all cores and on one, where nothing "
                   "overlaps", "equal hashes")  # fmt: skip
def test_the_same_seed_gives_the_same_run_with_parallel_environments(tmp_path):
    for name, more, before in (("a", (), None), ("b", ("--env.timeout", "500"), on_one_core)):
        go(tmp_path / name, *BUSY, "--env.num", "3", "--run.threads", "1", *more, before=before)
    assert print_of(tmp_path / "a") == print_of(tmp_path / "b")


def on_one_core():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
