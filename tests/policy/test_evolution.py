"""Evolution strategies: what the population computes, and where its estimate of a gradient points."""

import torch

from worldmodel.model.networks import MLP
from worldmodel.policy.evolution import Population, rank


def make_net():
    torch.manual_seed(0)
    return MLP(4, 3, 2, 5)


def test_each_network_of_a_population_computes_what_its_weights_say():
    net, x = make_net(), torch.randn(6, 7, 4)
    population = Population(net, 6, 0.1)
    found = population.run(x)
    for p in range(6):
        alone = make_net()
        alone.load_state_dict({k: v[p] for k, v in population.weights.items()})
        torch.testing.assert_close(found[p], alone(x[p]))
    assert (population.noise["out.bias"][:3] == -population.noise["out.bias"][3:]).all()


def test_ranks_are_centred_and_keep_the_order():
    torch.testing.assert_close(
        rank(torch.tensor([3.0, 900.0, -1.0])), torch.tensor([0, 0.5, -0.5])
    )


def test_the_loss_has_the_estimate_as_its_gradient_and_minus_the_mean_return_as_its_value():
    net, returns = make_net(), torch.tensor([5.0, 1.0, 2.0, 8.0])
    population = Population(net, 4, 0.2)
    loss = population.make_loss(returns)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(-4.0))
    shares = torch.tensor([1 / 6, -1 / 2, -1 / 6, 1 / 2]) / (4 * 0.2)
    for name, p in net.named_parameters():
        by_hand = sum(s * e for s, e in zip(shares, population.noise[name], strict=True))
        torch.testing.assert_close(p.grad, -by_hand)


def test_a_known_target_is_found():
    """The return is minus the squared distance of the output to what another network says."""
    net, x = make_net(), torch.randn(50, 4)
    want = torch.stack([x[:, 0], -x[:, 1], torch.tanh(x[:, 2])], 1)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    before = (net(x) - want).square().mean().item()
    for _ in range(400):
        population = Population(net, 32, 0.05)
        with torch.no_grad():
            returns = -(population.run(x.expand(32, -1, -1)) - want).square().mean((1, 2))
        optimizer.zero_grad()
        population.make_loss(returns).backward()
        optimizer.step()
    assert (net(x) - want).square().mean() < 0.1 * before
