"""Optional fast paths: C for CPUs, one CUDA graph for GPUs.

The mathematics stands in model/. A kernel replaces an equation there that is decorated with
`replaceable_by`, wherever it computes the same; without any kernel everything works, only slower.
The model, the learner and the planning behavior use them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

is_left_to_torch = ContextVar("is_left_to_torch", default=False)


@contextmanager
def leave_to_torch() -> Iterator[None]:
    """Let torch compute what `elementwise` and `sequence` would, so that second derivatives and
    batched gradients work.
    """
    token = is_left_to_torch.set(True)
    try:
        yield
    finally:
        is_left_to_torch.reset(token)


def replaceable_by(kernel: Callable[..., T | None]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Ask the kernel first; where it returns None, the decorated equation computes the result."""

    def decorate(equation: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(equation)
        def compute(*args: P.args, **kwargs: P.kwargs) -> T:
            found = kernel(*args, **kwargs)
            return equation(*args, **kwargs) if found is None else found

        return compute

    return decorate
