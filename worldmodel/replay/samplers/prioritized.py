"""Rows that the world model predicts badly, or has not seen yet, more often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from worldmodel.config.ranges import Positive, Share, Weight
from worldmodel.replay.samplers import Sampler, draw_by_weight
from worldmodel.replay.segments import StartIndex

RATING = np.dtype([("priority", np.float32), ("visits", np.int32)])


@dataclass(frozen=True)
class Settings:
    section = "replay"

    loss_power: Weight
    loss_floor: Positive
    novelty: Weight
    novelty_decay: Share
    priority_max: Positive


class Prioritized(Sampler):
    """Curious Replay (Kauvar et al. 2023, equation 1): a row learnt from v times, last with the
    world model's loss L, has the priority

        p = novelty * novelty_decay^v + (|L| + loss_floor)^loss_power,    at most priority_max,

    and a row that was never learnt from has the maximum. A sequence is drawn in proportion to the
    priority of its last row, the one predicted from most context. As published, there are no
    importance weights: more about surprising rows is what is asked for.

    With `novelty` 0 this is prioritised experience replay (Schaul et al. 2016) by loss.
    """

    settings: Settings
    needs_losses = True

    def clear(self, chunk_rows: int) -> None:
        self._chunk_rows = chunk_rows
        self._chunks: dict[tuple[int, int], np.ndarray] = {}

    def add_chunk(self, stream: int, number: int) -> None:
        rating = np.zeros(self._chunk_rows, RATING)
        rating["priority"] = self.settings.priority_max
        self._chunks[stream, number] = rating

    def drop_chunk(self, stream: int, number: int) -> None:
        del self._chunks[stream, number]

    def __call__(
        self, index: StartIndex, batch: int, generator: np.random.Generator
    ) -> np.ndarray:
        table = np.stack([index.streams, index.firsts + index.length - 1, index.counts], 1)
        last_rows = [
            piece["priority"]
            for stream, row, count in table.tolist()
            for piece in self._pieces(stream, row, count)
        ]
        return draw_by_weight(np.concatenate(last_rows), batch, generator)

    def record_losses(self, streams: np.ndarray, rows: np.ndarray, losses: np.ndarray) -> None:
        settings = self.settings
        # A loss that is not finite says nothing about its row.
        known = np.abs(np.where(np.isfinite(losses), losses, 0.0).astype(np.float64))
        surprise = (known + settings.loss_floor) ** settings.loss_power
        for stream, row, values in zip(streams.tolist(), rows.tolist(), surprise, strict=True):
            done = 0
            for piece in self._pieces(stream, row, len(values)):
                piece["visits"] += 1
                bonus = settings.novelty * settings.novelty_decay ** piece["visits"]
                p = bonus + values[done : done + len(piece)]
                piece["priority"] = np.minimum(p, settings.priority_max)
                done += len(piece)

    def _pieces(self, stream: int, row: int, count: int) -> Iterator[np.ndarray]:
        """Views of the ratings of a run of rows, chunk by chunk."""
        end = row + count
        while row < end:
            number, offset = divmod(row, self._chunk_rows)
            piece = self._chunks[stream, number][offset : offset + end - row]
            yield piece
            row += len(piece)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return (stream, number) of each chunk (C,2), and the ratings of their rows (C*rows,)."""
        keys = sorted(self._chunks)
        ratings = np.concatenate([np.zeros(0, RATING), *(self._chunks[key] for key in keys)])
        return {
            "chunks": np.array(keys, np.int64).reshape(-1, 2),
            "priority": ratings["priority"].copy(),
            "visits": ratings["visits"].copy(),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        chunks, priority, visits = state["chunks"], state["priority"], state["visits"]
        rows = len(chunks) * self._chunk_rows
        sound = (
            chunks.shape == (len(chunks), 2)
            and priority.shape == visits.shape == (rows,)
            and bool(((priority > 0) & np.isfinite(priority)).all())
            and bool((visits >= 0).all())
        )
        if not sound:
            raise ValueError("the sampler's priorities are not those of its chunks' rows")
        for i, (stream, number) in enumerate(chunks.tolist()):
            rating = self._chunks.get((stream, number))
            if rating is not None:
                part = slice(i * self._chunk_rows, (i + 1) * self._chunk_rows)
                rating["priority"], rating["visits"] = priority[part], visits[part]
