"""The transformer against a loop over single queries, keys and heads."""

import itertools

import torch
import torch.nn.functional as F

from test_model import A, B, T, make, random_batch

CONTEXT = 3


def attend_by_loops(dynamics, tokens, episode):
    """h (T,D) of one sequence: each token attends to itself and the CONTEXT tokens before it, as
    far as they are of its episode.
    """
    x = tokens
    for block in dynamics.blocks:
        size = x.shape[-1] // block.heads
        parts = block.queries_keys_values(block.attention_norm(x)).view(T, 3, block.heads, size)
        found = torch.zeros(T, block.heads, size)
        for t, head in itertools.product(range(T), range(block.heads)):
            others = [s for s in range(max(0, t - CONTEXT), t + 1) if episode[s] == episode[t]]
            scores = torch.stack(
                [
                    parts[t, 0, head] @ parts[s, 1, head] / size**0.5
                    + dynamics.distance_bias[head, t - s]
                    for s in others
                ]
            )
            for share, s in zip(scores.softmax(0), others, strict=True):
                found[t, head] = found[t, head] + share * parts[s, 2, head]
        x = x + block.attended(found.flatten(1))
        x = x + block.out(F.silu(block.hidden(block.hidden_norm(x))))
    return dynamics.norm(x)


@torch.no_grad()
def test_states_are_what_single_queries_find_in_their_episode():
    kind = "model.dynamics=transformer", "model.latent=deterministic"
    _, model = make(*kind, f"transformer.context={CONTEXT}", "transformer.layers=2")
    dynamics, batch = model.dynamics, random_batch()
    torch.nn.init.normal_(dynamics.distance_bias)
    embed = torch.randn(B, T, model.encoder.size)
    post, prior = dynamics.observe(embed, batch["prev_action"], batch["is_first"], {})
    latent = dynamics.post_net(embed)
    for b in range(B):
        first = batch["is_first"][b].unsqueeze(-1)
        before = torch.cat([torch.zeros(1, latent.shape[-1]), latent[b, :-1]])
        action = batch["prev_action"][b].masked_fill(first, 0.0)
        tokens = dynamics.from_stoch(before.masked_fill(first, 0.0)) + dynamics.from_action(action)
        wanted = attend_by_loops(dynamics, tokens, first[:, 0].cumsum(0))
        torch.testing.assert_close(post["hidden"][b], wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(prior["mean"][b], dynamics.prior_net(wanted))
    assert dynamics.from_action.in_features == A
