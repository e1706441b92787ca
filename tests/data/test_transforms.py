"""The steps of the pipeline."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.data.transforms import Compose, SelectCameras
from vla_tune.schema import Camera


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


def test_an_observations_pictures_are_by_role_already():
    cameras = (Camera(role="front", key="observation.images.top", height=4, width=6),)
    image = np.zeros((4, 6, 3), np.uint8)
    sample = SelectCameras(cameras)({"images": {"front": image, "wrist": image}, "instruction": "x"})
    assert sample["images"] == {"front": image}
    assert sample["images"]["front"] is image
    with pytest.raises(ValueError, match=r"no image for front <- front; it has \['wrist'\]"):
        SelectCameras(cameras)({"images": {"wrist": image}})


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
