"""Whole runs under mutation: state.json says anything, and what is resumed from it must go on, or
be refused.

WM_FUZZ multiplies how many inputs are tried.
"""

import contextlib
import copy
import functools
import json
from functools import partial

import pytest
import torch
from test_fuzz_directories import MEMORY, TIMES, forget, inputs, peak
from worldmodel.envs.parallel.vector import make_vector

import mutate
from runs import command, seed_dir
from test_forged_directories import reseal
from worldmodel import build, envs
from worldmodel.checkpoint.format import hash_bytes, read_manifest, seal_manifest
from worldmodel.checkpoint.store import CheckpointError
from worldmodel.command_line import train as train_py
from worldmodel.config import loading
from worldmodel.errors import RunError
from worldmodel.replay.chunk import ReplayError
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.run_directory import RunDir
from worldmodel.saved_run import Run
from worldmodel.training.trainer import Trainer

REFUSED = (CheckpointError, ReplayError)
BIG, SUMS = (
    [0, 1, 24, 25, 10**9, 2**53],
    ["nan", "inf", "0x0p0", "-0x1p1023", "0x1p-1074", "1e300"],
)


def trained(tmp_path):
    """A run's root, the words it was trained by, and its newest checkpoint."""
    root = tmp_path / "run"
    argv = command(root, "--run.frames", "40", "--log.final_episodes", "1")[2:]
    assert train_py.main(argv) == 0
    return root, argv, max((seed_dir(root) / "checkpoints").iterdir(), key=lambda p: int(p.name))


@pytest.mark.fault(
    15,
    "state.json of a whole run mutated, with valid checksums",
    "resumed, then a step, an update, a log line and a save; or exit 4, as in eval",
)
def test_whole_states(tmp_path, monkeypatch, record_property):
    # config.yaml stays as it is, and reading it took half of the time.
    monkeypatch.setattr(loading, "load", functools.cache(loading.load))
    root, argv, folder = trained(tmp_path)
    checkpoints = folder.parent
    files = {
        p: p.read_bytes()
        for p in [*checkpoints.rglob("*.*"), *(seed_dir(root) / "replay").iterdir()]
    }
    state, gone_on = json.loads(files[folder / "state.json"]), 0
    with training(argv) as t:
        assert t.resume()
        go_on(t)
        forget()
        before = peak()
        for i, rng in enumerate(inputs("state", 220, record_property)):
            for path in [p for p in checkpoints.rglob("*.*") if p not in files]:
                path.unlink()
            for path in [p for p in checkpoints.iterdir() if not any(p.iterdir())]:
                path.rmdir()
            for path, data in files.items():
                path.parent.mkdir(exist_ok=True, parents=True)
                path.write_bytes(data)
            bad = nudged(rng, copy.deepcopy(state)) if i % 2 else mutate.in_json(rng, state)
            forged(folder, json.dumps(bad).encode())
            with refused_well():
                Run.open(seed_dir(root))
                saved = SavedEpisodes(seed_dir(root))
                saved.read_episode(-1)
            with refused_well():
                assert t.resume()
                go_on(t)
                gone_on += 1
        assert peak() - before < MEMORY * 1024
    assert gone_on > 80 * TIMES


def nudged(rng, state):
    """What passes every check, at its edges: a run must go on with it, or say in a line
    why not.
    """
    learner, rollout, logger = state["learner"], state["rollout"], state["logger"]
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(8):
            case 0:
                state["due"][rng.choice(["log", "eval", "save"])] = rng.random() < 0.5
            case 1:
                state["prefill"] = {
                    "over": rng.random() < 0.5,
                    "steps": rng.randrange(rollout["steps"] + 1),
                }
            case 2:
                learner[rng.choice(["skipped", "skipped_in_a_row", "rollbacks"])] = rng.choice(BIG)
            case 3:
                logger[rng.choice(["metrics", "scores"])] = rng.choice(BIG)
            case 4:
                logger["minutes"] = rng.choice([0, 0.5, 1e15])
            case 5:
                name = rng.choice(["kl", "loss/image", "x" * 200])
                state["means"].append(
                    {"sums": {name: rng.choice(SUMS)}, "count": rng.choice(BIG[1:])}
                )
            case 6:
                rollout[rng.choice(["frames", "faults"])] = rng.choice(BIG)
            case 7:
                rollout["episodes"][0] |= {
                    "number": rng.choice(BIG),
                    "seed": rng.choice([0, 1, 2**32 - 1]),
                }
    return state


