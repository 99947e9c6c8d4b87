"""Help screens: complete, and there before anything is installed."""

import subprocess
import sys

import pytest

import worldmodel
from runs import ROOT
from worldmodel.command_line import main as program
from worldmodel.command_line.train_help import explain_topic, list_keys, show_help
from worldmodel.config import loading, preset_files
from worldmodel.config.key_reference import LINE, SHORT_NAMES, has_words, read_sections

COMMANDS = [[], *([name] for name in program.COMMANDS)]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "wm")
def test_help_needs_nothing_but_the_standard_library(words, tmp_path):
    bare = [sys.executable, "-S", "-E", ROOT / "wm", *words, "--help"]
    done = subprocess.run(bare, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: ./wm {' '.join(words)}".strip())
    assert list(tmp_path.iterdir()) == [] and not (ROOT / ".venv" / "wm.busy").exists()


def test_every_key_is_explained_with_its_default():
    config = loading.parse([])
    assert read_sections().keys() == loading.to_plain(config).keys()
    for section in read_sections().values():
        assert section.meaning and not section.meaning.startswith("the section"), section.name
        assert section.keys.keys() == list_names(section.name).keys()
        for key in section.keys.values():
            name = f"{section.name}.{key.name}"
            assert has_words(key.meaning, key.choices), f"{name} has no meaning"
            assert len(key.meaning) > 5 and key.range, name
            changed = loading.apply_overrides(config, [(name, key.default)])
            assert changed == config, f"{name} {key.default} is not its default"
            found = explain_topic(name)
            assert f"--{name} {key.default}" in found
            assert all(choice in found for choice in key.choices), found
    assert {*list_keys()} == {f"{s}.{k}" for s in read_sections() for k in list_names(s)}


def list_names(section):
    return loading.to_plain(loading.parse([]))[section]


def test_a_keys_meaning_may_stand_above_it_or_above_several_sections():
    sections = read_sections()
    assert "Curious Replay" in sections["replay"].keys["sampler"].meaning
    assert "of other sequences" in sections["contrastive"].keys["negatives"].meaning
    assert sections["inverse"].keys["target"].meaning == "target of the forward model: grad | stop"


def test_ranges_of_components_are_said_in_words():
    planner = read_sections()["planner"].keys
    assert planner["candidates"].range == "whole number, 1 to 1,000,000,000"
    assert planner["temperature"].range == "number, above 0"
    assert read_sections()["run"].keys["max_minutes"].range == "number, above 0 or null"
    assert read_sections()["env"].keys["size"].range.startswith("a list of 2: whole number, 8 to")


def test_the_overview_names_every_preset_section_and_short_name(capsys):
    assert program.main(["train", "--help"]) == 0
    said = capsys.readouterr().out
    for name in [*preset_files.list_presets(), *read_sections(), *SHORT_NAMES]:
        assert f"  {name} " in said or f"--{name} VALUE" in said, name
    assert all(f"presets, {group}:" in said for group in ("tasks", "algorithms", "sizes"))


@pytest.mark.parametrize("name", preset_files.list_presets())
def test_each_preset_begins_with_one_line_about_it(name):
    line = preset_files.split_preset(preset_files.find_preset_files()[name])[0][0]
    assert 15 < len(line) < 90 and line.endswith(".")


def test_topics_are_sections_keys_and_presets(capsys):
    assert show_help(["planner", "run.seed", "--seed", "laptop"]) == 0
    said = capsys.readouterr().out
    assert "--planner.horizon 12" in said and said.count("--run.seed 0") == 2
    assert "An actor-critic for two cores" in said and "run: {name: laptop" in said
    assert show_help(["planer", "planner.horizn", "lapto", "\x1b"]) == 2
    lines = capsys.readouterr().err.splitlines()
    hints = ["planner", "planner.horizon", "laptop"]
    assert [line.partition("did you mean ")[2].rstrip("?)") for line in lines] == [*hints, ""]
    assert "'\\x1b'" in lines[3]


def test_short_names_are_keys():
    words = ["--task", "pendulum", "seed=3", "--frames", "5000", "--name", "mine"]
    config = loading.parse(words)
    assert (config.env.task, config.run.seed) == ("pendulum", 3)
    assert (config.run.frames, config.run.name) == (5000, "mine")
    with pytest.raises(loading.ConfigError, match=r"'sed' \(did you mean seed\?\)"):
        loading.parse(["--sed", "1"])
    with pytest.raises(loading.ConfigError, match="run.seed: expected int"):
        loading.parse(["--seed", "many"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["planner"], "planner is a section, no preset; train --help planner lists its keys"),
        (["--planner", "3"], "unknown key 'planner': write planner.KEY; train --help planner"),
        (["-x"], "unknown option '-x'; keys are written --section.key VALUE"),
        (["--helpp"], "--helpp needs a value (did you mean help?)"),
        (["--task"], "--task needs a value"),
        (["--seed", "-1"], "it must be between 0 and 2147483647"),
    ],
)
def test_a_mistake_says_what_to_write(words, line):
    with pytest.raises(loading.ConfigError) as mistake:
        loading.parse(words)
    (problem,) = mistake.value.problems
    assert line in problem


def test_a_line_of_many_spaces_is_read_at_once():
    assert LINE.match("a: " + "x  " * 20_000 + '"') is None


@pytest.mark.parametrize("words", [["evl"], ["docter"], ["\x1b[2J"]])
def test_an_unknown_command_is_one_line(words, capsys):
    assert program.main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "\x1b" not in said
    assert "did you mean" in said or "--help" in said


def test_words_that_a_command_does_not_take(capsys):
    for words in (["presets", "x"], ["doctor", "x"], ["tasks", "--everything"], ["completion"]):
        try:
            code = program.main(words)
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr().err
        assert code == 2 and said.count("\n") == 1 and words[0] in said


def test_the_version_is_told(capsys):
    assert program.main(["--version"]) == 0
    assert capsys.readouterr().out == f"worldmodel {worldmodel.__version__}\n"


def test_tests_that_are_not_installed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(program, "TESTS", tmp_path / "tests")
    assert program.main(["test"]) == 3
    assert "clone the repository" in capsys.readouterr().err


def test_a_missing_package_is_one_line(tmp_path):
    bare = [sys.executable, "-S", "-E", ROOT / "train.py", "debug", "--run.root", tmp_path]
    done = subprocess.run(bare, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "") and list(tmp_path.iterdir()) == []
    assert done.stderr.count("\n") == 1 and "the package ruamel is not installed" in done.stderr
