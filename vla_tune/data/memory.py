"""Frames that were never written to disk, as raw samples."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from vla_tune.data.statistics import column_statistics
from vla_tune.schema import Embodiment, Statistics


@dataclass(frozen=True, eq=False)
class FramesInMemory:
    """A map-style dataset of labelled frames: each has its own action chunk, and says where its named object is.

    What counterfactual play yields (`vla_tune.record.counterfactual_frames`), at a few kilobytes a frame.
    """

    embodiment: Embodiment
    images: Mapping[str, UInt8[np.ndarray, "N H W 3"]]
    """By camera key."""
    states: Float32[np.ndarray, "N S"]
    actions: Float32[np.ndarray, "N T A"]
    locations: Float32[np.ndarray, "N 2"]
    """Where the named object is, in [-1, 1] of the reach."""
    instructions: Sequence[str]
    index: Int64[np.ndarray, "N 2"]
    """Episode and frame."""

    @classmethod
    def gather(cls, frames: Iterable[Mapping[str, Any]], embodiment: Embodiment, *, reach: tuple[float, float]) -> "FramesInMemory":
        """Stack frames of play; `reach` is the largest |x| and |y| of an object, m."""
        rows = list(frames)
        column = {name: np.stack([row[name] for row in rows]) for name in ("state", "action_chunk", "target_position")}
        return cls(
            embodiment=embodiment,
            images={camera.key: np.stack([row["images"][camera.role] for row in rows]) for camera in embodiment.cameras},
            states=column["state"],
            actions=column["action_chunk"],
            locations=(column["target_position"] / np.array(reach)).astype(np.float32),
            instructions=[row["instruction"] for row in rows],
            index=np.array([(row["episode"], number) for number, row in enumerate(rows)], dtype=np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence["FramesInMemory"]) -> "FramesInMemory":
        """All frames of `parts`, in order; episodes are numbered on, since every part counts its own from 0."""
        counts = [int(part.index[:, 0].max()) + 1 for part in parts]
        shifts = [np.array([sum(counts[:number]), 0]) for number in range(len(parts))]
        return cls(
            embodiment=parts[0].embodiment,
            images={key: np.concatenate([part.images[key] for part in parts]) for key in parts[0].images},
            states=np.concatenate([part.states for part in parts]),
            actions=np.concatenate([part.actions for part in parts]),
            locations=np.concatenate([part.locations for part in parts]),
            instructions=[text for part in parts for text in part.instructions],
            index=np.concatenate([part.index + shift for part, shift in zip(parts, shifts, strict=True)]),
        )

    def __len__(self) -> int:
        """N."""
        return len(self.states)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One raw sample, with its `location`."""
        body = self.embodiment
        return {key: images[row] for key, images in self.images.items()} | {
            body.state_key: self.states[row],
            "actions": self.actions[row],
            "action_mask": np.ones(self.actions[row].shape, dtype=bool),
            "instruction": self.instructions[row],
            "location": self.locations[row],
            "index": self.index[row],
        }

    def statistics(self, name: str) -> Statistics:
        """Of all frames and all steps of their chunks."""
        body = self.embodiment
        return Statistics(
            dataset=name,
            action=column_statistics(self.actions.reshape(-1, body.action_dimension), body.action, name=body.action_key),
            state=column_statistics(self.states, body.state, name=body.state_key),
            num_transitions=len(self),
            num_trajectories=len(np.unique(self.index[:, 0])),
        )

    def content_hash(self) -> str:
        """SHA-256 over numbers, words and pictures."""
        digest = hashlib.sha256("\n".join(self.instructions).encode())
        for column in (self.states, self.actions, self.locations, *self.images.values()):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()
