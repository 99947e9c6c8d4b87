"""What the page may ask of a session, and the answers, as plain data."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.errors import UsageError
from worldmodel.evaluation.play.session import HAND, MOST_STEPS, Moment, Session
from worldmodel.evaluation.quality.run_policies import BEHAVIOR_LABELS

Asked = dict[str, Any]
MOST_DIGITS = 10**9


class Answers:
    """One method per question; UsageError, in one line, where it cannot be answered."""

    def __init__(self, session: Session, directory: Path, about: str, notes: list[str]):
        self.session, self.directory, self.about, self.notes = session, directory, about, notes

    def state(self, asked: Asked) -> dict[str, Any]:
        """All that a page needs to begin, or to go on after it was closed."""
        only(asked)
        s, run = self.session, self.session.dreams.run
        drivers = [{"name": n, "label": BEHAVIOR_LABELS[n]} for n in s.dreams.drivers]
        return {
            "about": self.about,
            "notes": self.notes,
            "groups": list(run.action_space.groups),
            "size": run.action_space.size,
            "repeat": run.config.env.repeat,
            "drivers": [{"name": HAND, "label": "you, by hand"}, *drivers],
            "draws": s.dreams.draws,
            "value": run.policy is not None,
            "dreams": s.dreams.count,
            "simulator": s.simulator is not None,
            "replay": s.replay.count,
            "most": MOST_STEPS,
            **self._all(),
        }

    def step(self, asked: Asked) -> dict[str, Any]:
        """One step on from `at`, which gives up what lay beyond."""
        only(asked, "at", "driver", "action")
        at, driver = whole(asked, "at"), asked.get("driver", HAND)
        if not isinstance(driver, str):
            raise UsageError("driver: give a name")
        self.session.rewind(at)
        return self._shown(self.session.step(driver, asked.get("action")))

    def moment(self, asked: Asked) -> dict[str, Any]:
        only(asked, "at")
        return self._shown(self.session.rewind(whole(asked, "at")))

    def start(self, asked: Asked) -> dict[str, Any]:
        """A new episode, or `episode` and `step` of the replay."""
        only(asked, "episode", "step")
        if "episode" in asked:
            self.session.from_replay(
                whole(asked, "episode", -MOST_DIGITS), whole(asked, "step", -MOST_DIGITS)
            )
        else:
            self.session.new_episode()
        return self._all()

    def clip(self, asked: Asked) -> dict[str, Any]:
        """Steps as a video, and their numbers beside it: enough to drive the same way again."""
        only(asked, "first", "last")
        first, last = whole(asked, "first"), whole(asked, "last")
        path = self.session.clip(self.directory, first, last)
        s = self.session
        assert s.start is not None
        steps = [numbers(m, t) for t, m in enumerate(s.history[: last + 1])]
        found = {"start": s.start.label, "first": first, "last": last, "steps": steps}
        path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        return {"path": str(path)}

    def _all(self) -> dict[str, Any]:
        s = self.session
        assert s.start is not None
        steps = [numbers(m, t) for t, m in enumerate(s.history)]
        return {"start": s.start.label, "steps": steps, **self._shown(s.history[s.at])}

    def _shown(self, moment: Moment) -> dict[str, Any]:
        """The step that is looked at, pictures included."""
        pictures = {"dream": packed(moment.look.picture), "real": packed(moment.real.picture)}
        return {
            "at": self.session.at,
            "note": self.session.note,
            "now": numbers(moment, self.session.at),
            **pictures,
        }


def numbers(moment: Moment, at: int) -> dict[str, Any]:
    look, real = moment.look, moment.real
    first = at == 0  # no reward led there
    return {
        "at": at,
        "driver": moment.driver,
        "action": None if moment.action is None else [round(float(x), 4) for x in moment.action],
        "reward": None if first else finite(look.reward),
        "real": None if real.reward is None else finite(real.reward),
        "cont": finite(look.cont),
        "value": None if look.value is None else finite(look.value),
        "spread": finite(look.spread),
        "over": real.over,
    }


def packed(picture: np.ndarray | None) -> dict[str, Any] | None:
    """Raw pixels, row by row: making a PNG would take longer than sending them over the
    loopback.
    """
    if picture is None:
        return None
    height, width, _ = picture.shape
    return {"height": height, "width": width, "rgb": base64.b64encode(picture.tobytes()).decode()}


def finite(x: float) -> float | None:
    """JSON has no NaN."""
    return x if abs(x) < float("inf") else None


def only(asked: Asked, *names: str) -> None:
    unknown = [k for k in asked if k not in names]
    if unknown:
        raise UsageError(
            f"{str(unknown[0])[:60]!r} is not asked for here; {', '.join(names) or 'nothing'} is"
        )


def whole(asked: Asked, name: str, low: int = 0) -> int:
    value = asked.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= MOST_DIGITS:
        raise UsageError(f"{name}: give a whole number{' of at least 0' if low == 0 else ''}")
    return value
