"""Samplers: legal starts only, distributed as the formula says, and the same after a restart."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from test_buffer import assert_same, assert_true, fill, make
from test_shards import save_state, shard

from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.replay.samplers import draw_by_weight
from worldmodel.replay.samplers.uniform import Uniform
from worldmodel.replay.segments import Segments
from worldmodel.replay.shards import reshard

CONFIG = loading.parse([]).replay
LENGTH = 6
EVERY = pytest.mark.parametrize("name", registry.SAMPLERS)


def sampler_of(name, **changes):
    return build.make_sampler(dataclasses.replace(CONFIG, sampler=name, **changes))


def losses_of(batch):
    """Made-up losses (B,T) that say where they come from."""
    return 0.5 + (batch["clock"] % 11) ** 2 / 10


def learn(replay, updates, batch=5, lead=2):
    """Draw batches as training does, and hand the losses of all but the first steps back."""
    drawn = []
    for _ in range(updates):
        drawn.append(replay.sample(batch, LENGTH + lead))
        if replay.sampler.needs_losses:
            replay.record_losses(losses_of(drawn[-1])[:, lead:])
    return drawn


def reload(replay, directory, name, changes=(), **kwargs):
    """A new buffer with what a checkpoint would hold of this one."""
    state = json.loads(json.dumps(replay.state_dict()))
    kept = {k: v.copy() for k, v in replay.sampler.state_dict().items()}
    again = make(directory, seed=99, sampler=sampler_of(name, **dict(changes)), **kwargs)
    again.load_state_dict(state)
    if kept:
        again.sampler.load_state_dict(kept)
    return again


def with_hole(tmp_path, name):
    """A buffer whose stream 0 has lost rows 16 to 23 of 40; stream 1 has 45."""
    replay = fill(make(tmp_path), 40)
    fill(replay, 5, start=40, streams=(1,))
    replay.flush(strict=True)
    (tmp_path / "0000-00000002.rows").unlink()
    return reload(replay, tmp_path, name)


def starts_of(index):
    """Every legal start as (stream, row), in the order of their numbers."""
    return [
        (stream, first + i)
        for stream, first, count in zip(index.streams, index.firsts, index.counts, strict=True)
        for i in range(count)
    ]


def assert_distributed(counts, probabilities):
    """Chi-square of counts against probabilities; rare outcomes are taken together."""
    expected = counts.sum() * probabilities / probabilities.sum()
    order = np.argsort(expected)
    groups = np.cumsum(expected[order]) // 12
    _, groups = np.unique(groups, return_inverse=True)
    found, wanted = (np.bincount(groups, v[order]) for v in (counts, expected))
    free = len(found) - 1
    assert free >= 5
    assert ((found - wanted) ** 2 / wanted).sum() < free + 4 * np.sqrt(2 * free)


# ---- every sampler


@EVERY
def test_sequences_are_whole_and_never_cross_a_gap(tmp_path, name):
    replay = with_hole(tmp_path, name)
    legal = {*range(11), *range(24, 35), *range(10**6, 10**6 + 40)}
    found = set()
    for _ in range(60):
        batch = learn(replay, 1, batch=16, lead=0)[0]
        assert_true(batch, LENGTH)
        found |= set(batch["clock"][:, 0].tolist())
    assert found <= legal and len(found) > len(legal) // 2


@EVERY
def test_the_same_generator_gives_the_same_batches(name):
    one, same, other = (fill(make(seed=seed, sampler=sampler_of(name)), 60) for seed in (1, 1, 2))
    drawn = learn(one, 8)
    for a, b in zip(drawn, learn(same, 8), strict=True):
        assert_same(a, b)
    assert not np.array_equal(drawn[-1]["clock"], learn(other, 8)[-1]["clock"])


@EVERY
@pytest.mark.parametrize("store", ["ram", "disk", "ram zstd", "disk zstd"])
@pytest.mark.parametrize("rows", [10_000, 100])
def test_a_restart_is_not_noticed(tmp_path, name, store, rows):
    replay = make(tmp_path, store, rows=rows, sampler=sampler_of(name))
    for start in range(0, 75, 25):
        learn(fill(replay, 25, start=start), 3)
    replay.flush(strict=True)
    again = reload(replay, tmp_path, name, store=store, rows=rows)
    # What is written after the checkpoint lies in files of the same names, so the run that goes
    # on without a stop is another one, in memory.
    unbroken = make(None, store.replace("disk", "ram"), rows=rows, sampler=sampler_of(name))
    for start in range(0, 75, 25):
        learn(fill(unbroken, 25, start=start), 3)
    for start in range(75, 125, 10):
        for a, b in zip(
            learn(fill(again, 10, start=start), 2),
            learn(fill(unbroken, 10, start=start), 2),
            strict=True,
        ):
            assert_same(a, b)
    assert again.state_dict()["generator"] == unbroken.state_dict()["generator"]
    assert_same(again.sampler.state_dict(), unbroken.sampler.state_dict())


@EVERY
def test_what_is_kept_follows_the_chunks_to_other_ranks(tmp_path, name):
    """From two ranks to one and to three: every row keeps what was known of it."""
    ranks = [shard(tmp_path, rank, 2, sampler=sampler_of(name)) for rank in range(2)]
    for rank, replay in enumerate(ranks):
        learn(fill(replay, 60, streams=(rank,)), 6)
    before = rows_of(ranks)
    states, kept = [save_state(r) for r in ranks], [r.sampler.state_dict() for r in ranks]
    for size in (1, 3):
        manifests, again = reshard(states, size, 1), []
        for rank, manifest in enumerate(manifests):
            again.append(shard(tmp_path, rank, size, sampler=sampler_of(name)))
            manifest.setdefault("generator", again[-1].state_dict()["generator"])
            elsewhere = {c["file"] for m in manifests if m is not manifest for c in m["chunks"]}
            again[-1].load_state_dict(manifest, elsewhere)
            for state in filter(None, kept):
                again[-1].sampler.load_state_dict(state)
        assert rows_of(again) == before


def rows_of(replays):
    """What samplers keep, by (stream, row)."""
    found = {}
    for replay in replays:
        state = replay.sampler.state_dict()
        values = zip(*(v.tolist() for k, v in state.items() if k != "chunks"), strict=True)
        places = (
            (stream, number * replay.chunk_rows + i)
            for stream, number in state.get("chunks", np.zeros((0, 2), int)).tolist()
            for i in range(replay.chunk_rows)
        )
        found |= dict(zip(places, values, strict=True))
    return found


# ---- each sampler's own distribution


def counts_of(sampler, index, draws=40_000):
    generator = np.random.default_rng(0)
    drawn = sampler(index, draws, generator)
    assert drawn.shape == (draws,) and drawn.dtype == np.int64
    return np.bincount(drawn, minlength=len(index))


def index_of(*runs, length=LENGTH):
    segments = Segments()
    for stream, first, rows in runs:
        segments.extend(stream, first, rows)
    return segments.index_starts(length)


RUNS = ((0, 8, 30), (0, 50, 9), (0, 90, 3), (2, 40, 37))


def test_the_index_numbers_every_legal_start():
    index = index_of(*RUNS)
    places = starts_of(index)
    assert len(index) == len(places) == 25 + 4 + 32
    streams, rows = index.locate(np.arange(len(index)))
    assert list(zip(streams.tolist(), rows.tolist(), strict=True)) == places
    assert index.rows().tolist() == [row for _, row in places]
    assert len(index_of(*RUNS, length=38)) == 0


def test_uniform_is_uniform():
    index = index_of(*RUNS)
    assert_distributed(counts_of(Uniform(), index), np.ones(len(index)))


def test_a_draw_at_the_very_end_is_the_last_start():
    class End:
        def random(self, size):
            return np.ones(size)  # where rounding may reach

    assert draw_by_weight(np.array([2.0, 1.0, 4.0]), 3, End()).tolist() == [2, 2, 2]


def test_uniform_draws_the_numbers_it_always_has():
    """From one generator, whole numbers below the count of starts: runs made before resume."""
    drawn = Uniform()(index_of(*RUNS), 16, np.random.default_rng(7))
    assert drawn.tolist() == np.random.default_rng(7).integers(np.int64(61), size=16).tolist()
    assert drawn.tolist()[:6] == [57, 38, 41, 54, 35, 47]


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("share", [0.5, 1.0, 0.0])
def test_recent_mixes_uniform_with_a_power_of_age(power, share):
    index = index_of(*RUNS)
    newest = 40 + 37 - LENGTH  # of both streams
    weights = np.array([float(newest + 1 - row) ** -power for _, row in starts_of(index)])
    wanted = share * weights / weights.sum() + (1 - share) / len(index)
    sampler = sampler_of("recent", recent_power=power, recent_share=share)
    assert_distributed(counts_of(sampler, index), wanted)


def rated(losses, **changes):
    """A sampler that has seen stream 0's 24 rows so often with such losses, and its index."""
    sampler = sampler_of("prioritized", **changes)
    sampler.clear(8)
    for number in range(4):
        sampler.add_chunk(0, number)
    for row, (loss, visits) in enumerate(losses):
        for _ in range(visits):
            sampler.record_losses(np.array([0]), np.array([row]), np.array([[loss]]))
    return sampler, index_of((0, 0, len(losses)))


