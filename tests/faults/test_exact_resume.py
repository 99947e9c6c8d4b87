"""Resuming exactly, as a property: stopped or killed at places drawn by lot, as often as you like,
every kind of agent.

A calm run lists every place where it looks whether it is to stop; the lots are drawn from these.
WM_RESUMES multiplies how many are drawn.
"""

import json
import os
import random

import pytest

from children import SHORT, go, looks_listed, print_of, struck_at
from runs import fingerprint, seed_dir
from worldmodel import registry
from worldmodel.config import loading
from worldmodel.run_directory import make_slug
from worldmodel.system import fault_injection

TIMES = int(os.environ.get("WM_RESUMES", "1"))
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
# Pruning alone waits for a checkpoint too many.
EVERY_SAVE = [point for point in fault_injection.SAVE_POINTS if point != "prune-moved"]
BUSY = (
    *SHORT,
    "--run.frames",
    "45",
    "--log.checkpoint",
    "8",
    "--log.eval",
    "15",
    "--log.episodes",
    "1",
    "--train.prefill",
    "12",
    "--train.pretrain",
    "3",
    "--train.updates_per_step",
    "0.4",
    "--replay.capacity_gb",
    "2e-4",
    "--replay.length",
    "6",
    "--env.time_limit",
    "9",
)
ACTOR = ("--behavior.name", "actor_critic", "--imag.starts", "4", "--imag.horizon", "3")
CLOSED = (
    "--planner.score",
    "reward+value",
    "--planner.proposals",
    "5",
    "--imag.starts",
    "4",
    "--imag.horizon",
    "3",
)
KINDS = {
    "planner": (),
    "planner, two environments": (
        "--env.num",
        "2",
        "--model.latent",
        "categorical",
        "--loss.objective",
        "{contrastive: 1.0, barlow: 1.0, forward_contrastive: 1.0}",
        "--replay.sampler",
        "recent",
        "--ensemble.size",
        "3",
        "--ensemble.bootstrap",
        "true",
    ),
    "actor, two environments": (
        *ACTOR,
        "--env.num",
        "2",
        "--replay.sampler",
        "prioritized",
        "--replay.start",
        "stored",
        "--loss.objective",
        "{inverse: 1.0}",
        "--actor.target_entropy",
        "0.4",
    ),
    "planner closed by a critic, discrete actions": (
        *CLOSED,
        "--env.task",
        "catcher",
        "--replay.start",
        "burnin",
        "--replay.burnin",
        "3",
        "--planner.name",
        "mppi",
    ),
    "actor, slow encoder, replay on disk": (
        *ACTOR,
        "--loss.objective",
        "{bootstrap: 1.0, prototypes: 1.0}",
        "--replay.store",
        "disk",
        "--replay.sampler",
        "prioritized",
        "--optim.name",
        "laprop",
        "--optim.decay",
        "[1, 9]",
        "--actor.gradient",
        "es",
        "--actor.population",
        "4",
        "--ensemble.size",
        "3",
        "--imag.pessimism",
        "0.5",
    ),
    "random actions, shifted pictures before moving backgrounds": (
        "--behavior.name",
        "random",
        "--behavior.hold",
        "3",
        "--env.task",
        "distract:pendulum",
        "--augment.shift",
        "2",
        "--loss.objective",
        "{bottleneck: 1.0, reward_only: 1.0, reconstruction: 1.0}",
        "--model.transition",
        "ssm",
        "--ensemble.size",
        "4",
        "--ensemble.dropout",
        "0.2",
        "--loss.corrective",
        "0.5",
        "--loss.reward_free",
        "true",
    ),
    "explorer": (
        "--behavior.name",
        "plan2explore",
        "--ensemble.size",
        "3",
        "--loss.reward_free",
        "true",
        "--critic.replay",
        "0",
        "--imag.starts",
        "4",
        "--imag.horizon",
        "3",
    ),
    "dyna, updates of the policy alone": (
        "--behavior.name",
        "dyna",
        "--dyna.rollout_length",
        "[1, 3, 20, 40]",
        "--dyna.value_expansion",
        "2",
        "--train.policy_updates_per_step",
        "1.5",
        "--train.policy_batch",
        "2",
        "--train.policy_length",
        "4",
    ),
    "two cameras of a DeepMind Control task, its state beside them": (
        "--env.task",
        "dmc:cartpole_balance",
        "--env.render",
        "ray",
        "--env.camera",
        "[0, 1]",
        "--env.sizes",
        "{camera1: [16, 24]}",
        "--env.obs",
        "both",
        "--augment.shift",
        "1",
    ),
}
STATE = ("--env.obs", "state", "--loss.objective", "{}", "--loss.overshooting", "1")
MEMBERS = ("--ensemble.of", "dynamics", "--ensemble.size", "2", "--ensemble.bootstrap", "true")
MORE = {
    "pixels": ("--loss.objective", "{}"),
    "locally_linear": (
        *("--locally_linear.frames", "2", "--model.encoder", "spatial"),
        *("--planner.name", "ilqr", "--planner.iterations", "1", "--planner.restarts", "1"),
    ),
    "mlp": (*STATE, *MEMBERS, "--behavior.replan", "plan", "--planner.propagation", "ts1"),
    "frame_stack": (
        *("--behavior.name", "dyna", "--dyna.rollout_length", "0", "--dyna.n_step", "2"),
        *("--loss.objective", "{}", "--augment.shift", "2"),
    ),
}
KINDS["plans along the model's gradient"] = (
    *("--planner.name", "gradient", "--planner.warmup", "1", "--planner.box", "squash"),
)
KINDS["plans by iterative LQR"] = ("--planner.name", "ilqr", "--planner.iterations", "3")
for name in sorted({*registry.DYNAMICS} - {"rssm"}):  # a new dynamics is enrolled by existing
    KINDS[f"agent over a {name}"] = (
        *("--model.dynamics", name, "--replay.start", "stored"),
        *MORE.get(name, ()),
    )
