"""What older files say, in the words of today."""

from collections.abc import Mapping
from typing import Any

_CHOSEN = {True: "quantile", False: "none"}
"""Until version 2 there were quantiles or nothing."""
_OF_THE_MODEL = ("prompt", "image", "action_tokens", "location_codes", "decoding")
"""Until version 3 these lay beside what is the robot's."""
_NO_STATE = "observation.state"
"""The name under which nothing travels where a robot has no state."""


def embodiment_of_today(body: Mapping[str, Any]) -> dict[str, Any]:
    """An embodiment's record whose groups say `normalization` and `names`; a robot without a state needs no `state_key`.

    A `normalized` that is no truth value stays, to be refused.
    """
    read = dict(body)
    if read.get("state") in ([], ()) and read.get("state_key") is None:
        read["state_key"] = _NO_STATE
    for column in ("state", "action"):
        if isinstance(groups := read.get(column), list | tuple):
            read[column] = [_group(group) for group in groups]
    return read


def from_version_2(contract: Mapping[str, Any]) -> dict[str, Any]:
    """A contract's record of version 2 as version 3: quantiles where something is scaled, and no dimension has a name."""
    read = dict(contract) | {"version": 3}
    if isinstance(body := read.get("embodiment"), Mapping):
        read["embodiment"] = embodiment_of_today(body)
    if isinstance(statistics := read.get("statistics"), Mapping):
        columns = {name: _column(statistics[name]) for name in ("state", "action") if name in statistics}
        read["statistics"] = dict(statistics) | columns
    return read


def from_version_3(contract: Mapping[str, Any]) -> dict[str, Any]:
    """A contract's record of version 3 as version 4: what is the model's is a record of its own, with the family's name."""
    read = dict(contract) | {"version": 4}
    model = {name: read.pop(name) for name in _OF_THE_MODEL if name in read}
    image = model.get("image")
    if isinstance(image, Mapping) and image.get("kind") == "processor":
        rule = {key: value for key, value in image.items() if key != "kind"}
        own = {"family": "transformers", "prompt": model.get("prompt"), "image": rule, "action_tokens": model.get("action_tokens")}
    else:
        none = type(model.get("location_codes")) is int and model["location_codes"] == 0
        own = {"family": "openvla"} | {key: value for key, value in model.items() if not (none and key == "location_codes")}
    return read | {"model": own, "resolution": _resolution(model.get("action_tokens"))}


def _resolution(tokens: Any) -> float:
    """Of what a tokenizer's record says: the mean width of a bin, or what one frequency more changes at most."""
    if not isinstance(tokens, Mapping):
        return 0.0
    edges, scale = tokens.get("edges"), tokens.get("scale")
    if isinstance(edges, list | tuple) and edges and isinstance(edges[0], list | tuple) and len(edges[0]) > 1:
        return 2 / (len(edges[0]) - 1)
    return 1 / scale if isinstance(scale, int | float) and scale > 0 else 0.0


def statistics_of_version_2(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """A record of statistics as version 2 wrote and hashed it."""
    return {key: _masked(value) if isinstance(value, Mapping) else value for key, value in statistics.items()}


def _masked(column: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in column.items() if key != "normalization"}
    return rest | {"mask": [kind != "none" for kind in column["normalization"]]}


def _group(group: Any) -> Any:
    if not isinstance(group, Mapping):
        return group
    group = {"names": []} | dict(group)
    if "normalization" in group or type(group.get("normalized")) is not bool:
        return group
    rest = {key: value for key, value in group.items() if key != "normalized"}
    return rest | {"normalization": _CHOSEN[group["normalized"]]}


def _column(column: Any) -> Any:
    mask = column.get("mask") if isinstance(column, Mapping) else None
    if not isinstance(mask, list | tuple) or not all(type(value) is bool for value in mask):
        return column
    rest = {key: value for key, value in column.items() if key != "mask"}
    return rest | {"normalization": [_CHOSEN[value] for value in mask]}
