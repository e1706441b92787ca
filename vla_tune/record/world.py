"""What counterfactual play needs of a simulation."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8


@runtime_checkable
class World(Protocol):
    """A simulation with an expert for every goal, which can go back to a saved moment."""

    def scatter(self, rng: np.random.Generator) -> None:
        """Begin anew, somewhere else."""
        ...

    def draw_goal(self, rng: np.random.Generator) -> Any | None:
        """Something sensible to ask for now, or None."""
        ...

    def reached(self, goal: Any) -> bool:
        """Whether there is nothing left to do for a goal, or nothing that can be done."""
        ...

    def expert(self, goal: Any) -> Float32[np.ndarray, " A"]:
        """What an expert does next."""
        ...

    def step(self, action: Float32[np.ndarray, " A"]) -> None:
        """One control step."""
        ...

    def snapshot(self) -> Any:
        """Everything the future depends on."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Go back to that moment."""
        ...

    def images(self) -> Mapping[str, UInt8[np.ndarray, "H W 3"]]:
        """Pictures by camera."""
        ...

    def state(self) -> Float32[np.ndarray, " S"]:
        """The robot's state, as the environment observes it."""
        ...

    def sentence(self, goal: Any, rng: np.random.Generator) -> str:
        """An instruction for a goal."""
        ...

    def target_position(self, goal: Any) -> Float32[np.ndarray, "2"]:
        """Where the named object is: x, y in m, table frame."""
        ...

    def perturb(
        self, action: Float32[np.ndarray, " A"], offset: Float[np.ndarray, "3"], *, replace: bool
    ) -> Float32[np.ndarray, " A"]:
        """The action with its translation moved by `offset` (m), or replaced by it."""
        ...
