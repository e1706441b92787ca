"""A network and a head are a model: hidden states -> loss while training, -> normalised actions while acting."""

from vla_tune.models.heads.autoregressive import AutoregressiveTokenHead
from vla_tune.models.heads.base import Head, action_space, decoding_of, head_of
from vla_tune.models.heads.codes import ActionSpace, ParallelTokenHead
from vla_tune.models.heads.regression import RegressionHead

HEADS = {head.decoding: head for head in (ParallelTokenHead, AutoregressiveTokenHead, RegressionHead)}
"""What a contract's `decoding` names."""

__all__ = [
    "HEADS",
    "ActionSpace",
    "AutoregressiveTokenHead",
    "Head",
    "ParallelTokenHead",
    "RegressionHead",
    "action_space",
    "decoding_of",
    "head_of",
]
