"""Reaching what a picture shows: distances in the latent, one step and over a horizon, and where
goals come from.
"""

import hashlib
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_behaviors import LineWorld

from blocks import CELLS, CODES, batch_of, draw, taught
from reach import reach
from runs import evaluate, seed_dir, train
from test_model import H, W, make, random_batch
from worldmodel import build, registry
from worldmodel.checkpoint import store
from worldmodel.config import loading
from worldmodel.errors import UsageError
from worldmodel.policy.goal_files import load_goal, read_pictures
from worldmodel.policy.goals import Goal
from worldmodel.policy.plan_scores import ScoreInputs
from worldmodel.policy.plan_scores.goal_distance import GoalDistance
from worldmodel.replay.buffer import Replay, ReplayError
from worldmodel.replay.samplers.uniform import Uniform
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.spaces import ObservationSpace, map_state

SEEN = ObservationSpace({"image": (H, W, 3)})


class Line(LineWorld):
    """LineWorld whose pictures are its state."""

    def imagine(self, state, actions, generator):
        return {"deter": state["deter"].unsqueeze(1) + actions[..., :1].cumsum(1)}

    def encode(self, batch):
        return batch["image"]

    def measure_goal_distance(self, states, goal, kind):
        return (states["deter"] - goal).square().sum(-1)


def score_of(goal, start):
    return GoalDistance(Line(), {"deter": start}, None, ScoreInputs(goal=lambda: goal))


@pytest.mark.parametrize("at", ["every", "end"])
def test_a_plan_is_worth_how_near_it_comes(at):
    plans = torch.zeros(1, 2, 3, 2)
    plans[0, 0, 0, 0] = 2.0  # there at once: 2 2 2
    plans[0, 1, :, 0] = torch.tensor([0.5, 0.5, 1.0])  # there in the end: 0.5 1 2
    goal = Goal({"image": torch.full((1, 1, 1), 2.0)}, "belief", at)
    found = score_of(goal, torch.zeros(1, 1))(plans)
    slow = -(1.5**2 + 1) / 3 if at == "every" else 0.0
    torch.testing.assert_close(found, torch.tensor([[0.0, slow]]))


def test_every_environment_may_have_a_goal_of_its_own():
    goal = Goal({"image": torch.tensor([[[1.0]], [[5.0]]])}, "belief", "end")
    found = score_of(goal, torch.zeros(2, 1))(torch.zeros(2, 3, 4, 2))
    torch.testing.assert_close(found, torch.tensor([[-1.0] * 3, [-25.0] * 3]))


@pytest.mark.parametrize("latent", registry.LATENTS)
def test_distances_are_between_what_is_predicted_and_what_would_be_believed(latent):
    _, model = make(f"model.latent={latent}")
    batch = random_batch()
    post = model.observe(batch)[1]
    states = map_state(post, torch.detach)
    goal = model.encode({"image": batch["image"][:1, :1]})
    lat, dynamics = model.dynamics.latent, model.dynamics
    prior, belief = dynamics.predict_latent(states), dynamics.infer_latent(states, goal)
    torch.testing.assert_close(
        model.measure_goal_distance(states, goal, "kl"), lat.kl(belief, prior)
    )
    want = (lat.compute_mean(belief) - lat.compute_mean(prior)).square().sum(-1)
    torch.testing.assert_close(model.measure_goal_distance(states, goal, "belief"), want)
    assert (want > 0).all() and want.shape == batch["is_first"].shape
    # What was really seen there is what the posterior believed.
    own = dynamics.infer_latent(states, model.encode(batch))
    torch.testing.assert_close(lat.compute_mean(own), lat.compute_mean(post))


