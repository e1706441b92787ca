"""How a behaviour cloner is given pictures and words, and that only training shifts them."""

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from vla_tune.data import build_pipeline, training_pipeline
from vla_tune.models.bc.inputs import squared, word_ids
from vla_tune.schema import Contract


def test_a_pixel_is_the_mean_of_what_it_covers():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    means = image.reshape(32, 2, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(squared(image, 32) - means).max() <= 1  # Pillow rounds after each direction
    assert np.array_equal(squared(image[:, :64], 64), image[:, :64])


@pytest.mark.parametrize("sides", [(64, 64), (64, 128), (128, 128), (96, 80)])
@pytest.mark.parametrize("values", [256, 2])
def test_a_square_is_pillows(sides: tuple[int, int], values: int):
    """Also where a picture is exactly twice as large, which is computed here."""
    image = np.random.default_rng(0).integers(0, values, (*sides, 3), dtype=np.uint8) * (255 // (values - 1))
    wanted = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BOX))
    assert np.array_equal(squared(image.astype(np.uint8), 64), wanted)


def test_a_word_is_a_number():
    assert word_ids("Lift the RED block.").tolist() == [crc32(word) for word in (b"lift", b"the", b"red", b"block")]
    assert word_ids("hebe den Würfel")[2] == crc32("würfel".encode())


@pytest.mark.parametrize("instruction", ["", " .,! ", "word " * 65])
def test_a_sentence_has_words(instruction: str, robots, contract_for, checkpoint_for):
    contract = contract_for(robots["tabletop"])
    with pytest.raises(ValueError, match=r"has \d+ words: say what the robot should do in 1 to 64"):
        checkpoint_for(contract.embodiment).interface(contract).check(instruction)


def test_pictures_are_shifted_only_in_training(shift, robots, contract_for, checkpoint_for, frames_of):
    contract = contract_for(robots["two_cameras"], shift)
    assert contract.augmentation == shift
    interface, frame = checkpoint_for(contract.embodiment).interface(contract), frames_of(contract.embodiment)[0]
    acting, training = build_pipeline(contract, interface), training_pipeline(contract, interface)
    plain = build_pipeline(replace(contract, augmentation=None), interface)
    assert np.array_equal(acting(frame)["pixel_values"], plain(frame)["pixel_values"])
    seen = [training(frame | {"draw": (0, number)})["pixel_values"] for number in range(12)]
    assert len({pixels.tobytes() for pixels in seen}) > 4
    assert np.array_equal(seen[3], training(frame | {"draw": (0, 3)})["pixel_values"])


def test_the_contract_keeps_the_shift(shift, robots, contract_for, tmp_path):
    contract: Contract = contract_for(robots["tabletop"], shift)
    contract.save(tmp_path)
    assert Contract.load(tmp_path).augmentation == shift
    assert "shift" not in contract_for(robots["tabletop"], replace(shift, shift=0.0)).record["augmentation"]
