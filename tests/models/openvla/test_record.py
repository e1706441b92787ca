"""The model's part of a contract, as OpenVLA reads it."""

from dataclasses import replace
from typing import Any

import pytest

from vla_tune.models.openvla import OpenVLACheckpoint
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.models.openvla.record import record_of
from vla_tune.run.folder import asset
from vla_tune.schema import ColumnStatistics, Contract, Embodiment, contract_from_record

NUMBERS = ("mean", "std", "min", "max", "q01", "q99")


def with_model(contract: Contract, **changes: Any) -> Contract:
    return replace(contract, model=dict(contract.model) | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "{instruction} {instruction:>3000000000}"}, "must hold {instruction}, may hold {state}, and no others"),
        ({"prompt": "{instruction} {instruction.__class__.__mro__}"}, "and no others"),
        ({"prompt": "{instruction} {secret}"}, "and no others"),
        ({"prompt": "do it"}, "must hold {instruction}"),
        ({"prompt": "{instruction}" + "x" * 10**6}, "characters of the prompt: 1 to 8192"),
        ({"prompt": 3}, "3 @ .prompt is not a text"),
        ({"prompt": "{instruction} at {state}"}, "OpenVLA reads as numbers (model.additions), not as words"),
        ({"location_codes": -1}, "-1 location_codes: 0 to"),
        ({"decoding": "flow"}, "model.decoding='flow' must be one of parallel, autoregressive, regression"),
        ({"family": "transformers"}, "it is for a model of the family 'transformers', this one is 'openvla'"),
        ({"secret": 3}, "extra fields found (secret)"),
    ],
)
def test_a_record_without_sense_is_refused_though_its_hashes_fit(tiny_contract: Contract, changes: dict[str, Any], said: str):
    read = contract_from_record(with_model(tiny_contract, **changes).record, source="here")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        record_of(read, source="here")
    assert said in str(caught.value)


def test_a_missing_field_is_named(tiny_contract: Contract):
    without = {key: value for key, value in tiny_contract.model.items() if key != "image"}
    with pytest.raises(ValueError, match=r"required field missing @ \.image"):
        record_of(replace(tiny_contract, model=without))


def by_deviation(contract: Contract) -> Contract:
    """Moving groups are scaled by mean and deviation."""

    def scaled(body: Embodiment, name: str) -> tuple:
        return tuple(replace(group, normalization="mean_std") if group.normalized else group for group in getattr(body, name))

    body = contract.embodiment
    kinds = ("mean_std", "mean_std", "mean_std", "none")
    columns = {name: replace(getattr(contract.statistics, name), normalization=kinds) for name in ("state", "action")}
    body = replace(body, state=scaled(body, "state"), action=scaled(body, "action"))
    return replace(contract, embodiment=body, statistics=replace(contract.statistics, **columns))


def test_codes_end_at_one(tiny_contract: Contract):
    contract = by_deviation(tiny_contract)
    with pytest.raises(ValueError, match=r"scaled by mean_std, decoding='parallel' speaks codes"):
        record_of(contract_from_record(contract.record, source="here"))
    regressed = with_model(contract, decoding="regression")
    assert contract_from_record(regressed.record, source="here") == regressed
    assert record_of(regressed).decoding == "regression"
    with pytest.raises(ValueError, match="the prompt writes it in bins"):
        record_of(contract_from_record(with_model(regressed, prompt="{instruction} {state}").record, source="here"))


def test_a_prompt_that_writes_the_state_needs_one(tiny_contract: Contract):
    body, nothing = tiny_contract.embodiment, ColumnStatistics(**dict.fromkeys(NUMBERS, ()), normalization=())
    statistics = replace(tiny_contract.statistics, state=nothing)
    stateless = replace(tiny_contract, embodiment=replace(body, state=()), statistics=statistics)
    with pytest.raises(ValueError, match=r"the prompt writes \{state\}, and .* has none"):
        record_of(with_model(stateless, prompt="{instruction} {state}"))


def test_how_a_picture_was_cropped_is_written_where_it_is_said(tiny_contract: Contract):
    """Rules of older files lack it."""
    image = tiny_contract.model["image"]
    assert {"crop", "input_resize", "input_jpeg"}.isdisjoint(image)
    image = image | {"center_crop_area": 0.9, "crop": "tf_bilinear", "input_resize": "lanczos3", "input_jpeg": 95}
    contract = with_model(tiny_contract, image=image)
    assert contract_from_record(contract.record, source="contract.json") == contract
    assert (record_of(contract).image.crop, record_of(contract).image.input_jpeg) == ("tf_bilinear", 95)
    with pytest.raises(ValueError, match=r"image\.input_jpeg=0 lies between 1 and 100"):
        record_of(with_model(contract, image=image | {"input_jpeg": 0}))


def test_location_codes_are_written_where_there_are_some(tiny_contract: Contract):
    assert "location_codes" not in tiny_contract.model
    assert record_of(tiny_contract).location_codes == 0


def described(contract: Contract, part: str, **changes: Any) -> Contract:
    return with_model(contract, **{part: contract.model[part] | changes})


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("image", {"center_crop_area": -1.0}, "center_crop_area=-1 lies above 0"),
        ("image", {"deviations": [[0.5, 0.0, 0.5]]}, "deviations of colours hold (0.5, 0.0, 0.5)"),
        ("image", {"means": [[1e300] * 3]}, "means of colours hold"),
        ("image", {"means": [[0.5] * 3] * 2}, "2 means and 1 deviations"),
        ("image", {"means": [], "deviations": []}, "0 means and 0 deviations"),
        ("action_tokens", {"edges": [[1.0, 0.0, -1.0]]}, "must not decrease"),
        ("action_tokens", {"edges": [[-1e308, 1e308]]}, "between -1 and 1"),
        ("action_tokens", {"edges": [[-1.0, 1.0], [-1.0, 0.0, 1.0]]}, "2 rows of 2, 3"),
        ("action_tokens", {"edges": []}, "0 rows"),
        ("action_tokens", {"edges": [[0.0]]}, "two at least"),
        ("action_tokens", {"edges": [[-1.0, 1.0]] * 3}, "edges for 3 dimensions, the actions have 4"),
        ("action_tokens", {"edges": [[-1.0, 0.0, 1.0]]}, "resolution=0.00784314, its codes are 1 apart"),
        ("action_tokens", {"vocabulary_size": 100}, "has no room for 256 action codes"),
    ],
)
def test_what_no_model_can_do_is_refused_before_there_is_one(
    tiny_contract: Contract, tiny_tokenizer, part: str, changes: dict[str, Any], said: str
):
    read = contract_from_record(described(tiny_contract, part, **changes).record, source="here")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        OpenVLAInputs.of(read, tiny_tokenizer)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("image", {"height": 16384, "width": 16384}),
        ("image", {"means": [[0.5] * 3] * 4000, "deviations": [[0.5] * 3] * 4000}),
        ("action_tokens", {"vocabulary_size": 2**24}),
    ],
)
def test_what_this_model_cannot_read_is_refused_before_its_weights_are(tiny_contract: Contract, part: str, changes: dict[str, Any]):
    with pytest.raises(ValueError, match=r"reads squares of \[64\] and has 512 ids: take both from one training run"):
        OpenVLACheckpoint(asset("tiny")).interface(described(tiny_contract, part, **changes))
