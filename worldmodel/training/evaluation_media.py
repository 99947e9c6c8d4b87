"""What an evaluation logs beside scores: the agent's video, and an imagined rollout."""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.evaluation.imagination.open_loop import imagine_open_loop
from worldmodel.evaluation.plotting.media import encode_gif
from worldmodel.policy.agent import Agent
from worldmodel.rollout.evaluation_episodes import Evaluation
from worldmodel.training.logger import Logger

CONTEXT, LENGTH = 5, 50
MAX_FRAMES, FPS = 200, 20.0  # of a video; frames of longer episodes are skipped


def log_evaluation(
    logger: Logger, frames: int, agent: Agent, result: Evaluation, generator: torch.Generator
) -> None:
    """Log the first episode's video and, if the model can draw, an imagined rollout beside it."""
    pictures = result.video
    if not logger.writers or not pictures:
        return
    stride = -(-len(pictures) // MAX_FRAMES)
    shown = np.stack(pictures[::stride])
    logger.add_video(frames, "agent", encode_gif(shown, FPS), shown.shape[1:3])
    if agent.model.can_draw and len(result.first) > CONTEXT + 1:
        logger.add_picture(
            frames,
            "imagined",
            imagine_open_loop(
                agent, result.first[: CONTEXT + LENGTH], CONTEXT, generator
            ).make_strip(),
        )