@pytest.mark.parametrize("kind", ["belief", "kl"])
def test_members_are_compared_on_average(kind):
    _, model = make("ensemble.size=3", "ensemble.of=dynamics")
    batch = random_batch()
    states = map_state(model.observe(batch)[1], torch.detach)
    goal = model.encode({"image": batch["image"][:1, :1]})
    lat, dynamics = model.dynamics.latent, model.dynamics
    belief = dynamics.infer_latent(states, goal)
    priors = dynamics.predict_latent(states)
    found = model.measure_goal_distance(states, goal, kind)
    members = [{k: v[:, :, i] for k, v in priors.items()} for i in range(3)]
    if kind == "kl":
        want = torch.stack([lat.kl(belief, p) for p in members]).mean(0)
    else:
        mean = torch.stack([lat.compute_mean(p) for p in members]).mean(0)
        want = (lat.compute_mean(belief) - mean).square().sum(-1)
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("dynamics", ["rssm", "locally_linear", "linear_gaussian"])
def test_goals_of_their_own_broadcast_over_the_steps_of_a_plan(dynamics):
    """States (H,B,...) against embeddings (B,E) and (1,E)."""
    _, model = make(f"model.dynamics={dynamics}")
    batch = random_batch()
    states = map_state(model.observe(batch)[1], lambda v: v.detach().transpose(0, 1))
    goals = model.encode({"image": batch["image"][:, :1]}).squeeze(1)
    found = model.measure_goal_distance(states, goals, "belief")
    for row in range(found.shape[1]):
        one = map_state(states, lambda v, row=row: v[:, row])
        alone = model.measure_goal_distance(one, goals[row : row + 1], "belief")
        torch.testing.assert_close(found[:, row], alone)
    shared = model.measure_goal_distance(states, goals[:1], "belief")
    torch.testing.assert_close(shared[:, 0], found[:, 0])


@pytest.fixture(scope="module")
def pusher():
    """A contrastive forward model of the block's world."""
    return taught("{forward_contrastive: 10.0}", 150)[0].model


def behaviour(model, column, *overrides):
    c = loading.parse(
        [
            "debug",
            "planner.score=goal_distance",
            "goal.image=there.png",
            "goal.distance=learnt",
            "loss.objective={forward_contrastive: 1.0}",
            *overrides,
        ]
    )
    goal = Goal(
        {"image": draw(column, torch.zeros_like(column))[:, None]}, c.goal.distance, c.goal.at
    )
    mpc = build.make_behavior(c, model, CODES, None)
    mpc.make_score = build.make_plan_score(c, None, lambda: goal)
    return mpc


@pytest.mark.parametrize("distance", ["learnt", "belief", "kl"])
def test_one_step_takes_the_action_that_leads_to_the_picture(pusher, distance):
    """argmax over actions of h(f(z, a), z_goal): the block one column further, the distractor
    anywhere.
    """
    batch, state = batch_of(999, cut=False, batch=60, length=5)
    column = state[:, -1, 0]
    move = torch.where(column > CELLS / 2, -1.0, 1.0)
    with torch.no_grad():
        start = map_state(pusher.observe(batch)[1], lambda v: v[:, -1])
        mpc = behaviour(
            pusher,
            column + move,
            "planner.name=shooting",
            "planner.horizon=1",
            "planner.candidates=60",
            f"goal.distance={distance}",
        )
        action, _ = mpc.act(
            start, mpc.init(60), torch.zeros(60, dtype=torch.bool), "eval", torch.Generator()
        )
    right = (action.argmax(-1) - 1 == move).float().mean()
    assert right > {"learnt": 0.85, "belief": 0.6, "kl": 0.6}[distance], right


def test_over_a_horizon_it_gets_there(pusher):
    """Four columns to go: each step plans four ahead, does one and looks again."""
    generator = torch.Generator().manual_seed(0)
    batch, state = batch_of(998, cut=False, batch=12, length=3)
    column = state[:, -1, 0]
    goal = torch.where(column > (CELLS - 1) / 2, column - 4, column + 4)
    mpc = behaviour(
        pusher,
        goal,
        "planner.name=cem",
        "planner.horizon=4",
        "planner.candidates=80",
        "planner.elites=8",
        "planner.iterations=3",
    )
    carry, first = mpc.init(12), torch.zeros(12, dtype=torch.bool)
    with torch.no_grad():
        now = map_state(pusher.observe(batch)[1], lambda v: v[:, -1])
        for _ in range(7):
            action, carry = mpc.act(now, carry, first, "eval", generator)
            column = (column + action.argmax(-1) - 1).clamp(0, CELLS - 1)
            seen = {
                "image": draw(column, torch.randint(0, CELLS, (12,), generator=generator).float())[
                    :, None
                ]
            }
            now = pusher.dynamics.observe_step(
                now, pusher.encode(seen)[:, 0], action, first, generator
            )
    assert (column - goal).abs().mean() < 1.0, (column, goal)


# ---- where goals come from


def picture(path, height=H, width=W, mode="RGB"):
    Image.fromarray(np.full((height, width, 3), 51, np.uint8)).convert(mode).save(path)
    return path


