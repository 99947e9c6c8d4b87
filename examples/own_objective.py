"""Give the world model an objective of your own: its latent has to know how bright a picture is.

PYTHONPATH=. python examples/own_objective.py --frames 5000
"""

import argparse

from torch import nn

import worldmodel
from worldmodel import registry
from worldmodel.model.objectives import Objective


class Brightness(Objective):
    """Squared error of the mean of every picture, predicted from the latent."""

    loss_names = ["brightness"]

    def __init__(self, settings, spec):
        super().__init__()
        self.predict = nn.Linear(spec.feat, len(spec.obs.pictures))

    def forward(self, ctx):
        """ctx holds the batch, the posterior and its features (B,T,F); losses are (B,T)."""
        found = self.predict(ctx.feat).float()
        loss = 0.0
        for i, name in enumerate(ctx.mean_images):
            wanted = ctx.batch[name].float().mean((-1, -2, -3)) / 255
            loss = loss + (found[..., i] - wanted).square()
        return {"brightness": loss}, {"bright/predicted": found.mean()}


# A run that uses it needs this line wherever it is loaded.
registry.OBJECTIVES["brightness"] = f"{__name__}:Brightness"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="pendulum")
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--root", default="runs")
    args = parser.parse_args()
    run = worldmodel.train(
        args.preset,
        name="bright",
        frames=args.frames,
        run={"root": args.root},
        loss={"objective": {"reconstruction": 1.0, "brightness": 10.0}},
    )
    last = (run.path / "metrics.jsonl").read_text().splitlines()[-1]
    print(f"{run}\n{last}")


if __name__ == "__main__":
    main()
