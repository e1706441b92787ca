"""The original image processor at five sizes, three strategies and two kinds of model (golden README §3: `image`)."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vla_tune.models.openvla.pictures import STRATEGIES, NormalizePixels, ResizeImages, letterbox_fill, resize
from vla_tune.models.openvla.processor_file import image_rule
from vla_tune.models.openvla.record import ImageRule

GOLDEN = Path(__file__).parents[2] / "golden" / "image"
META = json.loads((GOLDEN / "meta.json").read_text())
HALF, IMAGENET = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TOWERS = {"siglip": (HALF,), "fused": (IMAGENET, HALF)}


def rule_of(processor: str, strategy) -> ImageRule:
    means, deviations = zip(*TOWERS[processor], strict=True)
    return ImageRule(height=224, width=224, resize=strategy, center_crop_area=1.0, means=means, deviations=deviations)


def picture(name: str) -> np.ndarray:
    return np.asarray(Image.open(GOLDEN / name).convert("RGB"))


def pixels_of(image: np.ndarray, rule: ImageRule) -> np.ndarray:
    sample = ResizeImages(rule)({"images": {"front": image}})
    return NormalizePixels(rule, ("front",))(sample)["pixel_values"][0]


@pytest.mark.parametrize("case", META["cases"], ids=lambda case: case["subsample_key"])
def test_every_pixel_is_the_originals(case: dict):
    rule = rule_of(case["processor"], case["strategy"])
    image = picture(case["input"])
    assert image.shape == (case["h"], case["w"], 3)
    assert np.array_equal(resize(image, rule), picture(case["resized_u8"]))
    pixels = pixels_of(image, rule)
    assert np.array_equal(pixels[:, ::8, ::8], np.load(GOLDEN / "subsamples.npz")[case["subsample_key"]])
    assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == case["sha256_f32"], "bit for bit"
    if case["letterbox_fill"] is not None:
        assert list(letterbox_fill(rule)) == case["letterbox_fill"]


def test_the_normalisation_that_the_file_overrides_is_the_originals():
    """The published processors were saved with numbers rounded to bfloat16, which win over `means` and `stds`."""
    case, rule = META["bf16_norm"], image_rule(GOLDEN / "processor_bf16")
    assert rule.means[0] == (0.484375, 0.455078125, 0.40625)
    pixels = pixels_of(picture(case["input"]), rule)
    assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == case["sha256_f32"]
    exact = pixels_of(picture(case["input"]), image_rule(GOLDEN / "processor_fp32"))
    assert np.abs(pixels - exact).max() == pytest.approx(case["max_abs_diff_vs_fp32_norm"], abs=1e-7)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_square_picture_is_only_scaled(strategy: str):
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    assert np.array_equal(resize(image, rule_of("siglip", strategy)), resize(image, rule_of("siglip", "resize-naive")))


def test_a_crop_of_the_area_comes_before_the_crop_to_a_square():
    image = np.zeros((100, 200, 3), np.uint8)
    image[25:75, 50:150] = 200  # a quarter of the area, of the same proportions
    rule = replace(rule_of("siglip", "resize-crop"), center_crop_area=0.25)
    assert (resize(image, rule)[20:-20, 20:-20] == 200).all()


LIBERO = {"center_crop_area": 0.9, "crop": "tf_bilinear", "input_resize": "lanczos3", "input_jpeg": 95}


def apart(one: np.ndarray, other: np.ndarray) -> int:
    """Grey levels, at most."""
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize("size", ["480x640", "300x200", "128x96"])
def test_the_input_resize_is_tensorflows(size: str):
    rule = replace(rule_of("fused", "resize-naive"), input_resize="lanczos3")
    assert apart(resize(picture(f"in_{size}.png"), rule), picture(f"../rlds_tf/lanczos_{size}.png")) <= 1


@pytest.mark.parametrize(("image", "size"), [("in_224x224.png", 224), ("../rlds_tf/in_256.png", 256)])
def test_the_crop_of_the_original_evaluation_is_tensorflows(image: str, size: int):
    rule = replace(rule_of("fused", "resize-naive"), center_crop_area=0.9, crop="tf_bilinear")
    wanted = picture(f"../rlds_tf/center_crop_{size}.png")
    assert apart(resize(picture(image), rule), wanted) <= 1
    assert apart(resize(picture(image), replace(rule, crop="pil_bicubic")), wanted) > 10, "another function"


def test_what_the_original_evaluation_does_comes_in_its_order():
    rule, image = replace(rule_of("fused", "resize-naive"), **LIBERO), picture("../rlds_tf/in_256.png")
    before = resize(image, replace(rule, center_crop_area=1.0))
    assert apart(before, picture("../rlds_tf/libero_256.png")) <= 1
    crop = replace(rule_of("fused", "resize-naive"), center_crop_area=0.9, crop="tf_bilinear")
    assert np.array_equal(resize(image, rule), resize(before, crop))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": "resize-crop", "width": 112}, "gives squares, the model's pictures are 224 x 112"),
        ({"resize": "letterbox", "center_crop_area": 0.9}, "center_crop_area=0.9 with letterbox"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ResizeImages(replace(rule_of("fused", "resize-naive"), **changes))
