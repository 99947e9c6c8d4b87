"""The real programs in processes of their own, forked from one that has imported torch, with
faults put in.
"""

import importlib
import json
import os
import resource
import signal
import sys
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

import forked
from runs import fingerprint, seed_dir

# Enough of a run to save often, to pack and evict chunks of the replay, and to end mid-episode.
SHORT = (
    "--train.prefill",
    "10",
    "--run.frames",
    "80",
    "--log.checkpoint",
    "5",
    "--log.keep",
    "2",
    "--log.eval",
    "0",
    "--log.every",
    "5",
    "--log.final_episodes",
    "1",
    "--replay.capacity_gb",
    "1e-4",
)
# Enough of a run to train, to log, to save and to be evaluated.
BRIEF = (
    "--train.prefill",
    "10",
    "--run.frames",
    "24",
    "--log.checkpoint",
    "8",
    "--log.eval",
    "0",
    "--log.every",
    "5",
    "--log.final_episodes",
    "1",
)


def go(root, *args, expect=0, before=None, env=None, program="train", traceback=False):
    """A program to its end; what it said. `before` is called in its process first."""
    code = forked.ended(
        start(root, *args, before=before, env=env, program=program), log_of(root).read_text
    )
    said = log_of(root).read_text()
    assert code == expect, f"exit {code}, wanted {expect}\n{said}"
    assert traceback or "Traceback" not in said, said
    return said


def start(root, *args, before=None, env=None, program="train"):
    Path(root).mkdir(parents=True, exist_ok=True)
    argv = ["debug", "--run.root", root, *args] if program == "train" else args
    return forked.start(program, argv, log_of(root), before=before, env=env)


def in_one(root, work, *args, before=None):
    """`work(call, *args)` in one process, where call(program, *argv) runs a whole program: its
    exit code and words.
    """
    found = Path(root) / "found.json"
    process = forked.processes().Process(
        target=_in_one, args=(found, log_of(root), work, args, before), daemon=True
    )
    process.start()
    assert forked.ended(process, log_of(root).read_text) == 0, log_of(root).read_text()
    return json.loads(found.read_text())


def _in_one(found, log, work, args, before):
    def call(program, *argv):
        forked.redirect(log)
        try:
            code = importlib.import_module(f"worldmodel.command_line.{program}").main(
                list(map(str, argv))
            )
        except BaseException as error:
            traceback.print_exc()
            code = error.code if isinstance(error, SystemExit) else 1
        sys.stdout.flush()
        sys.stderr.flush()
        return code, log.read_text()

    forked.listen_to_hangups()
    forked.leave_figures_blank()
    forked.shorten_videos()
    if before:
        before()
    found.write_text(json.dumps(work(call, *args)))


def log_of(root):
    return Path(root) / "said.log"


def print_of(root):
    """Hashes of all that must be equal of the run below a root."""
    return fingerprint(seed_dir(root))


# ---- what can be done to a program


def signalled_at(look, name):
    """A signal when the loop looks for the so manieth time whether it is to stop: between any two
    things it does.
    """
    return partial(_signalled_at, look, name)


def _signalled_at(look, name):
    left = look

    def count(_):
        nonlocal left
        left -= 1
        if left == 0:
            signal.raise_signal(signal.Signals[name])

    _watch(count)


def looks_listed(path):
    """A line for every look: frames, updates, whether it evaluates, and how many looks there have
    been just there.
    """
    return partial(_looks_listed, path)


def _looks_listed(path):
    _watch(lambda place: path.open("a").write(json.dumps(place) + "\n"))


def struck_at(place, name, note, point=""):
    """A signal at the look at this place, or at a sub-step of the next save from there on; `note`
    says it was there.
    """
    return partial(_struck_at, place, name, note, point)


def _struck_at(place, name, note, point):
    def strike(now):
        if now != place:
            return
        note.write_text(json.dumps(now))
        if point:
            os.environ["WM_FAULT"] = f"save:{point}={name}"
        else:
            signal.raise_signal(signal.Signals[name])

    _watch(strike)


def _watch(tell):
    """Call `tell` with the place the program is at whenever it looks whether it is to stop."""
    from worldmodel.system import stop_request
    from worldmodel.training.trainer import Trainer

    run, seen, began, evaluate = [], Counter(), Trainer.__init__, Trainer.evaluate
    evaluating = False

    def begin(self, *args, **options):
        began(self, *args, **options)
        run.append(self)

    def noticed(self, *args, **options):
        nonlocal evaluating
        evaluating = True
        try:
            return evaluate(self, *args, **options)
        finally:
            evaluating = False

    class Watched(stop_request.Stop):
        def __bool__(self):
            place = (run[0].frames, run[0].learner.updates, evaluating)
            seen[place] += 1
            tell([*place, seen[place]])
            return super().__bool__()

    Trainer.__init__, Trainer.evaluate, stop_request.Stop = begin, noticed, Watched


def limited(**limits):
    """Resource limits, as ulimit sets them: limited(RLIMIT_FSIZE=10_000)."""
    return partial(_limited, limits)


def _limited(limits):
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, resource.RLIM_INFINITY))


def weights_lost(update, of="model"):
    """All weights of a part become NaN in front of this update, or of the first action after so
    many of them.
    """
    return partial(_weights_lost, update, of)


def _weights_lost(update, of):
    import torch

    from worldmodel.training.learner import Learner

    usual = Learner.update

    def struck(self, batch, frames):
        if self.updates == update and not self.rollbacks:
            part = self.model if of == "model" else self.policy.actor
            with torch.no_grad():
                for p in part.parameters():
                    p.fill_(float("nan"))
        return usual(self, batch, frames)

    Learner.update = struck


def refused_at_the_end(path):
    """Something that cannot be written over lies at this path once the closing evaluation
    is done.
    """
    return partial(_refused_at_the_end, path)


def _refused_at_the_end(path):
    from worldmodel.programs import closing_evaluation

    usual = closing_evaluation.evaluate_finished_run

    def struck(*args):
        done = usual(*args)
        path.mkdir()
        return done

    closing_evaluation.evaluate_finished_run = struck


def break_streams(out, err, look=0):
    """Standard output and error that are "full", "closed" or a broken "pipe", from the start or
    from the so manieth look on; "" leaves one alone.
    """
    return partial(_break_streams, out, err, look)


def _break_streams(out, err, look):
    readers = []
    for number, way in ((1, out), (2, err)):
        if way == "pipe":  # also of what the program starts, which holds its own end until then
            reader, writer = os.pipe()
            os.dup2(writer, number)
            os.close(writer)
            readers.append(reader)

    def strike():
        for reader in readers:
            os.close(reader)
        for number, way in ((1, out), (2, err)):
            if way == "closed":
                os.close(number)
            elif way == "full":
                os.dup2(os.open("/dev/full", os.O_WRONLY), number)

    if not look:
        strike()
        return
    from worldmodel.system.console import Progress

    began = Progress.__init__

    def begin(self, *args, **options):
        began(self, *args, **options)
        self.period = 0.0  # a line at every step

    def count(_):
        nonlocal look
        look -= 1
        if look == 0:
            strike()

    Progress.__init__ = begin
    _watch(count)