PAPER = {
    "loss_power": 0.7,
    "loss_floor": 0.01,
    "novelty": 1e4,
    "novelty_decay": 0.7,
    "priority_max": 1e5,
}


@pytest.mark.parametrize(
    "changes", [PAPER, {**PAPER, "novelty": 0.0}, {**PAPER, "novelty": 3.0, "priority_max": 4.0}]
)
def test_prioritized_is_by_novelty_and_loss_of_the_last_row(changes):
    rng = np.random.default_rng(3)
    losses = [(float(rng.gamma(2.0)), int(rng.integers(1, 30))) for _ in range(24)]
    sampler, index = rated(losses, **changes)
    wanted = [
        changes["novelty"] * changes["novelty_decay"] ** visits
        + (loss + changes["loss_floor"]) ** changes["loss_power"]
        for loss, visits in losses
    ]
    wanted = np.minimum(wanted, changes["priority_max"])[LENGTH - 1 :]
    assert_distributed(counts_of(sampler, index), wanted)


def test_rows_never_learnt_from_have_the_largest_priority_and_are_drawn_first():
    sampler, index = rated([(1e9, 1)] * 12 + [(0.5, 0)] + [(0.5, 9)] * 11)
    priority = sampler.state_dict()["priority"][:24]
    assert priority[12] == np.float32(CONFIG.priority_max) == priority[:12].max()
    assert (priority[13:] < 500).all()
    sampler, index = rated([(0.5, 9)] * 20 + [(0.5, 0)] + [(0.5, 9)] * 3)
    drawn = sampler(index, 1000, np.random.default_rng(0))
    assert (drawn + LENGTH - 1 == 20).mean() > 0.9


