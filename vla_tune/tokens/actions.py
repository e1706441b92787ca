"""What an action tokenizer is fitted to."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float


@runtime_checkable
class TrainingActions(Protocol):
    """The normalised chunks of a run's training episodes, as its model is asked for them; read when they are asked for."""

    @property
    def chunks(self) -> Float[np.ndarray, "N T A"]:
        """One chunk for each frame; beyond the episode's end the last action is repeated."""
        ...

    @property
    def counted(self) -> Bool[np.ndarray, "N T A"]:
        """False beyond the episode's end."""
        ...
