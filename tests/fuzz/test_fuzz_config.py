"""Configurations drawn by Hypothesis: wrong ones are refused by the names of their keys, right
ones train.

WM_FUZZ multiplies how many are drawn. How long a refusal takes is `startup.error` of
benchmarks/run.py.
"""

import itertools
import json
import os
import types
import zlib
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import forked
from runs import seed_dir
from worldmodel.command_line import train as train_py
from worldmodel.config import loading, schema
from worldmodel.config.ranges import OneOf, Time
from worldmodel.evaluation.plotting import media
from worldmodel.system import provenance

LINEAR = ("locally_linear", "linear_gaussian")
TIMES = float(os.environ.get("WM_FUZZ", "1"))
HINTS = {
    f"{section}.{key}": hint
    for section, table in get_type_hints(schema.Config).items()
    for key, hint in get_type_hints(table, include_extras=True).items()
}
# Sizes and times of the whole run are held small; these are what is learnt, and how.
DRAWN = (
    "model",
    "loss",
    "optim",
    "behavior",
    "imag",
    "actor",
    "critic",
    "planner",
    "augment",
    "ema",
    "locally_linear",
    "contrastive",
    "forward_contrastive",
    "inverse",
    "barlow",
    "prototypes",
    "bootstrap",
    "bottleneck",
    "reward_only",
    "curvature",
    "transition_contrastive",
)
LEARNT = [k for k in HINTS if k.split(".")[0] in DRAWN and k not in ("model.cnn", "model.patch")]
LEARNT += [
    "replay.start",
    "replay.burnin",
    "replay.max_stale",
    "replay.store",
    "replay.codec",
    "env.obs",
]


