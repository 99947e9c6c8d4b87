"""Ranks in processes of their own, forked from a server that has imported torch once."""

import os
import socket
import time
from pathlib import Path

import torch

import forked
from worldmodel import build, distributed
from worldmodel.config import loading
from worldmodel.kernels import leave_to_torch
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(rank, size, port):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    values = dict(zip(names, map(str, (rank, size, rank, size, port)), strict=True))
    return {**values, "MASTER_ADDR": "127.0.0.1"}


# ---- the whole program


def start(root, *args, size=2, env=None, own=None):
    """train.py on every rank; `env` changes variables of all (None removes one), `own` adds
    arguments by rank.
    """
    Path(root).mkdir(parents=True, exist_ok=True)
    port, started = free_port(), []
    for rank in range(size):
        there = {**(environment(rank, size, port) if size > 1 else {}), **(env or {})}
        there = {name: value for name, value in there.items() if value is not None}
        argv = ["debug", "--run.root", root, *args, *(own or {}).get(rank, ())]
        started.append(forked.start("train", argv, f"{root}/rank{rank}.log", env=there))
    return started


def finish(root, started, seconds=300):
    """Exit codes and what was said, by rank; no rank may outlive `seconds`, none may show a
    traceback.
    """
    deadline = time.monotonic() + seconds
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))
    late = [process.kill() for process in started if process.is_alive()]
    said = [Path(f"{root}/rank{rank}.log").read_text() for rank in range(len(started))]
    assert not late, f"{len(late)} ranks were still there after {seconds} s\n" + "\n".join(said)
    assert not any("Traceback" in text for text in said), "\n".join(said)
    return [process.exitcode for process in started], said


def train(root, *args, size=2, expect=0, **options):
    """train.py on every rank to its end."""
    codes, said = finish(root, start(root, *args, size=size, **options))
    assert codes == [expect] * size, f"{codes}\n" + "\n".join(said)
    return said


# ---- the learner alone

B, T, IMAGE = 3, 6, (16, 16, 3)
TINY = [
    "model.deter=12",
    "model.stoch=5",
    "model.classes=4",
    "model.hidden=14",
    "model.cnn=[4, 6]",
    "model.layers=1",
    "model.units=9",
    "env.size=[16, 16]",
    "replay.length=6",
    "run.precision=fp32",
]


def whole_batch(seed, rows):
    g = torch.Generator().manual_seed(seed)
    first = torch.zeros(rows, T, dtype=torch.bool)
    first[:, 0] = True
    first[1, 3] = True
    # Dark and bright rows: ranks see different means.
    light = torch.linspace(20, 256, rows).view(rows, 1, 1, 1, 1)
    return {
        "image": (torch.rand(rows, T, *IMAGE, generator=g) * light).to(torch.uint8),
        "prev_action": torch.rand(rows, T, 2, generator=g) * 2 - 1,
        "reward": torch.randn(rows, T, generator=g) * torch.arange(1.0, rows + 1).view(rows, 1),
        "is_first": first,
        "is_last": first.roll(-1, 1),
        "is_terminal": torch.rand(rows, T, generator=g) < 0.1,
    }


def draw_by_row(rank, size):
    """Random numbers become a matter of the row in the whole batch: drawn for all rows, this
    rank's are kept.
    """
    g = torch.Generator().manual_seed(7)
    rand, randn, randperm = torch.rand, torch.randn, torch.randperm

    def by_row(draw):
        def own(shape, generator=None, device=None):
            return draw(shape[0] * size, *shape[1:], generator=g).chunk(size)[rank]

        return own

    torch.rand, torch.randn = by_row(rand), by_row(randn)
    # Of steps: the same for all rows
    torch.randperm = lambda n, device=None: randperm(n, generator=g)


def learn(world, overrides, updates, spoilt=None, deaf=()):
    """Updates on this rank's rows of common batches; weights, buffers and metrics afterwards.

    `spoilt` (rank, update) has a NaN among its rewards; `deaf` names exchanges that give back what
    was put in.
    """
    for name in deaf:
        setattr(world, name, getattr(distributed.ALONE, name))
    c = loading.parse([*TINY, *overrides])
    torch.manual_seed(0)
    space = ActionSpace(2)
    model = build.make_model(c, ObservationSpace({"image": IMAGE}), space, world)
    policy = build.make_policy(c, model, space, world)
    starts = build.STARTS[c.replay.start](c.replay)
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32", policy, starts, world)
    batches = [whole_batch(update, 2 * B) for update in range(updates)]
    draw_by_row(world.rank, world.size)
    rows = 2 * B // world.size
    metrics = []
    for update, whole in enumerate(batches):
        batch = {k: v[world.rank * rows :][:rows].clone() for k, v in whole.items()}
        if spoilt == (world.rank, update):
            batch["reward"][0, 2] = float("nan")
        with leave_to_torch():  # the C steps sum half as many rows in other parts
            found = learner.update(batch)
        metrics.append(
            {k: float(v) for k, v in found.items() if k.startswith("grad_norm") or k == "skipped"}
        )
    state = {**model.state_dict(), **(policy.state_dict() if policy else {})}
    rates = [o.lr for o in learner.optimizers.each.values()]
    return {k: v.numpy() for k, v in state.items()}, metrics, rates


def _learn(answer, env, *args):
    torch.set_num_threads(1)
    os.environ.update(env)
    launch = distributed.Launch.from_environment(os.environ)
    with distributed.join_ranks(launch, torch.device("cpu")) as world:
        answer.send(learn(world, *args))


def learners(size, *args):
    """What `learn` gives on each of so many ranks."""
    context, port = forked.processes(), free_port()
    pipes, started = [], []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        env = environment(rank, size, port) if size > 1 else {}
        started.append(context.Process(target=_learn, args=(theirs, env, *args), daemon=True))
        started[-1].start()
        theirs.close()
        pipes.append(ours)
    found = [pipe.recv() for pipe in pipes]  # EOFError where a rank ended without an answer
    for process in started:
        process.join(60)
    return found
