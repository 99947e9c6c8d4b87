"""What there is to train, and what has been trained: tables of tasks, presets and runs."""

import json
import os

import pytest
from worldmodel.envs import names, packages

from worldmodel.command_line import main as program
from worldmodel.config import preset_files
from worldmodel.errors import CONTROL, RunError
from worldmodel.programs import saved_runs
from worldmodel.programs.saved_runs import find_newest, format_age, list_runs
from worldmodel.run_directory import RunDir

CONFIG = "run:\n  name: {name}\n  seed: {seed}\nenv:\n  task: {task}\n"


def make_run(root, task="counter", name="debug", seed=0, changed=1000.0, state="done", score=7.25):
    """A run directory as a training leaves it, with what `wm runs` reads."""
    path = root / task / name / f"seed{seed}"
    (path / "checkpoints" / "120").mkdir(parents=True)
    (path / "checkpoints" / "120" / "model.safetensors").write_bytes(b"x" * 5000)
    (path / "config.yaml").write_text(CONFIG.format(task=task, name=name, seed=seed))
    (path / "status.json").write_text(json.dumps({"state": state, "frames": 120}))
    rows = [{"frames": 60, "eval/score": 1.0}, {"frames": 120, "eval/score": score}]
    (path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "lock").touch()
    for file in path.iterdir():
        os.utime(file, (changed, changed))
    return path


def show(capsys, *words):
    code = program.main([*map(str, words)])
    return code, capsys.readouterr()


def test_runs_are_a_table_the_newest_first(tmp_path, capsys):
    make_run(tmp_path, seed=1, changed=1000.0)
    newest = make_run(tmp_path, task="pendulum", changed=2000.0)
    make_run(tmp_path, name="other", changed=500.0, state="stopped")
    code, said = show(capsys, "runs", tmp_path)
    header, *rows = said.out.splitlines()
    assert code == 0 and header.split() == list(saved_runs.COLUMNS)
    assert [row.split()[:6] for row in rows] == [
        ["pendulum", "debug", "0", "120", "7.2", "done"],
        ["counter", "debug", "1", "120", "7.2", "done"],
        ["counter", "other", "0", "120", "7.2", "stopped"],
    ]
    assert find_newest(tmp_path) == newest
    assert all(row.endswith(tuple(f"seed{k}" for k in (0, 1))) for row in rows)
    assert saved_runs.format_runs(list_runs(tmp_path), 1000.0 + 7300).splitlines()[2].split()[
        6:9
    ] == ["2h", "0.0", "MB"]


def test_runs_as_json(tmp_path, capsys):
    path = make_run(tmp_path)
    (found,) = json.loads(show(capsys, "runs", tmp_path, "--json")[1].out)
    assert found.pop("bytes") > 5000
    assert found == {
        "run": str(path),
        "task": "counter",
        "name": "debug",
        "seed": 0,
        "frames": 120,
        "score": 7.25,
        "state": "done",
        "changed": 1000.0,
    }


def damage(path, name, content):
    (path / name).unlink()
    (path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "state"),
    [
        ("config.yaml", b"", "damaged"),
        ("config.yaml", b"\x00\xff\x1b" * 30_000, "damaged"),
        (
            "config.yaml",
            b"env:\n  task: \"a\x1b[2J\"\nrun:\n  seed: 1e9\n  name: '\xe2\x80\xae'\n",
            "",
        ),
        ("status.json", b"[1]", "damaged"),
        ("status.json", b'{"state": "\x1b[2J", "frames": -1}', "damaged"),
        ("status.json", b'{"state": "done", "frames": 1e400}', ""),
        ("scores.jsonl", b"[" * 100_000, ""),
        ("scores.jsonl", b'{"eval/score": NaN}\n{"eval/sc', ""),
    ],
)
def test_a_damaged_run_is_a_row_like_others(tmp_path, capsys, name, content, state):
    damage(make_run(tmp_path, seed=3), name, content)
    make_run(tmp_path, seed=4)
    code, said = show(capsys, "runs", tmp_path)
    rows = said.out.splitlines()[1:]
    assert code == 0 and said.err == "" and len(rows) == 2
    assert not CONTROL.search(said.out.replace("\n", ""))
    assert (state or "done") in next(row for row in rows if row.endswith("seed3"))


def test_links_and_pipes_are_not_followed(tmp_path, capsys):
    path = make_run(tmp_path)
    for name in ("config.yaml", "scores.jsonl"):
        (path / name).unlink()
        os.mkfifo(path / name)
    (path / "loop").symlink_to(tmp_path)
    code, said = show(capsys, "runs", tmp_path)
    assert code == 0 and "damaged" in said.out and len(said.out.splitlines()) == 2


def test_a_run_that_nobody_trains_is_unfinished(tmp_path):
    import fcntl

    path = make_run(tmp_path, state="running")
    assert [run.state for run in list_runs(tmp_path)] == ["unfinished"]
    with open(path / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [run.state for run in list_runs(tmp_path)] == ["running"]


def test_no_runs_are_one_line(tmp_path, capsys):
    for root, what in ((tmp_path, "no run in"), (tmp_path / "x", "no folder")):
        code, said = show(capsys, "runs", root)
        assert (code, said.out) == (4, "") and said.err.count("\n") == 1 and what in said.err


def test_the_nearest_runs_are_named_where_there_is_none(tmp_path):
    for seed in range(6):
        make_run(tmp_path, task="pendulum", seed=seed)
    wanted = make_run(tmp_path, name="planet")
    for mistake in (tmp_path / "conter" / "planet" / "seed0", tmp_path / "counter" / "planet"):
        with pytest.raises(RunError, match=f"is not a run directory.*; there is {wanted}"):
            RunDir(mistake).load_config()


def test_ages():
    found = [format_age(seconds) for seconds in (-5, 0, 59, 75, 7300, 90_000)]
    assert found == ["0s", "0s", "59s", "1m", "2h", "1d"]


def test_every_preset_is_listed(capsys):
    code, said = show(capsys, "presets")
    assert code == 0
    assert all(f"  {name} " in said.out for name in preset_files.list_presets())


def test_every_task_is_listed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, said = show(capsys, "tasks")
    rows = [line.split() for line in said.out.splitlines()]
    assert code == 0
    for name in names.NAMES:
        assert any(row[:1] == [name] and len(row) > 4 for row in rows), name
    for domain, tasks in names.DOMAINS.items():
        assert [domain, *tasks.split()] in rows
    assert "CartPole-v1" in said.out and "CartPole-v0" not in said.out
    for package in packages.PACKAGES:
        assert any(row[:1] == [package.module] for row in rows)
        missing = f"pip install {package.pip}" in " ".join(said.out.split())
        assert missing != packages.is_importable(package.module)
    assert "CartPole-v0" in show(capsys, "tasks", "--all")[1].out
    with pytest.raises(SystemExit):
        show(capsys, "tasks", "--al")
    assert "unknown option --al (did you mean --all?)" in capsys.readouterr().err
