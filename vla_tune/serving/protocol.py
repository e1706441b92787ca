"""What a server says first: its contracts, and what they ask for."""

import json
from collections.abc import Mapping
from typing import Any

from vla_tune.schema import Contract, content_hash, contract_from_record, to_record
from vla_tune.serving.codec import REQUEST_ID, STATE, image_key, observation_in, request_of
from vla_tune.serving.strict_json import from_json

__all__ = ["chunk_shape", "contract_hash", "contract_in", "metadata_of", "observation_in", "request_of"]
"""The last two lie in `codec` now, and answer here for one version more."""


def contract_hash(contract: Contract) -> str:
    """SHA-256 of all that the contract says, to compare two sides without sending it."""
    return content_hash(to_record(contract))


def metadata_of(contracts: Mapping[str, Contract]) -> dict[str, Any]:
    """The first message of a server: its contracts by the name of the adapter, and what they ask for, for other clients."""
    default = next(iter(contracts))
    contract, body = contracts[default], contracts[default].embodiment
    return {
        "protocol": "vla-tune",
        "adapters": {name: contract_hash(each) for name, each in contracts.items()},
        "chunks": {name: [each.horizon, each.embodiment.action_dimension] for name, each in contracts.items()},
        REQUEST_ID: True,
        "default_adapter": default,
        "contract": json.dumps(contract.record),
        "contract_hash": contract_hash(contract),
        "image_keys": {camera.role: image_key(camera.role) for camera in body.cameras},
        "image_resolution": [[camera.height, camera.width] for camera in body.cameras],
        "state_key": STATE,
        "state_dimension": body.state_dimension,
        "action_dim": body.action_dimension,
        "action_horizon": contract.horizon,
        "execute_steps": contract.execute_steps,
        "control_hz": body.control_hz,
        "jpeg_quality": contract.jpeg_quality,
    }


def contract_in(metadata: Mapping[str, Any]) -> Contract:
    """The contract that a server announced.

    Raises:
        ValueError: it announced none.
    """
    text = metadata.get("contract")
    if not isinstance(text, str):
        raise ValueError("the server announces no contract: it is not a vla-tune server, or an older one.")
    return contract_from_record(from_json(text), source="the server's contract")


def chunk_shape(metadata: Mapping[str, Any], adapter: str | None) -> tuple[int, int]:
    """Horizon and action dimension of the chunks that a server announced for an adapter; None is its default.

    Raises:
        ValueError: it announced none.
    """
    name, shapes = adapter or metadata.get("default_adapter"), metadata.get("chunks")
    shape = shapes.get(name) if isinstance(shapes, Mapping) else [metadata.get("action_horizon"), metadata.get("action_dim")]
    match shape:
        case [int(horizon), int(dimension)] if horizon > 0 and dimension > 0:
            return horizon, dimension
        case _:
            raise ValueError(f"the server does not announce the shape of {str(name)[:80]!r}'s chunks: {str(shape)[:80]}.")
