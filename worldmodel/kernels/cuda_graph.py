"""One update as a CUDA graph: thousands of small kernels started by a single call.

A captured step may not wait for the device, choose by what a tensor holds, or look at anything but
its inputs; what differs between updates for other reasons is their `kind`, and each kind has a
graph of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch

from worldmodel.spaces import Batch, Metrics

log = logging.getLogger(__name__)

Step = Callable[[], Metrics]
# Names, shapes and kinds of a batch's tensors
Look = tuple[tuple[str, torch.Size, torch.dtype], ...]


class Recorder(Protocol):
    """What makes graphs: torch on a GPU; something simpler in tests."""

    def aside(self, step: Step) -> Metrics:
        """Run a step as it is, where it does not disturb captures to come."""

    def capture(self, step: Step) -> tuple[Callable[[], None], Metrics]:
        """Record a step without running it: what runs it, and where its results will be."""


class CudaRecorder:
    """All graphs share their memory, since they never run at the same time."""

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def aside(self, step: Step) -> Metrics:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            found = step()
        torch.cuda.current_stream().wait_stream(self.stream)
        return found

    def capture(self, step: Step) -> tuple[Callable[[], None], Metrics]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            found = step()
        return graph.replay, found


@dataclass
class Plan:
    """How updates of one kind are run."""

    batch: Batch  # the tensors the graph reads
    seen: int = 0  # updates run without a graph
    # what runs it, and where its results are
    graph: tuple[Callable[[], None], Metrics] | None = None


class Captured:
    """Runs `step(batch)`: a few times as it is, then as a graph; without one, after a line, where
    that fails.

    Results are good until the next call.
    """

    # updates before a capture: libraries choose their kernels, the optimiser makes its state
    warm = 3

    def __init__(self, step: Callable[[Batch], Metrics], recorder: Recorder | None):
        self.step, self.recorder = step, recorder
        self.plans: dict[tuple[Hashable, Look], Plan] = {}

    def __call__(self, kind: Hashable, batch: Batch) -> Metrics:
        if self.recorder is None:
            return self.step(batch)
        plan = self._plan(kind, batch)
        for name, value in batch.items():
            plan.batch[name].copy_(value, non_blocking=True)
        if plan.graph is None and plan.seen < self.warm:
            plan.seen += 1
            return self.recorder.aside(lambda: self.step(plan.batch))
        if plan.graph is None:
            try:
                plan.graph = self.recorder.capture(lambda: self.step(plan.batch))
            except RuntimeError as error:
                log.warning(
                    "updates run without a CUDA graph, slower: %s", str(error).splitlines()[0]
                )
                self.recorder = None
                return self.step(batch)
        replay, found = plan.graph
        replay()
        return found

    def forget(self) -> None:
        """Graphs hold the memory of weights' and optimiser's tensors: where those are replaced,
        all begin anew.
        """
        self.plans = {}

    def _plan(self, kind: Hashable, batch: Batch) -> Plan:
        """The plan of this kind of update; kinds whose batches look alike read the same
        tensors.
        """
        look = tuple((name, v.shape, v.dtype) for name, v in sorted(batch.items()))
        if (kind, look) not in self.plans:
            alike = next((p.batch for (_, other), p in self.plans.items() if other == look), None)
            self.plans[kind, look] = Plan(
                alike or {k: torch.empty_like(v) for k, v in batch.items()}
            )
        return self.plans[kind, look]
