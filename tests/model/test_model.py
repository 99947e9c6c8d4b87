"""The world model: every latent and transition keeps one contract, and the losses train what they
should.
"""

import itertools
import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.config.component_settings import read_settings, states_fact
from worldmodel.model.kl import apply_free_nats, compute_corrections, compute_overshooting
from worldmodel.model.mean_image import to_pixels
from worldmodel.model.networks import Unpatch
from worldmodel.model.objectives import Context, Parts
from worldmodel.spaces import ActionSpace, ObservationSpace, count_states, map_state
from worldmodel.training.learner import Learner

B, T, A, H, W, VECTOR = 3, 7, 2, 32, 48, 5
TINY = [
    "model.deter=12",
    "model.stoch=5",
    "model.classes=4",
    "model.hidden=14",
    "transformer.width=12",
    "transformer.heads=3",
    "transformer.context=4",
    "model.cnn=[4, 6]",
    "model.layers=1",
    "model.units=9",
    "env.size=[32, 48]",
    "replay.length=7",
    "run.precision=fp32",
    "loss.overshooting=1",
    "model.min_std=0.1",
    "loss.rep=1.0",
    "optim.lr=1e-3",
    "loss.image=1.0",
]
TRANSITIONS = get_args(get_type_hints(read_settings(registry.DYNAMICS["rssm"]))["transition"])


# What a dynamics' own settings choose among besides its latent.
VARIANTS = {
    "rssm": [f"model.transition={name}" for name in TRANSITIONS],
    "locally_linear": [f"locally_linear.frames={count}" for count in (1, 2)],
}


def possible(kind):
    """Whether a configuration is one of a latent model; others have tests of their own."""
    try:
        c = loading.parse([*TINY, *kind])
    except loading.ConfigError:
        return False
    return not states_fact(registry.DYNAMICS[c.model.dynamics], "encodes_nothing")


# Every dynamics with every latent it can have: a new one is enrolled by being registered.
KINDS = [
    kind
    for name in registry.DYNAMICS
    for variant in VARIANTS.get(name, [f"model.dynamics={name}"])
    for latent in registry.LATENTS
    if possible(kind := (f"model.dynamics={name}", variant, f"model.latent={latent}"))
]


def name_kind(kind):
    return "-".join(part.split("=")[1] for part in kind)


def make(*overrides, image=(H, W, 3), vector=None, space=None):
    torch.manual_seed(0)
    c = loading.parse([*TINY, *overrides])
    observation = {"image": image, "vector": vector}
    observation = ObservationSpace({k: v for k, v in observation.items() if v})
    return c, build.make_model(c, observation, space or ActionSpace(A))


def random_batch(image=True, vector=False, seed=0, length=T):
    g = torch.Generator().manual_seed(seed)
    is_first = torch.zeros(B, length, dtype=torch.bool)
    is_first[:, 0] = True
    is_first[1, 4] = True
    batch = {
        "prev_action": torch.rand(B, length, A, generator=g) * 2 - 1,
        "reward": torch.randn(B, length, generator=g),
        "is_first": is_first,
        "is_last": is_first.roll(-1, 1),
        "is_terminal": torch.rand(B, length, generator=g) < 0.1,
    }
    if image:
        batch["image"] = torch.randint(
            0, 256, (B, length, H, W, 3), generator=g, dtype=torch.uint8
        )
    if vector:
        batch["vector"] = torch.randn(B, length, VECTOR, generator=g)
    return batch


@pytest.fixture(params=KINDS, ids=name_kind)
def model(request):
    return make(*request.param)[1].eval()


def without_noise(model, monkeypatch):
    """Take the mode wherever a sample would be drawn."""
    monkeypatch.setattr(
        model.dynamics.latent,
        "sample",
        lambda params, generator=None: model.dynamics.latent.mode(params),
    )
    if hasattr(model.dynamics, "draw"):  # of a distribution that is not the latent's
        monkeypatch.setattr(model.dynamics, "draw", lambda mean, cov, generator=None: mean)


