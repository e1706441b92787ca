"""What an environment shows is read by name, and what it tells of success by its value; what cannot be read is named."""

from dataclasses import replace

import numpy as np
import pytest

from vla_tune.environment import AtTheEnd, Once, names_of_pictures, observation_in, told
from vla_tune.schema import Camera, Embodiment


@pytest.fixture
def body(tiny_contract) -> Embodiment:
    return tiny_contract.embodiment


def with_cameras(body: Embodiment, **keys: str) -> Embodiment:
    return replace(body, cameras=tuple(Camera(role=role, key=key, height=64, width=64) for role, key in keys.items()))


def shown(**changed) -> dict:
    picture = np.zeros((64, 64, 3), np.uint8)
    return {"images": {"front": picture}, "state": np.zeros(4, np.float32), "instruction": "lift it"} | changed


@pytest.mark.parametrize("name", ["observation.images.front", "images.front", "front", "head"])
def test_a_picture_has_the_key_an_end_of_it_or_the_role(body, name):
    assert names_of_pictures([name, "other"], with_cameras(body, head="observation.images.front")) == {"head": name}


ARMS = {"left": "observation.images.left.wrist", "right": "observation.images.right.wrist"}


@pytest.mark.parametrize("names", [("left.wrist", "right.wrist"), ("left", "right"), tuple(ARMS.values()), ("left", "right.wrist")])
def test_keys_that_end_alike_are_told_apart(body, names):
    assert names_of_pictures(names, with_cameras(body, **ARMS)) == dict(zip(ARMS, names, strict=True))


@pytest.mark.parametrize("names", [("wrist",), ("wrist", "left.wrist")])
def test_a_name_of_two_cameras_is_refused(body, names):
    with pytest.raises(ValueError, match=r"needs .*'right.wrist' too: 'wrist' could be either"):
        names_of_pictures(names, with_cameras(body, **ARMS))


def test_a_role_that_another_key_ends_with_names_the_other(body):
    crossed = with_cameras(body, front="observation.images.wrist", wrist="observation.images.front")
    assert names_of_pictures(["front", "wrist"], crossed) == {"front": "wrist", "wrist": "front"}
    with pytest.raises(ValueError, match="needs 'wrist' too"):
        names_of_pictures(["front"], crossed)


def test_what_is_shown_is_handed_on(body):
    seen = observation_in(shown(), body)
    assert (list(seen.images), seen.state.tolist(), seen.instruction) == (["front"], [0.0] * 4, "lift it")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(3), "shows ndarray, not a dictionary of"),
        ({"pixels": {}, "agent_pos": np.zeros(4)}, r"\['agent_pos', 'pixels'\] but no images, state, instruction"),
        ({"images": {}, "state": np.zeros(4)}, r"\['images', 'state'\] but no instruction"),
        (shown(images=np.zeros((64, 64, 3), np.uint8)), "images as ndarray"),
        (shown(images={"front": np.zeros((64, 64, 3), np.float32)}), r"'front' is float32 \[64, 64, 3\]"),
        (shown(images={"front": np.zeros((64, 64, 4), np.uint8)}), r"'front' is uint8 \[64, 64, 4\]"),
        (shown(state=np.zeros(7, np.float32)), r"shape \[7\], 'tabletop' has 4"),
        (shown(state=np.array([0, np.nan, 0, 0], np.float32)), "its simulation broke down"),
        (shown(instruction=None), "instruction of type NoneType"),
    ],
)
def test_what_cannot_be_read_is_named(body, given, message):
    with pytest.raises(ValueError, match=message):
        observation_in(given, body)


@pytest.mark.parametrize("value", [True, np.True_, 1, 1.0, np.float32(1), np.array([True]), np.array(1.0), [1]])
def test_success_is_told_in_any_form(value):
    assert told({"success": value}) is True
    assert told({"success": np.logical_not(value)}) is False


def test_success_may_not_be_told():
    assert told({"score": 3}) is None
    assert told({"success_threshold": 0.3, "successes": [1, 2]}) is None


@pytest.mark.parametrize("value", [0.7, None, "yes", np.array([True, False]), np.nan])
def test_what_is_no_success_is_refused(value):
    with pytest.raises(ValueError, match="tell True or False"):
        told({"success": value})


@pytest.mark.parametrize("name", ["is_success", "task_Success", "successful"])
def test_success_under_another_name_is_refused(name):
    with pytest.raises(ValueError, match=rf"info\['{name}'\], not info\['success'\]"):
        told({name: np.False_})


@pytest.mark.parametrize(("rule", "counts"), [(Once(), [False, True, True, True]), (AtTheEnd(), [False, True, False, False])])
def test_what_counts_is_a_rule(rule, counts):
    success, found = False, []
    for now in (False, True, False, False):
        success = rule(success, now)
        found.append(success)
    assert found == counts
