"""OpenVLA's augmentation: TensorFlow's formulas (golden `rlds_tf`), and what is drawn for a sample."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vla_tune.data import build_pipeline, training_pipeline
from vla_tune.data.augmentation import AugmentImages, DisturbState, Paraphrase, augmentation, augmented, sentences, shifted
from vla_tune.data.colours import brightened, contrasted, hue_turned, saturated
from vla_tune.data.sampling import centre_box, crop_and_resize, crop_resized, to_bytes, to_unit
from vla_tune.data.transforms import Transformed
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.schema import Augmentation, Contract, check_augmentation

GOLDEN = Path(__file__).parents[1] / "golden" / "rlds_tf"
SIDE = np.sqrt(0.9)
BOX = (0.02, 0.04, 0.02 + SIDE, 0.04 + SIDE)
"""Of the golden crop."""
OPENVLA = Augmentation(crop_area=0.9, brightness=0.2, contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=0.05, paraphrases={})
NOTHING = Augmentation(crop_area=1.0, brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0.0, paraphrases={})


def picture(name: str) -> np.ndarray:
    return np.asarray(Image.open(GOLDEN / f"{name}.png").convert("RGB"))


def planes(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(to_unit(image), 2, 0))


@pytest.mark.parametrize(
    ("name", "change", "number"),
    [
        ("brightness+0.15", brightened, 0.15),
        ("brightness-0.2", brightened, -0.2),
        ("contrast1.2", contrasted, 1.2),
        ("contrast0.8", contrasted, 0.8),
        ("saturation1.2", saturated, 1.2),
        ("saturation0.8", saturated, 0.8),
        ("hue+0.05", hue_turned, 0.05),
        ("hue-0.03", hue_turned, -0.03),
    ],
)
def test_a_change_of_colours_is_tensorflows(name: str, change, number: float):
    ours = np.moveaxis(np.clip(change(planes(picture("aug_in_96")), number), 0, 1), 0, 2)
    assert np.abs(ours[::3, ::3] - np.load(GOLDEN / "colours.npz")[name]).max() < 1e-6


def test_the_crop_and_the_whole_chain_are_tensorflows():
    cropped = crop_and_resize(to_unit(picture("aug_in_96")), BOX, 96, 96)
    assert np.abs(cropped[::3, ::3] - np.load(GOLDEN / "colours.npz")["crop_box"]).max() < 1e-5
    changed = np.moveaxis(cropped, 2, 0)
    for change, number in ((brightened, 0.15), (contrasted, 1.2), (saturated, 0.8), (hue_turned, 0.05)):
        changed = np.clip(change(changed, number), 0, 1)
    assert np.abs(to_bytes(np.moveaxis(changed, 0, 2)).astype(int) - picture("aug_chain_96")).max() <= 1


class Given(np.random.Generator):
    """Numbers in place of random ones."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers = np.array(numbers)

    def uniform(self, size: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert size == len(self.numbers)
        return self.numbers


def test_what_is_drawn_makes_the_original_chain():
    """The numbers that lead to the golden's box, brightness, contrast, saturation and hue."""
    drawn = Given(0.02 / (1 - SIDE), 0.04 / (1 - SIDE), (0.15 + 0.2) / 0.4, 1.0, 0.0, 1.0)
    ours = augmented(picture("aug_in_96"), OPENVLA, drawn)
    assert np.abs(ours.astype(int) - picture("aug_chain_96")).max() <= 1


def changed(image: np.ndarray, *draw: int, rule: Augmentation = OPENVLA) -> np.ndarray:
    return AugmentImages(rule)({"images": {"front": image}, "draw": draw})["images"]["front"]


def test_a_draw_is_a_function_of_seed_and_sample_only():
    image = picture("aug_in_96")
    assert np.array_equal(changed(image, 0, 7), changed(image, 0, 7))
    assert not np.array_equal(changed(image, 0, 7), changed(image, 0, 8))
    assert not np.array_equal(changed(image, 0, 7), changed(image, 1, 7))
    assert changed(image, 0, 7).shape == image.shape


def test_each_camera_draws_for_itself_in_the_order_of_names():
    image = picture("aug_in_96")
    two = AugmentImages(OPENVLA)({"images": {"wrist": image, "front": image}, "draw": (0, 7)})["images"]
    assert not np.array_equal(two["front"], two["wrist"])
    assert np.array_equal(two["front"], changed(image, 0, 7))


def test_what_changes_nothing_gives_the_picture_back():
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(augmented(every, NOTHING, np.random.default_rng(0)), every)
    assert changed(every, 0, 7, rule=NOTHING) is every  # so no number is drawn for it


def test_the_share_of_what_is_drawn_is_even():
    grey = np.full((4, 4, 3), 128, np.uint8)
    rule = replace(NOTHING, brightness=0.2)
    means = np.array([changed(grey, 0, number, rule=rule).mean() for number in range(400)])
    assert abs(means.mean() - 128) < 4
    assert means.min() < 80
    assert means.max() > 176


def test_other_words_are_as_likely_as_the_instructions_own():
    words = Paraphrase({"lift it": ("pick it up", "raise it")})
    said = [words({"instruction": "lift it", "draw": (0, number)})["instruction"] for number in range(300)]
    assert {word: said.count(word) > 70 for word in set(said)} == {"lift it": True, "pick it up": True, "raise it": True}
    assert words({"instruction": "push it", "draw": (0, 1)})["instruction"] == "push it"


def test_sentences_of_a_training_hold_the_other_words_once():
    rule = replace(NOTHING, paraphrases={"lift it": ("pick it up", "push it")})
    assert sentences(rule, ["push it", "lift it"]) == ("push it", "lift it", "pick it up")
    assert sentences(None, ["lift it"]) == ("lift it",)
    with pytest.raises(ValueError, match=r"paraphrases of 'lift it', which no episode says; they say 'lift the block'"):
        sentences(rule, ["lift the block"])


def options(**changes) -> dict:
    numbers = {"crop_area": 0.9, "brightness": 0.2, "contrast": [0.8, 1.2], "saturation": [0.8, 1.2], "hue": 0.05}
    return {**numbers, "paraphrases": {}, **changes}


def test_other_words_may_come_from_a_file(tmp_path: Path):
    (tmp_path / "words.json").write_text(json.dumps({"lift it": ["raise it"]}))
    assert augmentation(**options()) == OPENVLA
    assert augmentation(**options(paraphrases=str(tmp_path / "words.json"))).paraphrases == {"lift it": ("raise it",)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_area": 0.0}, r"crop_area=0\.0 lies above 0"),
        ({"brightness": -0.1}, r"brightness=-0\.1 lies between 0 and 1"),
        ({"hue": 0.6}, r"hue=0\.6 lies between 0 and 0\.5"),
        ({"contrast": [1.2, 0.8]}, r"contrast=\[1\.2, 0\.8\] must rise"),
        ({"saturation": [1.0]}, r"saturation=\[1\.0\] are two numbers each"),
        ({"paraphrases": {"lift it": "raise it"}}, "give a list of sentences"),
        ({"paraphrases": {"lift it": [" "]}}, "say it in words"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        augmentation(**options(**changes))


def frame(contract: Contract) -> dict:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    camera, body = contract.embodiment.cameras[0], contract.embodiment
    actions = {body.action_key: np.zeros((4, 4), np.float32), "action_mask": np.ones((4, 4), bool), "index": np.array([0, 0])}
    return {camera.key: image, body.state_key: np.zeros(4, np.float32), "instruction": "lift the red block", **actions}


def test_training_changes_samples_and_acting_sees_the_centre(tiny_contract: Contract, tiny_tokenizer):
    contract, raw = replace(tiny_contract, augmentation=OPENVLA), frame(tiny_contract)
    image = raw[contract.embodiment.cameras[0].key]
    plain, acting, training = (
        build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer)),
        build_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer)),
        training_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer)),
    )
    centre = plain({**raw, contract.embodiment.cameras[0].key: crop_resized(image, centre_box(0.9), 64, 64)})
    assert np.array_equal(acting(raw)["pixel_values"], centre["pixel_values"])
    seen = Transformed([raw], training).drawn(0, draw=(0, 7))
    wanted = plain({**raw, contract.embodiment.cameras[0].key: changed(image, 0, 7)})
    assert np.array_equal(seen["pixel_values"], wanted["pixel_values"])
    unchanged = Transformed([raw], training_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer))).drawn(
        0, draw=(0, 7)
    )
    assert np.array_equal(unchanged["pixel_values"], plain(raw)["pixel_values"])


