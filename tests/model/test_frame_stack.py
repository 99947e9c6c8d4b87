"""Agents without a model: which frames a state holds, and what trains the encoder."""

import pytest
import torch

from runs import evaluate, mistaken, seed_dir, train
from worldmodel import build
from worldmodel.config import loading
from worldmodel.errors import UsageError
from worldmodel.model.dynamics.frame_stack import FrameStack, Settings
from worldmodel.spaces import ActionSpace, ObservationSpace, map_state
from worldmodel.training.learner import Learner

B, T, N, E, F = 2, 6, 3, 4, 5
MODEL_FREE = (
    "behavior.name=dyna",
    "model.dynamics=frame_stack",
    "loss.objective={}",
    "dyna.rollout_length=0",
)


@pytest.fixture
def dynamics():
    torch.manual_seed(0)
    return FrameStack(Settings(N, F), None, actions=2, embed=E)


def make_frames(is_first_at):
    """Embeddings that say which row they are of."""
    embed = torch.arange(T, dtype=torch.float32)[None, :, None].expand(B, T, E).clone()
    embed[1] += 100
    is_first = torch.zeros(B, T, dtype=torch.bool)
    for place in is_first_at:
        is_first[place] = True
    return embed, torch.zeros(B, T, 2), is_first


def test_a_state_holds_the_last_frames_and_nothing_from_before_its_episode(dynamics):
    post, prior = dynamics.observe(*make_frames([(0, 0), (1, 0), (1, 3)]), {})
    rows = post["frames"][..., 0]
    assert rows.shape == (B, T, N) and prior is post
    assert rows[0].tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5],
    ]  # fmt: skip
    assert (rows[1] - 100).tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3], [3, 3, 4], [3, 4, 5],
    ]  # fmt: skip


def test_a_given_start_is_what_came_before(dynamics):
    start = {"frames": torch.tensor([-3.0, -2, -1])[None, :, None].expand(B, N, E)}
    rows = dynamics.observe(*make_frames([(1, 0)]), start)[0]["frames"][..., 0]
    assert rows[0, :3].tolist() == [[-2, -1, 0], [-1, 0, 1], [0, 1, 2]]
    assert (rows[1, :3] - 100).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2]]


def test_a_sequence_equals_its_steps(dynamics):
    embed, action, is_first = make_frames([(0, 0), (1, 0), (1, 3)])
    embed = embed + torch.randn(embed.shape)
    post, _ = dynamics.observe(embed, action, is_first, {})
    state = dynamics.initial(B)
    for t in range(T):
        state = dynamics.observe_step(state, embed[:, t], action[:, t], is_first[:, t], None)
        torch.testing.assert_close(state, map_state(post, lambda v, t=t: v[:, t]))
    feat = dynamics.features(post)
    assert feat.shape == (B, T, F) and feat.abs().max() <= 1


def test_whatever_would_imagine_answers_in_one_line(dynamics):
    state, action = dynamics.initial(B), torch.zeros(B, 2)
    for call in (
        lambda: dynamics.imagine_step(state, action),
        lambda: dynamics.imagine(state, action[:, None]),
        lambda: dynamics.start_rollout(state, 3),
    ):
        with pytest.raises(UsageError, match=r"^this agent has no model .*cannot imagine$"):
            call()


