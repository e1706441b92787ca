"""Actions and instructions <-> token ids."""

from vla_tune.tokens.base import ActionTokenizer, action_tokenizer
from vla_tune.tokens.bins import BinTokenizer, quantile_bins, quantile_edges, uniform_bins, uniform_edges
from vla_tune.tokens.prompt import IGNORED, CausalPrompt, ParallelPrompt, Processor, pad_id, stop_id, text_tokenizer

__all__ = [
    "IGNORED",
    "ActionTokenizer",
    "BinTokenizer",
    "CausalPrompt",
    "ParallelPrompt",
    "Processor",
    "action_tokenizer",
    "pad_id",
    "quantile_bins",
    "quantile_edges",
    "stop_id",
    "text_tokenizer",
    "uniform_bins",
    "uniform_edges",
]
