"""DeepMind Control environments: episodes, spaces, options and bad input. No test here
needs GL.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from worldmodel.envs.dmc.suite import DMC

ROOT = Path(__file__).resolve().parents[2]


def _trace(env: DMC, seed: int, steps: int = 4) -> list[tuple[str, float]]:
    """Return picture hashes and rewards of a short episode."""
    generator = np.random.default_rng(seed)
    image, _ = env.reset(seed=seed)
    trace = [(hashlib.sha256(image).hexdigest(), 0.0)]
    for _ in range(steps):
        image, reward, *_ = env.step(generator.uniform(-1, 1, env.action_space.shape))
        trace.append((hashlib.sha256(image).hexdigest(), reward))
    return trace


TASKS = (
    *("cartpole_balance", "cheetah_run", "cup_catch", "finger_turn_hard", "fish_swim"),
    *(
        "humanoid_stand",
        "lqr_lqr_2_1",
        "manipulator_bring_ball",
        "quadruped_escape",
        "reacher_easy",
    ),
)


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_is_a_pure_function_of_seed_and_actions(task):
    fresh, used = DMC(task, size=(24, 32), render="ray"), DMC(task, size=(24, 32), render="ray")
    _trace(used, 5, 3)
    expected = _trace(fresh, 11)
    assert _trace(used, 11) == expected
    assert _trace(used, 12) != expected


def test_episodes_without_a_seed_follow_the_last_seed_and_differ():
    first, second = DMC("reacher_easy", obs="state"), DMC("reacher_easy", obs="state")
    runs = [[env.reset(seed=3)[0], env.reset()[0], env.reset()[0]] for env in (first, second)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0][1], runs[0][2])
    obs, info = first.reset()
    np.testing.assert_array_equal(second.reset(seed=info["seed"])[0], obs)


def test_repeat_sums_rewards_and_counts_frames():
    single, triple = DMC("walker_walk", obs="state"), DMC("walker_walk", obs="state", repeat=3)
    single.reset(seed=2), triple.reset(seed=2)
    action = np.linspace(-1, 1, 6)
    rewards = [single.step(action)[1] for _ in range(3)]
    obs, reward, *_ = triple.step(action)
    assert reward == pytest.approx(sum(rewards), abs=1e-12) and len(set(rewards)) == 3
    assert triple.frames == 3
    np.testing.assert_array_equal(obs, single.state())


def test_the_time_limit_truncates_in_mid_repeat_and_then_reset_is_due():
    env = DMC("cartpole_balance", obs="state", repeat=4, time_limit=6)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))
    env.reset(seed=0)
    assert env.step(np.zeros(1))[2:4] == (False, False)
    _, _, terminated, truncated, _ = env.step(np.zeros(1))
    assert (terminated, truncated, env.frames) == (False, True, 2)
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        env.step(np.zeros(1))


def test_the_suite_s_own_limit_is_kept():
    env = DMC("cartpole_balance", obs="state", repeat=500)
    env.reset(seed=0)
    assert not env.step(np.zeros(1))[3] and env.step(np.zeros(1))[3]


def test_a_discount_of_zero_terminates():
    env = DMC("lqr_lqr_2_1", obs="state")
    env.reset(seed=1)
    env.physics.data.qpos[:] = 0  # the goal: at rest in the middle
    env.physics.data.qvel[:] = 0
    env.physics.forward()
    assert env.step(np.zeros(1))[2:4] == (True, False)


def test_actions_are_clipped_and_scaled_to_the_task_s_bounds():
    env = DMC("cartpole_balance", obs="state")
    spec = env._env.action_spec()
    over, edge = DMC("cartpole_balance", obs="state"), DMC("cartpole_balance", obs="state")
    over.reset(seed=0), edge.reset(seed=0)
    np.testing.assert_array_equal(over.step(np.array([7.0]))[0], edge.step(np.array([1.0]))[0])
    env._middle, env._span = np.array([1.0]), np.array([2.0])  # as for bounds of -1 and 3
    assert env._scale_action(np.array([-1.0])) == -1 and env._scale_action(np.array([0.5])) == 2
    assert spec.shape == env.action_space.shape
    # Bounds of 1e10 are no scale
    assert np.abs(DMC("lqr_lqr_2_1", obs="state")._scale_action(np.array([0.5]))) == 0.5


def test_spaces_hold_what_is_observed():
    both = DMC("walker_walk", size=(24, 40), render="ray", obs="both")
    obs, _ = both.reset(seed=0)
    assert (
        both.observation_space.contains(obs)
        and obs["image"].shape == (24, 40, 3)
        and obs["vector"].shape == (24,)
    )
    np.testing.assert_array_equal(obs["vector"], both.state())
    pixels = DMC("walker_walk", size=(17, 33), render="ray")
    image, _ = pixels.reset(seed=0)
    assert pixels.observation_space.contains(image) and image.std() > 10
    np.testing.assert_array_equal(pixels.render(), image)
    assert not np.array_equal(pixels.step(np.ones(6))[0], image)
    assert pixels.action_space == gymnasium.spaces.Box(-1, 1, (6,), np.float32)


def test_mask_is_the_body_and_not_the_ground():
    env = DMC("walker_walk", size=(48, 64), render="ray")
    env.reset(seed=0)
    mask = env.segment()
    assert mask.shape == (48, 64) and mask.dtype == bool and 0.02 < mask.mean() < 0.2
    # The body is orange, the rest blue
    assert env.render()[mask].mean(0)[0] > env.render()[~mask].mean(0)[0] + 50


def test_alias_and_cameras():
    assert DMC("cup_catch", obs="state").domain == "ball_in_cup"
    assert DMC("quadruped_walk", obs="state")._cameras == {"image": 2}
    side, back = (DMC("walker_walk", render="ray", camera=camera) for camera in ("side", 1))
    assert (side._cameras, back._cameras) == ({"image": 0}, {"image": 1})
    assert not np.array_equal(side.reset(seed=0)[0], back.reset(seed=0)[0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "walker_wolk"}, "did you mean 'walker_walk'"),
        ({"task": "cup_cash"}, "did you mean 'cup_catch'"),
        (
            {"task": "walker_walk", "camera": 7},
            r"no camera 7: choose one of 0 \(side\), 1 \(back\)",
        ),
        ({"task": "walker_walk", "obs": "pixel"}, "obs must be one of pixels, state, both"),
        ({"task": "walker_walk", "repeat": 0}, "repeat must be"),
        ({"task": "walker_walk", "size": (0, 64)}, "size must be"),
        ({"task": "walker_walk", "time_limit": 0}, "time_limit must be"),
        ({"task": "walker_walk", "render": "rays"}, "did you mean 'ray'"),
    ],
)
def test_bad_arguments_are_one_clear_line(kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        DMC(**{"obs": "state", **kwargs})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "action", [np.array([np.nan]), np.array([np.inf]), np.zeros(2), np.zeros((1, 1))]
)
def test_bad_actions_never_reach_the_simulation(action):
    env = DMC("cartpole_balance", obs="state")
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="the action"):
        env.step(action)
    np.testing.assert_array_equal(env.state(), before)
    assert env.physics.time() == 0


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MUJOCO_GL", "_WORLDMODEL"))}
    kept.update(environment, PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, "-c", code], env=kept, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("backend", ["", "disable", "osmesa", "nonsense"])
def test_ray_loads_no_gl_library_whatever_mujoco_gl_says(backend):
    code = """