def goal(**changes):
    nothing = {
        "image": None,
        "run": None,
        "episode": -1,
        "step": -1,
        "distance": "belief",
        "at": "every",
    }
    return SimpleNamespace(**{**nothing, **changes})


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_picture_file_of_any_kind(tmp_path, mode):
    found = load_goal(goal(image=str(picture(tmp_path / "x.png", mode=mode))), SEEN)
    assert (
        found.seen["image"].shape == (1, 1, H, W, 3) and found.seen["image"].dtype == torch.uint8
    )
    assert (found.seen["image"] == 51).all()


def test_pictures_that_cannot_be_a_goal(tmp_path):
    torn = tmp_path / "torn.png"
    torn.write_bytes(picture(tmp_path / "x.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("not a picture")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for path, observation, wanted in (
        (tmp_path / "none.png", SEEN, "there is no file"),
        (torn, SEEN, "cannot be read as a picture"),
        (tmp_path / "text.png", SEEN, "cannot be read as a picture"),
        (tmp_path, SEEN, "cannot be read as a picture"),
        (tmp_path / "pipe.png", SEEN, "it is not a regular file"),
        (tmp_path / "zero.png", SEEN, "it is not a regular file"),
        (picture(tmp_path / "y.png", W, H), SEEN, f"is {W}x{H} pixels, this run sees {H}x{W}"),
        (tmp_path / "x.png", ObservationSpace({"vector": 5}), "this run sees no pictures"),
        (
            tmp_path / "x.png",
            ObservationSpace({"image": (H, W, 3), "vector": 5}),
            "sees a vector as well",
        ),
    ):
        with pytest.raises(ValueError, match=wanted):
            load_goal(goal(image=str(path)), observation)


SPEC = {
    "image": ((H, W, 3), "uint8"),
    "vector": ((2,), "float32"),
    "prev_action": ((1,), "float32"),
    "reward": ((), "float32"),
    **dict.fromkeys(("is_first", "is_last", "is_terminal"), ((), "bool")),
}


def saved_run(path, lengths, codec="none", after=0, spec=SPEC):
    """A run directory whose replay holds two environments' episodes, and rows written after its
    checkpoint.
    """
    settings = {
        "capacity_bytes": 10**8,
        "store": "ram",
        "codec": codec,
        "num_streams": 2,
        "seed": 0,
        "sampler": Uniform(),
        "chunk_rows": 8,
    }
    replay = Replay(spec, directory=path / "replay", **settings)

    def fill(stream, lengths, name):
        for episode, length in enumerate(lengths):
            for t in range(length):
                row = {
                    **{key: np.zeros(shape, kind) for key, (shape, kind) in spec.items()},
                    "image": np.full((H, W, 3), name + episode, np.uint8),
                    "vector": np.array([t, stream], np.float32),
                    "is_first": np.bool_(t == 0),
                    "is_last": np.bool_(t == length - 1),
                }
                replay.add(stream, {key: row[key] for key in spec})

    fill(0, lengths, 0)
    fill(1, lengths, 100)
    replay.flush(strict=True)
    spaces = {
        "observation": {"image": [H, W, 3], "vector": 2 if "vector" in spec else None},
        "action": {"size": 1, "groups": [], "scalar": False},
    }
    store.save(path / "checkpoints", 1, {}, {"replay": replay.state_dict(), **spaces})
    fill(1, [after], 200)
    replay.flush(strict=True)
    return path


def hashes(path):
    return {
        str(f): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(path.rglob("*"))
        if f.is_file()
    }


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_episodes_of_a_replay_come_whole_and_nothing_is_touched(tmp_path, codec):
    lengths = [3, 20, 8, 1, 5]
    run = saved_run(tmp_path, lengths, codec, after=2)
    before = hashes(run)
    episodes = SavedEpisodes(run)
    assert episodes.count == 10
    for number in range(-10, 10):
        rows = episodes.read_episode(number)
        stream, episode = divmod(number % 10, 5)
        assert rows["vector"][:, 0].tolist() == list(range(lengths[episode]))
        assert (rows["image"] == episode + 100 * stream).all() and (
            rows["vector"][:, 1] == stream
        ).all()
    for number in range(10):
        stream, episode = divmod(number, 5)
        assert episodes.locate_episode(number) == (stream, 4 - episode)
    with pytest.raises(UsageError, match="there is no episode 10"):
        episodes.locate_episode(10)
    assert hashes(run) == before


def test_a_step_of_an_episode_is_a_goal(tmp_path):
    run = saved_run(tmp_path, [3, 20])
    found = load_goal(
        goal(run=str(run), episode=1, step=7), ObservationSpace({"image": (H, W, 3), "vector": 2})
    )
    assert found.seen["vector"].tolist() == [[[7.0, 0.0]]] and (found.seen["image"] == 1).all()
    assert load_goal(goal(run=str(run)), SEEN).seen.keys() == {"image"}
    assert (load_goal(goal(run=str(run)), SEEN).seen["image"] == 101).all()


def test_replays_that_hold_no_such_goal(tmp_path):
    run = saved_run(tmp_path / "a", [3, 20])
    plain = saved_run(tmp_path / "b", [3], spec={k: v for k, v in SPEC.items() if k != "vector"})
    for changes, observation, wanted in (
        ({"run": str(tmp_path / "nowhere")}, SEEN, "is no run directory with a checkpoint"),
        ({"run": str(run), "episode": 4}, SEEN, "no episode 4: .* holds 4"),
        (
            {"run": str(run), "episode": 0, "step": 3},
            SEEN,
            "goal.step: 3 is not in episode 0, which has 3 steps",
        ),
        ({"run": str(run)}, ObservationSpace({"image": (W, H, 3)}), "has image of shape"),
        (
            {"run": str(plain)},
            ObservationSpace({"image": (H, W, 3), "vector": 2}),
            "has no vector",
        ),
    ):
        with pytest.raises(ValueError, match=wanted):
            load_goal(goal(**changes), observation)
    next((run / "replay").glob("0001*")).write_bytes(b"torn")
    with pytest.raises(ReplayError, match="cannot be read"):
        load_goal(goal(run=str(run)), SEEN)


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["--planner.score", "goal_distance"], "needs goal.image or goal.run; neither"),
        (
            ["--planner.score", "goal_distance", "--goal.image", "x", "--goal.run", "y"],
            "both are given",
        ),
        (
            ["--planner.score", "goal_distance", "--goal.image", "x", "--goal.distance", "learnt"],
            "needs one of contrastive",
        ),
        (["--planner.score", "goal_distanse"], "did you mean goal_distance?"),
        (["--goal.distance", "learned"], "did you mean learnt?"),
    ],
)
def test_what_cannot_be_asked_of_goals(args, wanted):
    with pytest.raises(loading.ConfigError) as caught:
        loading.parse(args)
    assert any(wanted in problem for problem in caught.value.problems), caught.value.problems


