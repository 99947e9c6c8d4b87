"""The imagination actor-critic: Dreamer 1, 2 and 3 are values of its settings.

From posterior states s_0 the actor imagines: a_t ~ actor(s_t), s_{t+1} = model(s_t, a_t), t < H.
Rewards r_{t+1}, continuation probabilities c_{t+1} and values v_{t+1} are predicted, and

    G_t = r_{t+1} + gamma c_{t+1} ((1 - lambda) v_{t+1} + lambda G_{t+1})   lambda-return
    w_t = c_0 prod_{k=1..t} gamma c_k                     probability of being alive
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.config.schema import ActorConfig, CriticConfig, ImagConfig
from worldmodel.distributed import ALONE, World
from worldmodel.model.heads import ScalarHead
from worldmodel.model.networks import MLP, BlockLinear
from worldmodel.policy.action_distributions import (
    CONTINUOUS,
    BoundedNormal,
    Dist,
    OneHotGroups,
    clip_actions,
)
from worldmodel.policy.evolution import Population
from worldmodel.policy.lambda_returns import ReturnScale, lambda_returns
from worldmodel.policy.learned_policy import (
    LearnedPolicy,
    Rate,
    pick_starts,
    subtract_disagreement,
)
from worldmodel.policy.temperature import Temperature
from worldmodel.spaces import ActionSpace, Batch, Metrics, State, map_state


class Actor(nn.Module):
    """Features (...,F) to a distribution over actions (...,A)."""

    def __init__(
        self,
        inputs: int,
        space: ActionSpace,
        layers: int,
        units: int,
        a: ActorConfig,
        network: type[MLP] = MLP,
    ):
        super().__init__()
        self.space, self.config = space, a
        self.net = network(inputs, space.size if space.discrete else 2 * space.size, layers, units)
        self.net.out.weight.data.mul_(a.init_scale)

    def read(self, feat: Tensor) -> Tensor:
        return self.net(feat).float()

    def dist_of(self, read: Tensor) -> Dist:
        a = self.config
        if self.space.discrete:
            return OneHotGroups(read, self.space.groups, a.unimix)
        mean, raw = read.chunk(2, -1)
        return CONTINUOUS[a.dist](mean, raw, a.min_std, a.max_std)

    def forward(self, feat: Tensor) -> Dist:
        return self.dist_of(self.read(feat))

    def choose_target_entropy(self, share: float) -> float:
        """The entropy at this share of the way from the least possible to the largest one."""
        a = self.config
        if self.space.discrete:
            ranges = [OneHotGroups.entropy_range(count, a.unimix) for count in self.space.groups]
        else:
            ranges = [BoundedNormal.entropy_range(a.min_std, a.max_std)] * self.space.size
        return sum(low + share * (high - low) for low, high in ranges)


@dataclass(frozen=True)
class ImaginedRollouts:
    """N imagined rollouts, time first. Entry t of reward, cont and value belongs to state t+1."""

    feat: Tensor  # (H,N,F), without a graph
    actor_output: Tensor  # (H,N,...), of the actor's network
    action: Tensor  # (H,N,A), before clipping
    reward: Tensor  # (H,N)
    cont: Tensor  # (H,N)
    value: Tensor  # (H,N)


class ActorCritic(LearnedPolicy):
    """Actor, critic, the critic's slow copy and the losses."""

    def __init__(
        self,
        actor: Actor,
        critic: ScalarHead,
        imag: ImagConfig,
        critic_config: CriticConfig,
        world: World = ALONE,
    ):
        super().__init__()
        self.actor, self.world = actor, world
        self.critic: ScalarHead = critic
        self.imag, self.actor_config, self.critic_config = imag, actor.config, critic_config
        self.every, self.greedy = imag.every, actor.config.greedy
        self.slow = (
            copy.deepcopy(critic).requires_grad_(False) if critic_config.slow != "none" else None
        )
        self.scale = ReturnScale()
        self.temperature, self.target_entropy = None, 0.0
        if actor.config.target_entropy is not None:
            self.temperature = Temperature(actor.config.entropy)
            self.target_entropy = actor.choose_target_entropy(actor.config.target_entropy)
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def bootstrap_critic(self) -> ScalarHead:
        """The critic that returns are bootstrapped from: the slow critic or the critic itself."""
        slow = self.slow is not None and self.critic_config.bootstrap == "slow"
        return self.slow if slow else self.critic  # type: ignore[return-value]

    def list_parts(self) -> dict[str, tuple[nn.Module, Rate]]:
        parts: dict[str, tuple[nn.Module, Rate]] = {
            "actor": (self.actor, "actor"),
            "critic": (self.critic, "critic"),
        }
        if self.temperature is not None:
            parts["temperature"] = self.temperature, "critic"
        return parts

    def choose(self, feat: Tensor) -> Dist:
        return self.actor(feat)

    def value(self, feat: Tensor) -> Tensor:
        return self.bootstrap_critic.mean(feat)

    def losses(
        self, model, batch: Batch, post: State, feat: Tensor
    ) -> tuple[dict[str, Tensor], Metrics]:
        """Scalar losses of actor and critic from the posteriors (B,T,...) of a batch; feat (B,T,F)
        keeps its graph.
        """
        picks = pick_starts(batch["is_terminal"], self.imag.starts)
        start = map_state(post, lambda v: v.detach().flatten(0, 1)[picks])
        alive = 1.0 - batch["is_terminal"].float().flatten()[picks]
        with (
            torch.set_grad_enabled(self.actor_config.gradient in ("dynamics", "mix")),
            freeze_weights(model, self.critic),
        ):
            imagined = self.imagine_rollouts(model, start)
        returns, discount = self._compute_returns(imagined)
        weight = torch.cat([alive.unsqueeze(0), discount[:-1].detach()]).cumprod(0)
        losses: dict[str, Tensor] = {}
        shown: Metrics = {}
        losses["actor"], entropy = self._actor_loss(imagined, returns, weight)
        if self.temperature is not None:
            mean = weight / weight.sum().clamp(min=1e-8)
            losses["temperature"] = self.temperature.make_loss(entropy, self.target_entropy, mean)
            shown["temperature"] = self.temperature().detach()
        if self.actor_config.gradient == "es":
            losses["actor"] = losses["actor"] + self._evolution_loss(model, start, alive)
        losses["critic"], metrics = self._critic_loss(imagined.feat, returns.detach(), weight)
        if self.critic_config.replay:
            losses["critic_replay"] = self.critic_config.replay * self._replay_loss(
                batch, feat, returns, picks
            )
        shown |= {
            "entropy": entropy[0].mean().detach(),
            "return": returns.mean().detach(),
            "imag_reward": imagined.reward.mean().detach(),
        }
        return losses, {**metrics, **shown}

    def imagine_rollouts(
        self,
        model,
        state: State,
        generator: torch.Generator | None = None,
        read: Callable[[Tensor], Tensor] | None = None,
    ) -> ImaginedRollouts:
        """Imagine H steps with the actor; it sees features without their graph, as in every
        Dreamer. `read` replaces the output of its network on features.
        """
        read = read or self.actor.read
        rollout = model.dynamics.start_rollout(state, self.imag.horizon, generator)
        reads, drawn = [], []
        for _ in range(self.imag.horizon):
            reads.append(read(rollout.features))
            drawn.append(self.actor.dist_of(reads[-1]).sample(generator))
            rollout.step(clip_actions(drawn[-1]))
        before, after = rollout.features_before(), rollout.features_after()
        action = torch.stack(drawn)
        reward, cont, value = model.predict(after, self.bootstrap_critic)
        reward = self.compute_rewards(model, reward, before, after, action)
        return ImaginedRollouts(before, torch.stack(reads), action, reward, cont, value)

    def compute_rewards(
        self, model, predicted: Tensor, before: Tensor, after: Tensor, action: Tensor
    ) -> Tensor:
        """The rewards (H,N) that count: the predicted ones, less `imag.pessimism` times the
        ensemble's disagreement. Features (H,N,F) are those before and after actions (H,N,A).
        """
        pessimism, action = self.imag.pessimism, clip_actions(action)
        return subtract_disagreement(model, predicted, before[0], after, action, pessimism)

    def _compute_returns(self, imagined: ImaginedRollouts) -> tuple[Tensor, Tensor]:
        """Lambda-returns and discounts (H,N) of rollouts."""
        discount = self.imag.discount * imagined.cont
        return lambda_returns(
            imagined.reward, imagined.value, discount, self.imag.lam, dim=0
        ), discount

    @torch.no_grad()
    def _score_population(
        self, model, population: Population, start: State, alive: Tensor
    ) -> Tensor:
        """The mean return (P,) of each perturbed actor from the same start states (N,)."""
        size = population.size

        def read(feat: Tensor) -> Tensor:
            return population.run(feat.unflatten(0, (size, -1))).flatten(0, 1)

        starts = map_state(start, lambda v: v.repeat(size, *[1] * (v.dim() - 1)))
        with freeze_weights(model, self.critic):
            returns, _ = self._compute_returns(self.imagine_rollouts(model, starts, read=read))
        return (alive * returns[0].view(size, -1)).mean(1)

    def _evolution_loss(self, model, start: State, alive: Tensor) -> Tensor:
        a = self.actor_config
        population = Population(self.actor.net, a.population, a.perturbation)
        return population.make_loss(self._score_population(model, population, start, alive))

    def _actor_loss(
        self, imagined: ImaginedRollouts, returns: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Minus the objective: returns through the model, or log-probabilities times advantage,
        plus entropy.

        Returns the entropies (H,N) as well.
        """
        a = self.actor_config
        scale = (
            self.scale.update(returns.detach(), self.world.cat)
            if a.normalize == "percentile"
            else 1.0
        )
        if a.gradient == "es":  # returns count in `_evolution_loss`
            entropy = self.actor(imagined.feat).entropy()
            return -(weight * self._weigh_entropy() * entropy).mean(), entropy
        share = {"dynamics": 0.0, "reinforce": 1.0, "mix": a.mix}[a.gradient]
        # Rollouts for likelihood ratios alone carry no graph.
        policy = (
            self.actor(imagined.feat) if share == 1 else self.actor.dist_of(imagined.actor_output)
        )
        entropy = policy.entropy()
        gain = self._weigh_entropy() * entropy
        if share > 0:
            with torch.no_grad():
                baseline = torch.cat([self.value(imagined.feat[:1]), imagined.value[:-1]])
                advantage = (returns - baseline) / scale
            gain = gain + share * policy.log_prob(imagined.action.detach()) * advantage
        if share < 1:
            gain = gain + (1 - share) * returns / scale
        return -(weight * gain).mean(), entropy

    def _weigh_entropy(self) -> Tensor | float:
        """The weight of the entropy bonus: fixed, or what learning has made of it."""
        if self.temperature is None:
            return self.actor_config.entropy
        return self.temperature().detach()

    def _critic_loss(
        self, feats: Tensor, returns: Tensor, weight: Tensor
    ) -> tuple[Tensor, Metrics]:
        read = self.critic.read(feats)
        loss = (weight * self._fit_loss(read, feats, returns)).mean()
        value = self.critic.mean_of(read.detach())
        return loss, {"value": value.mean(), "value_error": (value - returns).abs().mean()}

    def _fit_loss(self, read: Tensor, feat: Tensor, target: Tensor) -> Tensor:
        """The loss of the critic's output `read` on features, against a target and the slow
        critic.
        """
        loss = self.critic.loss_of(read, target)
        if self.slow is not None and self.critic_config.pull:
            with torch.no_grad():
                slow = self.slow.mean(feat)
            loss = loss + self.critic_config.pull * self.critic.loss_of(read, slow)
        return loss

    def _replay_loss(self, batch: Batch, feat: Tensor, returns: Tensor, picks: Tensor) -> Tensor:
        """The critic's loss on the replayed sequence; no other critic loss trains the world model.

        The value of each state is the return imagined from it, or the critic's where nothing was
        imagined.
        """
        with torch.no_grad():
            value = self.value(feat.detach())
            value.view(-1)[picks] = returns[0].detach()
            going = 1.0 - batch["is_terminal"].float()
            last = batch["is_last"].float()
            target = compute_replay_returns(
                batch["reward"], value, self.imag.discount * going, last, self.imag.lam
            )
        before = feat[:, :-1]
        return (
            (1 - last[:, :-1]) * self._fit_loss(self.critic.read(before), before, target)
        ).mean()

    @torch.no_grad()
    def after_update(self) -> None:
        """Update the slow critic: a little at every update (ema), or by a copy at every few
        (copy).
        """
        self.updates += 1
        c = self.critic_config
        if self.slow is None:
            return
        if c.slow == "copy":
            share = (self.updates % c.every == 0).float()
            for old, new in zip(self.slow.parameters(), self.critic.parameters(), strict=True):
                old.lerp_(new, share)
        if c.slow == "ema":
            torch._foreach_lerp_(
                list(self.slow.parameters()), list(self.critic.parameters()), c.rate
            )


def compute_replay_returns(
    reward: Tensor, value: Tensor, discount: Tensor, last: Tensor, lam: float
) -> Tensor:
    """Lambda-returns along replayed rows (B,T), for their first T-1 states; none reaches across an
    episode's end.

    Where a row is its episode's last the return stops at that row's value, which counts unless it
    is terminal.
    """
    return lambda_returns(reward[:, 1:], value[:, 1:], discount[:, 1:], lam * (1 - last[:, 1:]))


@contextlib.contextmanager
def freeze_weights(*modules: nn.Module) -> Iterator[None]:
    """Gradients pass through these modules without reaching their weights.

    Under autocast the matrices are cast to its precision here, once, instead of at each imagined
    step.
    """
    inner = [part for m in modules if isinstance(m, nn.Module) for part in m.modules()]
    kept = [(part, dict(part._parameters)) for part in inner if part._parameters]
    for part, own in kept:
        weights = {k: p.detach() for k, p in own.items() if p is not None}
        device = next(iter(weights.values())).device.type
        if type(part) in (nn.Linear, BlockLinear) and torch.is_autocast_enabled(device):
            weights = {k: w.to(torch.get_autocast_dtype(device)) for k, w in weights.items()}
        part._parameters.update(weights)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for part, own in kept:
            part._parameters.update(own)
