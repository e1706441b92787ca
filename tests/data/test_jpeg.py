"""TensorFlow's JPEG, as far as a golden picture shows it (`tests/models/openvla/test_pictures.py`), and beside Pillow's."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vla_tune.data.jpeg import through_jpeg

GOLDEN = Path(__file__).parents[1] / "golden" / "image"


def through_pillow(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file).convert("RGB"))


@pytest.mark.parametrize("size", ["480x640", "201x300", "128x96"])
@pytest.mark.parametrize("quality", [95, 50, 10])
def test_at_every_size_it_is_near_a_reader_with_the_accurate_transform(size: str, quality: int):
    """The fast one rounds down throughout: half a grey level darker, and some levels off where steps are small."""
    image = np.asarray(Image.open(GOLDEN / f"in_{size}.png").convert("RGB"))
    ours, theirs = through_jpeg(image, quality).astype(int), through_pillow(image, quality).astype(int)
    assert ours.shape == image.shape
    apart = np.abs(ours - theirs)
    assert apart.max() <= 16
    assert apart.mean() < 2
    assert apart.mean() < np.abs(theirs - image.astype(int)).mean() or quality == 95


def test_one_colour_stays_and_small_pictures_are_possible():
    for size in ((1, 1), (7, 9), (16, 16)):
        image = np.full((*size, 3), (200, 30, 90), np.uint8)
        assert np.abs(through_jpeg(image, 95).astype(int) - image).max() <= 3
