"""Expert and counterfactual demonstrations -> LeRobotDataset."""

from vla_tune.record.counterfactual import Play, counterfactual_frames, expert_chunk, record_counterfactual
from vla_tune.record.demonstrations import record_demonstrations
from vla_tune.record.noise import STILL, Noise, NoiseByLevel
from vla_tune.record.world import World
from vla_tune.record.writer import Storage

__all__ = [
    "STILL",
    "Noise",
    "NoiseByLevel",
    "Play",
    "Storage",
    "World",
    "counterfactual_frames",
    "expert_chunk",
    "record_counterfactual",
    "record_demonstrations",
]
