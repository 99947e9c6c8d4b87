"""One gradient step on everything that learns: precision, averaging over ranks, clipping.

A step is skipped if a number in it is not finite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping

import torch
from torch import Tensor, nn

from worldmodel.config.schema import OptimConfig
from worldmodel.distributed import ALONE, World
from worldmodel.errors import Diverged
from worldmodel.kernels.cuda_graph import CudaRecorder, GraphedStep, Recorder
from worldmodel.model.world_model import BY_ROW, WorldModel
from worldmodel.policy.learned_policy import LearnedPolicy
from worldmodel.replay.start_states import ZeroStart
from worldmodel.spaces import Batch, Metrics, State
from worldmodel.system.runtime import autocast
from worldmodel.training.optimizers import CLIPS, Optimizers


class Learner:
    """Trains the world model and, if there is one, the policy by one backward pass.

    Gradients are clipped part by part. Each rank has a batch of its own; gradients are averaged
    across ranks before clipping.
    """

    max_skipped = 25  # updates in a row
    check_every = 25  # updates, where reading a counter would wait for the device

    def __init__(
        self,
        model: WorldModel,
        config: OptimConfig,
        device: torch.device,
        precision: str,
        policy: LearnedPolicy | None = None,
        starts: ZeroStart | None = None,
        world: World = ALONE,
        recorder: Recorder | None = None,
        by_row: bool = False,
        trains_apart: bool = False,
    ):
        self.model, self.policy, self.starts = model, policy, starts or ZeroStart()
        self.config, self.device, self.precision, self.world = config, device, precision, world
        if device.type == "cuda" and world.size == 1:
            recorder = recorder or CudaRecorder(device)
        self.trains_apart = trains_apart  # whether the policy has updates of its own
        self.by_row = by_row  # whether the losses of single rows are kept
        self.row_losses: Tensor | None = None  # (B,T) of the last update, as good as its metrics
        # Masked steps are skipped on the device: nobody waits to learn whether numbers are finite.
        self.masked = device.type != "cpu" or recorder is not None
        parts = select_parameters(model, policy, config)
        self.optimizers = Optimizers(parts, config, self.masked)
        trained = set(self.optimizers.parameters) - set(model.list_adjusted_weights())
        modules = [model, *([policy] if policy is not None else [])]
        # Tensors that follow the trained ones without gradients, such as moving averages.
        self.followers = [
            t for m in modules for t in (*m.parameters(), *m.buffers()) if t not in trained
        ]
        self.updates = self.policy_updates = self.rollbacks = 0
        # The number of the update, on the device
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        # Skipped updates: in all, and in a row up to now
        self.skips = torch.zeros(2, dtype=torch.int64, device=device)
        self.step = GraphedStep(self._step, recorder)
        self.policy_step = GraphedStep(self._policy_step, recorder)

    @property
    def skip_count(self) -> int:
        """The number of updates skipped because of non-finite numbers."""
        return int(self.skips[0])

    def update(self, batch: Batch, frames: int = 0) -> Metrics:
        """Take one step on a batch (B,T,...) after so many frames; return scalar metrics.

        The metrics are on the device, and valid until the next update.
        """
        batch = move_to_device(batch, self.device)
        kind = self.model.begin_update(batch, self.updates), self._begin_policy_update(frames)
        self.optimizers.set_rates(self.updates)
        self.count.fill_(self.updates)
        metrics = self.step(kind, batch)
        if self.by_row:
            self.row_losses = metrics[BY_ROW]
            metrics = {k: v for k, v in metrics.items() if k != BY_ROW}
        self.updates += 1
        self._check_skips()
        return metrics

    def update_policy(self, batch: Batch, frames: int) -> Metrics:
        """Take one step of the policy alone, on a batch (B,T,...); the model stays as it is."""
        assert self.policy is not None
        batch = move_to_device(batch, self.device)
        self.model.update_statistics(batch, self.updates + self.policy_updates)
        kind = self.policy.begin_update(frames)
        self.count.fill_(self.updates)
        metrics = self.policy_step(kind, batch)
        self.policy_updates += 1
        self._check_skips()
        return metrics

    def _begin_policy_update(self, frames: int) -> Hashable:
        """Prepare the policy's part of an update, if it has one."""
        if self.policy is None or not self._trains_policy():
            return None
        return "policy", self.policy.begin_update(frames)

    def _step(self, batch: Batch) -> Metrics:
        """Do all that happens on the device; nothing in here waits for it."""
        batch, metrics = self._prepare(batch)
        self.optimizers.zero_grad()
        loss, shown = self.loss(batch)
        torch.autograd.backward([loss, *(v for k, v in shown.items() if k == "loss/probe")])
        names = set(self.optimizers.parts) if self._trains_policy() else {"model", "probe"}
        return metrics | self._move(loss.detach(), shown, names)

    def _policy_step(self, batch: Batch) -> Metrics:
        """Do all that happens on the device in an update of the policy alone."""
        assert self.policy is not None
        batch, metrics = self._prepare(batch)
        self.optimizers.zero_grad()
        with torch.no_grad(), autocast(self.device, self.precision):
            post = self.model.infer_states(batch)
            feat = self.model.dynamics.features(post)
        loss, shown = self._compute_policy_loss(batch, post, feat)
        loss.backward()
        return metrics | self._move(loss.detach(), shown, set(self.policy.list_parts()))

    def _move(self, loss: Tensor, shown: Metrics, names: set[str]) -> Metrics:
        """Clip the gradients of some parts and step their optimizers; return the metrics."""
        parts = {k: part for k, part in self.optimizers.parts.items() if k in names}
        loss = self._average_over_ranks(loss, parts)
        norms = {k: CLIPS[self.config.clip_by](p, self.config.clip) for k, p in parts.items()}
        joint = torch.stack([v for k, v in norms.items() if k != "probe"]).norm()
        self._apply(torch.isfinite(loss) & torch.isfinite(joint), norms)
        metrics = {k: v.detach() for k, v in shown.items()}
        metrics |= {f"grad_norm/{k}": v for k, v in norms.items()}
        return {**metrics, "skipped": self.skips[0].clone()}

    def _apply(self, finite: Tensor, norms: dict[str, Tensor]) -> None:
        """Step the optimizers of the parts with gradients, unless a number is not finite.

        A probe that is not finite stops only itself.
        """
        bad = (~finite).long()
        self.skips.add_(bad).mul_(torch.stack([torch.ones_like(bad), bad]))
        for name, norm in norms.items():
            self.optimizers.step(name, finite & torch.isfinite(norm))
        if self.masked or finite:
            with undo_unless(finite if self.masked else None, self.followers):
                if "model" in norms:
                    self.model.after_update()
                if self.policy is not None and norms.keys() & self.policy.list_parts().keys():
                    self.policy.after_update()

    def _average_over_ranks(self, loss: Tensor, parts: dict[str, list[Tensor]]) -> Tensor:
        """Average the gradients and the loss over all ranks; return the loss.

        All ranks then hold the same numbers, so they clip alike and skip the same steps.
        """
        if self.world.size > 1:
            loss = loss.clone()
            grads = [p.grad for part in parts.values() for p in part if p.grad is not None]
            self.world.mean_([loss, *grads])
        return loss

    def _prepare(self, batch: Batch) -> tuple[Batch, Metrics]:
        """Augment the pictures and add the states that the sequences start from."""
        with autocast(self.device, self.precision):
            return self.starts.prepare(self.model, self.model.augment(batch), self.count)

    def _trains_policy(self) -> bool:
        """Say whether this update of the model trains the policy too."""
        if self.policy is None or self.trains_apart:
            return False
        return self.updates % self.policy.every == 0

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return the sum of all losses, with its graph, and the metrics."""
        with autocast(self.device, self.precision):
            total, metrics, post, feat = self.model.loss(batch, self.by_row)
        if self.policy is None or not self._trains_policy():
            return total, metrics
        loss, shown = self._compute_policy_loss(batch, post, feat)
        return total + loss, {**metrics, **shown}

    def _compute_policy_loss(
        self, batch: Batch, post: State, feat: Tensor
    ) -> tuple[Tensor, Metrics]:
        """Return the sum of the policy's losses, with its graph, and the metrics."""
        assert self.policy is not None
        # A context of its own: autocast caches low-precision copies of weights together with
        # their graph. Imagination must not reach the model's weights, and would use those copies.
        with autocast(self.device, self.precision):
            losses, extra = self.policy.losses(self.model, batch, post, feat)
        shown = {f"loss/{k}": v for k, v in losses.items()}
        return torch.stack(list(losses.values())).sum(), {**extra, **shown}

    def _check_skips(self) -> None:
        done = self.updates + self.policy_updates
        if self.masked and done % self.check_every:
            return
        if int(self.skips[1]) >= self.max_skipped:
            raise Diverged(
                f"{self.max_skipped} updates in a row had a loss or gradient that is not finite"
            )

    def count_rollback(self) -> None:
        """Note that weights and optimizers have been replaced by earlier ones."""
        self.rollbacks += 1
        self.skips[1] = 0
        self.step.forget_graphs()
        self.policy_step.forget_graphs()

    def state_dict(self) -> dict[str, int]:
        """Return the counters; weights and optimizers are saved apart."""
        skipped, in_a_row = self.skips.tolist()
        return {
            "updates": self.updates,
            "skipped": skipped,
            "skipped_in_a_row": in_a_row,
            "rollbacks": self.rollbacks,
            "policy_updates": self.policy_updates,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.updates, self.rollbacks = int(state["updates"]), int(state.get("rollbacks", 0))
        self.policy_updates = int(state.get("policy_updates", 0))
        self.skips.copy_(torch.tensor([state["skipped"], state["skipped_in_a_row"]]))


def select_parameters(
    model: WorldModel, policy: LearnedPolicy | None, config: OptimConfig
) -> dict[str, tuple[list[Tensor], float]]:
    """Return the parts that learn: {name: (parameters, learning rate)}.

    The probe lies inside the model but is a part of its own.
    """
    modules: dict[str, tuple[nn.Module, float]] = {"model": (model, config.lr)}
    if policy is not None:
        rates = {"actor": config.actor_lr, "critic": config.critic_lr}
        for name, (module, kind) in policy.list_parts().items():
            modules[name] = module, rates[kind] or config.lr
    probe: set[Tensor] = set()
    if model.probe is not None:
        modules["probe"] = (model.probe, config.lr)
        probe = set(model.probe.parameters())
    parts: dict[str, tuple[list[Tensor], float]] = {}
    for name, (module, rate) in modules.items():
        own = [p for p in module.parameters() if p.requires_grad]
        parts[name] = [p for p in own if name != "model" or p not in probe], rate
    return parts


def move_to_device(batch: Batch, device: torch.device) -> Batch:
    """Copy a batch to the device; a GPU reads pinned memory while the program goes on."""
    if device.type == "cuda":
        batch = {k: v.pin_memory() for k, v in batch.items()}
    return {k: v.to(device, non_blocking=True) for k, v in batch.items()}


@contextlib.contextmanager
def undo_unless(finite: Tensor | None, tensors: list[Tensor]) -> Iterator[None]:
    """Undo what happens to the tensors inside, unless `finite` is true; None keeps it."""
    before = [t.clone() for t in tensors] if finite is not None else []
    yield
    if finite is not None:
        with torch.no_grad():
            for t, old in zip(tensors, before, strict=True):
                t.copy_(torch.where(finite, t, old))
