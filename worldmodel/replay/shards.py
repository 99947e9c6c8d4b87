"""Who holds which replay chunk after a run has been resumed by another number of ranks.

Chunk files stay where they are; only the ranks' manifests are written anew. Rank r writes the
streams of its own environments, r * streams and on.
"""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]  # as Replay.state() makes it
Entry = dict[str, Any]  # one chunk of it


def deal(manifests: list[Manifest], ranks: int, streams: int) -> list[Manifest]:
    """The manifests of `ranks` shards, about equal in rows, out of those of any number; every
    chunk is in one of them.

    Each rank keeps the newest run of what it writes. The rest, old chunks and streams that nobody
    writes any more, fills up the ranks with room, stream by stream, so that runs stay as long as
    can be. A stream that is written anew after a break starts a chunk: nothing is stitched to
    where another episode once was cut short.
    """
    size = manifests[0]["chunk_rows"]
    writing = min(len(manifests), ranks) * streams  # streams whose episodes go on
    ends: dict[str, int] = {}
    for stream, row in (pair for m in manifests for pair in m["next"].items()):
        ends[stream] = max(row, ends.get(stream, 0))
    ends = {s: row if int(s) < writing else -(-row // size) * size for s, row in ends.items()}
    chunks = sorted((c for m in manifests for c in m["chunks"]), key=_age)
    hands = _hands(chunks, ends, ranks, streams)
    common = {**manifests[0], "next": ends}
    common.pop("generator")
    dealt = [{**common, "chunks": sorted(hand, key=_age)} for hand in hands]
    for own, before in zip(dealt, manifests, strict=False):
        own["generator"] = before["generator"]
    return dealt


def _age(chunk: Entry) -> tuple[int, int]:
    """Streams grow alike: what begins earlier in its own is older."""
    return chunk["first"], chunk["stream"]


def _hands(
    chunks: list[Entry], ends: dict[str, int], ranks: int, streams: int
) -> list[list[Entry]]:
    """Chunks, oldest first, by rank."""
    hands: list[list[Entry]] = [[] for _ in range(ranks)]
    held = [0] * ranks
    fair = -(-sum(c["rows"] for c in chunks) // ranks)
    rest = []
    full = set()
    for chunk in reversed(chunks):
        rank = chunk["stream"] // streams
        # Its writer may go on in it
        open_ended = chunk["first"] + chunk["rows"] == ends[str(chunk["stream"])]
        fits = rank < ranks and rank not in full and held[rank] + chunk["rows"] <= fair
        if rank < ranks and (open_ended or fits):
            hands[rank].append(chunk)
            held[rank] += chunk["rows"]
        else:
            full.add(rank)
            rest.append(chunk)
    for chunk in sorted(rest, key=lambda c: (c["stream"], c["first"])):
        roomy = (r for r in range(ranks) if held[r] + chunk["rows"] <= fair)
        rank = next(roomy, held.index(min(held)))
        hands[rank].append(chunk)
        held[rank] += chunk["rows"]
    return hands
