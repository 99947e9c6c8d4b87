"""PyTorch in float64 with given noise: what the differential tests run the project in."""

import contextlib

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from worldmodel.kernels import leave_to_torch


class GivenNoise(TorchFunctionMode):
    """Every cast to float32 becomes one to float64, and every draw takes the next given array.

    `draws` are pairs of a function's name and an array; order, function and shape must agree.
    """

    def __init__(self, draws=()):
        super().__init__()
        self.draws = list(draws)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.float:
            return args[0].double()
        if func is torch.Tensor.to:
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        name = getattr(func, "__name__", "")
        if name in ("rand", "randn", "randn_like", "randperm"):
            return self.draw(name, args)
        return func(*args, **kwargs)

    def draw(self, name, args):
        given, array = self.draws.pop(0)
        assert name == given, f"{name} was called, not {given}"
        if name == "randperm":
            shape = (args[0],)
        else:
            shape = args[0].shape if name == "randn_like" else args[0]
            shape = tuple(shape) if not isinstance(shape, int) else args
        assert shape == array.shape, f"{name} of {shape}, not {array.shape}"
        return torch.from_numpy(array)


@contextlib.contextmanager
def in_double(draws=()):
    """Run in float64, with these draws and no others."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with GivenNoise(draws) as noise, leave_to_torch():
            yield
        assert not noise.draws, f"{len(noise.draws)} draws were never made"
    finally:
        torch.set_default_dtype(before)


def read_arrays(tensors):
    """Tensors by name as float64 arrays of their own."""
    return {k: v.detach().numpy().astype(float).copy() for k, v in tensors.items()}


def measure_difference(found, wanted):
    """The largest difference, relative to the largest number wanted."""
    found, wanted = np.asarray(found, float), np.asarray(wanted, float)
    assert found.shape == wanted.shape, f"shape {found.shape}, not {wanted.shape}"
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-300))
