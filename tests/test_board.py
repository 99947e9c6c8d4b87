"""TensorBoard while a run trains: a video and a dream at every evaluation, whatever the latent is taught."""

import io
import subprocess
import sys

import pytest
from PIL import Image

from runs import ROOT, seed_dir, train

QUICK = ("--env.task", "pointmass", "--env.time_limit", "12", "--log.tensorboard", "true", "--run.frames", "70",
         "--log.eval", "30")  # fmt: skip


def events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run), {"images": 0, "scalars": 0})
    found.Reload()
    return found


@pytest.mark.parametrize(
    "objective",
    [(), ("--loss.objective", "{contrastive: 1.0}")],
    ids=["reconstruction", "contrastive"],  # the latter's dreams are drawn by its probe
)
def test_every_evaluation_leaves_a_video_and_a_dream(tmp_path, objective):
    train(tmp_path, *QUICK, *objective)
    found = events(seed_dir(tmp_path, "pointmass"))
    for name in ("agent", "imagined"):
        # The closing evaluation comes at the frames of one that was due.
        assert sorted({image.step for image in found.Images(name)}) == [30, 60, 70]
    with Image.open(io.BytesIO(found.Images("agent")[0].encoded_image_string)) as video:
        assert video.format == "GIF" and video.n_frames > 2 and video.size == (32, 32)
    with Image.open(io.BytesIO(found.Images("imagined")[0].encoded_image_string)) as strip:
        assert strip.size == (12 * 32, 3 * 32)
    assert "eval/score" in found.Tags()["scalars"]


def test_a_model_that_cannot_draw_shows_the_agent_alone(tmp_path):
    train(
        tmp_path, *QUICK[:-4], "--run.frames", "40", "--loss.objective", "{contrastive: 1.0}", "--loss.probe", "false"
    )
    assert events(seed_dir(tmp_path, "pointmass")).Tags()["images"] == ["agent"]


def test_tensorboard_is_imported_only_where_it_is_wanted():
    code = (
        "import sys, tempfile, train; a = ['debug', '--run.frames', '40', '--run.root', tempfile.mkdtemp()]; "
        "code = train.main(a); sys.exit(code or 9 * any(m.startswith('tensorboard') for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
