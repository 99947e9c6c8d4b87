"""Ids of Gymnasium and of packages that register more; arguments of constructors."""

import sys
import textwrap

import gymnasium
import pytest
from worldmodel.envs import packages

import worldmodel
from worldmodel import envs
from worldmodel.command_line import main as program
from worldmodel.config import loading
from worldmodel.config.yaml_io import ConfigError
from worldmodel.errors import MissingPackageError

MODULE = """
    import gymnasium
    import numpy as np
    from gymnasium import spaces

    class Grid(gymnasium.Env):
        observation_space = spaces.Box(-1.0, 1.0, (2,))
        action_space = spaces.Discrete(2)

        def __init__(self, size=5, render_mode: str | None = None, speed: float = 1.0):
            assert speed > 0, "speed must be positive"
            self.size, self.render_mode, self.speed = size, render_mode, speed

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return np.zeros(2, np.float32), 0.0, False, False, {}

    class Counted(Grid):
        def __init__(self, size: int = None, render_mode: bool = False):
            super().__init__(size, render_mode)

    class Pair(Grid):
        def __init__(self, size: tuple[int, int] | None = None):
            super().__init__(size)

    class Needy(Grid):
        def __init__(self, size: int):
            super().__init__(size)

    gymnasium.register("own_games/Grid-v3", "own_games:Grid")
    gymnasium.register("OwnGrid-v3", "own_games:Grid")
"""


@pytest.fixture
def own_games(tmp_path, monkeypatch):
    (tmp_path / "own_games.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_games", None)
    for name in ("own_games/Grid-v3", "OwnGrid-v3"):
        gymnasium.registry.pop(name, None)


def make(name, **options):
    return envs.make(name, obs="state", **options).unwrapped


@pytest.mark.parametrize(
    "name",
    [
        "gym:own_games/Grid-v3",
        "gym:own_games:OwnGrid-v3",
        "gym:own_games:own_games/Grid-v3",
        "gym:own_games/Grid",
        "gym:own_games:OwnGrid",
    ],
)
def test_a_package_that_registers_on_import_is_found(own_games, name):
    envs.check_name(name)
    assert "own_games" not in sys.modules
    assert make(name, kwargs={"speed": 2.5}).speed == 2.5
    assert envs.names_code(name)


@pytest.mark.parametrize(
    "name, words",
    [
        ("gym:no_such_package/Game-v0", "no namespace 'no_such_package'"),
        ("gym:no_such_package:Game-v0", "no module 'no_such_package'"),
        ("gym:own games:Game-v0", "must be gym:ID"),
        ("gym:own_games:", "must be gym:ID"),
    ],
)
def test_an_id_of_no_package_is_one_line(own_games, name, words):
    with pytest.raises(envs.EnvSettingsError, match=words):
        envs.check_name(name)


def test_a_missing_package_is_one_line_with_the_command_and_ends_with_3(monkeypatch):
    monkeypatch.setattr(packages, "is_importable", lambda module: False)
    monkeypatch.setattr(gymnasium, "registry", {})
    for package in packages.PACKAGES:
        for prefix in package.prefixes:
            with pytest.raises(envs.EnvSettingsError) as problem:
                envs.check_name(f"gym:{prefix}Game-v1")
            assert problem.value.exit_code == 3 and "\n" not in str(problem.value)
            assert f"-m pip install {package.pip}" in str(problem.value)
            is_alone = "in an environment of its own" in str(problem.value)
            assert is_alone == bool(package.conflict)


@pytest.mark.parametrize(("command", "option"), [("train", "--task"), ("sweep", "--tasks")])
def test_the_programs_end_with_3_and_a_line_where_a_package_is_missing(
    command, option, monkeypatch, capsys
):
    monkeypatch.setattr(packages, "is_importable", lambda module: False)
    for words in (["minigrid"], ["debug", option, "gym:MiniGrid-Empty-5x5-v0"]):
        assert program.main([command, *words]) == 3
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "-m pip install minigrid" in said
    assert program.main([command, "minigrid", "--run.sed", "1"]) == 2  # settings come first
    with pytest.raises(MissingPackageError):
        worldmodel.train("minigrid")


