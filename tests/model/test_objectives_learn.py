"""Each objective on a world made for it: a block that actions move, and a distractor that nobody
can foresee.
"""

import pytest
import torch

from blocks import BOX, LESSONS, batch_of, known, learner_of, taught
from worldmodel.spaces import map_state


@pytest.mark.parametrize("name", LESSONS)
def test_the_latent_keeps_what_the_objective_is_for(name):
    """Read off the drawn latent: the block always; the distractor where the objective asks for all
    that is seen.
    """
    weight, settings, updates, paid, distractor = LESSONS[name]
    learner, metrics = taught(f"{{{name}: {weight}}}", updates, *settings, paid=paid)
    block, other = known(learner.model)
    assert block > 0.7, (block, other)
    assert other > 0.2 if distractor == "kept" else other < 0.1, (block, other)
    assert metrics["skipped"] == 0


def test_nothing_is_known_before_and_without_rewards_nothing_is_learnt_from_them():
    for learner in (learner_of("{reward_only: 1.0}"), taught("{reward_only: 1.0}", 60)[0]):
        assert max(known(learner.model)) < 0.3


def test_cpc_wins_contests_several_steps_ahead():
    """Predicted block positions narrow 128 rivals down to those with the block there: an eighth of
    them.
    """
    learner, metrics = taught(
        "{contrastive: 10.0}",
        120,
        "contrastive.distances=[1, 2]",
        "contrastive.form=cosine",
        "contrastive.temperature=0.1",
    )
    block, other = known(learner.model)
    assert metrics["contrastive/accuracy"] > 3 / 128 and block > 0.7 and other < 0.15


def test_an_inverse_model_guesses_continuous_actions():
    learner, metrics = taught("{inverse: 10.0}", 150, space=BOX)
    assert metrics["inverse/known"] > 0.7 and known(learner.model, BOX)[0] > 0.6


def test_the_budget_holds_the_kl():
    """With a price the latent takes fewer nats than with next to none, and more where more are
    allowed.
    """
    kl = {}
    for nats, rate in ((1.0, 0.1), (1.0, 0.0)):
        settings = [
            "loss.reward=100",
            f"bottleneck.nats={nats}",
            f"bottleneck.rate={rate}",
            "bottleneck.beta=0.01",
        ]
        learner, _ = taught("{bottleneck: 1.0}", 150, *settings, paid=True)
        with torch.no_grad():
            post, prior = learner.model.observe(batch_of(999, paid=True)[0])[1:]
            kl[rate] = learner.model.dynamics.kl(post, prior).mean().item()
    assert kl[0.1] < 0.7 * kl[0.0], kl


def test_rewards_are_predicted_in_imagination():
    learner, _ = taught("{reward_only: 1.0}", 100, "loss.reward=100", paid=True)
    batch, _ = batch_of(999, cut=False, paid=True)
    model = learner.model
    with torch.no_grad():
        state = map_state(model.observe(batch)[1], lambda v: v[:, 2])
        feat = model.dynamics.features(model.dynamics.imagine(state, batch["prev_action"][:, 3:6]))
        error = (model.predict(feat)[0] - batch["reward"][:, 3:6]).square().mean()
    assert error < 0.3 * batch["reward"][:, 3:6].var()
