"""One gradient step on the world model: precision, clipping, warm-up, the guard against non-finite numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.model import WorldModel
from worldmodel.runtime import autocast
from worldmodel.schema import OptimConfig
from worldmodel.types import Batch, Metrics


class Diverged(RuntimeError):
    """Too many updates in a row gave non-finite losses or gradients."""


class Learner:
    """Adam with a global gradient clip."""

    max_skipped = 25

    def __init__(self, model: WorldModel, config: OptimConfig, device: torch.device, precision: str):
        self.model, self.config, self.device, self.precision = model, config, device, precision
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, eps=config.eps, weight_decay=config.weight_decay, fused=True
        )
        self.updates = 0
        self.skipped = 0
        self.skipped_in_a_row = 0

    def update(self, batch: Batch) -> Metrics:
        """One step on a batch (B,T,...); returns scalar metrics, still on the device."""
        batch = {k: v.to(self.device) for k, v in batch.items()}
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            total, metrics = self.model.loss(batch)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip, foreach=True)
        if self._finite(total.detach(), norm):
            self._warm_up()
            self.optimizer.step()
        self.updates += 1
        return {**{k: v.detach() for k, v in metrics.items()}, "grad_norm": norm, "skipped": torch.tensor(self.skipped)}

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

    def _warm_up(self) -> None:
        if self.updates <= self.config.warmup:
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.lr * min(1.0, (self.updates + 1) / max(1, self.config.warmup))

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
        if self.updates:
            self._restore_lr()

    def _restore_lr(self) -> None:
        done = min(1.0, self.updates / max(1, self.config.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * done
