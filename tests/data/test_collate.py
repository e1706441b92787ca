from typing import Any

import numpy as np
import pytest
import torch

from vla_tune.data.collate import Batch, collate


def sample(length: int, *, prompt: int, placeholders: tuple[int, ...] = ()) -> dict[str, Any]:
    places = np.arange(length)
    return {
        "input_ids": places + 3,
        "placeholders": np.isin(places, placeholders),
        "prompt_length": np.int64(prompt),
        "state": np.zeros(2, np.float32),
    }


def batch_of(*samples: dict[str, Any], multiple: int = 1) -> Batch:
    return collate(samples, pad_id=0, multiple=multiple)


@pytest.mark.parametrize(("placeholders", "parallel"), [((), False), ((2, 3), False), ((5,), True), ((3, 4), True)])
def test_placeholders_behind_a_prompt_make_a_batch_parallel(placeholders: tuple[int, ...], parallel: bool):
    """Those of a location lie in the prompt and do not."""
    batch = batch_of(sample(6, prompt=4), sample(6, prompt=4, placeholders=placeholders))
    behind = torch.arange(6) >= batch.prompt_length[:, None]
    assert batch.parallel == parallel == bool((batch.placeholders & behind).any())


@pytest.mark.parametrize(
    ("lengths", "multiple", "padded"), [((4, 4), 1, False), ((4, 4), 4, False), ((4, 4), 8, True), ((3, 4), 1, True)]
)
def test_a_batch_knows_whether_it_is_padded(lengths: tuple[int, ...], multiple: int, padded: bool):
    batch = batch_of(*(sample(length, prompt=2) for length in lengths), multiple=multiple)
    assert batch.padded == padded == (not batch.attention_mask.all())
    assert batch.attention_mask.sum(dim=1).tolist() == list(lengths)
