"""A report of what this machine offers for training, with a hint for each part that it lacks."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from worldmodel.system.console import say
from worldmodel.system.cpu_cores import LoadMeter, count_cores
from worldmodel.system.process_start import prepare_process

ROOT = Path(__file__).resolve().parents[2]
START = "./wm train" if (ROOT / "wm").exists() else "wm train"
# The module of each extra for environments, and the package that has it.
EXTRAS = {
    "atari": ("ale_py", "ale-py"),
    "minigrid": ("minigrid", "minigrid"),
    "box2d": ("Box2D", "box2d"),
    "crafter": ("crafter", "crafter"),
}

# Each library is probed in its own process: if it crashes or hangs, the report still appears.
TORCH_PROBE = """
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
MUJOCO_PROBE = "import dm_control.mujoco; print('{}')"
RENDER_PROBE = (
    "import json; from worldmodel.envs.dmc.render import choose_renderer; "
    "print(json.dumps(choose_renderer('auto')[:2]))"
)


class Failure(str):
    """The reason a probe failed, in one line."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; `blocks` means that training cannot run."""

    label: str
    value: str
    hint: str = ""
    blocks: bool = False


def start_probe(code: str, **env: str) -> subprocess.Popen[str]:
    """Start Python code in another process; it prints its answer as a line of JSON."""
    pipe, full = subprocess.PIPE, dict(os.environ, **env)
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=full, stdout=pipe, stderr=pipe, text=True
    )


def read_answer(probe: subprocess.Popen[str], timeout: float) -> Any:
    """Wait for a probe and return its answer, or a Failure that gives the reason."""
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


def check_packages() -> Finding:
    """Report which required packages are not installed, and which lost files."""
    missing = {n: wanted for n, wanted in read_requirements().items() if not find_version(n)}
    damaged = find_damaged_packages()
    faults = [
        f"{what} {', '.join(names)}"
        for what, names in (("MISSING", missing), ("DAMAGED", damaged))
        if names
    ]
    fixes = [name_releases("dm-control")] if missing.pop("dm-control", "") else []
    fixes += [shlex.join(missing.values())] if missing else []
    fixes += [f"--force-reinstall --no-deps {' '.join(damaged)}"] if damaged else []
    return Finding(
        "packages",
        "; ".join(faults) or "all that are required",
        "; ".join(map(make_pip_command, fixes)),
        bool(faults),
    )


def read_requirements() -> dict[str, str]:
    """Read {package: releases} from requirements.txt, or of an installed package's metadata.

    Conditions are left out: what one Python names itself, on another a package brings along.
    """
    file = ROOT / "requirements.txt"
    lines = file.read_text().splitlines() if file.exists() else metadata.requires("worldmodel")
    wanted = [line.partition(";")[0].strip() for line in lines or [] if "extra ==" not in line]
    names = [re.match(r"[\w.-]+", line) for line in wanted]
    return {name.group(): line for name, line in zip(names, wanted, strict=True) if name}


def name_releases(package: str) -> str:
    """Name the required releases of a package as arguments of `pip install`.

    From Python 3.13 on dm-control's requirement labmaze cannot be installed; see requirements.txt.
    """
    alone = package == "dm-control" and sys.version_info >= (3, 13)
    return ("--no-deps " if alone else "") + shlex.quote(read_requirements()[package])


def find_damaged_packages() -> list[str]:
    """Name the installed packages that lost a file or a part of one."""
    found = []
    for package in metadata.distributions():
        rows = csv.reader((package.read_text("RECORD") or "").splitlines())
        wanted = {row[0]: int(row[2]) for row in rows if row[2:] and row[2]}
        if any(has_lost(str(package.locate_file(name)), size) for name, size in wanted.items()):
            found.append(f"{package.name}=={package.version}")
    return sorted(found)


def has_lost(path: str, wanted: int) -> bool:
    """Say whether a file is missing, or not as long as it was.

    A module may have been edited, and byte code that a wheel brought is compiled anew.
    """
    try:
        size = os.stat(path).st_size
    except OSError:
        return True
    return size != wanted and (size == 0 or not path.endswith((".py", ".pyc")))


def check_torch(found: Any, busy: int = 0) -> Finding:
    if isinstance(found, Failure):
        return Finding("torch", f"DOES NOT LOAD: {found}", make_torch_command(), True)
    build = f"CUDA {found['cuda']} build" if found["cuda"] else "CPU build"
    value = f"{found['version']}, {build}, {found['threads']} threads on {count_cores()} cores"
    if not busy:
        return Finding("torch", value)
    hint = (
        "a training that starts now uses fewer threads; stop the other programs to use all cores"
    )
    return Finding("torch", f"{value}, {busy} of them busy with other programs", hint)


def check_bf16() -> Finding:
    flags = set(re.findall(r"\b(?:\w+_)?bf16\b", "\n".join(read_lines(Path("/proc"), "cpuinfo"))))
    value = "in hardware: " + ", ".join(sorted(flags)) if flags else "not in hardware"
    return Finding("cpu bf16", value)