KINDS["plans that track designated pixels"] = (
    *("--model.dynamics", "pixels", "--loss.objective", "{}", "--pixels.kernels", "2"),
    *("--planner.score", "pixel_distance", "--goal.designated", "[[9, 20], [4, 4]]"),
    *("--goal.pixels", "[[3, 8], [30, 5]]", "--behavior.replan", "2", "--pixels.latent", "2"),
    *("--pixels.truth", "4.0", "--planner.particles", "2"),
)
KINDS["learned weights of losses"] = ("--loss.balance", "learned")
KINDS["local controllers of the true state, and a policy that they teach"] = (
    *("--behavior.name", "guided", "--env.task", "pendulum", "--env.obs", "both"),
    *("--model.unseen", "[vector]", "--env.starts", "2", "--guided.conditions", "2"),
    *("--guided.rollouts", "1", "--guided.steps", "4", "--guided.hold", "5"),
    *("--guided.adopt_after", "0", "--guided.adopt", "0", "--guided.match", "state"),
    *("--guided.improvements", "5"),
)
KINDS["local controllers of a latent that still moves"] = (
    *("--behavior.name", "guided", "--env.task", "pendulum", "--model.dynamics"),
    *("linear_gaussian", "--guided.state", "latent", "--guided.conditions", "1"),
    *("--model.reward_head", "quadratic"),
    *("--guided.rollouts", "1", "--guided.steps", "4", "--guided.hold", "5"),
)
KINDS["feature points"] = (
    *("--model.encoder", "spatial", "--loss.smooth", "0.5", "--loss.grey", "0.3"),
)
KINDS["refits in rounds of an ensemble of transitions, plans of two steps"] = (
    *("--train.schedule", "rounds", "--train.round", "7", "--train.refit", "3"),
    *("--ensemble.of", "dynamics", "--ensemble.size", "2", "--behavior.replan", "2"),
)
OTHERS = {
    name: 1.0
    for name in registry.OBJECTIVES
    if not any(name in word for more in KINDS.values() for word in more)
    and name not in loading.parse(["debug"]).loss.objective
}
if OTHERS:  # a new objective is enrolled by existing
    KINDS["objectives that no other kind has"] = ("--loss.objective", json.dumps(OTHERS))


def test_every_behaviour_dynamics_objective_and_sampler_is_among_them():
    configs = [loading.parse(["debug", *BUSY, *more]) for more in KINDS.values()]
    assert {c.behavior.name for c in configs} == set(registry.BEHAVIORS)
    assert {c.model.dynamics for c in configs} == set(registry.DYNAMICS)
    assert {name for c in configs for name in c.loss.objective} == set(registry.OBJECTIVES)
    assert {c.replay.sampler for c in configs} == set(registry.SAMPLERS)
    assert {c.model.encoder for c in configs} == set(registry.ENCODERS)
    assert {c.planner.name for c in configs} >= {*registry.PLANNERS} - {"shooting"}
    (both,) = (
        c for c in configs if c.locally_linear.frames == 2
    )  # a state that holds an embedding
    assert both.planner.name == "ilqr" and both.planner.restarts  # random plans beside the last


