import numpy as np
import pytest

from envs.render import frame
from envs.scene import ACTION_HIGH, ACTION_LOW, COLOURS, CONTROL_HZ, CUBE_HALF, SUBSTEPS, Scene, camera_names, model


def scattered(seed: int) -> Scene:
    scene = Scene()
    scene.scatter(np.random.default_rng(seed))
    return scene


def test_constants_agree_with_the_model():
    assert pytest.approx(1 / CONTROL_HZ) == SUBSTEPS * model().opt.timestep
    for index in range(3):
        np.testing.assert_array_equal(model().geom(f"cube{index}").size, CUBE_HALF)


def test_scatter_is_seeded_and_keeps_cubes_apart():
    for seed in range(20):
        scene, again = scattered(seed), scattered(seed)
        np.testing.assert_array_equal(scene.snapshot().physics, again.snapshot().physics)
        assert scene.colours == again.colours
        assert len(set(scene.colours)) == 3
        gaps = np.linalg.norm(scene.cubes()[:, None] - scene.cubes(), axis=-1) + np.eye(3)
        assert gaps.min() > 0.085


def test_action_moves_the_tool_along_the_axes_in_metres():
    for axis in range(3):
        scene = Scene()
        scene.place(np.array([[-0.1, 0], [0, 0.1], [0.1, 0]]), np.zeros(3), np.array([0, 0, 0.1]), tuple(COLOURS)[:3])
        action = np.zeros(4)
        action[axis] = 0.02
        scene.step(action)
        expected = np.array([0, 0, 0.1]) + 0.75 * action[:3]
        np.testing.assert_allclose(scene.tool(), expected, atol=0.003)


def test_stepping_after_restore_is_bit_identical():
    rng = np.random.default_rng(0)
    for seed in range(5):
        scene, other = scattered(seed), scattered(seed + 100)
        actions = rng.uniform(ACTION_LOW, ACTION_HIGH, (45, 4)) * [1, 1, 2, 1]
        for action in actions[:15]:
            scene.step(action)
        moment, picture = scene.snapshot(), frame(scene, "front", 64, 64)
        for action in actions[15:]:
            scene.step(action)
        future = scene.snapshot()
        for back in (scene, other):
            back.restore(moment)
            np.testing.assert_array_equal(frame(back, "front", 64, 64), picture)
            for action in actions[15:]:
                back.step(action)
            np.testing.assert_array_equal(back.snapshot().physics, future.physics)
            assert back.colours == scene.colours


def test_drawing_does_not_change_the_future():
    seen, unseen = scattered(3), scattered(3)
    for action in np.random.default_rng(1).uniform(ACTION_LOW, ACTION_HIGH, (20, 4)):
        frame(seen, "side", 32, 32)
        seen.step(action)
        unseen.step(action)
    np.testing.assert_array_equal(seen.snapshot().physics, unseen.snapshot().physics)


@pytest.mark.parametrize("camera", ["front", "side", "overview"])
def test_projection_lands_on_the_coloured_pixels(camera: str):
    height, width = 120, 160
    for seed in range(5):
        scene = scattered(seed)
        picture = frame(scene, camera, height, width).astype(float) / 255
        pixels = scene.project(scene.cubes(), camera, height, width)
        for colour, (u, v) in zip(scene.colours, pixels, strict=True):
            hue = picture / np.maximum(picture.max(-1, keepdims=True), 1e-6)
            reference = np.array(COLOURS[colour]) / max(COLOURS[colour])
            rows, columns = np.nonzero(np.abs(hue - reference).max(-1) < 0.1)
            assert len(rows) > 10, f"{colour} is hidden"
            assert np.hypot(columns.mean() + 0.5 - u, rows.mean() + 0.5 - v) < 4


def test_front_camera_sees_every_place_of_a_cube():
    corners = np.array([[x, y, 0] for x in (-0.23, 0.23) for y in (-0.21, 0.21)])
    pixels = Scene().project(corners, "front", 64, 64)
    assert ((pixels > 0) & (pixels < 64)).all()


def test_held_cube_stays_level():
    scene = Scene()
    scene.place(np.array([[-0.1, 0], [0, 0.1], [0.1, 0]]), np.zeros(3), np.array([-0.094, 0.003, 0.06]), tuple(COLOURS)[:3])
    for _ in range(4):
        scene.step(np.array([0, 0, -0.01, 1.0]))
    assert scene.held() == 0
    for action in [[0, 0, 0.03, 1.0]] * 4 + [[0.03, 0.03, 0, 1.0]] * 8:
        scene.step(np.array(action))
        assert scene.held() == 0
        _, x, y, _ = scene.data.qpos[3:7]
        assert 2 * np.arcsin(np.hypot(x, y)) < 0.1


@pytest.mark.parametrize("action", [np.zeros(3), np.zeros((1, 4)), np.array([0, 0, np.nan, 0])])
def test_wrong_actions_are_refused(action: np.ndarray):
    with pytest.raises(ValueError, match="four finite numbers"):
        Scene().step(action)


def test_unknown_camera_names_the_choices():
    with pytest.raises(ValueError, match="'above': choose from front, side, overview"):
        Scene().project(np.zeros((1, 3)), "above", 64, 64)
    assert camera_names() == ("front", "side", "overview")
