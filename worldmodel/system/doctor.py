"""What this machine has, in one screenful, and the one line that would improve each part of it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from worldmodel.system.console import say
from worldmodel.system.cpu_cores import Others, cores

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = {
    "gym-classic": ("pygame", "pygame"),
    "gym-box2d": ("Box2D", "gymnasium[box2d]"),
    "gym-atari": ("ale_py",) * 2,
}
TORCH_AGAIN = "--force-reinstall 'torch==2.13.*'"

# Each part is tried in a process of its own: a library that crashes or hangs must not take the
# report with it.
TORCH = """
import json, torch
available, reason = torch.cuda.is_available(), ""
if torch.version.cuda and not available:
    try: torch.cuda.init()
    except Exception as error: reason = str(error).splitlines()[0]
count = torch.cuda.device_count() if available else 0
names = [torch.cuda.get_device_name(i) for i in range(count)]
found = dict(version=torch.__version__, cuda=torch.version.cuda or "", names=names, reason=reason)
print(json.dumps(dict(found, threads=torch.get_num_threads())))
"""
MUJOCO = "import dm_control.mujoco; print('{}')"
RENDER = (
    "import json; from envs.dmc.render import choose_renderer; "
    "print(json.dumps(choose_renderer('auto')[:2]))"
)


class Failure(str):
    """Why a part does not work, in one line."""


@dataclass(frozen=True)
class Line:
    """One finding; `blocks` says that training cannot run."""

    label: str
    value: str
    hint: str = ""
    blocks: bool = False


def start(code: str, **env: str) -> subprocess.Popen[str]:
    """A piece of Python, running beside this one, that prints its answer as JSON."""
    pipe, full = subprocess.PIPE, dict(os.environ, **env)
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=full, stdout=pipe, stderr=pipe, text=True
    )


def answer(probe: subprocess.Popen[str], timeout: float) -> Any:
    """What a piece of Python found out, or Failure with one line of why not."""
    try:
        out, errors = probe.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        probe.kill()
        probe.communicate()
        return Failure(f"no answer in {timeout:.0f} s")
    if probe.returncode == 0 and (
        answers := [line for line in out.splitlines() if line.startswith(("{", "["))]
    ):
        return json.loads(answers[-1])
    return Failure(
        (errors.strip().splitlines() or [f"ended with code {probe.returncode}"])[-1][:150]
    )


def packages_line() -> Line:
    """Whether everything in requirements.txt is installed."""
    listed = [
        re.match(r"[\w.-]+", line) for line in (ROOT / "requirements.txt").read_text().splitlines()
    ]
    missing = [name.group() for name in listed if name and not installed(name.group())]
    value = "MISSING " + ", ".join(missing) if missing else "all of requirements.txt"
    return Line("packages", value, pip("-r requirements.txt") if missing else "", bool(missing))


def torch_line(found: Any, busy: int = 0) -> Line:
    if isinstance(found, Failure):
        return Line("torch", f"DOES NOT LOAD: {found}", pip(TORCH_AGAIN), True)
    build = f"CUDA {found['cuda']} build" if found["cuda"] else "CPU build"
    value = f"{found['version']}, {build}, {found['threads']} threads on {cores()} cores"
    if not busy:
        return Line("torch", value)
    hint = (
        "a training that begins now leaves those to others, on fewer threads; end what else runs "
        "to have all"
    )
    return Line("torch", f"{value}, {busy} of them busy with other programs", hint)


def bf16_line() -> Line:
    flags = set(re.findall(r"\b(?:\w+_)?bf16\b", "\n".join(read(Path("/proc"), "cpuinfo"))))
    value = "in hardware: " + ", ".join(sorted(flags)) if flags else "not in hardware"
    return Line("cpu bf16", value, "" if flags else "on the CPU, train with --run.precision fp32")


def gpu_line(torch: Any, gpu: str, visible: str | None) -> Line:
    """Loud when the CPU would be used although there is a GPU."""
    if not isinstance(torch, Failure) and torch["names"]:
        return Line("gpu", ", ".join(torch["names"]) + ", used for training")
    if not gpu:
        return Line("gpu", "none found, training uses the CPU")
    if "no driver" in gpu:
        why, hint = (
            "NO DRIVER IS LOADED",
            "install the NVIDIA driver of your distribution and reboot",
        )
    elif isinstance(torch, Failure):
        why, hint = "TORCH DOES NOT LOAD", "see torch"
    elif not torch["cuda"]:
        why, hint = (
            "THIS TORCH IS A CPU BUILD",
            "with an index of CUDA builds: " + pip(TORCH_AGAIN),
        )
    elif visible is not None and not re.match(r"\d|GPU|MIG", visible):
        why, hint = f"CUDA_VISIBLE_DEVICES={visible!r} HIDES IT", "unset CUDA_VISIBLE_DEVICES"
    else:
        why = f"CUDA DOES NOT START: {torch['reason'] or 'no device is visible'}"
        hint = (
            f"install a driver for CUDA {torch['cuda']}, or a torch built for the CUDA of this "
            f"driver"
        )
    return Line("GPU", f"!!! {gpu} IS NOT USED, TRAINING RUNS ON THE CPU: {why} !!!", hint)


def find_gpu(root: Path = Path("/")) -> str:
    """An NVIDIA GPU by its driver or, where none is loaded, on the PCI bus; empty when there is
    none.
    """
    facts = read(root, "proc/driver/nvidia/gpus/*/information")
    names = [fact.split(":", 1)[1].strip() for fact in facts if fact.startswith("Model:")]
    if names or any(root.glob("proc/driver/nvidia")) or any(root.glob("dev/nvidia[0-9]*")):
        return ", ".join(names) or "AN NVIDIA GPU"
    for device in root.glob("sys/bus/pci/devices/*"):
        if read(device, "vendor") == ["0x10de"] and "".join(read(device, "class")).startswith(
            "0x03"
        ):
            return "AN NVIDIA GPU (no driver)"
    return ""


def mujoco_line(found: Any) -> Line:
    value = ", ".join(
        f"{name} {installed(name) or 'missing'}" for name in ("mujoco", "dm-control")
    )
    if isinstance(found, Failure):
        fix = pip("dm-control==1.0.50 'mujoco==3.17.*'")
        return Line("mujoco", f"{value}, DO NOT LOAD: {found}", fix, True)
    return Line("mujoco", f"{value}, load together")


def renderer_line(found: Any) -> Line:
    if isinstance(found, Failure):
        return Line(
            "renderer",
            f"could not be chosen: {found}",
            "train with --env.render ray, which needs no GL",
        )
    reason, _, fix = found[1].partition("; to have it: ")
    return Line("renderer", f"{found[0]}: {reason}", fix and f"for GL pictures: {fix}")


def room_line() -> Line:
    from worldmodel.system.available_memory import available_memory

    memory, disk = available_memory() / 1e9, shutil.disk_usage(".").free / 1e9
    hint = (
        "lower --replay.capacity_gb"
        if memory < 4
        else "free some disk or set --run.root"
        if disk < 3
        else ""
    )
    return Line("room", f"{memory:.1f} GB of memory and {disk:.1f} GB of disk free", hint)


def extras_line() -> Line:
    absent = {
        extra: package
        for extra, (module, package) in EXTRAS.items()
        if not importlib.util.find_spec(module)
    }
    value = ", ".join(f"{extra} {'no' if extra in absent else 'yes'}" for extra in EXTRAS)
    return Line("extras", value, pip(" ".join(absent.values())) if absent else "")


def installed(name: str) -> str:
    return next((found.version for found in metadata.distributions(name=name)), "")


def pip(what: str) -> str:
    return f"{min(sys.executable, os.path.relpath(sys.executable), key=len)} -m pip install {what}"


def read(root: Path, pattern: str) -> list[str]:
    return [line for path in root.glob(pattern) for line in path.read_text().splitlines()]


def guarded(label: str, check: Callable[[], Line]) -> Line:
    """A report has no traceback, whatever a check runs into."""
    try:
        return check()
    except Exception as error:
        return Line(
            label, f"could not be checked: {type(error).__name__}: {error}".splitlines()[0]
        )


def examine() -> list[Line]:
    busy = Others().busy()
    render, mujoco, torch = (
        answer(p, 120) for p in [start(RENDER), start(MUJOCO, MUJOCO_GL="disable"), start(TORCH)]
    )
    checks: dict[str, Callable[[], Line]] = {
        "python": lambda: Line("python", f"{sys.version.split()[0]}  {sys.executable}"),
        "packages": packages_line,
        "torch": lambda: torch_line(torch, busy),
        "cpu bf16": bf16_line,
        "gpu": lambda: gpu_line(torch, find_gpu(), os.environ.get("CUDA_VISIBLE_DEVICES")),
        "mujoco": lambda: mujoco_line(mujoco),
        "renderer": lambda: renderer_line(render),
        "room": room_line,
        "extras": extras_line,
    }
    return [guarded(label, check) for label, check in checks.items()]


def main() -> int:
    lines = examine()
    for line in lines:
        say(f"{line.label:<9} {line.value}" + (f"\n          -> {line.hint}" if line.hint else ""))
    blocking = [line.label for line in lines if line.blocks]
    say(f"\nnot ready: {', '.join(blocking)}" if blocking else "\nready: ./wm train")
    return 3 if blocking else 0


if __name__ == "__main__":
    sys.exit(main())
