"""Any image-text-to-text model of transformers as a vision-language-action model."""

from vla_tune.models.hf.checkpoint import HFCheckpoint
from vla_tune.models.hf.model import HFVLA
from vla_tune.models.hf.rows import ActionRows, AppendedRows, ReservedRows

__all__ = ["HFVLA", "ActionRows", "AppendedRows", "HFCheckpoint", "ReservedRows"]
