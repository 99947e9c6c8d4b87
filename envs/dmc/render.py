"""The choice of the MuJoCo renderer: gl (standard), fast (cheaper GL), ray (no GL), or auto."""

from __future__ import annotations

import difflib
import importlib
import json
import logging
import os
import subprocess
import sys
from functools import cache
from typing import Any, NamedTuple

from ..errors import EnvSettingsError, MissingPackageError

_log = logging.getLogger(__name__)
RENDERERS = ("auto", "gl", "fast", "ray")
# From Python 3.13 on its requirement labmaze cannot be installed; see requirements.txt.
PACKAGE = ("--no-deps " if sys.version_info >= (3, 13) else "") + "dm-control==1.0.50"
INSTALL_GL = "apt-get install -y libegl1 libgl1 libgl1-mesa-dri"
_BACKENDS = ("egl", "osmesa", "glfw")
_OFF = ("disable", "disabled", "off", "false", "0")
_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")
_TIMEOUT = 20  # seconds for one probe
# An environment variable shares the result with worker processes.
_SHARED = "_WORLDMODEL_GL_PROBE"

_PROBE = """
import ctypes, os, sys
backend = sys.argv[1]
library = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}.get(backend)
if library and sys.platform == "linux":
    ctypes.CDLL(library)
display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
if backend == "glfw" and sys.platform == "linux" and not display:
    sys.exit("no display")
os.environ["MUJOCO_GL"] = backend
from dm_control import mujoco
physics = mujoco.Physics.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><geom size="1" rgba="1 1 1 1"/></worldbody></mujoco>')
if physics.render(16, 16).max() == 0:
    sys.exit("the picture is black")
from OpenGL import GL
with physics.contexts.gl.make_current() as context:
    device = context.call(GL.glGetString, GL.GL_RENDERER)
print("device:" + device.decode(), flush=True)
os._exit(0)
"""


class RendererError(EnvSettingsError):
    """The requested renderer does not work on this machine."""


class Probe(NamedTuple):
    """The GL backend of this machine."""

    asked: str  # MUJOCO_GL when the probe ran
    backend: str  # "" if none works
    device: str
    problem: str  # why none works

    @property
    def software(self) -> bool:
        """Say whether the CPU does the drawing."""
        return any(word in self.device.lower() for word in _SOFTWARE)


def _try_backend(backend: str) -> tuple[str, str]:
    """Draw one picture in a subprocess and return the GL device, or "" and the problem."""
    command = [sys.executable, "-c", _PROBE, backend]
    pipe = subprocess.PIPE
    try:
        done = subprocess.run(
            command,
            cwd=os.sep,  # `python -c` imports from where it is started
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer in {_TIMEOUT} s"
    devices = [line[7:] for line in done.stdout.splitlines() if line.startswith("device:")]
    if devices:
        return devices[0], ""
    lines = done.stderr.strip().splitlines()
    return "", lines[-1].strip()[:120] if lines else f"the probe ended with code {done.returncode}"


def probe_gl() -> Probe:
    """Find a GL backend that works, respecting MUJOCO_GL.

    The result is cached for this process and its children.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    shared = os.environ.get(_SHARED)
    if shared:
        known = Probe(*json.loads(shared))
        if known.asked == asked:
            return known
    found = _probe(asked)
    os.environ[_SHARED] = json.dumps(found)
    return found


def _probe(asked: str) -> Probe:
    """Try the requested backend, or all in turn."""
    if asked in _OFF:
        return Probe(asked, "", "", f"MUJOCO_GL={asked} switches it off")
    if asked and asked not in _BACKENDS:
        return Probe(asked, "", "", f"MUJOCO_GL={asked} is none of {', '.join(_BACKENDS)}")
    problems = []
    for backend in [asked] if asked else _BACKENDS:
        device, problem = _try_backend(backend)
        if device:
            return Probe(asked, backend, device, "")
        problems.append(f"{backend}: {problem}")
    prefix = f"MUJOCO_GL={asked}, " if asked else ""
    return Probe(asked, "", "", prefix + "; ".join(problems))


def check_renderer(name: str) -> None:
    """Raise RendererError unless there is a renderer of that name."""
    if name not in RENDERERS:
        close = difflib.get_close_matches(str(name), RENDERERS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise RendererError(
            f"unknown renderer {name!r}: {hint}choose one of {', '.join(RENDERERS)}"
        )


def choose_renderer(name: str) -> tuple[str, str]:
    """Return the renderer to use (gl, fast or ray) and the reason in one line."""
    check_renderer(name)
    if name == "ray":
        return "ray", "asked for; needs no GL"
    probe = probe_gl()
    device = f"{probe.backend}, {probe.device}"
    if name == "auto":
        if not probe.backend:
            return "ray", f"GL does not work here ({probe.problem}); to have it: {INSTALL_GL}"
        if probe.software:
            return (
                "ray",
                f"GL works but draws in software ({device}), and ray is several times faster",
            )
        return "fast", f"GL works in hardware ({device})"
    if not probe.backend:
        raise RendererError(
            f"render={name} needs GL, which does not work here ({probe.problem}): use "
            f"render=ray, or {INSTALL_GL}"
        )
    return name, f"asked for; GL works ({device})"


def choose_and_log(name: str) -> str:
    """Choose the renderer; log the reason for `auto`, as a warning if GL is broken."""
    chosen, reason = choose_renderer(name)
    if name == "auto":
        _log_once(chosen, reason, not probe_gl().backend)
    return chosen


@cache
def _log_once(name: str, reason: str, loud: bool) -> None:
    """Log the choice once per process."""
    _log.log(logging.WARNING if loud else logging.INFO, "drawing with %s: %s", name, reason)


def make_renderer(
    name: str, size: tuple[int, int], camera: int, buffer: tuple[int, int] | None = None
) -> Any:
    """Make the renderer gl, fast or ray, which has `render(physics)` and `segment(physics)`.

    `buffer` is the largest height and width among the renderers of one physics.
    """
    if name == "ray":
        from .raycast.renderer import RayRenderer

        return RayRenderer(size, camera)
    from .opengl import FastRenderer, GLRenderer

    return {"gl": GLRenderer, "fast": FastRenderer}[name](size, camera, buffer)


def load_simulator(name: str) -> None:
    """Import dm_control so that the renderer `name` works; ray needs no GL library."""
    backend = "" if name == "ray" else probe_gl().backend
    kept = os.environ.get("MUJOCO_GL")
    # Both mujoco and dm_control read MUJOCO_GL when they are imported.
    os.environ["MUJOCO_GL"] = backend or "disable"
    try:
        if "dm_control._render" not in sys.modules:
            try:
                importlib.import_module("dm_control.mujoco")
            except ModuleNotFoundError as error:
                if error.name != "dm_control":
                    raise
                raise MissingPackageError(
                    f"DeepMind Control is not installed: {sys.executable} -m pip install {PACKAGE}"
                ) from None
        elif backend and backend != sys.modules["dm_control._render"].BACKEND:
            # It was imported without GL before.
            importlib.reload(sys.modules["dm_control._render"])
    finally:
        if kept is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = kept
