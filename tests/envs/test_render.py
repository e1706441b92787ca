import subprocess
import sys

import mujoco
import numpy as np
import pytest
from mujoco.egl import GLContext

from envs import render
from envs.opengl import Canvases
from envs.render import frame
from envs.scene import Scene, model

WITHOUT_EGL = {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent.json", "PATH": "/usr/bin"}  # glvnd then finds no driver
DRAW = "from envs.scene import Scene; from envs.render import frame; frame(Scene(), 'front', 64, 64)"


def scattered(seed: int) -> Scene:
    scene = Scene()
    scene.scatter(np.random.default_rng(seed))
    return scene


def run(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_pictures_do_not_depend_on_what_else_was_drawn():
    wanted = [(0, "front", 64, 64), (1, "side", 96, 128), (2, "overview", 256, 256), (3, "front", 224, 224), (0, "side", 64, 48)]
    solo = [frame(scattered(seed), camera, height, width) for seed, camera, height, width in wanted]
    scenes = [scattered(seed) for seed in range(4)]
    for index in np.random.default_rng(0).integers(len(wanted), size=60):
        seed, camera, height, width = wanted[index]
        picture = frame(scenes[seed], camera, height, width)
        assert picture.shape == (height, width, 3)
        np.testing.assert_array_equal(picture, solo[index])
    assert all(picture.std() > 5 for picture in solo)


def test_another_renderer_in_the_process_does_no_harm():
    scene = scattered(0)
    before = frame(scene, "front", 64, 64)
    other = GLContext(48, 48)
    other.make_current()
    context = mujoco.MjrContext(model(), mujoco.mjtFontScale.mjFONTSCALE_100)
    np.testing.assert_array_equal(frame(scene, "front", 64, 64), before)
    other.make_current()
    context.free()
    other.free()
    np.testing.assert_array_equal(frame(scene, "front", 64, 64), before)


def test_colours_and_tool_are_visible_in_small_pictures():
    scene = scattered(1)
    picture = frame(scene, "front", 64, 64).astype(int)
    assert ((picture.max(-1) - picture.min(-1)) > 100).sum() > 3 * 15, "cubes"
    assert (picture.max(-1) < 60).sum() > 15, "the tool's shaft"


def test_too_large_pictures_are_refused():
    with pytest.raises(ValueError, match="1024 x 64 must lie between"):
        frame(Scene(), "front", 1024, 64)


def test_a_machine_without_egl_gets_one_sentence(monkeypatch: pytest.MonkeyPatch):
    class Failing:
        def __init__(self, *_: object) -> None:
            raise ImportError("Cannot initialize a EGL device display.")

    monkeypatch.setattr("mujoco.egl.GLContext", Failing)
    monkeypatch.setattr(render, "_canvases", Canvases())
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(RuntimeError, match=r"apt-get install libegl1 libegl-mesa0 .*dri$") as caught:
        frame(Scene(), "front", 64, 64)
    assert caught.value.__suppress_context__


def test_a_process_without_egl_fails_with_that_sentence_and_nothing_else():
    failed = run(DRAW, WITHOUT_EGL)
    assert failed.returncode == 1
    assert "apt-get install" in failed.stderr.splitlines()[-1]
    assert failed.stderr.count("Traceback") == 1
    assert "OpenGL/" not in failed.stderr


def test_physics_needs_no_opengl():
    stepped = run("import numpy; from envs.scene import Scene; Scene().step(numpy.zeros(4))", WITHOUT_EGL)
    assert (stepped.returncode, stepped.stderr) == (0, "")


def test_the_process_ends_silently():
    ended = run(DRAW, {"PATH": "/usr/bin"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_unknown_backend_names_the_choices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(render, "_canvases", Canvases())
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(RuntimeError, match="'vulkan' cannot draw: choose from egl, osmesa, glfw"):
        frame(Scene(), "front", 64, 64)
