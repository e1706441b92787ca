"""A policy in radians on a robot in degrees, and the other way round."""

from dataclasses import replace

import numpy as np
import pytest

from vla_tune.control.robot_policy import in_robot_units
from vla_tune.extents import Extents
from vla_tune.schema import Observation


class Turns:
    """A policy in its own unit: three actions, each a step beyond what it sees."""

    def act(self, observations):
        return np.stack([np.tile(one.state, (3, 1)) + np.float32(0.1) for one in observations])

    def reset(self) -> None: ...


@pytest.fixture
def contract(tiny_contract):
    body = tiny_contract.embodiment
    joints = replace(body.action[0], name="joints", unit="rad", frame="none", representation="absolute")
    return replace(tiny_contract, embodiment=replace(body, state=(joints, body.state[1]), action=(joints, body.action[1])))


def test_observations_and_actions_are_converted(contract):
    policy, there, said = in_robot_units(Turns(), contract, {"joints": "deg", "suction": "1"})
    assert said == "state joints from deg to rad, action joints from deg to rad"
    seen = Observation({}, np.array([90.0, -45.0, 0.0, 1.0], np.float32), "turn")
    step = np.degrees(0.1)
    assert np.allclose(policy.act([seen])[0, 0], [90 + step, -45 + step, step, 1.1], rtol=1e-6)
    assert there.embodiment.action_units == ("deg", "deg", "deg", "1")
    assert np.allclose(Extents.of(there).low[:3], np.degrees(Extents.of(contract).low[:3]))


def test_where_nothing_differs_nothing_is_between(contract):
    turns = Turns()
    assert in_robot_units(turns, contract, {"joints": "rad"}) == (turns, contract, "")


@pytest.mark.parametrize(("units", "message"), [({"joints": "%"}, "joints is in %"), ({"arm": "deg"}, "gives units of arm")])
def test_what_cannot_be_converted_is_refused(contract, units, message):
    with pytest.raises(ValueError, match=message):
        in_robot_units(Turns(), contract, units)
