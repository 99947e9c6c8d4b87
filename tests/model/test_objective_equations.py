"""Every objective equals its equation, written out as loops."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from test_model import B, T, make
from test_objectives import GROUPS, QUICK, batch_for, context
from worldmodel.model.objectives.barlow import standardise, sum_squared_correlations
from worldmodel.model.objectives.prototypes import sinkhorn
from worldmodel.spaces import ActionSpace, map_state


def asked(name, *settings, space=None):
    """A model of one objective without luck, what it saw of a batch, the objective, and its
    losses.
    """
    chosen = [f"{name}.{setting}" for setting in settings]
    _, model = make(
        f"loss.objective={{{name}: 1.0}}",
        *QUICK,
        *chosen,
        "model.latent=deterministic",
        space=space,
    )
    ctx = context(model, batch_for(space))
    objective = model.objectives[name]
    return model, ctx, objective, objective(ctx)[0]


def imagine_features(model, ctx, distance, b, t):
    """Features at step t of row b, imagined from so many steps before; None where an episode starts
    in between.
    """
    if t < distance or ctx.batch["is_first"][b, t - distance + 1 : t + 1].any():
        return None
    state = map_state(ctx.post, lambda v: v[b : b + 1, t - distance])
    for s in range(t - distance + 1, t + 1):
        state = model.dynamics.imagine_step(state, ctx.batch["prev_action"][b : b + 1, s])
    return model.dynamics.features(state)


@pytest.mark.parametrize("negatives", ["all", "others", "aligned"])
@pytest.mark.parametrize("form", ["bilinear", "cosine"])
def test_contrastive_equals_a_naive_loop(form, negatives):
    settings = (f"form={form}", "distances=[0, 2]", f"negatives={negatives}", "temperature=0.3")
    model, ctx, objective, found = asked("contrastive", *settings)
    w = objective.query.weight.T @ objective.key.weight  # c'Wz
    everyone = list(itertools.product(range(B), range(T)))
    for b, t in itertools.product(range(B), range(T)):
        parts = []
        for c in (
            c[0] for d in (0, 2) if (c := imagine_features(model, ctx, d, b, t)) is not None
        ):
            others = [x for x in everyone if x[0] != b]
            rivals = {
                "all": everyone,
                "others": others,
                "aligned": [x for x in others if x[1] == t],
            }[negatives]
            rivals = rivals if negatives == "all" else [*rivals, (b, t)]
            z = torch.stack([ctx.embed[i, s] for i, s in rivals])
            cosines = F.cosine_similarity(objective.query(c)[None], objective.key(z))
            logits = z @ (c @ w) if form == "bilinear" else cosines
            parts.append(-(logits / 0.3).log_softmax(0)[rivals.index((b, t))])
        torch.testing.assert_close(
            found["contrastive"][b, t], torch.stack(parts).mean(), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_forward_contrastive_equals_its_equation(similarity):
    model, ctx, objective, found = asked("forward_contrastive", f"similarity={similarity}")
    seen = objective.see(ctx.embed).flatten(0, 1)
    for b, t in itertools.product(range(B), range(1, T)):
        feat = imagine_features(model, ctx, 1, b, t)
        if feat is None:
            continue
        imagined = objective.predict(feat)
        h = (
            (-(imagined - seen).square().sum(-1)).exp()
            if similarity == "distance"
            else (seen @ imagined[0]).exp()
        )
        want = -(h[b * T + t] / h.sum()).log()
        torch.testing.assert_close(found["forward_contrastive"][b, t], want, rtol=1e-3, atol=1e-3)
        near = objective.distance(feat, ctx.embed.flatten(0, 1))
        torch.testing.assert_close(near, -h.log(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("space", [ActionSpace(2), GROUPS], ids=["box", "groups"])
def test_inverse_asks_for_the_first_action_of_several(space):
    _, ctx, objective, found = asked("inverse", "distances=[2]", space=space)
    batch, loss = ctx.batch, found["inverse"]
    seen = objective.see(ctx.embed)
    seen = F.rms_norm(seen - seen.mean((0, 1)), (32,), eps=1e-5)
    for b, t in itertools.product(range(B), range(2, T)):
        if batch["is_first"][b, t - 1 : t + 1].any():
            continue
        read = objective.guess(torch.cat([seen[b, t - 2], seen[b, t], torch.ones(1)]))
        done = batch["prev_action"][b, t - 1]  # the one that led from t-2 to t-1
        if space.discrete:
            want = sum(
                F.cross_entropy(r, a.argmax())
                for r, a in zip(read.split((2, 3)), done.split((2, 3)), strict=True)
            )
        else:
            want = 0.5 * (read - done).square().sum()
        torch.testing.assert_close(loss[b, t], want, rtol=1e-4, atol=1e-4)


def test_inverse_cannot_peep_at_the_action():
    """What it is asked with does not change with the actions, which the latents have been told."""
    _, model = make("loss.objective={inverse: 1.0}", *QUICK, "model.latent=deterministic")
    batch, answers = batch_for(), []
    objective = model.objectives["inverse"]
    objective.guess.register_forward_hook(lambda module, inputs, output: answers.append(output))
    for sign in (1, -1):
        objective(context(model, {**batch, "prev_action": sign * batch["prev_action"]}))
    torch.testing.assert_close(*answers)


def test_standardised_numbers_are_around_zero_with_unit_variance():
    x = torch.tensor([[[1.0, 5.0], [3.0, 5.0]], [[5.0, 5.0], [7.0, 5.0]]])
    spread = (5 + 1e-5) ** 0.5  # of 1, 3, 5 and 7 around 4; what never changes becomes 0
    wanted = torch.tensor([[-3 / spread, 0], [-1 / spread, 0], [1 / spread, 0], [3 / spread, 0]])
    torch.testing.assert_close(standardise(x), wanted)


@pytest.mark.parametrize("steps", [5, 400])
def test_barlow_equals_its_equation_by_either_product(steps):
    _, model = make("loss.objective={barlow: 1.0}", *QUICK, "barlow.redundancy=0.01")
    g = torch.Generator().manual_seed(0)
    a, b = (standardise(torch.randn(2, steps, 13, generator=g)) for _ in range(2))
    c = a.T @ b / len(a)
    torch.testing.assert_close(sum_squared_correlations(a, b), c.square().sum())
    ctx = context(model, batch_for())
    ours, theirs = (
        standardise(model.objectives["barlow"].project(ctx.feat)),
        standardise(ctx.embed),
    )
    c = ours.T @ theirs / (B * T)
    off = c - torch.diag(c.diagonal())
    want = (1 - c.diagonal()).square().sum() + 0.01 * off.square().sum()
    torch.testing.assert_close(
        model.objectives["barlow"](ctx)[0]["barlow"], want.expand(B, T), rtol=1e-4, atol=1e-3
    )


def test_sinkhorn_gives_every_cluster_its_share():
    scores = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * 3 + torch.tensor(
        [0.0, 5, 0, 0, 9]
    )
    found = sinkhorn(scores, 100)
    torch.testing.assert_close(found.sum(1), torch.ones(60))
    torch.testing.assert_close(found.sum(0), torch.full((5,), 12.0), rtol=1e-2, atol=1e-2)
    assert torch.isfinite(sinkhorn(scores * 100, 3)).all()


@pytest.mark.parametrize("distances", [[1], [0, 2]])
def test_bootstrap_equals_its_equation(distances):
    model, ctx, objective, found = asked("bootstrap", f"distances={distances}")
    aims = ctx.slow - ctx.slow.mean((0, 1))
    for b, t in itertools.product(range(B), range(T)):
        feats = [imagine_features(model, ctx, d, b, t) for d in distances]
        parts = [
            1 - F.cosine_similarity(objective.predict(f)[0], aims[b, t], 0)
            for f in feats
            if f is not None
        ]
        want = torch.stack(parts).mean() if parts else torch.tensor(0.0)
        torch.testing.assert_close(found["bootstrap"][b, t], want, rtol=1e-4, atol=1e-4)


def test_prototypes_equal_their_equation():
    _, ctx, objective, found = asked("prototypes", "temperature=0.2")
    aims = objective.slow(ctx.slow).flatten(0, 1)
    aims = aims - aims.mean(0)
    centres = objective.centres
    close = torch.stack(
        [torch.stack([F.cosine_similarity(x, c, 0) for c in centres]) for x in aims]
    )
    shares = sinkhorn(close / objective.settings.sharpness, objective.settings.rounds)
    for name, x in (
        ("prototypes", objective.from_feat(ctx.feat)),
        ("prototypes_view", objective.from_embed(ctx.embed)),
    ):
        for b, t in itertools.product(range(B), range(T)):
            logs = torch.stack(
                [F.cosine_similarity(x[b, t], c, 0) / 0.2 for c in centres]
            ).log_softmax(0)
            torch.testing.assert_close(
                found[name][b, t], -(shares[b * T + t] * logs).sum(), rtol=1e-4, atol=1e-4
            )


def test_the_inverse_models_forward_part_equals_its_equation():
    model, ctx, objective, found = asked("inverse", "distances=[1, 2]", "forward=0.3")
    seen = objective.see(ctx.embed)
    seen = F.rms_norm(seen - seen.mean((0, 1)), (32,), eps=1e-5)
    for b, t in itertools.product(range(B), range(T)):
        feats = [ctx.feat[b : b + 1, t], *(imagine_features(model, ctx, d, b, t) for d in (1, 2))]
        parts = [
            0.5 * (objective.predict(f)[0] - seen[b, t]).square().sum()
            for f in feats
            if f is not None
        ]
        want = 0.3 * torch.stack(parts).mean()
        torch.testing.assert_close(found["inverse_forward"][b, t], want, rtol=1e-4, atol=1e-4)


def test_the_inverse_models_distance_is_its_forward_error_around_the_last_mean():
    _, ctx, objective, _ = asked("inverse", "forward=0.3")
    middle = objective.see(ctx.embed).mean((0, 1))
    objective.after_update(lambda x: x)
    seen = F.rms_norm(objective.see(ctx.embed) - middle, (32,), eps=1e-5)
    wanted = (objective.predict(ctx.feat) - seen).square().sum(-1)
    torch.testing.assert_close(objective.distance(ctx.feat, ctx.embed), wanted)


def test_reward_only_predicts_each_steps_own_reward_in_imagination():
    model, ctx, _, found = asked("reward_only", "distances=[1, 3]")
    for b, t in itertools.product(range(B), range(T)):
        feats = [f for d in (1, 3) if (f := imagine_features(model, ctx, d, b, t)) is not None]
        goes_on = 1.0 - ctx.batch["is_terminal"][b, t].float()
        said_of = {
            "imagined_reward": (model.reward, ctx.batch["reward"][b, t]),
            "imagined_cont": (model.cont, goes_on),
        }
        for name, (head, said) in said_of.items():
            parts = [head.loss(f, said[None])[0] for f in feats]
            want = torch.stack(parts).mean() if parts else torch.tensor(0.0)
            torch.testing.assert_close(found[name][b, t], want, rtol=1e-4, atol=1e-4)
