"""One gradient step on everything that learns: precision, clipping, warm-up, the guard against
non-finite numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from worldmodel.config.schema import OptimConfig
from worldmodel.distributed import ALONE, World
from worldmodel.errors import Diverged
from worldmodel.kernels.cuda_graph import Captured, CudaRecorder, Recorder
from worldmodel.model.world_model import BY_ROW, WorldModel
from worldmodel.policy.actor_critic import ActorCritic
from worldmodel.replay.start_states import ZeroStart
from worldmodel.spaces import Batch, Metrics
from worldmodel.system.runtime import autocast
from worldmodel.training.optimizers import CLIPS, Optimizers


class Learner:
    """World model and, where one is trained, actor and critic: one backward pass, gradients
    clipped part by part.

    Of several ranks each has its own batch; gradients become their means before anything is
    decided by them.
    """

    max_skipped = 25
    # updates between looks at the counters of a device that is not to be waited for
    look_every = 25

    def __init__(
        self,
        model: WorldModel,
        config: OptimConfig,
        device: torch.device,
        precision: str,
        policy: ActorCritic | None = None,
        starts: ZeroStart | None = None,
        world: World = ALONE,
        recorder: Recorder | None = None,
        by_row: bool = False,
    ):
        self.model, self.policy, self.starts = model, policy, starts or ZeroStart()
        self.config, self.device, self.precision, self.world = config, device, precision, world
        if device.type == "cuda" and world.size == 1:
            recorder = recorder or CudaRecorder(device)
        self.by_row = by_row  # whether the losses of single rows are kept
        self.row_losses: Tensor | None = None  # (B,T) of the last update, as good as its metrics
        # Whether a tensor's answer is too far away to wait for.
        self.masked = device.type != "cpu" or recorder is not None
        self.optimizers = Optimizers(_parts(model, policy, config), config, self.masked)
        trained = set(self.optimizers.parameters) - set(model.by_hand())
        modules = [model, *([policy] if policy is not None else [])]
        self.followers = [
            t for m in modules for t in (*m.parameters(), *m.buffers()) if t not in trained
        ]
        self.updates = self.rollbacks = 0
        # The update, for what runs on the device
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.skips = torch.zeros(2, dtype=torch.int64, device=device)  # in all, in a row
        self.step = Captured(self._step, recorder)

    @property
    def skipped(self) -> int:
        """Updates left out because of non-finite numbers."""
        return int(self.skips[0])

    def update(self, batch: Batch) -> Metrics:
        """One step on a batch (B,T,...); returns scalar metrics, still on the device and good
        until the next step.
        """
        batch = to_device(batch, self.device)
        kind = self.model.watch(batch, self.updates), self._dreamer() is not None
        self.optimizers.warm_up(self.updates)
        self.count.fill_(self.updates)
        metrics = self.step(kind, batch)
        if self.by_row:
            self.row_losses = metrics[BY_ROW]
            metrics = {k: v for k, v in metrics.items() if k != BY_ROW}
        self.updates += 1
        if self.updates % (self.look_every if self.masked else 1) == 0:
            self._check()
        return metrics

    def _step(self, batch: Batch) -> Metrics:
        """All that happens on the device; nothing in here waits for it."""
        batch, found = self._prepare(batch)
        self.optimizers.zero_grad()
        total, metrics = self.loss(batch)
        torch.autograd.backward([total, *(v for k, v in metrics.items() if k == "loss/probe")])
        policy = self._dreamer()
        taught = {
            k: p
            for k, p in self.optimizers.parts.items()
            if k in ("model", "probe") or policy is not None
        }
        total = self._over_ranks(total.detach(), taught)
        norms = {k: CLIPS[self.config.clip_by](p, self.config.clip) for k, p in taught.items()}
        joint = torch.stack([v for k, v in norms.items() if k != "probe"]).norm()
        self._move(torch.isfinite(total) & torch.isfinite(joint), norms, policy)
        found |= {k: v.detach() for k, v in metrics.items()}
        found |= {f"grad_norm/{k}": v for k, v in norms.items()}
        return {**found, "skipped": self.skips[0].clone()}

    def _move(self, finite: Tensor, norms: dict[str, Tensor], policy: ActorCritic | None) -> None:
        """Step the parts that were taught, unless a number was not finite; the probe's own stops
        nobody but itself.
        """
        bad = (~finite).long()
        self.skips.add_(bad).mul_(torch.stack([torch.ones_like(bad), bad]))
        for name, norm in norms.items():
            good = finite & torch.isfinite(norm)
            self.optimizers.step(name, good)
        if self.masked or finite:
            with kept_unless(finite if self.masked else None, self.followers):
                self.model.after_update()
                if policy is not None:
                    policy.after_update()

    def _over_ranks(self, total: Tensor, taught: dict[str, list[Tensor]]) -> Tensor:
        """Gradients become their means over all ranks; so does the loss, which rides along.

        All ranks then hold the very same numbers, so that they clip alike and skip the same steps.
        """
        if self.world.size > 1:
            total = total.clone()
            grads = [p.grad for part in taught.values() for p in part if p.grad is not None]
            self.world.mean_([total, *grads])
        return total

    def _prepare(self, batch: Batch) -> tuple[Batch, Metrics]:
        """With the states the sequences start from."""
        with autocast(self.device, self.precision):
            return self.starts.prepare(self.model, self.model.augment(batch), self.count)

    def _dreamer(self) -> ActorCritic | None:
        """Actor and critic, where this update trains them as well."""
        due = self.policy is not None and self.updates % self.policy.imag.every == 0
        return self.policy if due else None

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The sum of everyone's losses, with its graph."""
        with autocast(self.device, self.precision):
            total, metrics, post, feat = self.model.loss(batch, self.by_row)
        policy = self._dreamer()
        if policy is None:
            return total, metrics
        # A context of its own: autocast keeps low-precision copies of weights together with their
        # graph, and the dream, which must not reach the model's weights, would find and use them.
        with autocast(self.device, self.precision):
            losses, extra = policy.losses(self.model, batch, post, feat)
        shown = {f"loss/{k}": v for k, v in losses.items()}
        return total + torch.stack(list(losses.values())).sum(), {**metrics, **extra, **shown}

    def _check(self) -> None:
        """A long row of skipped steps is more than bad luck."""
        if int(self.skips[1]) >= self.max_skipped:
            raise Diverged(
                f"{self.max_skipped} updates in a row had a loss or gradient that is not finite"
            )

    def rolled_back(self) -> None:
        """Weights and optimiser have been replaced by earlier ones."""
        self.rollbacks += 1
        self.skips[1] = 0
        self.step.forget()

    def counters(self) -> dict[str, int]:
        skipped, row = self.skips.tolist()
        return {
            "updates": self.updates,
            "skipped": skipped,
            "skipped_in_a_row": row,
            "rollbacks": self.rollbacks,
        }

    def restore(self, counters: dict[str, int]) -> None:
        """Count on from where `counters()` were taken; weights and optimiser are restored
        apart.
        """
        self.updates, self.rollbacks = int(counters["updates"]), int(counters.get("rollbacks", 0))
        self.skips.copy_(torch.tensor([counters["skipped"], counters["skipped_in_a_row"]]))