def test_losses_are_one_number_per_step_and_named_as_the_scales(model):
    losses, _, post, _ = model.losses(random_batch())
    assert losses.keys() == model.scales.keys()
    assert all(v.shape == (B, T) and torch.isfinite(v).all() for v in losses.values())
    assert model.dynamics.features(post).shape == (B, T, model.dynamics.feature_size)
    assert (losses["dyn"] >= 0).all() or model.dynamics.smooths


def same_states(model, *states):
    """States are opaque: the same ones look the same, and so does all that follows from them."""
    actions = torch.linspace(-1, 1, 6 * A).view(1, 6, A).expand(count_states(states[0]), -1, -1)
    dynamics = model.dynamics
    torch.testing.assert_close(*(dynamics.features(state) for state in states))
    torch.testing.assert_close(*(dynamics.features(dynamics.imagine(s, actions)) for s in states))


def test_a_sequence_equals_the_online_filter_step_by_step(model, monkeypatch):
    without_noise(model, monkeypatch)
    batch = random_batch()
    embed, post = model.encode(batch), model.infer_states(batch)
    state = model.dynamics.initial(B)
    for t in range(T):
        state = model.dynamics.observe_step(
            state, embed[:, t], batch["prev_action"][:, t], batch["is_first"][:, t], None
        )
        same_states(model, state, map_state(post, lambda v, t=t: v[:, t]))


def test_is_first_equals_a_fresh_start(model, monkeypatch):
    without_noise(model, monkeypatch)
    batch = random_batch()
    _, post, prior = model.observe(batch)
    tail = {k: v[1:2, 4:] for k, v in batch.items()}
    tail["prev_action"] = tail["prev_action"].clone()
    tail["prev_action"][:, 0] = 9.0  # whatever led to a first observation does not count
    _, fresh_post, fresh_prior = model.observe(tail)
    for key in fresh_prior:
        torch.testing.assert_close(prior[key][1:2, 4:], fresh_prior[key])
    whole = map_state(post, lambda v: v[1:2, 4:])
    for key in model.dynamics.distribution(whole):
        torch.testing.assert_close(whole[key], fresh_post[key])
    for t in range(T - 4):
        same_states(model, *({k: v[:, t] for k, v in x.items()} for x in (whole, fresh_post)))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_not_even_a_nan_is_carried_over_a_start(precision):
    _, model = make("model.latent=categorical")
    embed = torch.randn(B, T, model.encoder.size)
    embed[:, 2] = float("nan")
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 3] = True
    with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        post, _ = model.dynamics.observe(embed, torch.randn(B, T, A), first, {})
    assert post["logits"][:, 2].isnan().all() and post["logits"][:, 3:].isfinite().all()


def test_imagining_equals_single_steps_and_uses_the_actions(model):
    start = model.dynamics.imagine_step(
        model.dynamics.initial(B), torch.ones(B, A), torch.Generator().manual_seed(1)
    )
    actions = torch.rand(B, 4, A)
    whole = model.dynamics.imagine(start, actions, torch.Generator().manual_seed(2))
    state, g = start, torch.Generator().manual_seed(2)
    for t in range(4):
        state = model.dynamics.imagine_step(state, actions[:, t], g)
        for key in whole:
            torch.testing.assert_close(state[key], whole[key][:, t])
    other = model.dynamics.imagine(start, -actions, torch.Generator().manual_seed(2))
    assert not torch.allclose(model.dynamics.features(whole), model.dynamics.features(other))


def test_the_kl_is_from_the_posterior_to_the_prior(model):
    if model.dynamics.smooths:
        pytest.skip("its KL is that of a sequence, which has a test of its own")
    _, post, prior = model.observe(random_batch())
    found = model.dynamics.kl(post, prior)
    torch.testing.assert_close(found, model.dynamics.latent.kl(post, prior))
    # The squared error of the noiseless latent is the same both ways.
    same = torch.allclose(found, model.dynamics.latent.kl(prior, post))
    assert same == (not model.dynamics.noisy)


