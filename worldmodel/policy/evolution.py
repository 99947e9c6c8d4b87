"""Evolution strategies: the gradient of a return from the returns of perturbed networks alone
(Salimans et al. 2017).

    theta_p = theta + sigma eps_p      P networks, in pairs of opposite perturbations
    g = 1 / (P sigma) sum_p u_p eps_p  u_p: the rank of network p's return, in [-1/2, 1/2]

No gradient goes through model, rewards or actions. All P networks run in one matrix product per
layer.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.model.networks import MLP, Norm


class Population:
    """P copies of a network, perturbed with a std of `std`."""

    @torch.no_grad()
    def __init__(self, net: MLP, size: int, std: float):
        self.net, self.size, self.std = net, size, std
        self.noise: dict[str, Tensor] = {}
        for name, p in net.named_parameters():
            half = torch.randn(size // 2, *p.shape, device=p.device)
            self.noise[name] = torch.cat([half, -half])
        own = dict(net.named_parameters())
        self.weights = {k: own[k] + std * noise for k, noise in self.noise.items()}

    def run(self, x: Tensor) -> Tensor:
        """`net(x)` of each network on rows of its own: (P,N,inputs) -> (P,N,outputs)."""
        for i, norm in enumerate(self.net.norms):
            x = torch.bmm(x, self.weights[f"hidden.{i}.weight"].mT.to(x.dtype))
            scale = self.weights[f"norms.{i}.weight"].unsqueeze(1)
            x = F.silu(F.rms_norm(x.float(), x.shape[-1:], eps=cast(Norm, norm).eps) * scale)
        with torch.autocast(x.device.type, enabled=False):  # as in networks.Fp32Linear
            weight, bias = self.weights["out.weight"], self.weights["out.bias"]
            return torch.baddbmm(bias.unsqueeze(1), x.float(), weight.mT)

    def make_loss(self, returns: Tensor) -> Tensor:
        """A loss whose gradient by the network's weights is -g, from returns (P,); its value is
        minus their mean.
        """
        share = rank(returns) / (self.size * self.std)
        gain = torch.zeros((), device=returns.device)
        for name, p in self.net.named_parameters():
            gain = gain + (torch.tensordot(share, self.noise[name], 1) * p).sum()
        return gain.detach() - gain - returns.mean()


def rank(returns: Tensor) -> Tensor:
    """The ranks (P,) of returns, spread over [-1/2, 1/2]: no return counts more for being huge."""
    order = returns.argsort().argsort().float()
    return order / (len(returns) - 1) - 0.5
