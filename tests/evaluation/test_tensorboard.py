"""TensorBoard during training: a video and an imagined rollout at every evaluation."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from children import in_one
from runs import fingerprint, seed_dir, train
from test_model import A, H, W, make, random_batch
from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.rollout.evaluation_episodes import Evaluation
from worldmodel.spaces import ActionSpace
from worldmodel.training import evaluation_media
from worldmodel.training.logger import Logger

QUICK = (
    "--env.task",
    "pointmass",
    "--env.time_limit",
    "12",
    "--log.to",
    "tensorboard",
    "--run.frames",
    "70",
    "--log.eval",
    "30",
    "--loss.objective",
    "{contrastive: 1.0}",
)


def events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run), {"images": 0, "scalars": 0})
    found.Reload()
    return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Trained without a decoding objective: the probe decodes its rollouts."""
    root = tmp_path_factory.mktemp("watched")
    train(root, *QUICK)
    return seed_dir(root, "pointmass")


def test_every_evaluation_logs_a_video_and_a_rollout(watched):
    found = events(watched)
    for name in ("agent", "imagined"):
        # The closing evaluation comes at the frames of one that was due.
        assert sorted({image.step for image in found.Images(name)}) == [30, 60, 70]
    with Image.open(io.BytesIO(found.Images("agent")[0].encoded_image_string)) as video:
        assert video.format == "GIF" and video.n_frames > 2 and video.size == (32, 32)
    with Image.open(io.BytesIO(found.Images("imagined")[0].encoded_image_string)) as strip:
        assert strip.size == (12 * 32, 3 * 32)
    assert {"eval/score", "eval/episodic_return"} <= set(found.Tags()["scalars"])
    assert b"model.deter" in found.PluginTagToContent("hparams")["_hparams_/session_start_info"]


@pytest.mark.parametrize("name", registry.OBJECTIVES)
def test_every_objective_logs_a_rollout(name, tmp_path):
    """Drawn by its own decoder or by the probe, from an episode of noise."""
    c, model = make(
        f"loss.objective={{{name}: 1.0}}", "behavior.name=random", "prototypes.count=12"
    )
    agent = build.make_agent(c, model.eval(), ActionSpace(A), torch.device("cpu"), None)
    rows = [{k: v.numpy() for k, v in row.items()} for row in rows_of(random_batch(length=12))]
    config = loading.apply_overrides(c, [("log.to", "tensorboard")])
    logger = Logger(tmp_path, build.make_log_starts(config, tmp_path))
    logger.open(0)
    evaluation_media.log_evaluation(
        logger, 30, agent, Evaluation([1.0], [11], rows), torch.Generator().manual_seed(0)
    )
    logger.close()
    [strip] = events(tmp_path).Images("imagined")
    with Image.open(io.BytesIO(strip.encoded_image_string)) as picture:
        assert picture.size == (12 * W, 3 * H)
        truth, drawn = (np.asarray(picture)[i * H : (i + 1) * H] for i in (0, 1))
    assert np.array_equal(truth[:, :W], rows[0]["image"]) and not np.array_equal(truth, drawn)
    assert events(tmp_path).Images("agent")


def rows_of(batch):
    """One episode of a batch, row by row."""
    return [{k: v[0, t] for k, v in batch.items()} for t in range(batch["reward"].shape[1])]


def test_a_model_that_cannot_draw_shows_the_agent_alone(tmp_path):
    train(
        tmp_path,
        *QUICK[:-4],
        "--run.frames",
        "40",
        "--loss.objective",
        "{contrastive: 1.0}",
        "--loss.probe",
        "false",
    )
    assert events(seed_dir(tmp_path, "pointmass")).Tags()["images"] == ["agent"]


def _train_and_list(call, words):
    return call(*words)[0], "tensorboard" in sys.modules


def test_without_tensorboard_its_package_is_not_imported_and_training_is_the_same(
    watched, tmp_path
):
    words = ("train", "debug", "--run.root", tmp_path, *QUICK, "--log.to", "none")
    assert in_one(tmp_path, _train_and_list, words) == [0, False]
    assert fingerprint(seed_dir(tmp_path, "pointmass")) == fingerprint(watched)
