import json
import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.training.random_state import capture_random_state, restore_random_state


def draw() -> tuple:
    return random.random(), random.gauss(), np.random.rand(), np.random.normal(), torch.rand(()).item(), torch.randn(3).tolist()


@given(st.integers(0, 2**31), st.integers(0, 700))
def test_the_same_numbers_follow(seed: int, drawn: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for _ in range(drawn):
        random.random()
    np.random.normal(size=drawn)  # an odd number leaves half a pair in the generator
    torch.rand(drawn)
    record = json.loads(json.dumps(capture_random_state()))
    restore_random_state(record)
    expected = draw()
    draw()
    restore_random_state(record)
    assert draw() == expected
