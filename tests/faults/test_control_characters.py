"""Control characters and odd names, from a command line, a saved run or an environment: what the
real programs print holds none of them.
"""

import shutil
from functools import partial
from pathlib import Path

import pytest

from children import SHORT, go, in_one
from runs import seed_dir
from worldmodel.errors import CONTROL, escape_control
from worldmodel.system.console import Progress
from worldmodel.system.process_start import prepare_process

ESCAPES = {
    "an escape sequence": "\x1b]0;title\x07\x1b[2J",
    "a carriage return": "\rdone",
    "a line break": "\nfinal score 999",
    "a line break of Unicode": "\u2028final score 999",
    "a C1 control": "\x9b2J",
    "a turned direction": "\u202egnp.exe",
    "no UTF-8": "\udcff",
    "a backspace": "\x08" * 9,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    go(root, *SHORT, "--log.final_episodes", "1")
    return root


def find_controls(said):
    return CONTROL.findall(said.replace("\n", ""))


def _commands(call, root):
    found = {}
    for what, text in ESCAPES.items():
        for place, words in {
            "preset": ("train", f"de{text}bug"),
            "key": ("train", "debug", f"--run.{text}", "1"),
            "last key": ("train", "debug", f"--{text}"),
            "name": ("train", "debug", "--run.root", root, "--run.name", f"x{text}"),
            "root": ("train", "debug", "--run.root", f"{root}/x{text}"),
            "task": ("train", "debug", "--run.root", root, "--env.task", f"x{text}:y"),
            "run": ("eval", f"{root}/x{text}"),
            "option": ("eval", root, f"--{text}"),
            "source": ("eval", root, "--from", f"x{text}"),
            "goal": ("eval", root, "--goal.image", f"x{text}"),
        }.items():
            if place not in ("name", "run") and what not in ("an escape sequence", "a line break"):
                continue
            found[f"{what}, {place}"] = call(*words)
    for name in ("..", ".", "/abs", "a/../b", "a/..", "../x", "", "a//b"):
        found[f"{name!r}, run.name"] = call(
            "train", "debug", "--run.root", root, "--run.name", f"'{name}'"
        )
    return [found, [str(p) for p in Path(root).iterdir()]]


@pytest.mark.fault(
    31,
    "control characters, line breaks, marks of direction and bytes that are no UTF-8 in presets, "
    "keys, names, tasks, paths and options on the command line; run.name .., absolute, with ..",
    "exit 2; nothing is made; no line holds a control character",
)
def test_a_command_line_with_control_characters_is_refused(tmp_path, record_property):
    (tmp_path / "root").mkdir()
    found, left = in_one(tmp_path, _commands, tmp_path / "root", before=prepare_process)
    assert left == []
    for what, (code, said) in found.items():
        assert code == 2 and find_controls(said) == [], (what, said)
        assert "\nfinal score 999" not in said, (what, said)
        # The others come after lines of usage.
        if not what.endswith((", option", ", run", ", source", ", goal")):
            assert len(said.strip().splitlines()) == 1, (what, said)
    record_property("times", len(found))


def _saved(call, made, root):
    found = {}
    shutil.copytree(made, root)
    run = seed_dir(root)
    config = (run / "config.yaml").read_text()
    for what, text in ESCAPES.items():
        if what != "no UTF-8":
            quoted = "".join(f"\\U{ord(x):08x}" for x in text)
            for place in ("name: debug", "task: counter"):
                key, value = place.split(": ")
                (run / "config.yaml").write_text(
                    config.replace(place, f'{key}: "{value}{quoted}"')
                )
                found[f"{what}, {place}"] = call("eval", run, "--episodes", "1")
            (run / "config.yaml").write_text(f'"{quoted}": 1\n"x{quoted}": {{}}\n{config}')
            found[f"{what}, key"] = call("eval", run, "--episodes", "1")
        (run / "config.yaml").write_text(config)
        pipe = run / "replay" / f"x{text}"
        pipe.symlink_to("nowhere")
        found[f"{what}, file"] = call("eval", run, "--episodes", "1")
        pipe.unlink()
        below = root / f"x{text}"
        below.mkdir()
        (below / "config.yaml").touch()
        found[f"{what}, folder"] = call("eval", root, "--episodes", "1")
        shutil.rmtree(below)
    return found


@pytest.mark.fault(
    31,
    "the same in the names, tasks and keys of a saved configuration, and in names of files and "
    "folders of a run",
    "exit 4 and one line without any control character",
)
def test_a_saved_run_with_control_characters_is_refused_in_one_line(
    made, tmp_path, record_property
):
    found = in_one(tmp_path, _saved, made, tmp_path / "root", before=prepare_process)
    for what, (code, said) in found.items():
        assert code == 4 and find_controls(said) == [], (what, said)
        assert len(said.strip().splitlines()) == 1 and "Traceback" not in said, (what, said)
    record_property("times", len(found))


def _raises(text):
    from worldmodel.envs.tasks.counter import Counter

    def reset(self, **options):
        raise ValueError(f"no level {text}")

    Counter.reset = reset


@pytest.mark.fault(
    31,
    "an environment that raises a message with escape sequences",
    "exit 3; what is printed holds no control character",
)
def test_an_exception_of_an_environment_moves_no_cursor(tmp_path):
    text = "".join(ESCAPES.values()).replace("\udcff", "")
    said = go(tmp_path, *SHORT, before=partial(_raises, text), expect=3, traceback=True)
    assert "no level" in said and "\\x1b]0;title\\x07" in said and find_controls(said) == []


def test_text_keeps_its_letters():
    for text in ("plain", "größe 名前 👍", "a\tb", "non-breaking\xa0space"):
        assert escape_control(text) == text
    assert escape_control("a\nb\x1b", kept="\n") == "a\nb\\x1b"


def test_a_progress_line_is_one_line(capsys):
    Progress(1, "a\nb\x1b[2J").update(1, "c\rd")
    line = capsys.readouterr().err
    assert "a\\nb\\x1b[2J" in line and line.endswith("c\\rd\n") and line.count("\n") == 1
