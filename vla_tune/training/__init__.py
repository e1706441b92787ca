"""Training: one readable loop, resumable bit for bit."""

from vla_tune.training.checkpoint import CheckpointFolder, load_trained
from vla_tune.training.interruption import TrainingInterrupted
from vla_tune.training.loop import CHECKPOINTS, TrainingResult, train
from vla_tune.training.update import NonFiniteLossError

__all__ = [
    "CHECKPOINTS",
    "CheckpointFolder",
    "NonFiniteLossError",
    "TrainingInterrupted",
    "TrainingResult",
    "load_trained",
    "train",
]