@pytest.mark.parametrize("graph", [True, False])
def test_a_rollout_begun_for_its_steps_is_imagining(model, graph):
    first, second = (torch.Generator().manual_seed(2) for _ in range(2))
    start = model.dynamics.imagine_step(model.dynamics.initial(B), torch.ones(B, A), first)
    actions = torch.rand(B, 4, A)
    with torch.set_grad_enabled(graph):
        whole = model.dynamics.features(model.dynamics.imagine(start, actions, first))
        model.dynamics.imagine_step(model.dynamics.initial(B), torch.ones(B, A), second)
        rollout = model.dynamics.start_rollout(start, 4, second)
        before = [rollout.features]
        for action in actions.unbind(1):
            rollout.step(action)
            before.append(rollout.features)
    torch.testing.assert_close(rollout.features_after(), whole.transpose(0, 1))
    torch.testing.assert_close(rollout.features_before(), torch.stack(before[:-1]))
    torch.testing.assert_close(before[0], model.dynamics.features(start))
    assert rollout.features_after().requires_grad == graph
    assert not rollout.features_before().requires_grad and not before[-1].requires_grad
    if graph:  # and it leads back to where each action was used
        moved = torch.autograd.grad(
            rollout.features_after().sum(), [*model.dynamics.parameters()], allow_unused=True
        )
        assert any(g is not None and g.abs().sum() > 0 for g in moved)


def test_dyn_trains_the_prior_and_rep_the_posterior(model):
    """Each alone: no state is carried where every step begins an episode, so that a posterior and
    a prior meet in their KL only.
    """
    model.free = 0.0
    batch = {**random_batch(), "is_first": torch.ones(B, T, dtype=torch.bool)}
    raw = model._kl_losses(batch, *model.observe(batch)[1:])
    prior = list(model.dynamics.prior_net.parameters())
    posterior = [p for n, p in model.dynamics.named_parameters() if n.startswith("post_")]
    for name, trained, still in (("dyn", prior, posterior), ("rep", posterior, prior)):
        grads = torch.autograd.grad(
            raw[name].sum(), trained + still, allow_unused=True, retain_graph=True
        )
        moved = [g is not None and bool(g.abs().sum() > 0) for g in grads]
        # A prior of a first step that sees nothing but zeros moves by its biases alone
        assert any(moved[: len(trained)]), name
        # A smoothed posterior is made of its prior too
        assert not any(moved[len(trained) :]) or (model.dynamics.smooths and name == "rep"), name


def test_every_weight_is_trained(model):
    total, *_ = model.loss(random_batch())
    model.free = 0.0
    model.loss(random_batch())[0].backward()
    unused = [
        n
        for n, p in model.named_parameters()
        if p.grad is None or not 0 < p.grad.abs().sum() < torch.inf
    ]
    assert not unused and torch.isfinite(total)


