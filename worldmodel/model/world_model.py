"""The world model: encode, observe, imagine, predict, and the losses that train it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from worldmodel.distributed import ALONE, World
from worldmodel.errors import UsageError
from worldmodel.kernels.picture_decoder import PackedDecoder
from worldmodel.model.augment import draw_shifts, shift_pictures
from worldmodel.model.dynamics import Dynamics
from worldmodel.model.ema import SlowCopy
from worldmodel.model.ensembles import RESAMPLES, OneStepHeads, measure_disagreement
from worldmodel.model.heads import KnownHead, ScalarHead, predict_means
from worldmodel.model.kl import (
    apply_free_nats,
    balance_kl,
    compute_corrections,
    compute_overshooting,
)
from worldmodel.model.loss_balance import LossBalance
from worldmodel.model.mean_image import MeanImage
from worldmodel.model.networks import Encoder, RawPicture, RawVectors
from worldmodel.model.objectives import Context, DistanceObjective, Objective, Parts
from worldmodel.model.representation_metrics import measure_spread
from worldmodel.model.spatial_encoder import BlobDecoder, PointDecoder, penalize_acceleration
from worldmodel.spaces import (
    Batch,
    Losses,
    Metrics,
    ObservationSpace,
    State,
    select_prefix,
)

BY_ROW = "loss/by_row"


class WorldModel(nn.Module):
    """Encoder, dynamics, representation objectives and heads.

    `scales` holds the weight of every loss by name; the losses' names must equal its keys. `ema`
    is the rate of the slow encoder, if an objective uses one. `mean_image_updates` updates
    estimate the mean images. With `reward_free` the reward teaches nothing but its own head. With
    `smooth` there is a loss of the feature points' accelerations, and with `grey` one of the small
    pictures that its decoders draw from the points, by name.
    """

    measure_every = 10  # updates between measurements of the representation's spread

    def __init__(
        self,
        observation: ObservationSpace,
        encoder: Encoder | RawVectors | RawPicture,
        dynamics: Dynamics,
        objectives: Mapping[str, tuple[Objective, float]],
        reward: ScalarHead,
        cont: ScalarHead,
        *,
        scales: dict[str, float],
        free: float,
        free_on: str,
        overshooting: int,
        shift: int,
        mean_image_updates: int,
        ema: float,
        probe: Objective | None,
        ensemble: OneStepHeads | None = None,
        corrective_steps: int = 0,
        reward_free: bool = False,
        smooth: bool = False,
        grey: Mapping[str, PointDecoder] | None = None,
        blobs: Mapping[str, BlobDecoder] | None = None,
        balance: LossBalance | None = None,
        world: World = ALONE,
        unseen: ObservationSpace | None = None,
    ):
        super().__init__()
        self.observation = observation
        self.unseen = unseen or ObservationSpace({})  # what is stored beside it
        self.encoder, self.dynamics = encoder, dynamics
        self.mean_images = nn.ModuleDict()
        for name, shape in observation.pictures.items():
            self.mean_images[name] = MeanImage(shape, mean_image_updates)
        self.reward: ScalarHead = reward
        self.cont = cont
        self.objectives = nn.ModuleDict({name: module for name, (module, _) in objectives.items()})
        self.objective_weights = {name: weight for name, (_, weight) in objectives.items()}
        self.ends: Tensor  # whether any episode has terminated, or ends are known beforehand
        self.register_buffer("ends", torch.tensor(isinstance(cont, KnownHead)))
        self.scales, self.world = scales, world
        self.free, self.free_on, self.overshooting, self.shift = free, free_on, overshooting, shift
        self.corrective_steps, self.reward_free = corrective_steps, reward_free
        self.smooth, self.balance = smooth, balance
        self.grey, self.blobs = nn.ModuleDict(grey or {}), nn.ModuleDict(blobs or {})
        self.replaced = {
            name for objective, _ in objectives.values() for name in objective.replaces
        }
        self.slow = (
            SlowCopy(encoder, ema) if any(o.needs_slow for o, _ in objectives.values()) else None
        )
        self.probe = probe
        self.ensemble = ensemble
        self.measuring = True

    def begin_update(self, batch: Batch, update: int) -> Hashable:
        """Prepare an update on a batch: update the mean images, and note whether episodes
        terminate.

        The result differs between updates that run different operations.
        """
        self.measuring = update % self.measure_every == 0
        self.ends |= self.world.mean(batch["is_terminal"].any().float()) > 0
        for name, mean_image in self._mean_images().items():
            mean_image.accumulate(batch[name], update, self.world.mean)
        self.update_statistics(batch, update)
        return self.measuring, *(o.begin_update(update) for o in self._objectives())

    def update_statistics(self, batch: Batch, update: int) -> None:
        """Update what the dynamics keep of the data's size, before update number `update`."""
        if self.dynamics.standardizes:
            embed = self.encode(batch)
            self.dynamics.update_statistics(embed, batch["is_first"], update, self.world.mean)

    def augment(self, batch: Batch) -> Batch:
        """Add random shifts of the pictures to the batch, if the configuration has any."""
        if not self.shift:
            return batch
        (size, length), device = batch["is_first"].shape, batch["is_first"].device
        names = self.observation.pictures
        shifts = {f"shift/{k}": draw_shifts(size, length, self.shift, device) for k in names}
        return {**batch, **shifts}

    def after_update(self) -> None:
        """Update what follows the weights, once they have moved."""
        if self.slow is not None:
            self.slow.follow(self.encoder)
        for objective in self._objectives():
            objective.after_update(self.world.mean)

    def list_adjusted_weights(self) -> list[Tensor]:
        """Trained weights that `after_update` changes too."""
        return [w for objective in self._objectives() for w in objective.list_adjusted_weights()]

    def _objectives(self) -> list[Objective]:
        return [o for o in self.objectives.values() if isinstance(o, Objective)]

    def encode(self, batch: Batch, encoder: nn.Module | None = None) -> Tensor:
        """Embeddings (B,T,E) of observations, by the model's encoder or another."""
        encoder = self.encoder if encoder is None else encoder
        exact = isinstance(encoder, RawPicture)
        return encoder({**batch, **{k: self._show(batch, k, exact) for k in self.mean_images}})

    def _show(self, batch: Batch, name: str, exact: bool) -> Tensor:
        """A picture (B,T,H,W,C) as the encoder sees it: without its mean image, and shifted."""
        low = torch.is_autocast_enabled(batch[name].device.type) and not exact
        dtype = torch.bfloat16 if low else torch.float32
        seen = self._mean_images()[name].subtract_from(batch[name], dtype)
        shift = batch.get(f"shift/{name}")
        return seen if shift is None else shift_pictures(seen, shift)

    def count_points(self) -> dict[str, int]:
        """How many feature points the encoder finds in each picture, by name, if any."""
        return self.encoder.count_points() if isinstance(self.encoder, Encoder) else {}

    def find_points(self, embed: Tensor) -> dict[str, Tensor]:
        """The feature points (...,K,2) of pictures by name in embeddings (...,E), if any."""
        return self.encoder.find_points(embed) if isinstance(self.encoder, Encoder) else {}

    def _mean_images(self) -> dict[str, MeanImage]:
        return {k: v for k, v in self.mean_images.items() if isinstance(v, MeanImage)}

    def observe(self, batch: Batch) -> tuple[Tensor, State, State]:
        """Embeddings, posteriors and priors of sequences; their first step counts as a start
        unless one is given.
        """
        embed = self.encode(batch)
        return embed, *self.dynamics.observe(embed, *self._read_history(batch))

    def infer_states(self, batch: Batch) -> State:
        """The posteriors alone, each given what an agent had seen by then."""
        return self.dynamics.infer_states(self.encode(batch), *self._read_history(batch))

    def _read_history(self, batch: Batch) -> tuple[Tensor, Tensor, State]:
        start = select_prefix(batch, "start_")
        is_first = batch["is_first"].clone()
        is_first[:, 0] |= not start
        return batch["prev_action"], is_first, start

    def losses(self, batch: Batch) -> tuple[Losses, Metrics, State, Tensor]:
        """Every loss (B,T), scalar metrics, the posterior states and their features."""
        embed, post, prior = self.observe(batch)
        if RESAMPLES in batch and self.dynamics.members > 1:
            prior["weight"] = batch[RESAMPLES]
        feat = self.dynamics.features(post)
        losses: Losses = {}
        metrics: Metrics = {}
        ctx = self._make_context(batch, embed, post, prior, feat)
        for name, objective in self.objectives.items():
            own, extra = objective(ctx)
            losses.update({k: v * self.objective_weights[name] for k, v in own.items()})
            metrics.update(extra)
        if self.probe is not None:
            shown, _ = self.probe(ctx)
            metrics["loss/probe"] = torch.stack([v.mean() for v in shown.values()]).sum()
        seen = feat.detach() if self.reward_free else feat
        losses["reward"] = self.reward.loss(seen, batch["reward"])
        losses["cont"] = self.cont.loss(feat, 1.0 - batch["is_terminal"].float())
        losses.update(self._kl_losses(batch, post, prior))
        asked = self.smooth or self.grey or self.blobs
        points = self.find_points(embed) if asked else {}
        if self.smooth:
            losses["smooth"] = penalize_acceleration([*points.values()], batch["is_first"])
        for name, nets in (("grey", self.grey), ("blobs", self.blobs)):
            errors = [
                cast("PointDecoder | BlobDecoder", net).error(
                    points[k], self._show(batch, k, exact=True)
                )
                for k, net in nets.items()
            ]
            if errors:
                losses[name] = torch.stack(errors).sum(0)
        if self.ensemble is not None:
            own, extra = self.ensemble.loss(batch, feat, self.dynamics.mean_latent(post))
            losses.update(own)
            metrics.update(extra)
        metrics["kl"] = self.dynamics.kl(post, prior).mean()
        if self.measuring:
            metrics |= measure_spread("embed", embed) | measure_spread(
                "feat", self.dynamics.expected_features(post)
            )
        return losses, metrics, post, feat

    def _make_context(
        self, batch: Batch, embed: Tensor, post: State, prior: State, feat: Tensor
    ) -> Context:
        """The input of the objectives; the slow encoder sees pictures with shifts of their own."""
        slow = self.encode(self.augment(batch), self.slow) if self.slow is not None else None
        parts = Parts(self.dynamics, self.reward, self.cont)
        return Context(batch, embed, post, prior, feat, self._mean_images(), parts, slow)

    def loss(self, batch: Batch, by_row: bool = False) -> tuple[Tensor, Metrics, State, Tensor]:
        """The scaled sum of all losses; metrics with every part before its scale; posterior states
        and features. With `by_row` the metrics have that sum of each row too, as BY_ROW (B,T).
        """
        if not self.dynamics.imagines:
            return self._observe_alone(batch, by_row)
        losses, metrics, post, feat = self.losses(batch)
        assert losses.keys() == self.scales.keys(), (
            f"losses {set(losses)} but scales {set(self.scales)}"
        )
        shape = batch["reward"].shape
        assert all(v.shape == shape for v in losses.values()), {
            k: v.shape for k, v in losses.items()
        }
        scales: dict[str, Tensor | float] = {**self.scales}
        shown = {f"loss/{k}": v.mean() for k, v in losses.items()}
        if self.balance is not None:
            scales = {k: scale * self.balance.weigh(k) for k, scale in scales.items()}
            shown |= self.balance.metrics()
        total = torch.stack([v.mean() * scales[k] for k, v in losses.items()]).sum()
        if self.balance is not None:
            total = total + self.balance.penalty()
        if by_row:
            scaled = [(v * scales[k]).detach() for k, v in losses.items()]
            shown[BY_ROW] = torch.stack(scaled).sum(0)
        return total, {**metrics, **shown, "loss/total": total}, post, feat

    def _observe_alone(self, batch: Batch, by_row: bool) -> tuple[Tensor, Metrics, State, Tensor]:
        """`loss` of an agent without a model, which is zero: its critic trains the features."""
        post = self.infer_states(batch)
        feat = self.dynamics.features(post)
        nothing = 0 * feat.sum(-1)
        return nothing.sum(), {BY_ROW: nothing.detach()} if by_row else {}, post, feat

    def _kl_losses(self, batch: Batch, post: State, prior: State) -> Losses:
        raw = balance_kl(self.dynamics, post, prior)
        if self.overshooting > 1:
            raw["overshoot"] = compute_overshooting(
                self.dynamics, post, batch["prev_action"], batch["is_first"], self.overshooting
            )
        if self.corrective_steps:
            raw["corrective"] = compute_corrections(
                self.dynamics,
                post,
                batch["prev_action"],
                batch["is_first"],
                self.corrective_steps,
            )
        return {
            k: apply_free_nats(kl, self.free, self.free_on, self.world.mean)
            for k, kl in raw.items()
            if k not in self.replaced
        }

    def predict(self, feat: Tensor, *others: ScalarHead) -> list[Tensor]:
        """Expected reward, probability of continuing, and the means of other heads, from features
        (...,F).
        """
        return predict_means([self.reward, self.cont, *others], feat)

    def predict_for_planning(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """`predict` for planners; a model that has seen no termination predicts none, without its
        head.
        """
        if self.ends:
            reward, cont = self.predict(feat)
            return reward, cont
        reward = self.reward.mean(feat)
        return reward, torch.ones_like(reward)

    def predict_members(self, feat: Tensor, action: Tensor) -> Tensor:
        """The mean next latent by each member of the ensemble, from features (...,F) and actions
        (...,A): (K,...,S).
        """
        if self.ensemble is not None:
            return self.ensemble.predict(feat, action)
        return self.dynamics.predict_members(feat, action)

    def measure_disagreement(self, feat: Tensor, action: Tensor) -> Tensor:
        """How far the members' predictions after actions (...,A) are apart: (...)."""
        return measure_disagreement(self.predict_members(feat, action))

    def measure_rollout_disagreement(self, start: Tensor, after: Tensor, action: Tensor) -> Tensor:
        """The same (H,N) along a rollout: features (N,F) at its start, and (H,N,F) after actions
        (H,N,A), with their graph.
        """
        return self.measure_disagreement(torch.cat([start.unsqueeze(0), after[:-1]]), action)

    def measure_goal_distance(self, states: State, goal: Tensor, kind: str) -> Tensor:
        """Distance (...) of imagined states (...,) from a goal's embedding, which broadcasts.

        `belief` and `kl` compare the prior at a state with the posterior if the goal were observed
        there; `learnt` asks the distance objective of the largest weight.
        """
        if kind == "learnt":
            comparing = {
                k: o for k, o in self.objectives.items() if isinstance(o, DistanceObjective)
            }
            heaviest = max(comparing, key=self.objective_weights.__getitem__)
            return comparing[heaviest].distance(self.dynamics.features(states), goal)
        if kind == "belief":
            return self.measure_goal_gap(states, goal).square().sum(-1)
        dynamics = self.dynamics
        return dynamics.kl(dynamics.infer_latent(states, goal), dynamics.predict_latent(states))

    def measure_goal_gap(self, states: State, goal: Tensor) -> Tensor:
        """The posterior's mean (...,S) if the goal were observed, less that of the prior, which is
        the mean over members.
        """
        dynamics = self.dynamics
        prior = dynamics.mean_latent(dynamics.predict_latent(states))
        posterior = dynamics.mean_latent(dynamics.infer_latent(states, goal))
        has_members = prior.dim() > dynamics.features(states).dim()
        return posterior - (prior.mean(-2) if has_members else prior)

    def _find_decoder(self) -> Objective | RawPicture | None:
        """What decodes pictures: an objective, the probe, or features that hold the picture."""
        if isinstance(self.encoder, RawPicture):
            return self.encoder
        return next((o for o in self._objectives() if o.can_draw), self.probe)

    @property
    def can_draw(self) -> bool:
        """Whether features can be made into pictures."""
        return self._find_decoder() is not None

    def decode(self, feat: Tensor) -> dict[str, Tensor]:
        """Mean pictures (B,T,H,W,C) of features (B,T,F) by name, in about [0, 1]."""
        decoder = self._find_decoder()
        if decoder is None:
            raise UsageError(
                "this model cannot draw: give it pictures (env.obs), and loss.probe or "
                "loss.objective.reconstruction"
            )
        means = self._mean_images()
        return {name: means[name].add_to(x) for name, x in decoder.decode(feat).items()}

    def decode_observations(self, feat: Tensor) -> dict[str, Tensor]:
        """All that can be decoded of features (...,F) by name: mean pictures (...,H,W,C) in [0, 1]
        and vectors (...,n).
        """
        flat, found = feat.reshape(1, -1, feat.shape[-1]), dict[str, Tensor]()
        if self.can_draw:
            found |= {k: v.float().clamp(0, 1) for k, v in self.decode(flat).items()}
        for objective in self._objectives():
            found |= objective.decode_vectors(flat)
        if isinstance(self.encoder, RawVectors):
            found |= self.encoder.split(self.dynamics.restore(flat))
        return {k: v[0].unflatten(0, feat.shape[:-1]) for k, v in found.items()}

    def pack_decoders(self) -> dict[str, PackedDecoder] | None:
        """Decoders of pictures by name that draw a batch faster, with the weights of now; None if
        any cannot be packed.
        """
        decoder, means = self._find_decoder(), self._mean_images()
        found = decoder.list_picture_decoders() if decoder is not None else {}
        if not found or not all(map(PackedDecoder.supports, found.values())):
            return None
        return {k: PackedDecoder(net, means[k].picture) for k, net in found.items()}
