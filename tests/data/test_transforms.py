"""The steps of the pipeline."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.data.transforms import Compose, EncodeActions, NormalizePixels, ResizeImages, SelectCameras
from vla_tune.schema import Camera, ImageRule
from vla_tune.tokens import BinTokenizer, uniform_edges

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


def test_cameras_are_renamed_and_checked():
    cameras = (Camera(role="front", key="observation.images.top", height=4, width=6),)
    image = np.zeros((4, 6, 3), np.uint8)
    sample = SelectCameras(cameras)({"observation.images.top": image, "instruction": "x"})
    assert sample["images"]["front"] is image
    assert "observation.images.top" not in sample
    with pytest.raises(ValueError, match=r"no image for front <- observation.images.top; it has \['observation.images.wrist'\]"):
        SelectCameras(cameras)({"observation.images.wrist": image})
    with pytest.raises(ValueError, match=r"gives uint8 \(6, 4, 3\), the contract says uint8 \(4, 6, 3\)"):
        SelectCameras(cameras)({"observation.images.top": image.transpose(1, 0, 2)})
    with pytest.raises(ValueError, match=r"gives float32 \(4, 6, 3\)"):
        SelectCameras(cameras)({"observation.images.top": image.astype(np.float32)})


def test_codes_beyond_the_end_are_ignored():
    tokenizer = BinTokenizer(uniform_edges(256), 512)
    actions = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)
    mask = np.array([[True, True], [True, True], [False, False]])
    encoded = EncodeActions(tokenizer, 3)({"actions": actions, "action_mask": mask})
    assert encoded["codes"].tolist() == tokenizer.encode(actions).tolist()
    assert encoded["code_mask"].tolist() == [True] * 4 + [False] * 2
    with pytest.raises(ValueError, match="chunks of 3 actions, the contract says 4"):
        EncodeActions(tokenizer, 4)({"actions": actions, "action_mask": mask})
    assert EncodeActions(tokenizer, 3)({"instruction": "x"}) == {"instruction": "x"}


@dataclass(frozen=True)
class _Shift:
    amount: float

    def __call__(self, sample: dict) -> dict:
        return sample | {"actions": sample["actions"] + self.amount}

    def inverse(self, sample: dict) -> dict:
        return sample | {"actions": sample["actions"] - self.amount}


@dataclass(frozen=True)
class _Double:
    def __call__(self, sample: dict) -> dict:
        return sample | {"actions": sample["actions"] * 2}

    def inverse(self, sample: dict) -> dict:
        return sample | {"actions": sample["actions"] / 2}


@given(st.lists(st.one_of(st.builds(_Shift, st.integers(-8, 8).map(float)), st.builds(_Double)), max_size=6))
def test_the_way_back_is_derived_in_reverse(steps: list):
    actions = np.array([[1.0, -3.0]], np.float32)
    pipeline = Compose((*steps, SelectCameras(())))  # a step without an inverse
    there = pipeline({"actions": actions})
    assert np.array_equal(pipeline.inverse(there)["actions"], actions)
    assert np.array_equal(pipeline.robot_actions(there["actions"], {}), actions)