ENCODERS = {
    "convolutions": (),
    "feature points": (
        *("model.encoder=spatial", "spatial.channels=[4]", "spatial.points=6"),
        "model.backdrop=100",
    ),
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_update_trains_the_encoder_by_the_critics_loss_alone(encoder):
    keys = (*ENCODERS[encoder], "augment.shift=2", "dyna.n_step=2")
    c = loading.parse(["debug", *MODEL_FREE, *keys])
    torch.manual_seed(0)
    space = ActionSpace(2)
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), space)
    policy = build.make_policy(c, model, space)
    names = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert names == {"encoder", "dynamics"}  # no decoder, no reward head, no prior
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32", policy, by_row=True)
    flags = {k: torch.zeros(2, 6, dtype=torch.bool) for k in ("is_first", "is_terminal")}
    batch = {
        "image": torch.randint(0, 255, (2, 6, 32, 32, 3), dtype=torch.uint8),
        "prev_action": torch.rand(2, 6, 2) * 2 - 1,
        "reward": torch.randn(2, 6),
        **flags,
    }
    before = {k: v.clone() for k, v in model.named_parameters()}
    metrics = learner.update(batch)
    assert all(not torch.equal(before[k], v) for k, v in model.named_parameters())
    assert not {"loss/reward", "loss/dyn", "loss/image"} & metrics.keys()
    assert learner.row_losses.shape == (2, 6)
    total, _, post, feat = model.loss(batch)
    losses, _ = policy.losses(model, batch, post, feat)
    weights = list(model.parameters())
    for name, loss in losses.items():
        grads = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        assert any(g is not None for g in grads) == (name == "critic"), name
    assert all(not g.any() for g in torch.autograd.grad(total, weights))


def test_teachers_train_the_feature_points_of_the_last_frames():
    """The network of Levine et al. (2016): from points to actions, by imitation."""
    keys = "model.encoder=spatial", "spatial.points=6", "spatial.channels=[4]"
    c = loading.parse(["gps", *keys, "guided.target=[1, 0, 0]"])
    torch.manual_seed(0)
    space, seen = ActionSpace(1), ObservationSpace({"image": (32, 32, 3), "vector": (3,)})
    model = build.make_model(c, seen, space)
    policy = build.make_policy(c, model, space)
    policy.round += 1
    policy.teacher_offset.normal_()
    length = 6
    batch = {
        "image": torch.randint(0, 255, (2, length, 32, 32, 3), dtype=torch.uint8),
        "vector": torch.randn(2, length, 3),
        "prev_action": torch.zeros(2, length, 1),
        "is_first": torch.zeros(2, length, dtype=torch.bool),
        "guide_step": torch.arange(length).expand(2, length),
        "guide_condition": torch.tensor([[0], [3]]).expand(2, length),
        "guide_round": torch.ones(2, length),
    }
    post = model.infer_states(batch)
    points = model.find_points(model.encode(batch))["image"].flatten(2)
    torch.testing.assert_close(post["frames"][:, -1].flatten(1), points[:, -3:].flatten(1))
    losses, metrics = policy.losses(model, batch, post, model.dynamics.features(post))
    assert metrics["taught"] == 1
    losses["imitation"].backward()
    for name, weights in model.encoder.named_parameters():
        assert weights.grad is not None and weights.grad.abs().sum() > 0, name


def test_what_needs_a_model_is_refused_at_the_start():
    for words, line in (
        (["behavior.name=mpc"], "model.dynamics: frame_stack imagines nothing, and behavior.name"),
        (["dyna.rollout_length=2"], "set dyna.rollout_length 0"),
        (["loss.objective={barlow: 1.0}"], "frame_stack learns from the policy alone, so barlow"),
        (["train.policy_updates_per_step=1"], "every update trains policy and encoder"),
        (["loss.smooth=1"], "so it would train nothing; set it to 0"),
    ):
        with pytest.raises(loading.ConfigError, match=line):
            loading.parse(["debug", *MODEL_FREE, *words])


def test_a_run_without_a_model_is_trained_measured_and_compared(tmp_path):
    words = [x for word in MODEL_FREE for x in ("--" + word).split("=")]
    train(tmp_path, "--env.task", "pointmass", "--env.time_limit", "12", *words)
    run = seed_dir(tmp_path, "pointmass")
    for name in ("imagine", "model", "play"):
        code, line = mistaken(run, name)
        assert code == 2 and line.endswith("returns, compare, probe and report work")
    out, _ = evaluate(run, "compare", "--episodes", "1", figures=True)
    assert "actor" in out and "left out: every planner" in out and "cem" not in out