def test_ids_of_packages_that_this_project_names_need_no_trust():
    for package in packages.PACKAGES:
        for prefix in package.prefixes:
            assert not envs.names_code(f"gym:{prefix}Game-v1")


@pytest.mark.parametrize(
    "kwargs, answer",
    [
        ({}, False),
        ({"size": 9, "deep": {"a": [1, 2.5, None, True]}}, False),
        ({"env_name": "reach-v3", "obs_type": "pixels_agent_pos"}, False),
        ({"xml_file": "/tmp/robot.xml"}, True),
        ({"entry": "module:Class"}, True),
        ({"entry": "os.path"}, True),
        ({"deep": [{"a": "../x"}]}, True),
        ({"host/name": 1}, True),
        ({"word": "x" * 65}, True),
    ],
)
def test_arguments_that_may_name_a_file_or_code_need_trust(kwargs, answer):
    assert envs.may_name_code(kwargs) is answer
    config = loading.parse(["debug", "--env.kwargs", loading.format_value(kwargs)])
    if answer:
        with pytest.raises(envs.EnvSettingsError, match="env.kwargs .* names code"):
            envs.make_factory(config.env, config.distract)
    envs.make_factory(config.env, config.distract, trust=True)


def test_a_users_class_gets_what_it_declares_with_a_matching_type(own_games):
    assert (make("own_games:Grid").size, make("own_games:Grid").render_mode) == (5, "rgb_array")
    assert (make("own_games:Counted").size, make("own_games:Counted").render_mode) == (None, False)
    assert make("own_games:Pair", size=(16, 24)).size == (16, 24)
    assert make("own_games:Grid", kwargs={"size": 7, "speed": 0.5}).size == 7
    assert make("own_games:Needy", kwargs={"size": 3}).size == 3


@pytest.mark.parametrize(
    "name, kwargs, words",
    [
        (
            "own_games:Grid",
            {"sped": 1},
            "unexpected keyword argument 'sped'; it takes size, render_mode, speed",
        ),
        (
            "own_games:Grid",
            {"speed": -1},
            "cannot be made with env.kwargs {'speed': -1}: speed must be positive",
        ),
        ("own_games:Needy", {}, "missing a required argument: 'size'"),
        ("gym:own_games/Grid-v3", {"sped": 1}, "unexpected keyword argument 'sped'"),
        ("gym:own_games/Grid-v3", {"speed": -1}, "speed must be positive"),
        (
            "gym:own_games/Grid-v3",
            {"max_episode_steps": 3},
            "env.kwargs.max_episode_steps cannot be set: env.time_limit has it",
        ),
        ("catcher", {"gravity": 1}, "env.kwargs: catcher takes no arguments (got 'gravity')"),
        ("dmc:cartpole_balance", {"gravity": 1}, "env.kwargs: only gym: ids"),
    ],
)
def test_wrong_arguments_are_one_line(own_games, name, kwargs, words):
    with pytest.raises(envs.EnvSettingsError) as problem:
        make(name, kwargs=kwargs)
    assert words in str(problem.value) and "\n" not in str(problem.value)


def test_arguments_are_read_from_the_command_line_and_from_a_table():
    config = loading.parse(["debug", "--env.kwargs.size", "9", "--env.kwargs.name", "reach-v3"])
    assert config.env.kwargs == {"size": 9, "name": "reach-v3"}
    config = loading.parse(["debug", "--env.kwargs", "{a: [1, 2.5], b: {c: null, d: true}}"])
    assert config.env.kwargs == {"a": [1, 2.5], "b": {"c": None, "d": True}}
    for value, words in (
        ("[1]", "expected a table"),
        ("{a: .nan}", "finite"),
        ("{1: 2}", "expected str"),
        ("{a: 2020-01-01}", "expected str"),
    ):
        with pytest.raises(ConfigError, match=words):
            loading.parse(["debug", "--env.kwargs", value])
