"""Training: one readable loop, resumable bit for bit."""

from vla_tune.training.checkpoint import CheckpointFolder, load_trained
from vla_tune.training.interruption import TrainingInterrupted
from vla_tune.training.loop import CHECKPOINTS, train
from vla_tune.training.non_finite import NonFiniteLossError
from vla_tune.training.result import TrainingResult
from vla_tune.training.workers import WorkerDiedError

__all__ = [
    "CHECKPOINTS",
    "CheckpointFolder",
    "NonFiniteLossError",
    "TrainingInterrupted",
    "TrainingResult",
    "WorkerDiedError",
    "load_trained",
    "train",
]
