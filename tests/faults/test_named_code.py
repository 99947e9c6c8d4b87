"""Saved runs whose configuration names code, opened by the real programs: nothing is imported that
the user neither trained with nor names.
"""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from PIL import Image

from children import go, in_one
from runs import seed_dir
from worldmodel import envs
from worldmodel.errors import UsageError
from worldmodel.evaluation.report.html import PictureEmbedder
from worldmodel.policy.goal_files import read_picture
from worldmodel.programs.eval_options import list_options

SHORT = (
    *("--run.frames", "36", "--env.time_limit", "9", "--train.pretrain", "1"),
    *("--log.every", "1000", "--log.checkpoint", "1000"),
    *("--log.eval", "0", "--log.final_episodes", "1", "--replay.capacity_gb", "1e-3"),
)
FEW = {"--episodes": "1", "--envs": "1", "--length": "4", "--long": "6", "--samples": "2"}
EVIL = """from pathlib import Path
Path({marker!r}).touch()
import gymnasium
class Env(gymnasium.Env): pass
gymnasium.register("ns/Id-v0", Env)
gymnasium.register("Id-v0", Env)
"""
OWN = """from pathlib import Path
import gymnasium
from worldmodel.envs.tasks.counter import Counter
class Own(Counter): pass
class Other(Counter): pass
class NoEnv:
    def __init__(self): Path({marker!r}).touch()
class Words(dict): pass
def make_nothing(**options): return [1]
gymnasium.register("ns/NoEnv-v0", Words)
gymnasium.register("ns/Nothing-v0", "own:make_nothing")
"""
# What eval.py starts, in the order that a script's own path has.
IN_A_RUN = """
import sys
sys.path[0] = sys.argv[1]
import functools
from worldmodel import envs
from worldmodel.envs.dmc import render
from worldmodel.envs.registry import _leave_directory
from worldmodel.evaluation.plotting.style import load_pyplot
counter = functools.partial(envs.make, "counter")
with envs.make_vector(counter, 2, timeout_s=60, restart_budget=0) as made:
    print(made.num_envs)
render._try_backend("egl")
with _leave_directory():
    import glfw
print(load_pyplot().rcParams["lines.linewidth"] == 77)
"""
CRAFTED = (
    "torch.distributed.run:main",
    "pytest:main",
    "http.server:test",
    "evil:Env",
    "evil:missing",
    "evil_parent.child:Env",
    "evil_parent:child.Env",
    "gym:evil:Id-v0",
    "gym:evil:ns/Id-v0",
    "distract:evil:Env",
    "distract:distract:evil:Env",
    "distract:gym:evil:ns/Id-v0",
    "__main__:main",
    "eval:main",
    "os:abort",
    "evil",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    go(root, *SHORT)
    return root


@pytest.fixture
def folder(made, tmp_path):
    """A run of a built-in task in `root`, modules that leave a mark when they are imported, and one of the user's own."""
    shutil.copytree(made, tmp_path / "root")
    place = tmp_path / "modules"
    (place / "evil_parent").mkdir(parents=True)
    evil = EVIL.format(marker=str(tmp_path / "touched"))
    (place / "evil.py").write_text(evil)
    (place / "evil_parent" / "__init__.py").write_text(evil)
    (place / "evil_parent" / "child.py").write_text("import gymnasium\nEnv = gymnasium.Env\n")
    (place / "own.py").write_text(OWN.format(marker=str(tmp_path / "touched")))
    return tmp_path


def name_task(run, task, before):
    """Write another task into a saved configuration."""
    text = (run / "config.yaml").read_text()
    assert f"task: {before}\n" in text
    (run / "config.yaml").write_text(text.replace(f"task: {before}\n", f"task: {task}\n"))


def make_words(command="returns", *more):
    """The words of one of eval's commands, with as little of everything as it takes."""
    few = [word for name in list_options(command) if name in FEW for word in (name, FEW[name])]
    return [command, *few, *more]


def refused(found, task="", code=3):
    """Say whether a program ended with this code and one line, which says what to do."""
    last = found[1].strip().splitlines()[-1]
    return (
        found[0] == code
        and "Traceback" not in found[1]
        and f"{task}' names code, which is imported with --trust only" in last
    )


@pytest.mark.fault(
    27,
    "a saved run's env.task names a program of a library, a module on PYTHONPATH, a package with "
    "a module in it, or an id that a module registers, also behind distract:",
    "nothing is imported or called; returns, compare and probe exit 3 with one line; imagine, "
    "model and play use the replay, report and the Python API need no code; a resume exits 2",
)
def test_code_that_a_crafted_run_names_is_not_imported(folder, record_property):
    found = in_one(folder, open_crafted, str(folder))
    for task, answer in found["returns"].items():
        assert refused(answer, task), (task, answer)
    for words, answer in found["need it"].items():
        assert refused(answer, "evil:Env"), (words, answer)
    for words, (code, said) in found["do without"].items():
        lines = [line for line in said.splitlines() if "names code" in line]
        assert code == 0 and "Traceback" not in said, (words, said)
        assert len(lines) == (words != "report"), (words, said)
        assert all("using the run's replay" in x or "no simulator" in x for x in lines), lines
    for words, answer in found["plans in the simulator"].items():
        assert refused(answer, "evil:Env"), (words, answer)
    code, said = found["resume"]
    assert code == 2 and "env.task evil:Env -> counter" in said and "Traceback" not in said
    assert "trust=True" in found["api"]
    assert found["imported"] == [] and not (folder / "touched").exists()
    record_property("times", len(CRAFTED) + len(found["need it"]) + len(found["do without"]) + 2)


def open_crafted(call, folder):
    """Open a run with every command, and with each of the tasks."""
    import http.server

    import pytest as library

    from worldmodel import DreamEnv, envs
    from worldmodel.evaluation.play.job_queue import JobQueue
    from worldmodel.saved_run import Run

    root, marker = Path(folder, "root"), Path(folder, "touched")
    sys.path.insert(0, str(Path(folder, "modules")))
    run, task, found = seed_dir(root), "counter", {"returns": {}}
    library.main = http.server.test = os.abort = lambda *_: marker.touch()
    JobQueue.process = lambda self, over: None  # the page is served, and nobody asks for it
    for other in CRAFTED:
        name_task(run, other, task)
        task = other
        found["returns"][task] = call("eval", run, *make_words())
    name_task(run, "evil:Env", task)
    for kind, words in (
        ("need it", ("compare", "probe --episodes 3")),
        ("do without", ("imagine", "model", "play --no-browser", "report")),
    ):
        found[kind] = {w: call("eval", run, *make_words(*w.split())) for w in words}
    found["resume"] = call("train", "debug", "--run.root", root, *SHORT)
    opened = Run.open(run)
    dream = DreamEnv(opened)
    dream.reset(seed=1)
    dream.step(dream.action_space.sample())
    try:
        envs.make_factory(opened.config.env, opened.config.distract)
    except envs.EnvError as error:
        found["api"] = str(error)
    text = (run / "config.yaml").read_text()
    assert "  dynamics: rssm\n" in text
    (run / "config.yaml").write_text(text.replace("dynamics: rssm\n", "dynamics: simulator\n"))
    found["plans in the simulator"] = {
        words: call("eval", run, *make_words(*words.split())) for words in ("returns", "model")
    }
    evil = ("evil", "evil_parent", "evil_parent.child", "torch.distributed.run")
    found["imported"] = [name for name in evil if name in sys.modules]
    return found


@pytest.mark.fault(
    27,
    "a run with the user's own environment: moved, copied from a user with another key, its "
    "configuration changed, its signature or the key damaged, the key open to others, the state "
    "folder unwritable, no HOME",
    "the user's own run is evaluated, also after a move; every other exits 3 with one line, "
    "unless --trust or --env.task names its code",
)
def test_only_a_run_trained_here_imports_its_code(folder, record_property):
    found = in_one(folder, open_own, str(folder))
    assert found.pop("modes") == [0o700, 0o600]
    for what, (code, said) in found.pop("trained").items():
        warned = [line for line in said.splitlines() if "cannot be signed" in line]
        assert code == 0 and "Traceback" not in said, (what, said)
        assert len(warned) == (what != "with a key"), (what, said)
    works, changed = ("moved", "trusted", "named"), found.pop("another task named")
    for what, answer in found.items():
        if what in works:
            assert answer[0] == 0 and "return " in answer[1], (what, answer)
            assert ("--trust: the environment is made by the code 'own:Own'" in answer[1]) == (
                what == "trusted"
            )
        else:
            assert refused(answer), (what, answer)
    assert "others may open it" in found["key open to others"][1]
    assert "others may open it" in found["state folder open to others"][1]
    assert "it is damaged" in found["key damaged"][1]
    assert changed[0] == 0 and "36 frames of own:Own" in changed[1], changed
    record_property("times", len(found) + 3)


def open_own(call, folder):
    """Train with an environment of one's own; move, copy and change the run."""
    sys.path.insert(0, str(Path(folder, "modules")))
    found, state = {"trained": {}}, Path(folder, "state")
    os.environ["XDG_STATE_HOME"] = str(state)
    root = Path(folder, "root")
    run = seed_dir(root, "own_Own")

    def train():
        return call("train", "debug", "--env.task", "own:Own", "--run.root", root, *SHORT)

    def evaluate(*args):
        return call("eval", run, *make_words("returns", *args))

    # Without a home the run is not signed; the same command signs it once there is one.
    by_number, home = pwd.getpwuid, os.environ.pop("HOME", None)
    del os.environ["XDG_STATE_HOME"]
    pwd.getpwuid = lambda number: {}[number]
    found["trained"]["no HOME"] = train()
    found["no HOME"] = evaluate()
    pwd.getpwuid = by_number
    os.environ.update({} if home is None else {"HOME": home})
    os.environ["XDG_STATE_HOME"] = str(run / "config.yaml")
    found["trained"]["unwritable"] = train()
    found["unwritable"] = evaluate()
    os.environ["XDG_STATE_HOME"] = str(state)
    found["no key yet"] = evaluate()
    found["trained"]["with a key"] = train()
    key, signature = state / "worldmodel" / "key", "code.signature"
    found["modes"] = [stat.S_IMODE(path.stat().st_mode) for path in (key.parent, key)]

    run = run.rename(Path(folder, "moved"))
    for what, path, mode in (
        ("key open to others", key, 0o640),
        ("state folder open to others", key.parent, 0o755),
    ):
        kept = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        found[what] = evaluate()
        path.chmod(kept)
    for what, path, data in (
        ("key damaged", key, b"short"),
        ("key of another user", key, bytes(32)),
        ("signature damaged", run / signature, b"\xff" * 64),
        ("signature empty", run / signature, b""),
        ("signature huge", run / signature, b"0" * 10_000),
    ):
        kept = path.read_bytes()
        path.write_bytes(data)
        found[what] = evaluate()
        path.write_bytes(kept)
    text = (run / "config.yaml").read_text()
    for what, old, new in (
        ("another class", "task: own:Own", "task: own:Other"),
        ("another size", "- 32\n  - 32\n", "- 16\n  - 16\n"),
    ):
        assert old in text
        (run / "config.yaml").write_text(text.replace(old, new, 1))
        found[what] = evaluate()
    (run / "config.yaml").write_text(text)
    found["moved"] = evaluate()

    (run / signature).unlink()
    found["no signature"] = evaluate()
    shutil.rmtree(state)
    found["trusted"] = evaluate("--trust")
    found["named"] = evaluate("--env.task", "own:Own")
    found["another task named"] = evaluate("--env.task", "counter", "--fit-episodes", "1")
    return found


@pytest.mark.fault(
    27,
    "trusted code that is no environment: a class, a function that returns a list, and Gymnasium "
    "ids of both",
    "train.py exits 2 or 3 and eval.py 3, with one line; the class is never instantiated",
)
def test_trusted_code_must_be_an_environment(folder, record_property):
    found = in_one(folder, open_no_environment, str(folder))
    for words, (code, said) in found.items():
        name, task = words.split()
        lines = [line for line in said.splitlines() if "gymnasium.Env" in line]
        assert code in (2, 3) and len(lines) == 1 and "Traceback" not in said, (words, said)
    assert not (folder / "touched").exists()
    record_property("times", len(found))


def open_no_environment(call, folder):
    sys.path.insert(0, str(Path(folder, "modules")))
    root, task, found = Path(folder, "root"), "counter", {}
    for other in ("own:NoEnv", "own:make_nothing", "gym:own:ns/NoEnv-v0", "gym:own:ns/Nothing-v0"):
        name_task(seed_dir(root), other, task)
        task = other
        found[f"eval {task}"] = call("eval", seed_dir(root), *make_words("returns", "--trust"))
        found[f"train {task}"] = call(
            "train", "debug", "--env.task", task, "--run.root", Path(folder, "new"), *SHORT
        )
    return found


@pytest.mark.fault(
    27,
    "the id of an installed plugin of Gymnasium without its version, which Gymnasium completes",
    "it needs trust, as with its version",
)
def test_an_id_without_its_version_needs_the_same_trust(monkeypatch, record_property):
    monkeypatch.setitem(gymnasium.registry, "plug/Env-v0", EnvSpec("plug/Env-v0", "plugin:Env"))
    names = ("gym:plug/Env-v0", "gym:plug/Env", "distract:gym:plug/Env", "gym:other/Env-v0")
    assert all(envs.names_code(name) for name in names)
    assert not any(map(envs.names_code, ("gym:CartPole-v1", "gym:ALE/Pong-v5", "gym:ALE/Pong")))
    record_property("times", len(names))


@pytest.mark.fault(
    27,
    "a run's goal is an EPS picture of the right size, which Pillow has Ghostscript draw",
    "Ghostscript is not started; one line says that the goal cannot be read",
)
def test_no_other_program_draws_a_goal(tmp_path, monkeypatch, record_property):
    touch = f"#!/bin/sh\ntouch {tmp_path / 'touched'}\n"
    (tmp_path / "gs").write_text(touch)
    (tmp_path / "gs").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    goal = tmp_path / "goal.png"
    goal.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n")
    with pytest.raises(UsageError, match="cannot be read as a picture"):
        read_picture(goal, (32, 32, 3))
    Image.open(goal)  # Pillow by itself takes it
    assert "no picture" in PictureEmbedder().embed(goal, "a goal")
    assert not (tmp_path / "touched").exists()
    record_property("times", 2)


@pytest.mark.fault(
    27,
    "the working directory is a run that holds modules named like those of Python and of the "
    "packages, and a matplotlibrc; worker processes, the probe for GL, GLFW and plots start there",
    "none of it is imported or read",
)
def test_what_lies_in_the_working_directory_is_not_imported(tmp_path, record_property):
    marker = tmp_path / "touched"
    evil = f"open({str(marker)!r}, 'w').close()\nraise ImportError(__file__)\n"
    run = tmp_path / "run"
    run.mkdir()
    modules = (*sys.stdlib_module_names, "numpy", "torch", "matplotlib", "glfw", "worldmodel")
    for name in modules:
        (run / f"{name}.py").write_text(evil)
    (run / "matplotlibrc").write_text("lines.linewidth: 77\n")
    words = [sys.executable, "-c", IN_A_RUN, str(Path(envs.__file__).parents[1])]
    done = subprocess.run(words, cwd=run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not marker.exists() and done.stdout.split() == ["2", "False"], done.stdout
    record_property("times", 4)
