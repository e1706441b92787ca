"""A policy in this process."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from vla_tune.data.collate import Batch
from vla_tune.data.transforms import Compose
from vla_tune.models.base import ActionModel
from vla_tune.models.capabilities import Launchable, SpeaksCodes
from vla_tune.models.forward import Forward, bucket, filled, passes
from vla_tune.models.graphs import Pass, eager
from vla_tune.schema import Contract, Embodiment, Observation


class NonFiniteActionsError(RuntimeError):
    """A policy's actions are no finite numbers."""


@dataclass(frozen=True, eq=False)
class LocalPolicy:
    """A model in this process behind the pipeline that it was trained with.

    What an observation leads to does not depend on its company. Matrix products round differently at different sizes, so the
    forward pass always has `rows` rows (the last one repeated, the surplus dropped) and text of a whole number of buckets;
    observations beyond `rows`, or in another bucket, go through another pass.

    Raises:
        ValueError: `rows` is not positive, or the model cannot be launched in this way.
    """

    model: ActionModel
    pipeline: Compose
    contract: Contract
    pad_id: int = field(kw_only=True)
    rows: int = field(default=8, kw_only=True)
    """Observations in one forward pass: 1 for a robot, about as many as environments for an evaluation."""
    launch: Callable[[Pass, Any], Pass] = field(default=eager, kw_only=True)
    """How a forward pass of the model is launched: `eager`, or `graphed` on a GPU that waits for its launches."""
    precision: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext, kw_only=True)
    """Opens the context of a forward pass: the autocast of training."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows={self.rows}: a forward pass needs at least 1.")
        if isinstance(self.model, Launchable):
            _ = self._raw  # a launch that the model cannot have is refused now, not at the first observation
        elif getattr(self.launch, "func", self.launch) is not eager:
            raise ValueError(f"{type(self.model).__name__} computes no one tensor that a graph could give: use launch=eager.")

    def act(self, observations: Sequence[Observation]) -> Float[np.ndarray, "N T A"]:
        """The next T actions for each observation, in robot units.

        Raises:
            ValueError: an observation is not what the contract says; it is named.
            NonFiniteActionsError: the model gives NaN or infinity.
        """
        samples = self._samples(observations)
        actions = np.empty((len(samples), self.contract.horizon, self.contract.embodiment.action_dimension), dtype=np.float32)
        for index, chunk in enumerate(self._in_passes(self._predict, samples)):
            actions[index] = self.pipeline.robot_actions(chunk, samples[index])
        return finite(actions)

    def outside_mass(self, observations: Sequence[Observation]) -> Float[np.ndarray, " N"] | None:
        """Probability that the model gives to ids which are no action code, mean over a chunk; None where there are no codes.

        Decoding never chooses such an id, so nothing else shows that a policy would rather say something else.
        """
        if not isinstance(self.model, SpeaksCodes):
            return None
        speaks = self.model.outside_mass
        return np.array(self.in_passes(lambda batch, members: speaks(batch), observations))

    def reset(self) -> None:
        """Nothing to forget: every chunk follows from its observation alone."""

    def _samples(self, observations: Sequence[Observation]) -> list[dict[str, Any]]:
        return [self.pipeline(to_sample(observation, self.contract.embodiment)) for observation in observations]

    def _predict(self, batch: Batch, members: Sequence[int]) -> Float[np.ndarray, "B T A"]:
        if isinstance(self.model, Launchable) and self.model.replayable:
            return self.model.actions(self._raw(batch))
        return self.forward.act(batch)

    @cached_property
    def forward(self) -> Forward:
        """The way through the model."""
        return Forward(self.model, self.pad_id, self.precision)

    @cached_property
    def _raw(self) -> Pass:
        assert isinstance(self.model, Launchable)
        return self.launch(self.model.raw, self.model.network)

    def in_passes(self, read: Callable[..., np.ndarray], observations: Sequence[Observation]) -> list[Any]:
        """One result of `read` for each observation; it is given a batch, and as `members` whose its first rows are."""
        return self._in_passes(read, self._samples(observations))

    def actions_of(self, codes: Sequence[np.ndarray], observations: Sequence[Observation]) -> Float[np.ndarray, "N T A"]:
        """The actions that ids stand for, in robot units."""
        assert isinstance(self.model, Launchable)
        chunks = [self.model.actions(torch.from_numpy(row)[None])[0] for row in codes]
        pairs = zip(chunks, self._samples(observations), strict=True)
        return np.stack([self.pipeline.robot_actions(chunk, sample) for chunk, sample in pairs])

    def _in_passes(self, read: Callable[..., np.ndarray], samples: list[dict[str, Any]]) -> list[Any]:
        """One result of `read` for each sample."""
        results: dict[int, Any] = {}
        for members in passes([bucket(sample) for sample in samples], self.rows):
            rows = filled([samples[index] for index in members], self.rows)
            results |= zip(members, self.forward(partial(read, members=members), rows), strict=False)
        return [results[index] for index in range(len(samples))]


def to_sample(observation: Observation, embodiment: Embodiment) -> dict[str, Any]:
    """The raw sample of the pipeline, its pictures by role.

    Raises:
        ValueError: a camera is missing or too many, or the state holds NaN or infinity. (Sizes and types are checked where the
            pipeline reads them.)
    """
    roles = {camera.role for camera in embodiment.cameras}
    if roles != observation.images.keys():
        raise ValueError(
            f"the observation has cameras {sorted(observation.images)}, the policy for {embodiment.name!r} reads {sorted(roles)}: "
            "give it exactly these."
        )
    if not np.isfinite(observation.state).all():
        raise ValueError(f"the state holds NaN or infinity: {observation.state.tolist()}. Check the sensor.")
    state = observation.state.astype(np.float32)
    return {"images": observation.images, embodiment.state_key: state, "instruction": observation.instruction}


def finite(actions: Float[np.ndarray, "*N T A"]) -> Float[np.ndarray, "*N T A"]:
    """The same actions.

    Raises:
        NonFiniteActionsError: one is NaN or infinite: no robot and no client gets it.
    """
    if not np.isfinite(actions).all():
        raise NonFiniteActionsError("the policy's actions hold NaN or infinity: its weights or its statistics are damaged.")
    return actions
