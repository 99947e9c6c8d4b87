"""Renderers: the GL-free one against MuJoCo's own rays and, where there is GL, against the
standard picture.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types

import mujoco
import numpy as np
import pytest
from worldmodel.envs.dmc import render
from worldmodel.envs.dmc.raycast.renderer import RayRenderer
from worldmodel.envs.dmc.render import RendererError, choose_renderer, make_renderer
from worldmodel.envs.dmc.segmentation import mask_foreground
from worldmodel.envs.dmc.suite import DMC

from benchmarks.render import measure
from worldmodel import envs

TEN = (
    *("acrobot_swingup", "cartpole_balance", "cheetah_run", "cup_catch", "finger_turn_hard"),
    *("hopper_stand", "humanoid_stand", "quadruped_walk", "reacher_easy", "walker_walk"),
)

# The suite may run where MUJOCO_GL hides a GL that works; these tests want to know what the
# machine can do.
_GL = render.probe_gl()
needs_gl = pytest.mark.skipif(not _GL.backend, reason=f"no GL: {_GL.problem}")


def _physics(xml: str) -> types.SimpleNamespace:
    """Return a compiled scene in the form that renderers take."""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return types.SimpleNamespace(
        model=types.SimpleNamespace(ptr=model), data=types.SimpleNamespace(ptr=data)
    )


def _scene(world: str, assets: str = "", visual: str = "") -> str:
    camera = '<camera pos="0 -4 0" xyaxes="1 0 0 0 0 1"/>'  # looks along +y; z is up
    head = '<visual><headlight ambient=".5 .5 .5" diffuse=".5 .5 .5" specular="0 0 0"/></visual>'
    return f"<mujoco>{visual or head}<asset>{assets}</asset><worldbody>{camera}{world}</worldbody></mujoco>"


# ----------------------------------------------------------------------------- the ray renderer by
# itself


@pytest.mark.parametrize("task", ["finger_turn_hard", "humanoid_stand", "reacher_easy"])
def test_every_ray_meets_what_a_single_ray_meets(task):
    """The fast cast over all pixels must miss nothing that MuJoCo's careful single ray finds."""
    height, width = 37, 41
    env = DMC(task, size=(height, width), render="ray", repeat=20)
    env.reset(seed=3)
    env.step(np.full(env.action_space.shape, 0.7))
    ids = env._get_renderer("image").segment(env.physics).ravel()
    model, data, rays = (
        env.physics.model.ptr,
        env.physics.data.ptr,
        env._renderers["image"]._rays.directions,
    )
    seen, groups = np.zeros(1, np.int32), np.array([1, 1, 1, 0, 0, 0], np.uint8)
    for pixel in np.flatnonzero(ids < model.ngeom):
        mujoco.mj_ray(model, data, data.cam_xpos[0], rays[pixel], groups, True, -1, seen)
        assert seen[0] == ids[pixel]


def test_drawing_leaves_the_simulation_alone():
    drawn, blind = DMC("finger_turn_hard", render="ray"), DMC("finger_turn_hard", obs="state")
    drawn.reset(seed=1), blind.reset(seed=1)
    boxes, groups = drawn.physics.model.bvh_aabb.copy(), drawn.physics.model.geom_group.copy()
    for _ in range(5):
        drawn.step(np.array([0.9, -0.9])), blind.step(np.array([0.9, -0.9]))
    np.testing.assert_array_equal(drawn.physics.get_state(), blind.physics.get_state())
    np.testing.assert_array_equal(drawn.physics.model.bvh_aabb, boxes)
    np.testing.assert_array_equal(drawn.physics.model.geom_group, groups)


@pytest.mark.parametrize("task", ["cartpole_balance", "walker_walk"])
def test_a_picture_depends_on_the_state_and_not_on_what_was_drawn_before(task):
    env = DMC(task, size=(45, 50), render="ray")
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.full(env.action_space.shape, 0.5))
    fresh = make_renderer("ray", env.size, env._cameras["image"]).render(env.physics)
    np.testing.assert_array_equal(env.render(), fresh)
    env.physics.model.geom_rgba[0] = (1, 0, 0, 1)  # as a task may recolour what it shows
    repainted = env.render()
    assert repainted.astype(int)[..., 2].sum() < 0.9 * fresh.astype(int)[..., 2].sum()
    np.testing.assert_array_equal(
        repainted, make_renderer("ray", env.size, env._cameras["image"]).render(env.physics)
    )


