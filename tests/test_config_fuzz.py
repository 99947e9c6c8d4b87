"""Configurations drawn by Hypothesis: wrong ones are refused by the names of their keys, right ones train.

WM_FUZZ multiplies how many are drawn.
"""

import os
import types
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import train as train_py
from worldmodel import config, schema

TIMES = float(os.environ.get("WM_FUZZ", "1"))
HINTS = {
    f"{section}.{key}": hint
    for section, table in get_type_hints(schema.Config).items()
    for key, hint in get_type_hints(table, include_extras=True).items()
}
# Sizes and times of the whole run are held small; these are what is learnt, and how.
DRAWN = ("model", "loss", "optim", "behavior", "imag", "actor", "critic", "planner", "augment", "ema", "contrastive",
         "forward_contrastive", "inverse", "barlow", "prototypes", "bootstrap", "bottleneck",
         "reward_only")  # fmt: skip
LEARNT = [k for k in HINTS if k.split(".")[0] in DRAWN and k not in ("model.cnn", "model.patch")]
LEARNT += ["replay.start", "replay.burnin", "replay.max_stale", "replay.store", "replay.codec", "env.obs"]


def bare(hint):
    """A hint without what may be None around it, and its range."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(a for a in get_args(hint) if a is not type(None))
    return (get_args(hint)[0], get_args(hint)[1]) if get_origin(hint) is Annotated else (hint, None)


def wrong(key):
    """Values that the key cannot have, as text."""
    kind, bounds = bare(HINTS[key])
    found = ["[1, [2]]" if get_origin(kind) not in (list, tuple) else "{a: 1}", "2001-02-03"]
    if bounds is not None:
        found += [str(end + step) for end, step in ((bounds.low, -1), (bounds.high, 1)) if end is not None]
    if kind in (int, float, bool) or get_origin(kind) in (Literal, dict):
        found += ["nonsense", ".nan"]
    return st.tuples(st.just(key), st.sampled_from(found))


def right(key):
    """Values that the key alone may have, as text."""
    kind, bounds = bare(HINTS[key])
    if get_origin(kind) is Literal:
        return st.tuples(st.just(key), st.sampled_from(get_args(kind)))
    if get_origin(kind) is dict:
        names = get_args(get_args(kind)[0])
        tables = st.dictionaries(st.sampled_from(names), st.sampled_from([0.1, 1.0]), min_size=1, max_size=3)
        return st.tuples(st.just(key), tables.map(lambda t: "{" + ", ".join(f"{k}: {v}" for k, v in t.items()) + "}"))
    if get_origin(kind) is list:
        return st.tuples(st.just(key), st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True).map(str))
    low = 0 if bounds is None or bounds.low is None else bounds.low
    high = low + 6 if bounds is None or bounds.high is None else min(bounds.high, low + 6)
    if kind is bool:
        return st.tuples(st.just(key), st.sampled_from(["true", "false"]))
    numbers = st.integers(int(low), int(high)) if kind is int else st.sampled_from([low, low + (high - low) / 600])
    return st.tuples(st.just(key), numbers.map(str))


QUIET = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.fault(17, "values of another type or out of range, several at once, drawn by Hypothesis",
                   "exit 2, every one of them named")  # fmt: skip
def test_every_wrong_configuration_is_refused_by_name(capsys, record_property):
    count = int(25 * TIMES)

    @settings(max_examples=count, **QUIET)
    @given(st.lists(st.sampled_from(sorted(HINTS)).flatmap(wrong), min_size=1, max_size=4, unique_by=lambda x: x[0]))
    def refused(pairs):
        assert train_py.main(["debug", *(f"--{key}={text}" for key, text in pairs)]) == 2
        said = capsys.readouterr().err
        assert all(any(line.startswith((f"{key}:", f"{key}[")) for line in said.splitlines()) for key, _ in pairs), said

    refused()
    record_property("times", count)


TINY = ["debug", "--run.frames", "14", "--train.prefill", "12", "--train.ratio", "0", "--log.final_episodes", "1",
        "--model.cnn", "[3, 4]", "--env.size", "[16, 16]"]  # fmt: skip


@pytest.mark.fault(17, "right configurations drawn by Hypothesis, a few keys at a time", "they train two updates")
def test_every_right_configuration_trains(tmp_path, capfd, record_property):
    count, trained = int(9 * TIMES), []

    @settings(max_examples=count, **QUIET)
    @given(st.lists(st.sampled_from(LEARNT).flatmap(right), min_size=1, max_size=4, unique_by=lambda x: x[0]))
    def trains(pairs):
        argv = [*TINY, "--run.root", str(tmp_path / str(len(trained))), *(f"--{key}={text}" for key, text in pairs)]
        try:
            config.parse(argv)
        except config.ConfigError as error:
            assert error.problems  # fine alone, impossible together
            return
        code = train_py.main(argv)
        said = capfd.readouterr().err
        if code == 2:
            assert any(key in said for key, _ in pairs), said  # such as a goal that is nowhere
            return
        assert code == 0, (pairs, said)
        trained.append(pairs)

    trains()
    assert len(trained) > count / 3
    record_property("times", len(trained))