def drawn(rng, looks):
    """Four to seven stops in the order of the run, (place, signal, sub-step of a save): kills and
    signals in turn.

    Early, later, inside an evaluation, in the save at frame 40, and up to three anywhere; a place
    is (frames, updates, evaluating, ordinal). No two are so close that the ordinal would begin
    anew between them, none where a struck save may have gone past it.
    """
    early, later, saving = (
        [p for p in looks if a <= p[0] < b] for a, b in ((0, 20), (20, 32), (32, 40))
    )
    inside = [p for p in looks if p[2] and p[0]]
    places = [rng.choice(early), rng.choice(later), rng.choice(inside), rng.choice(saving)]
    saved = places[3]
    free = [p for p in looks if not saved[0] <= p[0] <= 40]
    for _ in range(rng.randrange(4)):
        places.append(rng.choice([p for p in free if p[:2] not in [q[:2] for q in places]]))
    first = rng.randrange(2)
    return [
        (
            place,
            "SIGKILL" if i % 2 == first else rng.choice(SIGNALS),
            rng.choice(EVERY_SAVE) * (place is saved),
        )
        for i, place in enumerate(sorted(places, key=looks.index))
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.fault(
    8,
    "SIGKILL, and SIGTERM, SIGINT or SIGUSR1, at random points of an undisturbed run, four to "
    "seven times per run: early, later between updates, during an evaluation, during a save "
    "and anywhere; each kind at least three times after the first update",
    "weights, optimiser, generators, replay, metrics hash-equal",
)
def test_stopped_and_killed_anywhere_it_ends_the_same(tmp_path, kind, record_property):
    args, stops, list_of = (*BUSY, *KINDS[kind]), 0, tmp_path / "looks"
    task = make_slug(loading.parse(["debug", *args]).env.task)
    go(tmp_path / "calm", *args, before=looks_listed(list_of))
    wanted = fingerprint(seed_dir(tmp_path / "calm", task))
    looks = [json.loads(line) for line in list_of.read_text().splitlines()]
    assert len({frames for frames, *_ in looks}) >= 45 // 2
    learns = "simulator" not in kind
    assert looks[-1][1] >= 10 if learns else looks[-1][1] == 0
    for lot in range(TIMES):
        rng, root, learnt = random.Random(f"{kind} {lot}"), tmp_path / f"struck{lot}", []
        for stop, (place, name, point) in enumerate(drawn(rng, looks)):
            note = tmp_path / f"struck{lot}-{stop}"
            go(
                root,
                *args,
                before=struck_at(place, name, note, point),
                expect=-9 if name == "SIGKILL" else 75,
            )
            frames, updates, evaluating, _ = json.loads(note.read_text())
            learnt += [(name, evaluating, bool(point))] * (updates > 0 or not learns)
            stops += 1
        assert len(learnt) >= 3 and {name == "SIGKILL" for name, *_ in learnt} == {True, False}
        assert any(evaluating for _, evaluating, _ in learnt) and any(
            saving for *_, saving in learnt
        )
        go(root, *args)
        assert fingerprint(seed_dir(root, task)) == wanted
    record_property("times", stops)
    record_property("lost", 0)


@pytest.mark.fault(
    23,
    "the same seed twice, 210 steps of three environments in parallel, on all cores and on "
    "one (without overlap)",
    "equal hashes",
)
def test_the_same_seed_gives_the_same_run_with_parallel_environments(tmp_path):
    for name, more, before in (("a", (), None), ("b", ("--env.timeout", "500"), on_one_core)):
        go(
            tmp_path / name,
            *BUSY,
            *LONGER,
            "--env.num",
            "3",
            "--run.threads",
            "1",
            *more,
            before=before,
        )
    assert (
        print_of(tmp_path / "a") == print_of(tmp_path / "b")
        and print_of(tmp_path / "a")["frames"] >= 200
    )


LONGER = (
    "--run.frames",
    "210",
    "--train.prefill",
    "30",
    "--train.updates_per_step",
    "0.1",
    "--log.checkpoint",
    "50",
    "--log.eval",
    "100",
)


def on_one_core():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
