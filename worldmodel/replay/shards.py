"""Assignment of replay chunks to ranks when a run is resumed by another number of ranks.

Chunk files do not move; only the ranks' manifests are rewritten. Rank r writes the streams of its
own environments, from r * streams on.
"""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]  # the result of Replay.state_dict()
Entry = dict[str, Any]  # a manifest's entry of one chunk


def reshard(manifests: list[Manifest], ranks: int, streams: int) -> list[Manifest]:
    """Assign every chunk to one of `ranks` manifests with about equal numbers of rows.

    Each rank keeps the newest chunks of the streams that it writes. The rest (old chunks, and
    streams that no rank writes any more) goes to the ranks with room, stream by stream, so that
    contiguous runs stay long. A stream that is written again after a break starts a new chunk, so
    that no new episode is appended to one that was cut off.
    """
    size = manifests[0]["chunk_rows"]
    continued = min(len(manifests), ranks) * streams  # streams whose episodes continue
    ends: dict[str, int] = {}
    for stream, row in (pair for m in manifests for pair in m["next"].items()):
        ends[stream] = max(row, ends.get(stream, 0))
    ends = {s: row if int(s) < continued else -(-row // size) * size for s, row in ends.items()}
    chunks = sorted((c for m in manifests for c in m["chunks"]), key=_age_key)
    assigned = _assign_chunks(chunks, ends, ranks, streams)
    common = {**manifests[0], "next": ends}
    common.pop("generator")
    resharded = [{**common, "chunks": sorted(entries, key=_age_key)} for entries in assigned]
    for own, before in zip(resharded, manifests, strict=False):
        own["generator"] = before["generator"]
    return resharded


def _age_key(chunk: Entry) -> tuple[int, int]:
    """Sort chunks by age: all streams grow at the same rate, so an earlier first row is older."""
    return chunk["first"], chunk["stream"]


def _assign_chunks(
    chunks: list[Entry], ends: dict[str, int], ranks: int, streams: int
) -> list[list[Entry]]:
    """Assign chunks, which come oldest first, to ranks; returns the chunks of each rank."""
    assigned: list[list[Entry]] = [[] for _ in range(ranks)]
    held = [0] * ranks
    fair_share = -(-sum(c["rows"] for c in chunks) // ranks)
    rest = []
    full = set()
    for chunk in reversed(chunks):
        rank = chunk["stream"] // streams
        # Its writer may append to this chunk.
        open_ended = chunk["first"] + chunk["rows"] == ends[str(chunk["stream"])]
        fits = rank < ranks and rank not in full and held[rank] + chunk["rows"] <= fair_share
        if rank < ranks and (open_ended or fits):
            assigned[rank].append(chunk)
            held[rank] += chunk["rows"]
        else:
            full.add(rank)
            rest.append(chunk)
    for chunk in sorted(rest, key=lambda c: (c["stream"], c["first"])):
        with_room = (r for r in range(ranks) if held[r] + chunk["rows"] <= fair_share)
        rank = next(with_room, held.index(min(held)))
        assigned[rank].append(chunk)
        held[rank] += chunk["rows"]
    return assigned
