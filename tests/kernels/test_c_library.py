"""What the compiled library is kept under, and who may have written it."""

import os
import re
import stat
from pathlib import Path

import pytest
import torch

from worldmodel.kernels import c_library, elementwise


def test_the_c_steps_take_tensors_of_the_cpu_and_only_with_a_library(monkeypatch):
    rough = torch.ones(3, dtype=torch.bfloat16)
    for library, taken in ((object(), True), (None, False)):
        monkeypatch.setattr(elementwise, "load_library", lambda library=library: library)
        assert elementwise.accepts(rough) == taken
        assert elementwise.accepts(rough.float()) == taken
        assert not elementwise.accepts(rough.to("meta")) and not elementwise.accepts(
            rough.double()
        )


def test_a_library_that_is_kept_is_its_users_alone_and_has_its_hash_beside_it(tmp_path):
    work = tmp_path / "building"
    work.mkdir()
    made = work / "fused.so"
    made.write_bytes(b"library")
    made.chmod(0o666)
    kept = c_library._keep(made, tmp_path)
    assert kept == tmp_path / "fused.so" and kept.read_bytes() == b"library"
    for path in (kept, c_library._locate_digest(kept)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert c_library._is_intact(kept) and list(work.iterdir()) == []
    kept.chmod(0o602)  # others may have written it, whatever its hash
    assert not c_library._is_intact(kept)
    kept.chmod(0o600)
    assert c_library._is_intact(kept)
    kept.write_bytes(b"torn")
    assert not c_library._is_intact(kept)


def test_a_group_without_a_name_is_nobodys_private_one():
    assert not c_library._is_group_of_one(2**31 - 5)


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="needs /proc/cpuinfo")
def test_a_processor_is_described_by_its_features():
    with open("/proc/cpuinfo") as file:
        known = [line for line in file.read().splitlines() if line.startswith("flags")]
    if known:
        assert c_library._describe_processor() == known[0]


def test_every_function_that_python_calls_is_defined_in_c():
    """Also those that this processor never gets to."""
    folder = Path(c_library.__file__).parent
    source = "\n".join(path.read_text() for path in folder.glob("*.c"))
    steps = set(re.findall(r"^void NAMED\((\w+)\)", source, re.M))
    defined = set(re.findall(r"^(?:ALWAYS )?void (\w+)\(", source, re.M))
    defined |= {f"{step}_{suffix}" for step in steps for suffix in ("bf16", "fp32")}
    text = "\n".join(path.read_text() for path in folder.glob("*.py"))
    called = set(re.findall(r"(?<!def )\bcall\(\s*\"(\w+)\"", text))
    called_steps = set(re.findall(r"\bcall_step\(\s*\"(\w+)\"", text))
    assert len(called) >= 8 and len(called_steps) >= 15
    assert called <= defined and called_steps <= steps
