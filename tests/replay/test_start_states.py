"""Start states of replayed sequences: empty, after burn-in, or stored by the agent."""

import numpy as np
import pytest
import torch

from test_model import KINDS, T, make, name_kind, random_batch
from worldmodel.replay.start_states import NO_STATE, BurnInStart, StoredStart, ZeroStart
from worldmodel.spaces import add_prefix, count_states, map_state
from worldmodel.training.learner import Learner

FIRST = 3  # where the sequence is cut in two


def without_starts(batch):
    """Remove episode starts within the sequences."""
    batch["is_first"] = torch.zeros_like(batch["is_first"])
    return batch


def tail(batch):
    return {k: v[:, FIRST:] for k, v in batch.items()}


@pytest.mark.parametrize("kind", KINDS, ids=name_kind)
def test_a_stored_state_starts_a_sequence_where_the_whole_one_would_be(kind):
    _, model = make(*kind, "loss.overshooting=1")
    batch = without_starts(random_batch())
    torch.manual_seed(1)
    with torch.no_grad():
        _, whole, _ = model.observe(batch)
        state = map_state(whole, lambda v: v[:, FIRST - 1])
        row_batch = {**tail(batch), **stored_columns(model, state, update=5)}
        given, metrics = StoredStart(10).prepare(model, row_batch, 12)
        _, warm, _ = model.observe(given)
        _, cold, _ = model.observe(tail(batch))
    assert metrics["warm"] == 1 and not any(k.startswith("before_") for k in given)
    # What is carried into the step is the same up to half precision; the step's own sample is
    # drawn anew.
    warm, cold = (predicted(model, post)[:, 0] for post in (warm, cold))
    assert torch.allclose(warm, predicted(model, whole)[:, FIRST], atol=5e-3)
    assert not torch.allclose(cold, predicted(model, whole)[:, FIRST], atol=5e-3)


def predicted(model, post):
    """What the model expects of each step's latent before it is observed: (B,T,S)."""
    return model.dynamics.mean_latent(model.dynamics.predict_latent(post))


def stored_columns(model, state, update):
    """Make the batch columns of states that went through replay rows; only the first step's
    count.
    """
    starts = StoredStart(10)
    columns = {k: [] for k in starts.spec(state)}
    rows = [{} for _ in range(count_states(state))]
    starts.add_state(rows, state, update)
    for row in rows:
        for key, (shape, dtype) in starts.spec(state).items():
            value = np.asarray(row[key])
            assert value.shape == shape and value.dtype == dtype
            columns[key].append(value)
    found = {k: torch.from_numpy(np.stack(v)).unsqueeze(1) for k, v in columns.items()}
    return {k: torch.cat([v, *[v - 9] * (T - FIRST - 1)], 1) for k, v in found.items()}


@pytest.mark.parametrize(
    ("stamp", "known"), [(NO_STATE, False), (1, False), (2, True), (12, True)]
)
def test_states_that_are_missing_or_too_old_count_as_unknown(stamp, known):
    _, model = make()
    batch = without_starts(random_batch())
    batch = {**tail(batch), **stored_columns(model, model.dynamics.initial(3), stamp)}
    given, metrics = StoredStart(10).prepare(model, batch, 12)
    assert (given["is_first"][:, 0] == (not known)).all() and not given["is_first"][:, 1:].any()
    assert metrics["warm"] == known and not batch["is_first"][:, 0].any()


def test_burning_in_ends_where_the_whole_sequence_would_be_and_teaches_nothing():
    _, model = make("model.transition=rnn", "model.latent=deterministic")
    batch = without_starts(random_batch())
    _, whole, _ = model.observe(batch)
    given, _ = BurnInStart(FIRST).prepare(model, batch, 0)
    assert given["image"].shape[1] == T - FIRST
    assert not any(v.requires_grad for k, v in given.items() if k.startswith("start_"))
    _, warm, _ = model.observe(given)
    features = model.dynamics.features
    assert torch.allclose(features(warm), features(whole)[:, FIRST:], atol=1e-6)


def test_an_episode_that_starts_at_the_first_step_forgets_the_state_it_is_given():
    _, model = make("model.transition=rnn", "model.latent=deterministic")
    batch = random_batch()
    wild = map_state(model.dynamics.initial(3), lambda v: torch.full_like(v, 9.0))
    wild = add_prefix(wild, "start_")
    assert batch["is_first"][:, 0].all()
    found = [model.dynamics.features(model.observe(b)[1]) for b in ({**batch, **wild}, batch)]
    assert torch.equal(*found)


@pytest.mark.parametrize("starts", [ZeroStart(), BurnInStart(FIRST), StoredStart(10)])
def test_the_learner_updates_from_every_kind_of_start(starts):
    c, model = make()
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32", starts=starts)
    batch = random_batch(length=T + starts.lead)
    if isinstance(starts, StoredStart):
        state = {k: torch.randn_like(v) for k, v in model.dynamics.initial(3).items()}
        batch = {**tail(batch), **stored_columns(model, state, 0)}
    before = [p.clone() for p in learner.optimizers.parameters]
    metrics = learner.update(batch)
    assert torch.isfinite(metrics["loss/total"]) and learner.skip_count == 0
    assert any(
        not torch.equal(a, b) for a, b in zip(before, learner.optimizers.parameters, strict=True)
    )
