"""What becomes a picture and what a vector, by name; what is left out; what is refused."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from worldmodel.envs import EnvError, EnvSettingsError
from worldmodel.envs.gymnasium_adapter import adapt
from worldmodel.envs.observations import classify, list_entries

NUMBERS = spaces.Box(-1.0, 1.0, (3,), np.float64)


def picture(*shape, high=255, dtype=np.uint8):
    return spaces.Box(0, high, shape, dtype)


class Showing(gymnasium.Env):
    """Observes samples of a space; draws grey pictures."""

    action_space = spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space
        self.last = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.last = self.observation_space.sample()
        return self.last, {}

    def step(self, action):
        self.last = self.observation_space.sample()
        return self.last, 0.0, False, False, {}

    def render(self):
        return np.full((20, 30, 3), 77, np.uint8)


def see(space, obs="pixels", **options):
    """The adapted environment, its first observation, and what the inner one observed."""
    options = {"size": (16, 16), "repeat": 1, "time_limit": None, **options}
    env = adapt(Showing(space), "it", obs=obs, **options)
    seen = env.reset(seed=1)[0]
    parts = env.observation_space.spaces if isinstance(seen, dict) else {"": env.observation_space}
    for name, part in parts.items():
        value = seen[name] if name else seen
        assert value.shape == part.shape and value.dtype == part.dtype
    return env, seen, env.unwrapped.last


@pytest.mark.parametrize(
    "space, kind",
    [
        (picture(64, 48, 3), "picture"),
        (picture(3, 64, 48), "picture"),
        (picture(84, 84), "picture"),
        (picture(9, 5, 1), "picture"),
        (picture(7, 7, 3), "vector"),  # MiniGrid's symbols
        (picture(128), "vector"),  # Atari's RAM
        (picture(64, 48, 9), ""),
        (picture(64, 48, 3, high=1, dtype=np.float32), "picture"),
        (picture(3, 64, 48, high=1, dtype=np.float64), "picture"),
        (picture(64, 48, 1, high=np.inf, dtype=np.float32), ""),  # depth
        (picture(10, 4, high=1, dtype=np.float32), "vector"),
        (NUMBERS, "vector"),
        (spaces.Discrete(4), "vector"),
        (spaces.MultiDiscrete([2, 3]), "vector"),
        (spaces.MultiBinary(5), "vector"),
        (spaces.Text(9), ""),
        (spaces.Sequence(NUMBERS), ""),
        (spaces.Graph(NUMBERS, None), ""),
    ],
)
def test_what_an_entry_is(space, kind):
    found, why = classify(space)
    assert found == kind and bool(why) == (not kind)


def test_a_robots_picture_is_a_picture_whatever_its_name():
    space = spaces.Dict({"observation.images.top": picture(20, 30, 3), "agent_pos": NUMBERS})
    env, seen, _ = see(space, "both")
    assert {k: v.shape for k, v in seen.items()} == {
        "observation_images_top": (16, 16, 3),
        "agent_pos": (3,),
    }
    assert env.describe() == "observation_images_top 16x16x3 (of 20x30x3), agent_pos 3"
    _, seen, _ = see(space, "pixels", sizes={"observation_images_top": (8, 8)})
    assert seen["observation_images_top"].shape == (8, 8, 3)
    assert see(space, "state")[1].keys() == {"agent_pos"}


def test_small_symbols_are_no_picture_and_text_is_left_out():
    space = spaces.Dict(
        {"image": picture(7, 7, 3), "direction": spaces.Discrete(4), "mission": spaces.Text(9)}
    )
    env, seen, inner = see(space, "both")
    assert (seen["image"] == 77).all() and seen["vector"].shape == (151,)
    assert seen["vector"][:4].argmax() == inner["direction"]
    assert (
        "image 16x16x3 (rendered)" in env.describe()
        and "leaves out mission (text)" in env.describe()
    )
    with pytest.raises(EnvSettingsError, match="'image' of it is no picture|image"):
        see(spaces.Dict({"image": spaces.Text(5)}), image_keys=["image"])


def test_nested_entries_are_called_by_their_path():
    space = spaces.Dict(
        {
            "arm": spaces.Dict({"camera": picture(16, 16, 3), "joints": NUMBERS}),
            "pair": spaces.Tuple((spaces.Discrete(3), NUMBERS)),
        }
    )
    assert [entry.label for entry in list_entries(space)] == [
        "arm.camera",
        "arm.joints",
        "pair.0",
        "pair.1",
    ]
    _, seen, inner = see(space, "both")
    assert {k: v.shape for k, v in seen.items()} == {
        "arm_camera": (16, 16, 3),
        "arm_joints": (3,),
        "pair_0": (3,),
        "pair_1": (3,),
    }
    assert (seen["arm_camera"] == inner["arm"]["camera"]).all()
    assert seen["pair_0"].argmax() == inner["pair"][0]


def test_channels_first_and_fractions_become_bytes_with_channels_last():
    first = picture(3, 16, 16, high=1, dtype=np.float32)
    _, seen, inner = see(first)
    assert (seen == np.rint(inner.transpose(1, 2, 0) * 255)).all() and seen.dtype == np.uint8
    _, seen, inner = see(picture(4, 16, 16))  # a stack of four grey frames
    assert (seen == inner.transpose(1, 2, 0)).all()


def test_keys_choose():
    space = spaces.Dict(
        {
            "a": picture(16, 16, 3),
            "b": picture(16, 16, 3),
            "x": NUMBERS,
            "grid": picture(10, 10, 3),
        }
    )
    _, seen, _ = see(space, "both", image_keys=["a"], vector_keys=["x", "grid"])
    assert {k: v.shape for k, v in seen.items()} == {"a": (16, 16, 3), "x": (3,), "grid": (300,)}
    space = spaces.Dict(
        {"top": picture(16, 16, 3), "a": spaces.Dict({"b": NUMBERS}), "a_b": NUMBERS}
    )
    for key in ("a.b", "a_b"):
        seen = see(space, "both", vector_keys=[key])[0].choice.vectors
        assert [entry.label for entry in seen] == [key]
    _, seen, _ = see(spaces.Dict({"tiny": picture(6, 6, 3), "x": NUMBERS}), image_keys=["tiny"])
    assert seen["tiny"].shape == (16, 16, 3)


@pytest.mark.parametrize(
    "space, options, words",
    [
        (
            spaces.Dict({"top": picture(64, 64, 3)}),
            {"image_keys": ["pot"]},
            "observes no 'pot', only top",
        ),
        (
            spaces.Dict({"top": picture(64, 64, 3), "x": NUMBERS}),
            {"vector_keys": ["top"]},
            "'top' of it is a picture of 64x64x3, and a picture is never flattened",
        ),
        (
            spaces.Dict({"x": NUMBERS}),
            {"image_keys": ["x"]},
            "is no picture of uint8 or of values in 0 to 1",
        ),
        (
            spaces.Dict({"word": spaces.Text(4), "x": NUMBERS}),
            {"vector_keys": ["word"]},
            "no vector: text",
        ),
        (spaces.Text(4), {"obs": "state"}, "cannot be flattened"),
        (picture(64, 64, 9), {"obs": "state"}, "cannot be flattened"),
        (picture(64, 64, 3), {"obs": "both"}, "has no vector: use obs=pixels"),
        (NUMBERS, {"sizes": {"top": (8, 8)}}, "has no picture 'top'"),
        (
            spaces.Dict({"a": spaces.Dict({"b": NUMBERS}), "a_b": NUMBERS}),
            {"obs": "both"},
            "observes 'a.b' and 'a_b', and the model calls both 'a_b'",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(space, options, words):
    with pytest.raises(EnvSettingsError) as problem:
        see(space, **options)
    assert words in str(problem.value) and "\n" not in str(problem.value)


def test_fractions_that_are_none_are_refused():
    env, _, _ = see(picture(16, 16, 3, high=1, dtype=np.float32))
    env.unwrapped.observation_space.sample = lambda: np.full((16, 16, 3), np.nan, np.float32)
    with pytest.raises(EnvError, match="not finite"):
        env.step(0)


@pytest.mark.parametrize(
    "actions",
    [spaces.Dict({"move": spaces.Discrete(2)}), spaces.Tuple((NUMBERS,)), spaces.Text(3)],
)
def test_actions_of_other_kinds_are_refused_in_one_line(actions):
    env = Showing(NUMBERS)
    env.action_space = actions
    with pytest.raises(EnvSettingsError, match="actions must be Box, Discrete"):
        adapt(env, "it", size=(16, 16), repeat=1, time_limit=None, obs="state")
