import numpy as np
import pytest

from envs.grounding import OBJECTS, Pictures, pictures
from envs.scene import COLOURS, CUBES, TOOL_HIGH, TOOL_LOW, Scene

SIDE = 64


@pytest.fixture(scope="module")
def shown() -> Pictures:
    return pictures(Scene(), np.random.default_rng(0), batch=40, height=SIDE, width=SIDE)


def test_shapes_and_names(shown: Pictures):
    assert (*COLOURS, "tool") == OBJECTS
    assert shown.images.shape == (40, SIDE, SIDE, 3)
    assert shown.present.shape == (40, 5)
    assert shown.pixels.shape == shown.positions.shape == (40, 5, 2)


def test_three_cubes_and_the_tool_are_present(shown: Pictures):
    assert shown.present[:, -1].all()
    assert (shown.present[:, :-1].sum(axis=1) == CUBES).all()
    assert (shown.present.mean(axis=0) > 0.4).all(), "every colour has its turn"
    assert not shown.present[:, :-1].all(axis=0).any()


def test_cubes_are_in_the_picture_and_the_tool_nearly_always(shown: Pictures):
    inside = np.all((shown.pixels > 0) & (shown.pixels < SIDE), axis=-1)
    assert inside.shape == (40, 5)
    assert inside[:, :-1][shown.present[:, :-1]].all()
    assert inside[:, -1].mean() > 0.9, "its corners are out of view: 17 of 1500 tools, by up to 5 pixels"
    places = shown.positions[shown.present]
    assert ((places >= TOOL_LOW[:2] - 1e-6) & (places <= TOOL_HIGH[:2] + 1e-6)).all()


def test_a_cube_has_its_colour_where_it_is_said_to_be(shown: Pictures):
    """Seen from the front, a cube may hide behind the tool or another one; most do not."""
    hits = []
    for row, number in zip(*np.nonzero(shown.present[:, :-1]), strict=True):
        u, v = shown.pixels[row, number].astype(int)
        pixel = shown.images[row, v, u].astype(float)
        colour = np.array(list(COLOURS.values())[number])
        direction, wanted = pixel / np.linalg.norm(pixel), colour / np.linalg.norm(colour)
        hits.append(direction @ wanted > 0.9)
    assert np.mean(hits) > 0.8


def test_the_generator_decides_everything():
    first, again, other = (pictures(Scene(), np.random.default_rng(seed), batch=2, height=32, width=48) for seed in (3, 3, 4))
    assert first.images.shape == (2, 32, 48, 3)
    for name in ("images", "present", "pixels", "positions"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.images, other.images)


def test_a_larger_picture_has_the_same_places():
    small, large = (pictures(Scene(), np.random.default_rng(5), batch=2, height=side, width=side) for side in (32, 64))
    assert large.pixels == pytest.approx(2 * small.pixels)
    assert large.positions == pytest.approx(small.positions)
