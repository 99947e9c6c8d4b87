"""One update as a CUDA graph: thousands of small kernels started by a single call.

A captured step must not wait for the device, branch on a tensor's values, or read anything but its
inputs. Whatever else differs between updates is their `kind`, and each kind has its own graph.
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
# Names, shapes and types of a batch's tensors
BatchLayout = tuple[tuple[str, torch.Size, torch.dtype], ...]


class Recorder(Protocol):
    """Makes graphs: by torch on a GPU, in a simpler way in tests."""

    def run_aside(self, step: Step) -> Metrics:
        """Run a step without a graph, in a way that does not disturb later captures."""

    def capture(self, step: Step) -> tuple[Callable[[], None], Metrics]:
        """Record a step without running it; return what runs it, and the tensors of its
        results.
        """


class CudaRecorder:
    """All graphs share their memory, since they never run at the same time."""

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def run_aside(self, step: Step) -> Metrics:
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
class Recording:
    """The inputs and the graph of updates of one kind."""

    batch: Batch  # the tensors the graph reads
    seen: int = 0  # updates run without a graph
    # what runs it, and where its results are
    graph: tuple[Callable[[], None], Metrics] | None = None


class GraphedStep:
    """Runs `step(batch)` a few times without a graph, then as a graph; if the capture fails,
    without one after a warning.

    Results are valid until the next call.
    """

    # updates before a capture: libraries choose their kernels, the optimiser makes its state
    warmup = 3

    def __init__(self, step: Callable[[Batch], Metrics], recorder: Recorder | None):
        self.step, self.recorder = step, recorder
        self.recordings: dict[tuple[Hashable, BatchLayout], Recording] = {}

    def __call__(self, kind: Hashable, batch: Batch) -> Metrics:
        if self.recorder is None:
            return self.step(batch)
        recording = self._find_recording(kind, batch)
        for name, value in batch.items():
            recording.batch[name].copy_(value, non_blocking=True)
        if recording.graph is None and recording.seen < self.warmup:
            recording.seen += 1
            return self.recorder.run_aside(lambda: self.step(recording.batch))
        if recording.graph is None:
            try:
                recording.graph = self.recorder.capture(lambda: self.step(recording.batch))
            except RuntimeError as error:
                log.warning(
                    "updates run without a CUDA graph, slower: %s", str(error).splitlines()[0]
                )
                self.recorder = None
                return self.step(batch)
        replay, found = recording.graph
        replay()
        return found

    def forget_graphs(self) -> None:
        """Drop all graphs: they use the memory of weights and optimiser states that have been
        replaced.
        """
        self.recordings = {}

    def _find_recording(self, kind: Hashable, batch: Batch) -> Recording:
        """Find or begin the recording of a kind of update; kinds with equal batch layouts share
        inputs.
        """
        layout = tuple((name, v.shape, v.dtype) for name, v in sorted(batch.items()))
        if (kind, layout) not in self.recordings:
            alike = next(
                (p.batch for (_, other), p in self.recordings.items() if other == layout), None
            )
            self.recordings[kind, layout] = Recording(
                alike or {k: torch.empty_like(v) for k, v in batch.items()}
            )
        return self.recordings[kind, layout]