def check_gpu(torch: Any, gpu: str, visible: str | None) -> Finding:
    """Report the GPU, in capitals if training would run on the CPU although there is one."""
    if not isinstance(torch, Failure) and torch["names"]:
        return Finding("gpu", ", ".join(torch["names"]) + ", used for training")
    if not gpu:
        return Finding("gpu", "none found, training uses the CPU")
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
            "with an index of CUDA builds: " + make_torch_command(),
        )
    elif visible is not None and not re.match(r"\d|GPU|MIG", visible):
        why, hint = f"CUDA_VISIBLE_DEVICES={visible!r} HIDES IT", "unset CUDA_VISIBLE_DEVICES"
    else:
        why = f"CUDA DOES NOT START: {torch['reason'] or 'no device is visible'}"
        hint = (
            f"install a driver for CUDA {torch['cuda']}, or a torch built for the CUDA of this "
            f"driver"
        )
    return Finding("GPU", f"!!! {gpu} IS NOT USED, TRAINING RUNS ON THE CPU: {why} !!!", hint)


def find_gpu(root: Path = Path("/")) -> str:
    """Name the NVIDIA GPU that the driver or else the PCI bus reports; empty if there is none."""
    facts = read_lines(root, "proc/driver/nvidia/gpus/*/information")
    names = [fact.split(":", 1)[1].strip() for fact in facts if fact.startswith("Model:")]
    if names or any(root.glob("proc/driver/nvidia")) or any(root.glob("dev/nvidia[0-9]*")):
        return ", ".join(names) or "AN NVIDIA GPU"
    for device in root.glob("sys/bus/pci/devices/*"):
        if read_lines(device, "vendor") == ["0x10de"] and "".join(
            read_lines(device, "class")
        ).startswith("0x03"):
            return "AN NVIDIA GPU (no driver)"
    return ""


def check_mujoco(found: Any) -> Finding:
    value = ", ".join(
        f"{name} {find_version(name) or 'missing'}" for name in ("mujoco", "dm-control")
    )
    if isinstance(found, Failure):
        fix = "; ".join(make_pip_command(name_releases(p)) for p in ("mujoco", "dm-control"))
        return Finding("mujoco", f"{value}, DO NOT LOAD: {found}", fix, True)
    return Finding("mujoco", f"{value}, load together")


def check_renderer(found: Any) -> Finding:
    if isinstance(found, Failure):
        return Finding(
            "renderer",
            f"could not be chosen: {found}",
            "train with --env.render ray, which needs no GL",
        )
    reason, _, fix = found[1].partition("; to have it: ")
    return Finding("renderer", f"{found[0]}: {reason}", fix and f"for GL pictures: {fix}")


def check_space() -> Finding:
    from worldmodel.system.available_memory import available_memory

    memory, disk = available_memory() / 1e9, shutil.disk_usage(".").free / 1e9
    hint = (
        "lower --replay.capacity_gb"
        if memory < 4
        else "free some disk or set --run.root"
        if disk < 3
        else ""
    )
    return Finding("space", f"{memory:.1f} GB of memory and {disk:.1f} GB of disk free", hint)


def check_extras() -> Finding:
    absent = {
        extra: package
        for extra, (module, package) in EXTRAS.items()
        if not importlib.util.find_spec(module)
    }
    value = ", ".join(f"{extra} {'no' if extra in absent else 'yes'}" for extra in EXTRAS)
    return Finding("extras", value, make_pip_command(" ".join(absent.values())) if absent else "")


def find_version(name: str) -> str:
    return next((found.version for found in metadata.distributions(name=name)), "")


def make_pip_command(what: str) -> str:
    return f"{min(sys.executable, os.path.relpath(sys.executable), key=len)} -m pip install {what}"


def make_torch_command() -> str:
    return make_pip_command("--force-reinstall " + name_releases("torch"))


def read_lines(root: Path, pattern: str) -> list[str]:
    return [line for path in root.glob(pattern) for line in path.read_text().splitlines()]


def run_check(label: str, check: Callable[[], Finding]) -> Finding:
    """Run a check and turn any exception into a finding: a report has no traceback."""
    try:
        return check()
    except Exception as error:
        return Finding(
            label, f"could not be checked: {type(error).__name__}: {error}".splitlines()[0]
        )


def run_checks() -> list[Finding]:
    busy = LoadMeter().count_busy()
    render, mujoco, torch = (
        read_answer(p, 120)
        for p in [
            start_probe(RENDER_PROBE),
            start_probe(MUJOCO_PROBE, MUJOCO_GL="disable"),
            start_probe(TORCH_PROBE),
        ]
    )
    checks: dict[str, Callable[[], Finding]] = {
        "python": lambda: Finding("python", f"{sys.version.split()[0]}  {sys.executable}"),
        "packages": check_packages,
        "torch": lambda: check_torch(torch, busy),
        "cpu bf16": check_bf16,
        "gpu": lambda: check_gpu(torch, find_gpu(), os.environ.get("CUDA_VISIBLE_DEVICES")),
        "mujoco": lambda: check_mujoco(mujoco),
        "renderer": lambda: check_renderer(render),
        "space": check_space,
        "extras": check_extras,
    }
    return [run_check(label, check) for label, check in checks.items()]


def main() -> int:
    lines = run_checks()
    for line in lines:
        say(f"{line.label:<9} {line.value}" + (f"\n          -> {line.hint}" if line.hint else ""))
    blocking = [line.label for line in lines if line.blocks]
    say(f"\nnot ready: {', '.join(blocking)}" if blocking else "\nready: " + START)
    return 3 if blocking else 0


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
