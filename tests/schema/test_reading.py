"""What an embodiment or contract may say: nothing is rounded, turned around or taken twice."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from vla_tune.schema import (
    Contract,
    contract_from_record,
    embodiment_from_record,
    same_rate,
    statistics_from_record,
    to_record,
)
from vla_tune.schema.strict import content_hash


@pytest.fixture
def record(tiny_contract: Contract) -> dict[str, Any]:
    return json.loads(json.dumps(to_record(tiny_contract.embodiment)))


def changed(record: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(record))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return copy


ACTION = ("action", 0)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ((*ACTION, "dimension"), 3.9, "3.9 @ .action[0].dimension is not a whole number"),
        ((*ACTION, "dimension"), "3", "'3' @ .action[0].dimension is not a whole number"),
        ((*ACTION, "dimension"), True, "True @ .action[0].dimension is not a whole number"),
        ((*ACTION, "unit"), 1, "1 @ .action[0].unit is not a text (in quotes)"),
        ((*ACTION, "normalization"), "false", "'false' @ .action[0].normalization is not one of quantile, min_max"),
        ((*ACTION, "normalized"), "false", "extra fields found (normalized) @ .action[0]"),
        ((*ACTION, "normalized"), True, "extra fields found (normalized) @ .action[0]"),
        ((*ACTION, "names"), "xyz", "'xyz' @ .action[0].names is not a list"),
        (("control_hz",), "10", "'10' @ .control_hz is not a finite number"),
        (("control_hz",), True, "True @ .control_hz is not a finite number"),
        (("control_hz",), float("nan"), "nan @ .control_hz is not a finite number"),
        (("control_hz",), 10**400, "@ .control_hz is not a finite number"),
        (("control_hz",), 0, "control_hz is 0.0: it lies above 0"),
        (("cameras",), {"front": 1}, "a dict @ .cameras is not a list"),
        (("cameras", 0), "front", "'front' @ .cameras[0] is not an object (Camera)"),
        (("cameras", 0, "height"), 64.0, "64.0 @ .cameras[0].height is not a whole number"),
        (("cameras", 0, "height"), 10**9, "1000000000 height: 1 to 16384"),
        (("action", 1, "gripper", "engaged"), float("inf"), "inf @ .action[1].gripper.engaged is not a finite number"),
        (("action", 1, "gripper", "engaged"), 0.0, "engaged and released are both 0.0"),
        ((*ACTION, "unit"), "furlong", "is in 'furlong': a unit is one of m, cm, mm,"),
        ((*ACTION, "rotation"), "rotation_6d", "has dimension 3, a rotation as rotation_6d has 6"),
        ((*ACTION, "rotation"), "quaternion_xyzw", "has dimension 3, a rotation as quaternion_xyzw has 4"),
        ((*ACTION, "name"), "suction", "has action groups twice: suction"),
        (("state", 0, "name"), "suction", "has state groups twice: suction"),
        ((*ACTION, "names"), ["x", "y"], "group 'tool_translation' has 3 dimensions, 2 names"),
        ((*ACTION, "names"), ["x", "y", "z"], "groups suction have no names, others have"),
        ((*ACTION, "dimension"), 10**6, "1000001 dimensions: 1 to 4096"),
        ((*ACTION, "dimension"), 0, "0 dimensions"),
        (("action",), [], "has no action group"),
        (("name",), " ", "the name ' ' has 1 characters"),
    ],
)
def test_a_slip_is_named(record: dict[str, Any], path: tuple, value: Any, said: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (what is said is looked at)
        embodiment_from_record(changed(record, *path, to=value))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_cameras_are_two(record: dict[str, Any]):
    camera = record["cameras"][0]
    with pytest.raises(ValueError, match="has camera roles twice: front"):
        embodiment_from_record(record | {"cameras": [camera, camera | {"key": "other"}]})
    with pytest.raises(ValueError, match="has camera keys twice: observation"):
        embodiment_from_record(record | {"cameras": [camera, camera | {"role": "other"}]})
    with pytest.raises(ValueError, match="17 cameras: 1 to 16"):
        embodiment_from_record(record | {"cameras": [camera] * 17})


def test_the_older_word_is_read(record: dict[str, Any]):
    now = embodiment_from_record(record)
    for column in ("state", "action"):
        for group in record[column]:
            group["normalized"] = group.pop("normalization") == "quantile"
            del group["names"]
    assert embodiment_from_record(record) == now
    record["action"][0]["normalized"] = 1
    with pytest.raises(ValueError, match=r"extra fields found \(normalized\)"):
        embodiment_from_record(record)


def test_rates_may_be_fractions(record: dict[str, Any]):
    assert embodiment_from_record(record | {"control_hz": 12.5}).control_hz == 12.5
    assert embodiment_from_record(record | {"control_hz": 30}).control_hz == 30.0
    assert same_rate(29.97, 30000 / 1001)
    assert not same_rate(29.97, 30.0)


def statistics(change: Callable[[dict[str, Any]], None], contract: Contract) -> dict[str, Any]:
    record = json.loads(json.dumps(to_record(contract.statistics)))
    change(record)
    return record


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("q01", 1.0, "q01[0] = 1, q99[0] = 0.03: these are no statistics"),
        ("min", 1.0, "min[0] = 1, max[0] = 0.03: these are no statistics"),
        ("max", 1e308, "max[0] = 1e+308: these are no statistics"),
        ("std", -1.0, "std[0] = -1: these are no statistics"),
        ("mean", float("nan"), "action.mean[0] is not a finite number"),
        ("mean", "0", "action.mean[0] is not a finite number"),
    ],
)
def test_numbers_that_are_no_statistics_are_refused(tiny_contract: Contract, key: str, value: Any, said: str):
    """Also where the hashes were made anew."""
    record = json.loads(json.dumps(to_record(tiny_contract)))
    record["statistics"]["action"][key][0] = value
    record["statistics_hash"] = content_hash(record["statistics"])
    record["contract_hash"] = content_hash(record)
    for read in (
        lambda: statistics_from_record(record["statistics"], source="here"),
        lambda: contract_from_record(record, source="here"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            read()
        assert said in str(caught.value)


def unsealed(contract: Contract, **changes: Any) -> dict[str, Any]:
    return replace(contract, **changes).record


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"horizon": 10**9, "execute_steps": 1}, "1000000000 horizon: 1 to 4096"),
        ({"execute_steps": 5}, "execute_steps=5 must lie between 1 and the horizon 4"),
        ({"resolution": -0.1}, "resolution=-0.1 lies between 0 and 2, the width of [-1, 1]"),
        ({"model": {"prompt": "{instruction}"}}, "model names no family"),
        ({"model": {"family": 3}}, "model names no family"),
        ({"jpeg_quality": 101}, "jpeg_quality=101"),
    ],
)
def test_a_contract_without_sense_is_refused_though_its_hashes_fit(tiny_contract: Contract, changes: dict[str, Any], said: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        contract_from_record(unsealed(tiny_contract, **changes), source="here")
    assert said in str(caught.value)


def test_statistics_scaled_in_another_way_than_the_embodiment_says(tiny_contract: Contract):
    column = replace(tiny_contract.statistics.action, normalization=("quantile",) * 4)
    other = replace(tiny_contract.statistics, action=column)
    with pytest.raises(ValueError, match=r"statistics.action scales .* the embodiment tabletop declares"):
        contract_from_record(unsealed(tiny_contract, statistics=other), source="here")


def test_an_edit_is_noticed_by_the_hash_of_everything(tiny_contract: Contract):
    for path, value in (
        (("embodiment", "action", 1, "gripper", "engaged"), -1.0),
        (("embodiment", "action", 0, "representation"), "absolute"),
        (("embodiment", "cameras", 0, "key"), "wrist"),
        (("precision",), "bf16"),
        (("execute_steps",), 1),
    ):
        with pytest.raises(ValueError, match=r"its fields do not match their hash .* It was edited"):
            contract_from_record(changed(tiny_contract.record, *path, to=value), source="here")


def test_a_robot_may_have_no_state(record: dict[str, Any]):
    body = embodiment_from_record(record | {"state": []})
    assert (body.state, body.state_dimension) == ((), 0)
