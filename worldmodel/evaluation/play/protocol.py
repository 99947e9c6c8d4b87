"""The requests of the page and their responses, as plain data."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.errors import UsageError
from worldmodel.evaluation.play.session import HAND, MAX_STEPS, Moment, Session
from worldmodel.system.files import replace_file

Request = dict[str, Any]
MAX_INTEGER = 10**9


class PlayProtocol:
    """One method per endpoint; UsageError in one line if a request cannot be carried out."""

    def __init__(
        self, session: Session, directory: Path, about: str, notes: list[str], repeat: int
    ):
        self.session, self.directory, self.about, self.notes = session, directory, about, notes
        self.repeat = repeat  # frames of a step

    def state(self, request: Request) -> dict[str, Any]:
        """Everything the page needs when it is opened."""
        check_keys(request)
        s, agent = self.session, self.session.rollouts.agent
        drivers = [{"name": n, "label": label} for n, label in s.list_drivers().items()]
        return {
            "about": self.about,
            "notes": self.notes,
            "groups": list(agent.space.groups),
            "size": agent.space.size,
            "repeat": self.repeat,
            "drivers": [{"name": HAND, "label": "you, by hand"}, *drivers],
            "can_draw": s.rollouts.can_draw,
            "pictures": list(agent.model.observation.pictures),
            "point_colours": s.rollouts.point_colours,
            "value": s.rollouts.policy is not None,
            "rollouts": s.rollouts.count,
            "simulator": s.simulator is not None,
            "replay": s.replay.count,
            "most": MAX_STEPS,
            "aims": s.aim is not None,
            **self._describe_session(),
        }

    def step(self, request: Request) -> dict[str, Any]:
        """One step from `at`; later steps are dropped."""
        check_keys(request, "at", "driver", "action")
        at, driver = read_integer(request, "at"), request.get("driver", HAND)
        if not isinstance(driver, str):
            raise UsageError("driver: give a name")
        self.session.rewind(at)
        return self._describe_current(self.session.step(driver, request.get("action")))

    def aim(self, request: Request) -> dict[str, Any]:
        """Designate pixels [row, column] of the picture at `at`, and the goal of each."""
        check_keys(request, "at", "pixels", "goals")
        self.session.rewind(read_integer(request, "at"))
        moment = self.session.aim_at(*(read_pixels(request, k) for k in ("pixels", "goals")))
        return self._describe_current(moment)

    def moment(self, request: Request) -> dict[str, Any]:
        check_keys(request, "at")
        return self._describe_current(self.session.rewind(read_integer(request, "at")))

    def start(self, request: Request) -> dict[str, Any]:
        """Start a new episode, or start at `step` of the replay's `episode`."""
        check_keys(request, "episode", "step")
        if "episode" in request:
            self.session.start_from_replay(
                read_integer(request, "episode", -MAX_INTEGER),
                read_integer(request, "step", -MAX_INTEGER),
            )
        else:
            self.session.start_episode()
        return self._describe_session()

    def clip(self, request: Request) -> dict[str, Any]:
        """Save steps as a video, and their numbers as JSON."""
        check_keys(request, "first", "last")
        first, last = read_integer(request, "first"), read_integer(request, "last")
        path = self.session.save_clip(self.directory, first, last)
        s = self.session
        assert s.start is not None
        steps = [describe_moment(m, t) for t, m in enumerate(s.history[: last + 1])]
        found = {"start": s.start.label, "first": first, "last": last, "steps": steps}
        replace_file(path.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
        return {"path": str(path)}

    def _describe_session(self) -> dict[str, Any]:
        s = self.session
        assert s.start is not None
        steps = [describe_moment(m, t) for t, m in enumerate(s.history)]
        return {"start": s.start.label, "steps": steps, **self._describe_current(s.history[s.at])}

    def _describe_current(self, moment: Moment) -> dict[str, Any]:
        """The step that is shown, with its pictures."""
        pictures: dict[str, Any] = {
            "imagined": encode_picture(moment.prediction.picture),
            "real": encode_picture(moment.real.picture),
            "imagined_points": encode_points(moment.prediction.points),
            "real_points": encode_points(moment.real.points),
        }
        aim = self.session.aim
        if aim is not None:
            found = aim.locate(moment.memory) if moment.memory else None
            pictures["expected"] = encode_picture(None if found is None else found[..., None])
            pictures["aim"] = {"pixels": aim.pixels, "goals": aim.goals}
        return {
            "at": self.session.at,
            "note": self.session.note,
            "now": describe_moment(moment, self.session.at),
            **pictures,
        }


def describe_moment(moment: Moment, at: int) -> dict[str, Any]:
    look, real = moment.prediction, moment.real
    first = at == 0  # the first step has no reward
    return {
        "at": at,
        "driver": moment.driver,
        "action": None if moment.action is None else [round(float(x), 4) for x in moment.action],
        "reward": None if first else drop_infinite(look.reward),
        "real": None if real.reward is None else drop_infinite(real.reward),
        "cont": drop_infinite(look.cont),
        "value": None if look.value is None else drop_infinite(look.value),
        "spread": drop_infinite(look.spread),
        "over": real.over,
    }


def encode_picture(picture: np.ndarray | None) -> dict[str, Any] | None:
    """Raw pixels by row: encoding a PNG would take longer than sending them over loopback."""
    if picture is None:
        return None
    height, width, _ = picture.shape
    return {"height": height, "width": width, "rgb": base64.b64encode(picture.tobytes()).decode()}


def encode_points(points: np.ndarray | None) -> list[list[float] | None] | None:
    """Places [x, y] in [0, 1] of a picture's width and height; None where one is not finite."""
    if points is None:
        return None
    return [
        [round(float(x), 4) for x in place] if np.isfinite(place).all() else None
        for place in points
    ]


def drop_infinite(x: float) -> float | None:
    """JSON has no NaN."""
    return x if abs(x) < float("inf") else None


def check_keys(request: Request, *names: str) -> None:
    unknown = [k for k in request if k not in names]
    if unknown:
        raise UsageError(
            f"{str(unknown[0])[:60]!r} is unknown here; known: {', '.join(names) or 'nothing'}"
        )


def read_pixels(request: Request, name: str) -> list[list[int]]:
    value = request.get(name)
    if not isinstance(value, list) or not all(
        isinstance(pixel, list)
        and len(pixel) == 2
        and all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in pixel)
        for pixel in value
    ):
        raise UsageError(f"{name}: give pixels as [row, column], each a whole number")
    return value


def read_integer(request: Request, name: str, low: int = 0) -> int:
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= MAX_INTEGER:
        raise UsageError(f"{name}: give a whole number{' of at least 0' if low == 0 else ''}")
    return value
