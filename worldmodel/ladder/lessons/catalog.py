"""All lessons, in the order of the page."""

from worldmodel.ladder.lessons import (
    caution,
    distribution_shift,
    error_growth,
    exploitation,
    model_free,
    replanning,
    returns,
    rollout_length,
    uncertainties,
)

LESSONS = (
    returns.LESSON,
    distribution_shift.LESSON,
    replanning.LESSON,
    exploitation.LESSON,
    error_growth.LESSON,
    uncertainties.LESSON,
    caution.LESSON,
    rollout_length.LESSON,
    model_free.LESSON,
)
