"""Hidden states -> loss while training, -> normalised actions while acting."""

from vla_tune.heads.base import Head, HeadLoss, head_of
from vla_tune.heads.token import ParallelTokenHead

__all__ = ["Head", "HeadLoss", "ParallelTokenHead", "head_of"]