def test_one_batch_can_be_learnt_by_heart():
    c, model = make(
        "optim.lr=3e-3",
        "optim.clip=1000",
        "loss.free=0.1",
        "loss.reward=100",
        "model.deter=48",
        "model.units=40",
    )
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    batch = random_batch()
    batch["image"] = (batch["image"] // 255 * 40 + 100).to(torch.uint8)
    first = learner.update(batch)
    for _ in range(180):
        last = learner.update(batch)
    assert last["loss/image"] < 0.3 * first["loss/image"]
    assert last["loss/reward"] < 0.5 * first["loss/reward"]


def test_bf16_losses_stay_close_to_fp32():
    c, model = make("model.latent=deterministic")
    batch = random_batch()
    exact, exact_parts, *_ = model.loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_parts, *_ = model.loss(batch)
    assert rough.dtype == torch.float32
    for key in exact_parts:
        torch.testing.assert_close(rough_parts[key], exact_parts[key], rtol=0.05, atol=0.05)
    assert abs(rough - exact) < 0.01 * abs(exact)


@pytest.mark.parametrize(("latent", "taught"), [("deterministic", True), ("gaussian", False)])
def test_free_nats_spare_the_prior_of_noisy_latents_alone(latent, taught):
    _, model = make(f"model.latent={latent}", "loss.free=1000", "loss.overshooting=1")
    model.loss(random_batch())[0].backward()
    grads = [p.grad for p in model.dynamics.prior_net.parameters()]
    assert any(g is not None and g.abs().sum() > 0 for g in grads) == taught


@pytest.mark.parametrize(("image", "vector"), [(True, True), (False, True)])
def test_vectors_beside_or_instead_of_pixels(image, vector):
    _, model = make(image=(H, W, 3) if image else None, vector=VECTOR)
    losses, *_ = model.losses(random_batch(image, vector))
    assert ("image" in losses) == image and losses["vector"].shape == (B, T)


@pytest.mark.parametrize("size", [(16, 16), (32, 64), (48, 80)])
def test_any_divisible_picture_comes_back_in_its_own_size(size):
    _, model = make(f"env.size=[{size[0]}, {size[1]}]", image=(*size, 3))
    picture = model.decode(torch.randn(2, 4, model.dynamics.feature_size))["image"]
    assert picture.shape == (2, 4, *size, 3) and to_pixels(picture).dtype == torch.uint8


def test_doubling_equals_a_transposed_convolution():
    from worldmodel.model.networks import Upsample

    layer, plain = Upsample(5, 3), torch.nn.ConvTranspose2d(5, 3, 4, 2, 1)
    with torch.no_grad():
        phases = layer.phases.weight.view(2, 2, 3, 5, 2, 2)  # y, x, outputs, inputs, kernel
        for y, x in itertools.product(range(2), range(2)):
            # Output 2h+y-1 comes from phase y, which reads rows h-1 and h: taps 2+y and y of the
            # transposed kernel.
            plain.weight[:, :, y::2, x::2] = phases[y, x].flip(-1, -2).transpose(0, 1)
        layer.phases.bias.copy_(torch.arange(3.0).repeat(4))
        plain.bias.copy_(torch.arange(3.0))
    picture = torch.randn(2, 5, 6, 7)
    assert layer(picture).shape == (2, 3, 12, 14)
    torch.testing.assert_close(layer(picture), plain(picture), atol=1e-5, rtol=1e-5)


def test_blocks_split_the_recurrence():
    _, plain = make()
    _, blocked = make("model.blocks=3")
    assert blocked.dynamics.gru.gates.weight.shape == (3, 14 + 4, 12)
    batch = random_batch()
    assert blocked.losses(batch)[0]["dyn"].shape == (B, T)
    assert sum(p.numel() for p in blocked.parameters()) < sum(
        p.numel() for p in plain.parameters()
    )


@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
def test_kl_equals_torch_distributions(latent):
    lat = build.make_latent(loading.parse([*TINY, f"model.latent={latent}"]).model)
    g = torch.Generator().manual_seed(3)
    post, prior = (lat.dist(torch.randn(B, T, lat.num_params, generator=g)) for _ in range(2))
    D = torch.distributions
    if latent == "gaussian":
        make_dist = lambda d: D.Independent(D.Normal(d["mean"], d["std"]), 1)  # noqa: E731
    else:
        make_dist = lambda d: D.Independent(D.Categorical(logits=d["logits"]), 1)  # noqa: E731
    want = D.kl_divergence(make_dist(post), make_dist(prior))
    torch.testing.assert_close(lat.kl(post, prior), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lat.kl(post, post), torch.zeros(B, T), atol=1e-5, rtol=0)


def test_categorical_samples_follow_the_probabilities_with_straight_through_gradients():
    lat = build.make_latent(
        loading.parse([*TINY, "model.latent=categorical", "model.unimix=0.1"]).model
    )
    params = torch.randn(
        1, lat.num_params, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    dist = lat.dist(params)
    drawn = lat.sample(params.detach().expand(20_000, -1), torch.Generator().manual_seed(0))
    assert ((drawn == 0) | (drawn == 1)).all() and (drawn.sum(-1) == 1).all()
    torch.testing.assert_close(drawn.mean(0), dist["logits"].exp()[0], atol=0.02, rtol=0)
    assert dist["logits"].exp().min() >= 0.1 / 4 - 1e-6
    weight = torch.randn(5, 4)
    (grad,) = torch.autograd.grad((lat.sample(params) * weight).sum(), params, retain_graph=True)
    (want,) = torch.autograd.grad((dist["logits"].exp() * weight).sum(), params)
    torch.testing.assert_close(grad, want)


def test_gaussian_samples_are_reparameterised():
    lat = build.make_latent(loading.parse(TINY).model)
    params = torch.randn(1, 10, generator=torch.Generator().manual_seed(0))
    dist = lat.dist(params)
    drawn = lat.sample(params.expand(20_000, 10), torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), dist["mean"][0], atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), dist["std"][0], atol=0.05, rtol=0.05)
    assert (dist["std"] >= 0.1).all()


