"""A few recorded frames beside a policy, with what it did on them when it was trained: a policy that can be asked anywhere."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors.numpy import save_file

from vla_tune.check.agreement import apart
from vla_tune.check.finding import Finding
from vla_tune.check.probes import ANOTHER_FUNCTION
from vla_tune.models.tensor_reader import read_tensor_file
from vla_tune.schema import Contract, Observation, Policy, contract_from_record, json_value

KEPT_FILE = "probe.safetensors"
PROBE = "kept actions"
KEPT_FRAMES = 8
"""Frames that go along with a policy, at most."""
_MOST_READ, _LONGEST_INSTRUCTION = 64, 2000
"""Frames of a file, and characters: the policy is asked for each before it may act."""
_CHUNKS, _STATE, _INSTRUCTIONS, _IMAGE = "chunks", "state", "instructions", "image/"
_CONTRACT = "contract"


@dataclass(frozen=True)
class Kept:
    """Frames, and the trained policy's actions on them."""

    seen: Sequence[Observation]
    chunks: Float[np.ndarray, "N T A"]
    """Robot units."""
    contract: Contract | None = None
    """By which it acted; older files do not say."""

    @classmethod
    def of(cls, policy: Policy, seen: Sequence[Observation], contract: Contract) -> "Kept":
        """What a policy that was just trained does."""
        return cls(seen, np.concatenate([policy.act([one]) for one in seen]), contract)

    def save(self, folder: Path) -> None:
        """Into the policy's folder."""
        roles = self.seen[0].images
        tensors = {_IMAGE + role: np.stack([one.images[role] for one in self.seen]) for role in roles}
        tensors |= {_STATE: np.stack([one.state for one in self.seen]), _CHUNKS: self.chunks}
        metadata = {_INSTRUCTIONS: json.dumps([one.instruction for one in self.seen])}
        if self.contract is not None:
            metadata |= {_CONTRACT: json.dumps(self.contract.record)}
        save_file(tensors, folder / KEPT_FILE, metadata=metadata)

    @classmethod
    def load(cls, folder: Path) -> "Kept":
        """From a policy's folder.

        Raises:
            FileNotFoundError: nothing was kept.
            ValueError: the file is damaged.
        """
        path = folder / KEPT_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: it is written when a run is trained and goes along when it is exported.")
        remedy = "export the run again"
        metadata, tensors = read_tensor_file(path, remedy=remedy, framework="np")
        try:
            instructions = json_value(metadata[_INSTRUCTIONS], source=_INSTRUCTIONS)
            _check_instructions(instructions)
            _check_tensors(tensors)
            contract = _contract_in(metadata, path)
            images = {name.removeprefix(_IMAGE): tensors[name] for name in tensors if name.startswith(_IMAGE)}
            rows = zip(tensors[_STATE], instructions, strict=True)
            seen = [
                Observation({role: image[row] for role, image in images.items()}, state, instruction)
                for row, (state, instruction) in enumerate(rows)
            ]
            return cls(seen, tensors[_CHUNKS], contract)
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): {remedy}.") from None


def _check_instructions(instructions: Any) -> None:
    if not isinstance(instructions, list) or not 1 <= len(instructions) <= _MOST_READ:
        raise ValueError(f"it does not hold the instructions of 1 to {_MOST_READ} frames")
    if not all(isinstance(text, str) and len(text) <= _LONGEST_INSTRUCTION for text in instructions):
        raise ValueError(f"an instruction is no text of at most {_LONGEST_INSTRUCTION} characters")


def _check_tensors(tensors: Mapping[str, np.ndarray]) -> None:
    pictures = {name: tensor for name, tensor in tensors.items() if name.startswith(_IMAGE)}
    if wrong := [
        name for name, tensor in pictures.items() if tensor.dtype != np.uint8 or tensor.ndim != 4 or tensor.shape[-1] != 3
    ]:
        raise ValueError(f"{wrong[0]} holds no pictures of colours")
    for name, axes in ((_STATE, 2), (_CHUNKS, 3)):
        if tensors[name].dtype.kind != "f" or tensors[name].ndim != axes:
            raise ValueError(f"{name} holds {tensors[name].dtype} with {tensors[name].ndim} axes, not numbers with {axes}")


def _contract_in(metadata: Mapping[str, str], path: Path) -> Contract | None:
    if _CONTRACT not in metadata:
        return None
    return contract_from_record(json_value(metadata[_CONTRACT], source=str(path)), source=str(path))


def keeps_its_actions(policy: Policy, kept: Kept, contract: Contract) -> Finding:
    """Whether a policy, read back from where it lies, does what it did when it was trained, and means the same by it."""
    if kept.contract is not None and (other := contract.differences(kept.contract)):
        return Finding(PROBE, False, f"not the contract of training: {'; '.join(other[:3])}. Take contract.json of the run again.")
    chunks = np.concatenate([policy.act([one]) for one in kept.seen])
    if chunks.shape != kept.chunks.shape:
        return Finding(
            PROBE, False, f"the chunks are {list(chunks.shape[1:])}, in training they were {list(kept.chunks.shape[1:])}."
        )
    off = apart(chunks, kept.chunks, contract)
    said = f"on {len(chunks)} recorded frames {100 * off:.2g} % of an action's range beside those of training"
    otherwise = "this is not the function that was trained. Export it again; scripts/check.py says more."
    return Finding.of(PROBE, off <= ANOTHER_FUNCTION, said, otherwise=otherwise)
