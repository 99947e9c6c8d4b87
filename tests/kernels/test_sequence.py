"""Posterior states of a whole sequence, and their gradients, are those of the loop in torch."""

import copy

import pytest
import torch

from worldmodel import build
from worldmodel.config import loading
from worldmodel.kernels import elementwise, leave_to_torch, sequence
from worldmodel.spaces import ActionSpace, ObservationSpace

needs_library = pytest.mark.skipif(
    elementwise.load_library() is None, reason="no C compiler here; torch does the loop"
)
SIZES = {"several": (5, 9), "one row": (1, 9), "one step": (5, 1)}  # rows and steps


def make_dynamics(*words):
    sizes = ["model.deter=24", "model.hidden=20", "model.stoch=6", "model.classes=5"]
    c = loading.parse(["debug", *sizes, *words])
    torch.manual_seed(0)
    model = build.make_model(c, ObservationSpace({"image": (64, 64, 3)}), ActionSpace(3))
    for name, p in model.dynamics.named_parameters():
        if "norm" in name or "bias" in name:
            p.data += torch.randn(p.shape) * 0.3  # not what they are at first
    return model.dynamics


def make_inputs(dynamics, rows=5, steps=9):
    """Embeddings, actions, where episodes start, and start states that are views.

    The last of several rows starts from NaN, which the start of an episode cuts off.
    """
    g = torch.Generator().manual_seed(1)
    embed = torch.randn(rows, steps, dynamics.post_embed.in_features, generator=g)
    action = torch.rand(rows, steps, 3, generator=g) * 2 - 1
    is_first = torch.zeros(rows, steps, dtype=torch.bool)
    is_first[::2, steps // 2] = True
    start = {
        k: torch.randn(rows, 2, *v.shape[1:], generator=g)[:, 1]
        for k, v in dynamics.initial(rows).items()
    }
    if rows > 1:
        is_first[-1, 0] = True
        for values in start.values():
            values[-1] = float("nan")
    return embed, action, is_first, start


def observe(dynamics, rows=5, steps=9, precision=torch.float32, seed=2):
    """Posteriors and priors, and the gradients of their weighted sum by all inputs."""
    embed, action, is_first, start = make_inputs(dynamics, rows, steps)
    leaves = {"embed": embed, **start}
    for leaf in leaves.values():
        leaf.requires_grad_()
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        post, prior = dynamics.observe(embed, action, is_first, start)
    g = torch.Generator().manual_seed(3)
    values = [*post.values(), *prior.values()]
    dynamics.zero_grad()
    sum((v.float() * torch.randn(v.shape, generator=g)).sum() for v in values).backward()
    found = {k: v.detach().float() for k, v in post.items()}
    found |= {
        f"by {k}": v.grad.clone() for k, v in dynamics.named_parameters() if v.grad is not None
    }
    found |= {f"by {k}": v.grad for k, v in leaves.items()}
    return post["deter"].grad_fn.name(), found


@needs_library
@pytest.mark.parametrize("latent", ["categorical", "gaussian", "deterministic"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_states_and_all_gradients_are_those_of_the_loop(latent, size):
    dynamics = make_dynamics(f"model.latent={latent}")
    name, found = observe(dynamics, *size)
    with leave_to_torch():
        other, wanted = observe(dynamics, *size)
    assert name == "_FilterBackward" and other != name
    assert found.keys() == wanted.keys() and len(found) > 16
    for key, want in wanted.items():
        assert torch.isfinite(found[key]).all(), key
        assert (found[key] - want).norm() <= 1e-5 * want.norm(), key


@needs_library
@pytest.mark.parametrize("latent", ["categorical", "gaussian", "deterministic"])
def test_bf16_gradients_are_as_accurate_as_those_of_the_loop(latent):
    """Rounding may differ, so both are compared with the loop in fp32."""
    dynamics = make_dynamics(f"model.latent={latent}")
    seed = 8  # of draws that rounding does not change, else no gradient could be compared
    name, found = observe(dynamics, precision=torch.bfloat16, seed=seed)
    with leave_to_torch():
        _, exact = observe(dynamics, seed=seed)
        _, rounded = observe(dynamics, precision=torch.bfloat16, seed=seed)
    assert name == "_FilterBackward"
    if latent == "categorical":
        assert torch.equal(found["stoch"], exact["stoch"])
        assert torch.equal(rounded["stoch"], exact["stoch"])
    for key, want in exact.items():
        error, usual = ((v[key] - want).norm() / want.norm() for v in (found, rounded))
        assert error <= max(1.5 * usual, 0.01), (key, error, usual)


@needs_library
def test_a_backward_pass_under_autocast_is_in_fp32():
    dynamics = make_dynamics("model.latent=gaussian")
    embed, action, is_first, start = make_inputs(dynamics)
    embed.requires_grad_()
    found = []
    for enabled in (False, True):
        torch.manual_seed(2)
        post, _ = dynamics.observe(embed, action, is_first, start)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found += torch.autograd.grad(post["deter"].sum(), dynamics.gru.gates.weight)
    assert torch.equal(*found)


@needs_library
def test_weights_that_changed_before_the_backward_pass_are_noticed():
    dynamics = make_dynamics("model.latent=gaussian")
    post, _ = dynamics.observe(*make_inputs(dynamics))
    with torch.no_grad():
        dynamics.gru.gates.weight.add_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        post["deter"].sum().backward()


@needs_library
def test_without_gradients_states_are_the_same():
    dynamics = make_dynamics("model.latent=categorical")
    embed, action, is_first, start = make_inputs(dynamics)
    found = []
    for learns in (True, False):
        torch.manual_seed(2)
        with torch.set_grad_enabled(learns):
            found.append(dynamics.observe(embed, action, is_first, start)[0])
    assert found[0]["deter"].grad_fn.name() == "_FilterBackward"
    assert not found[1]["deter"].requires_grad
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


@needs_library
@pytest.mark.parametrize(
    "words",
    [
        ["model.transition=ssm"],
        ["model.transition=rnn", "model.latent=deterministic"],
        ["model.blocks=4", "model.latent=categorical"],
    ],
    ids=["ssm", "rnn", "blocks"],
)
def test_other_transitions_are_left_to_the_loop(words):
    dynamics = make_dynamics(*words)
    embed, action, is_first, start = make_inputs(dynamics)
    post, _ = dynamics.observe(embed, action, is_first, start)
    assert post["deter"].grad_fn.name() != "_FilterBackward"


@needs_library
def test_models_in_other_precisions_are_left_to_the_loop():
    dynamics = make_dynamics("model.latent=gaussian")
    _, _, _, start = make_inputs(dynamics)
    hidden, keep = torch.zeros(5, 9, 20), torch.ones(5, 9, 1)

    def run(dynamics, hidden):
        return sequence.filter_sequence(dynamics, start, hidden, hidden, keep)

    assert run(dynamics, hidden) is not None
    assert run(dynamics, hidden.double()) is None
    assert run(copy.deepcopy(dynamics).double(), hidden) is None
    assert run(copy.deepcopy(dynamics).bfloat16(), hidden.bfloat16()) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert run(dynamics, hidden.bfloat16()) is not None
        assert run(dynamics, hidden) is None


@needs_library
@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_a_graph_that_is_kept_gives_the_same_gradients_again(latent):
    dynamics = make_dynamics(f"model.latent={latent}")
    embed, action, is_first, start = make_inputs(dynamics)
    embed.requires_grad_()
    post, _ = dynamics.observe(embed, action, is_first, start)
    first, again = (
        torch.autograd.grad(post["deter"].sum(), embed, retain_graph=k) for k in (1, 0)
    )
    assert torch.equal(first[0], again[0]) and first[0].abs().sum() > 0


@needs_library
def test_second_gradients_are_refused():
    dynamics = make_dynamics("model.latent=gaussian")
    embed, action, is_first, start = make_inputs(dynamics)
    embed.requires_grad_()
    post, _ = dynamics.observe(embed, action, is_first, start)
    with pytest.raises(RuntimeError, match="leave_to_torch"):
        torch.autograd.grad(post["deter"].sum(), embed, create_graph=True)