def test_light_material_and_position_of_a_sphere():
    geoms = (
        '<geom size=".5" pos="1 0 .8" material="red"/><geom size=".4" pos="-1 0 0" rgba="0 1 0 '
        '1"/>'
    )
    image = RayRenderer((60, 90)).render(
        _physics(_scene(geoms, '<material name="red" rgba="1 0 0 1" specular="0"/>'))
    )
    scale = 60 / (2 * 4 * np.tan(np.deg2rad(45) / 2))  # pixels per metre at the spheres' distance
    row, column = int(30 - 0.8 * scale), int(45 + 1 * scale)
    # Ambient .5 + diffuse .5, face on
    assert image[row, column, 0] > 240 and image[row, column, 1:].max() == 0
    red = image[..., 0] > 0
    # Its area, and nothing elsewhere
    assert abs(red.sum() - np.pi * (0.5 * scale) ** 2) < 0.1 * red.sum()
    assert 125 <= image[..., 0][red].min() < 200  # the rim gets little more than ambient light
    assert image[30, int(45 - scale), 1] > 240


def test_hidden_groups_and_clear_geoms_are_skipped_and_glass_blends():
    wall = '<geom type="box" size="2 .1 2" pos="0 1 0" rgba="1 1 1 1"/>'
    for hidden in ('group="3" rgba="1 0 0 1"', 'rgba="1 0 0 0"', 'material="m" rgba="1 0 0 0"'):
        scene = _scene(wall + f'<geom size="1" {hidden}/>', '<material name="m" rgba="1 1 1 1"/>')
        assert RayRenderer((8, 8)).render(_physics(scene))[4, 4].min() > 240
    glass = RayRenderer((9, 9)).render(
        _physics(_scene(wall + '<geom size=".5" rgba="1 0 0 .25"/>'))
    )[4, 4]
    assert glass[0] > 240 and 180 < glass[1] < 200  # a quarter red over white


def test_a_lamp_lights_only_its_cone_and_bodies_throw_shadows():
    floor = '<geom type="plane" size="9 9 1" pos="0 0 -1" rgba="1 1 1 1" material="m"/>'
    lamp = (
        '<light pos="0 2 4" dir="0 0 -1" diffuse="1 1 1" specular="0 0 0" cutoff="20" '
        'exponent="0"/>'
    )
    ball = '<body pos="0 2 0"><geom size=".3"/></body>'
    dark = '<visual><headlight active="0"/></visual>'
    asset = (
        '<texture name="t" type="2d" builtin="flat" rgb1="1 1 1" width="8" height="8"/><material '
        'name="m" texture="t"/>'
    )
    pictures = [
        RayRenderer((80, 80), shadows=shadows).render(
            _physics(_scene(floor + lamp + ball, asset, dark))
        )
        for shadows in (True, False)
    ]
    for image in pictures:
        assert image[70, 5].max() == 0  # outside of the cone
        assert image.max() > 200
    lost = (pictures[0].astype(int) < pictures[1]).any(-1)
    assert 5 < lost.sum() < 400 and pictures[0][lost].max() < 60