from worldmodel.envs.dmc.suite import DMC
import os
before = os.environ.get("MUJOCO_GL")
env = DMC("walker_walk", render="ray")
assert env.reset(seed=0)[0].std() > 10
assert os.environ.get("MUJOCO_GL") == before
maps = open("/proc/self/maps").read().lower() if os.path.exists("/proc/self/maps") else ""
print([name for name in ("libegl", "libgl.", "libosmesa", "libglfw") if name in maps])
"""
    done = _python(code, **({"MUJOCO_GL": backend} if backend else {}))
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("backend", ["disable", "nonsense"])
def test_auto_says_in_one_line_what_draws_instead_and_how_to_get_gl(backend):
    code = (
        "from worldmodel.envs.dmc.suite import DMC\nfor _ in range(2): "
        "print(DMC('cartpole_balance').reset(seed=0)[0].std() > 5)"
    )
    done = _python(code, MUJOCO_GL=backend)
    assert done.stdout.split() == ["True", "True"], done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and f"MUJOCO_GL={backend}" in lines[0]
    assert "ray" in lines[0] and "apt-get install" in lines[0]


def test_a_working_choice_is_no_warning(caplog):
    with caplog.at_level(logging.WARNING):
        DMC("cartpole_balance", render="ray")
    assert not caplog.records
