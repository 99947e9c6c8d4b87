"""The count of visited bins: by hand, and of a run whose episodes are simulated again."""

import numpy as np

from benchmarks.coverage import COORDINATES, count_bins, measure, read_pole
from runs import seed_dir, train
from worldmodel.replay.saved_episodes import SavedEpisodes


def test_visited_bins_are_counted_once_and_the_edges_belong_to_the_outermost():
    bounds = ((-1.0, 1.0), (0.0, 4.0))
    states = np.array([[-1.0, 0.0], [-0.9, 0.1], [1.0, 4.0], [0.9, 0.1], [-0.9, 3.9]])
    found = count_bins(np.repeat(states, 2, 0), bounds, 2)
    assert found == [1, 1, 1, 1, 2, 2, 3, 3, 4, 4]


def test_simulated_episodes_pass_the_states_that_the_run_saw(tmp_path):
    task = ["--env.task", "pointmass", "--env.obs", "both", "--env.time_limit", "17"]
    train(tmp_path, *task, "--behavior.name", "random", "--train.updates_per_step", "0")
    run = seed_dir(tmp_path, "pointmass")
    saved = SavedEpisodes(run)
    seen = [saved.read_episode(i)["vector"][:, :2] for i in range(saved.count)]
    found = measure(run, 6)
    assert found["states"] == sum(map(len, seen)) >= 120
    assert found["run"] == count_bins(np.concatenate(seen), COORDINATES["pointmass"][1], 6)


def test_the_angle_of_a_pole_is_read_from_its_cosine_and_sine():
    state = np.array([[0.3, np.cos(2.0), np.sin(2.0), 0.5, -4.0]])
    np.testing.assert_allclose(read_pole(state), [[2.0, -4.0]])