def test_a_base_that_crops_crops_once(tiny_contract: Contract, tiny_tokenizer):
    cropping = replace(
        tiny_contract, model=tiny_contract.model | {"image": tiny_contract.model["image"] | {"center_crop_area": 0.9}}
    )
    contract, raw = replace(cropping, augmentation=OPENVLA), frame(tiny_contract)
    both = [build_pipeline(each, OpenVLAInputs.of(each, tiny_tokenizer))(raw)["pixel_values"] for each in (cropping, contract)]
    assert np.array_equal(*both)
    drawn = [
        Transformed([raw], training_pipeline(each, OpenVLAInputs.of(each, tiny_tokenizer))).drawn(0, draw=(0, 7))
        for each in (replace(tiny_contract, augmentation=OPENVLA), contract)
    ]
    assert np.array_equal(drawn[0]["pixel_values"], drawn[1]["pixel_values"])


def test_other_words_reach_the_prompt_in_training_only(tiny_contract: Contract, tiny_tokenizer):
    rule = replace(NOTHING, paraphrases={"lift the red block": ("pick up the red block",) * 9})
    contract, raw = replace(tiny_contract, augmentation=rule), frame(tiny_contract)
    own = build_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer))(raw)["input_ids"]
    other = build_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer))({**raw, "instruction": "pick up the red block"})[
        "input_ids"
    ]
    assert own.tolist() != other.tolist()
    samples = Transformed([raw], training_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer)))
    said = [samples.drawn(0, draw=(0, number))["input_ids"].tolist() for number in range(20)]
    assert own.tolist() in said
    assert other.tolist() in said


