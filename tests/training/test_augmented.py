"""What is random in a sample is the same wherever and whenever the sample is made."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from vla_tune.data import training_pipeline
from vla_tune.data.transforms import Transformed
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.schema import Augmentation, Contract
from vla_tune.training.feed import StepSampler, _Batches, feed

RULE = Augmentation(
    crop_area=0.9,
    brightness=0.2,
    contrast=(0.8, 1.2),
    saturation=(0.8, 1.2),
    hue=0.05,
    paraphrases={"lift the red block": ("pick up the red block",)},
)
SAMPLER = StepSampler(size=5, batch_size=2, gradient_accumulation=2, seed=3)


@pytest.fixture
def samples(tiny_contract: Contract, tiny_tokenizer) -> Transformed:
    rng, body = np.random.default_rng(0), tiny_contract.embodiment
    raw = [
        {
            body.cameras[0].key: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
            body.state_key: np.zeros(4, np.float32),
            "instruction": "lift the red block",
            "actions": np.zeros((4, 4), np.float32),
            "action_mask": np.ones((4, 4), bool),
            "index": np.array([0, row]),
        }
        for row in range(SAMPLER.size)
    ]
    contract = replace(tiny_contract, augmentation=RULE)
    return Transformed(raw, training_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer)))


def seen(samples: Transformed, *, start: int, workers: int = 0) -> list[torch.Tensor]:
    """Pixels of the steps from `start` to the sixth."""
    with feed(samples, SAMPLER, start=start, stop=6, pad_id=512, workers=workers, device="cpu") as steps:
        batches = [batch for fetched in steps for batch in fetched.batches]
    assert {batch.input_ids.shape[1] for batch in batches}
    return [
        torch.cat([batch.pixel_values.flatten(), batch.input_ids.float().flatten()])
        for batch in batches
        if batch.pixel_values is not None
    ]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) > 0 and all(map(torch.equal, one, other))


def test_a_run_that_goes_on_sees_what_it_would_have_seen(samples: Transformed):
    straight = seen(samples, start=0)
    assert equal(seen(samples, start=3), straight[6:])
    rows = [row for batch in SAMPLER.batches(start=0, stop=6) for row in batch.rows]
    assert rows.count(0) > 1
    first, again = (np.flatnonzero(np.array(rows) == 0)[place] for place in (0, 1))
    pixels = [batch.pixel_values for batch in _all(samples)]
    assert not torch.equal(pixels[first // 2][first % 2], pixels[again // 2][again % 2]), "each time another"


def test_it_does_not_matter_who_makes_a_batch_nor_when(samples: Transformed):
    """A worker has a copy, and makes every second batch."""
    straight = [batch.pixel_values for batch in _all(samples)]
    copy = pickle.loads(pickle.dumps(_Batches(samples, 512, SAMPLER.seed)))
    for number, rows in reversed(list(enumerate(SAMPLER.batches(start=0, stop=6)))):
        assert torch.equal(copy[rows].pixel_values, straight[number])


@pytest.mark.slow(reason="starts two processes that import torch")
def test_two_workers_make_what_none_makes(samples: Transformed):
    straight = seen(samples, start=0)
    assert equal(seen(samples, start=0, workers=2), straight)
    assert equal(seen(samples, start=3, workers=2), straight[6:])


def _all(samples: Transformed) -> list:
    with feed(samples, SAMPLER, start=0, stop=6, pad_id=512, workers=0, device="cpu") as steps:
        return [batch for fetched in steps for batch in fetched.batches]
