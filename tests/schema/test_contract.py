import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_tune.schema import (
    CONTRACT_FILE,
    Augmentation,
    ColumnStatistics,
    Contract,
    Observation,
    content_hash,
    contract_from_record,
    embodiment_from_record,
    statistics_from_record,
    to_record,
)

numbers = st.floats(-1e6, 1e6)


@st.composite
def columns(draw: st.DrawFn) -> dict[str, Any]:
    """Numbers as statistics have them, scaled as the tabletop's are."""
    ordered = [sorted(draw(st.tuples(*[numbers] * 4))) for _ in range(4)]
    low, q01, q99, high = zip(*ordered, strict=True)
    column = {"min": low, "q01": q01, "q99": q99, "max": high, "mean": q01, "std": draw(st.tuples(*[st.floats(0, 1e6)] * 4))}
    return column | {"normalization": ("quantile", "quantile", "quantile", "none")}


def paths(value: Any, prefix: tuple = ()) -> Iterator[tuple]:
    """Where every key of a nested record is."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        if isinstance(value, dict):
            yield (*prefix, key)
        yield from paths(child, (*prefix, key))


def parent(record: Any, path: tuple) -> Any:
    for key in path[:-1]:
        record = record[key]
    return record


def of_the_model(path: tuple) -> bool:
    """Whether its family alone reads it (`tests/models/openvla/test_record.py`); here only hashes guard it."""
    return path[0] == "model" and len(path) > 1


@pytest.fixture
def record(tiny_contract: Contract, tmp_path: Path) -> dict[str, Any]:
    tiny_contract.save(tmp_path)
    return json.loads((tmp_path / CONTRACT_FILE).read_text())


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """With the hashes that somebody who edits it would make anew."""
    fields = {key: value for key, value in record.items() if key != "contract_hash"}
    fields |= {"statistics_hash": content_hash(fields["statistics"])}
    return fields | {"contract_hash": content_hash(fields)}


def rewritten(folder: Path, record: dict[str, Any]) -> Path:
    (folder / CONTRACT_FILE).write_text(json.dumps(record))
    return folder


@settings(max_examples=30, deadline=None)
@given(action=columns(), state=columns(), size=st.integers(0, 10**9), dataset=st.text(max_size=20))
def test_what_is_saved_is_what_is_loaded(tiny_contract, tmp_path_factory, action, state, size, dataset):
    folder = tmp_path_factory.mktemp("contract")
    numbers = {"action": ColumnStatistics(**action), "state": ColumnStatistics(**state)}
    statistics = replace(tiny_contract.statistics, **numbers, num_transitions=size, dataset=dataset)
    contract = replace(tiny_contract, statistics=statistics)
    contract.save(folder)
    loaded = Contract.load(folder)
    assert loaded == contract
    assert loaded.statistics_hash == contract.statistics_hash
    again = statistics_from_record(json.loads(json.dumps(to_record(statistics))), source="test")
    assert again == statistics
    assert (contract.statistics_hash == tiny_contract.statistics_hash) == (statistics == tiny_contract.statistics)


def test_embodiments_come_back(tiny_contract: Contract):
    body = tiny_contract.embodiment
    assert embodiment_from_record(json.loads(json.dumps(to_record(body)))) == body
    assert (body.state_dimension, body.action_dimension) == (4, 4)


def test_every_field_is_required_and_named_when_it_is_missing(record: dict[str, Any]):
    text, checked = json.dumps(record), 0
    optional = ("base", "jpeg_quality", "names")  # only an adapter, a server and a data set with names say them
    for path in [path for path in paths(record) if path[-1] not in optional and not of_the_model(path)]:
        damaged = json.loads(text)
        del parent(damaged, path)[path[-1]]
        with pytest.raises(ValueError, match=r"contract\.json") as caught:
            contract_from_record(damaged, source="contract.json")
        assert str(path[-1]) in str(caught.value) or path[-1] in ("statistics_hash", "contract_hash")
        checked += 1
    assert checked > 60


def test_an_unknown_field_is_named_wherever_it_is(record: dict[str, Any]):
    text = json.dumps(record)
    places = [path for path in paths(record) if isinstance(parent(record, path)[path[-1]], dict)]
    for path in [(), *[path for path in places if path[0] != "model"]]:
        damaged = json.loads(text)
        parent(damaged, (*path, None))["surprise"] = 1
        with pytest.raises(ValueError, match="surprise"):
            contract_from_record(damaged, source="contract.json")


def test_code_is_refused_wherever_it_is(record: dict[str, Any]):
    text = json.dumps(record)
    places = [path for path in paths(record) if isinstance(parent(record, path)[path[-1]], dict)]
    for path in [(), *places]:
        damaged = json.loads(text)
        parent(damaged, (*path, None))["_target_"] = "os.system"
        with pytest.raises(ValueError, match=r"_target_='os.system': a contract is data"):
            contract_from_record(damaged, source="contract.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("horizon",), "four"),
        (("precision",), "fp16"),
        (("embodiment", "action", 0, "representation"), "vague"),
        (("embodiment", "cameras"), 3),
        (("model",), "openvla"),
        (("model", "image"), {1, 2}),
        (("resolution",), "fine"),
    ],
)
def test_a_value_of_another_kind_is_refused(record: dict[str, Any], path: tuple, value: Any):
    parent(record, path)[path[-1]] = value
    with pytest.raises(ValueError, match=r"contract\.json") as caught:
        contract_from_record(record, source="contract.json")
    assert str(path[-1]) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("resolution",), -0.1, "resolution=-0.1 lies between 0 and 2"),
        (("resolution",), 1e300, r"resolution=1e\+300 lies between 0 and 2"),
        (("model", "family"), 3, "model names no family"),
        (("model", "family"), "os.system\nrm", "model names no family"),
        (("model", "family"), "", "the name '' has 0 characters"),
        (("model", "family"), "x" * 10**6, "has 1000000 characters"),
        (("model", "deep"), [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]], "JSON data of at most 16 levels"),
        (("model", "many"), [0] * 5000, "a list of at most 4096"),
        (("model", "many"), dict.fromkeys(map(str, range(5000))), "an object of at most 4096 fields"),
    ],
)
def test_what_nobody_means_is_one_short_line_though_the_hashes_fit(record: dict[str, Any], path: tuple, value: Any, said: str):
    parent(record, path)[path[-1]] = value
    with pytest.raises(ValueError, match=rf"contract\.json.*{said}") as caught:
        contract_from_record(sealed(record), source="contract.json")
    assert len(str(caught.value)) < 300


def test_a_file_that_would_take_a_minute_to_look_at_is_refused_by_its_size(record: dict[str, Any], tmp_path: Path):
    record["model"]["long"] = "x" * 2**23
    with pytest.raises(ValueError, match="more than 8388608 bytes"):
        Contract.load(rewritten(tmp_path, sealed(record)))


def test_edited_statistics_are_refused(record: dict[str, Any], tmp_path: Path):
    record["statistics"]["action"]["q99"][0] = 0.031
    with pytest.raises(ValueError, match="statistics do not match their hash"):
        Contract.load(rewritten(tmp_path, record))


@pytest.mark.parametrize("column", ["action", "state"])
@pytest.mark.parametrize("key", ["mean", "q01", "normalization"])
def test_statistics_of_another_width_are_refused(record: dict[str, Any], column: str, key: str):
    record["statistics"][column][key].pop()
    with pytest.raises(ValueError, match=rf"statistics\.{column}\.{key} has 3 values, .* 4 {column} dimensions"):
        contract_from_record(sealed(record), source="contract.json")


def test_another_version_is_refused(record: dict[str, Any]):
    record["version"] = 1
    with pytest.raises(ValueError, match="version 1; this library reads 2, 3, 4"):
        contract_from_record(record, source="contract.json")


def test_a_folder_without_contract_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"contract\.json is missing"):
        Contract.load(tmp_path)


@given(data=st.data())
def test_what_is_the_models_cannot_be_edited_unnoticed(tiny_contract: Contract, data: st.DataObject):
    record = json.loads(json.dumps(tiny_contract.record))
    path = data.draw(st.sampled_from([path for path in paths(record["model"]) if path[-1] not in ("edges",)]))
    parent(record["model"], path)[path[-1]] = "another"
    with pytest.raises(ValueError, match="do not match their hash"):
        contract_from_record(record, source="contract.json")


def test_an_embodiment_has_no_defaults(tiny_contract: Contract):
    text = json.dumps(to_record(tiny_contract.embodiment))
    for path in paths(json.loads(text)):
        if path[-1] == "names":
            continue
        damaged = json.loads(text)
        del parent(damaged, path)[path[-1]]
        with pytest.raises(ValueError, match=str(path[-1])):
            embodiment_from_record(damaged)


def test_the_hash_does_not_depend_on_the_order_of_keys():
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1}) != content_hash({"a": 1, "b": [3]})


def test_an_observation_knows_its_shapes():
    Observation({"front": np.zeros((4, 6, 3), np.uint8)}, np.zeros(4, np.float32), "lift")
    with pytest.raises(TypeError):
        Observation({"front": np.zeros((4, 6, 3), np.float32)}, np.zeros(4, np.float32), "lift")


AUGMENTED = Augmentation(
    crop_area=0.9, brightness=0.2, contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=0.05, paraphrases={"lift it": ("raise it",)}
)


def test_an_augmentation_comes_back_and_is_a_difference(tiny_contract: Contract, tmp_path: Path):
    augmented = replace(tiny_contract, augmentation=AUGMENTED)
    augmented.save(tmp_path)
    assert Contract.load(tmp_path) == augmented
    said = augmented.differences(tiny_contract)
    assert "augmentation.crop_area is 0.9, was 'absent'" in said
    assert all(line.startswith("augmentation.") for line in said)


def test_a_contract_without_an_augmentation_is_written_as_before_there_was_any(record: dict[str, Any], tiny_contract: Contract):
    """Files of the same version that were sealed then are read, and hash as they did."""
    assert "augmentation" not in record
    assert contract_from_record(record, source="contract.json").record == record
    assert contract_from_record(sealed(record), source="contract.json") == tiny_contract


def test_an_augmentation_that_cannot_be_is_refused(tiny_contract: Contract):
    record = replace(tiny_contract, augmentation=replace(AUGMENTED, crop_area=1.5)).record
    with pytest.raises(ValueError, match=r"contract\.json: augmentation\.crop_area=1\.5 lies above 0"):
        contract_from_record(record, source="contract.json")
    record = replace(tiny_contract, augmentation=AUGMENTED).record
    record["augmentation"]["hue"] = 0.06
    with pytest.raises(ValueError, match="do not match their hash"):
        contract_from_record(record, source="contract.json")
