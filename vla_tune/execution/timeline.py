"""The actions of an episode that are known: chunks in, one action a tick out, however late a chunk comes."""

from collections import deque
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from vla_tune.schema import Embodiment

type Chunk = Float[np.ndarray, "T A"]


@runtime_checkable
class Timeline(Protocol):
    """The actions of one episode that are known, one per tick of play.

    Ticks count what was *played*: a robot that is held because no chunk came stays where the observation saw it, so a chunk's
    first action still holds then.
    """

    @property
    def left(self) -> int:
        """Ticks for which there is an action."""
        ...

    def wants(self, *, latency: int) -> bool:
        """Whether a chunk should be computed from what is seen now, if that takes `latency` ticks."""
        ...

    def add(self, chunk: Chunk, *, elapsed: int) -> None:
        """Take a chunk from an observation since which `elapsed` ticks were played: so many of its actions are past."""
        ...

    def next(self) -> Float[np.ndarray, " A"] | None:
        """The action of this tick, in robot units; None if there is none."""
        ...

    def clear(self) -> None:
        """Forget all."""
        ...


class Blended:
    """What is left of the newest chunk.

    Args:
        embodiment: Says what the dimensions mean.
        blend: Ticks over which an old chunk gives way to a new one, linearly; a gripper changes at once.
        steps: From one observation to the next; None plays whole chunks.

    Raises:
        ValueError: `blend` is negative, or such actions cannot be mixed; on `add`, a chunk is shorter than `steps`.
    """

    def __init__(self, embodiment: Embodiment, *, blend: int, steps: int | None) -> None:
        if blend < 0:
            raise ValueError(f"blend={blend}: must be at least 0 ticks.")
        if blend:
            check_mean(embodiment, instead="choose blend=0")
        self._newest, self._blend, self._steps = two_ended(embodiment), blend, steps
        self._actions: deque[np.ndarray] = deque()
        self._since = 0

    @property
    def left(self) -> int:
        """Ticks for which there is an action."""
        return len(self._actions)

    def wants(self, *, latency: int) -> bool:
        """Whether `steps` were played, or less is left than comes too late."""
        if self._steps is not None and self._since >= self._steps:
            return True
        return self.left <= latency

    def add(self, chunk: Chunk, *, elapsed: int) -> None:
        """Replaces what is left, over `blend` ticks."""
        check_steps(self._steps or 0, len(chunk))
        fresh = [action.copy() for action in chunk[elapsed:]]
        for index, (old, new) in enumerate(zip(list(self._actions)[: self._blend], fresh, strict=False)):
            weight = (index + 1) / (self._blend + 1)
            new[:] = np.where(self._newest, new, (1 - weight) * old + weight * new)
        self._actions, self._since = deque(fresh), elapsed

    def next(self) -> Float[np.ndarray, " A"] | None:
        """The action of this tick, in robot units; None if there is none."""
        if not self._actions:
            return None
        self._since += 1
        return self._actions.popleft()

    def clear(self) -> None:
        """Forget all."""
        self._actions.clear()
        self._since = 0


class Averaged:
    """What is left of each chunk that reaches this tick, oldest first.

    Args:
        decay: Of the weights exp(-decay * i), i = 0 for the oldest prediction.
        newest: Dimensions that are not averaged, but keep the newest prediction.
    """

    def __init__(self, decay: float, newest: Bool[np.ndarray, " A"]) -> None:
        self._decay, self._newest = decay, newest
        self._chunks: deque[np.ndarray] = deque()

    @property
    def left(self) -> int:
        """Ticks for which there is an action."""
        return max((len(chunk) for chunk in self._chunks), default=0)

    def wants(self, *, latency: int) -> bool:
        """Always."""
        return True

    def add(self, chunk: Chunk, *, elapsed: int) -> None:
        """Takes the part of a chunk that is still to come."""
        assert chunk.shape[1] == len(self._newest), "the chunk and the embodiment differ in action dimensions"
        if len(chunk) > elapsed:
            self._chunks.append(chunk[elapsed:])

    def next(self) -> Float[np.ndarray, " A"] | None:
        """The action of this tick, in robot units; None if there is none."""
        if not self._chunks:
            return None
        predictions = np.stack([chunk[0] for chunk in self._chunks])
        self._chunks = deque(chunk[1:] for chunk in self._chunks if len(chunk) > 1)
        return averaged(predictions, decay=self._decay, newest=self._newest)

    def clear(self) -> None:
        """Forget all."""
        self._chunks.clear()


def two_ended(embodiment: Embodiment) -> Bool[np.ndarray, " A"]:
    """Which action dimensions are either engaged or released."""
    return np.array([group.gripper is not None for group in embodiment.action for _ in range(group.dimension)])


def averaged(predictions: Float[np.ndarray, "N A"], *, decay: float, newest: Bool[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
    """The weighted mean of the predictions for a tick, oldest first; in the dimensions `newest`, the last one."""
    weights = np.exp(-decay * np.arange(len(predictions)))
    mean = weights @ predictions / weights.sum()
    return np.where(newest, predictions[-1], mean).astype(predictions.dtype)


def check_steps(steps: int, predicted: int) -> None:
    """Refuse more steps than there are actions in a chunk.

    Raises:
        ValueError: naming both.
    """
    if steps > predicted:
        raise ValueError(f"steps={steps}, but the policy predicts only {predicted} actions: choose 1 to {predicted}.")


def check_mean(embodiment: Embodiment, *, instead: str) -> None:
    """Refuse actions whose mean is no action in between.

    Raises:
        ValueError: naming the group, and what to do `instead`.
    """
    for group in embodiment.action:
        averageable = group.representation == "delta" and group.rotation in ("euler_xyz", "rotation_vector")
        if group.rotation != "none" and not averageable:
            raise ValueError(
                f"{embodiment.name}: action group {group.name!r} holds {group.representation} rotations as {group.rotation}, "
                f"whose mean is not the rotation in between; {instead}."
            )
