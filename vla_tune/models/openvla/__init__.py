"""OpenVLA, native: one class from 2.7 million to 7 billion parameters."""

from vla_tune.models.openvla.checkpoint import OpenVLACheckpoint
from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.drawn import DrawnOpenVLA
from vla_tune.models.openvla.model import OpenVLA

__all__ = ["DrawnOpenVLA", "OpenVLA", "OpenVLACheckpoint", "OpenVLAConfig"]
