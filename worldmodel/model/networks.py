"""Layers: MLP, block linear, image encoder and decoder, vector encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.kernels import elementwise, planning_step, planning_step_fp32, replaceable_by
from worldmodel.spaces import ObservationSpace

UNIT = 0.5413  # softplus of it is one


class Norm(nn.RMSNorm):
    """RMSNorm in fp32, whatever the precision of its input."""

    def __init__(self, size: int):
        super().__init__(size, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class MLP(nn.Module):
    """Linear, RMSNorm, SiLU, `layers` times, then a linear output (`exact`: in fp32), (...,inputs)
    -> (...,outputs).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        layers: int,
        units: int,
        zero_output: bool = False,
        exact: bool = True,
    ):
        super().__init__()
        sizes = [inputs] + [units] * layers
        self.hidden = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.norms = nn.ModuleList(Norm(units) for _ in range(layers))
        self.out = (Fp32Linear if exact else nn.Linear)(sizes[-1], outputs)
        if zero_output:
            nn.init.zeros_(self.out.weight)
            self.out.bias.data.zero_()

    @replaceable_by(planning_step.run_mlp)
    @replaceable_by(planning_step_fp32.run_mlp)
    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.hidden[0](x)) if len(self.hidden) else self.out(x)

    def rest(self, x: Tensor) -> Tensor:
        """All but the first linear layer."""
        last, fine = len(self.norms) - 1, isinstance(self.out, Fp32Linear)
        for i, norm in enumerate(self.norms):
            x = x if i == 0 else self.hidden[i](x)
            x = norm_silu(x, cast(Norm, norm), fine and i == last)
        return self.out(x)


class BiasedMLP(MLP):
    """An MLP whose first layer has a bias, as the weights of a constant beside its input.

    Otherwise the first norm hides how large the input is. In wide features that is no loss, in a
    few raw numbers it is.
    """

    def __init__(self, inputs: int, outputs: int, layers: int, units: int):
        super().__init__(inputs + 1, outputs, layers, units)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(add_constant(x))


def add_constant(x: Tensor) -> Tensor:
    """(...,D) -> (...,D+1), the last of which is one."""
    return F.pad(x, (0, 1), value=1.0)


@replaceable_by(elementwise.norm_silu)
def norm_silu(x: Tensor, norm: nn.RMSNorm, fine: bool = False) -> Tensor:
    """SiLU of a norm (...,D); a kernel keeps the precision of x unless `fine` asks for fp32."""
    return F.silu(norm(x))


@replaceable_by(elementwise.silu)
def silu(x: Tensor) -> Tensor:
    return F.silu(x)


@replaceable_by(planning_step.run_side_by_side)
@replaceable_by(planning_step_fp32.run_side_by_side)
def apply_side_by_side(nets: Sequence[MLP], x: Tensor) -> list[Tensor]:
    """Apply several networks to one input, whose gradient is then one matrix product instead of a
    sum of several.
    """
    if not all(len(net.hidden) for net in nets):
        return [net(x) for net in nets]
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    firsts = _SideBySide.apply(
        x.to(dtype), *(cast(nn.Linear, net.hidden[0]).weight.to(dtype) for net in nets)
    )
    return [net.rest(first) for net, first in zip(nets, firsts, strict=True)]


