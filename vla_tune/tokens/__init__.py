"""Actions and instructions <-> token ids."""

from vla_tune.tokens.base import ActionTokenizer, action_tokenizer
from vla_tune.tokens.bins import BinTokenizer, quantile_bins, quantile_edges, uniform_bins, uniform_edges
from vla_tune.tokens.prompt import IGNORED, ParallelPrompt

__all__ = [
    "IGNORED",
    "ActionTokenizer",
    "BinTokenizer",
    "ParallelPrompt",
    "action_tokenizer",
    "quantile_bins",
    "quantile_edges",
    "uniform_bins",
    "uniform_edges",
]
