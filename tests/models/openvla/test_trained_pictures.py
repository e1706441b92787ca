"""What a training from a published base sees of pictures, and what acts after it: a choice with a name."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vla_tune.data.pipeline import build_pipeline, training_pipeline
from vla_tune.models.base import Wanted
from vla_tune.models.heads import ParallelTokenHead
from vla_tune.models.openvla import OpenVLACheckpoint
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.models.openvla.pictures import ResizeImages, resize
from vla_tune.models.openvla.published import published_inputs
from vla_tune.models.openvla.record import record_of
from vla_tune.run.folder import asset
from vla_tune.schema import Augmentation
from vla_tune.tokens import BinTokenizer, uniform_edges


@pytest.fixture
def contract_of(siglip, tiny_contract):
    """The contract of a training from the base, with crops of nine tenths."""

    def made(pictures: str, folder=siglip.folder):
        def tokens(*, vocabulary_size: int, actions) -> BinTokenizer:
            return BinTokenizer(uniform_edges(256), vocabulary_size)

        actions = SimpleNamespace(chunks=None, counted=None)
        wanted = Wanted(embodiment=tiny_contract.embodiment, horizon=4, actions=actions, tokens=tokens, head=ParallelTokenHead)
        part = OpenVLACheckpoint(str(folder), pictures=pictures).part(wanted)
        crops = Augmentation(crop_area=0.9, brightness=0.2, contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=0.05, paraphrases={})
        return replace(tiny_contract, model=part.record, resolution=part.resolution, augmentation=crops)

    return made


def rule_in(pipeline):
    """How the steps bring a picture to the model's size."""
    return next(step.rule for step in pipeline.steps if isinstance(step, ResizeImages))


def test_what_acts_sees_the_published_pictures_and_what_learns_its_own_crops(siglip, contract_of):
    contract = contract_of("fine_tuned")
    inputs, own = OpenVLAInputs.of(contract, OpenVLACheckpoint(str(siglip.folder)).processor), published_inputs(siglip.folder).image
    published = replace(own, input_jpeg=95, input_resize="lanczos3", center_crop_area=0.9, crop="tf_bilinear")
    acting, learning = build_pipeline(contract, inputs), training_pipeline(contract, inputs)
    assert (rule_in(acting), rule_in(learning)) == (published, replace(published, center_crop_area=1.0))
    assert [type(step).__name__ for step in acting.steps if "Crop" in type(step).__name__] == [], "cut out once"
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    assert not np.array_equal(resize(picture, rule_in(acting)), resize(picture, own))


def test_without_a_choice_pictures_are_the_processors(siglip, contract_of):
    assert record_of(contract_of("processor")).image == published_inputs(siglip.folder).image


def test_a_choice_that_is_none_is_refused(siglip, contract_of):
    with pytest.raises(ValueError, match="pictures='libero': choose from processor, resized, fine_tuned"):
        OpenVLACheckpoint(str(siglip.folder), pictures="libero")
    with pytest.raises(ValueError, match=r"model\.pictures=fine_tuned: how .* reads pictures is in its contract\.json"):
        contract_of("fine_tuned", asset("tiny"))
