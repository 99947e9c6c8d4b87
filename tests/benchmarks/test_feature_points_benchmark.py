"""Tests of benchmarks/feature_points.py: true places in pictures, errors, and the command."""

import json

import numpy as np
import pytest

import forked
from benchmarks.feature_points import TASKS, find_places, measure_thing
from runs import seed_dir, train
from worldmodel import envs


def test_places_on_the_table_are_where_the_picture_shows_them():
    env = envs.make("pushing", size=(64, 64), kwargs={"goal": False})
    env.reset(seed=2)
    world = env.unwrapped
    pusher, thing = find_places(env).reshape(2, 2)
    before = env.render()
    world.bodies[0].place(5.0, 5.0, 0.0)
    without = env.render()
    rows, columns = np.nonzero((before != without).any(-1))
    centre = np.array([columns.mean(), rows.mean()])
    np.testing.assert_allclose((thing + 1) * 32 - 0.5, centre, atol=1.5)
    (row, column) = np.unravel_index(without.sum(-1).argmax(), (64, 64))
    assert np.abs((pusher + 1) * 32 - 0.5 - (column, row)).max() <= 3


def test_places_of_the_arm_are_where_the_picture_shows_them():
    env = envs.make("dmc:reacher_easy", size=(64, 64), render="ray")
    for seed in range(3):
        env.reset(seed=seed)
        physics = env.unwrapped.physics
        physics.named.model.geom_pos["target"] = (1.0, 1.0, 0.0)  # out of sight
        physics.forward()
        places = (find_places(env).reshape(2, 2) + 1) * 32 - 0.5
        picture = env.render().astype(int)
        arm = picture[..., 0] > picture[..., 2]  # yellow on blue
        for column, row in places:
            rows, columns = np.nonzero(arm)
            assert np.hypot(rows - row, columns - column).min() <= 1.5


def test_a_point_that_follows_is_found_and_noise_is_no_better_than_the_mean():
    generator = np.random.default_rng(0)
    places = [generator.uniform(-1, 1, (50, 4)) for _ in range(9)]
    noise = [generator.normal(size=(50, 6)) for _ in range(9)]
    points = [
        np.concatenate([n[:, :2], p[:, 2:] + 0.1], 1) for n, p in zip(noise, places, strict=True)
    ]
    embedding = [p @ np.full((4, 4), 0.1) + p for p in places]
    found = {"places": places, "points": points, "embedding": embedding, "features": noise}
    errors = measure_thing(1, found)
    assert errors["point"] == pytest.approx(0.1 * 2**0.5)
    assert errors["embedding"] < 0.01
    assert errors["features"] == pytest.approx(errors["mean"], rel=0.05)
    assert errors["mean"] == pytest.approx((2 / 3) ** 0.5, rel=0.1)


@pytest.mark.parametrize("encoder", ["cnn", "spatial"])
def test_a_run_adds_a_line(tmp_path, encoder):
    args = ("--env.task", "pushing", "--env.time_limit", "8", "--behavior.name", "random")
    train(tmp_path, *args, "--model.encoder", encoder, "--log.eval", "0")
    run = seed_dir(tmp_path, "pushing")
    out, _ = forked.run("benchmarks/feature_points", run, "--episodes", "6")
    (line,) = [json.loads(text) for text in out.splitlines() if text.startswith("{")]
    assert tuple(line["pixels"]) == TASKS["pushing"]
    assert line["encoder_weights"] < line["weights"]
    for errors in line["pixels"].values():
        assert ("point" in errors) == (encoder == "spatial")
        assert all(np.isfinite(list(errors.values())))


def test_other_tasks_are_refused(tmp_path):
    train(tmp_path, "--run.frames", "30", "--log.eval", "0", "--log.final_episodes", "1")
    error = forked.run("benchmarks/feature_points", seed_dir(tmp_path), expect=2)[1]
    assert "places are known in pictures of pushing and dmc:reacher_easy only" in error