def test_losses_reach_exactly_the_rows_that_were_learnt_from():
    replay = fill(make(sampler=sampler_of("prioritized", novelty=0.0)), 40)
    batch = replay.sample(3, LENGTH + 2)
    replay.record_losses(losses_of(batch)[:, 2:])
    state, seen = replay.sampler.state_dict(), set(batch["clock"][:, 2:].ravel().tolist())
    places = [
        stream * 10**6 + number * 8 + i
        for stream, number in state["chunks"].tolist()
        for i in range(8)
    ]
    for place, priority, visits in zip(places, state["priority"], state["visits"], strict=True):
        assert (visits > 0) == (place in seen)
        if place in seen:
            assert visits == (batch["clock"][:, 2:] == place).sum()
            loss = float(losses_of({"clock": np.array(place)}))
            assert priority == pytest.approx((loss + CONFIG.loss_floor) ** 0.7, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_counts_as_none(bad):
    sampler, index = rated([(0.5, 4)] * 23 + [(bad, 4)], novelty=0.0)
    priority = sampler.state_dict()["priority"]
    assert priority[23] == np.float32(0.01**0.7) < priority[22]
    assert len(sampler(index, 4, np.random.default_rng(0))) == 4


def test_a_ring_keeps_ratings_of_the_rows_it_holds_only():
    replay = make(rows=100, sampler=sampler_of("prioritized"))
    for start in range(0, 400, 10):
        learn(fill(replay, 10, start=start), 1)
    chunks = replay.sampler.state_dict()["chunks"].tolist()
    assert sorted(map(tuple, chunks)) == sorted(replay._chunks)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.update(priority=s["priority"][:-1]),
        lambda s: s["priority"].__setitem__(3, np.nan),
        lambda s: s["priority"].__setitem__(3, 0.0),
        lambda s: s["visits"].__setitem__(3, -1),
        lambda s: s.update(chunks=s["chunks"][:, :1]),
        lambda s: s.update(chunks=s["chunks"][:-1]),
    ],
)
def test_ratings_that_nobody_saved_like_this_are_refused(tmp_path, spoil):
    replay = fill(make(tmp_path, sampler=sampler_of("prioritized")), 20)
    state = replay.sampler.state_dict()
    spoil(state)
    with pytest.raises(ValueError, match="priorities"):
        replay.sampler.load_state_dict(state)


# ---- the learner's side


def learner_of(name):
    from test_model import make as make_model
    from test_model import random_batch
    from worldmodel.training.learner import Learner

    c, model = make_model("replay.sampler=" + name)
    learner = Learner(
        model,
        c.optim,
        torch.device("cpu"),
        "fp32",
        by_row=build.make_sampler(c.replay).needs_losses,
    )
    return learner, random_batch


def test_losses_by_row_are_those_that_train_and_cost_the_others_nothing():
    shown, weights = {}, {}
    for name in ("uniform", "prioritized"):
        torch.manual_seed(0)
        learner, random_batch = learner_of(name)
        torch.manual_seed(1)
        for _ in range(3):
            shown[name] = learner.update(random_batch())
        weights[name] = learner.model.state_dict()
        rows = learner.row_losses
    assert shown["uniform"].keys() == shown["prioritized"].keys()
    assert_same(
        *(
            {k: v.numpy() for k, v in w.items()}
            for w in (weights["uniform"], weights["prioritized"])
        )
    )
    assert rows.shape == random_batch()["reward"].shape and not rows.requires_grad
    assert float(rows.mean()) == pytest.approx(float(shown["prioritized"]["loss/total"]), rel=1e-4)
    assert learner_of("uniform")[0].row_losses is None
