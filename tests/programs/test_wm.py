"""The launcher `wm`, run for real; an empty requirements file keeps pip off the network."""

import ast
import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from worldmodel.envs.dmc import render

from worldmodel.system import doctor

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (
    "import os, sys; print('train', os.getcwd(), sys.prefix, *sys.argv[1:]); "
    "sys.exit(len(sys.argv) - 1)\n"
)
WM_IMPORTS = (
    "errors.py",
    "system/process_start.py",
    "system/process_end.py",
    "system/console.py",
    "command_line/main.py",
)


def make_tree(root):
    """Make a checkout with nothing to install and a train.py that reports how it was started."""
    (root / "worldmodel" / "system").mkdir(parents=True)
    shutil.copy(ROOT / "wm", root / "wm")
    (root / "requirements.txt").write_text("# nothing\n")
    (root / "pyproject.toml").write_text("[project.optional-dependencies]\ntest = []\n")
    (root / "train.py").write_text(TRAIN)
    (root / "worldmodel" / "command_line").mkdir()
    for name in ("__init__.py", "system/__init__.py", "command_line/__init__.py"):
        (root / "worldmodel" / name).touch()
    for name in WM_IMPORTS:
        shutil.copy(ROOT / "worldmodel" / name, root / "worldmodel" / name)
    (root / "worldmodel" / "system" / "doctor.py").write_text(
        "import os, sys; print('doctor', os.getcwd()); sys.exit(3)\n"
    )
    return root


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "tree")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make one environment by a first call from another folder, shared since it takes seconds."""
    root = make_tree(tmp_path_factory.mktemp("made") / "tree")
    return root, call(root, "train", "small", "--run.seed", "1", cwd=root.parent)


@pytest.fixture
def ready(tree, made):
    """Return a tree whose environment is complete."""
    shutil.copytree(made[0] / ".venv", tree / ".venv", symlinks=True)
    return tree


def call(root, *args, cwd=None, **env):
    command = [sys.executable, root / "wm", *args]
    return subprocess.run(
        command, cwd=cwd or root, env=bare() | env, capture_output=True, text=True, timeout=120
    )


def bare():
    return {k: v for k, v in os.environ.items() if k not in ("WM_VENV", "PYTHONPATH")}


def load(root):
    loader = importlib.machinery.SourceFileLoader("wm_under_test", str(root / "wm"))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader("wm_under_test", loader)
    )
    loader.exec_module(module)
    return module


def test_usage_names_every_command_and_makes_nothing(tree):
    done = call(tree)
    assert done.returncode == 0
    assert all(f"./wm {name}" in done.stdout for name in ("train", "eval", "test", "doctor"))
    assert call(tree, "--help").stdout == done.stdout and not (tree / ".venv").exists()


@pytest.mark.parametrize(
    "name, hint",
    [("trian", "did you mean train?"), ("docter", "did you mean doctor?"), ("x", "--help")],
)
def test_unknown_command(tree, name, hint):
    done = call(tree, name)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and repr(name) in done.stderr and hint in done.stderr
    assert not (tree / ".venv").exists()


def test_an_old_python_gets_one_line(tree):
    source = (tree / "wm").read_text()
    ast.parse(source, feature_version=(3, 6))
    assert "__future__" not in source  # a syntax error before the line could be said
    pretend = (
        "import sys; sys.version_info = (3, 6, 9); sys.argv = ['wm', 'train']; "
        "exec(open('wm').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", pretend], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert done.stderr == "wm: Python 3.6 is too old; 3.10 or newer is needed\n"


def test_first_call_makes_the_environment(made):
    root, first = made
    assert first.stdout.split() == [
        "train",
        str(root.parent),
        str(root / ".venv"),
        "small",
        "--run.seed",
        "1",
    ]
    assert first.returncode == 3  # the program's own
    assert "making .venv: done" in first.stderr and "ready after" in first.stderr
    assert (root / ".venv" / "wm.core").exists() and not (root / ".venv" / "wm.busy").exists()


def test_later_calls_install_nothing_and_say_nothing(ready):
    shutil.rmtree(next((ready / ".venv").glob("lib/python*/site-packages/pip")))
    before = {p: p.stat().st_mtime_ns for p in (ready / ".venv").iterdir()}
    later = call(ready, "train")
    assert later.stderr == "" and later.returncode == 0
    assert {p: p.stat().st_mtime_ns for p in (ready / ".venv").iterdir()} == before


def test_no_venv_uses_this_python_and_makes_nothing(tree):
    done = call(tree, "train", WM_VENV="none")
    assert done.stdout.split()[2] == sys.prefix and done.stderr == ""
    assert not (tree / ".venv").exists()


def test_modules_are_found_from_any_folder_and_pass_their_exit_code(tree, tmp_path):
    done = call(tree, "doctor", cwd=tmp_path, WM_VENV="none")
    assert (done.stdout, done.returncode) == (f"doctor {tmp_path}\n", 3)
    done = call(tree, "doctor", "x", cwd=tmp_path, WM_VENV="none")
    assert (done.stdout, done.returncode) == ("", 2) and "unexpected word 'x'" in done.stderr


def test_no_module_of_the_folder_it_is_called_in_is_imported(tree, tmp_path):
    (tree / "worldmodel" / "system" / "doctor.py").write_text("import json, worldmodel.system\n")
    shadows = tmp_path / "shadows"
    shadows.mkdir()
    for name in ("json", "signal", "worldmodel"):
        (shadows / f"{name}.py").write_text("raise SystemExit('a module of this folder')\n")
    for name in ("doctor", "train"):
        done = call(tree, name, cwd=shadows, WM_VENV="none")
        assert done.returncode == 0 and done.stderr == ""
    for name in ("types", "pluggy", "pytest", "conftest"):
        (shadows / f"{name}.py").write_text("raise SystemExit('a module of this folder')\n")
    (tree / "tests").mkdir()
    (tree / "tests" / "test_one.py").write_text("def test_one():\n    pass\n")
    done = call(tree, "test", "../tree/tests/test_one.py", cwd=shadows, WM_VENV="none")
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_tests_run_whole_or_as_named(tree, monkeypatch):
    (tree / "tests").mkdir()
    for name in ("one", "two"):
        (tree / "tests" / f"test_{name}.py").write_text(
            f"def test_{name}():\n    assert '{name}' == 'one'\n"
        )
    whole = call(tree, "test", WM_VENV="none")
    assert whole.returncode == 1 and "1 failed, 1 passed" in whole.stdout
    wm, everything = load(tree), [str(tree / "tests")]
    monkeypatch.chdir(tree)
    assert wm.choose_tests(["-k", "tests", "-x"]) == ["-k", "tests", "-x", *everything]
    assert wm.choose_tests(["-x", "tests"]) == ["-x", *everything]
    one = "tests/test_one.py::test_one"
    assert wm.choose_tests(["--junitxml=out", one]) == [f"--junitxml={tree}/out", f"{tree}/{one}"]


def test_stamp_follows_all_it_should(ready):
    wm, venv = load(ready), ready / ".venv"
    assert wm.is_ready(venv, "core") and not wm.is_ready(venv, "test")
    seen = {wm.compute_stamp(venv, "core")}
    (ready / "pyproject.toml").write_text('test = ["pytest>=8"]\n')
    assert wm.is_ready(venv, "core")  # test tools do not matter to training
    (ready / "requirements.txt").write_text("# another\n")
    seen.add(wm.compute_stamp(venv, "core"))
    wm.FORMAT += 1
    seen.add(wm.compute_stamp(venv, "core"))
    with open(venv / "pyvenv.cfg", "a") as file:
        file.write("version_info = 3.99.0\n")
    seen.add(wm.compute_stamp(venv, "core"))
    assert len(seen) == 4 and not wm.is_ready(venv, "core")
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("nowhere")
    assert wm.compute_stamp(venv, "core") == ""


def test_test_tools_are_the_extra_of_pyproject():
    tomllib = pytest.importorskip("tomllib")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]["test"]
    assert load(ROOT).read_test_extra() == extra and len(extra) >= 4


def write_lock(tree, lines):
    """Lock releases for the Python that runs the tests."""
    (tree / "requirements").mkdir(exist_ok=True)
    name = "python{}.{}.txt".format(*sys.version_info)
    (tree / "requirements" / name).write_text(lines)


def read_release(tree):
    """The release of the package `little` in the environment."""
    infos = tree.glob(".venv/lib/python*/site-packages/little-*.dist-info")
    return [info.name for info in infos]


def test_exact_releases_of_the_lock_are_installed_where_they_can_be_had(ready):
    for release in "123":
        make_wheel(ready, "little", {"little.py": ""}, release)
    folder = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(ready)}
    (ready / "requirements.txt").write_text("little>=1\n")
    write_lock(ready, "little==2\n")
    done = call(ready, "train", **folder)
    assert read_release(ready) == ["little-2.dist-info"] and "lock" not in done.stderr
    write_lock(ready, "little==4\n")
    done = call(ready, "train", **folder)  # 2 is within the range, so it stays
    assert done.returncode == 0 and done.stderr.count("can be had here; taking others") == 1
    assert read_release(ready) == ["little-2.dist-info"]
    capped = ready / "constraints.txt"
    capped.write_text("little<2\n")
    write_lock(ready, "little==2\n")
    done = call(ready, "train", PIP_CONSTRAINT=str(capped), **folder)
    assert done.returncode == 0 and read_release(ready) == ["little-1.dist-info"]
    for lock in (ready / "requirements").iterdir():
        lock.unlink()
    done = call(ready, "train", **folder)
    assert done.returncode == 0 and "no lock for this Python" in done.stderr


def test_an_environment_of_the_first_version_is_upgraded_in_place(ready):
    """It had ranges alone, and its stamp did not know of locks."""
    wm, venv = load(ready), ready / ".venv"
    parts = ["1", str((venv / "bin/python").resolve()), (venv / "pyvenv.cfg").read_text()]
    stamp = hashlib.sha256("\0".join([*parts, "# nothing\n"]).encode()).hexdigest()
    (venv / "wm.core").write_text(stamp)
    (venv / wm.FILES).unlink()
    (venv / "kept").touch()
    make_wheel(ready, "little", {"little.py": ""})
    (ready / "requirements.txt").write_text("little\n")
    write_lock(ready, "little==1\n")
    done = call(ready, "train", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(ready))
    assert done.returncode == 0 and "making" not in done.stderr, done.stderr
    assert read_release(ready) == ["little-1.dist-info"] and (venv / "kept").exists()
    assert call(ready, "train").stderr == ""


def test_dm_control_comes_without_its_requirements_from_python_3_13_on(ready, monkeypatch):
    wm, venv = load(ready), ready / ".venv"
    shutil.copy(ROOT / "requirements.txt", ready)
    settings = venv / "pyvenv.cfg"
    package = doctor.read_requirements()["dm-control"]
    for version, lone in (("3.12.1", []), ("3.13.0", [package])):
        settings.write_text(re.sub(r"(version.*= ).*", rf"\g<1>{version}", settings.read_text()))
        assert wm.list_lone_packages(venv) == lone
        assert wm.find_pins(venv).name == f"python{version[:4]}.txt"
    assert doctor.name_releases("dm-control") == render.PACKAGE
    runs = []
    monkeypatch.setattr(
        wm, "run_logged", lambda what, command, *rest: runs.append(command) or (0, "")
    )
    wm.install_requirements(venv, "core", None, again=False)
    assert runs[1][-2:] == ["--no-deps", package] and "--no-deps" not in runs[0]


@pytest.mark.parametrize(
    "settings, used",
    [
        ("", True),
        (":env:.default-timeout='180'\nglobal.user='true'\n", True),
        (":env:.find-links='a'\n", False),
        ("global.index-url='a'\n", False),
        ("install.constraint='a'\nglobal.timeout='1'\n", False),
        ("global.cert='a=b.timeout=3'\n", False),
    ],
)
def test_uv_is_used_unless_pip_has_settings_that_it_ignores(tree, monkeypatch, settings, used):
    wm = load(tree)
    monkeypatch.setattr(wm, "read_output", lambda command: settings)
    monkeypatch.setattr(wm.shutil, "which", lambda name: f"/tools/{name}")
    assert wm.find_uv(["pip"]) == ("/tools/uv" if used else None)


def test_changed_requirements_are_installed_into_the_same_environment(ready):
    marker = ready / ".venv" / "kept"
    marker.touch()
    (ready / "requirements.txt").write_text("# something else\n")
    done = call(ready, "train")
    assert "installing requirements: done" in done.stderr and "making" not in done.stderr
    assert marker.exists()


def test_failed_install_shows_pips_words_and_is_tried_again(ready):
    (ready / "requirements.txt").write_text("./no_such_folder\n")
    done = call(ready, "train")
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 3 and done.stdout == ""
    assert "no_such_folder" in done.stderr and "Traceback" not in done.stderr
    assert (
        lines[-1].startswith("wm: pip could not install the requirements")
        and "install.log" in lines[-1]
    )
    (ready / "requirements.txt").write_text("# fine again\n")
    again = call(ready, "train")
    assert again.returncode == 0 and "making" not in again.stderr


def test_what_is_installed_is_compiled_at_once(ready):
    """Compiling at first use, on a disk that is full by then, would leave broken files."""
    make_wheel(ready, "little", {"little.py": "GREETING = 1\n"})
    (ready / "requirements.txt").write_text("./little-1-py3-none-any.whl\n")
    done = call(ready, "train")
    assert done.returncode == 0 and "compiling" in done.stderr, done.stderr
    assert list(ready.glob(".venv/lib/python*/site-packages/__pycache__/little.*.pyc"))


def make_wheel(folder, name, files, release="1"):
    """Write a wheel that pip installs without a network; its name."""
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n"
    how = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    info = f"{name}-{release}.dist-info"
    record = "".join(f"{place},,{len(text)}\n" for place, text in files.items())
    meta = {f"{info}/METADATA": about, f"{info}/WHEEL": how, f"{info}/RECORD": record}
    path = folder / f"{name}-{release}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for place, text in (files | meta).items():
            wheel.writestr(place, text)
    return path.name


@pytest.mark.fault(
    38,
    "in .venv a package's folder deleted, a native library truncated, another deleted, a module "
    "emptied, a package lost with its metadata, pip deleted too",
    "./wm names the packages, installs them again and starts the program; doctor says not ready",
)
def test_a_damaged_environment_is_found_and_mended(ready, monkeypatch, record_property):
    whole = {
        "gone": {"gone/__init__.py": "A = 1\n"},
        "torn": {"torn/__init__.py": "A = 1\n", "torn/lib/libtorn.so.1": "x" * 9999},
        "bare": {"bare/__init__.py": "A = 1\n", "bare/core.cpython-311.so": "x" * 99},
        "void": {"void.py": "A = 1\n"},
        "lost": {"lost/__init__.py": "A = 1\n"},
        "kept": {"kept/__init__.py": "A = 1\n", "kept/__pycache__/a.cpython-310.pyc": "x"},
    }
    names = [f"./{make_wheel(ready, name, files)}\n" for name, files in whole.items()]
    (ready / "requirements.txt").write_text("".join(names))
    assert call(ready, "train").returncode == 0
    site = next((ready / ".venv").glob("lib/python*/site-packages"))
    (site / "kept" / "__init__.py").write_text("A = 1  # and a word of the user's\n")
    (site / "kept" / "__pycache__" / "a.cpython-310.pyc").write_text("compiled anew")
    assert call(ready, "train").stderr == ""

    for name in ("gone", "lost", "lost-1.dist-info", "pip"):
        shutil.rmtree(site / name)
    os.truncate(site / "torn/lib/libtorn.so.1", 5000)
    (site / "bare/core.cpython-311.so").unlink()
    (site / "void.py").write_text("")
    found = list(metadata.Distribution.discover(path=[str(site)]))
    monkeypatch.setattr(doctor.metadata, "distributions", lambda name=None: found)
    finding = doctor.check_packages()
    assert finding.blocks
    assert re.fullmatch(r"DAMAGED bare==1, gone==1, pip==\S+, torn==1, void==1", finding.value)

    mended = call(ready, "train")
    assert mended.returncode == 0 and "Traceback" not in mended.stderr, mended.stderr
    assert "wm: damaged or missing: lost, " in mended.stderr
    line = next(x for x in mended.stderr.splitlines() if "damaged or missing" in x)
    assert sorted(line.split(": ")[-1].split(", ")) == ["bare", "gone", "lost", "torn", "void"]
    for files in whole.values():
        for place, text in files.items():
            assert place.startswith("kept") or (site / place).read_text() == text
    assert call(ready, "train").stderr == ""
    record_property("times", 5)


@pytest.mark.parametrize("damage", ["killed while installing", "no python"])
def test_half_finished_environment_is_made_again(ready, damage):
    venv = ready / ".venv"
    (venv / "wm.core").unlink()
    if damage == "no python":
        (venv / "bin" / "python").unlink()
    else:
        (venv / "wm.busy").touch()
    (venv / "leftover").touch()
    done = call(ready, "train")
    assert done.returncode == 0 and "making .venv: done" in done.stderr
    assert not (venv / "leftover").exists() and not (venv / "wm.busy").exists()


def test_interrupted_install_stops_pip_and_is_remembered(ready, tmp_path):
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "setup.py").write_text("import time; time.sleep(60)\n")
    (ready / "requirements.txt").write_text(f"{slow}\n")
    log = ready / ".venv" / "install.log"
    wm = subprocess.Popen(
        [sys.executable, ready / "wm", "train"], stderr=subprocess.PIPE, text=True, env=bare()
    )
    wait_for(lambda: "Processing" in log.read_text())
    wm.send_signal(signal.SIGTERM)
    assert wm.wait(120) == 143 and "stopped" in wm.stderr.read()
    assert (ready / ".venv" / "wm.busy").exists() and not (ready / ".venv" / "wm.core").exists()


def wait_for(condition, timeout=60):
    limit = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def test_second_call_waits_and_then_finds_it_done(ready):
    venv = ready / ".venv"
    stamp = (venv / "wm.core").read_text()
    (venv / "wm.core").unlink()
    before = (venv / "install.log").read_text()
    with open(venv / "wm.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command, pipe = [sys.executable, ready / "wm", "train"], subprocess.PIPE
        second = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=bare())
        assert second.stderr.readline() == "wm: another wm is setting up; waiting for it\n"
        assert second.poll() is None
        (venv / "wm.core").write_text(stamp)
    out, errors = second.communicate(timeout=120)
    assert out.startswith("train ") and errors == "" and second.returncode == 0
    assert (venv / "install.log").read_text() == before


def test_someone_elses_folder_is_never_touched(tree, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    done = call(tree, "train", WM_VENV=str(home))
    assert done.returncode == 3 and "neither empty nor a virtual environment" in done.stderr
    assert sorted(p.name for p in home.iterdir()) == ["thesis.txt"]


def test_someone_elses_environment_is_used_and_never_emptied(tree, made, tmp_path):
    theirs = tmp_path / "theirs"
    shutil.copytree(
        made[0] / ".venv", theirs, symlinks=True, ignore=shutil.ignore_patterns("wm.*")
    )
    done = call(tree, "train", WM_VENV=str(theirs))
    assert (
        done.returncode == 0
        and done.stdout.split()[2] == str(theirs)
        and "making" not in done.stderr
    )
    (theirs / "bin" / "python").unlink()
    broken = call(tree, "train", WM_VENV=str(theirs))
    assert broken.returncode == 3 and "was not made by wm" in broken.stderr
    assert (theirs / "lib").exists()


@pytest.fixture
def no_ensurepip(tmp_path):
    """Make a Python whose venv module fails, as on Debian without python3-venv."""
    python = tmp_path / "python3"
    refuse = (
        'case "$*" in "-m venv --without-pip"*) ;; "-m venv"*) echo no ensurepip >&2; exit 1 ;; '
        "esac"
    )
    python.write_text(f'#!/bin/sh\n{refuse}\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_without_ensurepip_the_systems_pip_fills_the_environment(tree, no_ensurepip, monkeypatch):
    wm = load(tree)
    monkeypatch.setattr(wm.sys, "executable", no_ensurepip)
    monkeypatch.delenv("WM_VENV", raising=False)
    python = wm.prepare_environment("core")
    assert wm.is_ready(tree / ".venv", "core")
    assert wm.find_pip(tree / ".venv")[0] == no_ensurepip
    assert not list((tree / ".venv").glob("lib/python*/site-packages/pip"))
    assert (
        subprocess.run(
            [python, "-c", "import sys; sys.exit(sys.prefix == sys.base_prefix)"]
        ).returncode
        == 0
    )


def test_without_any_way_one_line_says_what_to_install(tree, tmp_path, monkeypatch, capsys):
    wm = load(tree)
    monkeypatch.setattr(wm.sys, "executable", shutil.which("false"))
    monkeypatch.delenv("WM_VENV", raising=False)
    assert wm.main(["train"]) == 3
    assert "apt-get install python3-venv" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "settings, gpu, warned",
    [
        ("", "", True),
        ("global.index-url='x'\n", "", False),
        ("global.find-links='x'\n", "", False),
        ("", "GPU 0: A", False),
    ],
)
def test_cuda_warning_only_without_gpu_and_index(tree, monkeypatch, capsys, settings, gpu, warned):
    wm = load(tree)
    monkeypatch.setattr(
        wm, "read_output", lambda command: gpu if command[0] == "nvidia-smi" else settings
    )
    monkeypatch.setattr(wm.sys, "platform", "linux")
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has an NVIDIA driver")
    wm.warn_about_cuda(["pip"])
    assert ("PIP_EXTRA_INDEX_URL" in capsys.readouterr().err) == warned
