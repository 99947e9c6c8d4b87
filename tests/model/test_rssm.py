"""One step of the recurrent state-space model, from its weights by hand."""

import pytest
import torch

from test_model import KINDS, A, B, make, name_kind
from worldmodel.config import loading


def normalise(x, norm):
    return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight


def silu(x):
    return x / (1 + torch.exp(-x))


def carry(gru, x, hidden):
    """The next hidden state (N,D); each block sees its own part of the hidden state, and all of x."""
    if gru.blocks == 1:
        both = torch.cat([x, hidden], -1)
        gates = (both @ gru.gates.weight.T + gru.gates.bias).chunk(3, -1)
    else:
        parts = hidden.chunk(gru.blocks, -1)
        both = [torch.cat([part, x], -1) for part in parts]
        weights = zip(both, gru.gates.weight, gru.gates.bias, strict=True)
        by_block = [(one @ w + b).chunk(3, -1) for one, w, b in weights]
        gates = [torch.cat([block[i] for block in by_block], -1) for i in range(3)]
    reset, candidate, update = normalise(torch.cat(gates, -1), gru.norm).chunk(3, -1)
    share = 1 / (1 + torch.exp(1 - update))  # a gate that starts with keeping
    candidate = torch.tanh(candidate / (1 + torch.exp(-reset)))
    return (1 - share) * hidden + share * candidate


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("transition", ["rssm", "ssm", "rnn"])
@torch.no_grad()
def test_a_step_by_hand(transition, blocks):
    kind = f"model.transition={transition}", f"model.blocks={blocks}"
    _, model = make(*kind, "model.latent=deterministic")
    dynamics = model.dynamics
    for p in dynamics.parameters():
        torch.nn.init.normal_(p, std=0.4)
    state = {k: torch.randn_like(v) for k, v in dynamics.initial(B).items()}
    action, embed = torch.randn(B, A), torch.randn(B, model.encoder.size)
    x = action @ dynamics.from_action.weight.T + dynamics.from_action.bias
    if transition != "rnn":
        x = x + state["stoch"] @ dynamics.from_stoch.weight.T
    x = silu(normalise(x, dynamics.input_norm))
    old = state["stoch"] if transition == "rnn" else state["deter"]
    deter = x if transition == "ssm" else carry(dynamics.gru, x, old)
    found = dynamics.imagine_step(state, action)
    torch.testing.assert_close(found["deter"], deter)
    hidden = deter @ dynamics.post_deter.weight.T + embed @ dynamics.post_embed.weight.T
    hidden = silu(normalise(hidden + dynamics.post_embed.bias, dynamics.post_norm))
    stoch = hidden @ dynamics.post_out.weight.T + dynamics.post_out.bias
    never = torch.zeros(B, dtype=torch.bool)
    seen = dynamics.observe_step(state, embed, action, never, None)
    torch.testing.assert_close(seen["stoch"], stoch)
    torch.testing.assert_close(dynamics.infer_latent(found, embed)["mean"], stoch)
    parts = [deter, stoch] if transition == "rssm" else [stoch]
    torch.testing.assert_close(dynamics.features(seen), torch.cat(parts, -1))


def test_a_transition_without_noise_takes_the_noiseless_latent_alone():
    names = [name_kind(kind) for kind in KINDS]
    assert [name for name in names if "-rnn-" in name] == ["rssm-rnn-deterministic"]
    assert len([name for name in names if "-rssm-" in name]) == 3
    with pytest.raises(loading.ConfigError) as refused:
        loading.parse(["model.transition=rnn", "model.latent=gaussian"])
    assert "needs model.latent deterministic, not gaussian" in refused.value.problems[0]
    assert loading.parse(["model.transition=rnn", "model.latent=deterministic"])