def bare(hint):
    """A hint without what may be None around it, and its range; a registry's names as a Literal."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(a for a in get_args(hint) if a is not type(None))
    if get_origin(hint) is not Annotated:
        return hint, None
    kind, limit = get_args(hint)
    return (Literal[tuple(limit.table)], None) if isinstance(limit, OneOf) else (kind, limit)


def wrong(key):
    """Values that the key cannot have, as text."""
    kind, bounds = bare(HINTS[key])
    found = ["[1, [2]]" if get_origin(kind) not in (list, tuple) else "{a: 1}", "2001-02-03"]
    if isinstance(bounds, Time):
        found += ["30", "0m", "1d", "nonsense"]
    elif bounds is not None:
        found += [
            str(end + step)
            for end, step in ((bounds.low, -1), (bounds.high, 1))
            if end is not None
        ]
    if kind in (int, float, bool) or get_origin(kind) in (Literal, dict):
        found += ["nonsense", ".nan"]
    return st.tuples(st.just(key), st.sampled_from(found), st.just((f"{key}:", f"{key}[")))


def unknown(key):
    """A key that is none, a letter off one that is: the answer names that one, or another
    as near.
    """
    section, _, name = key.partition(".")
    made = [f"{section}.{name[:i]}{name[i + 1 :]}" for i in range(1, len(name))] + [
        f"{section}.{name}x",
        *([f"{key}.q"] if key != "env.kwargs" else []),  # which takes any name
    ]
    made = [word for word in made if word not in HINTS and len(word.partition(".")[2]) > 2]
    # A table of names of which q is none, and one of any names
    tables = {"loss.objective": (f"{key}: 'q'",), "env.sizes": (f"{key}.q: expected",)}
    table = tables.get(key, ())
    return st.sampled_from(made or [f"{key}x"]).map(
        lambda word: (word, "1", (f"unknown key '{word}'", *table))
    )


# What is fine alone and impossible together: what is said, and of which keys.
CONTRADICTIONS = {
    "planner.elites": {"planner.elites": "17"},
    "planner.keep": {"planner.keep": "1", "planner.candidates": "4", "planner.elites": "4"},
    "planner.proposals": {"planner.proposals": "16"},
    "actor.min_std": {"actor.min_std": "2"},
    "critic.bootstrap": {"critic.slow": "none", "critic.bootstrap": "slow"},
    "critic.pull": {"critic.slow": "none", "critic.pull": "1"},
    "model.transition": {"model.transition": "rnn", "model.latent": "categorical"},
    "model.blocks": {"model.blocks": "5"},
    "loss.overshooting": {"loss.overshooting": "8"},
    "optim.decay": {"optim.decay": "[5, 5]"},
    "train.prefill": {"train.prefill": "5", "run.frames": "120"},
    "run.frames": {"run.frames": "29", "train.prefill": "30"},
    "loss.objective": {"loss.objective": "{reconstruction: 0}"},
    "contrastive.distances": {
        "loss.objective": "{contrastive: 1}",
        "contrastive.distances": "[9]",
    },
    "env.size": {"env.size": "[33, 32]"},
    "augment.shift": {"augment.shift": "16"},
    "planner.score": {"planner.score": "goal_distance"},
}


def right(key):
    """Values that the key alone may have, as text."""
    kind, bounds = bare(HINTS[key])
    if get_origin(kind) is Literal:
        return st.tuples(st.just(key), st.sampled_from(get_args(kind)))
    if get_origin(kind) is dict:
        names = get_args(bare(get_args(kind)[0])[0])
        tables = st.dictionaries(
            st.sampled_from(names), st.sampled_from([0.1, 1.0]), min_size=1, max_size=3
        )
        return st.tuples(
            st.just(key),
            tables.map(lambda t: "{" + ", ".join(f"{k}: {v}" for k, v in t.items()) + "}"),
        )
    if get_origin(kind) is list:
        return st.tuples(
            st.just(key), st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True).map(str)
        )
    if get_origin(kind) is tuple:
        pairs = st.lists(st.integers(0, 6), min_size=2, max_size=2, unique=True)
        return st.tuples(st.just(key), pairs.map(sorted).map(str))
    low = 0 if bounds is None or bounds.low is None else bounds.low
    high = low + 6 if bounds is None or bounds.high is None else min(bounds.high, low + 6)
    if kind is bool:
        return st.tuples(st.just(key), st.sampled_from(["true", "false"]))
    numbers = (
        st.integers(int(low), int(high))
        if kind is int
        else st.sampled_from([low, low + (high - low) / 600])
    )
    return st.tuples(st.just(key), numbers.map(str))


def fitting(pairs, picture):
    """The same with whatever else each of them wants: by this alone no drawn configuration
    contradicts itself.
    """
    given = dict(pairs)

    def of(key):
        return given.get(key, BASE[key])

    if of("planner.name") == "shooting" or int(of("planner.candidates")) < 2:
        given["planner.proposals"] = "0"
    given["planner.elites"] = str(min(int(of("planner.elites")), int(of("planner.candidates"))))
    given["planner.proposals"] = str(
        min(int(of("planner.proposals")), int(of("planner.candidates")) - 1)
    )
    given["planner.keep"] = (
        "0" if int(of("planner.candidates")) <= int(of("planner.elites")) else of("planner.keep")
    )
    if float(of("actor.min_std")) >= float(of("actor.max_std")):
        given["actor.max_std"] = str(float(of("actor.min_std")) + 0.5)
    if of("critic.slow") == "none":
        given |= {"critic.bootstrap": "online", "critic.pull": "0"}
    if of("model.transition") == "rnn":
        given["model.latent"] = "deterministic"
    given["actor.population"] = str(int(of("actor.population")) // 2 * 2)  # in pairs
    given["model.deter"] = str(int(of("model.deter")) * int(of("model.blocks")))
    if of("env.obs") == "state":
        given |= {"augment.shift": "0", "model.encoder": "cnn"}
    if given.get("model.encoder", of("model.encoder")) != "spatial":
        given |= {"loss.smooth": "0", "loss.grey": "0", "loss.blobs": "0"}
    # Others want observations, objectives or behaviors of their own.
    if of("model.dynamics") not in ("rssm", "transformer", *LINEAR):
        given["model.dynamics"] = "rssm"
    if of("model.dynamics") in LINEAR:
        given |= {"model.latent": "gaussian", "model.transition": "rssm"}
    refused = {"transformer": "curvature", "linear_gaussian": "transition_contrastive"}
    if refused.get(of("model.dynamics"), "nothing") in of("loss.objective"):
        given["model.dynamics"] = "rssm"
    if "known" in (of("model.reward_head"), of("model.cont_head")):
        given |= {"model.reward_head": "gaussian", "model.cont_head": "learned"}
    if float(of("imag.pessimism")) or of("behavior.name") == "plan2explore":
        given["ensemble.size"] = "2"
    if of("loss.reward_free") == "true" or of("behavior.name") == "plan2explore":
        given["critic.replay"] = "0"
    if of("model.unseen") != "null":  # whose names only an environment knows
        given["model.unseen"] = "null"
    if of("behavior.name") == "guided":  # it wants a vector that is stored alone
        given["behavior.name"] = "mpc"
    if of("planner.name") == "ilqr":  # it sees one rollout, of the mean step
        given |= {"planner.particles": "0", "planner.pessimism": "0"}
    if float(of("planner.pessimism")) and int(of("planner.particles")) < 2:
        given["planner.particles"] = "2"
    if of("planner.score") == "pixel_distance":
        given["planner.score"] = "reward"  # the other wants a model of its own
    if of("planner.score") == "goal_distance":
        given |= {"goal.image": str(picture), "env.obs": "pixels"}
    return given


BASE = {
    key: loading.format_value(value)
    for section, table in loading.to_plain(loading.parse(["debug"])).items()
    for key, value in ((f"{section}.{k}", v) for k, v in table.items())
}


# Nothing is shrunk: a few keys are drawn at a time, and a failure is as plain as it is.
QUIET = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.generate),
}


@pytest.mark.fault(
    17,
    "values of the wrong type or out of range and unknown keys, several at once, generated by "
    "Hypothesis",
    "exit 2, every one of them named, with a suggestion for unknown keys",
)
def test_every_wrong_configuration_is_refused_by_name(capsys, record_property):
    count = int(250 * TIMES)
    keys = st.sampled_from(sorted(HINTS))

    @settings(max_examples=count, **QUIET)
    @given(
        st.lists(
            keys.flatmap(wrong) | keys.flatmap(unknown),
            min_size=1,
            max_size=6,
            unique_by=lambda x: x[0],
        )
    )
    def refused(mistakes):
        assert train_py.main(["debug", *(f"--{key}={text}" for key, text, _ in mistakes)]) == 2
        said = capsys.readouterr().err.splitlines()
        for _, _, starts in mistakes:
            lines = {line for line in said if line.startswith(starts)}
            assert lines, (starts, said)
            for line in lines:
                assert (
                    not line.startswith("unknown key")
                    or "did you mean" in line
                    or "is not a table" in line
                ), line

    refused()
    record_property("times", count)


@pytest.mark.fault(
    17,
    "keys that contradict each other, several contradictions at once, generated by Hypothesis",
    "exit 2, every one of them named",
)
def test_every_contradiction_is_named(capsys, record_property):
    count = int(80 * TIMES)

    @settings(max_examples=count, **QUIET)
    @given(st.lists(st.sampled_from(sorted(CONTRADICTIONS)), min_size=1, max_size=4, unique=True))
    def refused(names):
        given = {}
        for name in names:
            if any(given.get(key, text) != text for key, text in CONTRADICTIONS[name].items()):
                continue  # another one has this key at another value
            given |= CONTRADICTIONS[name]
        assert train_py.main(["debug", *(f"--{key}={text}" for key, text in given.items())]) == 2
        said = capsys.readouterr().err.splitlines()
        for name in (name for name in names if CONTRADICTIONS[name].items() <= given.items()):
            assert any(line.startswith(f"{name}:") for line in said), (name, given, said)

    refused()
    record_property("times", count)


TINY = [
    "debug",
    "--run.frames",
    "20",
    "--train.prefill",
    "18",
    "--train.updates_per_step",
    "1e-6",
    "--log.final_episodes",
    "1",
    "--log.every",
    "1",
    "--log.eval",
    "0",
    "--log.checkpoint",
    "1000",
    "--model.cnn",
    "[3, 4]",
    "--env.size",
    "[16, 16]",
    "--env.time_limit",
    "9",
]


@pytest.mark.fault(
    17,
    "valid configurations generated by Hypothesis, a few keys at a time",
    "each trains two updates: exit 0, `updates` 2 in its metrics, none skipped",
)
def test_every_right_configuration_trains(tmp_path, capfd, monkeypatch, record_property):
    from worldmodel.programs import closing_evaluation

    count, trained, started, usual = (
        int(60 * TIMES),
        [],
        itertools.count(),
        closing_evaluation.evaluate_finished_run,
    )
    media.save_png(tmp_path / "goal.png", np.zeros((16, 16, 3), np.uint8))
    monkeypatch.setattr(Figure, "savefig", forked.save_blank)
    versions = provenance.collect_versions()
    monkeypatch.setattr(provenance, "collect_versions", lambda: versions)
    # Videos and the last episodes are most of so short a run: every fourth has them.
    monkeypatch.setattr(
        closing_evaluation,
        "evaluate_finished_run",
        lambda t, *rest: zlib.crc32(repr(t.config.model).encode()) % 4 or usual(t, *rest),
    )

    @settings(max_examples=count, **QUIET)
    @given(
        st.lists(
            st.sampled_from(LEARNT).flatmap(right),
            min_size=4,  # twice as many pairs of keys meet as in twice as many runs of one to five
            max_size=9,
            unique_by=lambda x: x[0],
        )
    )
    def trains(pairs):
        given = fitting(pairs, tmp_path / "goal.png")
        root = tmp_path / str(next(started))
        argv = [
            *TINY,
            "--run.root",
            str(root),
            *(f"--{key}={text}" for key, text in given.items()),
        ]
        code = train_py.main(argv)
        assert code == 0, (given, capfd.readouterr().err)
        lines = map(json.loads, (seed_dir(root) / "metrics.jsonl").read_text().splitlines())
        assert [x["updates"] for x in lines if "updates" in x][-1] == 2, given
        (state,) = (
            json.loads(p.read_text()) for p in seed_dir(root).glob("checkpoints/*/state.json")
        )
        assert state["learner"]["updates"] == 2 and state["learner"]["skipped"] == 0, given
        trained.append(given)

    trains()
    assert len(trained) == count
    record_property("times", len(trained))
