"""Distractors: what belongs to the task stays, all else moves, and nothing but seed, set and step
says how.
"""

from __future__ import annotations

import json
import textwrap
import warnings
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from worldmodel.envs import registry
from worldmodel.envs.distract import FALLOFF, KINDS, Background, make_fractal_noise
from worldmodel.envs.dmc import render
from worldmodel.envs.errors import EnvDataError
from worldmodel.envs.names import DISTRACT
from worldmodel.envs.parallel.vector import SerialEnv, make_vector
from worldmodel.envs.tasks.canvas import Canvas
from worldmodel.envs.wrappers import count_frames

from children import go
from runs import evaluate, seed_dir, train
from worldmodel import envs
from worldmodel.config import loading
from worldmodel.rollout.collector import Rollout, make_episode_seeds
from worldmodel.spaces import ActionSpace

TASKS = (*envs.TASKS, "dmc:walker_walk", "dmc:ball_in_cup_catch")
SIZE = (40, 56)


def play_episode(name, steps=5, seed=3, push=0.4, **options):
    """Pictures and masks of an episode under one repeated action."""
    env = envs.make(name, size=SIZE, render=options.pop("render", "ray"), **options)
    space = env.action_space
    action = (
        2
        if isinstance(space, gymnasium.spaces.Discrete)
        else np.full(space.shape, push, np.float32)
    )
    pictures, masks = [env.reset(seed=seed)[0]], [env.unwrapped.mask().copy()]
    for _ in range(steps):
        pictures.append(env.step(action)[0])
        masks.append(env.unwrapped.mask().copy())
    np.testing.assert_array_equal(env.render(), pictures[-1])
    env.close()
    return np.stack(pictures), np.stack(masks)


@pytest.mark.parametrize("name", TASKS)
def test_strength_0_is_the_picture_bit_for_bit(name):
    np.testing.assert_array_equal(
        play_episode(DISTRACT + name, strength=0.0)[0], play_episode(name)[0]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TASKS)
def test_at_strength_1_the_task_stays_and_nothing_else(name, kind):
    plain, masks = play_episode(name)
    pictures, same = play_episode(DISTRACT + name, kind=kind)
    np.testing.assert_array_equal(masks, same)
    assert ((masks >= 0) & (masks <= 1)).all() and 0.005 < (masks == 1).mean() < 0.4
    np.testing.assert_array_equal(pictures[masks == 1], plain[masks == 1])
    behind = masks == 0
    assert (pictures != plain).any(-1)[behind].mean() > 0.95
    # The background is the same in front of whatever task: nothing of the old one shines through.
    other, _ = play_episode(
        DISTRACT + "pendulum" if name != "pendulum" else DISTRACT + "rope", kind=kind
    )
    away = behind & (play_episode("pendulum" if name != "pendulum" else "rope")[1] == 0)
    np.testing.assert_allclose(pictures[away].astype(int), other[away], atol=1)


