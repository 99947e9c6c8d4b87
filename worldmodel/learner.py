"""One gradient step on everything that learns: precision, clipping, warm-up, the guard against non-finite numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.actor_critic import ActorCritic
from worldmodel.model import WorldModel
from worldmodel.optim import CLIPS, LaProp
from worldmodel.parallel import ALONE, World
from worldmodel.runtime import autocast
from worldmodel.schema import OptimConfig
from worldmodel.types import Batch, Metrics
from worldmodel.warm import Cold


class Diverged(RuntimeError):
    """Too many updates in a row gave non-finite losses or gradients."""


class Learner:
    """World model and, where one is trained, actor and critic: one backward pass, gradients clipped part by part.

    Of several ranks each has its own batch; gradients become their means before anything is decided by them.
    """

    max_skipped = 25

    def __init__(
        self,
        model: WorldModel,
        config: OptimConfig,
        device: torch.device,
        precision: str,
        policy: ActorCritic | None = None,
        starts: Cold | None = None,
        world: World = ALONE,
    ):
        self.model, self.policy, self.starts = model, policy, starts or Cold()
        self.config, self.device, self.precision, self.world = config, device, precision, world
        parts: dict[str, tuple[nn.Module, float]] = {"model": (model, config.lr)}
        if policy is not None:
            parts["actor"] = (policy.actor, config.actor_lr or config.lr)
            parts["critic"] = (policy.critic, config.critic_lr or config.lr)
        if model.probe is not None:
            parts["probe"] = (model.probe, config.lr)
        self.parts: dict[str, list[Tensor]] = {
            k: [p for p in m.parameters() if p.requires_grad] for k, (m, _) in parts.items()
        }
        if model.probe is not None:
            apart = set(self.parts["probe"])
            self.parts["model"] = [p for p in self.parts["model"] if p not in apart]
        self.rates = [lr for _, lr in parts.values()]
        self.parameters = [p for part in self.parts.values() for p in part]
        groups = [{"params": p, "lr": lr} for p, lr in zip(self.parts.values(), self.rates, strict=True)]
        self.optimizer = self._optimizer(groups)
        self.updates = 0
        self.skipped = 0
        self.skipped_in_a_row = 0

    def _optimizer(self, groups: list[dict]) -> torch.optim.Optimizer:
        o = self.config
        if o.name == "laprop":
            return LaProp(groups, lr=o.lr, eps=o.eps, weight_decay=o.weight_decay)
        return torch.optim.AdamW(groups, lr=o.lr, eps=o.eps, weight_decay=o.weight_decay, fused=True)

    def update(self, batch: Batch) -> Metrics:
        """One step on a batch (B,T,...); returns scalar metrics, still on the device."""
        batch, found = self._prepare(batch)
        self.optimizer.zero_grad(set_to_none=True)
        total, metrics = self.loss(batch)
        torch.autograd.backward([total, *(v for k, v in metrics.items() if k == "loss/probe")])
        policy = self._dreamer()
        taught = {k: p for k, p in self.parts.items() if k in ("model", "probe") or policy is not None}
        total = self._over_ranks(total.detach(), taught)
        norms = {k: CLIPS[self.config.clip_by](p, self.config.clip) for k, p in taught.items()}
        joint = torch.stack([v for k, v in norms.items() if k != "probe"]).norm()
        if self._finite(total, joint):
            self._spare_probe(norms)
            self._warm_up()
            self.optimizer.step()
            self.model.after_update()
            if policy is not None:
                policy.after_update()
        self.updates += 1
        found |= {k: v.detach() for k, v in metrics.items()}
        found |= {f"grad_norm/{k}": v for k, v in norms.items()}
        return {**found, "skipped": torch.tensor(self.skipped)}

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
        """On the device, with the states the sequences start from."""
        batch = {k: v.to(self.device) for k, v in batch.items()}
        self.model.watch(batch, self.updates)
        with autocast(self.device, self.precision):
            return self.starts.prepare(self.model, self.model.augment(batch), self.updates)

    def _dreamer(self) -> ActorCritic | None:
        """Actor and critic, where this update trains them as well."""
        due = self.policy is not None and self.updates % self.policy.imag.every == 0
        return self.policy if due else None

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The sum of everyone's losses, with its graph."""
        with autocast(self.device, self.precision):
            total, metrics, post, feat = self.model.loss(batch)
        policy = self._dreamer()
        if policy is None:
            return total, metrics
        # A context of its own: autocast keeps low-precision copies of weights together with their graph, and the
        # dream, which must not reach the model's weights, would find and use them.
        with autocast(self.device, self.precision):
            losses, extra = policy.losses(self.model, batch, post, feat)
        shown = {f"loss/{k}": v for k, v in losses.items()}
        return total + torch.stack(list(losses.values())).sum(), {**metrics, **extra, **shown}

    def _finite(self, total: Tensor, norm: Tensor) -> bool:
        """False skips the step; a long row of such steps ends the run."""
        if bool(torch.isfinite(total) & torch.isfinite(norm)):
            self.skipped_in_a_row = 0
            return True
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.max_skipped:
            raise Diverged(
                f"{self.max_skipped} updates in a row had a non-finite loss or gradient; the last checkpoint is good. "
                "Try a lower optim.lr or optim.clip, or --run.precision fp32"
            )
        return False

    def _spare_probe(self, norms: dict[str, Tensor]) -> None:
        """The probe's own gradients, not finite, stop nobody but itself."""
        if "probe" in norms and not bool(torch.isfinite(norms["probe"])):
            for p in self.parts["probe"]:
                p.grad = None

    def _warm_up(self) -> None:
        if self.updates > self.config.warmup:
            return
        share = min(1.0, (self.updates + 1) / max(1, self.config.warmup))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share

    def tensors(self) -> dict[str, Tensor]:
        """Optimiser state as flat named tensors."""
        state = self.optimizer.state_dict()["state"]
        return {f"{i}/{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}

    def counters(self) -> dict[str, int]:
        return {"updates": self.updates, "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Continue exactly where `tensors()` and `counters()` were taken."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split("/")
            parameter = self.parameters[int(index)]
            # The fused optimiser walks memory, not coordinates: moments must lie as their parameter does.
            same = value.shape == parameter.shape
            laid_out = torch.empty_like(parameter).copy_(value) if same else value.clone()
            state.setdefault(int(index), {})[key] = laid_out.detach()
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        self.updates, self.skipped = counters["updates"], counters["skipped"]
        self.skipped_in_a_row = counters["skipped_in_a_row"]
