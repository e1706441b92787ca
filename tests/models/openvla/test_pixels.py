"""Pictures as an OpenVLA model is given them."""

from dataclasses import replace

import numpy as np

from vla_tune.models.openvla.pictures import NormalizePixels, ResizeImages
from vla_tune.models.openvla.record import ImageRule

RULE = ImageRule(
    height=224, width=224, resize="resize-naive", center_crop_area=1.0, means=((0.5, 0.5, 0.5),), deviations=((0.5, 0.5, 0.5),)
)


def test_views_are_ordered_by_role():
    images = {"wrist": np.zeros((224, 224, 3), np.uint8), "front": np.full((224, 224, 3), 255, np.uint8)}
    pixels = NormalizePixels(RULE, ("front", "wrist"))({"images": images})["pixel_values"]
    assert pixels.shape == (2, 3, 224, 224)
    assert np.array_equal(pixels[:, 0, 0, 0], [1.0, -1.0])


def test_a_picture_of_the_right_size_is_untouched():
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert ResizeImages(RULE)({"images": {"front": image}})["images"]["front"] is image


def test_the_crop_keeps_the_middle_by_area():
    image = np.zeros((100, 100, 3), np.uint8)
    image[25:75, 25:75] = 200  # a quarter of the area
    rule = replace(RULE, height=50, width=50, center_crop_area=0.25)
    assert (ResizeImages(rule)({"images": {"front": image}})["images"]["front"][2:-2, 2:-2] == 200).all()
