"""The options of eval's commands: each has its own, and a mistake is one line."""

import pytest
from test_listings import make_run

from worldmodel.programs.eval_options import COMMANDS, OPTIONS, parse_eval_arguments


def fail(capsys, *words):
    """The exit code of a mistake, and its one line."""
    with pytest.raises(SystemExit) as mistake:
        parse_eval_arguments([*words])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(("wm eval: ", "./wm eval: ")), said
    return mistake.value.code, said


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_its_options_alone(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    for words in ([command], ["a/run", command]):
        with pytest.raises(SystemExit) as end:
            parse_eval_arguments([*words, "--help"])
        said = capsys.readouterr().out
        shown = {word for word in said.split() if word in OPTIONS}
        assert end.value.code == 0 and COMMANDS[command] in " ".join(said.split())
        assert shown == {name for name, (commands, _) in OPTIONS.items() if command in commands}


def test_help_without_a_command_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        parse_eval_arguments(["-h"])
    said = capsys.readouterr().out
    assert all(f"  {name:<9}{about}" in said for name, about in COMMANDS.items())


def test_commands_keep_their_defaults():
    args = parse_eval_arguments(["a/run", "--planner.horizon", "3", "--seed", "4"])
    assert (args.command, args.episodes, args.seed, args.source) == ("returns", 10, 4, "fresh")
    assert args.overrides == [("planner.horizon", "3")] and not args.trust and args.long is None
    args = parse_eval_arguments(["play", "a/run", "play", "--no-browser"][1:])
    assert (args.command, args.port, args.context, args.no_browser) == ("play", 0, 5, True)
    assert parse_eval_arguments(["--device", "cpu", "a/run", "imagine"]).device == "cpu"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["r", "play", "--length", "3"], "--length is no option of play"),
        (["r", "returns", "--port", "3"], "did you mean ./wm eval RUN play --port?"),
        (["r", "--epsiodes", "3"], "did you mean --episodes?"),
        (["r", "imagin"], "did you mean imagine?"),
        (["r", "q", "probe"], "probe takes one run"),
        (["imagine"], "name a run, as in ./wm eval RUN imagine;"),
        ([], "name a run, as in ./wm eval RUN;"),
        (["r", "--episodes", "ten"], "argument --episodes: 'ten' is not a whole number"),
        (["r", "\x1b[2J"], "no line breaks or control characters"),
        (["r", "--planner.horizon"], "--planner.horizon needs a value"),
    ],
)
def test_a_mistake_is_one_line(words, wanted, capsys):
    code, said = fail(capsys, *words)
    assert code == 2 and wanted in said and "\x1b" not in said


def test_latest_is_the_newest_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, said = fail(capsys, "latest")
    assert code == 4 and "no run in runs" in said
    make_run(tmp_path / "runs", seed=1, changed=1000.0)
    make_run(tmp_path / "runs", seed=2, changed=2000.0)
    make_run(tmp_path / "other", seed=3, changed=500.0)
    for words, seed in ((["latest", "imagine"], "2"), (["other/latest"], "3")):
        (found,) = parse_eval_arguments(words).runs
        assert str(found).endswith(f"counter/debug/seed{seed}")
    (tmp_path / "latest").mkdir()
    assert str(parse_eval_arguments(["latest"]).runs[0]) == "latest"
