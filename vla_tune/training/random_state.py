"""The state of every random generator as JSON data."""

import random
from typing import Any

import numpy as np
import torch


def capture_random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's global generators (each CUDA device's too)."""
    version, words, gauss = random.getstate()
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)  # pyright: ignore[reportAssignmentType]
    key = numpy_state["state"]["key"].tolist()
    return {
        "python": [version, list(words), gauss],
        "numpy": numpy_state | {"state": numpy_state["state"] | {"key": key}},
        "torch": _hex(torch.get_rng_state()),
        "cuda": [_hex(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
    }


def restore_random_state(record: dict[str, Any]) -> None:
    """Put the generators back to a captured state."""
    version, words, gauss = record["python"]
    random.setstate((version, tuple(words), gauss))
    state = record["numpy"]["state"]
    key = np.array(state["key"], dtype=np.uint32)
    np.random.set_state(record["numpy"] | {"state": state | {"key": key}})
    torch.set_rng_state(_tensor(record["torch"]))
    if torch.cuda.is_available():
        for device, words_of_device in enumerate(record["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(_tensor(words_of_device), device)


def _hex(state: torch.Tensor) -> str:
    return state.numpy().tobytes().hex()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
