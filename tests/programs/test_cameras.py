"""Several cameras, and an environment's own pictures and vectors, go through the whole program by
configuration alone.
"""

import base64
import json
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from worldmodel.envs.parallel.vector import SerialEnv

import worldmodel
from runs import ROOT, evaluate, seed_dir, train
from worldmodel import DreamEnv, envs
from worldmodel.evaluation.commands.play import start_session
from worldmodel.evaluation.imagination.open_loop import imagine_open_loop
from worldmodel.evaluation.play.start_points import ReplayStarts
from worldmodel.policy.goal_files import load_goal
from worldmodel.replay.saved_episodes import SavedEpisodes

TASK = ("--env.task", "dmc:cartpole_balance", "--env.render", "ray", "--env.time_limit", "12")
CAMERAS = {"--env.camera": "[0, 1]"}
SHORT = ("--run.frames", "60", "--log.final_episodes", "1", "--log.to", "tensorboard")


@pytest.fixture(scope="module")
def two_cameras(tmp_path_factory):
    root = tmp_path_factory.mktemp("cameras")
    train(root, *TASK, *SHORT, *[word for pair in CAMERAS.items() for word in pair])
    return seed_dir(root, "dmc_cartpole_balance")


def frames_of(gif):
    """Height and width of an animation's frames."""
    return Image.open(gif).size[::-1]


def state_of(run):
    newest = max((run / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    return json.loads((newest / "state.json").read_text())


def test_a_second_camera_is_one_entry_of_the_configuration(two_cameras):
    """No file of the code names a camera: what is between the two runs is their config."""
    assert len(CAMERAS) == 1
    words = "camera1|camera0"
    code = ["worldmodel/**/*.py", "envs/**/*.py", "train.py", "eval.py"]
    found = [p for glob in code for p in ROOT.glob(glob) if re.search(words, p.read_text())]
    assert not found
    assert state_of(two_cameras)["observation"] == {
        "camera0": [32, 32, 3],
        "camera1": [32, 32, 3],
    }
    lines = [json.loads(x) for x in (two_cameras / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "train/loss/total" in line][-1]
    losses = {k for k in last if k.startswith("train/loss/image")}
    assert losses == {"train/loss/image/camera0", "train/loss/image/camera1"}


def test_the_replay_holds_what_each_camera_saw(two_cameras):
    start = ReplayStarts(two_cameras, 0).make_start(0, 3)
    for name, number in (("camera0", 0), ("camera1", 1)):
        env = envs.make("dmc:cartpole_balance", size=(32, 32), render="ray", camera=number)
        pictures = [env.reset(seed=start.seed)[0]]
        pictures += [env.step(action)[0] for action in start.actions]
        np.testing.assert_array_equal(start.rows[name], np.stack(pictures))


def test_imagine_draws_both_beside_each_other(two_cameras):
    options = ("--length", "6", "--context", "3", "--samples", "2", "--long", "6")
    evaluate(two_cameras, "imagine", *options)
    made = two_cameras / "eval"
    # Truth, model and error, two cameras each, enlarged by a whole number.
    height, width = frames_of(made / "imagine.gif")
    assert width * 32 == height * 3 * (2 * 32 + 2)
    height, width = frames_of(made / "imagine.png")
    assert height % 96 == 0 and width // (height // 96) == 9 * (2 * 32 + 2)
    for name in ("futures.png", "latents.png", "long.png", "uncertainty.png"):
        assert (made / name).stat().st_size > 1000
    page = evaluate(two_cameras, "report") and (made / "report.html").read_text()
    shown = [
        Image.open(BytesIO(base64.b64decode(data))).size
        for data in re.findall(r"data:image/(?:gif|webp|png);base64,([^\"]+)\"", page)
    ]
    assert frames_of(made / "imagine.gif")[::-1] in shown
    assert "image/camera0" in page and "image/camera1" in page


def test_the_truth_that_imagination_is_compared_with_shows_both(two_cameras):
    run = worldmodel.load(two_cameras)
    columns = SavedEpisodes(two_cameras).read_episode(0)
    rows = [{k: v[t] for k, v in columns.items()} for t in range(6)]
    rollout = imagine_open_loop(run.agent, rows, 3, run.generator)
    wanted = np.concatenate([columns["camera0"][:6], columns["camera1"][:6]], 2)
    np.testing.assert_array_equal(rollout.truth, wanted)
    assert rollout.model.shape == wanted.shape == (6, 32, 64, 3)


def test_play_shows_both_imagined_and_real(two_cameras, tmp_path):
    run = worldmodel.load(two_cameras)
    make = envs.make_factory(run.config.env, run.config.distract)
    with SerialEnv(make) as vector:
        answers = start_session(run, vector, tmp_path, 0, 5, [])
        state = answers.state({})
        assert state["pictures"] == ["camera0", "camera1"]
        for side in ("imagined", "real"):
            assert (state[side]["height"], state[side]["width"]) == (32, 64)
        moved = answers.step({"at": 0, "driver": "hand", "action": [1.0]})
        assert moved["real"]["width"] == moved["imagined"]["width"] == 64
        path = answers.clip({"first": 0, "last": 1})["path"]
        height, width = frames_of(path)
        assert width == 4 * height


def test_a_saved_run_takes_and_draws_pictures_by_name(two_cameras):
    run = worldmodel.load(two_cameras)
    make = envs.make_factory(run.config.env, run.config.distract)
    obs, _ = make().reset(seed=0)
    action, carry = run.act(obs)
    assert action.shape == (1,)
    assert run.draw(carry).shape == (32, 64, 3)
    one, other = (run.draw(carry, name) for name in ("camera0", "camera1"))
    np.testing.assert_array_equal(run.draw(carry), np.concatenate([one, other], 1))
    assert run.imagine(carry, np.zeros((4, 1)), "camera1").shape == (4, 32, 32, 3)
    with pytest.raises(ValueError, match="no picture 'image', only camera0, camera1"):
        run.draw(carry, "image")
    with pytest.raises(ValueError, match="sees camera1 of shape"):
        run.act({"camera0": obs["camera0"]})


def test_a_dream_is_an_environment_of_both(two_cameras):
    env = DreamEnv(two_cameras, render_mode="rgb_array", horizon=3)
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen) and seen.keys() == {"camera0", "camera1"}
    assert env.observation_space.contains(env.step(np.zeros(1, np.float32))[0])
    assert env.render().shape == (32, 64, 3)


def test_a_goal_is_a_file_for_each_camera(two_cameras, tmp_path):
    run = worldmodel.load(two_cameras)
    files = {}
    for name, colour in (("camera0", 10), ("camera1", 200)):
        files[name] = str(tmp_path / f"{name}.png")
        Image.fromarray(np.full((32, 32, 3), colour, np.uint8)).save(files[name])
    towards = [("planner.score", "goal_distance"), ("goal.image", json.dumps(files))]
    goal = load_goal(run.apply_overrides(towards).config.goal, run.observation_space)
    assert {k: (tuple(v.shape), int(v[0, 0, 0, 0, 0])) for k, v in goal.seen.items()} == {
        "camera0": ((1, 1, 32, 32, 3), 10),
        "camera1": ((1, 1, 32, 32, 3), 200),
    }
    for image in (files["camera0"], json.dumps({"camera0": files["camera0"]})):
        settings = run.apply_overrides([towards[0], ("goal.image", image)]).config.goal
        with pytest.raises(ValueError, match=r"\{camera0: FILE, camera1: FILE\}") as caught:
            load_goal(settings, run.observation_space)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (("--env.camera", "[0, 7]"), "no camera 7"),
        (("--env.camera", "[1, 1]"), "different ones"),
        (("--env.camera", "[]"), "env.camera"),
        (("--env.sizes", "{image: [32, 30]}"), "env.sizes.image: 32x30 must be divisible"),
        (("--env.sizes", "{camera1: [32, 32]}"), "no picture 'camera1', only image"),
    ],
)
def test_cameras_that_are_not_there_are_one_line(tmp_path, args, wanted):
    _, err = train(tmp_path, *TASK, *args, expect=2)
    lines = [line for line in err.splitlines() if not line.startswith("drawing with")]
    assert len(lines) == 1 and wanted in lines[0], err