@pytest.mark.parametrize("name", ["pointmass", "dmc:walker_walk"])
def test_between_it_is_a_blend(name):
    plain, half, whole = (
        play_episode(DISTRACT + name, strength=s)[0].astype(float) for s in (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(half, (plain + whole) / 2, atol=1.1)


def test_the_ray_renderers_mask_is_its_segmentation():
    for task, repeat in (("walker_walk", 10), ("cheetah_run", 4)):
        env = envs.make(f"dmc:{task}", render="ray", repeat=repeat)
        env.reset(seed=0)
        for _ in range(3):
            env.step(env.action_space.sample())
            np.testing.assert_array_equal(env.unwrapped.mask() == 1, env.unwrapped.segment())


def test_a_thin_string_is_kept_in_part():
    _, masks = play_episode("dmc:ball_in_cup_catch")
    assert ((masks > 0.05) & (masks < 1)).any((1, 2)).all()


@pytest.mark.skipif(not render.probe_gl().backend, reason="no GL")
@pytest.mark.parametrize("renderer", ["gl", "fast"])
def test_gl_gives_a_mask_by_its_segmentation(renderer):
    plain, masks = play_episode("dmc:walker_walk", render=renderer)
    pictures, _ = play_episode("distract:dmc:walker_walk", render=renderer)
    np.testing.assert_array_equal(pictures[masks == 1], plain[masks == 1])
    assert 0.02 < (masks == 1).mean() < 0.3
    rays = play_episode("dmc:walker_walk")[1]
    assert ((masks == 1) & (rays == 1)).sum() > 0.9 * ((masks == 1) | (rays == 1)).sum()


def background(seed=0, size=(64, 64), kind="both"):
    return Background(np.random.default_rng(seed), Canvas(size, (0, 0, 0), (0, 0, 0)), kind)


def test_backgrounds_are_told_apart_by_seed_set_and_step_and_by_nothing_else():
    first, masks = play_episode("distract:pointmass", seed=5)
    for changes in ({"seed": 6}, {"seed": 5, "held_out": True}):
        other, others = play_episode("distract:pointmass", **{"seed": 5, **changes})
        behind = (masks == 0) & (others == 0)
        assert np.abs(first.astype(int) - other)[behind].mean() > 25
    assert len({picture[:3].tobytes() for picture in first}) == len(first), "it moves"
    elsewhere, others = play_episode("distract:pointmass", seed=5, push=-0.9)
    behind = (masks == 0) & (others == 0)
    assert not np.array_equal(masks, others)
    np.testing.assert_allclose(first[behind].astype(int), elsewhere[behind], atol=1)


def test_a_step_can_be_drawn_before_any_other():
    through = [background().draw(step).copy() for step in range(8)]
    np.testing.assert_array_equal(background().draw(7), through[7])


@pytest.mark.parametrize("kind", KINDS)
def test_it_moves_smoothly_and_never_stands_still(kind):
    pictures = np.stack([background(1, kind=kind).draw(step) for step in range(60)])
    gap = {far: np.abs(pictures[far:] - pictures[:-far]).mean((1, 2, 3)) for far in (1, 25)}
    assert (gap[1] > 0.2).all() and gap[1].mean() < 0.35 * gap[25].mean()
    assert gap[1].max() < 3 * np.median(gap[1]), "no jumps"


def slope(pictures):
    """The exponent by which power falls with frequency, fitted over rings of the spectrum."""
    side = pictures.shape[-1]
    power = np.square(np.abs(np.fft.fft2(pictures - pictures.mean((1, 2), keepdims=True)))).mean(0)
    ring = np.rint(np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)) * side).astype(
        int
    )
    rings = np.arange(2, side // 3)
    means = [power[ring == r].mean() for r in rings]
    return np.polyfit(np.log(rings), np.log(means), 1)[0]


def test_the_noise_has_the_spectrum_it_should_have():
    fields = make_fractal_noise(np.random.default_rng(0), (64, 64), 40)
    assert slope(fields) == pytest.approx(-2 * FALLOFF, abs=0.1)
    np.testing.assert_allclose(fields.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(fields.std((1, 2)), 1, atol=1e-5)
    drawn = np.concatenate(
        [background(s, kind="noise").draw(9).transpose(2, 0, 1) for s in range(12)]
    )
    # Interpolated, and cut at black and white
    assert slope(drawn) == pytest.approx(-2 * FALLOFF, abs=0.5)
    assert 100 < drawn.mean() < 136 and 35 < drawn.std() < 60
    red, green = drawn[0::3].reshape(12, -1), drawn[1::3].reshape(12, -1)
    assert (
        0.6 < np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(red, green, strict=True)]) < 0.95
    ), "coloured, softly"


@pytest.mark.parametrize("size", [(8, 8), (33, 20), (128, 96)])
def test_any_size(size):
    env = envs.make("distract:pendulum", size=size)
    env.reset(seed=0)
    assert all(env.step(env.action_space.sample())[0].shape == (*size, 3) for _ in range(40))


