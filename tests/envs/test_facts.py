"""What rules need to know of an environment that was not made for this project."""

import gymnasium
import pytest
from gymnasium import spaces
from worldmodel.envs.facts import TaskFacts, read_facts


class Foreign(gymnasium.Env):
    observation_space = action_space = spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, **attributes):
        self.metadata = {"render_fps": attributes.pop("render_fps", None)}
        for name, value in attributes.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("attributes", "step"),
    [
        ({}, None),
        ({"dt": 0.05}, 0.05),
        ({"render_fps": 20}, 0.05),
        ({"dt": 0.01, "render_fps": 10}, 0.1),  # ten steps of the simulator for each action
        ({"dt": 0.05, "render_fps": 30}, 0.05),
        ({"dt": "fast", "render_fps": 0}, None),
        ({"dt": True, "render_fps": 8}, 0.125),
    ],
)
def test_a_control_step_lasts_as_long_as_the_longest_that_is_named(attributes, step):
    assert read_facts(lambda: Foreign(**attributes)).control_step == step


@pytest.mark.parametrize("name", ["max_steps", "_max_episode_steps", "max_path_length"])
def test_a_time_limit_of_its_own_is_found(name):
    facts = read_facts(lambda: Foreign(**{name: 100}))
    assert facts == TaskFacts(None, 100, discrete=False)
    shorter = read_facts(lambda: gymnasium.wrappers.TimeLimit(Foreign(**{name: 100}), 27))
    assert shorter.episode_frames == 27
