"""Recorded frames."""

from collections.abc import Mapping
from typing import Any

from vla_tune.schema import Embodiment, Observation


def observation_in(frame: Mapping[str, Any], body: Embodiment) -> Observation:
    """A recorded frame, as a robot would see it."""
    images = {camera.role: frame[camera.key] for camera in body.cameras}
    return Observation(images=images, state=frame[body.state_key], instruction=frame["instruction"])