def _parts(
    model: WorldModel, policy: ActorCritic | None, config: OptimConfig
) -> dict[str, tuple[list[Tensor], float]]:
    """What learns, by name, with its learning rate; the probe is in the model, but on its own."""
    modules: dict[str, tuple[nn.Module, float]] = {"model": (model, config.lr)}
    if policy is not None:
        modules["actor"] = (policy.actor, config.actor_lr or config.lr)
        modules["critic"] = (policy.critic, config.critic_lr or config.lr)
    if model.probe is not None:
        modules["probe"] = (model.probe, config.lr)
    apart = set(model.probe.parameters()) if model.probe is not None else set()
    found: dict[str, tuple[list[Tensor], float]] = {}
    for name, (module, rate) in modules.items():
        own = [p for p in module.parameters() if p.requires_grad]
        found[name] = [p for p in own if name != "model" or p not in apart], rate
    return found


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch where it is needed; from locked pages, a GPU fetches it while the program
    goes on.
    """
    if device.type == "cuda":
        batch = {k: v.pin_memory() for k, v in batch.items()}
    return {k: v.to(device, non_blocking=True) for k, v in batch.items()}


@contextlib.contextmanager
def kept_unless(fine: Tensor | None, tensors: list[Tensor]) -> Iterator[None]:
    """What happens to these tensors is undone where `fine` turns out false; None needs no
    asking.
    """
    before = [t.clone() for t in tensors] if fine is not None else []
    yield
    if fine is not None:
        with torch.no_grad():
            for t, old in zip(tensors, before, strict=True):
                t.copy_(torch.where(fine, t, old))
