"""Actions and instructions <-> token ids."""

from vla_tune.tokens.actions import TrainingActions
from vla_tune.tokens.base import ActionTokenizer, action_tokenizer
from vla_tune.tokens.bins import BinTokenizer, quantile_bins, quantile_edges, uniform_bins, uniform_edges
from vla_tune.tokens.collisions import check_collisions
from vla_tune.tokens.fast import FastTokenizer
from vla_tune.tokens.fast_fit import fit_fast, fit_fast_original, read_fast, write_fast
from vla_tune.tokens.prompt import IGNORED, Processor, pad_id, stop_id, text_tokenizer
from vla_tune.tokens.records import ActionTokens, BinTokens, FastTokens

__all__ = [
    "IGNORED",
    "ActionTokenizer",
    "ActionTokens",
    "BinTokenizer",
    "BinTokens",
    "FastTokenizer",
    "FastTokens",
    "Processor",
    "TrainingActions",
    "action_tokenizer",
    "check_collisions",
    "fit_fast",
    "fit_fast_original",
    "pad_id",
    "quantile_bins",
    "quantile_edges",
    "read_fast",
    "stop_id",
    "text_tokenizer",
    "uniform_bins",
    "uniform_edges",
    "write_fast",
]
