"""train.py and eval.py in processes of their own, forked from a server that has imported torch
once.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

from PIL import Image

TESTS = Path(__file__).resolve().parents[1]
PRELOAD = (
    "ranks",
    "eval",
    "worldmodel.envs.parallel.vector",
    "worldmodel.envs.tasks.counter",
    "worldmodel.programs.training",
    "worldmodel.programs.evaluation",
    "matplotlib.pyplot",
    "scipy.ndimage",  # most of what importing dm_control takes
    "torch._dynamo",  # what torch imports, with sympy, at its first Jacobian or normal weights
    "pytest",
    "warm",
)
SECONDS = 600  # a machine may be busy; none of these takes more than seconds of its own


def processes():
    """Where new processes come from; the server finds the tests' modules by PYTHONPATH alone."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    kept = {name: os.environ.get(name) for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    os.environ.update(
        PYTHONPATH=os.pathsep.join(map(str, [TESTS.parent, *sorted(TESTS.glob("*/"))])),
        OMP_NUM_THREADS="1",
    )
    try:
        forkserver.ensure_running()
    finally:
        os.environ.update({name: value for name, value in kept.items() if value is not None})
        for name in (name for name, value in kept.items() if value is None):
            del os.environ[name]
    return context


def start(program, argv, out, err=None, before=None, env=None, figures=False):
    """`program` (train, eval) with what it says in files; `before` is called in its
    process first.
    """
    given = (program, list(map(str, argv)), out, err, before, env or {}, figures)
    process = processes().Process(target=_run, args=given, daemon=True)
    process.start()
    return process


def ended(process, said):
    """Wait for its end; the exit code."""
    process.join(SECONDS)
    late = process.is_alive()
    process.kill()
    process.join()
    assert not late, f"still there after {SECONDS} s\n{said()}"
    return process.exitcode


def run(program, *argv, expect=0, figures=False, env=None):
    """A program to its end: what it said and complained of; fails unless it exits as expected
    without a traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start(program, argv, out, err, env=env, figures=figures)
        code = ended(process, lambda: out.read_text() + err.read_text())
        said, complained = out.read_text(), err.read_text()
    assert code == expect, f"exit {code}, wanted {expect}\n{said}\n{complained}"
    assert "Traceback" not in complained, complained
    return said, complained


def leave_figures_blank():
    """Save every figure as a white picture of its size from now on.

    Drawing one takes longer than training a tiny agent.
    """
    from matplotlib.figure import Figure

    Figure.savefig = save_blank


def shorten_videos():
    """Keep one picture of every GIF from now on: its colours take as long as twenty updates."""
    from worldmodel.evaluation.plotting import media

    usual = media.encode_gif
    media.encode_gif = lambda frames, *options: usual(frames[:1], *options)


def save_blank(figure, target, format=None):
    """A white picture of the figure's size."""
    width, height = (figure.get_size_inches() * figure.dpi).astype(int)
    Image.new("RGB", (width, height), "white").save(target, format)


def _run(program, argv, out, err, before, env, figures):
    os.environ.update(env)
    listen_to_hangups()
    if not figures:
        leave_figures_blank()
    if not figures and program == "train":
        shorten_videos()
    sys.argv = [f"{program}.py", *argv]
    redirect(out, err)
    if before:
        before()
    runpy.run_path(str(TESTS.parent / f"{program}.py"), run_name="__main__")


def listen_to_hangups():
    """Undo what nohup does, which may have started the tests."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def redirect(out, err=None):
    for number, path in ((1, out), (2, err)):
        if path is None:
            os.dup2(1, number)
        else:
            with open(path, "w") as file:
                os.dup2(file.fileno(), number)
