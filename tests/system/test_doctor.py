"""The doctor names what blocks training and never shows a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from worldmodel.system import doctor
from worldmodel.system.doctor import Failure, check_gpu

ROOT = Path(__file__).resolve().parents[2]
CPU = {"version": "2.13.0+cpu", "cuda": "", "threads": 3, "names": [], "reason": ""}
CUDA = {**CPU, "version": "2.13.0", "cuda": "13.0"}


def run_probe(code):
    return doctor.read_answer(doctor.start_probe(code), 60)


@pytest.mark.parametrize(
    "torch, gpu, visible, why, hint",
    [
        (CPU, "NVIDIA H100", None, "THIS TORCH IS A CPU BUILD", "--force-reinstall 'torch>="),
        (CPU, "AN NVIDIA GPU (no driver)", None, "NO DRIVER IS LOADED", "driver"),
        (CUDA, "NVIDIA H100", "", "CUDA_VISIBLE_DEVICES='' HIDES IT", "unset"),
        (CUDA, "NVIDIA H100", "-1", "CUDA_VISIBLE_DEVICES='-1' HIDES IT", "unset"),
        (
            {**CUDA, "reason": "driver is too old"},
            "NVIDIA H100",
            "0",
            "driver is too old",
            "CUDA 13.0",
        ),
        (Failure("no libtorch"), "NVIDIA H100", None, "TORCH DOES NOT LOAD", "see torch"),
    ],
)
def test_a_gpu_left_idle_is_loud(torch, gpu, visible, why, hint):
    line = check_gpu(torch, gpu, visible)
    assert (
        line.label == "GPU"
        and "IS NOT USED, TRAINING RUNS ON THE CPU" in line.value
        and why in line.value
    )
    assert hint in line.hint and not line.blocks


def test_a_gpu_in_use_or_absent_is_quiet():
    used = check_gpu({**CUDA, "names": ["NVIDIA H100"]}, "NVIDIA H100", None)
    assert (used.label, used.value, used.hint) == ("gpu", "NVIDIA H100, used for training", "")
    assert "NOT USED" not in check_gpu(CPU, "", None).value


def test_gpus_are_found_by_driver_and_by_bus(tmp_path):
    assert doctor.find_gpu(tmp_path) == ""
    card = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x040300\n")  # its sound device
    assert doctor.find_gpu(tmp_path) == ""
    (card / "class").write_text("0x030200\n")
    assert "no driver" in doctor.find_gpu(tmp_path)
    facts = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    facts.mkdir(parents=True)
    assert doctor.find_gpu(tmp_path) == "AN NVIDIA GPU"
    (facts / "information").write_text("Model: \t\t NVIDIA A100\nIRQ: 7\n")
    assert doctor.find_gpu(tmp_path) == "NVIDIA A100"


def test_a_probe_survives_whatever_its_library_does():
    assert run_probe("print('noise'); print('{\"a\": 1}'); print('bye')") == {"a": 1}
    assert (
        run_probe("import no_such_library")
        == "ModuleNotFoundError: No module named 'no_such_library'"
    )
    assert "code -11" in run_probe("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert isinstance(run_probe("print('no answer')"), Failure)
    assert "no answer" in doctor.read_answer(
        doctor.start_probe("import time; time.sleep(30)"), 0.5
    )


@pytest.mark.parametrize(
    "line", [doctor.check_torch(Failure("x")), doctor.check_mujoco(Failure("flex_vertedge"))]
)
def test_a_broken_core_blocks_and_says_how_to_mend_it(line):
    assert line.blocks and "-m pip install" in line.hint and "\n" not in line.value


def test_missing_packages_are_named_with_the_releases_to_install(monkeypatch):
    found = doctor.find_version
    gone = ("einops", "dm-control")
    monkeypatch.setattr(doctor, "find_version", lambda name: name not in gone and found(name))
    line = doctor.check_packages()
    assert line.blocks and line.value.startswith("MISSING einops, dm-control")
    assert f"pip install {doctor.name_releases('dm-control')}; " in line.hint
    assert "pip install 'einops>=0.8,<1'" in line.hint


def test_an_installed_package_requires_what_a_checkout_does(tmp_path, monkeypatch):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    recorded = [line for line in lines if line and line[0] != "#"]
    in_checkout = doctor.read_requirements()
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    extras = ["crafter>=1; extra == 'crafter'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: recorded + extras)
    assert doctor.read_requirements() == in_checkout and "crafter" not in in_checkout
    assert in_checkout["torch"] in lines


def test_a_missing_renderer_leaves_the_ray_renderer():
    line = doctor.check_renderer(Failure("no GL"))
    assert not line.blocks and "no GL" in line.value and "--env.render ray" in line.hint


def test_the_renderers_reason_is_split_from_its_remedy():
    line = doctor.check_renderer(
        ["ray", "GL does not work here (no EGL); to have it: apt-get install x"]
    )
    assert line.value == "ray: GL does not work here (no EGL)" and line.hint.endswith(
        ": apt-get install x"
    )
    assert doctor.check_renderer(["fast", "GL works"]).hint == ""


def test_a_check_that_fails_is_one_line():
    line = doctor.run_check("disk", lambda: {}["gone"])
    assert line.label == "disk" and "KeyError" in line.value and not line.blocks


def test_exit_code_and_last_line_follow_what_blocks(monkeypatch, capsys):
    for blocks, code, closing in [(False, 0, "ready: ./wm train"), (True, 3, "not ready: torch")]:
        monkeypatch.setattr(
            doctor,
            "run_checks",
            lambda blocks=blocks: [doctor.Finding("torch", "x", "mend it", blocks)],
        )
        assert doctor.main() == code
        out = capsys.readouterr().out.splitlines()
        assert "-> mend it" in out[1] and out[-1] == closing


def test_the_whole_report_fits_a_screen():
    done = subprocess.run(
        [sys.executable, "-m", "worldmodel.system.doctor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert len(done.stdout.splitlines()) <= 24
    labels = [line.split()[0] for line in done.stdout.splitlines() if line and line[0] != " "]
    assert labels[:4] == ["python", "packages", "torch", "cpu"] and labels[-1] == "ready:"
    assert "could not be" not in done.stdout
