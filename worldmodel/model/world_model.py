"""The world model: encode, observe, imagine, predict, and the losses that train it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor, nn

from worldmodel.distributed import ALONE, World
from worldmodel.errors import UsageError
from worldmodel.model.augment import draw_shifts, shifted
from worldmodel.model.dynamics import Dynamics
from worldmodel.model.ema import Slow
from worldmodel.model.heads import ContinueHead, ScalarHead, means
from worldmodel.model.kl import free_nats, overshooting
from worldmodel.model.mean_image import MeanImage
from worldmodel.model.networks import Encoder
from worldmodel.model.objectives import Comparing, Context, Objective, Parts
from worldmodel.model.representation_metrics import spread
from worldmodel.spaces import (
    Batch,
    Losses,
    Metrics,
    ObservationSpace,
    State,
    map_state,
    select_prefix,
)

BY_ROW = "loss/by_row"


class WorldModel(nn.Module):
    """Encoder, dynamics, representation objectives and heads.

    `scales` holds the weight of every loss by name; the losses' names must equal its keys. `ema`
    is the rate at which a slow encoder follows, where an objective aims at one.
    `mean_image_updates` updates estimate the mean images.
    """

    measure_every = 10  # updates between looks at how far the representation spreads

    def __init__(
        self,
        observation: ObservationSpace,
        encoder: Encoder,
        dynamics: Dynamics,
        objectives: Mapping[str, tuple[Objective, float]],
        reward: ScalarHead,
        cont: ContinueHead,
        *,
        scales: dict[str, float],
        free: float,
        free_on: str,
        overshooting: int,
        shift: int,
        mean_image_updates: int,
        ema: float,
        probe: Objective | None,
        world: World = ALONE,
    ):
        super().__init__()
        self.observation = observation
        self.encoder, self.dynamics = encoder, dynamics
        self.mean_images = nn.ModuleDict()
        for name, shape in observation.pictures.items():
            self.mean_images[name] = MeanImage(shape, mean_image_updates)
        self.reward: ScalarHead = reward
        self.cont = cont
        self.objectives = nn.ModuleDict({name: module for name, (module, _) in objectives.items()})
        self.objective_weights = {name: weight for name, (_, weight) in objectives.items()}
        self.ends: Tensor  # whether any episode ever ended for good
        self.register_buffer("ends", torch.tensor(False))
        self.scales, self.world = scales, world
        self.free, self.free_on, self.overshooting, self.shift = free, free_on, overshooting, shift
        self.replaced = {
            name for objective, _ in objectives.values() for name in objective.replaces
        }
        self.slow = (
            Slow(encoder, ema) if any(o.needs_slow for o, _ in objectives.values()) else None
        )
        self.probe = probe
        self.measuring = True

    def watch(self, batch: Batch, update: int) -> Hashable:
        """Before an update is made of a batch: take in its mean picture, and whether episodes end.

        What is returned tells updates apart that do different things.
        """
        self.measuring = update % self.measure_every == 0
        self.ends |= self.world.mean(batch["is_terminal"].any().float()) > 0
        for name, mean_image in self._mean_images().items():
            mean_image.watch(batch[name], update, self.world.mean)
        return self.measuring, *(o.phase(update) for o in self._objectives())

    def augment(self, batch: Batch) -> Batch:
        """The batch, with a draw of how its pictures are to be moved where that is asked for."""
        if not self.shift:
            return batch
        (size, length), device = batch["is_first"].shape, batch["is_first"].device
        names = self.observation.pictures
        shifts = {f"shift/{k}": draw_shifts(size, length, self.shift, device) for k in names}
        return {**batch, **shifts}

    def after_update(self) -> None:
        """Once the weights have moved: what follows them does."""
        if self.slow is not None:
            self.slow.follow(self.encoder)
        for objective in self._objectives():
            objective.after_update(self.world.mean)

    def by_hand(self) -> list[Tensor]:
        """Weights that `after_update` moves besides the optimiser."""
        return [w for objective in self._objectives() for w in objective.by_hand()]

    def _objectives(self) -> list[Objective]:
        return [o for o in self.objectives.values() if isinstance(o, Objective)]

    def encode(self, batch: Batch, encoder: nn.Module | None = None) -> Tensor:
        """Embeddings (B,T,E) of what was seen, by the model's encoder or another."""
        encoder = self.encoder if encoder is None else encoder
        seen = dict(batch)
        for name, mean_image in self._mean_images().items():
            rough = torch.is_autocast_enabled(batch[name].device.type)
            dtype = torch.bfloat16 if rough else torch.float32
            seen[name] = mean_image.take_out(batch[name], dtype)
            if f"shift/{name}" in batch:
                seen[name] = shifted(seen[name], batch[f"shift/{name}"])
        return encoder(seen)

    def _mean_images(self) -> dict[str, MeanImage]:
        return {k: v for k, v in self.mean_images.items() if isinstance(v, MeanImage)}

    def observe(self, batch: Batch) -> tuple[Tensor, State, State]:
        """Embeddings, posteriors and priors of sequences; their first step counts as a start
        unless one is given.
        """
        start = select_prefix(batch, "start_")
        is_first = batch["is_first"].clone()
        is_first[:, 0] |= not start
        embed = self.encode(batch)
        return embed, *self.dynamics.observe(embed, batch["prev_action"], is_first, start)

    def losses(self, batch: Batch) -> tuple[Losses, Metrics, State, Tensor]:
        """Every loss (B,T), scalar metrics, the posterior states and their features."""
        embed, post, prior = self.observe(batch)
        feat = self.dynamics.features(post)
        losses: Losses = {}
        metrics: Metrics = {}
        ctx = self._context(batch, embed, post, prior, feat)
        for name, objective in self.objectives.items():
            own, extra = objective(ctx)
            losses.update({k: v * self.objective_weights[name] for k, v in own.items()})
            metrics.update(extra)
        if self.probe is not None:
            shown, _ = self.probe(ctx)
            metrics["loss/probe"] = torch.stack([v.mean() for v in shown.values()]).sum()
        losses["reward"] = self.reward.loss(feat, batch["reward"])
        losses["cont"] = self.cont.loss(feat, 1.0 - batch["is_terminal"].float())
        losses.update(self._kl_losses(batch, post, prior))
        metrics["kl"] = self.dynamics.kl(post, prior).mean()
        if self.measuring:
            metrics |= spread("embed", embed) | spread(
                "feat", self.dynamics.expected_features(post)
            )
        return losses, metrics, post, feat

    def _context(
        self, batch: Batch, embed: Tensor, post: State, prior: State, feat: Tensor
    ) -> Context:
        """What objectives are given; the slow encoder looks at a view of its own."""
        slow = self.encode(self.augment(batch), self.slow) if self.slow is not None else None
        parts = Parts(self.dynamics, self.reward, self.cont)
        return Context(batch, embed, post, prior, feat, self._mean_images(), parts, slow)

    def loss(self, batch: Batch, by_row: bool = False) -> tuple[Tensor, Metrics, State, Tensor]:
        """The scaled sum of all losses; metrics with every part before its scale; posterior states
        and features. With `by_row` the metrics have that sum of each row too, as BY_ROW (B,T).
        """
        losses, metrics, post, feat = self.losses(batch)
        assert losses.keys() == self.scales.keys(), (
            f"losses {set(losses)} but scales {set(self.scales)}"
        )
        shape = batch["reward"].shape
        assert all(v.shape == shape for v in losses.values()), {
            k: v.shape for k, v in losses.items()
        }
        total = torch.stack([v.mean() * self.scales[k] for k, v in losses.items()]).sum()
        shown = {f"loss/{k}": v.mean() for k, v in losses.items()}
        if by_row:
            scaled = [v.detach() * self.scales[k] for k, v in losses.items()]
            shown[BY_ROW] = torch.stack(scaled).sum(0)
        return total, {**metrics, **shown, "loss/total": total}, post, feat

    def _kl_losses(self, batch: Batch, post: State, prior: State) -> Losses:
        kl, stop = self.dynamics.kl, Tensor.detach
        losses = {
            "dyn": self._free_nats(kl(map_state(post, stop), prior)),
            "rep": self._free_nats(kl(post, map_state(prior, stop))),
        }
        if self.overshooting > 1:
            raw = overshooting(
                self.dynamics, post, batch["prev_action"], batch["is_first"], self.overshooting
            )
            losses["overshoot"] = self._free_nats(raw)
        return {k: v for k, v in losses.items() if k not in self.replaced}

    def _free_nats(self, kl: Tensor) -> Tensor:
        return free_nats(kl, self.free, self.free_on, self.world.mean)

    def predict(self, feat: Tensor, *others: ScalarHead) -> list[Tensor]:
        """Expected reward, probability of going on, and what other heads say, by features
        (...,F).
        """
        return means([self.reward, self.cont, *others], feat)

    def outlook(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """`predict` for planners: a model that saw no end expects none, and need not ask
        its head.
        """
        if self.ends:
            reward, cont = self.predict(feat)
            return reward, cont
        reward = self.reward.mean(feat)
        return reward, torch.ones_like(reward)

    def goal_distance(self, states: State, goal: Tensor, kind: str) -> Tensor:
        """How far predicted states (...,) are from a goal's embedding, which broadcasts: (...,).

        `belief` and `kl` compare what the model predicts there with what it would believe if it
        saw the goal there; `learnt` asks the objective of the largest weight that can tell.
        """
        if kind == "learnt":
            comparing = {k: o for k, o in self.objectives.items() if isinstance(o, Comparing)}
            heaviest = max(comparing, key=self.objective_weights.__getitem__)
            return comparing[heaviest].distance(self.dynamics.features(states), goal)
        dynamics = self.dynamics
        prior, belief = dynamics.predict_latent(states), dynamics.infer_latent(states, goal)
        if kind == "kl":
            return dynamics.kl(belief, prior)
        return (dynamics.mean_latent(belief) - dynamics.mean_latent(prior)).square().sum(-1)

    def _artist(self) -> Objective | None:
        """What draws pictures: an objective, or the probe."""
        return next((o for o in self._objectives() if o.draws), self.probe)

    @property
    def can_draw(self) -> bool:
        """Whether features can be made into pictures."""
        return self._artist() is not None

    def decode(self, feat: Tensor) -> dict[str, Tensor]:
        """Mean pictures (B,T,H,W,C) of features (B,T,F) by name, in about [0, 1]."""
        artist = self._artist()
        if artist is None:
            raise UsageError(
                "this model cannot draw: give it pictures (env.obs), and loss.probe or "
                "loss.objective.reconstruction"
            )
        means = self._mean_images()
        return {name: means[name].put_back(x) for name, x in artist.decode(feat).items()}
