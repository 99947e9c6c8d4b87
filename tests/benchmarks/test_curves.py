"""Curves of several seeds meet at rounded frames, and the file keeps what was measured."""

import json

from benchmarks import curves


def make_line(seed, frames, score, kind="eval"):
    return {"task": "t", "name": "a", "seed": seed, "frames": frames, f"{kind}/score": score}


def test_frames_are_rounded_and_what_then_coincides_is_averaged():
    lines = [make_line(0, 96, 1.0), make_line(0, 104, 3.0), make_line(1, 201, 5.0)]
    lines += [make_line(0, 99, 7.0, "training")]
    found = curves.round_frames(lines, 100)
    assert [(x["seed"], x["frames"]) for x in found] == [(0, 100), (1, 200), (0, 100)]
    assert [x.get("eval/score") for x in found] == [2.0, 5.0, None]
    assert found[2]["training/score"] == 7.0
    assert curves.round_frames(lines, 1) == lines


def test_the_file_holds_unrounded_frames(tmp_path):
    source = tmp_path / "old.jsonl"
    lines = [make_line(0, 96, 1.0), make_line(1, 104, 3.0)]
    source.write_text("".join(json.dumps(x) + "\n" for x in lines))
    target = tmp_path / "new"
    assert curves.main([str(target), str(source), "expert=4", "--every", "100"]) == 0
    kept = [json.loads(line) for line in (target / "scores.jsonl").read_text().splitlines()]
    assert kept == lines and (target / "curve.png").stat().st_size > 1000