@pytest.mark.parametrize(("share", "most"), [(0.016, 1), (0.1, 6), (0.001, 1)])
def test_a_shift_is_of_whole_pixels_and_repeats_the_border(share: float, most: int):
    image = np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)
    padded = np.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
    places = range(2 * most + 1)
    cuts = {padded[down : down + 64, across : across + 64].tobytes() for down in places for across in places}
    seen = {shifted(image, share, np.random.default_rng(number)).tobytes() for number in range(400)}
    assert seen <= cuts
    assert len(seen) > 0.8 * len(cuts)
    assert shifted(image, 0.0, np.random.default_rng(0)) is image


def test_a_shift_that_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"augmentation\.shift=0\.6 lies between 0 and 0\.5"):
        check_augmentation(replace(NOTHING, shift=0.6), "the configuration")


def test_noise_on_the_state_is_drawn_for_a_sample_and_only_in_training():
    sample = {"state": np.zeros(10_000, np.float32), "draw": (0, 1)}
    noisy = DisturbState(0.05)(sample)["state"]
    assert noisy.dtype == np.float32
    assert noisy.std() == pytest.approx(0.05, rel=0.05)
    assert np.array_equal(noisy, DisturbState(0.05)(sample)["state"])
    assert not np.array_equal(noisy, DisturbState(0.05)(sample | {"draw": (0, 2)})["state"])
