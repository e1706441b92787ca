"""From recorded demonstrations to batches; `vla_tune.data.dataset` reads them, the rest also serves a robot."""

from vla_tune.data.collate import Batch, collate
from vla_tune.data.pipeline import ModelPart, build_pipeline, make_contract, training_pipeline
from vla_tune.data.transforms import Compose, Transform

__all__ = ["Batch", "Compose", "ModelPart", "Transform", "build_pipeline", "collate", "make_contract", "training_pipeline"]