@pytest.mark.parametrize("number", ["1", "2"])
def test_an_environments_own_pictures_and_vectors_keep_their_names(tmp_path, number):
    train(
        tmp_path,
        "--env.task",
        "seeing:Seeing",
        "--env.obs",
        "both",
        "--env.sizes",
        "{wrist: [16, 24]}",
        "--env.time_limit",
        "10",
        "--env.num",
        number,
        *SHORT,
    )
    run = seed_dir(tmp_path, "seeing_Seeing")
    assert state_of(run)["observation"] == {
        "front": [32, 32, 1],
        "wrist": [16, 24, 4],
        "goal": 2,
        "joints": 3,
    }
    rows = SavedEpisodes(run).read_episode(0)
    np.testing.assert_allclose(rows["joints"][:, 0], rows["goal"][:, 0], rtol=1e-6)
    assert (rows["wrist"][..., :3] == 0).all()
    np.testing.assert_allclose(rows["wrist"][:, 0, 0, 3], (rows["goal"][:, 0] + 1) * 127, atol=1)
    options = ("--length", "4", "--context", "3", "--samples", "2", "--long", "4")
    evaluate(run, "imagine", *options)
    # The front camera in grey; the wrist's colours and its fourth channel, both twice as high.
    height, width = frames_of(run / "eval" / "imagine.gif")
    assert width * 32 == height * 3 * (32 + 48 + 48 + 2)


@pytest.mark.parametrize(("obs", "names"), [("pixels", "front wrist"), ("state", "goal joints")])
def test_only_pictures_or_only_vectors(obs, names):
    env = envs.make("seeing:Seeing", size=(16, 16), obs=obs)
    assert sorted(env.observation_space.keys()) == names.split()
    assert env.observation_space.contains(env.reset(seed=0)[0])