def test_free_nats_by_hand():
    kl = torch.tensor([[0.5, 4.0], [1.0, 2.5]], requires_grad=True)
    torch.testing.assert_close(
        apply_free_nats(kl, 1.0, "element"), torch.tensor([[1.0, 4.0], [1.0, 2.5]])
    )
    assert torch.equal(apply_free_nats(kl, 1.9, "mean"), kl)  # the mean is 2
    clipped = apply_free_nats(kl, 2.1, "mean")
    assert torch.equal(clipped, torch.full((2, 2), 2.1))
    (grad,) = torch.autograd.grad(clipped.sum(), kl, allow_unused=True)
    assert grad is None or not grad.any()


def test_overshooting_equals_a_naive_loop(monkeypatch):
    _, model = make("loss.overshooting=4")
    without_noise(model, monkeypatch)
    batch = random_batch()
    _, post, _ = model.observe(batch)
    found = compute_overshooting(model.dynamics, post, batch["prev_action"], batch["is_first"], 4)
    for b, t in itertools.product(range(B), range(T)):
        kls = []
        for d in range(2, 5):
            if t - d < 0 or batch["is_first"][b, t - d + 1 : t + 1].any():
                continue
            state = {k: v[b : b + 1, t - d] for k, v in post.items()}
            actions = batch["prev_action"][b : b + 1, t - d + 1 : t + 1]
            found_there = model.dynamics.imagine(state, actions)
            last = {k: v[:, -1] for k, v in model.dynamics.predict_latent(found_there).items()}
            kls.append(model.dynamics.kl({k: v[b : b + 1, t] for k, v in post.items()}, last))
        want = torch.stack(kls).mean() if kls else torch.tensor(0.0)
        torch.testing.assert_close(found[b, t], want, rtol=1e-4, atol=1e-5)
    assert found.abs().sum() > 0
    assert model.losses(batch)[0]["overshoot"].shape == (B, T)


