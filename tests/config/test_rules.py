"""Values that rules choose where a configuration says `auto`."""

import pytest

import envs
from worldmodel.command_line.train import add_default_preset, main
from worldmodel.config import loading
from worldmodel.config.rules import (
    RULES,
    UnknownTask,
    choose_discount,
    choose_patch,
    choose_repeat,
)
from worldmodel.config.schema import contradictions


def parse(*words):
    choices = []
    config = loading.parse(list(words), envs.check_name, envs.describe_task, choices.append)
    return config, {choice.key: choice for choice in choices}


@pytest.mark.parametrize(
    ("task", "repeat", "updates"),
    [
        ("dmc:cartpole_swingup", 5, 0.5),  # control steps of 0.01 s
        ("dmc:walker_walk", 2, 0.25),  # 0.025 s
        ("dmc:reacher_easy", 2, 0.25),  # 0.02 s
        ("pendulum", 1, 0.2),  # 15 pictures a second
        ("catcher", 1, 0.2),  # choices
    ],
)
def test_the_generalist_asks_the_task_for_its_time_step(task, repeat, updates):
    config, choices = parse("generalist", "--env.task", task)
    assert (config.env.repeat, config.train.updates_per_step) == (repeat, updates)
    assert list(choices) == list(RULES)
    assert all(choice.why for choice in choices.values())


def test_a_value_that_is_given_needs_no_rule():
    config, choices = parse("generalist", "--env.repeat", "3", "--env.task", "pendulum")
    assert config.env.repeat == 3 and "env.repeat" not in choices
    assert config.train.updates_per_step == 0.375  # a rule reads what was given


def test_any_preset_may_leave_a_key_to_its_rule():
    config, choices = parse("debug", "--env.repeat", "auto", "--env.task", "catcher")
    assert config.env.repeat == 1 and list(choices) == ["env.repeat"]


def test_a_task_is_not_made_where_no_rule_asks():
    def refuse(env):
        raise AssertionError("the task was made")

    assert loading.parse(["debug"], envs.check_name, refuse).env.repeat == 1


def test_auto_is_no_value_of_a_key_without_a_rule():
    with pytest.raises(loading.ConfigError, match="train.prefill: expected int, got str 'auto'"):
        parse("generalist", "--env.task", "catcher", "--train.prefill", "auto")


@pytest.mark.parametrize("step", [None, 0.001, 0.01, 0.02, 0.025, 0.04, 0.2, 3.0])
def test_an_action_lasts_no_longer_than_its_time_unless_a_control_step_does(step):
    repeat = choose_repeat({}, UnknownTask(control_step=step)).value
    assert repeat >= 1
    assert step is None or repeat == 1 or 0.025 < repeat * step <= 0.0501


@pytest.mark.parametrize(
    ("frames", "repeat", "discount"),
    [(1000, 2, 0.99), (1000, 5, 0.975), (100, 1, 0.95), (20, 1, 0.95), (None, 1, 0.995)],
)
def test_the_discount_looks_a_fifth_of_an_episode_ahead(frames, repeat, discount):
    facts = UnknownTask(episode_frames=frames)
    assert choose_discount({"env": {"repeat": repeat}}, facts).value == discount


def test_gradients_pass_through_the_model_unless_actions_are_choices():
    assert parse("generalist", "--task", "catcher")[0].actor.gradient == "reinforce"
    assert parse("generalist", "--task", "pendulum")[0].actor.gradient == "dynamics"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env.size", "64"], "env.size: expected 2 values"),
        (["--env.size", "null"], "env.size: expected 2 values"),
        (["--env.repeat", "0"], "env.repeat: 0 is out of range"),
        (["--env.repeat", "foo"], "env.repeat: expected int"),
        (["--env.repeat", "null"], "env.repeat: expected int"),
        (["--model.cnn", "3"], "model.cnn: expected a list of values"),
        (["--model.cnn", "[]"], "model.cnn: expected a list of values"),
    ],
)
def test_rules_read_no_values_that_are_wrong(words, message):
    with pytest.raises(loading.ConfigError) as error:
        parse("generalist", "--task", "catcher", *words)
    (problem,) = error.value.problems
    assert problem.startswith(message)


@pytest.mark.parametrize("size", ["[48, 64]", "[64, 96]", "[96, 128]"])
@pytest.mark.parametrize("cnn", ["[8, 8]", "[8, 8, 8]"])
def test_oblong_pictures_fit_the_encoder_too(size, cnn):
    parse("generalist", "--task", "catcher", "--env.size", size, "--model.cnn", cnn)


def test_images_of_other_sizes_count():
    values = {"env": {"size": [64, 64], "sizes": {"hand": [32, 48]}}, "model": {"cnn": [8, 8]}}
    assert choose_patch(values, UnknownTask()).value == 2
    values["env"]["sizes"] = {"hand": [128, 128]}
    assert choose_patch(values, UnknownTask()).value == 4


@pytest.mark.parametrize("side", [16, 32, 48, 64, 84, 96, 100, 128, 224, 256])
def test_pictures_of_any_side_that_can_be_halved_twice_fit_the_encoder(side):
    values = {"env": {"size": [side, side], "sizes": {}}, "model": {"cnn": [32, 32, 64]}}
    patch = choose_patch(values, UnknownTask()).value
    words = ["generalist", "--env.task", "catcher", "--env.size", f"[{side}, {side}]"]
    config = loading.parse([*words, "--model.patch", str(patch)])
    assert not contradictions(config)
    assert side // patch >= 16 or patch == 2


def test_a_task_without_a_preset_trains_the_generalist():
    assert add_default_preset(["--env.task", "catcher"])[0] == "generalist"
    assert add_default_preset(["--task", "catcher"])[0] == "generalist"
    assert add_default_preset([])[0] == "quickstart"
    assert add_default_preset(["laptop", "--task", "catcher"])[0] == "laptop"


def test_a_dry_run_says_what_rules_choose_or_that_none_does(capsys):
    assert main(["debug", "--dry-run"]) == 0
    assert "no rule chooses" in capsys.readouterr().out
    assert main(["--task", "catcher", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "rule: env.repeat" in said and "no rule chooses" not in said