@pytest.mark.parametrize("obs", ["pixels", "both"])
def test_it_keeps_the_contract_of_environments(obs):
    env = envs.make("distract:pointmass", size=(24, 20), obs=obs, repeat=3, time_limit=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about wrappers and infinite bounds, which are meant
        check_env(env, skip_render_check=True, skip_close_check=True)
    env.reset(seed=1)
    frames, over = [], False
    while not over:
        seen, _, _, over, _ = env.step(np.ones(2, np.float32))
        frames.append(count_frames(env))
    assert frames == [3, 3, 1] and env.observation_space.contains(seen)
    follow = [env.reset()[0] for _ in range(2)]
    pictures = follow if obs == "pixels" else [each["image"] for each in follow]
    assert not np.array_equal(*pictures), "episodes without a seed differ"


def test_parallel_environments_and_simulating_again_show_the_same_pictures():
    make = partial(envs.make, "distract:pointmass", size=(16, 16), time_limit=12)
    steps = []
    for kind in (SerialEnv, lambda *args: make_vector(*args)):
        with kind(make, 2) as vector:
            rollout = Rollout(vector, ActionSpace(2), make_episode_seeds(3))
            rows = [rollout.step(lambda rows: np.full((2, 2), 0.3, np.float32)) for _ in range(20)]
            steps.append(np.stack([[row["image"] for row in each] for each in rows]))
            state = json.loads(json.dumps(rollout.state_dict()))
    np.testing.assert_array_equal(*steps)
    with SerialEnv(make, 2) as vector:
        again = Rollout(vector, ActionSpace(2), make_episode_seeds(3))
        again.load_state_dict(state)
        assert [e.number for e in again.episodes] == [e["number"] for e in state["episodes"]], (
            "none was given up"
        )
        np.testing.assert_array_equal(again.seen[1]["image"], steps[0][-1][1])


MASKED = """
    import gymnasium
    import numpy as np

    class Blind(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"]}
        observation_space = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
        action_space = gymnasium.spaces.Discrete(2)
        render_mode = "rgb_array"

        def reset(self, *, seed=None, options=None):
            return np.full((16, 16, 3), 9, np.uint8), {}

        def step(self, action):
            return np.full((16, 16, 3), 9, np.uint8), 0.0, False, False, {}

    class Seeing(Blind):
        def mask(self):
            mask = np.zeros((16, 16), bool)
            mask[:4] = True
            return mask
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_masks.py").write_text(textwrap.dedent(MASKED))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_an_environment_without_a_mask_is_refused_and_ones_own_mask_counts(own_module, tmp_path):
    with pytest.raises(
        ValueError, match="own_masks:Blind gives no mask.*mask\\(\\) -> \\(H, W\\)"
    ) as caught:
        envs.make("distract:own_masks:Blind", size=(16, 16))
    assert "\n" not in str(caught.value)
    picture = envs.make("distract:own_masks:Seeing", size=(16, 16)).reset(seed=0)[0]
    assert (picture[:4] == 9).all() and (picture[4:] != 9).mean() > 0.9
    with pytest.raises(
        EnvDataError, match="mask has shape \\(16, 16\\), its picture \\(24, 24\\)"
    ):
        envs.make("distract:own_masks:Seeing", size=(24, 24)).reset(seed=0)
    _, err = train(tmp_path, "--env.task", "distract:own_masks:Blind", expect=2)
    taken, refused = err.strip().splitlines()
    assert "observes image" in taken and "no mask" in refused


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["--distract.strength", "1.5"], "distract.strength: 1.5 is out of range"),
        (
            ["--distract.kind", "noize"],
            "distract.kind: 'noize' is not one of noise, blobs, both (did you mean noise?)",
        ),
        (["--distract.strenght", "1"], "did you mean distract.strength?"),
        (
            ["--env.task", "distract:pointmas"],
            "env.task: unknown environment 'pointmas', did you mean 'pointmass'?",
        ),
        (
            ["--env.task", "distract:pendulum", "--env.obs", "state"],
            "env.task: distract: changes pictures",
        ),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_the_key(args, wanted):
    with pytest.raises(loading.ConfigError) as caught:
        loading.parse(["debug", *args], envs.check_name)
    assert len(caught.value.problems) == 1 and wanted in caught.value.problems[0]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"strength": -0.1}, "strength must lie"),
        ({"kind": "snow"}, "kind must be"),
        ({"obs": "state"}, "obs=state"),
    ],
)
def test_wrong_arguments_are_refused(options, wanted):
    with pytest.raises(ValueError, match=wanted):
        envs.make("distract:pointmass", **options)


def test_the_experts_of_built_ins_are_those_of_their_distracted_forms():
    env = envs.make("distract:pointmass", time_limit=60)
    env.reset(seed=0)
    rewards = [env.step(envs.load_expert("distract:pointmass")(env))[1] for _ in range(60)]
    assert rewards[-1] > 0.99


def name_environments():
    """Print the options of every environment that is made from now on."""
    plain = registry.make

    def make(name, **options):
        held_out = options.get("held_out", False)
        print(name, held_out, options["strength"], options["kind"], flush=True)
        return plain(name, **options)

    registry.make = make


def test_the_whole_program_trains_on_some_backgrounds_and_plays_on_others(tmp_path):
    """Every environment that train.py and eval.py make, with whether its backgrounds are
    held out.
    """
    words = ("--run.frames", "40", "--env.time_limit", "15")
    words += ("--distract.strength", "0.75", "--distract.kind", "noise")
    said = go(tmp_path, "--env.task", "distract:pointmass", *words, before=name_environments)
    made = sorted(line for line in said.splitlines() if line.startswith("distract:pointmass"))
    assert made == ["distract:pointmass False 0.75 noise", "distract:pointmass True 0.75 noise"]
    evaluate(seed_dir(tmp_path, "distract_pointmass"), "--episodes", "1")
