"""Dynamics of the picture itself, by moving its pixels (Finn, Goodfellow and Levine 2016).

h_t   = GRU(h_{t-1}, conv(x_{t-1}), a_t)             convolutional, at a quarter of the size
x_t   = M_0 x_{t-1} + M_1 x_first + sum_k M_{k+1} (w_k * x_{t-1})

w_k (h_t) are K normalised kernels, and M (h_t, x_{t-1}) are masks that sum to one at each pixel:
a pixel stays, is moved by a kernel (CDNA), or is that of the first picture, which shows what was
hidden later (SNA, Ebert et al. 2017). So a prediction is a mean of pixels that were seen.

Nothing is encoded: a state holds the picture x (...,P), the first one of its episode or sequence,
and h. The loss `dyn` is half the squared error of the predicted picture. An episode's first
picture is not predicted, and its loss is zero.

With `pixels.latent` n the motion depends on noise as well (Denton and Fergus 2018):

z_t ~ p(z | h_t) in a prediction, q(z | h_t, conv(x_t)) in training; w_k (h_t + Wz_t), M likewise.

`dyn` then is the squared error given a sample of q, and `pixels.latent_kl` times KL(q || p).

With `pixels.truth` k the predictions of a sequence in training take their last picture from the
data with probability k / (k + exp(i/k)) at update i, and else from the prediction before
(scheduled sampling, Bengio et al. 2015).

A state may also say where some pixels are: probabilities p (...,D,H*W) of D designated pixels, and
those p_first of the first picture. The same masks and kernels move them, and they are normalised,
because a pixel may come to lie at several places (Finn and Levine 2017). Softmax masks are never
zero, so every kernel moves every pixel a little. Below a least mask m, they may count as none:

M' = max(M - m, 0) / sum max(M - m, 0)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.config.ranges import Natural, Range, Weight, Width
from worldmodel.errors import UsageError
from worldmodel.kernels import moved_pixels, replaceable_by
from worldmodel.model.dynamics import Dynamics
from worldmodel.model.networks import Fp32Linear, Upsample, initialize_convs
from worldmodel.spaces import State

if TYPE_CHECKING:
    from worldmodel.config.schema import Config

PICTURES = ("picture", "first")
STAY = 3.0  # added to the logit of the mask that keeps pixels: at first most of them stay


@dataclass(frozen=True)
class Settings:
    encodes_nothing = True
    moves_pixels = True
    largest = 48  # pixels along a side

    kernels: Annotated[int, Range(1, 100)]
    kernel_size: Annotated[int, Range(3, 25)]
    channels: Width
    latent: Natural
    latent_kl: Weight
    truth: Weight

    def contradictions(self, c: Config) -> list[str]:
        found = []
        if c.env.obs != "pixels":
            found.append(
                f"model.dynamics: pixels moves those of a picture; it needs env.obs pixels, not "
                f"{c.env.obs}"
            )
        height, width = c.env.size
        if max(height, width) > self.largest or height % 4 or width % 4:
            found.append(
                f"env.size: model.dynamics pixels takes up to {self.largest}x{self.largest}, "
                f"divisible by 4, not {height}x{width}"
            )
        if self.kernel_size % 2 == 0:
            found.append(f"pixels.kernel_size: {self.kernel_size} is even and has no middle")
        if c.model.backdrop:
            found.append(
                "model.backdrop: model.dynamics pixels moves pixels as they are; set it to 0"
            )
        for key in ("reward_head", "cont_head"):
            if getattr(c.model, key) == "known":
                found.append(
                    f"model.{key}: known is an equation of the observed vector, and "
                    "model.dynamics pixels has none; learn it"
                )
        used = [name for name, weight in c.loss.objective.items() if weight]
        if used:
            found.append(
                f"loss.objective: model.dynamics pixels encodes nothing, so {used[0]} has nothing "
                "to train; set it to {}"
            )
        return found


class Pixels(Dynamics):
    truth_share: Tensor
    noisy = False  # the loss is a squared error; free nats do not apply

    def __init__(
        self,
        settings: Settings,
        make_latent: Callable[..., Any],
        *,
        actions: int,
        embed: int,
        shape: tuple[int, int, int],
    ):
        super().__init__()
        height, width, colours = self.shape = shape
        most = Settings.largest
        if max(height, width) > most or height % 4 or width % 4:
            raise UsageError(
                f"model.dynamics pixels takes pictures of up to {most}x{most}, divisible by "
                f"4, and this environment has {height}x{width}; set env.size"
            )
        self.settings, self.size = settings, height * width * colours
        count, channels, half = settings.kernels, settings.channels, max(settings.channels // 2, 1)
        self.channels, self.coarse = channels, (height // 4, width // 4)
        self.feature_size = self.size + channels
        self.first_conv = nn.Conv2d(colours, half, 5, 2, 2)
        self.second_conv = nn.Conv2d(half, channels, 3, 2, 1)
        self.input_gates = nn.Conv2d(channels + actions, 3 * channels, 3, 1, 1)
        self.state_gates = nn.Conv2d(channels, 3 * channels, 3, 1, 1)
        area = self.coarse[0] * self.coarse[1]
        self.kernel_net = Fp32Linear(channels * area, count * settings.kernel_size**2)
        self.grow = Upsample(channels, half)
        self.mask_net = Upsample(2 * half, count + 2)
        if settings.latent:
            self.prior_net = Fp32Linear(channels * area, 2 * settings.latent)
            self.posterior_net = Fp32Linear(2 * channels * area, 2 * settings.latent)
            self.noise_net = Fp32Linear(settings.latent, channels)
        # The share of the last pictures that are the data's; training sets it at each update.
        self.register_buffer("truth_share", torch.ones(()), persistent=False)
        self.feeds_back = False  # whether predictions may take the place of the data
        initialize_convs(self)

    @property
    def standardizes(self) -> bool:  # type: ignore[override]
        return self.settings.truth > 0

    def update_statistics(
        self, embed: Tensor, is_first: Tensor, update: int, over_ranks: Callable[[Tensor], Tensor]
    ) -> None:
        """Note how far the schedule of scheduled sampling has come."""
        k = self.settings.truth
        self.truth_share.fill_(k / (k + math.exp(min(update / k, 50.0))))
        self.feeds_back = True

    def initial(self, batch: int) -> State:
        zeros = self.first_conv.weight.new_zeros
        hidden = zeros(batch, self.channels, *self.coarse)
        return {
            "picture": zeros(batch, self.size),
            "first": zeros(batch, self.size),
            "hidden": hidden,
        }

    def features(self, state: State) -> Tensor:
        """The picture, and the mean of the recurrent state over places."""
        return self.join_features(state["picture"], state["hidden"].mean((-2, -1)))

    def expected_features(self, state: State) -> Tensor:
        return torch.cat([state["picture"], state["hidden"].mean((-2, -1))], -1).float()

    def observe(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> tuple[State, State]:
        """The posterior is what was seen, and the prior the picture predicted from it: mean."""
        post, before, first, seen = self._filter(embed, prev_action, is_first, start)
        if self.feeds_back:
            return post, self._sample_schedule(post, before, first, prev_action, is_first, start)
        flat = [x.flatten(0, 1) for x in (before, first, post["hidden"], seen)]
        noise, divergence = self._infer_noise(flat[2], post["picture"].flatten(0, 1))
        kernels, masks = self._predict_motion(flat[2], flat[3], noise)
        mean = self._move(flat[0], flat[1], kernels, masks).unflatten(0, is_first.shape)
        prior = {"mean": torch.where(is_first.bool().unsqueeze(-1), post["picture"], mean)}
        if divergence is not None:
            prior["divergence"] = divergence.unflatten(0, is_first.shape) * ~is_first.bool()
        return post, prior

    def _sample_schedule(
        self,
        post: State,
        before: Tensor,
        firsts: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        start: State,
    ) -> State:
        """The priors, of which each but the first may be predicted from that before it."""
        hidden = (start or self.initial(len(before)))["hidden"].float()
        own = torch.rand(is_first.shape, device=before.device) >= self.truth_share
        predicted, steps = before[:, 0], []
        for t in range(is_first.shape[1]):
            begin, truth = is_first[:, t].bool(), post["picture"][:, t]
            last = torch.where((own[:, t] & (t > 0)).unsqueeze(-1), predicted, before[:, t])
            seen, coarse = self._look(last)
            hidden = self._update_hidden(hidden, self._combine(coarse, prev_action[:, t]))
            hidden = hidden.masked_fill(begin.view(-1, 1, 1, 1), 0.0)
            noise, divergence = self._infer_noise(hidden, truth)
            kernels, masks = self._predict_motion(hidden, seen, noise)
            moved = self._move(last, firsts[:, t], kernels, masks)
            predicted = torch.where(begin.unsqueeze(-1), truth, moved)
            step = {"mean": predicted}
            if divergence is not None:
                step["divergence"] = divergence * ~begin
            steps.append(step)
        return {k: torch.stack([step[k] for step in steps], 1) for k in steps[0]}

    def infer_states(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> State:
        return self._filter(embed, prev_action, is_first, start)[0]

    def _filter(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        """The states (B,T,...), and of the step before each: picture, first picture, and maps."""
        batch, length = is_first.shape
        pictures, begins = embed.float(), is_first.bool()
        start = start or self.initial(batch)
        before = torch.cat([start["picture"].float().unsqueeze(1), pictures[:, :-1]], 1)
        seen, coarse = self._look(before.flatten(0, 1))
        inputs = self._combine(coarse, prev_action.flatten(0, 1)).unflatten(0, (batch, length))
        hidden, first = start["hidden"].float(), start["first"].float()
        hiddens, firsts = [], [first]
        for t in range(length):
            begin = begins[:, t]
            hidden = self._update_hidden(hidden, inputs[:, t])
            hidden = hidden.masked_fill(begin.view(-1, 1, 1, 1), 0.0)
            first = torch.where(begin.unsqueeze(-1), pictures[:, t], first)
            hiddens.append(hidden)
            firsts.append(first)
        post = {
            "picture": pictures,
            "first": torch.stack(firsts[1:], 1),
            "hidden": torch.stack(hiddens, 1),
        }
        return post, before, torch.stack(firsts[:-1], 1), seen.unflatten(0, (batch, length))

    def observe_step(
        self,
        state: State,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> State:
        _, coarse = self._look(state["picture"])
        hidden = self._update_hidden(state["hidden"], self._combine(coarse, prev_action))
        begin, picture = is_first.bool(), embed.float()
        return {
            "picture": picture,
            "first": torch.where(begin.unsqueeze(-1), picture, state["first"]),
            "hidden": hidden.masked_fill(begin.view(-1, 1, 1, 1), 0.0),
        }

    def imagine_step(
        self, state: State, action: Tensor, generator: torch.Generator | None = None
    ) -> State:
        seen, coarse = self._look(state["picture"])
        hidden = self._update_hidden(state["hidden"], self._combine(coarse, action))
        noise = None
        if self.settings.latent:
            mean, std = self._read_normal(self.prior_net(hidden.flatten(1)))
            draw = torch.randn(mean.shape, generator=generator, device=mean.device)
            noise = mean + std * draw
        kernels, masks = self._predict_motion(hidden, seen, noise)
        after = {"first": state["first"], "hidden": hidden}
        if "designated" in state:
            if "least_mask" in state:
                masks = drop_small_masks(masks, state["least_mask"])
                after["least_mask"] = state["least_mask"]
            mean, after["designated"] = self._move_designated(state, kernels, masks)
            after["designated_first"] = state["designated_first"]
        else:
            mean = self._move(state["picture"], state["first"], kernels, masks)
        return {**after, "picture": mean, "mean": mean}

    def _look(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of pictures (N,P) at half and at a quarter of their size."""
        seen = F.silu(self.first_conv(self._restore_shape(picture)))
        return seen, F.silu(self.second_conv(seen))

    def _restore_shape(self, picture: Tensor) -> Tensor:
        """(N,P) -> (N,C,H,W)."""
        return picture.float().unflatten(-1, self.shape).permute(0, 3, 1, 2)

    def _combine(self, coarse: Tensor, action: Tensor) -> Tensor:
        """What the recurrent cell reads: maps (N,C,h,w), and actions (N,A) at each place."""
        tiles = action.to(coarse.dtype)[:, :, None, None].expand(-1, -1, *self.coarse)
        return self.input_gates(torch.cat([coarse, tiles], 1))

    def _update_hidden(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        """A step of the convolutional GRU, in fp32."""
        reset, update, new = inputs.float().chunk(3, 1)
        own_reset, own_update, own_new = self.state_gates(hidden).float().chunk(3, 1)
        keep = torch.sigmoid(update + own_update)
        new = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
        return keep * hidden + (1 - keep) * new

    def _infer_noise(
        self, hidden: Tensor, picture: Tensor
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """A sample of the posterior z (N,n) given the picture (N,P) that followed, and its KL (N,)
        from the prior; None without a latent.
        """
        if not self.settings.latent:
            return None, None
        flat, coarse = hidden.flatten(1), self._look(picture)[1].flatten(1)
        mean, std = self._read_normal(self.posterior_net(torch.cat([flat, coarse.float()], -1)))
        prior_mean, prior_std = self._read_normal(self.prior_net(flat))
        ratio, gap = std / prior_std, (mean - prior_mean) / prior_std
        divergence = 0.5 * (ratio.square() + gap.square() - 1 - 2 * ratio.log()).sum(-1)
        return mean + std * torch.randn_like(mean), divergence

    def _read_normal(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std (N,n) of the output (N,2n) of a network, near 0 and 1 at first."""
        mean, spread = values.float().chunk(2, -1)
        return mean, F.softplus(spread + 0.54) + 0.01

    def _predict_motion(
        self, hidden: Tensor, seen: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Kernels (N,K,k,k), and masks (N,2+K,H,W) of what stays, returns, and each moves."""
        if noise is not None:
            hidden = hidden + self.noise_net(noise)[:, :, None, None]
        side = self.settings.kernel_size
        logits = self.kernel_net(hidden.flatten(1)).unflatten(-1, (-1, side * side))
        kernels = logits.softmax(-1).unflatten(-1, (side, side))
        wide = self.grow(hidden, silu=True)
        masks = self.mask_net(torch.cat([wide, seen.to(wide.dtype)], 1)).float()
        stay, others = masks.split([1, masks.shape[1] - 1], 1)
        return kernels, torch.cat([stay + STAY, others], 1).softmax(1)

    def _move(self, picture: Tensor, first: Tensor, kernels: Tensor, masks: Tensor) -> Tensor:
        """The next picture (N,P)."""
        still, begun = self._restore_shape(picture), self._restore_shape(first)
        return mix_pixels(still, begun, kernels, masks).permute(0, 2, 3, 1).flatten(1)

    def _move_designated(
        self, state: State, kernels: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next picture (N,P), and where designated pixels are expected then (N,D,H*W)."""
        colours = self.shape[2]
        maps = [
            torch.cat([self._restore_shape(state[k]), state[p].unflatten(-1, self.shape[:2])], 1)
            for k, p in zip(PICTURES, ("designated", "designated_first"), strict=True)
        ]
        mixed = mix_pixels(maps[0], maps[1], kernels, masks)
        picture = mixed[:, :colours].permute(0, 2, 3, 1).flatten(1)
        moved = mixed[:, colours:].flatten(2)
        return picture, moved / moved.sum(-1, keepdim=True).clamp(min=1e-12)

    def measure_motion(self, state: State, action: Tensor) -> Tensor:
        """How many rows and columns each pixel of the next picture has moved, as the mean over
        kernels and masks: (N,H,W,2).
        """
        seen, coarse = self._look(state["picture"])
        hidden = self._update_hidden(state["hidden"], self._combine(coarse, action))
        kernels, masks = self._predict_motion(hidden, seen)
        side = self.settings.kernel_size
        moves = side // 2 - torch.arange(side, device=kernels.device).to(kernels)
        along = torch.stack([kernels.sum(-1) @ moves, kernels.sum(-2) @ moves], -1)  # (N,K,2)
        return torch.einsum("nkhw,nkm->nhwm", masks[:, 2:], along)

    def begin_here(self, state: State) -> State:
        return {**state, "first": state["picture"]}

    def designate(
        self, state: State, probabilities: Tensor, first: Tensor, least_mask: float = 0.0
    ) -> State:
        known = {"designated": probabilities, "designated_first": first}
        if least_mask:
            known["least_mask"] = probabilities.new_full((len(probabilities),), least_mask)
        return {**state, **known}

    def locate(self, state: State) -> Tensor:
        return state["designated"]

    def register(self, state: State, std: float, side: int = 1) -> State:
        seen, first = (cut_patches(self._restore_shape(state[k]), side) for k in PICTURES)
        patches = state["designated_first"] @ first  # (N,D,C*side*side)
        gaps = patches.square().sum(-1, keepdim=True) - 2 * patches @ seen.mT
        gaps = gaps + seen.square().sum(-1).unsqueeze(-2)  # |seen - patch|^2 (N,D,H*W)
        gaps = (gaps - gaps.amin(-1, keepdim=True)) / side**2
        before = state["designated"]
        matches = before.clamp(min=1e-12) * torch.exp(-gaps / (2 * std**2))
        found = matches / matches.sum(-1, keepdim=True)
        known = before.sum(-1, keepdim=True) > 0
        return {**state, "designated": torch.where(known, found, before)}

    def predict_latent(self, state: State) -> State:
        return {"mean": state["mean"] if "mean" in state else state["picture"]}

    def infer_latent(self, state: State, embed: Tensor) -> State:
        return {"picture": embed.float()}

    def replace_latent(self, state: State, stoch: Tensor) -> State:
        return {**state, "picture": stoch}

    def distribution(self, state: State) -> State:
        return {"picture": state["picture"]}

    def mean_latent(self, state: State) -> Tensor:
        return state["picture"] if "picture" in state else state["mean"]

    def restore(self, feat: Tensor) -> Tensor:
        """The pictures (...,P) that have these features."""
        return feat[..., : self.size].float()

    def kl(self, post: State, prior: State) -> Tensor:
        """Half the squared error (...) of the predicted picture.

        Up to a constant it is the KL of unit Gaussians around the two. A state in place of a prior
        predicts itself.
        """
        mean = prior["mean"] if "mean" in prior else prior["picture"]
        error = 0.5 * (post["picture"] - mean).square().sum(-1)
        if "divergence" in prior:
            error = error + self.settings.latent_kl * prior["divergence"]
        return error

    def centre(self, posts: State) -> State:
        return {"mean": posts["picture"].mean(0)}


def cut_patches(pictures: Tensor, side: int) -> Tensor:
    """The patch around each pixel of pictures (N,C,H,W): (N,H*W,C*side*side)."""
    padded = F.pad(pictures, [side // 2] * 4, mode="replicate")
    return F.unfold(padded, side).mT


def drop_small_masks(masks: Tensor, least: Tensor) -> Tensor:
    """Masks (N,2+K,H,W) of which those below a least one (N,) are zero; the others sum to one.

    A pixel whose masks are all below it keeps them.
    """
    kept = (masks - least.view(-1, 1, 1, 1)).clamp(min=0.0)
    total = kept.sum(1, keepdim=True)
    return torch.where(total > 0, kept / total.clamp(min=1e-6), masks)


def move_pixels(pictures: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each picture (N,C,H,W) with K kernels (N,K,k,k) of its own: (N,K,C,H,W).

    Beyond the edges lie the pixels of the edges.
    """
    number, colours, height, width = pictures.shape
    count, side = kernels.shape[1], kernels.shape[-1]
    padded = F.pad(pictures, [side // 2] * 4, mode="replicate")
    # A picture's colours are so many groups that share its kernels.
    weights = kernels.unsqueeze(1).expand(-1, colours, -1, -1, -1).reshape(-1, 1, side, side)
    with torch.autocast(pictures.device.type, enabled=False):
        moved = F.conv2d(
            padded.reshape(1, -1, *padded.shape[2:]), weights, groups=number * colours
        )
    return moved.view(number, colours, count, height, width).transpose(1, 2)


@replaceable_by(moved_pixels.mix_pixels)
def mix_pixels(still: Tensor, begun: Tensor, kernels: Tensor, masks: Tensor) -> Tensor:
    """Of pictures (N,C,H,W), what stays, what returns from the first ones, and what kernels move.

    Kernels are (N,K,k,k), masks (N,2+K,H,W).
    """
    mixed = masks[:, :1] * still + masks[:, 1:2] * begun
    return mixed + (masks[:, 2:].unsqueeze(2) * move_pixels(still, kernels)).sum(1)
