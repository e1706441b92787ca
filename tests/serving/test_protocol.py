"""What a client says, and what the server reads of it."""

from dataclasses import replace

import numpy as np
import pytest

from vla_tune.schema import Contract, Observation
from vla_tune.schema.sense import check_contract
from vla_tune.serving.codec import STATE, observation_in, request_of
from vla_tune.serving.limits import MessageError
from vla_tune.serving.openvla_json import message_of


@pytest.fixture
def stateless(tiny_contract: Contract) -> Contract:
    """Of a robot that measures nothing."""
    none = replace(tiny_contract.statistics.state, **dict.fromkeys(tiny_contract.statistics.state.numbers, ()), normalization=())
    statistics = replace(tiny_contract.statistics, state=none)
    contract = replace(tiny_contract, embodiment=replace(tiny_contract.embodiment, state=()), statistics=statistics)
    check_contract(contract, "stateless")
    return contract


def test_a_robot_without_a_state_sends_none(stateless: Contract):
    image = np.zeros((64, 64, 3), np.uint8)
    message = request_of(Observation({"front": image}, np.zeros(0, np.float32), "lift the red block"))
    assert STATE not in message
    seen = observation_in(message, stateless)
    assert seen.state.shape == (0,)
    assert np.array_equal(seen.images["front"], image)
    asked = message_of({"image": image, "instruction": "lift the red block"}, stateless)
    assert observation_in(asked, stateless).state.shape == (0,)


def test_a_state_that_nobody_reads_is_named(stateless: Contract, tiny_contract: Contract):
    message = request_of(Observation({"front": np.zeros((64, 64, 3), np.uint8)}, np.zeros(4, np.float32), "lift the red block"))
    assert observation_in(message, tiny_contract).state.shape == (4,)
    with pytest.raises(MessageError, match=rf"unknown \['{STATE}'\]"):
        observation_in(message, stateless)