def test_the_whole_program_reaches_for_a_picture_and_for_a_replayed_step(tmp_path):
    there = picture(tmp_path / "there.png", 32, 32)
    pushing = ("--env.task", "pointmass", "--run.frames", "40", "--env.time_limit", "15")
    pushing += ("--planner.score", "goal_distance")
    train(
        tmp_path,
        *pushing,
        "--goal.image",
        str(there),
        "--loss.objective",
        "{forward_contrastive: 1.0}",
        "--goal.distance",
        "learnt",
    )
    run = seed_dir(tmp_path, "pointmass")
    there.unlink()
    # The run opens without its goal
    evaluate(run, "probe", "--episodes", "3", "--behavior.name", "random")
    one_step = (
        "--planner.name",
        "shooting",
        "--planner.horizon",
        "1",
        "--goal.at",
        "end",
        "--goal.distance",
        "belief",
    )
    taken = ("--goal.image", "null", "--goal.run", run, "--goal.episode", "0", "--goal.step", "5")
    evaluate(run, "--episodes", "1", *taken, *one_step)
    assert json.loads((run / "eval" / "returns.json").read_text())["scores"]
    assert "goal.image: there is no file" in evaluate(run, "--episodes", "1", expect=2)[1]
    _, err = train(tmp_path / "b", *pushing, "--goal.image", str(picture(there, 16, 32)), expect=2)
    assert err.strip().endswith("resize it") and len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_point_mass_is_pushed_to_where_a_picture_shows_it():
    """From data collected at random, without a reward: a contrastive forward model, CEM in its
    latent.
    """
    end, start = reach("{forward_contrastive: 10.0}", "learnt", updates=300, goals=5)
    assert start > 0.7 and end < 0.25, (start, end)


def test_one_picture_for_two_cameras_is_a_users_mistake():
    cameras = ObservationSpace({"camera0": (8, 8, 3), "camera1": (8, 8, 3)})
    with pytest.raises(UsageError, match="sees 2 pictures; give a file for each of them"):
        read_pictures("goal.png", cameras)