class _SideBySide(torch.autograd.Function):
    """x (...,D) times each of some matrices (E,D)."""

    @staticmethod
    def forward(ctx, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return tuple(F.linear(x, w) for w in weights)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        x, *weights = ctx.saved_tensors
        sizes, grad = [len(w) for w in weights], torch.cat(grads, -1)
        by_x = grad @ torch.cat(weights) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return by_x, *(None for _ in weights)
        return by_x, *(grad.flatten(0, -2).t() @ x.flatten(0, -2)).split(sizes)


class Fp32Linear(nn.Linear):
    """A linear layer in fp32 even under autocast, for outputs whose small differences matter.

    In bf16 neighbouring rewards near 8 lie 0.03 apart, and a planner could not tell good plans
    from better ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class BlockLinear(nn.Module):
    """A block-diagonal linear layer: (...,blocks,inputs) -> (...,blocks,outputs)."""

    def __init__(self, blocks: int, inputs: int, outputs: int):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(blocks, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(blocks, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...gi,gio->...go", x, self.weight) + self.bias


def compute_encoded_size(size: tuple[int, int], layers: int, patch: int) -> tuple[int, int]:
    """Height and width after the first layer's patches and a halving by every other layer."""
    factor = patch * 2 ** (layers - 1)
    return size[0] // factor, size[1] // factor


def initialize_convs(module: nn.Module) -> None:
    """Give convolutions weights that keep the signal's size, stored channels-last, which is
    faster.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)


class EncoderSettings(Protocol):
    """The keys of `model` that the strided convolutions have: channels, and the first patch."""

    cnn: list[int]
    patch: int


class ImageEncoder(nn.Module):
    """Strided convolutions that each halve the picture: (N,H,W,C) -> (N,E). With a `patch` above 2
    the first layer projects patches.
    """

    def __init__(self, settings: EncoderSettings, shape: tuple[int, int, int]):
        super().__init__()
        channels, patch = settings.cnn, settings.patch
        kernel = (patch, patch) if patch > 2 else (4, 2, 1)  # size, stride and padding
        first = nn.Conv2d(shape[2], channels[0], *kernel)
        halving = (nn.Conv2d(a, b, 4, 2, 1) for a, b in zip(channels, channels[1:], strict=False))
        self.convs = nn.ModuleList([first, *halving])
        height, width = compute_encoded_size(shape[:2], len(channels), patch)
        self.size = height * width * channels[-1]
        initialize_convs(self)

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2)  # channels-last already
        for conv in self.convs:
            x = silu(conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x.permute(0, 2, 3, 1).flatten(1)


class Upsample(nn.Module):
    """A transposed 4x4 convolution of stride 2, computed as a 2x2 convolution per output phase.

    Each output pixel sees 2x2 inputs through one of four kernels. Cutting a border of one from the
    interleaved phases puts them in place. On a CPU its backward pass takes half the time of
    ConvTranspose2d's.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.phases = nn.Conv2d(inputs, 4 * outputs, 2, 1, 1)

    def forward(self, x: Tensor, silu: bool = False) -> Tensor:
        """(N,C,H,W) -> (N,outputs,2H,2W), channels last in memory."""
        return interleave_phases(self.phases(x).permute(0, 2, 3, 1), silu).permute(0, 3, 1, 2)


@replaceable_by(elementwise.interleave_phases)
def interleave_phases(phases: Tensor, silu: bool) -> Tensor:
    """Interleave four phases (N,h+1,w+1,4C) to one map (N,2h,2w,C) without its border; `silu` adds
    SiLU.
    """
    n, rows, columns, channels = phases.shape
    split = phases.view(n, rows, columns, 2, 2, channels // 4)
    whole = split.transpose(2, 3).reshape(n, 2 * rows, 2 * columns, channels // 4)[:, 1:-1, 1:-1]
    return F.silu(whole) if silu else whole


class Unpatch(nn.Module):
    """Each position of a map becomes a patch of the picture."""

    def __init__(self, inputs: int, outputs: int, patch: int):
        super().__init__()
        self.patch = patch
        self.patches = nn.Conv2d(inputs, patch * patch * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,outputs,pH,pW), channels last in memory."""
        mixed = self.patches(x).permute(0, 2, 3, 1)
        whole = rearrange(mixed, "n h w (y x c) -> n (h y) (w x) c", y=self.patch, x=self.patch)
        return whole.permute(0, 3, 1, 2)


class ImageDecoder(nn.Module):
    """The encoder's mirror image: features (N,F) -> mean picture (N,H,W,C) without the mean
    image.
    """

    def __init__(
        self, inputs: int, shape: tuple[int, int, int], channels: Sequence[int], patch: int
    ):
        super().__init__()
        self.start = (*compute_encoded_size(shape[:2], len(channels), patch), channels[-1])
        self.project = nn.Linear(inputs, math.prod(self.start))
        back = list(reversed(channels))
        doubling = (Upsample(a, b) for a, b in zip(back, back[1:], strict=False))
        colours = shape[2]
        last = Unpatch(back[-1], colours, patch) if patch > 2 else Upsample(back[-1], colours)
        self.convs = nn.ModuleList([*doubling, last])
        initialize_convs(self)

    def forward(self, feat: Tensor) -> Tensor:
        x = self.project(feat).unflatten(1, self.start).permute(0, 3, 1, 2)
        for conv in self.convs[:-1]:
            x = conv(x, silu=True)
        return self.convs[-1](x).permute(0, 2, 3, 1)


class VectorDecoder(nn.Module):
    """Proprioceptive vector in symlog space: (...,F) -> (...,n); the loss sums over n."""

    def __init__(self, inputs: int, outputs: int, units: int):
        super().__init__()
        self.net = MLP(inputs, outputs, 2, units)

    def mean(self, feat: Tensor) -> Tensor:
        return symexp(self.net(feat).float())

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (self.net(feat).float() - symlog(target)).square().sum(-1)


class Encoder(nn.Module):
    """Encodes pictures, without their mean images, and vectors to one embedding: (B,T,...) ->
    (B,T,E).

    `make_picture` makes the encoder of a picture (H,W,C).
    """

    def __init__(
        self,
        observation: ObservationSpace,
        make_picture: Callable[[tuple[int, int, int]], nn.Module],
        units: int,
    ):
        super().__init__()
        self.parts = nn.ModuleDict()
        for name, shape in observation.pictures.items():
            self.parts[name] = make_picture(shape)
        for name, size in observation.vectors.items():
            self.parts[name] = MLP(size, units, 1, units)
        self.pictures, self.vectors = list(observation.pictures), list(observation.vectors)
        pictures = [cast(ImageEncoder, self.parts[name]).size for name in self.pictures]
        self.sizes = [*pictures, *(units for _ in self.vectors)]
        self.size = sum(self.sizes)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        seen = []
        for name in self.pictures:
            flat = self.parts[name](rearrange(batch[name], "b t h w c -> (b t) h w c"))
            seen.append(flat.unflatten(0, batch[name].shape[:2]))
        for name in self.vectors:
            vector = self.parts[name](symlog(batch[name]))
            seen.append(vector.to(seen[0].dtype) if seen else vector)
        return torch.cat(seen, -1) if len(seen) > 1 else seen[0]

    def count_points(self) -> dict[str, int]:
        """How many feature points each picture has by name, if it has any."""
        counts = {name: getattr(self.parts[name], "points", 0) for name in self.pictures}
        return {name: count for name, count in counts.items() if count}

    def find_points(self, embed: Tensor) -> dict[str, Tensor]:
        """The feature points (...,K,2) of pictures by name in embeddings (...,E), if they have
        any.
        """
        parts = zip(self.pictures, embed.split(self.sizes, -1), strict=False)
        counts = self.count_points()
        return {name: part.unflatten(-1, (-1, 2)) for name, part in parts if name in counts}


class RawVectors(nn.Module):
    """All vectors of an observation side by side, as they are: (B,T,...) -> (B,T,E)."""

    def __init__(self, observation: ObservationSpace):
        super().__init__()
        self.names, sizes = list(observation.vectors), list(observation.vectors.values())
        self.sizes, self.size = sizes, sum(sizes)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.cat([batch[name].float() for name in self.names], -1)

    def split(self, embed: Tensor) -> dict[str, Tensor]:
        """The vectors (...,n) by name that are side by side in (...,E)."""
        return dict(zip(self.names, embed.split(self.sizes, -1), strict=True))


class RawPicture(nn.Module):
    """The one picture of an observation, its pixels side by side: (B,T,H,W,C) -> (B,T,E), in
    fp32. The first E features of a state are its picture.
    """

    def __init__(self, observation: ObservationSpace):
        super().__init__()
        ((self.name, self.shape),) = observation.pictures.items()
        self.size = math.prod(self.shape)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return batch[self.name].float().flatten(2)

    def decode(self, feat: Tensor) -> dict[str, Tensor]:
        """The pictures (B,T,H,W,C) of features (B,T,F), as a decoder."""
        return {self.name: feat[..., : self.size].float().unflatten(-1, self.shape)}

    def list_picture_decoders(self) -> dict[str, nn.Module]:
        return {}


def symlog(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.expm1(torch.abs(x))


def compute_log_probs(logits: Tensor, unimix: float) -> Tensor:
    """Log-probabilities with a share `unimix` of uniform mixed in."""
    if not unimix:
        return logits.log_softmax(-1)
    return ((1 - unimix) * logits.softmax(-1) + unimix / logits.shape[-1]).log()


def sample_one_hot(logits: Tensor, unimix: float, generator: torch.Generator | None) -> Tensor:
    """Sample one-hot codes from logits (...,K), with straight-through gradients to the
    probabilities.
    """
    uniform = torch.rand(logits.shape[:-1], generator=generator, device=logits.device)
    return pick_one_hot(logits, uniform, unimix)


@replaceable_by(elementwise.pick_one_hot)
def pick_one_hot(logits: Tensor, uniform: Tensor, unimix: float) -> Tensor:
    """One-hot codes (...,K) that uniform numbers (...) pick from the probabilities."""
    logs = compute_log_probs(logits.float(), unimix)
    return straight_through(logs, pick_indices(logs, uniform))


def pick_indices(logs: Tensor, uniform: Tensor) -> Tensor:
    """Indices (...) of the classes in which uniform numbers (...) fall, by cumulative probability.

    On a CPU this takes a tenth of the time of torch.multinomial over many rows, and a third of
    that of Gumbel noise, which needs K numbers each.
    """
    sums = logs.detach().exp().cumsum(-1)
    # The sums may end a rounding error away from one.
    return (sums <= uniform.unsqueeze(-1) * sums[..., -1:]).sum(-1).clamp_max_(logs.shape[-1] - 1)


def straight_through(logs: Tensor, pick: Tensor) -> Tensor:
    """Exact one-hot codes of indices, with the probabilities' gradient."""
    hard = torch.zeros_like(logs).scatter_(-1, pick.unsqueeze(-1), 1.0)
    if not logs.requires_grad:
        return hard
    probs = logs.exp()
    return hard + (probs - probs.detach())
