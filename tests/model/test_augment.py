"""Random shifts: one for a whole sequence, of what the encoder sees while it learns and of nothing
else.
"""

import pytest
import torch

from blocks import batch_of, learner_of
from test_model import T, make, random_batch
from worldmodel.model.augment import draw_shifts, shift_pictures
from worldmodel.replay.start_states import BurnInStart


def test_a_shift_by_hand():
    picture = torch.arange(12.0).view(1, 1, 3, 4, 1).expand(1, 2, 3, 4, 3)
    found = shift_pictures(picture, torch.tensor([[[1, -2]]]).expand(1, 2, 2))[0, 0, :, :, 0]
    # a row from below comes up, the last one twice; two columns go right, the first one three
    # times
    want = torch.tensor([[4, 4, 4, 5], [8, 8, 8, 9], [8, 8, 8, 9]]).float()
    assert torch.equal(found, want)


def test_shifts_are_drawn_per_sequence_within_bounds_and_evenly():
    torch.manual_seed(0)
    shifts = draw_shifts(2000, 5, 3, torch.device("cpu"))
    assert shifts.shape == (2000, 5, 2) and (shifts == shifts[:, :1]).all()
    counts = torch.bincount((shifts[:, 0] + 3).flatten(), minlength=7)
    assert len(counts) == 7 and (counts / 4000 - 1 / 7).abs().max() < 0.03


def test_every_sequence_moves_as_it_was_told():
    picture = torch.rand(3, 4, 8, 6, 3)
    shifts = draw_shifts(3, 4, 2, torch.device("cpu"))
    found = shift_pictures(picture, shifts)
    for b in range(3):
        y, x = shifts[b, 0].tolist()
        rows, columns = (torch.arange(8) + y).clamp(0, 7), (torch.arange(6) + x).clamp(0, 5)
        assert torch.equal(found[b], picture[b][:, rows][:, :, columns])


@pytest.mark.parametrize(
    "objective", ["{reconstruction: 1.0}", "{contrastive: 1.0}", "{prototypes: 1.0}"]
)
def test_only_the_encoder_sees_them_and_only_while_learning(objective):
    _, model = make(
        f"loss.objective={objective}", "augment.shift=4", "prototypes.count=9", "loss.probe=false"
    )
    _, plain = make(f"loss.objective={objective}", "prototypes.count=9", "loss.probe=false")
    batch = random_batch()
    assert torch.equal(model.encode(batch), plain.encode(batch))  # an agent at work
    torch.manual_seed(0)
    moved = model.augment(batch)
    assert moved["image"] is batch["image"] and moved["shift/image"].shape == (3, T, 2)
    assert not torch.equal(model.encode(moved), model.encode(batch))
    assert "shift/image" not in plain.augment(batch)


def test_the_slow_encoder_has_a_view_of_its_own():
    learner = learner_of("{prototypes: 1.0}", "augment.shift=4")
    model, batch = learner.model, batch_of(0)[0]
    seen = []
    model.slow.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]["image"]))
    moved = model.augment(batch)
    embed, post, prior = model.observe(moved)
    ctx = model._make_context(moved, embed, post, prior, model.dynamics.features(post))
    model.objectives["prototypes"](ctx)
    own = shift_pictures(
        model.mean_images.image.subtract_from(batch["image"]), moved["shift/image"]
    )
    assert seen[0].shape == own.shape and not torch.equal(seen[0], own)


def test_a_burnt_in_start_has_the_same_shift():
    learner = learner_of(
        "{contrastive: 1.0}", "augment.shift=4", "replay.start=burnin", "replay.burnin=3"
    )
    learner.starts = BurnInStart(3)
    batch, _ = learner._prepare(batch_of(0)[0])
    assert batch["shift/image"].shape[1] == batch["image"].shape[1] == 5
    assert torch.isfinite(learner.update(batch_of(1)[0])["loss/total"])


def test_the_decoder_still_draws_pictures_where_they_are():
    """A shifted input is to be drawn unshifted, as far as the latent can know: the loss compares
    with the truth.
    """
    learner = learner_of("{reconstruction: 1.0}", "augment.shift=2")
    batch, _ = batch_of(0)
    torch.manual_seed(0)
    moved = learner.model.augment(batch)
    torch.manual_seed(1)
    losses, *_ = learner.model.losses(moved)
    torch.manual_seed(1)
    embed, post, _ = learner.model.observe(moved)
    drawn = learner.model.objectives["reconstruction"].decode(
        learner.model.dynamics.features(post)
    )["image"]
    want = learner.model.mean_images.image.error(
        drawn.flatten(0, 1), batch["image"].flatten(0, 1)
    ).view(16, 8)
    torch.testing.assert_close(losses["image"], want)
