"""Whether an observation becomes the same tensors, and the same actions, on every way to the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_tune.data.transforms import Compose
from vla_tune.extents import Extents
from vla_tune.policy.local import to_sample
from vla_tune.schema import Contract, Embodiment, Observation, Policy

_LEARNED_FROM = {"labels", "actions", "action_mask", "index"}
"""What only training reads; it has further entries of its own."""
_OF_THE_PROMPT = {"input_ids", "placeholders", "token_inputs"}
"""What holds a value for each id, or several by name: compared up to the first code, behind which training has those to learn."""


@dataclass(frozen=True)
class PathReport:
    """The ways from a recorded frame to a command, compared."""

    frames: int
    differing: tuple[str, ...]
    """Names of inputs of the model that are not bit for bit what training saw."""
    max_error: tuple[float, ...]
    """Per action dimension, robot units: the served policy against the one in this process."""
    allowed: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether all is the same."""
        return not self.differing and all(error <= bound for error, bound in zip(self.max_error, self.allowed, strict=True))

    def __str__(self) -> str:
        """In one line."""
        inputs = f"differ in {', '.join(self.differing)}" if self.differing else "are bit for bit those of training"
        error = ", ".join(f"{value:.2g}" for value in self.max_error)
        return (
            f"{self.frames} frames: the model's inputs {inputs}; served and local actions differ by at most {error} (robot units)"
        )


def differing_inputs(
    trained: Compose, deployed: Compose, frames: Sequence[Mapping[str, Any]], seen: Sequence[Observation], body: Embodiment
) -> tuple[str, ...]:
    """Names of the model's inputs that differ between training and what the deployed pipeline makes of the same frames.

    Args:
        trained: The pipeline of the training run; it is given whole frames.
        deployed: The pipeline of the policy; it is given what a robot would see.
        frames: Recorded, with actions.
        seen: The same frames, as a robot would see them.
        body: Whose they are.
    """
    found: dict[str, None] = {}
    for frame, observation in zip(frames, seen, strict=True):
        learned, acted = trained(dict(frame)), deployed(to_sample(observation, body))
        prompt = int(np.asarray(acted["prompt_length"])) if "prompt_length" in acted else None  # else all ids are the prompt
        for name in sorted(acted.keys() - _LEARNED_FROM):
            end = prompt if name in _OF_THE_PROMPT else None
            if not _same(learned.get(name), acted.get(name), end):
                found[name] = None
    return tuple(found)


def compare_paths(
    local: Policy, served: Policy, seen: Sequence[Observation], *, contract: Contract, differing: Sequence[str], allowed: float
) -> PathReport:
    """The actions of a policy in this process and of the same one behind a server.

    Args:
        local: In this process.
        served: The same, elsewhere.
        seen: What both act on.
        contract: Their own.
        differing: What `differing_inputs` found.
        allowed: The largest difference, as a share of an action's range in the training data.
    """
    chunks = np.stack([local.act([observation])[0] for observation in seen]), np.stack([served.act([one])[0] for one in seen])
    error = np.abs(chunks[0] - chunks[1]).max(axis=(0, 1))
    bounds = allowed * Extents.of(contract).span
    return PathReport(len(seen), tuple(differing), tuple(error.tolist()), tuple(bounds.tolist()))


def _same(learned: Any, acted: Any, end: int | None) -> bool:
    """Equal in type, shape and every bit; mappings by name."""
    if isinstance(learned, Mapping) and isinstance(acted, Mapping):
        return learned.keys() == acted.keys() and all(_same(learned[name], acted[name], end) for name in learned)
    if learned is None or acted is None:
        return False
    one, other = np.asarray(learned), np.asarray(acted)
    if end is not None:
        one, other = one[:end], other[:end]
    return one.dtype == other.dtype and np.array_equal(one, other)