@pytest.mark.parametrize("kind", KINDS, ids=name_kind)
def test_corrections_train_one_step_from_states_that_imagination_reached(kind, monkeypatch):
    _, model = make(*kind, "loss.corrective=0.5", "loss.corrective_steps=2")
    without_noise(model, monkeypatch)
    dynamics, batch = model.dynamics, random_batch()
    post = map_state(model.observe(batch)[1], torch.Tensor.detach)
    actions, is_first = batch["prev_action"], batch["is_first"]
    found = compute_corrections(dynamics, post, actions, is_first, 2)
    by_hand = torch.zeros(B, T)
    for b, t in itertools.product(range(B), range(T)):
        kls = []
        for d in (1, 2):  # steps imagined before the one that is corrected
            if t - 1 - d < 0 or is_first[b, t - d : t + 1].any():
                continue
            state = {k: v[b : b + 1, t - 1 - d] for k, v in post.items()}
            for step in range(t - d, t):
                state = dynamics.imagine_step(state, actions[b : b + 1, step])
            state = dynamics.imagine_step(
                map_state(state, torch.Tensor.detach), actions[b : b + 1, t]
            )
            label = {k: v[b : b + 1, t] for k, v in dynamics.distribution(post).items()}
            kls.append(dynamics.kl(label, dynamics.predict_latent(state)))
        if kls:
            by_hand[b, t] = torch.stack(kls).mean()
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-5)
    weights = [p for p in dynamics.parameters() if p.requires_grad]
    pairs = [
        torch.autograd.grad(loss.sum(), weights, allow_unused=True, retain_graph=True)
        for loss in (found, by_hand)
    ]
    for one, other in zip(*pairs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    losses, *_ = model.losses(batch)
    assert losses["corrective"].shape == (B, T) and model.scales["corrective"] == 0.5


def test_two_hot_round_trip_and_an_untrained_head_says_zero():
    from worldmodel.model.heads import TwoHotHead, encode_two_hot

    head = TwoHotHead(6, 1, 8, 255)
    torch.testing.assert_close(head.mean(torch.randn(4, 6)), torch.zeros(4))
    x = torch.tensor([-30.0, -1.3, 0.0, 0.004, 7.7, 900.0])
    # beyond the bins, and between the two lowest and the two highest
    ends = torch.stack([2 * head.bins[0], head.bins[:2].mean(), head.bins[-2:].mean()])
    low, share = encode_two_hot(ends, head.bins)
    assert low.tolist() == [0, 0, 253]
    torch.testing.assert_close(share, torch.tensor([0.0, 0.5, 0.5]))
    low, share = encode_two_hot(x, head.bins)
    assert ((share >= 0) & (share <= 1)).all() and (head.bins == -head.bins.flip(0)).all()
    torch.testing.assert_close((1 - share) * head.bins[low] + share * head.bins[low + 1], x)
    # the loss is least where the two bins carry exactly these weights
    logits = torch.full((6, 255), -30.0)
    logits.scatter_(1, low[:, None], (1 - share).clamp(min=1e-9).log()[:, None])
    logits.scatter_(1, low[:, None] + 1, share.clamp(min=1e-9).log()[:, None])
    head.net.forward = lambda feat: logits
    torch.testing.assert_close(head.mean(torch.zeros(6, 6)), x, rtol=1e-4, atol=1e-4)
    own_entropy = torch.special.entr(torch.stack([share, 1 - share])).sum(0)
    torch.testing.assert_close(head.loss(torch.zeros(6, 6), x), own_entropy, rtol=1e-4, atol=1e-4)


def test_heads_have_as_many_layers_of_as_many_units_as_asked():
    from worldmodel.model.heads import ContinueHead, GaussianHead, TwoHotHead

    for head in (ContinueHead(6, 2, 9), GaussianHead(6, 2, 9), TwoHotHead(6, 2, 9, 15)):
        assert [tuple(layer.weight.shape) for layer in head.net.hidden] == [(9, 6), (9, 9)]


def test_under_autocast_two_hot_heads_read_in_bf16_and_numbers_in_fp32():
    """A number of bf16 near 8 would be rounded by 0.03; logits go through a softmax in fp32."""
    from worldmodel.model.heads import ContinueHead, GaussianHead, TwoHotHead

    feat = torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert TwoHotHead(6, 1, 8, 255).read(feat).dtype == torch.bfloat16
        assert TwoHotHead(6, 1, 8, 255).mean(feat).dtype == torch.float32
        for kind in (GaussianHead, ContinueHead):
            assert kind(6, 1, 8).read(feat).dtype == torch.float32


def test_a_non_finite_batch_is_skipped_and_counted_and_a_row_of_them_ends_the_run():
    from worldmodel.training.learner import Diverged

    c, model = make()
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    learner.update(random_batch())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    bad = random_batch()
    bad["reward"][0, 0] = float("nan")
    learner.update(bad)
    assert learner.skip_count == 1 and all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items()
    )
    learner.update(random_batch())
    assert learner.state_dict()["skipped_in_a_row"] == 0
    with pytest.raises(Diverged):
        for _ in range(30):
            learner.update(bad)


