"""The mean picture: learnt from the first updates, taken out on the way in, put back on the way
out.
"""

import pytest
import torch

from worldmodel import build
from worldmodel.config import loading
from worldmodel.model.mean_image import MeanImage, to_pixels
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner

SMALL = [
    "env.size=[32, 32]",
    "model.deter=32",
    "model.latent=categorical",
    "model.stoch=8",
    "model.classes=8",
    "model.hidden=32",
    "model.units=32",
    "model.cnn=[16, 16, 32]",
    "model.layers=1",
    "loss.overshooting=1",
    "loss.image=3",
    "optim.lr=4e-3",
    "run.precision=fp32",
]


def pictures(*shape, seed=0):
    return torch.randint(
        0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def test_it_is_the_mean_of_the_watched_updates_and_then_stays():
    batches = [pictures(2, 3, 4, 6, 3, seed=i) for i in range(5)]
    mean_image = MeanImage((4, 6, 3), updates=3)
    for update, batch in enumerate(batches):
        mean_image.accumulate(batch, update)
    want = torch.stack(batches[:3]).float().mean((0, 1, 2))
    torch.testing.assert_close(mean_image.picture, want)


def test_without_it_pictures_are_centred_around_grey_and_checkpoints_hold_nothing():
    mean_image, image = MeanImage((4, 6, 3), updates=0), pictures(2, 3, 4, 6, 3)
    mean_image.accumulate(image, 0)
    torch.testing.assert_close(mean_image.subtract_from(image), image / 255 - 0.5)
    assert not mean_image.state_dict()
    assert MeanImage((4, 6, 3), updates=1).state_dict().keys() == {"picture"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_taken_out_can_be_put_back(dtype):
    mean_image, image = MeanImage((4, 6, 3), updates=1), pictures(2, 3, 4, 6, 3)
    mean_image.accumulate(image, 0)
    back = to_pixels(mean_image.add_to(mean_image.subtract_from(image, dtype)))
    assert (back.int() - image.int()).abs().max() <= (0 if dtype == torch.float32 else 1)


def scenes(seed):
    """A square pushed around on a loud still picture; (B,T,32,32,3)."""
    g = torch.Generator().manual_seed(seed)
    still = pictures(32, 32, 3, seed=99)
    action = torch.rand(8, 12, 2, generator=g) * 2 - 1
    place = torch.rand(8, 1, 2, generator=g) * 24 + 3
    path = (place + 3 * action.cumsum(1)).clamp(3, 28).round().long()
    batch = still.repeat(8, 12, 1, 1, 1)
    for row in range(8):
        for t in range(12):
            y, x = path[row, t].tolist()
            batch[row, t, y - 3 : y + 3, x - 3 : x + 3] = torch.tensor(
                [255, 80, 0], dtype=torch.uint8
            )
    first = torch.zeros(8, 12, dtype=torch.bool)
    first[:, 0] = True
    rest = {
        "is_first": first,
        "is_last": first.roll(-1, 1),
        "is_terminal": torch.zeros_like(first),
    }
    return {"image": batch, "prev_action": action, "reward": torch.zeros(8, 12), **rest}


def explained(watched, updates=120):
    """Share of what moves, in new scenes, that comes back in reconstructions."""
    torch.manual_seed(0)
    c = loading.parse([*SMALL, f"model.backdrop={watched}"])
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), ActionSpace(2))
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    for i in range(updates):
        learner.update(scenes(i))
    new = scenes(1000)
    truth = new["image"] / 255
    with torch.no_grad():
        found = model.decode(model.dynamics.features(model.observe(new)[1]))["image"]
    return float(
        1 - (found - truth).square().mean() / (truth.mean((0, 1)) - truth).square().mean()
    )


def test_a_small_thing_on_a_loud_still_picture_is_seen_sooner():
    assert explained(watched=20) > 0.1 and explained(watched=0) < 0
