"""The GPU's table, made by the same code on a CPU."""

import json

import pytest

from benchmarks import gpu


def test_every_figure_comes_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        gpu, "SHAPE", ["replay.batch=2", "replay.length=4", "imag.horizon=2", "run.frames=9000"]
    )
    monkeypatch.setattr("worldmodel.model.world_model.WorldModel.measure_every", 2)
    out = tmp_path / "gpu.json"
    assert gpu.main(["tiny", "--device", "cpu", "--updates", "2", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found) == {
        f"gpu.tiny.{k}" for k in ("updates", "kernels", "kernel time", "memory", "speed")
    }
    assert found["gpu.tiny.updates"]["value"] > 0 and found["gpu.tiny.speed"]["value"] > 0
    assert "gpu.tiny.updates" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["12m"]])
def test_what_cannot_be_measured_is_one_line(arguments, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