def test_twenty_updates_follow_the_golden_curve():
    """A refactor must not move these numbers; delete the file and run the test to record new ones
    on purpose.
    """
    golden = Path(__file__).parents[1] / "support" / "golden_losses.json"
    c, model = make("model.latent=categorical")
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    curve = [learner.update(random_batch(seed=i))["loss/total"].item() for i in range(20)]
    if not golden.exists():
        golden.write_text(json.dumps(curve) + "\n")
        pytest.fail("recorded a new golden curve; run again to compare with it")
    torch.testing.assert_close(
        torch.tensor(curve), torch.tensor(json.loads(golden.read_text())), rtol=2e-3, atol=0
    )


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_pictures_go_in_and_come_out_in_patches_of_any_size(patch):
    c, model = make(f"model.patch={patch}", "optim.lr=1e-2", "loss.image=1")
    batch = random_batch()
    batch["image"][:] = batch["image"][:, :1, :8, :8].repeat(1, 1, H // 8, W // 8, 1)
    assert model.encode(batch).shape == (B, T, H // patch // 2 * (W // patch // 2) * 6)
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    first, *_, last = [float(learner.update(batch)["loss/image"]) for _ in range(60)]
    _, post, _ = model.observe(batch)
    assert model.decode(model.dynamics.features(post))["image"].shape == batch["image"].shape
    assert last < 0.7 * first


def test_a_patch_lands_where_it_came_from():
    """An unpatching layer told to draw one channel's value draws it on that patch alone."""
    layer = Unpatch(1, 3, 4)
    layer.patches.weight.data.fill_(1)
    layer.patches.bias.data.copy_(torch.arange(48.0))
    x = torch.zeros(1, 1, 2, 3)
    x[0, 0, 1, 2] = 100
    picture = layer(x).permute(0, 2, 3, 1)[0]
    assert picture.shape == (8, 12, 3) and torch.equal(
        picture[:4, :4].flatten(), torch.arange(48.0)
    )
    assert (
        torch.equal(picture[4:, 8:].flatten(), torch.arange(48.0) + 100)
        and (picture[:4] < 100).all()
    )


def test_some_of_the_pictures_stand_for_all_of_them():
    batch = random_batch()
    _, whole = make()
    _, part = make("loss.pictures=0.3")
    torch.manual_seed(1)
    feat = whole.dynamics.features(whole.observe(batch)[1])
    contexts = [
        Context(batch, feat, {}, {}, feat, m.mean_images, Parts(m.dynamics, m.reward, m.cont))
        for m in (whole, part)
    ]
    want = whole.objectives["reconstruction"](contexts[0])[0]["image"]
    found = torch.stack(
        [part.objectives["reconstruction"](contexts[1])[0]["image"] for _ in range(400)]
    )
    drawn = found != 0
    assert (drawn.any(1).sum(-1) == 2).all() and drawn.any(
        0
    ).all()  # 2 of 7 steps at a time, each step now and then
    torch.testing.assert_close(found[drawn], (want.expand_as(found) * T / 2)[drawn])


@pytest.mark.parametrize("patch", [2, 4])
def test_a_decoder_draws_every_colour_from_its_last_channels(patch):
    from worldmodel.model.networks import ImageDecoder

    decoder = ImageDecoder(7, (16, 16, 3), [5, 6], patch)
    assert decoder(torch.randn(2, 7)).shape == (2, 16, 16, 3)
    seen = [m.weight.shape[:2] for m in decoder.convs[-1].modules() if hasattr(m, "weight")]
    assert seen and all(5 in shape for shape in seen)
