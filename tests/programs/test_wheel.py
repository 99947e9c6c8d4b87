"""The package as a wheel: what it holds, and that it trains, loads and dreams where it is installed."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import worldmodel

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    not shutil.which("git") or not (ROOT / ".git").exists(), reason="copies what git tracks"
)
BUILD = "import sys; from setuptools import build_meta as b; print(b.build_{}(sys.argv[1]))"
USE = """
import sys
from pathlib import Path
import numpy as np
import worldmodel
from worldmodel import envs
from worldmodel.envs.errors import EnvError
from worldmodel.kernels import c_library

assert EnvError is envs.EnvError
site = Path(sys.prefix) / "lib"
assert Path(worldmodel.__file__).is_relative_to(site) and len(worldmodel.__path__) == 1
assert all(Path(path).is_relative_to(site) for path in envs.__path__)
run = worldmodel.load("runs/counter/debug/seed0")
env = worldmodel.DreamEnv(run.path)
observation, _ = env.reset(seed=0)
action, carry = run.act(observation)
frames = run.imagine(carry, np.stack([action] * 3))
env.step(env.action_space.sample())
print("frames", frames.shape, frames.dtype)
"""


def call(*command, cwd, fails=False):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def copy_checkout(target):
    """Copy what git tracks or would track, so that building leaves nothing in the checkout."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def build(kind, source, target):
    target.mkdir()
    call(sys.executable, "-c", BUILD.format(kind), target, cwd=source)
    return next(target.iterdir())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("wheel") / "checkout")


@pytest.fixture(scope="module")
def wheel(checkout):
    return build("wheel", checkout, checkout.parent / "dist")


def make_environment(path, *install):
    """Make an environment that has this one's packages, and install into it without a network."""
    call(sys.executable, "-m", "venv", "--without-pip", path, cwd=path.parent)
    python = path / "bin" / "python"
    site = next(path.glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    flags = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    call(sys.executable, "-m", "pip", "--python", python, "install", *flags, *install, cwd=path)
    return path / "bin", site


def read_names(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


def test_it_installs_no_other_name_and_all_that_a_checkout_has(checkout, wheel):
    names = read_names(wheel)
    info = f"worldmodel-{worldmodel.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"worldmodel", info}
    wanted = {"worldmodel/py.typed"}
    for folder, prefix in [
        ("worldmodel", ""),
        ("envs", "worldmodel/"),
        ("configs", "worldmodel/"),
    ]:
        files = (f for f in (checkout / folder).rglob("*") if f.is_file())
        wanted |= {f"{prefix}{f.relative_to(checkout)}" for f in files if f.suffix != ".pyc"}
    assert {name for name in names if not name.startswith(info)} == wanted
    assert {Path(name).suffix for name in wanted} > {".c", ".h", ".css", ".csv", ".html", ".yaml"}
    metadata = zipfile.ZipFile(wheel).read(f"{info}/METADATA").decode()
    for extra in ("atari", "minigrid", "box2d", "crafter", "data", "log", "hub"):
        assert f"Provides-Extra: {extra}\n" in metadata
    torch = re.search(r"^torch(.*)", (checkout / "requirements.txt").read_text(), re.MULTILINE)
    bounds = ",".join(sorted(torch.group(1).split(",")))
    assert f"Requires-Dist: torch{bounds}\n" in metadata


def test_a_wheel_of_the_source_archive_is_the_same(checkout, wheel, tmp_path):
    archive = build("sdist", checkout, tmp_path / "sdist")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    assert read_names(build("wheel", source, tmp_path / "dist")) == read_names(wheel)


@pytest.mark.slow
def test_installed_it_trains_loads_acts_and_dreams(wheel, tmp_path):
    programs, site = make_environment(tmp_path / "env", wheel)
    top = {path.name for path in site.iterdir()} - {"borrowed.pth"}
    assert top == {"worldmodel", f"worldmodel-{worldmodel.__version__}.dist-info"}
    work = tmp_path / "work"
    work.mkdir()
    assert "train" in call(programs / "wm", "--help", cwd=work)
    call(programs / "wm", "train", "debug", cwd=work)
    assert "(3, 32, 32, 3) uint8" in call(programs / "python", "-c", USE, cwd=work)
    assert "No module named 'envs'" in call(
        programs / "python", "-c", "import envs", cwd=work, fails=True
    )


def test_editable_it_is_the_checkout_with_one_class_of_each_name(checkout, tmp_path):
    programs, _ = make_environment(tmp_path / "env", "--editable", checkout)
    code = (
        "import worldmodel.envs, worldmodel.envs.errors, worldmodel.config.preset_files as files; "
        "print(worldmodel.envs.__file__, files.CONFIG_DIR); "
        "import envs; from envs.errors import EnvError; "
        "assert envs is worldmodel.envs and EnvError is worldmodel.envs.errors.EnvError"
    )
    said = call(programs / "python", "-c", code, cwd=checkout)
    assert said.split() == [str(checkout / "envs" / "__init__.py"), str(checkout / "configs")]
    assert "No module named 'envs'" in call(
        programs / "python", "-c", code, cwd=tmp_path, fails=True
    )
    assert "train" in call(programs / "wm", "--help", cwd=tmp_path)