def _ground_step(env: DMC, shift: float) -> float:
    """Return how much the picture of the ground changes when the runner is moved, camera and lamp
    along with it.
    """
    env.reset(seed=0)
    physics = env.physics
    pictures, ground = [], np.ones(env.size, bool)
    for x in (0.0, shift):
        physics.named.data.qpos["rootx"] = x
        physics.forward()
        pictures.append(env.render().astype(int))
        ground &= ~env.segment()
    changed = np.abs(pictures[0] - pictures[1]).max(-1) > 15
    return float((changed & ground)[env.size[0] * 3 // 4 :].mean())


def test_the_floor_passes_under_a_tracking_camera():
    env = DMC("walker_walk", render="ray")
    assert _ground_step(env, 0.3) > 0.05
    assert _ground_step(env, 2.0) < 0.02  # the checks repeat every two metres


def test_sites_and_strings_are_seen():
    env = DMC("cup_catch", size=(96, 96), render="ray")
    env.reset(seed=0)
    model = env.physics.model
    ids = env._get_renderer("image").segment(env.physics)
    assert (ids == model.ngeom + model.nsite).any()  # the string
    finger = DMC("finger_turn_easy", render="ray")
    finger.reset(seed=0)
    assert (
        finger._get_renderer("image").segment(finger.physics) == finger.physics.model.ngeom
    ).sum() > 20  # the target
    assert mask_foreground(finger.physics, np.array([-1, 0, 2, model.ngeom + 3])).tolist() == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("size", [(1, 1), (48, 96), (101, 33)])
def test_any_size(size):
    env = DMC("cheetah_run", size=size, render="ray")
    image, _ = env.reset(seed=0)
    assert image.shape == (*size, 3) and image.dtype == np.uint8 and image.any()


def test_a_wider_picture_shows_more_at_the_sides_only():
    env = DMC("walker_walk", size=(40, 40), render="ray")
    square, _ = env.reset(seed=0)
    wide = make_renderer("ray", (40, 60), 0).render(env.physics)
    np.testing.assert_array_equal(wide[:, 10:-10], square)


# ----------------------------------------------------------------------------- against GL


@needs_gl
@pytest.mark.parametrize("task", TEN)
def test_silhouettes_agree_with_gl_over_random_states(task):
    env = DMC(task, size=(64, 64), render="fast", repeat=10)
    ray = make_renderer("ray", env.size, env._cameras["image"])
    generator = np.random.default_rng(0)
    both = either = 0
    differences = []
    for seed in range(4):
        env.reset(seed=seed)
        for _ in range(2):
            image = env.step(generator.uniform(-1, 1, env.action_space.shape))[0]
            mine, theirs = mask_foreground(env.physics, ray.segment(env.physics)), env.segment()
            both, either = both + (mine & theirs).sum(), either + (mine | theirs).sum()
            differences.append(np.abs(image.astype(int) - ray.render(env.physics)).mean())
    env.close()
    assert both / either >= 0.95
    assert np.mean(differences) < 6  # of 255: colours, textures and light, not silhouettes only


@needs_gl
def test_fast_keeps_the_standard_picture_and_the_physics():
    standard, fast = DMC("walker_walk", render="gl"), DMC("walker_walk", render="fast")
    one, two = standard.reset(seed=4)[0], fast.reset(seed=4)[0]
    assert 0 < np.abs(one.astype(int) - two).mean() < 3
    action = np.linspace(-1, 1, 6)
    standard.step(action), fast.step(action)
    np.testing.assert_array_equal(standard.state(), fast.state())
    standard.close(), fast.close()


@needs_gl
def test_gl_after_ray_in_one_process_and_sizes_beyond_the_frame_buffer():
    DMC("cartpole_balance", render="ray").reset(seed=0)
    for name in ("gl", "fast"):
        env = DMC("cartpole_balance", size=(500, 700), render=name)
        assert env.reset(seed=0)[0].shape == (500, 700, 3)
        env.close()


@needs_gl
def test_benchmark_names_units_and_order():
    results = measure(seconds=2.0)
    assert set(results) == {f"render.{name}.walker_walk" for name in ("gl", "fast", "ray")}
    rates = {name: entry["value"] for name, entry in results.items()}
    assert {entry["baseline"] for entry in results.values()} == {rates["render.gl.walker_walk"]}
    assert rates["render.gl.walker_walk"] < rates["render.fast.walker_walk"]
    assert results["render.ray.walker_walk"]["unit"] == "frames/s"


# ----------------------------------------------------------------------------- choosing


@pytest.fixture
def gl_is(monkeypatch):
    """Return a function that sets what the probe has found."""

    def set_probe(backend: str = "", device: str = "", problem: str = "") -> None:
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        monkeypatch.setenv("_WORLDMODEL_GL_PROBE", json.dumps(["", backend, device, problem]))

    return set_probe


def test_auto_takes_fast_on_a_gpu_and_ray_elsewhere(gl_is):
    gl_is("egl", "NVIDIA H100")
    assert choose_renderer("auto") == ("fast", "GL works in hardware (egl, NVIDIA H100)")
    gl_is("egl", "llvmpipe (LLVM 15.0.6, 256 bits)")
    name, reason = choose_renderer("auto")
    assert name == "ray" and "software" in reason and "llvmpipe" in reason
    assert choose_renderer("gl")[0] == "gl" and choose_renderer("ray")[0] == "ray"
    gl_is(problem="egl: no libEGL")
    name, reason = choose_renderer("auto")
    assert (
        name == "ray"
        and "egl: no libEGL" in reason
        and "apt-get install" in reason
        and "\n" not in reason
    )


def test_a_run_keeps_the_renderer_that_auto_took_when_it_began(gl_is):
    asked, fixed = (
        types.SimpleNamespace(task="dmc:walker_walk", obs="both", render="auto"),
        types.SimpleNamespace(render="ray"),
    )
    gl_is("egl", "NVIDIA H100")
    assert envs.choose_renderer(asked) == "fast" and envs.choose_renderer(asked, fixed) == "ray"
    # It was not written down
    assert envs.choose_renderer(asked, types.SimpleNamespace(render="auto")) == "fast"
    assert (
        envs.choose_renderer(types.SimpleNamespace(**{**vars(asked), "render": "gl"}), fixed)
        == "gl"
    )
    for other in ({"task": "pendulum"}, {"obs": "state"}):
        assert envs.choose_renderer(types.SimpleNamespace(**{**vars(asked), **other})) == "auto"
    gl_is(problem="egl: no libEGL")
    with pytest.raises(
        RendererError, match="pictures were drawn with fast so far, and render=fast needs GL.*=ray"
    ):
        envs.choose_renderer(asked, types.SimpleNamespace(render="fast"))


@pytest.mark.parametrize("name", ["gl", "fast"])
def test_asking_for_gl_without_gl_is_one_clear_line(gl_is, name):
    gl_is(problem="egl: no libEGL")
    with pytest.raises(
        RendererError, match=f"render={name} needs GL.*egl: no libEGL.*render=ray.*apt-get"
    ) as caught:
        DMC("walker_walk", render=name)
    assert "\n" not in str(caught.value) and isinstance(caught.value, ValueError)


def test_the_probe_respects_mujoco_gl(monkeypatch):
    monkeypatch.delenv("_WORLDMODEL_GL_PROBE", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "disable")
    assert render.probe_gl().backend == "" and "MUJOCO_GL=disable" in render.probe_gl().problem
    monkeypatch.setenv("MUJOCO_GL", "osmosis")
    assert "MUJOCO_GL=osmosis" in render.probe_gl().problem
    # Kept for this process and its children
    assert json.loads(os.environ["_WORLDMODEL_GL_PROBE"])[0] == "osmosis"


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import os; os.abort()", "code -6"),
        ("import time; time.sleep(60)", "no answer in 1 s"),
        ("raise OSError('libEGL.so.1: cannot open')", "OSError: libEGL.so.1: cannot open"),
    ],
)
def test_a_gl_that_crashes_hangs_or_is_missing_costs_only_the_probe(monkeypatch, program, problem):
    monkeypatch.setattr(render, "_PROBE", program)
    monkeypatch.setattr(render, "_TIMEOUT", 1)
    device, why = render._try_backend("egl")
    assert device == "" and problem in why


def test_the_probe_imports_nothing_from_the_folder_it_is_started_in(monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('a module of this folder')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(render, "_PROBE", "import json; print('device:' + json.dumps(1))")
    assert render._try_backend("egl") == ("1", "")


def test_workers_inherit_the_probe(gl_is):
    gl_is("egl", "a device that is not there")
    code = "from worldmodel.envs.dmc.render import probe_gl; print(probe_gl().device)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "a device that is not there", done.stderr