def forged(folder, body):
    """state.json replaced, under a manifest that agrees."""
    (folder / "state.json").write_bytes(body)
    _, entries = read_manifest(folder)
    listed = {name: {"sha256": sha, "bytes": size} for name, (sha, size) in entries.items()}
    listed["state.json"] = {"sha256": hash_bytes(body), "bytes": len(body)}
    (folder / "manifest.json").write_bytes(
        seal_manifest({"format": 1, "step": int(folder.name), "files": listed})
    )


@contextlib.contextmanager
def refused_well():
    try:
        yield
    except (*REFUSED, RunError) as error:
        assert error.exit_code == 4 and "\n" not in str(error) and len(str(error)) < 1500
    except ValueError as error:  # exit 2: a model that the machine cannot hold, or no such episode
        assert any(
            words in str(error) for words in ("this run needs at least", "there is no episode")
        ), error


def go_on(t):
    """A step, an update, a line and a save with what was resumed."""
    t.open_logger()
    t.collect()
    if t.rollout.begun:  # the next directory is resumed with these environments
        t.envs.finish()
        t.rollout.begun = False
    if t.replay.can_sample(t.config.replay.batch, t.sequence_length):
        t.means.add(
            t.learner.update(
                build.to_tensors(t.replay.sample(t.config.replay.batch, t.sequence_length))
            )
        )
    t.log()
    t.save()
    # Its size may have been a lie: then what it was cut to is a torn line, and this one hangs on
    # it.
    assert (
        f'{{"frames": {t.frames}, ' in (t.run.path / "metrics.jsonl").read_text().splitlines()[-1]
    )


@contextlib.contextmanager
def training(argv):
    """A training as train.py makes it, before it has resumed."""
    c = loading.parse(argv)
    make = partial(envs.make, c.env.task, size=tuple(c.env.size))
    with make_vector(make, 1, restart_budget=10**9) as vector:
        yield Trainer(c, vector, RunDir.for_config(c), torch.device("cpu"))


@pytest.mark.fault(
    15,
    "optimiser, player and generators of a whole run with other shapes, dtypes and names, "
    "with valid checksums",
    "exit 4: nothing uses them",
)
def test_whole_tensors(tmp_path, record_property):
    import safetensors.torch

    _, argv, folder = trained(tmp_path)
    good = {
        p: p.read_bytes()
        for p in folder.glob("*.safetensors")
        if p.stem in ("optimizer", "player", "generators")
    }
    assert len(good) == 3
    with training(argv) as t:
        for rng in inputs("tensor", 60, record_property):
            path = rng.choice(sorted(good))
            tensors = safetensors.torch.load(good[path])
            name = rng.choice(sorted(tensors))
            value = tensors.pop(name)
            match (
                rng.randrange(4) if name != "generator" else 1
            ):  # another device's has another size
                case 0:
                    tensors[name] = value.reshape(-1)[:-1].clone()
                case 1:
                    tensors[name] = value.to(
                        torch.int32 if value.is_floating_point() else torch.float64
                    )
                case 2:
                    tensors[name + "x"] = value
            path.write_bytes(safetensors.torch.save(tensors))
            reseal(folder)
            with pytest.raises(REFUSED) as error:
                t.resume()
            assert error.value.exit_code == 4 and "\n" not in str(error.value)
            path.write_bytes(good[path])
