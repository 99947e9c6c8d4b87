"""A tiny world to learn from: a block that actions move, and a distractor that jumps about.

`python -m tests.support.blocks` prints what each objective's latent knows of the two.
"""

import torch

from worldmodel import build
from worldmodel.config import loading
from worldmodel.evaluation.quality.state_probe import state_r2
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner

BOX, CODES = ActionSpace(1), ActionSpace(3, (3,), True)
SIDE, CELLS = 32, 8
SMALL = [
    "debug",
    "run.precision=fp32",
    "model.deter=32",
    "model.stoch=8",
    "model.hidden=32",
    "model.cnn=[8, 16]",
    "model.units=32",
    "optim.lr=3e-3",
    "optim.eps=1e-8",
    "loss.overshooting=1",
    "loss.probe=false",
    "replay.length=8",
    "replay.batch=16",
    "prototypes.count=64",
    "prototypes.freeze=20",
]


# name: its weight, settings, updates, whether the block earns rewards, and what is then known of
# the distractor.
LESSONS = {
    "reconstruction": (1.0, [], 150, False, "kept"),
    "contrastive": (10.0, [], 120, False, "kept"),
    "forward_contrastive": (10.0, [], 80, False, "lost"),
    "inverse": (10.0, [], 100, False, "lost"),
    "barlow": (0.1, [], 80, False, "kept"),
    "prototypes": (3.0, [], 140, False, "kept"),
    "bootstrap": (30.0, ["model.latent=categorical"], 100, False, "lost"),
    "bottleneck": (1.0, ["loss.reward=100", "bottleneck.rate=0.1"], 100, True, "lost"),
    "reward_only": (1.0, ["loss.reward=100"], 140, True, "lost"),
}


def batch_of(seed, space=CODES, batch=16, length=8, cut=True, paid=False):
    """A batch, and the true columns (B,T,2) of block and distractor; `paid` the more the further
    right the block is.
    """
    g = torch.Generator().manual_seed(seed)
    action = space.random(batch * length, g).view(batch, length, -1)
    move = action.argmax(-1).float() - 1 if space.discrete else action[..., 0]
    is_first = torch.zeros(batch, length, dtype=torch.bool)
    is_first[:, 0] = True
    if cut:
        is_first |= torch.rand(batch, length, generator=g) < 0.05
    fresh = torch.rand(batch, length, generator=g) * (CELLS - 1)
    column = [fresh[:, 0].round()]
    for t in range(1, length):
        moved = (column[-1] + move[:, t]).clamp(0, CELLS - 1)
        column.append(torch.where(is_first[:, t], fresh[:, t].round(), moved))
    column = torch.stack(column, 1)
    distractor = (torch.rand(batch, length, generator=g) * (CELLS - 1)).round()
    flags = {
        "is_first": is_first,
        "is_last": is_first.roll(-1, 1),
        "is_terminal": torch.zeros_like(is_first),
    }
    reward = column / (CELLS - 1) * paid
    batch = {"image": draw(column, distractor), "prev_action": action, "reward": reward, **flags}
    return batch, torch.stack([column, distractor], -1)


def draw(column, distractor):
    """Pictures (...,SIDE,SIDE,3): the block red in the upper half, the distractor green in the
    lower.
    """
    picture = torch.zeros(*column.shape, SIDE, SIDE, 3, dtype=torch.uint8)
    pixel = torch.arange(SIDE)
    for where, rows, channel in ((column, slice(6, 12), 0), (distractor, slice(20, 26), 1)):
        left = (where * (SIDE // CELLS)).round()[..., None]
        covered = ((pixel >= left) & (pixel < left + SIDE // CELLS)).to(torch.uint8) * 255
        picture[..., rows, :, channel] = covered[..., None, :]
    return picture


def learner_of(objective, *overrides, space=CODES, seed=0):
    c = loading.parse([*SMALL, f"loss.objective={objective}", *overrides])
    torch.manual_seed(seed)
    model = build.make_model(c, ObservationSpace({"image": (SIDE, SIDE, 3)}), space)
    return Learner(model, c.optim, torch.device("cpu"), c.run.precision)


def taught(objective, updates, *overrides, space=CODES, paid=False, seed=0):
    """A learner after some updates, each on a new batch, and its last metrics."""
    learner = learner_of(objective, *overrides, space=space, seed=seed)
    for i in range(1000 * seed, 1000 * seed + updates):
        metrics = learner.update(batch_of(i, space, paid=paid)[0])
    return learner, metrics


@torch.no_grad()
def known(model, space=CODES):
    """R^2 of the block's and of the distractor's column, read linearly off the features."""
    pairs = [batch_of(10**6 + i, space, cut=False) for i in range(6)]
    torch.manual_seed(0)
    feats = [
        model.dynamics.features(model.observe(batch)[1])[:, 2:].flatten(0, 1) for batch, _ in pairs
    ]
    states = [state[:, 2:].flatten(0, 1) for _, state in pairs]
    x, held_x = (torch.cat(feats[i:j]).double().numpy() for i, j in ((0, 4), (4, 6)))
    y, held_y = (torch.cat(states[i:j]).double().numpy() for i, j in ((0, 4), (4, 6)))
    return state_r2(x, y, held_x, held_y).tolist()


def main(seeds=3):
    torch.set_num_threads(1)
    for name, (weight, settings, updates, paid, _) in LESSONS.items():
        runs = [
            taught(f"{{{name}: {weight}}}", updates, *settings, paid=paid, seed=k)[0]
            for k in range(seeds)
        ]
        found = [known(learner.model) for learner in runs]
        rows = ["  ".join(f"{x:5.2f}" for x in column) for column in zip(*found, strict=True)]
        print(f"{name:<20} block {rows[0]}   distractor {rows[1]}", flush=True)


if __name__ == "__main__":
    main()
