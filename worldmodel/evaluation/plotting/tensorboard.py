"""What TensorBoard shows of an evaluation: the agent at play, and a dream of its first episode
beside the truth.
"""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.evaluation.imagination.open_loop import dream
from worldmodel.evaluation.plotting.media import gif
from worldmodel.policy.agent import Agent
from worldmodel.rollout.episodes import Evaluation
from worldmodel.training.logger import Logger

CONTEXT, LENGTH = 5, 50
MOST_FRAMES, FPS = 200, 20.0  # of a video; longer episodes are shown faster


def show(
    logger: Logger, frames: int, agent: Agent, result: Evaluation, generator: torch.Generator
) -> None:
    """Nothing where there is no board, no video where there are no pictures, no dream where the
    model cannot draw.
    """
    pictures = result.video
    if logger.board is None or not pictures:
        return
    stride = -(-len(pictures) // MOST_FRAMES)
    shown = np.stack(pictures[::stride])
    logger.video(frames, "agent", gif(shown, FPS), shown.shape[1:3])
    if agent.model.can_draw and len(result.first) > CONTEXT + 1:
        logger.image(
            frames,
            "imagined",
            dream(agent, result.first[: CONTEXT + LENGTH], CONTEXT, generator).strip(),
        )
