"""Optional fast paths: C for CPUs, one CUDA graph for GPUs.

The mathematics stands in model/. A kernel replaces an equation there that is decorated with
`replaceable_by`, wherever it computes the same; without any kernel everything works, only slower.
The model, the learner and the planning behavior use them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def replaceable_by(kernel: Callable[..., T | None]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Ask the kernel first; where it returns None, the decorated equation computes the result."""

    def decorate(equation: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(equation)
        def compute(*args: P.args, **kwargs: P.kwargs) -> T:
            found = kernel(*args, **kwargs)
            return equation(*args, **kwargs) if found is None else found

        return compute

    return decorate
