"""The chunks of training episodes, as a model is asked for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Float64

from vla_tune.data.dataset import Demonstrations
from vla_tune.data.pipeline import relative_step
from vla_tune.data.transforms import Scale
from vla_tune.schema import Statistics


@dataclass(frozen=True, eq=False)
class NormalizedActions:
    """What action tokenizers are fitted to (`vla_tune.tokens.TrainingActions`): relative where the contract says so, then scaled.

    Nothing is read before it is asked for; pictures never are.
    """

    parts: Sequence[Demonstrations]
    """The training episodes of each source."""
    statistics: Statistics

    @property
    def chunks(self) -> Float32[np.ndarray, "N T A"]:
        """As the tokenizer gets them."""
        return self._chunks

    @property
    def counted(self) -> Bool[np.ndarray, "N T A"]:
        """False beyond the episode's end."""
        return self._read[1]

    @cached_property
    def unclipped(self) -> Float64[np.ndarray, "N T A"]:
        """`chunks` before values outside [-1, 1] are clipped."""
        return self._scale.unclipped(self._read[0])

    @cached_property
    def _chunks(self) -> Float32[np.ndarray, "N T A"]:
        return self._scale.forward(self._read[0])

    @cached_property
    def _scale(self) -> Scale:
        return Scale(self.statistics.action)

    @cached_property
    def _read(self) -> tuple[Float32[np.ndarray, "N T A"], Bool[np.ndarray, "N T A"]]:
        """The chunks in robot units, and what counts of them."""
        body = self.parts[0].embodiment
        steps, chunks, counted = relative_step(body), [], []
        for part in self.parts:
            for row in part.rows.tolist():
                actions, mask = part.chunk(row)
                for step in steps:
                    actions = step({"actions": actions, body.state_key: part.frames.state[row]})["actions"]
                chunks.append(actions)
                counted.append(mask)
        return np.stack(chunks), np.stack(counted)
